"""Runtimes that run a network: eager and compiled PyTorch, and ONNX Runtime.

A runtime is one function from a network to what runs it, and a line in `RUNTIMES`.
"""

import itertools
import statistics
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from precrop.costs.machine import describe_machine, part
from precrop.costs.profiles import DeviceProfile
from precrop.deployment.exportable import Arguments, Exportable, noise
from precrop.deployment.onnx_files import bound, onnx_session, write_onnx
from precrop.deployment.setting import Setting, check_device
from precrop.deployment.timing import Progress, Run, Stopwatch, interleaved
from precrop.errors import PrecropError
from precrop.modules.copying import copied
from precrop.modules.threads import threads_restored
from precrop.own import calling_own
from precrop.progress import unheard
from precrop.read.inputs import Inputs

SESSIONS = 3
"""Times that a network is loaded afresh: a session of ONNX Runtime can be slow all its life."""
_LEAST_SECONDS = 0.02
"""What one sample of a session lasts at least."""


@contextmanager
def sessions(
    model: nn.Module, inputs: Inputs, setting: Setting, number: int = SESSIONS
) -> Iterator[list[Run]]:
    """A network in evaluation mode, loaded into a runtime and run once: each call runs it again.

    PyTorch's number of threads, which its runs change, is restored at the end.

    Args:
        model: the network; it is not changed. On a CPU its tensors are shared.
        inputs: shapes without the batch. The values are normal noise, the same for every network.
        setting: how it is run.
        number: of times that it is loaded, where that makes a difference; else it is once.

    Raises:
        PrecropError: the runtime cannot run this network.
    """
    with threads_restored():
        # A runtime's errors are of any kind, too.
        with calling_own(f"{setting.runtime} cannot run this network"):
            runs = RUNTIMES[setting.runtime](model, inputs, setting, number)
        yield runs


def session_medians(
    networks: Mapping[str, Sequence[Run]],
    rounds: int,
    stopwatch: Stopwatch,
    progress: Progress = unheard,
) -> dict[str, list[float]]:
    """Seconds of every session of every network: medians of rounds in which all take turns."""
    times = interleaved(
        {(name, n): run for name, runs in networks.items() for n, run in enumerate(runs)},
        rounds=rounds,
        least_seconds=_LEAST_SECONDS,
        stopwatch=stopwatch,
        progress=progress,
    )
    return {
        name: [times[name, n].median for n in range(len(runs))] for name, runs in networks.items()
    }


def median_seconds(
    runs: Sequence[Run], rounds: int, stopwatch: Stopwatch, progress: Progress = unheard
) -> float:
    """Seconds of one network: the median over its sessions, so that a slow one does not decide."""
    (seconds,) = session_medians({"": runs}, rounds, stopwatch, progress).values()
    return statistics.median(seconds)


def check_here(profile: DeviceProfile) -> None:
    """Refuse a profile that was measured on another machine than this one."""
    check_device(profile.device)
    there = profile.machine.get(part(profile.device))  # None of a roofline
    here = describe_machine(profile.device)[part(profile.device)]
    if there not in (None, here):
        raise PrecropError(
            f"this profile is of another device, {there}, and this is {here}: measure here with "
            "precrop profile, or plan without calibrating"
        )


# --- PyTorch ------------------------------------------------------------------------------------


def eager(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """PyTorch, operation by operation."""
    network, (args, kwargs) = placed(model, inputs, setting)
    return [torch_run(lambda: network(*args, **kwargs), setting)]


def compiled(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """PyTorch with `torch.compile` for this batch size."""
    network, (args, kwargs) = placed(model, inputs, setting)

    def forward(*args: Tensor, **kwargs: Tensor) -> Any:
        return network(*args, **kwargs)

    function = torch.compile(_own_code(forward), dynamic=False)
    # Beyond its limit of recompilations PyTorch would go on eagerly, and say so in its log only.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        return [torch_run(lambda: function(*args, **kwargs), setting)]


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


def torch_run(forward: Run, setting: Setting) -> Run:
    """A forward pass of PyTorch's, run once: each call runs it again, on the setting's threads."""

    def run() -> Any:
        if torch.get_num_threads() != setting.threads:  # another run's
            torch.set_num_threads(setting.threads)
        with torch.inference_mode():
            return forward()

    run()
    return run


_numbers = itertools.count()


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a code object of its own.

    What PyTorch compiles hangs on the code object. With one in common the networks of a run would
    search each other's, and past a few of them PyTorch would stop compiling.
    """
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"forward_{next(_numbers)}")
    return types.FunctionType(code, function.__globals__, closure=function.__closure__)


# --- ONNX Runtime -------------------------------------------------------------------------------


def ort(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """ONNX Runtime on what `precrop.deployment.onnx_files.write_onnx` writes."""
    arguments = noise(inputs, model, setting.batch)
    with onnx_file(model, inputs, setting.batch) as path:
        return [ort_run(path, arguments, setting) for _ in range(number)]


def ort_run(path: Path, arguments: Arguments, setting: Setting) -> Run:
    """An ONNX file, run once on these inputs: each call runs it again."""
    session = onnx_session(path, setting.threads, setting.device)
    binding = bound(session, arguments, setting.device)

    def run(_held: Arguments = arguments) -> Any:  # older bindings read memory that they don't own
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    run()
    return run


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


RUNTIMES: dict[str, Callable[[nn.Module, Inputs, Setting, int], list[Run]]] = {
    "eager": eager,
    "compiled": compiled,
    "ort": ort,
}
"""Adding a runtime is a function and a line here, and in `precrop.deployment.setting.LIBRARIES`."""
