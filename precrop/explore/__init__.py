"""A page in the browser on which one moves budgets and sees the plan (extra ``explore``)."""

from precrop.explore.page import app

__all__ = ["app"]
