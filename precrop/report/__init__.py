"""What a study came to: verdicts, tables and pictures, made from the rows of a store."""
