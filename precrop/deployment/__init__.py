"""What a cropped network is for: exports, measured time and memory, profiles of devices.

`deploy` is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precrop.deployment.deploying import deploy

__all__ = ["deploy"]

if not TYPE_CHECKING:  # a type checker takes any name for known where it sees a __getattr__

    def __getattr__(name: str) -> Any:
        if name != "deploy":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from precrop.deployment.deploying import deploy

        globals()[name] = deploy
        return deploy
