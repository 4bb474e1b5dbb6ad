"""Trained networks: the channels that a cropped one keeps, and its batch norms' statistics."""
