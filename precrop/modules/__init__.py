"""What is done to any ``nn.Module`` without reading it: copies, hooks, state kept apart."""
