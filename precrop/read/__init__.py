"""Reads a network: traces its forward passes on meta tensors and relates the tensors' sizes."""
