"""Networks as files that other programs run: ONNX, pt2, safetensors. Each is checked by running it.

The batch is the first axis of every input. Files take any batch size unless one is asked for.
"""

import contextlib
import functools
import inspect
import io
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_unflatten

from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.modules.copying import copied
from precrop.plans.plan import Plan
from precrop.plans.weights import load_weights
from precrop.read.examples import tensors_in
from precrop.read.inputs import LARGEST_BATCH, Inputs, given

TOLERANCE = 1e-4
"""The largest difference from PyTorch's outputs, relative to the largest of their values."""
BATCHES = (1, 3)
"""Batch sizes at which a file for any batch size is run."""
RECORD = "precrop"
"""The entry of a file's metadata that says what its network is: of safetensors and of pt2 files."""
_EXAMPLE = 2
"""The batch size that is exported: `torch.export` takes a 1 for a constant."""
_GRAPH_NAMES = frozenset(("meta", "graph", "code"))
"""Attributes of a `torch.fx.GraphModule`'s own, which no part of a network can be called there."""
_LONGEST = 240
"""Characters of an error of PyTorch's that are shown."""

Outputs = list[Tensor]
Runs = Callable[[Sequence[Tensor], Mapping[str, Tensor]], Outputs]
"""Runs a network on inputs by position and by name; the outputs are flattened."""


@dataclass(frozen=True)
class Origin:
    """How a network is built anew, with other weights.

    Attributes:
        model: the original.
        plan: what it is cropped by, or None.
    """

    model: ModelSpec
    plan: Plan | None = None

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        network = self.model.build()
        return network if self.plan is None else self.plan.build(network)


@dataclass(frozen=True)
class Export:
    """A file that was written and gave PyTorch's outputs.

    Attributes:
        path: the file.
        format: a name in `FORMATS`.
        files: all files that were written: large ONNX files keep their weights in a second one.
        batch: the one batch size that it takes, or None for any.
        batches: the batch sizes at which it was run.
        difference: the largest difference from PyTorch's outputs, relative to the largest of their
            values.
        telling: whether the outputs depend on the inputs at all. Those of networks whose last
            layer starts from zeros don't, and then the comparison says little.
        runtime: what ran it.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    batch: int | None
    batches: tuple[int, ...]
    difference: float
    telling: bool
    runtime: str

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        files = [str(file) for file in self.files]
        return {**asdict(self), "path": str(self.path), "files": files, "bytes": self.bytes}


class Exportable:
    """A network to be exported; what several formats need is made once.

    Args:
        model: the network; it stays as it is, and is exported as in eval mode.
        inputs: the shapes of its inputs.
        batch: the one batch size of the files, or None for any.
        origin: how the network is built anew, if that is known.
        metadata: anything else worth knowing, in JSON's types: class names, normalisation.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        *,
        batch: int | None = None,
        origin: Origin | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if batch is not None and not 1 <= batch <= LARGEST_BATCH:
            raise PrecropError(
                f"batch={batch} is not a batch size: give 1 to {LARGEST_BATCH:,}, or none for any"
            )
        away = {tensor.device.type for tensor in _tensors(model)} - {"cpu"}
        if "meta" in away:
            raise PrecropError("the network is on the meta device, without weights to export")
        self.model = copied(model, lambda _, t: t.detach().cpu()) if away else model
        self.inputs, self.batch, self.origin = inputs, batch, origin
        self.facts = _facts(inputs, origin, metadata or {})

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which its files are run."""
        return BATCHES if self.batch is None else (self.batch,)

    @cached_property
    def references(self) -> list[tuple[list[Tensor], dict[str, Tensor], Outputs]]:
        """Per batch size random inputs, by position and by name, and the network's outputs.

        Raises:
            PrecropError: the network fails on these inputs, or its outputs are all infinite.
        """
        found = []
        for batch in self.batches:
            args, kwargs = random_inputs(self.inputs, batch, self.model)
            try:
                with _evaluating(self.model):
                    outputs = _run(self.model, args, kwargs)
            except Exception as error:  # whatever a network's forward raises
                raise PrecropError(
                    f"the network fails on {batch} inputs of {self.inputs.text}: {reason(error)}"
                ) from error
            if not any(bool(output.isfinite().any()) for output in outputs):
                raise PrecropError(
                    "no output of the network is finite on random inputs, so that a file can't be "
                    "compared with it: give it trained weights, or norms with statistics"
                )
            found.append((args, kwargs, outputs))
        return found

    @cached_property
    def telling(self) -> bool:
        """Whether other inputs give other outputs."""
        args, kwargs = random_inputs(self.inputs, self.batches[0], self.model, seed=1)
        with _evaluating(self.model):
            others = _run(self.model, args, kwargs)
        outputs = self.references[0][2]
        return any(not one.equal(other) for one, other in zip(outputs, others, strict=False))

    @property
    def program(self) -> ExportedProgram:
        """The network as `torch.export` reads it.

        Raises:
            PrecropError: it can't; with its reason.
        """
        if isinstance(self._program, PrecropError):
            raise self._program
        return self._program

    @cached_property
    def _program(self) -> ExportedProgram | PrecropError:
        """A failure is kept too: it may take as long as a success."""
        args, kwargs = random_inputs(self.inputs, self.batch or _EXAMPLE, self.model)
        shapes = None
        if self.batch is None:
            shapes = ShapesCollection()  # type: ignore[no-untyped-call]
            for tensor in (*args, *kwargs.values()):
                shapes[tensor] = {0: Dim("batch")}
        try:
            with _quiet(), _evaluating(self.model), _plain_attention():
                program = torch.export.export(
                    _exportable(self.model),
                    tuple(args),
                    kwargs,
                    dynamic_shapes=shapes,
                    strict=False,
                )
        except Exception as error:  # torch.export raises errors of any kind
            hint = "" if self.batch else "; it may with one batch size: --batch 1 (batch=1)"
            size = f"batches of {self.batch}" if self.batch else "any batch size"
            failure = PrecropError(
                f"torch.export cannot read this network for {size}: {reason(error)}{hint}"
            )
            failure.__cause__ = error
            return failure
        for node in program.graph.nodes:  # where the sources lie is nobody's business
            node.meta.pop("stack_trace", None)
        return program


def export(
    model: nn.Module,
    input_shape: Any,
    path: str | Path,
    format: str = "onnx",
    *,
    batch: int | None = None,
    origin: Origin | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Export:
    """Write a network to a file and check the file by running it on random inputs.

    The file is moved to its place when its outputs are PyTorch's; until then, what was there stays.

    Args:
        model: the network; it stays as it is, and is exported as in eval mode.
        input_shape: shape of one input without the batch, or a list or dict of several.
        path: the file.
        format: a name in `FORMATS`.
        batch: the one batch size that the file takes; None for any. Weights alone take any.
        origin: how the network is built anew; a safetensors file keeps it.
        metadata: anything else worth knowing, in JSON's types: ``mean``, ``std``, ``classes``. All
            formats keep it, beside the network's name and the shape of its input.

    Raises:
        PrecropError: torch cannot export the network (with its reason), a library is missing, the
            file cannot be written, or it gives other outputs; or the metadata is not JSON.
    """
    inputs = given(model, input_shape)
    source = Exportable(model, inputs, batch=batch, origin=origin, metadata=metadata)
    return write(source, Path(path), format)


def write(source: Exportable, path: Path, format: str) -> Export:
    """As `export`, of a network that other formats may be made of too."""
    if format not in FORMATS:
        raise PrecropError(f"format {format!r} is unknown: choose from {', '.join(FORMATS)}")
    kind = FORMATS[format]
    kind.require()
    with _staged(path) as (temporary, moved):
        # First, so that a network that fails by itself is told from one that torch can't export.
        wanted = source.references
        kind.write(source, temporary)
        run = _opened(kind, source, temporary, path)
        difference = _checked(run, wanted, path, kind.runtime)
    return Export(
        path=path,
        format=format,
        files=tuple(moved),
        batch=source.batch,
        batches=source.batches,
        difference=difference,
        telling=source.telling,
        runtime=kind.runtime,
    )


def to_onnx(model: nn.Module, inputs: Inputs, path: Path, *, batch: int | None = None) -> None:
    """Write an ONNX file. Inputs are called as the arguments of the network's forward.

    Args:
        model: the network; it stays as it is, and is exported as in eval mode.
        inputs: the shapes of its inputs.
        path: the file. Weights beyond 1.5 GB go to a second one, its name with ``.data`` behind.
        batch: the one batch size that the file takes; None for any.

    Raises:
        PrecropError: torch cannot export it, with its reason; or the file cannot be written.
    """
    _require_onnx()
    with _staged(path) as (temporary, _):
        _write_onnx(Exportable(model, inputs, batch=batch), temporary)


def to_pt2(model: nn.Module, inputs: Inputs, path: Path, *, batch: int | None = None) -> None:
    """Write what `torch.export.save` writes, for `torch.export.load`; else as `to_onnx`."""
    with _staged(path) as (temporary, _):
        _write_pt2(Exportable(model, inputs, batch=batch), temporary)


def to_safetensors(
    model: nn.Module, inputs: Inputs, path: Path, *, origin: Origin | None = None
) -> None:
    """Write the state_dict, and how the network is built as ``precrop`` in the file's metadata.

    Args:
        model: the network.
        inputs: the shapes of its inputs.
        path: the file; `load_safetensors` makes the network from it.
        origin: how the network is built anew, if that is known.
    """
    with _staged(path) as (temporary, _):
        _write_safetensors(Exportable(model, inputs, origin=origin), temporary)


def load_safetensors(
    path: Path, model: str | None = None, args: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network in a file of `to_safetensors`, in eval mode. Runs no code of the file's.

    Args:
        path: the file.
        model: the original's name, where the file doesn't say it, or names a user's own factory.
        args: keyword arguments for its builder.

    Raises:
        PrecropError: the file is broken, or doesn't say how its network is built.
    """
    record = _record(path)
    text = record.get("plan")
    plan = None if text is None else Plan.from_json(json.dumps(text))
    original = _recorded(path, record) if model is None else ModelSpec(model, args or {})
    network = Origin(original, plan).build()
    load_weights(network, path)
    return network.eval()


def random_inputs(
    inputs: Inputs, batch: int, model: nn.Module, seed: int = 0
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Standard normal inputs of the network's own floating type, by position and by name."""
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = inputs.make(batch, model, "cpu")
    for tensor in tensors_in((args, kwargs)):
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
    return args, kwargs


def difference(found: Outputs, wanted: Outputs) -> float:
    """The largest difference of outputs, relative to the largest value of the wanted one.

    Infinite where their numbers, shapes, types or infinities differ, or whole numbers do.
    """
    if len(found) != len(wanted):
        return float("inf")
    return max(map(_difference, found, wanted), default=0.0)


def reason(error: BaseException) -> str:
    """PyTorch's own reason as one short line: what the innermost error says."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    text = re.sub(r'For more information, run with TORCH_LOGS="[^"]*"\.? ?(- )?', "", text)
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if found.equal(wanted) else float("inf")
    finite = wanted.isfinite()
    same = torch.allclose(found[~finite], wanted[~finite], equal_nan=True)
    if not same or not bool(found[finite].isfinite().all()):
        return float("inf")
    found, wanted = found[finite].double(), wanted[finite].double()
    if not wanted.numel():
        return 0.0
    gap, scale = float((found - wanted).abs().max()), float(wanted.abs().max())
    return gap / scale if scale else (float("inf") if gap else 0.0)


def _opened(kind: "Format", source: Exportable, file: Path, path: Path) -> Runs:
    """What runs the file.

    Raises:
        PrecropError: its runtime cannot read it.
    """
    try:
        return kind.open(source, file)
    except PrecropError:
        raise
    except Exception as error:  # whatever a runtime raises
        text = reason(error).replace(str(file), path.name)
        raise PrecropError(f"{path} was not kept: {kind.runtime} cannot read it: {text}") from error


def _checked(
    run: Runs,
    references: Sequence[tuple[Sequence[Tensor], Mapping[str, Tensor], Outputs]],
    path: Path,
    runtime: str,
) -> float:
    """The largest difference, if it is small enough.

    Raises:
        PrecropError: the file fails, or gives other outputs.
    """
    largest = 0.0
    for args, kwargs, wanted in references:
        batch = (*args, *kwargs.values())[0].shape[0]
        try:
            found = run(args, kwargs)
        except Exception as error:  # whatever a runtime raises
            raise PrecropError(
                f"{path} was not kept: {runtime} fails on a batch of {batch}: {reason(error)}"
            ) from error
        gap = difference(found, wanted)
        if not gap <= TOLERANCE:
            raise PrecropError(
                f"{path} was not kept: on a batch of {batch} its outputs in {runtime} differ from "
                f"PyTorch's by {gap:.1e} of their scale, more than {TOLERANCE:.0e}"
            )
        largest = max(largest, gap)
    return largest


# --- formats ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the files' names.
        runtime: what runs the files.
        require: says which library is missing, if any.
        write: writes a network to a file.
        open: gives a function that runs such a file.
    """

    suffix: str
    runtime: str
    require: Callable[[], None]
    write: Callable[[Exportable, Path], None]
    open: Callable[[Exportable, Path], Runs]


def _write_onnx(source: Exportable, path: Path) -> None:
    from onnx_ir.passes.common import NameFixPass

    program = source.program
    names = _input_names(source)
    shapes = tuple({} if source.batch else {0: "batch"} for _ in names)
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=_output_names(program),
                dynamic_shapes=shapes,
            )
            assert made is not None
            NameFixPass()(made.model)  # what lies within may have had such a name
            made.model.metadata_props.update(
                {name: json.dumps(value) for name, value in source.facts.items()}
            )
            # None: one file as long as it is below 1.5 GB; protobuf ends at 2 GB.
            made.save(path, external_data=None)
    except OSError:
        raise
    except Exception as error:  # torch.onnx raises errors of any kind
        raise PrecropError(f"torch.onnx cannot translate this network: {reason(error)}") from error


def _open_onnx(source: Exportable, path: Path) -> Runs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = _input_names(source)

    def run(args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Outputs:
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        feed = {one.name: given[one.name].numpy() for one in session.get_inputs()}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def _require_onnx() -> None:
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            import_module(name)
    except ImportError as error:
        raise PrecropError(
            f"ONNX needs {error.name}, which is not installed: pip install 'precrop[deploy]'"
        ) from error


def _write_pt2(source: Exportable, path: Path) -> None:
    program = source.program
    try:
        with _quiet():
            # In memory first: where the disk is full, PyTorch's own writer ends the process.
            held = io.BytesIO()
            torch.export.save(program, held, extra_files={RECORD: json.dumps(source.facts)})
        path.write_bytes(held.getbuffer())
    except OSError:
        raise
    except Exception as error:  # torch.export raises errors of any kind
        raise PrecropError(f"torch.export cannot save this network: {reason(error)}") from error


def _open_pt2(source: Exportable, path: Path) -> Runs:
    with _quiet():
        module = torch.export.load(path).module()
    return lambda args, kwargs: _run(module, args, kwargs)


def _write_safetensors(source: Exportable, path: Path) -> None:
    state = source.model.state_dict()
    odd = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise PrecropError(f"safetensors holds tensors alone, and the network's {odd} is not one")
    # Tensors under two names (tied weights) are written twice: safetensors knows no sharing.
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    record = source.facts
    if source.origin is not None:
        record = record | source.origin.model.to_json()
        if source.origin.plan is not None:
            record["plan"] = json.loads(source.origin.plan.to_json())
    try:
        save_file(tensors, path, metadata={"format": "pt", RECORD: json.dumps(record)})
    except SafetensorError as error:
        raise PrecropError(f"cannot write {path.name}: {reason(error)}") from error


def _facts(inputs: Inputs, origin: Origin | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its network, whatever its format.

    Raises:
        PrecropError: the metadata is not JSON.
    """
    known = {} if origin is None else {"network": origin.model.name}
    own = {**known, "input_shape": inputs.spec}
    taken = sorted({*own, "name", "args", "plan"} & metadata.keys())
    if taken:
        raise PrecropError(f"metadata: {taken[0]} is what the file says by itself, drop it")
    try:
        facts: dict[str, Any] = json.loads(json.dumps({**own, **metadata}, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PrecropError(f"metadata must be plain JSON values: {error}") from error
    return facts


def _open_safetensors(source: Exportable, path: Path) -> Runs:
    network = source.origin.build() if source.origin else _emptied(source.model)
    load_weights(network.eval(), path)
    return lambda args, kwargs: _run(network, args, kwargs)


FORMATS = {
    "onnx": Format(".onnx", "ONNX Runtime", _require_onnx, _write_onnx, _open_onnx),
    "pt2": Format(".pt2", "torch.export", lambda: None, _write_pt2, _open_pt2),
    "safetensors": Format(
        ".safetensors",
        "a network built anew",
        lambda: None,
        _write_safetensors,
        _open_safetensors,
    ),
}


class _Within(nn.Module):
    """A network as the only child of another, which takes the same arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

        @functools.wraps(network.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return network(*args, **kwargs)

        self.forward = forward


def _exportable(model: nn.Module) -> nn.Module:
    """The network, or a wrapper where its names collide with `torch.export`'s own (``meta``)."""
    taken = [name for name, _ in model.named_children() if name in _GRAPH_NAMES]
    return _Within(model) if taken else model


def _emptied(model: nn.Module) -> nn.Module:
    """A copy of a network whose tensors in the state_dict hold no values."""
    saved = set(model.state_dict())

    def empty(name: str, tensor: Tensor) -> Tensor:
        if name not in saved:
            return tensor.detach().clone()
        return torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 0)

    return copied(model, empty)


def _record(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(RECORD, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise PrecropError(f"cannot read {path}: {reason(error)}") from error
    if not isinstance(record, dict):
        raise PrecropError(f"{path} does not say how its network is built")
    return record


def _recorded(path: Path, record: Mapping[str, Any]) -> ModelSpec:
    """The network that a file names, unless building it would run a user's code."""
    try:
        model = ModelSpec.from_json(record)
    except PrecropError as error:
        raise PrecropError(
            f"{path} does not say which network it is of: name it (model=)"
        ) from error
    model.check(False, f"say model={model.name!r}")
    return model


# --- names of what goes in and comes out --------------------------------------------------------


def _input_names(source: Exportable) -> list[str]:
    """Names of the forward's arguments, in the order in which the exported program takes them."""
    args, kwargs = source.program.example_inputs
    bound = inspect.signature(source.model.forward).bind_partial(*args).arguments
    names: list[str] = []
    for name, value in bound.items():
        many = isinstance(value, tuple)  # the forward takes *args
        names += [f"{name}_{i}" for i in range(len(value))] if many else [name]
    return [*names, *kwargs]


def _output_names(program: ExportedProgram) -> list[str]:
    """``output``, or the keys of dicts and the places in sequences that lead to a tensor."""
    specs = program.graph_signature.output_specs
    user = [
        spec for spec in specs if spec.kind is torch.export.graph_signature.OutputKind.USER_OUTPUT
    ]
    places, _ = tree_flatten_with_path(
        tree_unflatten(list(range(len(user))), program.call_spec.out_spec)
    )
    constant = torch.export.graph_signature.ConstantArgument
    return [
        _output_name(keystr(place))
        for (place, _), spec in zip(places, user, strict=True)
        if not isinstance(spec.arg, constant)
    ]


def _output_name(place: str) -> str:
    """A place such as ``['boxes'][0]`` as a name: ``boxes_0``."""
    parts = re.findall(r"\w+", place)
    if not parts or parts[0].isdecimal():
        parts = ["output", *parts]
    return "_".join(parts)


# --- surroundings -------------------------------------------------------------------------------


@contextmanager
def _staged(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A file of that name in a folder beside ``path``, and a list for the paths of what was moved.

    When the block ends without an error the file moves to its place, after what came with it.
    """
    moved: list[Path] = []
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "there is a folder of that name")
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield folder / path.name, moved
            for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
                moved.insert(0, file.replace(path.parent / file.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise PrecropError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused path, whose operations other programs do not know."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PyTorch's exporters say of their progress and of themselves from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),  # whole graphs, where torch.export fails
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and afterwards every module into the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _run(model: nn.Module, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Outputs:
    """The tensors that a network gives. Inputs that it changes are copied before."""
    given = [tensor.clone() for tensor in args]
    named = {name: tensor.clone() for name, tensor in kwargs.items()}
    with torch.no_grad():
        outputs = model(*given, **named)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
