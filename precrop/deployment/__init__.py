"""What a cropped network is for: exports, measured time and memory, profiles of devices."""
