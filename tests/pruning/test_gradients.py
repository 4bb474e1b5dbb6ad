"""SNIP and GraSP against their formulas, written out in double precision."""

import math
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from precrop.errors import PrecropError
from precrop.models import cifar_mobilenet_v2, cifar_vgg16_bn, resnet20
from precrop.pruning import gradients
from precrop.pruning.gradients import grasp, snip
from precrop.pruning.problem import Problem
from tests.networks import narrow_vgg, short_mobilenet

METHODS = [snip, grasp]
SHAPE = (3, 8, 8)
Scores = dict[str, Tensor]


def problem(model: nn.Module, data: Any, shape: Any = SHAPE, **options: Any) -> Problem:
    return Problem.of(model, shape, {"params": 0.5}, data=data, **options)


def batch(samples: int, shape: Any = SHAPE, classes: int = 5, seed: int = 0) -> Any:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, *shape, generator=random, dtype=torch.float64)
    return inputs, torch.randint(classes, (samples,), generator=random)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make().double()


def plain_snip(model: nn.Module, names: dict[str, str], inputs: Tensor, targets: Tensor) -> Scores:
    parameters = dict(model.train().named_parameters())
    weights = {layer: parameters[name] for layer, name in names.items()}
    loss = F.cross_entropy(model(inputs), targets)
    found = torch.autograd.grad(loss, list(weights.values()))
    return {n: (w * g).abs().detach() for (n, w), g in zip(weights.items(), found, strict=True)}


def plain_grasp(
    model: nn.Module, names: dict[str, str], inputs: Tensor, targets: Tensor, t: float = 200
) -> Scores:
    parameters = dict(model.train().named_parameters())
    weights = {layer: parameters[name] for layer, name in names.items()}
    leaves = list(weights.values())
    first = torch.autograd.grad(F.cross_entropy(model(inputs) / t, targets), leaves)
    loss = F.cross_entropy(model(inputs) / t, targets)
    second = torch.autograd.grad(loss, leaves, create_graph=True)
    product = sum((g.detach() * h).sum() for g, h in zip(first, second, strict=True))
    assert isinstance(product, Tensor)
    found = torch.autograd.grad(product, leaves)
    return {n: (w * h).detach() for (n, w), h in zip(weights.items(), found, strict=True)}


def flat(scores: Scores) -> Tensor:
    return torch.cat([scores[name].reshape(-1) for name in sorted(scores)])


def distance(found: Scores, expected: Scores) -> float:
    """Largest difference, relative to the largest score."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    scale = flat(expected).abs().max()
    assert scale > 0
    return float((flat(found) - flat(expected)).abs().max() / scale)


class Norms(nn.Module):
    """Nothing in it looks across samples."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.act = act or nn.ReLU()
        self.body = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.head = nn.Linear(8, 5)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.body(self.act(self.norm(self.stem(x)))))
        return out

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x).mean((2, 3)))


class Attention(Norms):
    def __init__(self) -> None:
        super().__init__(nn.Hardsigmoid())
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        tokens = self.features(x).flatten(2).mT
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(mixed.mean(1))


class Dropping(Norms):
    def forward(self, x: Tensor) -> Any:
        return self.head(F.dropout(self.features(x), 0.5, self.training).mean((2, 3)))


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        )


# --- the formulas


def without_dropout() -> nn.Module:
    model: Any = short_mobilenet()
    model.classifier[0] = nn.Identity()  # the formula has no random numbers
    return model


@pytest.mark.parametrize(
    "make",
    [
        resnet20,
        narrow_vgg,
        without_dropout,
        pytest.param(cifar_vgg16_bn, marks=pytest.mark.matrix),
        pytest.param(cifar_mobilenet_v2, marks=pytest.mark.matrix),
    ],
)
@pytest.mark.parametrize(
    ("method", "plain"), [(snip, plain_snip), (grasp, plain_grasp)], ids=["snip", "grasp"]
)
def test_scores_and_ranking_are_those_of_the_formula(make: Any, method: Any, plain: Any) -> None:
    model = seeded(make)
    inputs, targets = batch(4, (3, 32, 32), 10)
    given = problem(model, [(inputs, targets)], (3, 32, 32))
    found = method(given)
    expected = plain(model, dict(given.parameters), inputs, targets)
    assert list(found) == list(given.parameters)
    assert distance(found, expected) < 1e-9
    assert flat(found)[flat(expected).argsort()].diff().min() >= 0


class OwnNorm(nn.Module):
    """A batch norm without PyTorch's module, for two axes and more."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, channels))
        self.register_buffer("var", torch.linspace(0.5, 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.get_buffer("mean"), self.get_buffer("var")
        return F.batch_norm(x, mean, var, training=self.training)


class StoredNorms(nn.Sequential):
    """Norms with statistics of their own, one without any, and dropout, which stays random."""

    def __init__(self) -> None:
        norm = nn.BatchNorm2d(4)
        nn.init.uniform_(norm.get_buffer("running_mean"))
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2)
        super().__init__(
            nn.Conv2d(3, 4, 3), norm, nn.Tanh(), nn.Conv2d(4, 6, 3), OwnNorm(6),
            nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(96, 5),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "plain"), [(snip, plain_snip), (grasp, plain_grasp)], ids=["snip", "grasp"]
)
def test_stored_statistics(method: Any, plain: Any) -> None:
    model = seeded(StoredNorms)
    inputs, targets = batch(6)
    given = problem(model, [(inputs, targets)], seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = method(given, batch_norm="stored")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert distance(found, method(given, batch_norm="batch")) > 0.01
    assert distance(method(given), method(given, batch_norm="batch")) == 0

    class Fixed(nn.Module):
        """The same, with stored statistics written out and the random numbers of the seed."""

        def forward(self, x: Tensor) -> Tensor:
            torch.manual_seed(3)
            for layer in model.children():
                if isinstance(layer, nn.BatchNorm2d | OwnNorm):
                    layer.eval()
                x = layer(x)
            return x

    fixed = Fixed()
    fixed.model = model
    names = {layer: f"model.{name}" for layer, name in given.parameters.items()}
    assert distance(found, plain(fixed.train(), names, inputs, targets)) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_stored_statistics_know_no_parts_of_a_batch(method: Any) -> None:
    model = seeded(Normed)
    given = problem(model, [batch(7)])
    whole = method(given, batch_norm="stored")
    assert distance(method(given, batch_norm="stored", micro_batch=1), whole) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_batch_norm(method: Any) -> None:
    with pytest.raises(PrecropError, match="batch_norm='eval' is unknown: write 'batch' or"):
        method(problem(seeded(Normed), [batch(4)]), batch_norm="eval")


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_is_close_to_double(method: Any) -> None:
    model = seeded(resnet20)
    data = [batch(8, (3, 32, 32), 10)]
    expected = method(problem(model, data, (3, 32, 32)))
    found = method(problem(model.float(), data, (3, 32, 32)))  # inputs stay in double precision
    assert all(scores.dtype == torch.float32 for scores in found.values())
    assert distance({name: scores.double() for name, scores in found.items()}, expected) < 1e-3


@pytest.mark.parametrize("temperature", [1.0, 200])
def test_grasp_is_the_explicit_hessian_times_the_gradient(temperature: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    inputs, targets = batch(6, (3, 4, 4), 3)
    names = ["0.weight", "4.weight"]
    sizes = [parameter.numel() for name, parameter in model.named_parameters() if name in names]
    vector = torch.cat([model.get_parameter(name).detach().reshape(-1) for name in names])

    def loss(weights: Tensor) -> Tensor:
        parts = zip(names, weights.split(sizes), strict=True)
        new = {name: part.view_as(model.get_parameter(name)) for name, part in parts}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        logits = torch.func.functional_call(model, {**new, **buffers}, (inputs,))
        return F.cross_entropy(logits / temperature, targets)

    hessian = torch.autograd.functional.hessian(loss, vector)
    gradient = torch.autograd.functional.jacobian(loss, vector)
    expected = vector * (hessian @ gradient)
    data = [(inputs, targets)]
    found = flat(grasp(problem(model, data, (3, 4, 4)), temperature=temperature))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_grasp_where_pytorch_has_no_second_derivative() -> None:
    model = seeded(Attention)
    inputs, targets = batch(4)
    given = problem(model, [(inputs, targets)])
    weights = {n: model.get_parameter(name) for n, name in given.parameters.items()}

    def gradient() -> list[Tensor]:
        loss = F.cross_entropy(model(inputs) / 2, targets)
        return list(torch.autograd.grad(loss, list(weights.values())))

    def move(step: float) -> None:
        with torch.no_grad():
            for weight, way in zip(weights.values(), direction, strict=True):
                weight.add_(way, alpha=step)

    direction = gradient()
    move(1e-4)
    above = gradient()
    move(-2e-4)
    below = gradient()
    move(1e-4)
    slopes = [(up - down) / 2e-4 for up, down in zip(above, below, strict=True)]
    pairs = zip(weights.items(), slopes, strict=True)
    expected = {name: (weight * slope).detach() for (name, weight), slope in pairs}
    assert distance(grasp(given, temperature=2.0), expected) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_may_be_targets(method: Any) -> None:
    model = seeded(Norms)
    inputs, targets = batch(4)
    soft = F.one_hot(targets, 5).double()
    expected = method(problem(model, [(inputs, targets.int())]))
    assert distance(method(problem(model, [(inputs, soft.float())])), expected) < 1e-12


class Pixels(Norms):
    def forward(self, x: Tensor) -> Any:
        return {"out": self.head(self.features(x).mT.transpose(1, 3)).transpose(1, 3), "aux": None}


def test_every_pixel_may_have_a_class() -> None:
    model = seeded(Pixels)
    inputs, _ = batch(4)
    targets = torch.randint(5, (4, 3, 3), generator=torch.Generator().manual_seed(0))
    given = problem(model, [(inputs, targets)])
    expected = F.cross_entropy(model(inputs)["out"], targets)
    slope = torch.autograd.grad(expected, model.get_parameter("head.weight"))[0]
    found = snip(given, micro_batch=1)["head"]
    torch.testing.assert_close(found, (slope * model.get_parameter("head.weight")).abs().detach())


# --- batches and their parts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6, 7, 100])
def test_cutting_batches_changes_nothing_without_batch_norm(method: Any, micro_batch: int) -> None:
    given = problem(seeded(Norms), [batch(7)])
    assert distance(method(given, micro_batch=micro_batch), method(given)) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_every_sample_counts_alike_whatever_batch_it_is_in(method: Any) -> None:
    model = seeded(Norms)
    inputs, targets = batch(7)
    data = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    whole = method(problem(model, [(inputs, targets)]))
    assert distance(method(problem(model, data)), whole) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_data_may_be_a_list_a_generator_or_a_loader(method: Any) -> None:
    model = seeded(Normed)
    inputs, targets = batch(8)
    pairs = list(zip(inputs.split(3), targets.split(3), strict=True))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=3)
    expected = method(problem(model, pairs))
    for data in ((pair for pair in pairs), loader, iter(loader), map(list, pairs)):
        found = method(problem(model, data))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


SEEN: list[int] = []
NEEDED: set[str] = set()


class Watched(Norms):
    def forward(self, x: Tensor) -> Any:
        SEEN.append(len(x))
        NEEDED.update(name for name, weight in self.named_parameters() if weight.requires_grad)
        return super().forward(x)


@pytest.mark.parametrize(
    ("micro_batch", "parts"), [(3, [3, 2, 2]), (4, [4, 3]), (6, [4, 3]), (7, [7]), (None, [7])]
)
def test_parts_are_few_and_as_equal_as_possible(micro_batch: int | None, parts: list[int]) -> None:
    given = problem(Watched(), [batch(7)])
    SEEN.clear()
    snip(given, micro_batch=micro_batch)
    assert parts == SEEN
    SEEN.clear()
    grasp(given, micro_batch=micro_batch)
    assert parts * 2 == SEEN


def test_parts_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(Watched(), [batch(8)])
    outputs = 6 * 8 * 8 + 8 * 3 * 3 + 5
    SEEN.clear()
    monkeypatch.setattr(gradients, "SNIP_AT_ONCE", 4 * outputs)
    snip(given)
    assert SEEN == [4, 4]
    SEEN.clear()
    monkeypatch.setattr(gradients, "GRASP_AT_ONCE", 1)
    grasp(given)
    assert SEEN == [2] * 8  # some batch norms cannot do with one


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_the_weights_needs_gradients(method: Any) -> None:
    given = problem(Watched().requires_grad_(False), [batch(4)])
    NEEDED.clear()
    method(given)
    assert {"stem.weight", "body.weight", "head.weight"} == NEEDED


def test_progress_is_shown_for_every_loop() -> None:
    seen: list[tuple[str, int | None, int]] = []

    def watch(items: Iterable[Any], title: str, total: int | None) -> Iterator[Any]:
        done = 0
        for item in items:
            yield item
            done += 1
        seen.append((title, total, done))

    data = [batch(4), batch(3)]
    snip(problem(Norms(), data, progress=watch))
    snip(problem(Norms(), iter(data), progress=watch), micro_batch=2)
    grasp(problem(Norms(), iter(data), progress=watch), micro_batch=2)
    assert [(total, done) for _, total, done in seen] == [(2, 2), (2, 2), (4, 4), (4, 4)]
    snip(problem(Norms(), (pair for pair in data), progress=watch))
    assert seen[-1][1:] == (None, 2)


# --- the network is only looked at


def state(model: nn.Module) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        [tensor.detach().clone() for tensor in tensors],
        [tensor.grad for tensor in tensors],
        [tensor.requires_grad for tensor in tensors],
        [tensor._version for tensor in tensors],
        [module.training for module in model.modules()],
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_network_data_and_random_numbers_stay_as_they_are(method: Any, training: bool) -> None:
    model = seeded(Normed).train(training)
    model.get_submodule("0").eval()
    model.get_parameter("4.weight").requires_grad_(False)
    weight = model.get_parameter("0.weight")
    weight.grad = torch.ones_like(weight)
    inputs, targets = batch(8)
    inputs.requires_grad_()
    loader = DataLoader(TensorDataset(inputs.detach(), targets), batch_size=4, shuffle=True)
    before, random = state(model), torch.get_rng_state()
    for data in ([(inputs, targets)], loader):
        found = method(problem(model, data))
        assert found.keys() == {"0"}, "a layer that is not trained is not prunable"
        assert not any(scores.requires_grad for scores in found.values())
    after = state(model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert [id(grad) for grad in before[1]] == [id(grad) for grad in after[1]]
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert before[2:] == after[2:]
    assert inputs.grad is None
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("method", METHODS)
def test_random_choices_depend_on_the_seed_alone(method: Any) -> None:
    model, data = seeded(Dropping), [batch(6)]
    first = method(problem(model, data, seed=3))
    torch.rand(7)
    again, other = method(problem(model, data, seed=3)), method(problem(model, data, seed=4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head"], other["head"])


def test_both_passes_of_grasp_drop_the_same() -> None:
    model = seeded(Dropping)
    inputs, targets = batch(6)
    given = problem(model, [(inputs, targets)], seed=3)

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Any:
            with torch.random.fork_rng([]):
                torch.manual_seed(3)
                return self.inner(x)

    expected = plain_grasp(Same(), {n: f"inner.{n}.weight" for n in given.layers}, inputs, targets)
    assert distance(grasp(given), expected) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_computed_whatever_mode_the_caller_is_in(method: Any, mode: Any) -> None:
    given = problem(seeded(Normed), [batch(4)])
    expected = method(given)
    with mode():
        found = method(given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_runs(method: Any) -> None:
    found = method(problem(seeded(Norms).bfloat16(), [batch(4)]))
    assert all(scores.dtype == torch.bfloat16 for scores in found.values())
    assert all(scores.isfinite().all() for scores in found.values())


# --- outputs and inputs of other kinds

Outputs = namedtuple("Outputs", ["aux", "logits"])


class Auxiliary(Norms):
    """Has a second head in train mode."""

    def __init__(self, pack: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        pooled = self.features(x).mean((2, 3))
        out = self.head(pooled)
        return self.pack(out, self.aux(pooled)) if self.training else out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "pack",
    [
        lambda main, aux: (main, aux),
        lambda main, aux: [main, aux],
        lambda main, aux: Outputs(aux, main),
        lambda main, aux: SimpleNamespace(aux=aux, logits=main),
        lambda main, aux: {"aux": aux, "logits": main},
        lambda main, aux: {"aux": aux, "out": main},
        lambda main, aux: {"main": main, "other": aux},
    ],
)
def test_the_main_logits_count_and_auxiliary_heads_score_zeros(method: Any, pack: Any) -> None:
    torch.manual_seed(0)
    model, data = Auxiliary(pack).double(), [batch(4)]
    alone = Norms().double()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if "aux" not in k})
    found, expected = method(problem(model, data)), method(problem(alone, data))
    assert not found.pop("aux").any()
    assert distance(found, expected) < 1e-12


class Two(Norms):
    def forward(self, x: Tensor, scale: Tensor) -> Any:  # type: ignore[override]
        return self.head((self.features(x) * scale[:, :, None, None]).mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_several_inputs_are_given_by_position_or_by_name(method: Any) -> None:
    model = seeded(Two)
    (x, targets), (scale, _) = batch(5), batch(5, (1,), seed=1)
    shapes = [SHAPE, (1,)]
    first = method(problem(model, [((x, scale), targets)], shapes))
    named = problem(model, [({"scale": scale, "x": x}, targets)], shapes)
    assert distance(method(named, micro_batch=2), first) < 1e-9


# --- errors


class Odd(Norms):
    """Puts out what it is told to in train mode."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return self.change(out) if self.training else out


INPUTS, TARGETS = batch(4)
BAD_DATA = {
    "needs data": None,
    "no batches": [],
    "an object of type int: give an iterable": 3,
    "batch 1 .* is a float64 tensor of shape \\(3, 8, 8\\), not a pair": INPUTS,
    "batch 2 .* is a dict of 1, not a pair": [(INPUTS, TARGETS), {"image": INPUTS}],
    "is a list of 1, not a pair": [[INPUTS]],
    "holds an object of type int: inputs and targets": [(INPUTS, 3)],
    "holds an object of type str": [("image", TARGETS)],
    "holds a int64 tensor of shape \\(\\)": [(INPUTS, TARGETS[0])],
    "batch 2 .* has inputs and targets of 4 and 3 samples": [
        (INPUTS, TARGETS),
        (INPUTS, TARGETS[:3]),
    ],
    "batch 1 .* has inputs and targets of 4 and 3 and 4 samples": [((INPUTS, INPUTS[:3]), TARGETS)],
    "batch 1 .* has no samples": [(INPUTS[:0], TARGETS[:0])],
    "batch 1 .* holds a tensor without values \\(device 'meta'\\)": [(INPUTS.to("meta"), TARGETS)],
    "batch 2 .* holds a tensor without values": [(INPUTS, TARGETS), (INPUTS, TARGETS.to("meta"))],
    "class 5: for 5 logits they must be from 0 to 4": [(INPUTS, TARGETS * 0 + 5)],
    "class -1: for 5": [(INPUTS, TARGETS * 0 - 1)],
    "int64 tensor of shape \\(4, 1\\) for logits of shape \\(4, 5\\)": [(INPUTS, TARGETS[:, None])],
    "float32 tensor of shape \\(4,\\) for logits": [(INPUTS, TARGETS.float())],
    "fails in train mode on batch 1": [(INPUTS[:, :2], TARGETS)],
    "loss is nan on batch 2": [(INPUTS, TARGETS), (INPUTS * math.nan, TARGETS)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("message", BAD_DATA)
def test_wrong_data_is_told(method: Any, message: str) -> None:
    with pytest.raises(PrecropError, match=message) as told:
        method(problem(seeded(Norms), BAD_DATA[message]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out * math.inf, "loss is nan"),
        (lambda out: F.one_hot(out.argmax(1), 5) * -math.inf + 1e308, "loss is (nan|inf)"),
        (lambda out: out.detach(), "no prunable weight has a gradient"),
        (lambda out: out.sum(1), "puts out a float64 tensor of shape \\(4,\\)"),
        (lambda out: out.long(), "puts out a int64 tensor"),
        (lambda out: (), "puts out a tuple of 0"),
        (lambda out: {"logits": None}, "puts out a dict of 1"),
        (lambda out: 1.0, "puts out an object of type float"),
    ],
)
def test_wrong_outputs_are_told(method: Any, change: Any, message: str) -> None:
    with pytest.raises(PrecropError, match=message) as told:
        method(problem(Odd(change).double(), [batch(4)]))
    assert "\n" not in str(told.value)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_a_network_without_second_derivatives_is_told() -> None:
    given = problem(Odd(lambda out: Once.apply(out)).double(), [batch(4)])
    assert snip(given)["head"].any()
    with pytest.raises(PrecropError, match="cannot be differentiated twice, as grasp must"):
        grasp(given)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_derivatives_is_told(method: Any) -> None:
    with pytest.raises(PrecropError, match="cannot be differentiated.*floor_divide") as told:
        method(problem(Odd(lambda out: out // 0.5).double(), [batch(4)]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_values_is_told(method: Any) -> None:
    with pytest.raises(PrecropError, match="device 'meta'"):
        method(problem(Norms().to("meta"), [batch(4)]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_batch", [0, -1, 2.0, "8", True])
def test_senseless_parts_are_told(method: Any, micro_batch: Any) -> None:
    with pytest.raises(PrecropError, match="micro_batch=.* makes no sense"):
        method(problem(Norms(), [batch(4)]), micro_batch=micro_batch)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, True, "hot", None])
def test_senseless_temperatures_are_told(temperature: Any) -> None:
    with pytest.raises(PrecropError, match="temperature=.* makes no sense"):
        grasp(problem(Norms(), [batch(4)]), temperature=temperature)
