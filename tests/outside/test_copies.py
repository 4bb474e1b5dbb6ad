"""Networks that hold what a plain copy of modules would lose, refuse or share."""

import functools
import gc
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.errors import PrecropError
from tests.outside.cropping import cropped

SHAPE = (3, 12, 12)


class Net(nn.Module):
    """Convolutions; what is done between them is a method of the variants below."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 48, 3)
        self.head = nn.Linear(48, 5)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.c(self.between(self.b(self.a(x)).relu())).mean((2, 3)))
        return out


class PlainList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.acts = [nn.ReLU(), nn.Sequential(nn.Hardtanh())]

    def between(self, x: Tensor) -> Tensor:
        return self.acts[1](self.acts[0](x))


class MadeInForward(Net):
    def between(self, x: Tensor) -> Tensor:
        return nn.LayerNorm(x.shape[2:], elementwise_affine=False)(nn.ELU()(x))


def _wrapped(net: Net, how: str) -> Net:
    """A network whose forward somebody has wrapped, on the instance."""
    original = net.forward

    @functools.wraps(original)
    def by_closure(x: Tensor) -> Tensor:
        return original(x.flip(-1)) * 2

    def method(self: Net, x: Tensor) -> Tensor:
        return original(x.flip(-1)) * 2 + 0 * self.head.bias.sum()

    forward: Any = by_closure if how == "closure" else types.MethodType(method, net)
    net.forward = forward  # type: ignore[method-assign]
    return net


@pytest.mark.parametrize("how", ["closure", "method"])
def test_a_forward_wrapped_on_the_instance_runs_the_copys_layers(how: str) -> None:
    torch.manual_seed(0)
    net = _wrapped(Net(), how)
    plan, small = cropped(net, SHAPE, ["a", "b", "c"])
    assert not plan.frozen
    for parameter in net.parameters():
        parameter.data.zero_()
    assert small(torch.ones(1, *SHAPE)).abs().sum() > 0, "it runs layers of its own"


def test_an_open_file_is_shared(tmp_path: Path) -> None:
    class Logging(Net):
        def __init__(self) -> None:
            super().__init__()
            self.log = (tmp_path / "log").open("a")

    net = Logging()
    _, small = cropped(net, SHAPE, ["a", "b", "c"])
    assert small.log is net.log
    net.log.close()


@pytest.mark.parametrize("kind", [PlainList, MadeInForward])
def test_modules_without_weights_need_not_be_registered(kind: type[Net]) -> None:
    plan, _ = cropped(kind(), SHAPE, ["a", "b", "c"])
    assert not plan.frozen


class Closed(Net):
    """Its body is a function that closes over the network; another is bound to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = lambda x: self.scaled(self.b(self.a(x)).relu())
        self.scaled: Any = self.between
        self.table = {"deep": [lambda x: self.c(x)]}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.table["deep"][0](self.body(x)).mean((2, 3)))
        return out


def test_functions_that_close_over_modules_use_those_of_the_copy() -> None:
    model = Closed()
    plan, built = cropped(model, SHAPE, ["a", "b", "c"])
    assert not plan.frozen
    x = torch.ones(1, *SHAPE)
    before = built(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(built(x), before)


class HiddenLayer(Net):
    """A convolution in a plain list: no parameter of the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(32, 32, 3)]

    def between(self, x: Tensor) -> Tensor:
        return self.hidden[0](x)


def test_what_meets_an_unregistered_layer_is_kept_and_says_why() -> None:
    model = HiddenLayer()
    plan, built = cropped(model, SHAPE, ["a", "c"], params=0.6)
    why = "convolution in the network with a parameter that is not registered"
    assert plan.frozen == {"b": why}
    assert built.hidden[0] is not model.hidden[0]
    assert built.hidden[0].weight.shape == model.hidden[0].weight.shape


class Kept(Net):
    """Keeps results of its last pass, in an attribute and deeper."""

    def between(self, x: Tensor) -> Tensor:
        self.last = x
        self.seen: dict[str, list[Tensor]] = {"maps": [x.relu()]}
        return x


def test_results_of_the_last_pass_stay_behind_without_their_history() -> None:
    model = Kept()
    fresh = precrop.plan(model, SHAPE, params=0.5, macs=0.5)
    model(torch.ones(1, *SHAPE))
    assert model.last.grad_fn is not None
    precrop.plan(model, SHAPE, params=0.5).build(model)
    assert model.last.grad_fn is not None
    plan, built = cropped(model, SHAPE, ["a", "b", "c"])
    assert plan.widths == fresh.widths
    built(torch.ones(1, *SHAPE))
    assert built.last.shape[1] == plan.widths["b"][1]


def test_what_cannot_be_copied_is_shared_unless_it_holds_modules() -> None:
    model: Any = Net()
    model.lock = threading.Lock()
    assert cropped(model, SHAPE)[1].lock is model.lock
    model.hooked = (model.a, model.lock)
    built = cropped(model, SHAPE)[1]
    assert built.hooked[0] is built.a
    assert built.hooked[1] is model.lock
    model.hooked = Refusing(model.a)
    with pytest.raises(PrecropError, match="cannot be copied: hooked: TypeError"):
        precrop.plan(model, SHAPE, params=0.5)


class Refusing:
    """An object that says that it can't be copied."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __deepcopy__(self, memo: Any) -> "Refusing":
        raise TypeError("no copies")


class Sized:
    """A size beside what cannot be copied."""

    def __init__(self, size: int) -> None:
        self.size, self.lock = size, threading.Lock()


class Locked(Net):
    def __init__(self, sized: Any) -> None:
        super().__init__()
        self.sized = sized

    def between(self, x: Tensor) -> Tensor:
        sized = self.sized["size"] if isinstance(self.sized, dict) else self.sized.size
        return x.reshape(x.shape[0], sized, *x.shape[2:])


class Named(dict[str, Any]):
    """A dict whose entries are its attributes."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.__dict__ = self


class Looked(dict[str, Any]):
    """A dict that looks attributes up among its entries, those that Python asks for too."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sized(32),
        lambda: {"size": 32, "lock": threading.Lock()},
        lambda: Named(size=32, inner=Named(other=3)),
        lambda: Named(size=32, inner=Named(lock=threading.Lock())),
        lambda: Looked(size=32, inner=Looked(lock=threading.Lock())),
    ],
    ids=["object", "dict", "named", "named with a lock", "looked up"],
)
def test_what_holds_a_lock_or_names_itself_is_copied(make: Any) -> None:
    """So that sizes in it are the copy's own."""
    model = Locked(make())
    plan, built = cropped(model, SHAPE, ["a", "b", "c"])
    assert not plan.frozen
    for net, size in ((model, 32), (built, built.b.out_channels)):
        held = net.sized["size"] if isinstance(net.sized, dict) else net.sized.size
        assert held == size


def scripted() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(32, 32, 3), nn.GroupNorm(4, 32), nn.Dropout(0.1), nn.ReLU())
    return torch.jit.script(inner)


def traced() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU()).eval()
    return torch.jit.trace(inner, torch.ones(1, 32, 6, 6))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("make", [scripted, traced])
def test_scripted_modules_are_read_through(make: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), make(), nn.Conv2d(32, 32, 1), nn.Flatten(), nn.LazyLinear(5)
    )
    model(torch.ones(1, *SHAPE))
    plan, built = cropped(model, SHAPE, ["0", "1.0", "2"])
    assert built[1].state_dict()["0.weight"].shape[0] == plan.widths["1.0"][1] < 32
    assert isinstance(built[1], torch.jit.ScriptModule)


class Viewed(nn.Module):
    """A size in an attribute, which scripting makes part of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.conv = 32, nn.Conv2d(32, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out.view(out.shape[0], self.width, 8, 8)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_sizes_in_scripted_code_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), torch.jit.script(Viewed()), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 4, 8)
    )
    plan, _ = cropped(model, SHAPE, ["0", "2"], params=0.6)
    assert list(plan.frozen) == ["1.conv"]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_network_that_is_scripted_as_a_whole() -> None:
    model = torch.jit.script(nn.Sequential(nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 4, 3)))
    plan, _ = cropped(model, SHAPE, ["0"])
    assert not plan.frozen


def test_a_library_may_have_replaced_how_modules_are_read_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `torch.compile` does, once in a process."""
    original = nn.Module.__setstate__
    monkeypatch.setattr(nn.Module, "__setstate__", lambda self, state: original(self, state))
    model: Any = Net()
    model.lock = threading.Lock()
    plan, built = cropped(model, SHAPE, ["a", "b", "c"])
    assert built.lock is model.lock
    assert not plan.frozen


class Hooked:
    """Holds a layer, and weakly itself."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.itself = weakref.ref(self)


class Weak(Net):
    """Finds one of its convolutions by what refers to it weakly."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.middle = nn.Conv2d(32, 32, 3)
        self.find = make(self)

    def between(self, x: Tensor) -> Tensor:
        return self.find(self)(x)


def _in_list(net: Any) -> Any:
    net.held = [weakref.ref(net.middle), weakref.proxy(net.middle)]
    return lambda net: lambda x: (net.held[0]()(x) + net.held[1](x)) / 2


def _in_set(net: Any) -> Any:
    net.held = weakref.WeakSet([net.middle])
    return lambda net: next(iter(net.held))


def _by_name(net: Any) -> Any:
    net.held = weakref.WeakValueDictionary(middle=net.middle)
    return lambda net: net.held["middle"]


def _by_layer(net: Any) -> Any:
    net.held = weakref.WeakKeyDictionary({net.a: [net.middle]})
    return lambda net: net.held[net.a][0]


def _by_layer_strongly(net: Any) -> Any:
    net.held = {net.a: net.middle}
    return lambda net: net.held[net.a]


def _method(net: Any) -> Any:
    net.held = weakref.WeakMethod(net.middle.forward)
    return lambda net: net.held()


def _parent(net: Any) -> Any:
    net.a.parent = weakref.ref(net, print)
    return lambda net: net.a.parent().middle


def _holder(net: Any) -> Any:
    holder = Hooked(net.middle)
    net.held = weakref.ref(holder)  # before what keeps it alive
    net.holder = holder
    return lambda net: net.held().itself().layer


def _within_hidden(net: Any) -> Any:
    net.hidden = [nn.Identity()]  # which is not registered
    net.hidden[0].find = lambda: net.middle
    net.hidden[0].held = weakref.ref(net.middle)
    return lambda net: lambda x: (net.hidden[0].find()(x) + net.hidden[0].held()(x)) / 2


def _weight(net: Any) -> Any:
    net.held = weakref.ref(net.middle.weight)
    return lambda net: lambda x: nn.functional.conv2d(x, net.held(), net.middle.bias)


def _closed_over(net: Any) -> Any:
    found = weakref.ref(net.middle)
    return lambda _: found()


def _weight_closed_over(net: Any) -> Any:
    weight, bias = net.middle.weight, net.middle.bias
    return lambda _: lambda x: nn.functional.conv2d(x, weight, bias)


@pytest.mark.parametrize(
    "make",
    [
        *(_in_list, _in_set, _by_name, _by_layer, _by_layer_strongly, _method, _parent, _holder),
        *(_within_hidden, _weight, _closed_over, _weight_closed_over),
    ],
)
def test_what_is_found_by_weak_references_is_the_copys(make: Any) -> None:
    torch.manual_seed(0)
    model = Weak(make)
    plan, built = cropped(model, SHAPE, ["a", "b", "middle", "c"])
    assert not plan.frozen
    x = torch.ones(2, *SHAPE)
    built(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    before = built(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(built(x), before)
    del model, before
    gc.collect()
    built(x)


def test_a_weak_reference_to_what_the_network_does_not_hold_stays() -> None:
    outside = nn.Conv2d(32, 32, 3)

    class Elsewhere(Net):
        def __init__(self) -> None:
            super().__init__()
            self.held, self.gone = weakref.ref(outside), weakref.ref(nn.ReLU())

        def between(self, x: Tensor) -> Tensor:
            assert self.gone() is None
            return self.held()(x)  # type: ignore[misc]

    plan, built = cropped(Elsewhere(), SHAPE, ["a", "c"], params=0.6)
    assert list(plan.frozen) == ["b"]
    assert built.held() is outside


FOUND: dict[str, Any] = {}
"""What networks find outside of their modules."""


class Registered(Net):
    """Finds a layer of its own, or the weight or a buffer of it, where all of its class would."""

    layer: Any = None

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.norm = how, nn.BatchNorm2d(32, affine=False)
        Registered.layer = FOUND["layer"] = self.b
        FOUND["weight"], FOUND["norm"] = weakref.ref(self.b.weight), self.norm

    def between(self, x: Tensor) -> Tensor:
        if self.how == "class":
            return self.layer(x)
        if self.how == "weight":
            return nn.functional.conv2d(x, FOUND["weight"]().data)
        return FOUND[self.how](x)


@pytest.mark.parametrize("how", ["class", "layer", "weight", "norm"])
@pytest.mark.parametrize("real", [False, True])
def test_what_would_be_computed_with_the_original_is_refused(how: str, real: bool) -> None:
    class Branching(Registered):
        def between(self, x: Tensor) -> Tensor:
            return super().between(x if not real or x.sum() > -1e9 else -x)

    model = Branching(how)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = r"norm\.\w+" if how == "norm" else r"b\.weight"
    with pytest.raises(PrecropError, match=f"computes with {name} of the network itself"):
        precrop.plan(model, SHAPE, params=0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_weak_proxy_in_the_place_of_a_module() -> None:
    model: Any = Net()
    model.a.parent = weakref.proxy(model)
    with pytest.raises(PrecropError, match=r"a\.parent is a weak proxy"):
        precrop.plan(model, SHAPE, params=0.5)
