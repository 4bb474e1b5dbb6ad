"""Whatever is set around a call changes no answer, and nothing is set afterwards."""

import gc
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as modules
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.models import resnet20
from tests.networks import SHAPE, small


class Depth(nn.Module):
    """Leaves out layers at random while it trains, by one of three generators."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            if not self.training or self.draw() > 0.5:
                x = x + layer(x).relu()
        return self.head(x.mean((2, 3)))


class Made(nn.Module):
    """Makes tensors in forward, of the default type and on the default device."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-1]) / x.shape[-1] + torch.zeros(x.shape[-1])
        x = self.second(self.first(x + places.to(x.device)).relu())
        return self.head((x * torch.tensor(0.5, device=x.device)).mean((2, 3)))


pytestmark = pytest.mark.filterwarnings("ignore::precrop.LayerCollapseWarning")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: small("conv"),
    "attention": lambda: small("torch attention"),
    "made": Made,
    "random depth": lambda: Depth(lambda: float(torch.rand(()))),
}


def answers(model: nn.Module) -> dict[str, Any]:
    """Everything that is promised to be the same, to the bit."""
    plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6)
    inputs = torch.ones(4, *SHAPE, device="cpu")
    batch = (inputs, torch.arange(4, device="cpu") % 3)
    densities = precrop.densities(model, SHAPE, method="snip", params=0.5, data=[batch])
    masks = precrop.masks(model, densities, seed=3)
    built = plan.build(model)
    assert all(p.device.type == "cpu" and not p.is_inference() for p in built.parameters())
    return {
        "widths": plan.widths,
        "costs": (plan.params, plan.macs, plan.base_params, plan.base_macs),
        "shapes": [(name, tuple(p.shape), p.dtype) for name, p in built.named_parameters()],
        "weights": [float(p.detach().double().sum()) for p in built.parameters()],
        "densities": densities,
        "masks": {name: mask.nonzero().tolist() for name, mask in masks.items()},
        "synexp": _synexp(model),
    }


def _synexp(model: nn.Module) -> float | None:
    with suppress(precrop.PrecropError):
        return precrop.synexp(model, SHAPE)
    return None


@contextmanager
def _set(name: str, value: Any, now: Callable[[], Any]) -> Iterator[None]:
    before = now()
    setter = getattr(torch, name)
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextmanager
def _device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


class Other(torch.overrides.TorchFunctionMode):
    """Somebody's mode, which counts what it sees."""

    seen = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        Other.seen += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def _mkldnn(enabled: bool) -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(enabled)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def _fast_path(enabled: bool) -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


MKLDNN: Any = torch.backends.mkldnn


@contextmanager
def _rounded(one: Any) -> Iterator[None]:
    """Let PyTorch round what it multiplies, by one of its newer settings."""
    before = one.fp32_precision
    one.fp32_precision = "bf16"
    try:
        yield
    finally:
        one.fp32_precision = before


def _no_saving(tensor: Tensor) -> Tensor:
    raise AssertionError("a hook of saved tensors is called")


@contextmanager
def _gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


AROUND: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "double": lambda: _set("set_default_dtype", torch.float64, torch.get_default_dtype),
    "half": lambda: _set("set_default_dtype", torch.bfloat16, torch.get_default_dtype),
    "meta": lambda: _device("meta"),
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: _set(
        "use_deterministic_algorithms", True, torch.are_deterministic_algorithms_enabled
    ),
    "function mode": Other,
    "counter": lambda: FlopCounterMode(display=False),
    "no mkldnn": lambda: _mkldnn(False),
    "no fast path": lambda: _fast_path(False),
    "gc": lambda: _gc(),
    "medium": lambda: _set(
        "set_float32_matmul_precision", "medium", torch.get_float32_matmul_precision
    ),
    "rounded products": lambda: _rounded(MKLDNN.matmul),
    "rounded convolutions": lambda: _rounded(MKLDNN.conv),
    "all rounded": lambda: _rounded(torch.backends),
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(_no_saving, _no_saving),
    "none saved": lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
}


ROUNDED = ("matmul", "conv", "rnn")


def state() -> dict[str, Any]:
    """What belongs to the process or the thread, as it can be seen from outside."""
    return {
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "defaults": (torch.get_default_dtype(), torch.empty(0).device),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "modes": torch._C._len_torch_function_stack(),
        "backends": (
            torch.backends.mha.get_fastpath_enabled(),
            torch._C._get_mkldnn_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
        ),
        "precision": [
            *(one.fp32_precision for one in (torch.backends, torch.backends.mkldnn)),
            *(getattr(MKLDNN, name).fp32_precision for name in ROUNDED),
            *(getattr(torch.backends.cudnn, name).fp32_precision for name in ROUNDED[1:]),
            torch.backends.cuda.matmul.fp32_precision,
        ],
        "saved": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "unsaved": torch._C._autograd._saved_tensors_hooks_get_disabled_error_message(),
        "threads": torch.get_num_threads(),
        "gc": gc.isenabled(),
        "hooks": [
            dict(getattr(modules, name))
            for name in vars(modules)
            if name.startswith("_global_") and isinstance(getattr(modules, name), dict)
        ],
        "filters": list(warnings.filters),
        "attention": torch.nn.functional.scaled_dot_product_attention,
    }


def contents(model: nn.Module) -> dict[str, Any]:
    """A network's tensors and attributes, bit for bit."""
    tensors = {name: (id(t), t.tolist()) for name, t in model.state_dict(keep_vars=True).items()}
    vars_ = {
        name: {key: repr(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }
    return {"tensors": tensors, "attributes": vars_}


def found(network: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[network]()


WANTED: dict[str, Any] = {}


def wanted(network: str) -> Any:
    """The answers with nothing around."""
    if network not in WANTED:
        WANTED[network] = answers(found(network))
    return WANTED[network]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("network", NETWORKS)
def test_answers_are_the_same_and_nothing_is_left(network: str, around: str) -> None:
    expected, model = wanted(network), found(network)
    with ExitStack() as stack:
        entered = stack.enter_context(AROUND[around]())
        before, original = state(), contents(model)
        Other.seen = 0
        given = answers(model)
        seen = Other.seen
        assert state() == before
        assert contents(model) == original
        if around == "counter":
            assert entered.get_total_flops() == 0
        assert seen < 200  # what this test itself calls
    assert given == expected


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_was_made_in_inference_mode(network: str) -> None:
    with torch.inference_mode():
        model = found(network)
    assert answers(model) == wanted(network)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_without_memory_of_its_own(network: str) -> None:
    """What `torch.compile` and tools for large networks use: tensors that only know shapes."""
    with FakeTensorMode():
        model = found(network)
        plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6)
        built = plan.build(model)
        assert all(isinstance(p, FakeTensor) for p in built.parameters())
        assert precrop.count(model, SHAPE).params == plan.base_params
    expected = wanted(network)
    assert plan.widths == expected["widths"]
    shapes = [(name, tuple(p.shape), p.dtype) for name, p in built.named_parameters()]
    assert shapes == expected["shapes"]


@pytest.mark.parametrize("training", [False, True])
def test_an_error_in_the_middle_leaves_nothing_either(training: bool) -> None:
    class Fails(Made):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            if self.training == training:
                raise RuntimeError("no luck")
            return super().forward(x)

    model = Fails()
    before, original = state(), contents(model)
    batch = (torch.ones(4, *SHAPE), torch.arange(4) % 3)
    for ask in (
        lambda: precrop.plan(model, SHAPE, params=0.5),
        lambda: precrop.densities(model, SHAPE, method="snip", params=0.5, data=[batch]),
        lambda: precrop.plan(model, SHAPE, params=1e-9),
    ):
        with suppress(precrop.PrecropError):
            ask()
        assert state() == before
        assert contents(model) == original


WITHIN: dict[str, Callable[[Any], Any]] = {
    "vmap": lambda ask: torch.func.vmap(ask)(torch.ones(2, 3)),
    "grad": lambda ask: torch.func.grad(lambda x: ask(x).sum())(torch.ones(3)),
    "jvp": lambda ask: torch.func.jvp(ask, (torch.ones(3),), (torch.ones(3),))[1],
    "functionalize": lambda ask: torch.func.functionalize(ask)(torch.ones(3)),
    "vmap of grad": lambda ask: torch.func.vmap(torch.func.grad(lambda x: ask(x).sum()))(
        torch.ones(2, 3)
    ),
    "make_fx": lambda ask: make_fx(ask)(torch.ones(3))(torch.ones(3)),
    "jit": lambda ask: torch.jit.trace(ask, (torch.ones(3),), check_trace=False)(torch.ones(3)),
    "compile": lambda ask: torch.compile(ask, backend="eager")(torch.ones(3)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("within", WITHIN)
def test_within_what_follows_or_compiles_operations(within: str) -> None:
    """Of what is asked there nothing is followed, and nothing compiled."""
    model = found("plain")
    batch = (torch.ones(4, *SHAPE), torch.arange(4) % 3)
    answered: list[Any] = []

    def answer() -> Any:
        plan = precrop.plan(model, SHAPE, params=0.5, macs=0.6)
        masks = precrop.masks(model, precrop.densities(model, SHAPE, params=0.5), seed=3)
        snip = precrop.densities(model, SHAPE, method="snip", params=0.5, data=[batch])
        exact = precrop.plan(precrop.Reading(model, SHAPE), params=0.5, objective="exact")
        synexp, count = _synexp(model), precrop.count(model, SHAPE)
        numbers = plan.widths, exact.widths, plan.params, count.params, synexp, snip
        return numbers, masks, precrop.crop(model, SHAPE, params=0.5)

    def ask(x: Tensor) -> Tensor:
        y = x + 1
        answered.append(answer())
        return y * 2

    expected = answer()
    before = torch._C._functorch.peek_interpreter_stack(), torch._C._get_tracing_state()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="torch._dynamo")
        for theirs in (
            "Dynamo does not know how to trace",
            "Guards may run slower on Python 3.13.0",
        ):
            warnings.filterwarnings("ignore", theirs)
        result = WITHIN[within](ask)
    assert torch.equal(result, torch.full_like(result, 2 if _is_slope(within) else 4))
    (numbers, masks, built), *_ = answered
    assert numbers == expected[0]
    assert all(torch.equal(masks[name], mask) for name, mask in expected[1].items())
    pairs = zip(built.parameters(), expected[2].parameters(), strict=True)
    assert all(type(one) is nn.Parameter and torch.equal(one, other) for one, other in pairs)
    assert built(batch[0]).shape == expected[2](batch[0]).shape
    assert before == (torch._C._functorch.peek_interpreter_stack(), torch._C._get_tracing_state())


def _is_slope(within: str) -> bool:
    return within in ("grad", "jvp", "vmap of grad")


def test_masks_are_the_same_however_products_are_rounded() -> None:
    torch.manual_seed(0)
    model = resnet20()
    wanted = precrop.densities(model, (3, 32, 32), method="synflow", params=0.2)
    for around in ("medium", "rounded products"):
        with AROUND[around]():
            assert precrop.densities(model, (3, 32, 32), method="synflow", params=0.2) == wanted


DRAWS: dict[str, Callable[[], float]] = {
    "torch": lambda: float(torch.rand(())),
    "python": lambda: random.random(),
    "python function": random.random,
    "numpy": lambda: float(np.random.rand()),  # noqa: NPY002
    "numpy function": np.random.random,
}


@pytest.mark.parametrize("draw", DRAWS)
def test_random_depth_is_the_same_in_every_pass(draw: str) -> None:
    model = Depth(DRAWS[draw])
    widths = []
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = state()
        plan = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
        assert state() == before
        widths.append(plan.widths)
        small_one = plan.build(model)
        for training in (True, False):
            assert small_one.train(training)(torch.ones(2, *SHAPE)).shape == (2, 3)
    assert widths[0] == widths[1] == widths[2]


def test_random_depth_with_another_generator_of_numpys() -> None:
    generators: Any = np.random
    usual = generators.get_bit_generator()
    try:
        generators.set_bit_generator(np.random.PCG64(3))
        model = Depth(DRAWS["numpy function"])
        before = np.random.get_state(legacy=False)  # noqa: NPY002
        first, second = (precrop.plan(model, SHAPE, params=0.5).widths for _ in range(2))
        assert first == second
        assert np.random.get_state(legacy=False) == before  # noqa: NPY002
    finally:
        generators.set_bit_generator(usual)


def saved_and_set() -> None:
    """What PyTorch's checkpoints do."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().get_state())


SEEDS: dict[str, Callable[[], object]] = {
    "manual_seed": lambda: torch.manual_seed(0),
    "by name": partial(torch.manual_seed, 0),
    "another each time": torch.seed,
    "saved and set": saved_and_set,
}


class Seeding(Made):
    """Seeds PyTorch's generators in forward, and another thread draws from them meanwhile."""

    def __init__(self, seed: Callable[[], object], real: bool) -> None:
        super().__init__()
        self.seed, self.real = seed, real

    def forward(self, x: Tensor) -> Tensor:
        self.seed()
        thread = threading.Thread(target=torch.rand, args=(1,))
        thread.start()
        thread.join()
        if self.real and x.sum() < 0:
            x = -x
        return super().forward(nn.functional.dropout(x, 0.1, self.training))


def draws_since(seed: int) -> int:
    """How many numbers were drawn from PyTorch's generator since it was seeded."""
    reference = torch.Generator().manual_seed(seed)
    for count in range(5000):
        if torch.equal(reference.get_state(), torch.get_rng_state()):
            return count
        torch.rand(1, generator=reference)
    raise AssertionError("it was seeded otherwise")


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_that_seeds_does_so_for_itself(seed: str, real: bool) -> None:
    model = Seeding(SEEDS[seed], real)
    batch = (torch.ones(4, *SHAPE), torch.arange(4) % 3)
    before = [torch.cuda.manual_seed_all, vars(torch.random)["default_generator"]]
    found = []
    for around in (3, 4):
        torch.manual_seed(around)
        plan = precrop.plan(model, SHAPE, params=0.5)
        densities = [
            precrop.densities(model, SHAPE, method=method, params=0.5, data=[batch])
            for method in ("erk", "snip", "grasp")
        ]
        assert precrop.count(model, SHAPE).params == plan.base_params
        plan.build(model)
        assert draws_since(around) > 0
        found.append((plan.widths, densities))
    assert found[0] == found[1]
    assert [torch.cuda.manual_seed_all, vars(torch.random)["default_generator"]] == before


def test_another_thread_may_seed_meanwhile() -> None:
    class Beside(Made):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=torch.manual_seed, args=(5,))
            thread.start()
            thread.join()
            torch.manual_seed(0)
            return super().forward(x)

    torch.manual_seed(3)
    precrop.plan(Beside(), SHAPE, params=0.5)
    assert torch.initial_seed() == 5
    assert draws_since(5) == 0
