"""Tools for any ``nn.Module`` that do not trace it: copies, hooks, isolation from global state."""
