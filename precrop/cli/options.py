"""Options that several commands share, in part as dataclasses whose fields are options."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

import precrop
from precrop.cli.arguments import arguments, shapes
from precrop.cli.output import warn
from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.plans.kinds import Init
from precrop.progress import Level, speaking, step

if TYPE_CHECKING:
    from torch import nn

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet50 (torchvision), resnet20 (ours), timm:NAME, or module:factory",
    ),
]
Args = Annotated[list[str] | None, "An argument for the model's builder; repeatable.", "NAME=VALUE"]
InputShapes = Annotated[
    list[str] | None, "3,224,224 or 3x224x224; repeat for several inputs.", "SHAPE"
]
InputFactory = Annotated[
    str | None,
    "Example inputs instead of shapes, made by a function of yours: its module is run.",
    "MODULE:FACTORY",
]
Params = Annotated[str | None, "Budget of parameters: a share (0.5, 50%) or a number (2.5M)."]
Macs = Annotated[str | None, "Budget of multiply-accumulates: a share or a number (1.2G)."]
Seed = Annotated[int | None, "Seed of the initial weights."]
Trust = Annotated[bool, "Allow the code that the file names as module:function to be run."]
Summary = Annotated[bool, "Shorten the table to a screenful: a line for each block or stage."]
WEIGHT_FILES = "a state_dict, .safetensors or .pt"
"""What ``--weights`` takes, for the help texts of all commands."""
AsJson = Annotated[bool, "Print JSON."]
LastJson = Annotated[bool, "End with one line of JSON."]


_NAMES = {
    "as_json": ("--json",),
    "changes": ("--set",),
    "compiled": ("--compile",),
    "costs": ("--cost",),
    "device_profile": ("--profile",),
    "format_": ("--format",),
    "out": ("--out", "--output", "-o"),
    "output": ("--output", "-o"),
    "quiet": ("--quiet", "-q"),
    "verbose": ("--verbose", "-v"),
}
"""Names of the options that are not named after their parameters."""


@dataclass(frozen=True)
class Speech:
    """Options of every command for how much it prints besides its result."""

    quiet: Annotated[bool, "No progress and no notes; only warnings and errors."] = False
    verbose: Annotated[bool, "Also say each step and how long it took."] = False

    @property
    def level(self) -> Level:
        """The level that the two options select."""
        if self.quiet and self.verbose:
            raise PrecropError("--quiet and --verbose exclude one another: drop one of them")
        return Level.VERBOSE if self.verbose else Level.QUIET if self.quiet else Level.USUAL


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a command with short annotations and groups of options into one that typer can read.

    An annotation gives an option's help and a placeholder for its value: ``Annotated[str | None,
    "Budget of parameters.", "SHARE"]``; a flag has no ``--no-`` form. The fields of a dataclass
    become options of each command that takes it, and every command has those of `Speech`. Typer's
    own classes serve for everything else: arguments, limits, other names.
    """
    speech = inspect.Parameter("speech", inspect.Parameter.KEYWORD_ONLY, annotation=Speech)
    taken = [*inspect.signature(command, eval_str=True).parameters.values(), speech]
    groups: dict[str, Any] = {
        one.name: one.annotation for one in taken if is_dataclass(one.annotation)
    }
    fields = {name: inspect.signature(group).parameters for name, group in groups.items()}
    options = [
        _option(option)
        for one in taken
        for option in (fields[one.name].values() if one.name in groups else [one])
    ]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        made = {
            name: group(**{option: values.pop(option) for option in fields[name]})
            for name, group in groups.items()
        }
        said = made.pop("speech")
        try:
            with speaking(said.level):
                command(**made, **values)
        except KeyboardInterrupt:  # on which typer would exit without a message
            raise typer.Abort from None

    vars(flat)["__signature__"] = inspect.Signature(options)
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat


def _option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter with the annotation that typer expects."""
    annotation = parameter.annotation
    kind, *notes = get_args(annotation)
    if isinstance(notes[0], str):
        names = _NAMES.get(parameter.name, (f"--{parameter.name.replace('_', '-')}",))
        text, metavar = (*notes, None)[:2]
        annotation = Annotated[kind, typer.Option(*names, help=text, metavar=metavar)]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


@dataclass(frozen=True)
class ModelOptions:
    """Options for a network by name, and for the shape of its input."""

    model: ModelName
    input_shape: InputShapes = None
    arg: Args = None

    @property
    def spec(self) -> ModelSpec:
        """The network's name and the arguments of its builder."""
        return ModelSpec(self.model, arguments(self.arg))

    def load(self, shape: Any = None, factory: str | None = None) -> tuple["nn.Module", Any]:
        """Return the network and its input: as in the options, else ``shape``, else the default."""
        check_factory(factory, self.input_shape)
        said = shapes(self.input_shape) or shape
        with step(f"building {self.model}"):
            network = self.spec.build()
        return network, inputs_of(self.model, network, factory, said)


@dataclass(frozen=True)
class InputOptions(ModelOptions):
    """Options for a network by name, and for its inputs: shapes, or a function that makes them."""

    input: InputFactory = None

    def load(self, shape: Any = None, factory: str | None = None) -> tuple["nn.Module", Any]:
        """Return the network, and the inputs that ``--input`` makes, or else their shape."""
        return super().load(shape, factory or self.input)


def check_init(
    init: Init, weights: Path | None, instead: str = "unless these are trained, give --weights FILE"
) -> None:
    """Refuse weights that ``reset`` would discard; warn if initial weights would be ranked."""
    if init == "reset" and weights is not None:
        raise PrecropError("--init reset draws all weights anew: drop it, or drop --weights")
    if init not in ("slice", "reset") and weights is None:
        warn(f"--init {init} ranks the weights that the network is made with: {instead}")


def check_factory(factory: str | None, input_shape: Sequence[str] | None) -> None:
    """Refuse ``--input`` if it names no function, or is combined with ``--input-shape``."""
    if factory is not None and (input_shape or ":" not in factory):
        raise PrecropError(
            "--input is like module:factory, and goes without --input-shape: the factory "
            "makes what the network takes"
        )


def inputs_of(name: str, network: "nn.Module", factory: str | None, shape: Any) -> Any:
    """Return a network's input: what the factory makes, else ``shape``, else the default shape."""
    from precrop.read.inputs import given
    from precrop.zoo import call_factory, default_input_shape

    if factory is None:
        return shape or default_input_shape(name, network)
    made = call_factory(factory)
    if made is None:
        raise PrecropError(f"{factory} gave None: let it return what the network takes")
    return given(network, None, made)


@dataclass(frozen=True, kw_only=True)
class OriginalOptions:
    """Options for the network that a plan is for."""

    model: Annotated[
        str | None, "The original network, if not the one that the plan names.", "MODEL"
    ] = None
    arg: Args = None
    trust: Trust = False

    def source(self, plan: "precrop.Plan") -> ModelSpec:
        """Return what ``--model`` names, or else what the plan does, if its code is trusted."""
        if self.model:
            return ModelSpec(self.model, arguments(self.arg))
        if self.arg:
            raise PrecropError("--arg is for the builder of another original: name it with --model")
        if plan.source is None:
            raise PrecropError("this plan does not say which model it is for: name it with --model")
        plan.source.check(self.trust, f"say --model {plan.source.name}, or --trust")
        return plan.source

    def load(self, plan: "precrop.Plan") -> "nn.Module":
        """Build the original network of a plan."""
        source = self.source(plan)
        with step(f"building {source.name}"):
            return source.build(plan.shapes)


@dataclass(frozen=True, kw_only=True)
class TrainedOptions(OriginalOptions):
    """Options for the network that a plan or a run is for."""

    model: Annotated[
        str | None,
        "The original network, if not the one that the plan names; for a run, its network.",
        "MODEL",
    ] = None

    @property
    def trusted(self) -> str | bool:
        """Which code named in a run's file may be run: all, none, or the network of this name."""
        return self.model or self.trust
