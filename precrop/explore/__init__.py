"""A page in the browser on which users move budgets and see the plan (extra ``explore``)."""

from precrop.explore.page import app

__all__ = ["app"]
