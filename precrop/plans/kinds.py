"""What a plan and those that build its network say alike."""

import typing
from typing import Literal

Axis = int | tuple[tuple[int, int], ...]
"""The size of an axis that stays, or the ``(old, new)`` segments of one that changes."""

Init = Literal["slice", "reset", "l1", "l2", "bn"]
"""How a built network gets its weights; `precrop.Plan.build` says what each does."""

INITS: tuple[Init, ...] = typing.get_args(Init)
