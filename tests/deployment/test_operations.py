import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from precrop.costs.batches import follow
from precrop.costs.latency import READERS, amounts
from precrop.deployment.operations import PASSES, pass_seconds, read_node
from precrop.deployment.setting import Setting
from precrop.models import resnet20
from precrop.read.inputs import Inputs
from precrop.read.network import read_network
from tests.networks import short_mobilenet

IMAGE = (3, 32, 32)


def trace_macs(model: nn.Module, runtime: str, batch: int, step: int) -> dict[str, float]:
    """Multiply-accumulates by kind, as the symbolic reading counts them."""
    network = read_network(model, Inputs(IMAGE))
    found: dict[str, float] = defaultdict(float)
    for work in READERS[runtime](*follow(network, batch)):
        found[work.kind] += amounts(work, step)["macs"]
    return {kind: macs for kind, macs in found.items() if macs}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("runtime", "step"), [("eager", 1), ("eager", 16), ("ort", 16)])
@pytest.mark.parametrize("make", [resnet20, short_mobilenet])
def test_what_is_measured_is_what_is_counted(
    make: Any, runtime: str, step: int, batch: int
) -> None:
    # Linear layers are not blocked, and a stem's colours are not filled up.
    model = make().eval()
    samples, seconds = PASSES[runtime](model, Inputs(IMAGE), Setting(runtime, batch), 1, step)
    macs: dict[str, float] = defaultdict(float)
    for sample in samples:
        macs[sample.kind] += sample.amounts["macs"]
        assert sample.seconds >= 0
    counted = trace_macs(model, runtime, batch, step)
    assert {kind: n for kind, n in macs.items() if n} == pytest.approx(counted, rel=1e-6)
    assert seconds > 0


def test_eager_bytes_are_those_of_the_reading() -> None:
    model = resnet20().eval()
    samples, _ = PASSES["eager"](model, Inputs(IMAGE), Setting(batch=2), 1, 1)
    network = read_network(model, Inputs(IMAGE))
    works = READERS["eager"](*follow(network, 2))
    counted: Counter[tuple[str, str]] = Counter()
    for work in works:
        for feature, number in amounts(work).items():
            counted[work.kind, feature] += int(number)
    found: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        for feature, number in sample.amounts.items():
            found[sample.kind, feature] += int(number)
    for kind in ("conv", "stem", "relu", "add", "linear", "native_batch_norm"):
        for feature in ("calls", "reads", "writes", "weights", "macs"):
            assert found[kind, feature] == counted[kind, feature], (kind, feature)


def shaped(*shapes: Sequence[int]) -> list[tuple[Sequence[int], int]]:
    return [(shape, 4) for shape in shapes]


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "kind", "macs", "weights"),
    [
        ("Conv", [(2, 8, 9, 9), (16, 8, 3, 3), (16,)], (2, 16, 9, 9), "conv",
         2 * 16 * 81 * 72, 4 * 16 * 72),
        ("Conv", [(1, 16, 4, 4), (16, 1, 3, 3)], (1, 16, 4, 4), "depthwise", 16 * 16 * 9, 4 * 144),
        ("FusedConv", [(1, 8, 4, 4), (8, 4, 1, 1)], (1, 8, 4, 4), "unblocked", 8 * 16 * 4, 4 * 32),
        ("Conv", [(1, 32, 4, 4), (8, 16, 1, 1)], (1, 8, 4, 4), "grouped", 8 * 16 * 16, 4 * 128),
        # Packed weights are not among a node's inputs.
        ("Gemm", [(5, 6), (7,)], (5, 7), "linear", 5 * 6 * 7, 4 * 42),
        # A transposed left operand: 49 is contracted, not 8.
        ("FusedMatMul", [(1, 49, 8), (49, 10)], (1, 8, 10), "linear", 8 * 49 * 10, 4 * 490),
        ("MatMul", [(2, 3, 5, 6), (2, 3, 6, 7)], (2, 3, 5, 7), "matmul", 6 * 5 * 6 * 7, 0),
        ("ReorderInput", [(1, 8, 4, 4)], (1, 8, 4, 4), "reorder", 0, 0),
        ("Whatever", [(1, 8, 4, 4)], (1, 8, 4, 4), "whatever", 0, 0),
    ],
)  # fmt: skip
def test_a_node_is_read_from_its_shapes(
    operator: str,
    inputs: list[Sequence[int]],
    outputs: Sequence[int],
    kind: str,
    macs: int,
    weights: int,
) -> None:
    found, amount = read_node(operator, shaped(*inputs), shaped(outputs))
    assert found == kind
    assert amount["macs"] == macs
    assert amount["weights"] == weights
    assert amount["writes"] == 4 * math.prod(outputs)
    assert amount["calls"] == 1


def test_a_residual_sum_inside_of_a_convolution_is_read() -> None:
    _, alone = read_node("Conv", shaped((1, 8, 4, 4), (8, 8, 1, 1)), shaped((1, 8, 4, 4)))
    shapes = shaped((1, 8, 4, 4), (8, 8, 1, 1), (8,), (1, 8, 4, 4))
    _, summed = read_node("Conv", shapes, shaped((1, 8, 4, 4)))
    assert summed["reads"] - alone["reads"] == 4 * 8 * 16


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_threads_are_as_before(runtime: str) -> None:
    before = torch.get_num_threads()
    assert pass_seconds(resnet20().eval(), Inputs(IMAGE), Setting(runtime), 1) > 0
    assert torch.get_num_threads() == before
