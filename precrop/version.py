"""The version of this package; that in pyproject.toml is the same."""

__version__ = "0.1.0"
