"""How widths are found: one strategy a file, each a value that a plan can record."""
