"""Makes a network of the new sizes really have them: attributes set, forward passes compared."""
