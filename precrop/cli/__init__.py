"""The commands of ``precrop``, one file each. What is heavy is imported inside of them."""
