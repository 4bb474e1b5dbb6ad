"""A run: everything that decides the outcome of a training, and the id derived from it."""

import json
import math
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from precrop import __version__
from precrop.errors import MALFORMED, PrecropError, check_known, check_seed, errors_as
from precrop.files import digest_of, digest_of_file
from precrop.model_spec import ModelSpec
from precrop.plans.kinds import Init
from precrop.plans.plan import Plan
from precrop.pruning.masking import GRANULARITIES
from precrop.pruning.methods import METHODS, check_options
from precrop.solve.budgets import Budget
from precrop.training.recipes import LARGEST_SIDE, Recipe
from precrop.trust import Trust, code_of

_LONGEST_NAME = 100
SCHEMA = 1
"""Raised when the same fields would train another network; part of every run's id."""


@dataclass(frozen=True)
class MaskSpec:
    """How a network is masked."""

    method: str  # of `precrop.densities`, or "given"
    granularity: str = "weight"  # as for `precrop.masks`
    params: Budget | None = None  # for the prunable weights
    macs: Budget | None = None  # for their multiply-accumulates
    densities: Mapping[str, float] | None = None  # if given; weights are then drawn at random
    options: Mapping[str, Any] = field(default_factory=dict)  # of the method

    def __post_init__(self) -> None:
        """Refuse options that are not a mapping."""
        if not isinstance(self.options, Mapping):
            raise PrecropError(f"a mask's options are {self.options!r}, not names and values")

    @classmethod
    def parse(
        cls,
        text: str,
        params: Budget | None,
        macs: Budget | None,
        options: Mapping[str, Any] | None = None,
    ) -> "MaskSpec":
        """Read a mask such as ``synflow:weight``; the granularity is ``weight`` unless given.

        Raises:
            PrecropError: the method, the granularity or an option is unknown, or there is no
                budget.
        """
        method, granularity = split_mask(text)
        check_options(method, options or {})
        check_known(f"granularity {granularity!r}", granularity, GRANULARITIES)
        if params is None and macs is None:
            raise PrecropError("a mask needs a budget: give --params 0.1, or --macs")
        return cls(method, granularity, params, macs, options=options or {})

    def to_json(self) -> dict[str, Any]:
        """Return the fields in JSON's types; densities and options only if there are any."""
        content = asdict(self)
        if self.densities is None:
            del content["densities"]
        if not self.options:
            del content["options"]
        return content


def split_mask(text: str) -> tuple[str, str]:
    """Return method and granularity of ``synflow:filter``; the latter is ``weight`` unless given.

    The name of a user's own method has a colon itself: ``./my.py:score``, ``my:score:filter``.
    """
    method, _, last = text.rpartition(":")
    if method and (last in GRANULARITIES or method in METHODS):
        return method, last or "weight"
    return text, "weight"


@dataclass(frozen=True)
class Start:
    """A file of weights that a run starts from."""

    file: str
    digest: str  # SHA-256 of its content

    @classmethod
    def of(cls, path: Path) -> "Start":
        """Describe a file as it is now, or raise `PrecropError`."""
        with errors_as(f"cannot read {path}", OSError):
            return cls(str(path), digest_of_file(path))


@dataclass(frozen=True)
class Run:
    """A network, data, a recipe and a seed.

    Images are normalised with ``mean`` and ``std`` before the network gets them: per channel of the
    training images, on the scale 0 to 1. Old runs do not record these.
    """

    model: ModelSpec
    data: str  # where the images come from, as for `precrop.training.data.load_data`
    data_name: str
    data_digest: str  # of the images' content
    classes: tuple[str, ...]  # their names
    input_shape: tuple[int, ...]  # of one image: channels, height, width
    recipe: Recipe
    seed: int = 0  # of the initial weights, the order of the images and their augmentation
    plan: Plan | None = None  # what the network is cropped by
    init: Init = "slice"  # how a cropped network gets its weights
    mask: MaskSpec | None = None  # what the network is masked by
    weights: Start | None = None  # the original's or the cropped network's, to start from
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None  # share of an image's shorter side that the centre crop keeps
    versions: Mapping[str, str] = field(default_factory=lambda: current_versions())
    # Recorded with a run, but not part of its id; old runs lack them.
    code: Mapping[str, str] = field(default_factory=dict, compare=False)  # `own_code` as it was
    processes: int | None = field(default=None, compare=False)  # that train it

    def __post_init__(self) -> None:
        """Refuse a run that is both cropped and masked, and an invalid seed."""
        check_seed(self.seed)
        if self.plan is not None and self.mask is not None:
            raise PrecropError("a run is cropped by a plan or masked, not both: drop one of them")

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of everything that decides the result.

        Devices, versions and file names are excluded, since a run may resume elsewhere. So is the
        source of the user's code, except its name. All of these are recorded with the result.
        """
        return digest_of(self._identity())[:12]

    @property
    def name(self) -> str:
        """Name of the run's folder: network, data and id."""
        plain = re.sub(r"[^\w.]+", "-", f"{self.model.name}-{self.data_name}").strip("-.")
        short = plain.encode()[:_LONGEST_NAME].decode(errors="ignore")  # file systems count bytes
        return f"{short}-{self.id}"

    def _identity(self) -> dict[str, Any]:
        content = self.to_json()
        beside = "versions data data_name mean std crop_pct code processes"
        content = {name: value for name, value in content.items() if name not in beside.split()}
        if self.weights is not None:
            content["weights"] = self.weights.digest
        if self.plan is None:
            del content["init"]
        else:
            # What a plan builds, not how it was found or how long that took.
            names = ("shapes", "tensors", "streams", "attributes")
            content["plan"] = {name: content["plan"][name] for name in names}
        return {"schema": SCHEMA, **content}

    def to_json(self) -> dict[str, Any]:
        """Return all fields in JSON's types, without what is derived from them.

        Raises:
            PrecropError: an argument of the model has a type that JSON does not know.
        """
        model = self.model.to_json()
        content = {
            **vars(self),
            "model": model["name"],
            "args": model["args"],
            "recipe": self.recipe.to_json(),
            "plan": None if self.plan is None else json.loads(self.plan.to_json()),
            "mask": None if self.mask is None else self.mask.to_json(),
            "weights": None if self.weights is None else asdict(self.weights),
        }
        for name in ("weights", "code", "processes"):
            if not content[name]:
                del content[name]
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def own_code(self) -> dict[str, str]:
        """Return the user's source files that build the network and its mask, each with a digest.

        Their modules are executed: the caller must trust the run.

        Raises:
            PrecropError: a module cannot be imported.
        """
        named: dict[str, Callable[..., Any] | None] = {self.model.name: None}
        if self.mask is not None and self.mask.method in METHODS:
            named[self.mask.method] = METHODS[self.mask.method].function
        return code_of(named)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a user of the network must know, for files that are passed on without the run."""
        known = {
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.crop_pct,
            "classes": self.classes,
            "run": self.id,
        }
        return {name: value for name, value in known.items() if value is not None}

    def described(self) -> dict[str, Any]:
        """Return `to_json` with the run's id."""
        return {"id": self.id, **self.to_json()}

    @classmethod
    def from_json(cls, content: Any, trust: Trust = False) -> "Run":
        """Read what `described` returned; runs no code that it names.

        Args:
            content: of a JSON file.
            trust: the user's factory that the run may name, or True for any.

        Raises:
            PrecropError: it is not a run, was altered, or its network is code that is not trusted.
        """
        with errors_as("this is not the description of a run", *MALFORMED, told=repr):
            plan, mask, weights = content["plan"], content["mask"], content.get("weights")
            run = cls(
                model=ModelSpec.from_json({"name": content["model"], "args": content["args"]}),
                data=str(content["data"]),
                data_name=str(content["data_name"]),
                data_digest=str(content["data_digest"]),
                classes=tuple(map(str, content["classes"])),
                input_shape=tuple(map(int, content["input_shape"])),
                recipe=Recipe.from_json(content["recipe"]),
                seed=int(content["seed"]),
                plan=None if plan is None else Plan.from_json(json.dumps(plan)),
                init=content["init"],
                mask=None if mask is None else MaskSpec(**mask),
                weights=None if weights is None else Start(**weights),
                mean=_channels(content.get("mean")),
                std=_channels(content.get("std"), above=0.0),
                crop_pct=content.get("crop_pct"),
                versions=dict(content["versions"]),
                code=dict(content.get("code", {})),
                processes=content.get("processes"),
            )
        if content.get("id") != run.id:
            raise PrecropError(f"this run is {run.id} and says it is {content.get('id')}")
        sizes = run.input_shape
        large = max(sizes, default=0) > LARGEST_SIDE or math.prod(sizes) > 3 * LARGEST_SIDE**2
        if len(sizes) != 3 or min(sizes) < 1 or large:
            raise PrecropError(f"this run names {run.input_shape} as the shape of its images")
        if not isinstance(run.crop_pct, float | None) or not 0 < (run.crop_pct or 1.0) <= 1:
            raise PrecropError(f"this run crops images to {run.crop_pct!r}, which is not a share")
        run.model.check(trust, f"say --model {run.model.name}, or --trust")
        return run


def _channels(values: Any, above: float = -math.inf) -> tuple[float, ...] | None:
    """Return a number for each of three channels, or None; anything else is a ValueError."""
    if values is None:
        return None
    found = tuple(map(float, values))
    if len(found) != 3 or not all(above < value < math.inf for value in found):
        raise ValueError(f"{values!r} are not numbers of three channels")
    return found


def current_versions() -> dict[str, str]:
    """Return the versions of precrop, Python, and the libraries that compute."""
    import torch

    return {
        "precrop": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": metadata.version("lightning"),
    }
