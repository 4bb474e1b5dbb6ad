"""Reads a network: forward passes on meta tensors, followed by sizes alone."""
