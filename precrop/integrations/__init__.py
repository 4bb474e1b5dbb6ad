"""Cropped networks where other packages look for theirs; each is imported by its own name."""
