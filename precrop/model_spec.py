"""A network by name and arguments, as commands and files specify it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precrop.errors import MALFORMED, PrecropError, errors_as
from precrop.trust import Trust, check_named

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """The name of a network and the arguments of its builder.

    Attributes:
        name: as for `precrop.zoo.load_model`: ``resnet20``, ``timm:NAME``, ``module:factory``.
        args: keyword arguments of the builder.
    """

    name: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        args = ", ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{self.name}({args})" if args else self.name

    def build(
        self, like: Mapping[str, Sequence[int]] | None = None, weights: Path | None = None
    ) -> "nn.Module":
        """Build the network with fresh weights. A ``module:factory`` is run; see `check`.

        Args:
            like: the shapes that its tensors should have. Building a known network stops early if
                its arguments, which may come from a file, ask for a far larger one.
            weights: the file of weights for the network; its size bounds the building likewise.

        Raises:
            PrecropError: the name is unknown, or the builder refuses the arguments.
        """
        from precrop.zoo import load_model

        with errors_as(f"cannot read {weights}", OSError):
            size = None if weights is None else weights.stat().st_size
        return load_model(self.name, self.args, like, size)

    def check(self, trust: Trust, say: str) -> None:
        """Refuse a network from a file unless it is harmless or trusted (`trust.check_named`).

        Raises:
            PrecropError: building would run code, or an argument is not a plain value.
        """
        check_named(self.name, self.args, trust, say)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"name": …, "args": {…}}`` in JSON's types.

        Raises:
            PrecropError: an argument has no form in JSON.
        """
        with errors_as(f"an argument of {self.name} fits in no file", *MALFORMED):
            return {"name": self.name, "args": json.loads(json.dumps(dict(self.args)))}

    @classmethod
    def from_json(cls, content: Any) -> "ModelSpec":
        """Read what `to_json` returned, ignoring other keys. Nothing is built.

        Raises:
            PrecropError: there is no name, or no arguments by name.
        """
        match content:
            case {"name": str(name), "args": Mapping() as args}:
                if all(isinstance(key, str) for key in args):
                    return cls(name, dict(args))
        raise PrecropError("a network is a name and its builder's arguments")
