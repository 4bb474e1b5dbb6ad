"""Pruning at initialization: methods that score weights or choose densities, and masks."""
