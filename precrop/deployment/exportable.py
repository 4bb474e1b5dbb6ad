"""A network prepared for export: its inputs, reference outputs and `torch.export` program."""

import functools
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves, tree_map_only

from precrop.errors import MALFORMED, PrecropError, errors_as
from precrop.model_spec import ModelSpec
from precrop.modules.copying import copied
from precrop.modules.names import buffers_of, parameters_of
from precrop.own import calling_own
from precrop.plans.plan import Plan
from precrop.read.examples import tensors_in
from precrop.read.inputs import LARGEST_BATCH, Inputs

BATCHES = (1, 3)
"""Batch sizes at which a file for any batch size is checked."""
_EXAMPLE = 2
"""Batch size of the exported example: `torch.export` would take a size of 1 for a constant."""
_GRAPH_NAMES = frozenset(("meta", "graph", "code"))
"""A `torch.fx.GraphModule`'s own attributes: names that its child modules cannot have."""
_LONGEST = 240
"""Most characters that are shown of a PyTorch error."""

Arguments = tuple[list[Any], dict[str, Any]]
"""Positional and keyword arguments of a network's forward."""
Runs = Callable[[Arguments], list[Tensor]]
"""Runs a network and returns the tensors among its outputs."""


@dataclass(frozen=True)
class Origin:
    """How to rebuild a network: build the original, then crop it by the plan if there is one."""

    model: ModelSpec
    plan: Plan | None = None

    def build(
        self, like: Mapping[str, Sequence[int]] | None = None, weights: Path | None = None
    ) -> nn.Module:
        """Build the network; see `ModelSpec.build`. With a plan, its shapes replace ``like``."""
        network = self.model.build(like if self.plan is None else self.plan.shapes, weights)
        return network if self.plan is None else self.plan.build(network)


class Exportable:
    """A network to export; what several formats need is computed once.

    The arguments are those of `precrop.deployment.exporting.export`. The ``batch`` of inputs
    without a batch axis is 1.

    Raises:
        PrecropError: the batch size is out of range, the network is on the meta device, or the
            metadata is not JSON.
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
        tensors = (*parameters_of(model).values(), *buffers_of(model).values())
        if any(tensor.is_meta for tensor in tensors):
            raise PrecropError("the network is on the meta device, without weights to export")
        self.model = copied(model, lambda _, tensor: tensor.detach().cpu()).eval()
        self.inputs, self.origin = inputs, origin
        self.batch = batch if inputs.has_batch else 1
        self.facts = _facts(inputs, origin, metadata or {})

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which its files are checked."""
        return BATCHES if self.batch is None else (self.batch,)

    @cached_property
    def references(self) -> dict[int, tuple[Arguments, list[Tensor]]]:
        """Random inputs and the network's outputs for them, by batch size.

        Raises:
            PrecropError: the network fails on these inputs, or none of its outputs is finite.
        """
        found = {}
        for batch in self.batches:
            arguments = noise(self.inputs, self.model, batch)
            with calling_own(f"the network fails on {batch} inputs of {self.inputs.text}"):
                outputs = run(self.model, arguments)
            if not any(bool(output.isfinite().any()) for output in outputs):
                raise PrecropError(
                    "no output of the network is finite on random inputs, so that a file can't be "
                    "compared with it: give it trained weights, or norms with statistics"
                )
            found[batch] = arguments, outputs
        return found

    @cached_property
    def telling(self) -> bool:
        """Whether different inputs give different outputs."""
        batch = self.batches[0]
        others = run(self.model, noise(self.inputs, self.model, batch, seed=1))
        return not all(map(Tensor.equal, self.references[batch][1], others))

    @cached_property
    def program(self) -> ExportedProgram:
        """The network as exported by `torch.export`.

        Raises:
            PrecropError: the export fails; the message has PyTorch's reason.
        """
        args, kwargs = noise(self.inputs, self.model, self.batch or _EXAMPLE)
        shapes = None
        if self.batch is None:
            shapes = ShapesCollection()  # type: ignore[no-untyped-call]
            for tensor, axis in zip(tensors_in((args, kwargs)), self.inputs.axes, strict=True):
                shapes[tensor] = {} if axis is None else {axis: Dim("batch")}
        taken = any(name in _GRAPH_NAMES for name, _ in self.model.named_children())
        model = _Within(self.model) if taken else self.model
        try:
            with export_mode():
                program = torch.export.export(
                    model, tuple(args), kwargs, dynamic_shapes=shapes, strict=False
                )
        except Exception as error:  # torch.export raises errors of any kind
            hint = "" if self.batch else "; it may with one batch size: --batch 1 (batch=1)"
            size = f"batches of {self.batch}" if self.batch else "any batch size"
            raise PrecropError(
                f"torch.export cannot read this network for {size}: {innermost_reason(error)}{hint}"
            ) from error
        for node in program.graph.nodes:  # keep paths of source code out of files
            node.meta.pop("stack_trace", None)
        return program

    def emptied(self) -> nn.Module:
        """Rebuild the network, or, if its origin is unknown, copy it with a blank state dict."""
        if self.origin is not None:
            return self.origin.build().eval()
        saved = set(self.model.state_dict())

        def empty(name: str, tensor: Tensor) -> Tensor:
            if name not in saved:
                return tensor.detach().clone()
            return torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 0)

        return copied(self.model, empty)


class _Within(nn.Module):
    """A wrapper with the network as its only child and the same forward arguments.

    For networks whose child modules have names that `torch.export` needs itself (``meta``).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

        @functools.wraps(network.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return network(*args, **kwargs)

        self.forward = forward


def _facts(inputs: Inputs, origin: Origin | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that files of all formats keep; fail if it cannot be stored as JSON."""
    known = {} if origin is None else {"network": origin.model.name}
    own = {**known, "input_shape": inputs.spec}
    taken = sorted({*own, "name", "args", "plan"} & metadata.keys())
    if taken:
        raise PrecropError(f"metadata: {taken[0]} is what the file says by itself, drop it")
    with errors_as("metadata must be plain JSON values", *MALFORMED):
        facts: dict[str, Any] = json.loads(json.dumps({**own, **metadata}, allow_nan=False))
    return facts


def noise(inputs: Inputs, model: nn.Module, batch: int, seed: int = 0) -> Arguments:
    """Return standard normal inputs of the network's floating-point type, on the CPU."""
    arguments = inputs.make(batch, model, "cpu")
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors_in(arguments):
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
    return arguments


def run(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """Return the tensors among a network's outputs. It gets copies, as it may change its inputs."""
    args, kwargs = tree_map_only(Tensor, Tensor.clone, arguments)
    with torch.no_grad():
        outputs = tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in outputs if isinstance(leaf, Tensor)]


def innermost_reason(error: BaseException) -> str:
    """Return the message of the innermost cause of an error as one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    text = re.sub(r'For more information, run with TORCH_LOGS="[^"]*"\.? ?(- )?', "", text)
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@contextmanager
def export_mode() -> Iterator[None]:
    """Silence an exporter and switch off PyTorch's fused path for attention.

    Other programs do not know the operations of the fused path.
    """
    nowhere, attention = io.StringIO(), torch.backends.mha
    with (
        ExitStack() as back,
        warnings.catch_warnings(action="ignore"),
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),  # torch.export prints whole graphs when it fails
    ):
        back.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        back.callback(attention.set_fastpath_enabled, attention.get_fastpath_enabled())
        attention.set_fastpath_enabled(False)
        yield
