"""The optimisation of widths within budgets, in NumPy: no tensors and no modules here."""
