"""Which channels are kept of a trained network, and that nothing else of it changes."""

import warnings
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precrop
from precrop.errors import PrecropError
from precrop.trained.channels import NORMS, Norm, choose, kept_first
from tests.networks import BLOCKS, SHAPE, assemble, conv, small
from tests.trained.oracle import difference, identity_kept, trained
from tests.versions import needs_torch

OPTIONS: dict[str, Any] = {"params": 0.5, "rule": "uniform", "divisor": 1}
NORMALISED = ("group norm", "layer norm", "scaled", "standardised", "scaled standardised")
"""Channels that are dropped have a part in a mean or a variance over channels."""

PRODUCTS = ("attention", "torch attention", "non-local")
"""Channels are summed over without a layer, and heads of attention have a place of their own."""

FUNCTIONAL = ("matrix conv",)
"""The weight belongs to no module whose input the oracle could blind."""

UNPROVED = ("shuffle unit", "group shuffle", "subpixel", "efficient gate", "branching")
"""A width of theirs has channels whose place matters, or whose way depends on values."""

TOLERANCE = 1e-9


@pytest.mark.parametrize(
    "block",
    [name for name in BLOCKS if name not in (*NORMALISED, *PRODUCTS, *FUNCTIONAL, *UNPROVED)],
)
def test_the_built_network_is_the_original_blind_to_what_was_dropped(block: str) -> None:
    model = trained(small(block, 12, 16, head="flatten"))
    plan = identity_kept(model, SHAPE, **OPTIONS)
    assert difference(model, plan) < TOLERANCE


NOISE = needs_torch("2.11", "fewer channels are found to keep their identity")


@pytest.mark.parametrize(
    "block", [pytest.param(one, marks=NOISE if one == "branching" else ()) for one in UNPROVED]
)
def test_channels_without_identity_are_named_and_sliced(block: str) -> None:
    model = trained(small(block, 16, 24))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    with pytest.warns(precrop.SlicedChannelsWarning, match="keep their leading channels: ") as seen:
        plan.build(model, "l2")
    assert all(name in str(seen[0].message) for name in choose(plan, model, "l2").sliced)
    if block != "efficient gate":  # there is no other width
        assert difference(model, identity_kept(model, SHAPE, "l2", **OPTIONS), "l2") < TOLERANCE


@pytest.mark.parametrize("norm", NORMS)
def test_the_norms_agree_with_sums_by_hand(norm: Norm) -> None:
    """A stream that two layers make: the stem and the second convolution of the block."""
    model = trained(small("residual", 12))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    kept = choose(plan, model, norm)
    named = dict(model.named_parameters())
    made = [layer.weight for layer in plan.layers if layer.group == plan.layers[0].group]
    assert len(made) == 2
    filters = [named[name].detach().flatten(1) for name in made]
    scales = [named[name.replace(".0.weight", ".1.weight")].detach() for name in made]
    assert all(scale.shape == (12,) for scale in scales)
    scores = {
        "l1": sum(w.abs().sum(1) for w in filters),
        "l2": sum((w**2).sum(1).sqrt() for w in filters),
        "bn": sum(scale.abs() for scale in scales),
    }[norm]
    assert isinstance(scores, Tensor)
    width = plan.layers[0].out_channels
    best = sorted(scores.argsort(descending=True)[:width].tolist())
    assert best != list(range(width))
    built, before = plan.build(model, norm).state_dict(), model.state_dict()
    for name in ("stem.0.weight", "stem.1.weight", "stem.1.running_mean", "stem.1.running_var"):
        assert torch.equal(built[name], before[name][best])
    assert not kept.sliced


@pytest.mark.parametrize("kept", [2, 4])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_best_of_every_block_are_kept(kept: int, blocks: int) -> None:
    scores = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
    order = kept_first(scores, kept, blocks)
    assert sorted(order.tolist()) == list(range(6))
    allowed = [
        found
        for found in combinations(range(6), kept)
        if blocks == 1 or sum(channel < 3 for channel in found) == kept // 2
    ]
    best = max(allowed, key=lambda found: float(scores[list(found)].sum()))
    assert order[:kept].tolist() == list(best)


@pytest.mark.parametrize("block", ["group norm", "layer norm"])
def test_norms_over_channels_have_one_choice_with_their_neighbours(block: str) -> None:
    model = trained(small(block, 12, 16))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    kept = choose(plan, model, "l1")
    assert not kept.sliced
    built = plan.build(model, "l1").state_dict()
    before = model.state_dict()
    for name in ("blocks.0.conv.weight", "blocks.0.norm.weight", "head.2.weight"):
        assert name in before
        assert name in built
    rows = [before["blocks.0.norm.weight"].tolist().index(x) for x in built["blocks.0.norm.weight"]]
    assert torch.equal(built["head.2.weight"], before["head.2.weight"][:, rows])


def test_a_head_that_only_training_runs_is_chosen_with_the_others() -> None:
    model = trained(assemble([("conv", 12)], stem=8, aux=True))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    assert not choose(plan, model, "l1").sliced
    built, before = plan.build(model, "l1").state_dict(), model.state_dict()
    read = before["head.2.weight"][0].tolist()
    rows = [read.index(value) for value in built["head.2.weight"][0].tolist()]
    assert torch.equal(built["aux.2.weight"], before["aux.2.weight"][:, rows])


def test_zero_weights_do_not_hide_that_channels_are_shuffled() -> None:
    model = small("shuffle unit", 16, 24)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    assert choose(plan, model, "l1").sliced


def test_weight_norm_keeps_the_weights() -> None:
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    with torch.no_grad():
        first.parametrizations.weight.original0.copy_(torch.rand(8, 1, 1, 1))
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 4, 3)).double().eval()
    plan = precrop.plan(model, (3, 6, 6), **OPTIONS)
    assert difference(model, plan, "l2") < TOLERANCE


class Equalised(nn.Conv2d):
    """Its weight is multiplied by the root of its fan-in whenever it runs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.scale = (9 * inputs) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.scale, self.bias)


def test_a_root_of_the_fan_in_that_forward_multiplies_by_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Equalised(3, 16), nn.ReLU(), Equalised(16, 4)).double().eval()
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    assert any(name == "scale" for _, name, _ in plan.attributes)
    assert difference(model, plan) < TOLERANCE


def test_the_original_and_the_random_numbers_stay() -> None:
    model = small("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    numbers = torch.get_rng_state()
    first, second = plan.build(model, "l1"), plan.build(model, "l1")
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert model.training


def test_all_channels_are_all_channels() -> None:
    model = small("residual")
    built = precrop.plan(model, SHAPE, params=1.0).build(model, "bn").state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plan_from_a_file_keeps_the_same_channels() -> None:
    model = small("inception")
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    again = precrop.Plan.from_json(plan.to_json())
    first, second = plan.build(model, "l2").state_dict(), again.build(model, "l2").state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_no_norm_warns_where_all_is_proved() -> None:
    model = small("dense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precrop.crop(model, SHAPE, init="l1", **OPTIONS)


def test_a_network_without_weights_says_so() -> None:
    with torch.device("meta"):
        model = nn.Sequential(conv(3, 8), conv(8, 4))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    with pytest.raises(PrecropError, match="init='l1' looks at weights: a network on the meta"):
        plan.build(model, "l1")


class Picking(nn.Module):
    """As a detector: what is looked at further is picked by values, and there may be nothing."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.body, self.head = conv(3, 12), nn.Conv2d(12, 2, 1)
        self.further, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        places = self.head(y)[:, 0].flatten() > self.threshold
        picked = y.permute(0, 2, 3, 1).flatten(0, 2)[places.nonzero()[:, 0]]
        out: Tensor = self.last(F.relu(self.further(picked)))
        return out


@pytest.mark.parametrize(("threshold", "sliced"), [(-1e9, []), (1e9, ["body.0", "further"])])
def test_what_only_nothing_passes_through_is_not_proved(
    threshold: float, sliced: list[str]
) -> None:
    torch.manual_seed(0)
    model = trained(Picking(threshold))
    plan = precrop.plan(model, SHAPE, **OPTIONS)
    assert plan.widths["further"][1] < 8
    assert list(choose(plan, model, "l1").sliced) == sliced


def test_streams_with_widths_of_their_own_are_sliced_and_hidden_widths_chosen() -> None:
    model = trained(small("residual", 12))
    plan = precrop.plan(model, SHAPE, residual="crop", **OPTIONS)
    kept = choose(plan, model, "l1")
    assert plan.streams
    assert "blocks.0.body.0.0" in kept.chosen
    assert "stem.0" in kept.sliced
    with pytest.warns(precrop.SlicedChannelsWarning):
        small_model = plan.build(model, "l1")
    assert small_model(torch.ones(2, *SHAPE, dtype=torch.float64)).shape == (2, 5)
