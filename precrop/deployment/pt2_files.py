"""Writes and runs PyTorch's own exported programs, which do not need the network's code."""

import io
import json
from pathlib import Path

import torch

from precrop.deployment.exportable import (
    Arguments,
    Exportable,
    Runs,
    export_mode,
    innermost_reason,
    run,
)
from precrop.deployment.runtimes import torch_run
from precrop.deployment.setting import Setting
from precrop.deployment.timing import Run
from precrop.errors import errors_as
from precrop.files import checked_path

RECORD = "precrop"
"""Name of the extra file with the metadata."""


def write_pt2(source: Exportable, path: Path) -> None:
    """Write a file by `torch.export.save`, for `torch.export.load`.

    Raises:
        PrecropError: torch cannot export the network, with its reason.
        OSError: the file cannot be written.
    """
    program = source.program
    # In memory first: on a full disk, PyTorch's own writer ends the process.
    held = io.BytesIO()
    failure = "torch.export cannot save this network"
    with errors_as(failure, Exception, told=innermost_reason), export_mode():
        torch.export.save(program, held, extra_files={RECORD: json.dumps(source.facts)})
    path.write_bytes(held.getbuffer())


def open_pt2(path: Path, source: Exportable) -> Runs:
    """Return a function that runs a file."""
    with export_mode():
        module = torch.export.load(checked_path(path)).module()
    return lambda arguments: run(module, arguments)


def pt2_run(path: Path, arguments: Arguments, setting: Setting) -> Run:
    """Load a file and run it once on these inputs, on a CPU; return a function that reruns it."""
    module, (args, kwargs) = torch.export.load(checked_path(path)).module(), arguments
    return torch_run(lambda: module(*args, **kwargs), setting)
