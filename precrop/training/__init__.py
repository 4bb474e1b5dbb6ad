"""Training: the same recipe for the dense, the masked and the cropped network."""
