"""Recipes: the hyper-parameters of a training run, and the named recipes in use.

A recipe's fields, with their help, are what ``--set NAME=VALUE`` can change, and part of a run's
identity. Points in time (milestones, warm-up) are shares of the run, so that they scale with
``--epochs``. Nothing here imports PyTorch, so that the command line can show recipes at once.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from precrop.errors import PrecropError, brief, check_known, check_once, suggestion
from precrop.trust import is_finite, literal

LARGEST_SIDE = 4096
"""Most pixels of an image's side."""


def _field(default: Any, text: str, least: float | None = None, most: float = math.inf) -> Any:
    """Make a field with its help and, for a number, its bounds."""
    return field(default=default, metadata={"help": text, "bounds": (least, most)})


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, independently of its architecture.

    Raises:
        PrecropError: a value makes no sense; the message names the field.
    """

    epochs: int = _field(160, "passes over the training images", 1, 100_000)
    batch_size: int = _field(128, "images per step, on all devices together", 1, 1_000_000)
    lr: float = _field(0.1, "highest learning rate", 0, 1_000)
    optimizer: Literal["sgd", "rmsprop"] = _field("sgd", "sgd or rmsprop")
    momentum: float = _field(0.9, "momentum of the optimizer", 0, 0.9999)
    nesterov: bool = _field(False, "Nesterov's momentum (sgd)")
    weight_decay: float = _field(1e-4, "weight decay, of every parameter", 0, 1)
    schedule: Literal["steps", "one-cycle", "cosine"] = _field(
        "steps", "steps (a tenth from each milestone on), one-cycle or cosine"
    )
    milestones: tuple[float, ...] = _field((0.5, 0.75), "shares of the run, for steps: 0.5,0.75")
    warmup: float = _field(
        0.0, "share of the run in which the learning rate climbs from zero", 0, 1
    )
    label_smoothing: float = _field(0.0, "share of every label spread over all classes", 0, 0.99)
    crop: int = _field(0, "pixels that images are padded by before a random crop", 0, 1_000)
    flip: bool = _field(False, "mirror half of the images")
    cutout: int = _field(0, "side of a square that is blanked in every image", 0, 1_000)
    precision: Literal["auto", "bf16", "fp32"] = _field(
        "auto", "auto (bf16 where the device gains from it), bf16 or fp32"
    )

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for each in dataclasses.fields(self):
            value, (low, high) = getattr(self, each.name), each.metadata["bounds"]
            if low is not None and not low <= value <= high:
                raise PrecropError(f"{each.name}={value} is not from {low:g} to {high:g}")
        if self.lr <= 0:
            raise PrecropError("lr=0 trains nothing: write a number above 0")
        if any(not 0 < share < 1 for share in self.milestones):
            raise PrecropError("milestones are shares of the run, between 0 and 1: 0.5,0.75")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise PrecropError("nesterov=true needs optimizer=sgd and momentum above 0")

    def changed(self, settings: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with some fields changed.

        Args:
            settings: values by field name, or their text as on the command line; None is ignored.

        Raises:
            PrecropError: a field does not exist, a value is not of its type, or milestones are set
                for a schedule without them.
        """
        made = self._with(settings)
        if settings.get("milestones") is not None and made.schedule != "steps":
            raise PrecropError(f"schedule={made.schedule} has no milestones: add schedule=steps")
        return made

    def _with(self, settings: Mapping[str, Any]) -> "Recipe":
        """As `changed`, but for the fields of a whole recipe, too: milestones fit any schedule."""
        hints = typing.get_type_hints(Recipe)
        changes = {}
        for name, value in settings.items():
            if name not in hints:
                raise PrecropError(f"a recipe has no {brief(name)}; {suggestion(name, hints)}")
            if value is not None:
                changes[name] = _value(name, value, hints[name])
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields in JSON's types."""
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_json(cls, content: Any) -> "Recipe":
        """Read what `to_json` returned, or raise `PrecropError`."""
        if not isinstance(content, Mapping):
            raise PrecropError("a recipe is broken: it has no fields")
        return cls()._with(content)

    def fitted(self, images: int, changes: Mapping[str, Any]) -> "Recipe":
        """Return the changed recipe, with smaller batches where the images would not fill one.

        An epoch then has at least eight steps, unless batches would be of fewer than eight images,
        and the learning rate shrinks in proportion. A batch size among the changes is kept. Batches
        have at least two images, since batch norms need several values per channel, or one if there
        is only one.

        Raises:
            PrecropError: as `changed`.
        """
        if images >= self.batch_size or "batch_size" in changes:
            return self.changed(changes)
        most = max(images // _FEW, min(images, _FEW), 1)
        batch = 1 << most.bit_length() - 1  # a power of two
        lr = self.lr * batch / self.batch_size
        return dataclasses.replace(self, batch_size=batch, lr=lr).changed(changes)

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of ``steps`` in the whole run."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        if self.schedule == "steps":
            passed = sum(step >= round(share * steps) for share in self.milestones)
            return self.lr * 0.1**passed
        progress = (step - rising) / max(1, steps - rising)
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        return self.lr * (1 - progress)


_FEW = 8
"""The least steps of an epoch, and images of a batch, where there are few images."""

_QUICK = Recipe(
    epochs=10,
    lr=0.2,
    nesterov=True,
    weight_decay=5e-4,
    schedule="one-cycle",
    warmup=0.25,
    crop=4,
    flip=True,
)

RECIPES: dict[str, Recipe] = {
    "cifar-160": Recipe(crop=4, flip=True),
    "cifar-quick": _QUICK,
    "cifar-quick-30": dataclasses.replace(_QUICK, epochs=30),
    "imagenet-90": Recipe(epochs=90, batch_size=256, milestones=(1 / 3, 2 / 3), flip=True),
    "mobile-300": Recipe(
        epochs=300,
        batch_size=256,
        lr=0.05,
        weight_decay=4e-5,
        schedule="cosine",
        warmup=5 / 300,
        label_smoothing=0.1,
        flip=True,
    ),
    "digits": Recipe(
        epochs=20,
        batch_size=64,
        nesterov=True,
        weight_decay=5e-4,
        schedule="one-cycle",
        warmup=0.25,
        label_smoothing=0.1,
        crop=1,
        precision="fp32",  # images of 8x8 pixels gain nothing from bf16
    ),
}
"""Recipes by name; a new one is a line here."""


def find_recipe(name: str | None, data: str) -> Recipe:
    """Return the recipe of this name, or raise `PrecropError`; without one, the data's usual."""
    if name is None:
        usual = {"digits": "digits", "cifar10": "cifar-160", "cifar100": "cifar-160"}
        return RECIPES[usual.get(data, "imagenet-90")]
    check_known(f"recipe {name!r}", name, RECIPES)
    return RECIPES[name]


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``name=value`` pairs of the command line.

    Raises:
        PrecropError: a pair has no ``=``, or a name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise PrecropError(f"setting {pair!r} is not like lr=0.05")
        name = name.strip().replace("-", "_")
        check_once(name, value.strip(), found)
        found[name] = value.strip()
    return found


def settings_help() -> str:
    """Return the names of a recipe's fields with their help, in one line."""
    return "; ".join(f"{f.name}: {f.metadata['help']}" for f in dataclasses.fields(Recipe))


def _value(name: str, value: Any, hint: Any) -> Any:
    """Convert ``value`` to a field's type; text is read as on the command line."""
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        check_known(f"{name}={value}", value, choices)
        return value
    read = _read(value) if isinstance(value, str) else value
    if typing.get_origin(hint) is tuple:
        numbers = list(read) if isinstance(read, (tuple, list)) else [read]
        if all(_is_number(number) for number in numbers):
            return tuple(float(number) for number in numbers)
    elif hint is bool and isinstance(read, bool):
        return read
    elif hint is float and _is_number(read):
        return float(read)
    elif hint is int and _is_number(read) and int(read) == read:
        return int(read)
    kind = {bool: "true or false", int: "a whole number", float: "a number"}
    raise PrecropError(f"{name}={value} is not {kind.get(hint, 'like 0.5,0.75')}")


def _read(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return literal(text or "()")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
