"""Runtimes that run a network: eager and compiled PyTorch, and ONNX Runtime.

A runtime is one function from a network to a `Runner`, and a line in `RUNTIMES`.
"""

import itertools
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from precrop.costs.machine import describe_machine, part
from precrop.costs.profiles import DeviceProfile
from precrop.deployment.exportable import Arguments, Exportable, noise
from precrop.deployment.onnx_files import bound, onnx_session, write_onnx
from precrop.deployment.setting import Setting, check_device
from precrop.deployment.timing import (
    CudaStopwatch,
    Name,
    Progress,
    Stopwatch,
    Timing,
    interleaved,
)
from precrop.errors import PrecropError, errors_as, typed_reason
from precrop.modules.copying import copied
from precrop.progress import unheard
from precrop.read.inputs import Inputs

SESSIONS = 3
"""Times that a network is loaded afresh: a session of ONNX Runtime can be slow all its life."""
_LEAST_SECONDS = 0.02
"""What one sample of a session lasts at least."""


class Runner:
    """One network, run once already, and ready to be run over and over on the same input.

    Args:
        run: one forward pass; returns what the runtime returns.
        stopwatch: takes its time.
        closing: what is undone by `close`, also where the first run fails.
    """

    def __init__(
        self, run: Callable[[], Any], stopwatch: Stopwatch, closing: ExitStack | None = None
    ) -> None:
        self.stopwatch = stopwatch
        self._run: Callable[[], Any] | None = run
        self._closing = closing or ExitStack()
        try:
            run()
        except Exception:
            self.close()
            raise

    def __call__(self) -> Any:
        """Run the network once."""
        if self._run is None:
            raise RuntimeError("this runner is closed")
        return self._run()

    def close(self) -> None:
        """Free the network and restore the number of threads; closing again does nothing."""
        self._run = None
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def runner(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """A network in evaluation mode, loaded into a runtime and run once.

    Args:
        model: the network; it is not changed. On a CPU the runner shares its tensors.
        inputs: shapes without the batch. The values are normal noise, the same for every network.
        setting: how it is run.

    Raises:
        PrecropError: the runtime cannot run this network.
    """
    with _explained(setting):
        return RUNTIMES[setting.runtime](model, inputs, setting)


@contextmanager
def sessions(model: nn.Module, inputs: Inputs, setting: Setting) -> Iterator[list[Runner]]:
    """A network loaded `SESSIONS` times, where that makes a difference; else once.

    Raises:
        PrecropError: as for `runner`.
    """
    with ExitStack() as stack:
        with _explained(setting):
            if setting.runtime == "ort":
                arguments = noise(inputs, model, setting.batch)
                with onnx_file(model, inputs, setting.batch) as path:
                    made = [ort_runner(path, arguments, setting) for _ in range(SESSIONS)]
            else:
                made = [stack.enter_context(RUNTIMES[setting.runtime](model, inputs, setting))]
        yield made


def in_turns(runners: Mapping[Name, Runner], **options: Any) -> dict[Name, Timing]:
    """Times of runners of one setting, by their own stopwatch; else as `interleaved`."""
    stopwatch = next(iter(runners.values())).stopwatch
    return interleaved(runners, stopwatch=stopwatch, **options)


def session_medians(
    networks: Mapping[str, Sequence[Runner]], rounds: int, progress: Progress = unheard
) -> dict[str, list[float]]:
    """Seconds of every session of every network: medians of rounds in which all take turns."""
    runners = {(name, n): run for name, runs in networks.items() for n, run in enumerate(runs)}
    times = in_turns(runners, rounds=rounds, least_seconds=_LEAST_SECONDS, progress=progress)
    return {
        name: [times[name, n].median for n in range(len(runs))] for name, runs in networks.items()
    }


@contextmanager
def _explained(setting: Setting) -> Iterator[None]:
    """What a runtime raises becomes an error of the user's."""
    # Whatever a network or a runtime raises.
    with errors_as(f"{setting.runtime} cannot run this network", Exception, told=typed_reason):
        yield


def check_here(profile: DeviceProfile) -> None:
    """Refuse a profile that was measured on another machine than this one.

    Raises:
        PrecropError: it was.
    """
    check_device(profile.device)
    there = profile.machine.get(part(profile.device))
    if there is None:  # a roofline
        return
    here = describe_machine(profile.device)[part(profile.device)]
    if here != there:
        raise PrecropError(
            f"this profile is of another device, {there}, and this is {here}: measure here with "
            "precrop profile, or plan without calibrating"
        )


# --- PyTorch ------------------------------------------------------------------------------------


def eager(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """PyTorch, operation by operation."""
    network, (args, kwargs) = placed(model, inputs, setting)
    return torch_runner(lambda: network(*args, **kwargs), setting)


def compiled(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """PyTorch with `torch.compile` for this batch size."""
    network, (args, kwargs) = placed(model, inputs, setting)

    def forward(*args: Tensor, **kwargs: Tensor) -> Any:
        return network(*args, **kwargs)

    function = torch.compile(_own_code(forward), dynamic=False)
    # Beyond its limit of recompilations PyTorch would go on eagerly, and say so in its log only.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        return torch_runner(lambda: function(*args, **kwargs), setting)


def placed(model: nn.Module, inputs: Inputs, setting: Setting) -> tuple[nn.Module, Arguments]:
    """A network in evaluation mode and its input where the setting has them.

    Tensors that can stay are shared.
    """

    def place(tensor: Tensor) -> Tensor:
        moved = tensor.to(setting.device)
        if setting.channels_last and moved.dim() == 4:
            return moved.contiguous(memory_format=torch.channels_last)
        return moved

    arguments = tree_map_only(Tensor, place, noise(inputs, model, setting.batch))
    return copied(model, lambda _, tensor: place(tensor.detach())).eval(), arguments


def torch_runner(forward: Callable[[], Any], setting: Setting) -> Runner:
    """A forward pass of PyTorch's ready to be run, on the setting's threads."""
    threads = setting.threads
    closing = ExitStack()
    closing.enter_context(_Threads())

    def run() -> Any:
        if torch.get_num_threads() != threads:  # another runner's
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return forward()

    on_gpu = setting.device != "cpu"
    return Runner(run, CudaStopwatch() if on_gpu else setting.stopwatch, closing)


class _Threads:
    """PyTorch's number of threads as it was before the first runner, restored after the last."""

    holders = 0
    before = 0

    def __enter__(self) -> Self:
        if _Threads.holders == 0:
            _Threads.before = torch.get_num_threads()
        _Threads.holders += 1
        return self

    def __exit__(self, *error: object) -> None:
        _Threads.holders -= 1
        if _Threads.holders == 0:
            torch.set_num_threads(_Threads.before)


_numbers = itertools.count()


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a code object of its own.

    What PyTorch compiles hangs on the code object. With one in common the networks of a run would
    search each other's, and past a few of them PyTorch would stop compiling.
    """
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"forward_{next(_numbers)}")
    return types.FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )


# --- ONNX Runtime -------------------------------------------------------------------------------


def ort(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """ONNX Runtime on what `precrop.deployment.onnx_files.write_onnx` writes."""
    with onnx_file(model, inputs, setting.batch) as path:
        return ort_runner(path, noise(inputs, model, setting.batch), setting)


def ort_runner(path: Path, arguments: Arguments, setting: Setting) -> Runner:
    """An ONNX file ready to be run on these inputs."""
    session = onnx_session(path, setting.threads, setting.device)
    binding = bound(session, arguments, setting.device)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    # It waits for a GPU by itself, in a stream of its own: events in PyTorch's would tell nothing.
    return Runner(run, setting.stopwatch)


@contextmanager
def onnx_file(model: nn.Module, inputs: Inputs, batch: int) -> Iterator[Path]:
    """The network as an ONNX file, for as long as the block lasts.

    It takes any batch size, or this one where the network cannot be exported for any.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "network.onnx")
        try:
            write_onnx(Exportable(model, inputs), path)
        except PrecropError:
            write_onnx(Exportable(model, inputs, batch=batch), path)
        yield path


RUNTIMES: dict[str, Callable[[nn.Module, Inputs, Setting], Runner]] = {
    "eager": eager,
    "compiled": compiled,
    "ort": ort,
}
"""Adding a runtime is a function and a line here, and in `precrop.deployment.setting.LIBRARIES`."""
