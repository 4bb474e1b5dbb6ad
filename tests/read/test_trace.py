"""Traces: every call of a forward pass, in whatever way it ends, without a trace on the model."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from precrop.read.meta import MetaKernels
from precrop.read.recording import run
from precrop.read.trace import Recording
from precrop.read.tracer import skeleton
from tests.networks import BLOCKS, SHAPE, conv, small


def traced(model: nn.Module, *shapes: tuple[int, ...], **options: Any) -> Recording:
    inputs = [torch.ones(shape, device="meta") for shape in shapes]
    return run(skeleton(model).eval(), inputs, {}, MetaKernels(), **options)


def names(trace: Recording) -> list[str]:
    return [call.name for call in trace.calls]


class InPlaceNet(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        x.add_(1).relu_()
        return x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.inner = nn.Sequential(self.layer, nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"a": self.layer(x), "b": [self.inner(x), 3]}


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        raise RuntimeError("no\nluck")


def test_in_place_calls_have_plain_names() -> None:
    assert names(traced(InPlaceNet(), (2, 3))) == ["mul", "add", "relu"]


def test_frames_name_the_calling_modules() -> None:
    trace = traced(Twice(), (2, 4))
    assert [frame.path for frame in trace.frames] == ["", "layer", "inner", "layer", "inner.1"]
    assert [frame.parent for frame in trace.frames] == [-1, 0, 0, 2, 2]
    relu = next(call for call in trace.calls if call.name == "relu")
    assert trace.frames[relu.frame].kind is nn.ReLU


def test_outputs_are_found_in_containers() -> None:
    assert [tuple(out.shape) for out in traced(Twice(), (2, 4)).outputs] == [(2, 4), (2, 4)]


def test_arguments_by_name() -> None:
    trace = traced(nn.Conv2d(3, 8, 3, stride=2, padding=1), (1, 3, 8, 8))
    (call,) = trace.calls
    assert call.name == "convolution"
    assert call.arg("stride") == [2, 2]
    assert call.arg("groups") == 1
    assert call.arg("nothing", "default") == "default"
    assert call.shapes == ((1, 8, 4, 4),)


def test_an_exception_ends_the_trace_and_is_kept() -> None:
    trace = traced(Failing(), (2, 3))
    assert names(trace) == ["add"]
    assert isinstance(trace.error, RuntimeError)
    assert trace.error.__traceback__ is None, "its frames hold the tensors of the pass"
    (note,) = trace.error.__notes__
    assert re.fullmatch(rf"raised at {re.escape(__file__)}, line \d+", note)


def test_the_call_that_raises_is_the_last() -> None:
    trace = traced(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), (2, 5))
    assert trace.error is not None
    assert [call.returned for call in trace.calls[-2:]] == [True, False]
    assert trace.calls[0].shapes == ((2, 5),)


def test_a_limit_ends_the_trace_before_the_last_call_runs() -> None:
    trace = traced(nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid()), (2, 3), limit=2)
    assert names(trace) == ["relu", "tanh"]
    assert [call.returned for call in trace.calls] == [True, False]


@pytest.mark.parametrize("spread", [True, False])
def test_the_shape_of_a_refused_reshape_is_kept(spread: bool) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 7) if spread else x.reshape((2, 7))

    assert traced(Net(), (2, 6), limit=9).refused == (2, 7)


def test_hooks_and_modes_are_gone_afterwards() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    traced(Failing(), (2, 3))
    net, recorded = nn.Linear(2, 2), traced(nn.Linear(2, 2), (1, 2))
    count = len(recorded.calls)
    net(torch.ones(1, 2))
    assert len(recorded.calls) == count
    assert not nn.modules.module._global_forward_hooks
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_constants_made_on_the_cpu_meet_meta_tensors() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([1.0, 2.0, 3.0]) + torch.arange(3)

    trace = traced(Net(), (2, 3))
    assert trace.error is None
    assert trace.outputs[0].shape == (2, 3)


def test_attention_is_seen_layer_by_layer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    trace = traced(layer, (1, 5, 8))
    assert trace.error is None
    assert {"addmm", "native_layer_norm"} <= set(names(trace))


def test_cached_kernels_give_the_same_trace() -> None:
    """The cache only serves functional calls whose arguments are alike to the type."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([F.pad(x, (1, n)) * True * 1.0 for n in (1, 1, 2)], dim=-1)

    cached = traced(Net(), (2, 3))
    plain = run(Net(), [torch.ones(2, 3)], {}, None)
    assert [c.shapes for c in cached.calls] == [c.shapes for c in plain.calls]
    dtypes = [[out.dtype for out in call.outputs] for call in cached.calls]
    assert dtypes == [[out.dtype for out in call.outputs] for call in plain.calls]


class Attention(nn.Module):
    """Queries, keys and values of one tensor."""

    def __init__(self, groups: int = 1, **options: Any) -> None:
        super().__init__()
        self.groups, self.options = groups, options

    def forward(self, x: Tensor) -> Tensor:
        keys = x[:, :: self.groups]
        return F.scaled_dot_product_attention(x, keys, keys, **self.options)


FUSED = {
    "attention": (Attention(), (2, 4, 5, 8)),
    "causal": (Attention(is_causal=True), (2, 4, 5, 8)),
    "masked": (Attention(attn_mask=torch.ones(5, 5, dtype=torch.bool)), (2, 4, 5, 8)),
    "biased": (Attention(attn_mask=torch.ones(5, 5)), (2, 4, 5, 8)),
    "grouped": (Attention(2, enable_gqa=True), (2, 4, 5, 8)),
    "scaled": (Attention(scale=0.5), (2, 4, 5, 8)),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "lstm": (nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), (2, 5, 6)),
    "lstm without biases": (nn.LSTM(6, 8, bias=False), (5, 2, 6)),
    "projected lstm": (nn.LSTM(6, 8, proj_size=4), (5, 2, 6)),
    "gru": (nn.GRU(6, 8, 2, bidirectional=True), (5, 2, 6)),
    "rnn": (nn.RNN(6, 8), (5, 2, 6)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:TF32")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_no_kernel_hides_what_is_computed(name: str, training: bool) -> None:
    """Real tensors show the products that PyTorch counts with plain kernels, as meta ones do."""
    model, shape = FUSED[name]
    model.train(training)
    real = run(model, [torch.ones(shape)], {}, None)
    meta = run(skeleton(model), [torch.ones(shape, device="meta")], {}, MetaKernels())
    assert real.error is meta.error is None
    plain = torch.backends.mkldnn.flags(enabled=False)
    with plain, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as c:
        model(torch.ones(shape))
    assert flops(real) == flops(meta) == c.get_total_flops() > 0


def flops(trace: Recording) -> int:
    """What PyTorch counts of a trace's calls."""
    counts = 0
    for call in trace.calls:
        count = flop_registry.get(call.op.overloadpacket)
        if count is not None:
            counts += count(*call.args, **call.kwargs, out_val=call.outputs[0])
    return counts


def test_an_lstm_in_plain_operations_computes_the_same() -> None:
    model = nn.LSTM(6, 8, 2, bidirectional=True)
    x = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, _ = model(x)
    trace = run(model, [x], {}, None)
    torch.testing.assert_close(trace.outputs[0], wanted)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_meta_tensors_show_what_real_ones_do(name: str, training: bool) -> None:
    model = small(name).train(training)
    real = run(model, [torch.ones(2, *SHAPE)], {}, None)
    meta = run(
        skeleton(model).train(training), [torch.ones(2, *SHAPE, device="meta")], {}, MetaKernels()
    )
    assert meta.error is real.error is None
    skipped = {"clone", "view", "_unsafe_view"}  # they depend on the layout of real kernels
    assert [(c.name, c.shapes) for c in meta.calls if c.name not in skipped] == [
        (c.name, c.shapes) for c in real.calls if c.name not in skipped
    ]


def test_a_module_that_is_called_under_two_names() -> None:
    shared = conv(3, 3)
    trace = traced(nn.Sequential(shared, shared), (1, 3, 4, 4))
    assert [f.path for f in trace.frames if f.kind is nn.Conv2d] == ["0.0", "0.0"]
