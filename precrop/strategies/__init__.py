"""How widths are found: one callable a strategy."""
