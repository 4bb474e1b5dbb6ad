"""Judges choices of widths by networks that others trained and published."""
