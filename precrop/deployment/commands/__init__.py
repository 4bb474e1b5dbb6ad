"""The commands `precrop export`, `precrop bench` and `precrop profile`."""
