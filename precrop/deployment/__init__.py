"""Exports, measurements of time and memory, device profiles, and `deploy`, which joins them.

`deploy` is imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precrop.deployment.deploying import deploy

__all__ = ["deploy"]

if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name != "deploy":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from precrop.deployment.deploying import deploy

        globals()[name] = deploy
        return deploy
