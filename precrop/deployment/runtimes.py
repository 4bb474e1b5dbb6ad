"""Runtimes that run a network: eager and compiled PyTorch, and ONNX Runtime.

A runtime is one function from a network to a `Runner`, and a line in `RUNTIMES`.
"""

import importlib.util
import itertools
import os
import re
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from precrop.deployment.timing import CudaStopwatch, HostStopwatch, Stopwatch, own_time
from precrop.errors import PrecropError
from precrop.modules.copying import copied, first_line
from precrop.read.examples import tensors_in
from precrop.read.inputs import Inputs

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        batch: images at once.
        threads: of the CPU that work on one operation.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        channels_last: PyTorch keeps images and weights in that memory format. ONNX Runtime chooses
            its own.
    """

    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense, or is not there."""
        if self.batch < 1 or self.threads < 1:
            raise PrecropError(
                f"batch {self.batch} on {self.threads} threads: give 1 or more of both"
            )
        cores = os.cpu_count() or self.threads
        if self.threads > cores:
            raise PrecropError(f"{self.threads} threads: this machine has {cores} CPU cores")
        check_device(self.device)


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


def runner(
    model: nn.Module,
    inputs: Inputs,
    *,
    runtime: str = "eager",
    batch: int = 1,
    threads: int = 1,
    device: str = "cpu",
    channels_last: bool = False,
) -> Runner:
    """A network in evaluation mode, loaded into a runtime and run once.

    Args:
        model: the network; it is only looked at. On a CPU the runner shares its tensors.
        inputs: shapes without the batch. The values are normal noise, the same for every network.
        runtime: a name in `RUNTIMES`.
        batch: images at once.
        threads: of the CPU that work on one operation, while the runner runs.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        channels_last: PyTorch's memory format for images and convolutions.

    Raises:
        PrecropError: the runtime is unknown, not installed, or cannot run this network; the device
            is not there; or a number makes no sense.
    """
    check_runtime(runtime)
    setting = Setting(batch, threads, device, channels_last)
    with _explained(runtime):
        return RUNTIMES[runtime](model, inputs, setting)


def sessions(
    model: nn.Module, inputs: Inputs, count: int, *, runtime: str, setting: Setting
) -> list[Runner]:
    """A network loaded so many times, where that makes a difference; else once.

    A session of ONNX Runtime can be slow all its life.

    Raises:
        PrecropError: as for `runner`.
    """
    check_runtime(runtime)
    with _explained(runtime):
        if runtime != "ort":
            return [RUNTIMES[runtime](model, inputs, setting)]
        with onnx_file(model, inputs, setting.batch) as path:
            return [ort_runner(path, model, inputs, setting) for _ in range(count)]


@contextmanager
def _explained(runtime: str) -> Iterator[None]:
    """What a runtime raises becomes an error of the user's."""
    try:
        yield
    except PrecropError:
        raise
    except Exception as error:  # whatever a network or a runtime raises
        raise PrecropError(f"{runtime} cannot run this network: {first_line(error)}") from error


def check_runtime(runtime: str) -> None:
    """Refuse a runtime that is not known or not installed.

    Raises:
        PrecropError: it is not there.
    """
    if runtime not in RUNTIMES:
        raise PrecropError(f"runtime {runtime!r} is unknown: choose from {', '.join(RUNTIMES)}")
    for library in _LIBRARIES.get(runtime, ()):
        if importlib.util.find_spec(library) is None:
            raise PrecropError(f"{library} is not installed: pip install 'precrop[deploy]'")


def check_device(device: str) -> None:
    """Refuse a device other than the CPU and this machine's GPUs.

    Raises:
        PrecropError: it is not there, or not known.
    """
    kind, _, number = device.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
        raise PrecropError(f"device {device!r} is unknown: write cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise PrecropError(f"device {device} is not there: PyTorch sees no such GPU; write cpu")


def eager(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """PyTorch, operation by operation."""
    network, args, kwargs = _with_input(model, inputs, setting)
    return torch_runner(lambda: network(*args, **kwargs), setting)


def compiled(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """PyTorch with `torch.compile` for this batch size."""
    network, args, kwargs = _with_input(model, inputs, setting)

    def forward(*args: Tensor, **kwargs: Tensor) -> Any:
        return network(*args, **kwargs)

    function = torch.compile(_own_code(forward), dynamic=False)
    # Beyond its limit of recompilations PyTorch would go on eagerly, and say so in its log only.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        return torch_runner(lambda: function(*args, **kwargs), setting)


def ort(model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """ONNX Runtime on what `precrop.deployment.exporting.to_onnx` writes, all optimizations on."""
    with onnx_file(model, inputs, setting.batch) as path:
        return ort_runner(path, model, inputs, setting)


def stopwatch(setting: Setting) -> HostStopwatch:
    """What takes times on the host: of one thread alone its own time, else the host's clock."""
    alone = setting.device == "cpu" and setting.threads == 1
    return own_time() if alone else HostStopwatch()


def ort_runner(path: Path, model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    """An ONNX file ready to be run; it takes the same as `onnx_session`."""
    session, binding = onnx_session(path, model, inputs, setting)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    # It waits for a GPU by itself, in a stream of its own: events in PyTorch's would tell nothing.
    return Runner(run, stopwatch(setting))


@contextmanager
def onnx_file(model: nn.Module, inputs: Inputs, batch: int) -> Iterator[Path]:
    """The network as an ONNX file, for as long as the block lasts.

    It takes any batch size, or this one where the network cannot be exported for any.
    """
    from precrop.deployment.exporting import to_onnx

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "network.onnx")
        placed = placed_copy(model, Setting())
        try:
            to_onnx(placed, inputs, path)
        except PrecropError:
            to_onnx(placed, inputs, path, batch=batch)
        yield path


def onnx_session(
    path: Path, model: nn.Module, inputs: Inputs, setting: Setting, profile: Path | None = None
) -> tuple["onnxruntime.InferenceSession", "onnxruntime.IOBinding"]:
    """An ONNX file loaded into ONNX Runtime, and its inputs and outputs.

    Args:
        path: the file.
        model: the network that it was made of; it is only looked at.
        inputs: shapes without the batch.
        setting: batch size, threads and device.
        profile: first part of the name of ONNX Runtime's own profile of every node, if wanted.

    Raises:
        PrecropError: ONNX Runtime is not installed, or cannot run this network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PrecropError("onnxruntime is not installed: pip install 'precrop[deploy]'") from error

    provider = _provider(onnxruntime.get_available_providers(), setting.device)
    options = _ort_options(setting.threads)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise PrecropError(f"ONNX Runtime cannot load it: {first_line(error)}") from error
    if session.get_providers()[0] != provider[0]:
        raise PrecropError(f"ONNX Runtime cannot start {provider[0]}: see its log above")
    return session, _bound(session, model, inputs, setting)


RUNTIMES: dict[str, Callable[[nn.Module, Inputs, Setting], Runner]] = {
    "eager": eager,
    "compiled": compiled,
    "ort": ort,
}
"""Adding a runtime is a function and a line here."""

_LIBRARIES = {"ort": ("onnx", "onnxscript", "onnxruntime")}
"""What a runtime needs beside PyTorch."""


def noise(inputs: Inputs, model: nn.Module, batch: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Normal noise of the inputs' shapes, the same each time, on the CPU."""
    args, kwargs = inputs.make(batch, model, "cpu")
    random = torch.Generator().manual_seed(0)
    for tensor in tensors_in((args, kwargs)):
        if tensor.is_floating_point():
            tensor.normal_(generator=random)
    return args, kwargs


def placed_copy(model: nn.Module, setting: Setting) -> nn.Module:
    """The network in evaluation mode where the setting has it; tensors that can stay are shared."""
    return copied(model, lambda name, tensor: _placed(tensor.detach(), setting)).eval()


def _placed(tensor: Tensor, setting: Setting) -> Tensor:
    moved = tensor.to(setting.device)
    if setting.channels_last and moved.dim() == 4:
        return moved.contiguous(memory_format=torch.channels_last)
    return moved


def _with_input(
    model: nn.Module, inputs: Inputs, setting: Setting
) -> tuple[nn.Module, list[Tensor], dict[str, Tensor]]:
    """A network and its input where the setting has them."""
    args, kwargs = noise(inputs, model, setting.batch)
    return (
        placed_copy(model, setting),
        [_placed(tensor, setting) for tensor in args],
        {name: _placed(tensor, setting) for name, tensor in kwargs.items()},
    )


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
    return Runner(run, CudaStopwatch() if on_gpu else stopwatch(setting), closing)


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


def _provider(available: list[str], device: str) -> tuple[str, dict[str, Any]]:
    """ONNX Runtime's name for a device, and its options."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return "CPUExecutionProvider", {}
    if "CUDAExecutionProvider" not in available:
        raise PrecropError("this onnxruntime has no CUDA: pip install onnxruntime-gpu instead")
    return "CUDAExecutionProvider", {"device_id": int(number or 0)}


def _ort_options(threads: int) -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # Threads that spin on after a run would take cores from whoever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _bound(
    session: "onnxruntime.InferenceSession", model: nn.Module, inputs: Inputs, setting: Setting
) -> "onnxruntime.IOBinding":
    """Inputs and outputs bound to the device, so that no run copies them."""
    import onnxruntime

    kind, _, number = setting.device.partition(":")
    args, kwargs = noise(inputs, model, setting.batch)
    names = [entry.name for entry in session.get_inputs()]
    unnamed = [name for name in names if name not in kwargs]
    arrays = {**dict(zip(unnamed, args, strict=True)), **kwargs}
    binding = session.io_binding()
    for name in names:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(
            arrays[name].numpy(), kind, int(number or 0)
        )
        binding.bind_ortvalue_input(name, value)
    for entry in session.get_outputs():
        binding.bind_output(entry.name, kind, int(number or 0))
    return binding
