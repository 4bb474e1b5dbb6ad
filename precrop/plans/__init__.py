"""A plan: its file, the network that it builds, and how it shows itself."""
