"""Judges choices of widths by networks that others trained and published.

Three questions to NATS-Bench's size search space, each on three data sets, a module each: `order`,
`regret` and `gain`. `published` asks the same of published widths.
"""
