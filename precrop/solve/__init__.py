"""Choosing widths within budgets, as mathematics: no tensor and no module is known here."""
