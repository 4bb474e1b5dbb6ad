"""The report on a study: verdicts, tables and pictures, made from the rows of a store."""
