import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from precrop.deployment import runtimes
from precrop.deployment.exportable import noise
from precrop.deployment.runtimes import (
    RUNTIMES,
    SESSIONS,
    ort_run,
    session_medians,
    sessions,
    torch_run,
)
from precrop.deployment.setting import LIBRARIES, Setting, check_device
from precrop.deployment.timing import Run, cuda_stopwatch, host_stopwatch
from precrop.errors import PrecropError
from precrop.read.inputs import Inputs
from tests.deployment.benched import inputs, small
from tests.deployment.nets import OneByOne


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before  # whatever ran restores it


@contextmanager
def loaded(model: nn.Module, inputs: Inputs, setting: Setting) -> Iterator[Run]:
    with sessions(model, inputs, setting, 1) as (run,):
        yield run


def expected(model: nn.Module, batch: int) -> Tensor:
    with torch.inference_mode():
        return model(*noise(inputs(), model, batch)[0])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_eager_gives_the_networks_outputs(batch: int, channels_last: bool) -> None:
    model = small()
    with loaded(model, inputs(), Setting(batch=batch, channels_last=channels_last)) as made:
        torch.testing.assert_close(made(), expected(model, batch))


def test_onnx_runtime_gives_the_networks_outputs() -> None:
    model = small()
    with loaded(model, inputs(), Setting("ort", batch=2)) as made:
        (output,) = made()
        found = torch.from_numpy(output.numpy())
    torch.testing.assert_close(found, expected(model, 2), atol=1e-4, rtol=1e-4)


def test_onnx_runtime_runs_what_can_be_exported_for_one_batch_size() -> None:
    model, images = OneByOne().eval(), Inputs((3, 8, 8))
    with loaded(model, images, Setting("ort", batch=2)) as made:
        found = [torch.from_numpy(output.numpy()) for output in made()]
    with torch.inference_mode():
        known = model(*noise(images, model, 2)[0])
    torch.testing.assert_close(found, known, atol=1e-4, rtol=1e-4)


class Tiny(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + 1


def test_each_compiled_network_is_compiled_once() -> None:
    """More of one class than PyTorch compiles for one code object, none of them run eagerly."""
    number = 2
    counters.clear()
    with ExitStack() as stack:
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=number - 1))
        made = [
            stack.enter_context(loaded(Tiny(n), Inputs((4,)), Setting("compiled")))
            for n in range(number)
        ]
        graphs = counters["stats"]["unique_graphs"]
        assert graphs == number
        x = noise(Inputs((4,)), Tiny(0), 1)[0][0]
        for n, run in enumerate(made):
            torch.testing.assert_close(run(), x * n + 1)
        assert counters["stats"]["unique_graphs"] == graphs


def test_the_model_stays_as_it_was() -> None:
    model = small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with loaded(model, inputs(), Setting(channels_last=True)) as made:
        made()
    assert model.training
    assert model.conv1.weight.is_contiguous()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_cpu_runner_shares_the_models_tensors() -> None:
    model = small()
    with loaded(model, inputs(), Setting()) as made, torch.no_grad():
        model.fc.bias.add_(1)
        torch.testing.assert_close(made(), expected(model, 1))


def test_runners_have_their_threads_in_any_order() -> None:
    seen: list[int] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    with (
        loaded(Watch(), inputs(), Setting(threads=1)) as first,
        loaded(Watch(), inputs(), Setting(threads=2)) as second,
    ):
        seen.clear()
        for run in (first, second, second, first):
            run()
        assert seen == [1, 2, 2, 1]
    assert torch.get_num_threads() == before


def test_the_first_run_happens_before_anyone_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    torch_run(lambda: calls.append("torch"), Setting(threads=torch.get_num_threads()))
    session = SimpleNamespace(run_with_iobinding=lambda binding: calls.append("ort"))
    monkeypatch.setattr(runtimes, "onnx_session", lambda *_: session)
    monkeypatch.setattr(runtimes, "bound", lambda *_: SimpleNamespace(get_outputs=list))
    ort_run(Path("none.onnx"), ([], {}), Setting())
    assert calls == ["torch", "ort"]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing\nand more")


@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_a_failing_network_is_one_line(runtime: str) -> None:
    with pytest.raises(PrecropError) as caught, sessions(Broken(), inputs(), Setting(runtime)):
        pass
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{runtime} cannot run this network")


def test_inputs_by_name_are_bound_by_name() -> None:
    class Minus(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - 2 * b

    two = Inputs({"b": (4,), "a": (4,)})
    model = Minus()
    _, kwargs = noise(two, model, 2)
    with loaded(model, two, Setting("ort", batch=2)) as made:
        (output,) = made()
        found = torch.from_numpy(output.numpy())
    torch.testing.assert_close(found, kwargs["a"] - 2 * kwargs["b"])


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(PrecropError, match="runtime 'tvm' is unknown: choose from eager, compiled"):
        Setting("tvm")
    assert list(RUNTIMES) == list(LIBRARIES) == ["eager", "compiled", "ort"]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    with pytest.raises(PrecropError, match=r"onnxruntime is not installed: pip install 'precrop\["):
        Setting("ort")


@pytest.mark.parametrize(("batch", "threads"), [(0, 1), (1, 0), (1, -2)])
def test_no_image_or_no_thread_is_refused(batch: int, threads: int) -> None:
    with pytest.raises(PrecropError, match="give 1 or more of both"):
        Setting(batch=batch, threads=threads)


def test_more_threads_than_cores_are_refused() -> None:
    cores = os.cpu_count() or 1
    with pytest.raises(PrecropError, match=f"{cores + 1} threads: this machine has {cores} CPU"):
        Setting(threads=cores + 1)


@pytest.mark.parametrize("device", ["tpu", "cpu:0", "cuda:x", "cuda:", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(PrecropError, match="is unknown: write cpu"):
        check_device(device)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(PrecropError, match="device cuda:99 is not there"):
        Setting(device="cuda:99")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_a_gpu_gives_the_networks_outputs(runtime: str) -> None:
    model = small()
    setting = Setting(runtime, batch=2, device="cuda")
    with loaded(model, inputs(), setting) as made:
        assert setting.stopwatch(made, 3) > 0
        torch.testing.assert_close(made().cpu(), expected(model, 2), atol=1e-2, rtol=1e-2)


def test_one_thread_is_timed_by_its_own_clock() -> None:
    alone = Setting().stopwatch

    def rest() -> None:
        time.sleep(0.03)

    def work() -> None:
        end = time.perf_counter() + 0.03
        while time.perf_counter() < end:
            pass

    assert host_stopwatch(rest, 1) >= 0.03
    assert alone(rest, 1) < 0.01
    assert alone(work, 1) > 0.002


def test_pytorchs_gpu_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    stopwatch = Setting(device="cuda").stopwatch
    assert isinstance(stopwatch, partial)
    assert (stopwatch.func, stopwatch.keywords) == (cuda_stopwatch, {"device": "cuda"})
    other = Setting("ort", device="cuda").stopwatch
    assert isinstance(other, partial)
    assert other.func is host_stopwatch
    assert Setting(device="cuda").clock is time.perf_counter


@pytest.mark.parametrize(("runtime", "count"), [("eager", 1), ("ort", SESSIONS)])
def test_a_network_is_loaded_so_often_where_that_matters(runtime: str, count: int) -> None:
    setting = Setting(runtime)
    with sessions(small(), inputs(), setting) as made:
        assert len({id(one) for one in made}) == count
        medians = session_medians({"small": made}, 2, setting.stopwatch)
        assert len(medians["small"]) == count


def test_all_sessions_take_turns() -> None:
    calls: list[str] = []
    clock = iter(range(10**6))

    def made(name: str) -> Run:
        return lambda: calls.append(name)

    networks = {"a": [made("a1"), made("a2")], "b": [made("b1")]}
    stopwatch = partial(host_stopwatch, clock=lambda: float(next(clock)))
    found = session_medians(networks, 3, stopwatch)
    assert found == {"a": [1.0, 1.0], "b": [1.0]}
    assert calls[9:] == ["a1", "a2", "b1", "a2", "b1", "a1", "b1", "a1", "a2"]
