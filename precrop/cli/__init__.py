"""The commands of ``precrop``, one file each; they import heavy modules only when called."""
