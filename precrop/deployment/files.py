"""Exported files, run as the programs run them that they are for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from precrop.deployment.runtimes import (
    Runner,
    Setting,
    noise,
    ort_runner,
    torch_runner,
)
from precrop.read.inputs import Inputs

Answer = Callable[[Tensor], Tensor]
"""From a batch of images to what a file says of them."""


@dataclass(frozen=True)
class FileKind:
    """How files of one format are run.

    Attributes:
        runtime: a name in `precrop.deployment.runtimes.RUNTIMES`: what networks are measured in
            that are to become such files.
        runner: gives a file ready to be timed; takes its network and inputs, to know what goes in.
        answer: gives a file of a network with one input and one output, on so many threads.
    """

    runtime: str
    runner: Callable[[Path, nn.Module, Inputs, Setting], Runner]
    answer: Callable[[Path, int], Answer]


def _onnx_answer(path: Path, threads: int) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _pt2_runner(path: Path, model: nn.Module, inputs: Inputs, setting: Setting) -> Runner:
    module = torch.export.load(path).module()
    args, kwargs = noise(inputs, model, setting.batch)
    return torch_runner(lambda: module(*args, **kwargs), setting)


def _pt2_answer(path: Path, threads: int) -> Answer:
    module = torch.export.load(path).module()
    return lambda images: module(images)


FILE_KINDS = {
    "onnx": FileKind("ort", ort_runner, _onnx_answer),
    "pt2": FileKind("eager", _pt2_runner, _pt2_answer),
}
"""By format; `precrop.deployment.exporting.FORMATS` has how they are written."""
