"""Numbers of tensors: what has one of its own, what is known of it, and that no tensor is kept."""

import gc
import weakref

import torch
from torch import Tensor, nn

from precrop.read.meta import MetaKernels
from precrop.read.recording import run
from precrop.read.trace import Recording, Trace, numbered
from precrop.read.tracer import skeleton


def recorded(model: nn.Module, *shapes: tuple[int, ...]) -> tuple[Recording, nn.Module]:
    made = skeleton(model).eval()
    inputs = [torch.ones(shape, device="meta") for shape in shapes]
    return run(made, inputs, {}, MetaKernels()), made


def trace(model: nn.Module, *shapes: tuple[int, ...]) -> Trace:
    return numbered(*recorded(model, *shapes))


class Changing(nn.Module):
    """Changes a tensor in place, and its shape; looks at it in another way."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        y.add_(1)
        seen = y.view(6)
        y.unsqueeze_(0)
        return y, seen


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.table = torch.arange(4.0)
        self.hidden = [nn.Parameter(torch.ones(4))]
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.second(self.first(x)) * self.scale + self.table + self.hidden[0]
        return [torch.cat([x, x], 1) * torch.tensor(0.5), x]


class Assigning(nn.Module):
    """Puts a computed kernel in the place of a weight's data."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(4, 4))
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.data = self.kernel * 2
        return self.layer(x)


def test_what_is_changed_in_place_keeps_its_number_and_a_view_has_another() -> None:
    found = trace(Changing(), (2, 3))
    mul, add, view, unsqueeze = found.calls
    assert mul.outputs == add.inputs == add.outputs == view.inputs
    assert add.outputs[0].number == unsqueeze.outputs[0].number == found.outputs[0].number
    assert view.outputs[0].number not in (mul.outputs[0].number, found.inputs[0].number)
    assert (add.outputs[0].shape, unsqueeze.outputs[0].shape) == ((2, 3), (1, 2, 3))
    memories = found.values.memories
    assert memories[view.outputs[0].number] == memories[mul.outputs[0].number]
    assert memories[found.inputs[0].number] != memories[mul.outputs[0].number]


def test_tensors_of_the_network_have_their_first_name() -> None:
    found = trace(Tied(), (2, 4))
    assert sorted(found.values.names.values()) == ["first.weight", "scale", "table"]
    assert set(found.used.values()) == {"first.weight", "scale", "table"}
    weights = [call.inputs[-1].number for call in found.calls if call.name == "t"]
    assert weights == [weights[0]] * 2
    assert len(found.values.unregistered) == 1


def test_a_tensor_in_a_list_is_the_one_that_was_made() -> None:
    found = trace(Tied(), (2, 4))
    join = next(call for call in found.calls if call.name == "cat")
    assert [*join.args[0]] == [*join.inputs] == [found.outputs[1]] * 2
    assert join.shapes == ((2, 8),)


def test_only_what_no_call_made_and_no_module_holds_keeps_its_data() -> None:
    found = trace(Tied(), (2, 4))
    assert [float(tensor) for tensor in found.values.data.values()] == [0.5]


def test_a_result_that_is_assigned_to_a_parameter_is_known() -> None:
    found = trace(Assigning(), (2, 4))
    (parameter, result), *others = found.assigned.items()
    assert not others
    assert found.values.names[parameter] == "layer.weight"
    assert found.calls[0].outputs[0].number == result
    assert not trace(Tied(), (2, 4)).assigned


def test_no_tensor_lives_on_for_a_trace() -> None:
    recording, model = recorded(Changing(), (2, 3))
    made = [weakref.ref(tensor) for call in recording.calls for tensor in call.outputs]
    found = numbered(recording, model)
    del recording
    gc.collect()
    assert [call.name for call in found.calls] == ["mul", "add", "view", "unsqueeze"]
    assert all(reference() is None for reference in made)
