"""Runs networks in eager PyTorch, compiled PyTorch and ONNX Runtime.

A runtime is a function that loads a network and returns functions that run it; see `RUNTIMES`.
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
"""How often a network is loaded: a session of ONNX Runtime may be slow for as long as it lives."""
_LEAST_SECONDS = 0.02
"""Least duration of one sample of a session."""


@contextmanager
def sessions(
    model: nn.Module, inputs: Inputs, setting: Setting, number: int = SESSIONS
) -> Iterator[list[Run]]:
    """Load a network into a runtime, in eval mode, and yield functions that run it.

    Each was run once. PyTorch's number of threads, which they change, is restored at the end.

    Args:
        model: the network; it is not changed. On a CPU its tensors are shared.
        inputs: shapes without the batch. The values are normal noise, the same for every network.
        setting: how it is run.
        number: how often ONNX Runtime loads it; PyTorch loads it once.

    Raises:
        PrecropError: the runtime cannot run this network.
    """
    with threads_restored():
        # Runtimes raise errors of any kind.
        with calling_own(f"{setting.runtime} cannot run this network"):
            runs = RUNTIMES[setting.runtime](model, inputs, setting, number)
        yield runs


def session_medians(
    networks: Mapping[str, Sequence[Run]],
    rounds: int,
    stopwatch: Stopwatch,
    progress: Progress = unheard,
) -> dict[str, list[float]]:
    """Return the median seconds of each network's sessions, which all take turns in every round."""
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
    """Return a network's seconds: the median over its sessions, so that a slow one won't matter."""
    (seconds,) = session_medians({"": runs}, rounds, stopwatch, progress).values()
    return statistics.median(seconds)


def check_here(profile: DeviceProfile) -> None:
    """Refuse a profile that was measured on another machine than this one."""
    check_device(profile.device)
    there = profile.machine.get(part(profile.device))  # None for a roofline
    here = describe_machine(profile.device)[part(profile.device)]
    if there not in (None, here):
        raise PrecropError(
            f"this profile is of another device, {there}, and this is {here}: measure here with "
            "precrop profile, or plan without calibrating"
        )


# --- PyTorch ------------------------------------------------------------------------------------


def eager(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """Load a network into eager PyTorch."""
    network, (args, kwargs) = placed(model, inputs, setting)
    return [torch_run(lambda: network(*args, **kwargs), setting)]


def compiled(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """Load a network into PyTorch and compile it (`torch.compile`) for this batch size."""
    network, (args, kwargs) = placed(model, inputs, setting)

    def forward(*args: Tensor, **kwargs: Tensor) -> Any:
        return network(*args, **kwargs)

    function = torch.compile(_own_code(forward), dynamic=False)
    # Without this, PyTorch would run eagerly beyond its recompile limit and only log that.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        return [torch_run(lambda: function(*args, **kwargs), setting)]


def placed(model: nn.Module, inputs: Inputs, setting: Setting) -> tuple[nn.Module, Arguments]:
    """Copy a network in eval mode, and inputs, to the setting's device and memory format.

    Tensors that are there already are shared with the original.
    """

    def place(tensor: Tensor) -> Tensor:
        moved = tensor.to(setting.device)
        if setting.channels_last and moved.dim() == 4:
            return moved.contiguous(memory_format=torch.channels_last)
        return moved

    arguments = tree_map_only(Tensor, place, noise(inputs, model, setting.batch))
    return copied(model, lambda _, tensor: place(tensor.detach())).eval(), arguments


def torch_run(forward: Run, setting: Setting) -> Run:
    """Run a PyTorch forward pass once; return a function that runs it on the setting's threads."""

    def run() -> Any:
        if torch.get_num_threads() != setting.threads:  # set by another run
            torch.set_num_threads(setting.threads)
        with torch.inference_mode():
            return forward()

    run()
    return run


_numbers = itertools.count()


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of the function with a code object of its own.

    PyTorch caches compiled code by code object. If networks shared one, each would search the
    others' entries, and beyond the recompile limit PyTorch would stop compiling.
    """
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"forward_{next(_numbers)}")
    return types.FunctionType(code, function.__globals__, closure=function.__closure__)


# --- ONNX Runtime -------------------------------------------------------------------------------


def ort(model: nn.Module, inputs: Inputs, setting: Setting, number: int) -> list[Run]:
    """Export a network by `precrop.deployment.onnx_files.write_onnx`; load it in ONNX Runtime."""
    arguments = noise(inputs, model, setting.batch)
    with onnx_file(model, inputs, setting.batch) as path:
        return [ort_run(path, arguments, setting) for _ in range(number)]


def ort_run(path: Path, arguments: Arguments, setting: Setting) -> Run:
    """Load an ONNX file and run it once on these inputs; return a function that runs it again."""
    session = onnx_session(path, setting.threads, setting.device)
    binding = bound(session, arguments, setting.device)

    def run(_held: Arguments = arguments) -> Any:  # older bindings read memory that they don't own
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    run()
    return run


@contextmanager
def onnx_file(model: nn.Module, inputs: Inputs, batch: int) -> Iterator[Path]:
    """Write the network to a temporary ONNX file, removed at the end of the context.

    It takes any batch size, or only this one if the network cannot be exported for any.
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
"""A new runtime needs a function, and a line here and in `precrop.deployment.setting.LIBRARIES`."""
