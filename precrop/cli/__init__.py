"""The commands of ``precrop``, one file each."""
