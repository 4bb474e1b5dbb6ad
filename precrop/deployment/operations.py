"""Times the single operations of a forward pass in a runtime.

Every sample has the features that `precrop.costs` counts symbolically, here computed from actual
shapes, with channels padded to the kernels' step.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from precrop.costs.latency import filled, step_of
from precrop.costs.work import MAP_AXES, convolution_kind, is_view, kind
from precrop.deployment.exportable import noise
from precrop.deployment.onnx_files import bound, onnx_session
from precrop.deployment.runtimes import (
    SESSIONS,
    median_seconds,
    onnx_file,
    ort_run,
    placed,
    sessions,
)
from precrop.deployment.setting import Setting
from precrop.modules.names import buffers_of, parameters_of
from precrop.modules.threads import threads_restored
from precrop.progress import unheard
from precrop.read.inputs import Inputs
from precrop.read.trace import Call, Step, numbered_call
from precrop.read.values import Numbering, TensorValue

Shape = Sequence[int]
Sized = tuple[Shape, int]
"""A tensor's shape and its bytes per element."""
Moved = Callable[..., object]
"""Called whenever a measurement has made some progress."""
_MAP_CHANNELS, _KERNEL_CHANNELS = (1,), (0, 1)
"""The channel axes of feature maps, and of kernels."""


@dataclass(frozen=True)
class Sample:
    """One operation: its kind, the amount of each feature, and the seconds that it took."""

    kind: str
    amounts: Mapping[str, float]
    seconds: float


def amounts(
    reads: Iterable[Sized], writes: Iterable[Sized], weights: Iterable[Sized], macs: float
) -> dict[str, float]:
    """Return the features of one operation from its operands' shapes and bytes per element."""
    operands = {"reads": reads, "writes": writes, "weights": weights}
    moved = {
        name: float(sum(prod(shape) * size for shape, size in tensors))
        for name, tensors in operands.items()
    }
    return {"calls": 1.0, **moved, "macs": macs}


# --- eager PyTorch ------------------------------------------------------------------------------


class _Timer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Times every ATen call, without the time that its own bookkeeping takes."""

    def __init__(self, fixed: set[int], step: int, synchronize: Callable[[], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fixed, self.step, self.synchronize = fixed, step, synchronize
        self.samples: list[Sample] = []

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.synchronize()
        start = time.perf_counter()
        out = op(*args, **kwargs)
        self.synchronize()
        seconds = time.perf_counter() - start
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        shapes = tuple(tuple(t.shape) for t in outputs)
        step = Step(op, args, kwargs, shapes=shapes, outputs=outputs)
        fixed = [tensor.untyped_storage().data_ptr() in self.fixed for tensor in step.inputs]
        call = numbered_call(step, Numbering({}))
        if is_view(call):
            counted = amounts([], [], [], 0.0)
        else:
            counted = self._amounts(call, fixed, _flops(op, args, kwargs, outputs))
        self.samples.append(Sample(kind(call), counted, seconds))
        return out

    def _amounts(self, call: Call, fixed: Sequence[bool], flops: float) -> dict[str, float]:
        step = step_of(kind(call), self.step)

        def shaped(values: Iterable[TensorValue], axes: Shape) -> list[Sized]:
            return [(_filled(v.shape, axes, step), v.dtype.itemsize) for v in values]

        macs = flops / 2
        if call.name in ("convolution", "_convolution") and not call.arg("transposed"):
            made = _filled(call.outputs[0].shape, _MAP_CHANNELS, step)
            kernel = _filled(call.arg("weight").shape, _KERNEL_CHANNELS, step)
            macs = float(prod(made) * prod(kernel[1:]))
        operands = [*zip(fixed, call.inputs, strict=True)]
        return amounts(
            shaped((v for fixed, v in operands if not fixed), _MAP_CHANNELS),
            shaped(call.outputs, _MAP_CHANNELS),
            shaped((v for fixed, v in operands if fixed), _KERNEL_CHANNELS),
            macs,
        )


def _filled(shape: Shape, axes: Shape, step: int) -> Shape:
    """Return the shape of maps or kernels with these axes padded; other shapes stay as they are."""
    if len(shape) != MAP_AXES:
        return shape
    return [filled(size, step) if axis in axes else size for axis, size in enumerate(shape)]


def _flops(op: Any, args: Any, kwargs: Any, outputs: Sequence[Tensor]) -> float:
    """Return the FLOPs that PyTorch counts for a call; 0 if it has no formula for it."""
    from torch.utils.flop_counter import flop_registry  # which imports triton

    count = flop_registry.get(op.overloadpacket)
    return float(count(*args, **kwargs, out_val=outputs[0])) if count is not None else 0.0


def eager_pass(
    model: nn.Module,
    inputs: Inputs,
    setting: Setting,
    rounds: int,
    step: int,
    moved: Moved = unheard,
) -> tuple[list[Sample], float]:
    """Time the ATen calls of one pass in eager PyTorch; return them and the whole pass' seconds.

    Times are medians of ``rounds`` passes after a warm-up pass. Features count channels padded to
    ``step``, which kernels process at once. ``moved`` is called between measurements.
    """
    network, (args, kwargs) = placed(model, inputs, setting)
    tensors = (*parameters_of(network).values(), *buffers_of(network).values())
    fixed = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    on_gpu = setting.device != "cpu"
    wait = partial(torch.cuda.synchronize, setting.device) if on_gpu else unheard
    passes = []
    with threads_restored():
        torch.set_num_threads(setting.threads)
        for _ in range(rounds + 1):
            moved()
            with torch.no_grad(), _Timer(fixed, step, wait) as timer:
                network(*args, **kwargs)
            passes.append(timer.samples)
    samples = [
        replace(same[0], seconds=statistics.median(one.seconds for one in same))
        for same in zip(*passes[1:], strict=True)
    ]
    return samples, pass_seconds(model, inputs, setting, rounds)


def pass_seconds(model: nn.Module, inputs: Inputs, setting: Setting, rounds: int) -> float:
    """Measure the seconds of a whole pass."""
    with sessions(model, inputs, setting) as runs:
        return median_seconds(runs, rounds, setting.stopwatch)


# --- ONNX Runtime -------------------------------------------------------------------------------

ORT_KINDS = {
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), "mean"),
    **dict.fromkeys(("QuickGelu", "Swish"), "silu"),
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu"), "gelu"),
    **dict.fromkeys(("ReorderInput", "ReorderOutput"), "reorder"),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), "view"),
    "AveragePool": "avg_pool2d",
    "BatchNormalization": "native_batch_norm",
    "Clip": "hardtanh",
    "Concat": "cat",
    "LayerNormalization": "native_layer_norm",
    "MaxPool": "max_pool2d_with_indices",
    "Softmax": "_softmax",
    "Transpose": "permute",
}
"""Kinds of work by ONNX operator; every other operator's kind is its name in lower case."""

_BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "int32": 4, "bool": 1, "uint8": 1}


def ort_pass(
    model: nn.Module,
    inputs: Inputs,
    setting: Setting,
    rounds: int,
    step: int,
    moved: Moved = unheard,
) -> tuple[list[Sample], float]:
    """Time the nodes of one pass by ONNX Runtime's profiler; otherwise like `eager_pass`.

    ``step`` is not needed: the shapes are those of the runtime's blocked layout.
    """
    arguments = noise(inputs, model, setting.batch)
    with onnx_file(model, inputs, setting.batch) as path:
        moved()
        profile = path.with_name("profile")
        session = onnx_session(path, setting.threads, setting.device, profile)
        binding = bound(session, arguments, setting.device)
        for _ in range(rounds + 1):
            session.run_with_iobinding(binding)
            moved()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        whole = [ort_run(path, arguments, setting) for _ in range(SESSIONS)]
        seconds = median_seconds(whole, rounds, setting.stopwatch, moved)
    runs: dict[str, list[Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["name"], []).append(event)
    return [_node_sample(events[1:]) for events in runs.values()], seconds


def _node_sample(events: Sequence[Mapping[str, Any]]) -> Sample:
    node = events[0]["args"]
    inputs, outputs = (_shapes(node[f"{side}_type_shape"]) for side in ("input", "output"))
    seconds = statistics.median(event["dur"] for event in events) * 1e-6
    return Sample(*read_node(node["op_name"], inputs, outputs), seconds)


def _shapes(listed: Iterable[Mapping[str, Shape]]) -> list[Sized]:
    return [(tuple(shape), _BYTES.get(name, 4)) for one in listed for name, shape in one.items()]


def read_node(
    operator: str, inputs: Sequence[Sized], outputs: Sequence[Sized]
) -> tuple[str, dict[str, float]]:
    """Return a node's kind and features. Weights packed in advance are not among its inputs."""
    shapes = [shape for shape, _ in inputs]
    if operator in ("Conv", "FusedConv") and len(shapes) > 1 and len(shapes[1]) == MAP_AXES:
        data, weight, *others = inputs
        added = [other for other in others if len(other[0]) == MAP_AXES]
        macs = float(prod(outputs[0][0]) * prod(weight[0][1:]))
        kind = convolution_kind(data[0][1], weight[0])
        return kind, amounts([data, *added], outputs, [weight], macs)
    if operator in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul"):
        return _matmul(inputs, outputs)
    kind = ORT_KINDS.get(operator, operator.lower())
    return kind, amounts([], [], [], 0.0) if kind == "view" else amounts(inputs, outputs, [], 0.0)


def _matmul(inputs: Sequence[Sized], outputs: Sequence[Sized]) -> tuple[str, dict[str, float]]:
    (left, size), (made, _) = inputs[0], outputs[0]
    # The left operand may be transposed, so the inner size is found from the numbers of elements.
    inner = prod(left) * made[-1] // max(prod(made), 1)
    macs = float(prod(made) * inner)
    if len(inputs) > 1 and len(inputs[1][0]) == len(left) > 2:
        return "matmul", amounts(inputs[:2], outputs, [], macs)
    return "linear", amounts(inputs[:1], outputs, [((inner, made[-1]), size)], macs)


PASSES = {"eager": eager_pass, "ort": ort_pass}
"""By runtime, the function that times one pass of a network, operation by operation."""
