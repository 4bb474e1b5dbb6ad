"""Gives a network new sizes: resizes tensors, sets attributes, compares the forward passes."""
