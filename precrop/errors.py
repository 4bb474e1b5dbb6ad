"""Errors that a user can cause. Each message is one line that says what to do."""


class PrecropError(ValueError):
    """Something in the request is wrong: an unknown name, a wrong shape, a broken file."""


class BudgetError(PrecropError):
    """A budget that is senseless (zero, negative, NaN) or that cannot be met."""


class PlanError(PrecropError):
    """A plan file that is broken, or a plan for another network."""
