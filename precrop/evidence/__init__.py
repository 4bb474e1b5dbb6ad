"""Judging choices of widths by networks that others trained and published.

Three modules each put a question to NATS-Bench's size search space, on three data sets: `order`,
`regret` and `gain`. `published` compares plans with published widths.
"""
