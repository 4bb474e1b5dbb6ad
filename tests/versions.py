"""Marks of tests that older versions of PyTorch cannot pass."""

import pytest
import torch
from packaging.version import Version


def needs_torch(version: str, reason: str) -> pytest.MarkDecorator:
    """Skips a test before this version of PyTorch, which lacks what the reason says."""
    return pytest.mark.skipif(Version(torch.__version__) < Version(version), reason=reason)
