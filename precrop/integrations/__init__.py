"""Cropped networks in the registries of other packages; each module is imported by its own name."""
