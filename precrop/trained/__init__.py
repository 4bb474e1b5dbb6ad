"""Networks that were trained: which channels a cropped one keeps, and its norms' statistics."""
