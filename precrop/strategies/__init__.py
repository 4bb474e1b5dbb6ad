"""Strategies for finding widths, one per file, each a value that a plan can record."""
