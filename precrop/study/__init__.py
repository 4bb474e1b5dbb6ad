"""Studies: networks, variants, budgets and seeds, trained and kept as rows of a store."""
