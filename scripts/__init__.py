"""Commands that write the tables, figures and pages of this repository."""
