"""Writes ONNX files by PyTorch's exporter and runs them in ONNX Runtime."""

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten

from precrop.deployment.exportable import Arguments, Exportable, Runs, export_mode, innermost_reason
from precrop.deployment.setting import check_runtime
from precrop.errors import PrecropError, errors_as
from precrop.files import checked_path
from precrop.modules.names import parameters_of
from precrop.processes import environment
from precrop.read.examples import tensors_in

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding


def write_onnx(source: Exportable, path: Path) -> None:
    """Write an ONNX file whose inputs have the names of forward's arguments.

    Weights of more than 1.5 GB go to a second file, with ``.data`` appended to the name.

    Raises:
        PrecropError: torch cannot export the network (with its reason), it has bfloat16 weights,
            which ONNX Runtime could not run, or a library is missing.
        OSError: the file cannot be written.
    """
    check_runtime("ort")
    if any(one.dtype is torch.bfloat16 for one in parameters_of(source.model).values()):
        raise PrecropError("ONNX Runtime has no bfloat16 kernels on a CPU: export model.float()")
    from onnx_ir.passes.common import NameFixPass

    program = source.program
    names = _input_names(source)
    try:
        with export_mode():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=_output_names(program),
                dynamic_shapes=tuple(_batch_axes(program)),
            )
            assert made is not None
            NameFixPass()(made.model)  # inner values may have had these names
            made.model.metadata_props.update(
                {name: json.dumps(value) for name, value in source.facts.items()}
            )
            # None: a single file if it is below 1.5 GB; protobuf's limit is 2 GB.
            made.save(path, external_data=None)
    except OSError:
        raise
    except Exception as error:  # torch.onnx raises errors of any kind
        failure = f"torch.onnx cannot translate this network: {innermost_reason(error)}"
        raise PrecropError(failure) from error


def open_onnx(path: Path, source: Exportable) -> Runs:
    """Return a function that runs a file, on as many threads as PyTorch has."""
    session = onnx_session(path, torch.get_num_threads())

    def run(arguments: Arguments) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in _named(session, arguments).items()}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def onnx_session(
    path: Path, threads: int, device: str = "cpu", profile: Path | None = None
) -> "InferenceSession":
    """Load an ONNX file into ONNX Runtime, with all optimizations on.

    Args:
        path: the file.
        threads: CPU threads that work on one operation.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        profile: prefix of the file name for ONNX Runtime's own profile of the nodes, if wanted.

    Raises:
        PrecropError: ONNX Runtime is not installed, or cannot load the file or use the device.
    """
    check_runtime("ort")
    onnxruntime = _library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # Threads that keep spinning after a run would slow down whatever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    kind, number = _place(device)
    provider: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    if kind != "cpu":
        provider = "CUDAExecutionProvider", {"device_id": number}
        if provider[0] not in onnxruntime.get_available_providers():
            raise PrecropError("this onnxruntime has no CUDA: pip install onnxruntime-gpu instead")
    # ONNX Runtime's errors have no common base class.
    with errors_as("ONNX Runtime cannot load it", Exception, told=innermost_reason):
        session = onnxruntime.InferenceSession(checked_path(path), options, providers=[provider])
    if session.get_providers()[0] != provider[0]:
        raise PrecropError(f"ONNX Runtime cannot start {provider[0]}: see its log above")
    return session


def bound(session: "InferenceSession", arguments: Arguments, device: str) -> "IOBinding":
    """Bind inputs and outputs to a device, so that runs do not copy them.

    The binding may only refer to the arguments' memory: hold them for as long as it is used.
    """
    onnxruntime, place = _library(), _place(device)
    binding = session.io_binding()
    for name, tensor in _named(session, arguments).items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy(), *place)
        binding.bind_ortvalue_input(name, value)
    for entry in session.get_outputs():
        binding.bind_output(entry.name, *place)
    return binding


def _library() -> ModuleType:
    """Import ONNX Runtime, with its telemetry off unless the user has set the variable.

    Version 1.32 reports what is run, in a thread of its own, unless told when it is imported.
    """
    said = "ORT_DISABLE_TELEMETRY"
    imported = "onnxruntime" in sys.modules
    with environment({} if imported or said in os.environ else {said: "1"}):
        return importlib.import_module("onnxruntime")


def _place(device: str) -> tuple[str, int]:
    """Return a device's kind and index."""
    kind, _, number = device.partition(":")
    return kind, int(number or 0)


def _named(session: "InferenceSession", arguments: Arguments) -> dict[str, Tensor]:
    """Return the tensors among the arguments by the names of the file's inputs (same order)."""
    names = (entry.name for entry in session.get_inputs())
    return dict(zip(names, tensors_in(arguments), strict=True))


def _input_names(source: Exportable) -> list[str]:
    """Return the names of forward's arguments, in the order of the exported program's inputs."""
    args, kwargs = source.program.example_inputs
    by_place = inspect.signature(source.model.forward).bind_partial(*args).arguments
    places, _ = tree_flatten_with_path({**by_place, **kwargs})
    return [_name(place) for place, _ in places]


def _batch_axes(program: ExportedProgram) -> Iterator[dict[int, str]]:
    """Yield, for every input, its axis of dynamic size, if any, with the name ``batch``."""
    for node in program.graph.nodes:
        if node.name in program.graph_signature.user_inputs:
            sizes = getattr(node.meta.get("val"), "shape", ())
            yield {axis: "batch" for axis, size in enumerate(sizes) if not isinstance(size, int)}


def _output_names(program: ExportedProgram) -> list[str]:
    """Return the outputs' names: ``output``, or the keys and indices that lead to a tensor."""
    specs = program.graph_signature.output_specs
    user = [spec for spec in specs if spec.kind is OutputKind.USER_OUTPUT]
    outputs = tree_unflatten(list(range(len(user))), program.call_spec.out_spec)
    places, _ = tree_flatten_with_path(outputs)
    return [
        _name(place)
        for (place, _), spec in zip(places, user, strict=True)
        if not isinstance(spec.arg, ConstantArgument)
    ]


def _name(place: tuple[Any, ...]) -> str:
    """Turn a place such as ``['boxes'][0]`` into a name: ``boxes_0``."""
    parts = re.findall(r"\w+", keystr(place))
    if not parts or parts[0].isdecimal():
        parts = ["output", *parts]
    return "_".join(parts)
