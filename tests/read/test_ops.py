"""One small network per construction, with the number of independent widths that it has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precrop
from precrop.read.inputs import Inputs
from precrop.read.known import Axes
from precrop.read.lower import lower
from precrop.read.network import read_network
from precrop.read.reader import Reader
from precrop.read.trace import Call
from tests.networks import BLOCKS, HEADS, SHAPE, Net, conv, small
from tests.planning import counted_macs, counted_params, planned, total


def check_built(model: nn.Module, shape: tuple[int, ...], plan: precrop.Plan) -> None:
    """The built network has the plan's costs and runs in both modes."""
    built = plan.build(model)
    assert counted_params(built) == plan.params < plan.base_params
    assert counted_macs(built, shape) == plan.macs < plan.base_macs
    for training in (False, True):
        total(built.train(training)(torch.randn(2, *shape))).backward()


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"checked"}))
def test_independent_widths_of_every_block(name: str) -> None:
    model = small(name)
    plan, choice = planned(model, SHAPE, params=0.5, macs=0.5)
    assert len(choice.structure.groups) == BLOCKS[name].groups
    check_built(model, SHAPE, plan)


@pytest.mark.parametrize("head", HEADS)
def test_heads_leave_the_features_free(head: str) -> None:
    model = small("conv", head=head)
    plan, choice = planned(model, SHAPE, params=0.5)
    assert len(choice.structure.groups) == (3 if head == "flatten" else 2)
    assert plan.layers[-1].out_channels == 5
    check_built(model, SHAPE, plan)


class Path(nn.Module):
    """A stem of 12 channels, any function of its output, and a layer of 8 that consumes that."""

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: int) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 12), nn.Conv2d(inputs, 8, 1)
        self.head = nn.Linear(8, 5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.function(self.stem(x)))
        return self.head(x.mean((2, 3)))


def outer_product(x: Tensor) -> Tensor:
    return (x.unsqueeze(1) * x.unsqueeze(2)).flatten(1, 2)


def rows(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=1)


def correlated(x: Tensor) -> Tensor:
    f = torch.fft.rfft2(x)
    return torch.fft.irfft2(f * f.conj(), s=x.shape[-2:])


def losses(x: Tensor) -> Tensor:
    shifted, shares = x.roll(1, 2), x.sigmoid()
    parts = [loss(x, shifted) for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss, torch.dist)]
    parts += [
        F.binary_cross_entropy(shares, shares.detach()),
        F.soft_margin_loss(x, shifted.detach()),
    ]
    whole = F.binary_cross_entropy_with_logits(x, shares.detach(), reduction="none")
    return x + sum(parts) + whole


def noise(x: Tensor) -> Tensor:
    counts = torch.randint_like(x, 3) + torch.randint(2, x.shape, device=x.device)
    return x * counts + torch.poisson(x.abs()).detach() + torch.empty_like(x).log_normal_()


def in_space(x: Tensor) -> Tensor:
    return torch.zeros_like(x.flatten(2))


def best(x: Tensor) -> Tensor:
    return x.flatten(2).topk(5, 2)[1]


def summed(x: Tensor) -> Tensor:
    """Sums and maxima over places that an index puts together, as graphs have them."""
    places = (torch.arange(x.shape[2] * x.shape[3], device=x.device) % 9).expand(*x.shape[:2], -1)
    empty = x.new_zeros(*x.shape[:2], 9)
    sums = empty.scatter_add(2, places, x.flatten(2))
    return sums + empty.scatter_reduce(2, places, x.flatten(2), "amax")


def replaced(x: Tensor) -> Tensor:
    x = torch.slice_scatter(x, x[:, :, :4] * 2, 2, 0, 4)
    x = torch.select_scatter(x, x[:, :, 0] * 2, 2, 1)
    return x.masked_scatter(x > 0, x * 2)


def written(x: Tensor) -> Tensor:
    """Other places of a map, written one by one: behind the channels, and around them."""
    places = torch.zeros(*x.shape[:2], x.shape[2] * x.shape[3]).to(x.device)
    places[:, :, [2, 0, 1]] = x.flatten(2)[:, :, 1:4]
    around = x.new_zeros(*x.shape)
    around[:, :, [0, 1], [1, 0]] = places[:, :, 1:3]
    apart = x.new_zeros(x.shape[2], *x.shape[1:])
    apart[[1, 0], :, [2, 3]] = around.mean(0)[:, :2].transpose(0, 1)
    return apart.mean((0, 2))[None, :, None].expand(len(x), -1, x.shape[2], -1)


def covariance(x: Tensor) -> Tensor:
    """Of channels, with one number more on the diagonal."""
    rows = x.flatten(2) / (x.shape[2] * x.shape[3])
    return torch.eye(x.shape[1], device=x.device) + (rows[:, :, None] * rows[:, None]).sum(-1)


def padded(x: Tensor) -> Tensor:
    return F.pad(x[:, :, None].expand(-1, -1, 3, -1, -1), (1,) * 6, mode="reflect")


FREE = {
    "flip": (lambda x: x.flip(1), 12),
    "roll": (lambda x: x.roll(1, 1), 12),
    "twice": (lambda x: rows(x, x), 24),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), 24),
    "stack": (lambda x: torch.stack([x, x], 1).flatten(1, 2), 24),
    "stack last": (lambda x: torch.stack([x, x], 2).flatten(1, 2), 24),
    "unfold": (lambda x: F.unfold(x, 3, padding=1).view(len(x), -1, *x.shape[2:]), 108),
    "unshuffle": (lambda x: F.interpolate(F.pixel_unshuffle(x, 2), scale_factor=2), 48),
    "local response": (lambda x: F.local_response_norm(x, 3), 12),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), 24),
    "outer product": (outer_product, 144),
    "norm": (lambda x: x / x.norm(dim=1, keepdim=True), 12),
    "standard deviation": (lambda x: x * x.std((2, 3), keepdim=True), 12),
    "maximum": (lambda x: torch.maximum(x, x.amax((2, 3), keepdim=True)), 12),
    "where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), 12),
    "zeros": (lambda x: x + torch.zeros(x.shape[1], 1, 1, device=x.device), 12),
    "broadcast": (lambda x: x * x.mean((2, 3), keepdim=True).expand(*x.shape), 12),
    "softmax": (lambda x: x.softmax(1), 12),
    "cumsum": (lambda x: x.cumsum(1), 12),
    "gram": (lambda x: (x.flatten(2) @ x.flatten(2).mT @ x.flatten(2)).view(x.shape), 12),
    "einsum": (lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3))), 12),
    "permuted": (lambda x: x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1), 12),
    "squeezed": (lambda x: x * x.mean((2, 3)).unsqueeze(-1)[..., None], 12),
    "upsampled": (lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2), 2), 12),
    "padded in space": (lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1), 12),
    "complex": (lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, 12),
    "all channels": (lambda x: x[:, :], 12),
    "list of indices in space": (lambda x: x[:, :, [1, 0, 2, 3, 4, 5, 6, 7]], 12),
    "dropout of channels": (lambda x: F.dropout2d(x, 0.1), 12),
    "correlation in frequencies": (correlated, 12),
    "complex of parts": (lambda x: torch.complex(x, x).abs() + torch.polar(x.abs(), x).imag, 12),
    "conjugate's part": (lambda x: torch.fft.fft2(x).conj().imag, 12),
    "running products": (lambda x: x.cumprod(2) + x.cummax(3)[0] + x.logcumsumexp(2), 12),
    "rounded down": (lambda x: x + x.detach() // 0.5, 12),
    "in buckets": (lambda x: x * torch.bucketize(x, torch.linspace(-1, 1, 5)), 12),
    "searched": (lambda x: x * torch.searchsorted(torch.linspace(-1, 1, 5), x.contiguous()), 12),
    "among": (lambda x: x * torch.isin(x.long(), torch.tensor([0, 1])), 12),
    "counted": (lambda x: x * (x > 0).count_nonzero((2, 3))[..., None, None], 12),
    "losses": (losses, 12),
    "kinds of noise": (noise, 12),
    "largest in space": (lambda x: x * in_space(x).scatter(2, best(x), 1.0).view_as(x), 12),
    "summed by place": (lambda x: x + summed(x).sum(2)[..., None, None], 12),
    "replaced": (replaced, 12),
    "written at places": (written, 12),
    "drawn places": (lambda x: x[:, :, torch.multinomial(x.exp().mean((0, 1, 3)), 4)], 12),
    "determinant": (lambda x: x + torch.linalg.slogdet(covariance(x))[1][:, None, None, None], 12),
    "cholesky": (lambda x: torch.linalg.cholesky(covariance(x)).sum(2)[..., None, None] * x, 12),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(covariance(x))[..., None, None] * x, 12),
    "eigenvectors": (lambda x: torch.linalg.eigh(covariance(x))[1].sum(2)[..., None, None] * x, 12),
    "singular values": (lambda x: torch.linalg.svdvals(covariance(x))[..., None, None] * x, 12),
    "pseudo-inverse": (lambda x: torch.linalg.pinv(covariance(x)).sum(2)[..., None, None] * x, 12),
    "orthonormal": (lambda x: torch.linalg.qr(covariance(x))[0].sum(2)[..., None, None] * x, 12),
    "trace": (lambda x: x / torch.trace(covariance(x)[0]), 12),
    "diagonal": (lambda x: torch.diag_embed(x.mean((2, 3))).sum(2)[..., None, None] * x, 12),
    "cross product": (lambda x: torch.linalg.cross(x[:, :, :3], x[:, :, 1:4], dim=2), 12),
    "pairs of rows": (lambda x: x + F.pdist(x.flatten(1)).sum(), 12),
    "histogram": (lambda x: x + torch.histc(x.detach(), 4).mean(), 12),
    "turned": (lambda x: x.rot90(1, (2, 3)), 12),
    "largest": (lambda x: x.topk(5, dim=1).values, 5),
    "one of the channels": (lambda x: x * torch.zeros_like(x).scatter(1, x.argmax(1, True), 1), 12),
    "volume": (
        lambda x: F.interpolate(padded(x), size=(1, 8, 8), mode="nearest-exact")[:, :, 0],
        12,
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_two_widths_stay_independent(name: str) -> None:
    function, inputs = FREE[name]
    model = Path(function, inputs)
    plan, choice = planned(model, SHAPE, params=0.5)
    assert [group.width for group in choice.structure.groups] == [12, 8]
    assert [group.units for group in choice.structure.groups] == [12, 8]
    check_built(model, SHAPE, plan)


STEPS = {
    "view as groups": (lambda x: shuffled(x, 3), 12, 4),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 4), 12, 3),
    "pixel_shuffle": (lambda x: F.avg_pool2d(F.pixel_shuffle(x, 2), 2), 3, 3),
    "maxout": (lambda x: x.view(len(x), x.shape[1] // 2, 2, *x.shape[2:]).amax(2), 6, 6),
    "group norm": (lambda x: F.group_norm(x, 3), 12, 4),
    "strided": (lambda x: x[:, ::2], 6, 6),
    "halves exchanged": (lambda x: rows(*reversed(x.chunk(2, 1))), 12, 6),
    "halves added": (lambda x: sum(x.chunk(2, 1)), 6, 6),
    "thirds": (lambda x: torch.stack(x.chunk(3, 1)).sum(0), 4, 4),
    "halves by shape": (lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :], 6, 6),
}


def shuffled(x: Tensor, groups: int) -> Tensor:
    rows = x.view(len(x), groups, -1, *x.shape[2:])
    return rows.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_a_reshape_needs(name: str) -> None:
    """The stem keeps multiples of 12 / units channels; the last layer is free."""
    function, inputs, units = STEPS[name]
    model = Path(function, inputs)
    plan, choice = planned(model, SHAPE, params=0.6)
    assert [group.units for group in choice.structure.groups] == [units, 8]
    assert plan.widths["stem.0"][1] % (12 // units) == 0
    check_built(model, SHAPE, plan)


FIXED = {
    "chosen channels": (lambda x: x[:, [0, 2, 4]], 3),
    "select": (lambda x: x.select(1, 2).unsqueeze(1), 1),
    "stale split": (lambda x: rows(*x.split(5, 1)), 12),
    "stale view": (lambda x: x.reshape(-1, 12, 8, 8), 12),
    "matrix": (lambda x: x * torch.ones(12, device=x.device).view(1, 12, 1, 1), 12),
    "drawn channels": (lambda x: x[:, torch.multinomial(x.exp().mean((0, 2, 3)), 4)], 4),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_follow_is_fixed_and_reported(name: str) -> None:
    """Numbers in code that no attribute holds, and channels picked one by one."""
    function, inputs = FIXED[name]
    model = Path(function, inputs)
    plan = precrop.plan(model, SHAPE, params=0.9)
    assert plan.widths["stem.0"] == (3, 12)
    assert plan.frozen["stem.0"]
    assert plan.widths["last"][1] < 8
    check_built(model, SHAPE, plan)


def test_a_number_of_new_channels_in_code_stays() -> None:
    model = Path(lambda x: rows(x, x.new_zeros(len(x), 4, *x.shape[2:])), 16)
    plan = precrop.plan(model, SHAPE, params=0.4)
    assert plan.widths["last"][0] == plan.widths["stem.0"][1] + 4 < 16
    check_built(model, SHAPE, plan)


def test_a_channel_picked_by_a_slice_stays_one() -> None:
    model = Path(lambda x: x[:, 3:4] + x, 12)
    plan = precrop.plan(model, SHAPE, params=0.4)
    assert plan.widths["stem.0"][1] < 12
    check_built(model, SHAPE, plan)


@pytest.mark.parametrize("picked", [slice(0, 1), slice(-1, None)], ids=["first", "last"])
def test_the_first_or_last_channel_alone_cuts_no_width(picked: slice) -> None:
    """Where a map is made like it, the groups of a norm still divide the whole width."""

    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32)
            self.conv, self.head = nn.Conv2d(33, 32, 3, padding=1), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x))
            time = torch.full_like(x[:, picked], 0.5)
            return self.head((x + self.conv(torch.cat((time, x), 1))).mean((2, 3)))

    plan = precrop.plan(Timed(), SHAPE, params=0.4)
    assert not plan.frozen
    width = plan.widths["stem"][1]
    assert width < 32
    assert width % 8 == 0
    assert plan.widths["conv"] == (width + 1, width)
    check_built(Timed(), SHAPE, plan)


class RadialDifference(nn.Module):
    """A convolution whose 3×3 weights are written into a 5×5 kernel, as in PiDiNet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[:2]
        kernel = torch.zeros(*channels, 25).to(x.device)
        weight = self.weight.view(*channels, -1)
        kernel[:, :, [0, 2, 4, 10, 14, 20, 22, 24]] = weight[:, :, 1:]
        kernel[:, :, [6, 7, 8, 11, 13, 16, 17, 18]] = -weight[:, :, 1:]
        kernel[:, :, 12] = 0
        return F.conv2d(x, kernel.view(*channels, 5, 5), padding=2)


def test_weights_written_into_a_kernel() -> None:
    stem, last = nn.Conv2d(3, 8, 3, padding=1), [nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)]
    model = nn.Sequential(stem, RadialDifference(8, 16), nn.ReLU(), *last)
    plan = precrop.plan(model, SHAPE, params=0.4, macs=0.4, divisor=1)
    assert not plan.frozen
    built: Any = plan.build(model)
    assert built[1].weight.shape[1] == plan.widths["0"][1] < 8
    check_built(model, SHAPE, plan)


class Rows(nn.Module):
    """A table looked up: rows are fixed, columns are a width."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 12)
        self.register_buffer("index", torch.arange(7))
        self.stem, self.head = conv(3, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table(self.index).mean(0)
        return self.head(self.stem(x).mean((2, 3)) + bias)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_lookup_table(max_norm: float | None) -> None:
    model = Rows()
    model.table.max_norm = max_norm
    plan, choice = planned(model, SHAPE, params=0.5)
    assert [group.width for group in choice.structure.groups] == [12]
    built: Any = plan.build(model)
    assert built.table.weight.shape == (7, plan.widths["stem.0"][1])
    assert built.table.embedding_dim == plan.widths["stem.0"][1]
    check_built(model, SHAPE, plan)


def tied(model: nn.Module, shape: tuple[int, ...], **options: Any) -> dict[str, str | None]:
    """Layers and the group that each one's output is in."""
    plan = precrop.plan(model, shape, params=0.6, **options)
    return {layer.name: layer.group for layer in plan.layers}


def test_residual_stream_is_one_width() -> None:
    model = Net(conv(3, 8), [small("residual", 8).blocks[0], small("residual", 8).blocks[0]],
                HEADS["pool"](8, 8))  # fmt: skip
    groups = tied(model, SHAPE)
    assert groups["blocks.0.body.1.0"] == groups["blocks.1.body.1.0"] == groups["stem.0"]
    assert len(set(groups.values())) == 4  # the stream, two hidden widths, the output's None


def test_concatenation_keeps_its_parts_apart() -> None:
    groups = tied(small("inception"), SHAPE)
    assert len(set(groups.values())) == len(groups)


def test_depthwise_layers_have_no_width_of_their_own() -> None:
    groups = tied(small("depthwise"), SHAPE)
    assert groups["blocks.0.0.0"] == groups["stem.0"] != groups["blocks.0.1.0"]


@pytest.mark.parametrize(("groups", "width"), [("keep", 4), ("scale", 6)])
def test_groups_keep_their_number_or_their_width(groups: str, width: int) -> None:
    """24 channels in 4 groups of 6: steps of 4 channels, or of a whole group of 6."""
    model = small("grouped")
    plan = precrop.plan(model, SHAPE, params=0.5, groups=groups)  # type: ignore[arg-type]
    built: Any = plan.build(model)
    layer = built.blocks[0][1][0]
    assert plan.widths["blocks.0.1.0"][1] % width == 0
    assert (layer.groups if groups == "keep" else layer.weight.shape[1]) == (
        4 if groups == "keep" else 6
    )
    check_built(model, SHAPE, plan)


def test_auxiliary_heads_shrink_with_what_feeds_them() -> None:
    body, aux = small("conv"), HEADS["pool"](24, 8)
    model = Net(body.stem, [body.blocks[0]], body.head, aux)
    plan = precrop.plan(model, SHAPE, params=0.5)
    assert plan.widths["aux.2"][0] == plan.widths["blocks.0.0"][1] < 24
    assert plan.widths["aux.2"][1] == 5
    macs = {layer.name: layer.macs for layer in plan.layers}
    assert macs["aux.2"] == 0  # it runs in training only
    check_built(model, SHAPE, plan)


def test_inputs_and_outputs_are_fixed() -> None:
    model = nn.Sequential(conv(3, 12), nn.Conv2d(12, 7, 1))
    plan = precrop.plan(model, SHAPE, params=0.5)
    assert plan.widths["0.0"][0] == 3
    assert plan.widths["1"][1] == 7
    assert plan.frozen == {}


class Two(nn.Module):
    """Two inputs by name, two outputs in a dict, one a list."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv(3, 12), nn.Linear(6, 12)
        self.heads = nn.ModuleList(nn.Linear(12, n) for n in (4, 5))

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Any]:
        x = self.image(image).mean((2, 3)) + self.vector(vector)
        return {"all": [head(x) for head in self.heads], "shape": x.shape[-1]}


def test_several_inputs_and_outputs() -> None:
    model = Two()
    shapes = {"image": (3, 8, 8), "vector": (6,)}
    plan = precrop.plan(model, shapes, params=0.5)
    width = plan.widths["image.0"][1]
    assert plan.widths["vector"] == (6, width)
    assert width < 12
    assert [plan.widths[f"heads.{i}"] for i in (0, 1)] == [(width, 4), (width, 5)]
    out = plan.build(model)(image=torch.randn(2, 3, 8, 8), vector=torch.randn(2, 6))
    assert [tuple(o.shape) for o in out["all"]] == [(2, 4), (2, 5)]
    by_position = precrop.plan(model, [(3, 8, 8), (6,)], params=0.5)
    assert by_position.widths == plan.widths


def test_networks_that_need_values_run_on_real_tensors() -> None:
    class Thresholded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.head = conv(3, 12), conv(12, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.mid(self.stem(x)).mean((2, 3))
            rows = (x.sum(1) > -1e9).nonzero().flatten()
            return self.head(x[rows])

    model = Thresholded()
    network = read_network(model, Inputs(SHAPE))
    assert network.tracer.real
    assert [group.width for group in lower(network).structure.groups] == [12, 8]
    plan = precrop.plan(model, SHAPE, params=0.5)
    built = plan.build(model)
    assert counted_params(built) == plan.params < plan.base_params // 2
    total(built(torch.randn(2, *SHAPE))).backward()


def test_reused_weights_count_once_in_params_and_twice_in_macs() -> None:
    once, twice = small("conv", 16, 16), small("reused", 16)
    first = precrop.plan(once, SHAPE, params=1.0)
    second = precrop.plan(twice, SHAPE, params=1.0)
    assert first.base_params == second.base_params
    layer = {layer.name: layer.base_macs for layer in first.layers}["blocks.0.0"]
    assert second.base_macs == first.base_macs + layer


def test_shared_parameters_are_one_tensor_still() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(3, 12)
            self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
            self.b.weight = self.a.weight
            self.head = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).mean((2, 3))
            return self.head(self.b(self.a(x)))

    model = Shared()
    plan = precrop.plan(model, SHAPE, params=0.5)
    built: Any = plan.build(model)
    assert built.a.weight is built.b.weight
    check_built(model, SHAPE, plan)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_never_built_wrong(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.rnn, self.head = (
                conv(3, 12),
                kind(12, 6, batch_first=True),
                nn.Linear(6, 5),
            )

        def forward(self, x: Tensor) -> Tensor:
            rows, _ = self.rnn(self.stem(x).flatten(2).transpose(1, 2))
            return self.head(rows.mean(1))

    model = Recurrent()
    plan = precrop.plan(model, SHAPE, params=1.0, macs=1.0)
    built = plan.build(model)
    assert counted_params(built) == plan.params
    total(built(torch.randn(2, *SHAPE))).backward()


@torch.library.custom_op("precrop_tests::roll", mutates_args=())
def own_roll(x: Tensor) -> Tensor:
    """An operation of a package, called as one of PyTorch's is."""
    return x.roll(1, 2)


@own_roll.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@precrop.op("precrop_tests::roll", linear="same")
def hold(reader: Reader, call: Call) -> list[Axes]:
    """Keeps its widths."""
    axes = reader.axes(call.inputs[0])
    reader.freeze(*axes)
    return [axes]


@pytest.mark.parametrize("own", [False, True])
def test_a_name_with_namespace_is_that_of_one_operation(own: bool) -> None:
    class Rolled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return own_roll(x) if own else x.roll(1, 2)

    model = nn.Sequential(conv(3, 16), Rolled(), conv(16, 16), nn.Flatten(), nn.Linear(16 * 64, 4))
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    assert plan.frozen == ({"0.0": "precrop_tests::roll in 1"} if own else {})
    assert precrop.densities(model, (3, 8, 8), method="synflow", params=0.5)


class Energy(nn.Module):
    """Denoises by a step along the gradient of what an inner network makes of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 24, 2, 2), nn.SiLU())
        self.rows, self.last = nn.LayerNorm(24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self.last(self.rows(self.up(self.down(2 * x)).movedim(1, -1))).movedim(-1, 1)
            (step,) = torch.autograd.grad(y, x, x - y, create_graph=True)
        return x - y - step


def test_gradients_inside_forward() -> None:
    model, shape = Energy(), (3, 8, 8)
    plan = precrop.plan(model, shape, params=0.5, macs=0.5, divisor=1)
    assert set(plan.frozen) == {"last"}
    built = plan.build(model)
    assert counted_params(built) == plan.params <= plan.base_params / 2
    total(built.train()(torch.randn(2, *shape))).backward()
    for network, macs in ((model, plan.base_macs), (built, plan.macs)):
        assert counted_macs(network.requires_grad_(False), shape) == macs
