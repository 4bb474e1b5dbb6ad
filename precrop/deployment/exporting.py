"""Exports networks to ONNX, pt2 and safetensors files, and checks every file by running it.

Inputs given by shapes have the batch as first axis. Files take any batch size unless one is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from precrop.deployment.exportable import Arguments, Exportable, Origin, Runs, innermost_reason
from precrop.deployment.onnx_files import open_onnx, write_onnx
from precrop.deployment.pt2_files import open_pt2, pt2_run, write_pt2
from precrop.deployment.runtimes import ort_run
from precrop.deployment.safetensors_files import (
    load_safetensors,
    open_safetensors,
    write_safetensors,
)
from precrop.deployment.setting import Setting, check_runtime
from precrop.deployment.timing import Run
from precrop.errors import PrecropError, check_known, errors_as
from precrop.files import check_writable
from precrop.read.network import given_inputs

__all__ = ["Export", "Exportable", "Origin", "export", "load_safetensors"]

TOLERANCE = 1e-4
"""Largest accepted difference from PyTorch's outputs, relative to their largest value; in half
precision twice the type's epsilon, if that is more."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffix: suffix of the files' names.
        reader: what runs the files, in words.
        runtime: its name in `precrop.deployment.setting.LIBRARIES`.
        write: writes a network to a file.
        open: opens a network's file and returns a function that runs it.
        load: returns a function that runs a file on given inputs, to time it; None if it can't run.
        inert: whether opening an untrusted file runs no code in it. PyTorch's programs contain
            pickles and expressions that are evaluated: only files written here are opened.
    """

    suffix: str
    reader: str
    runtime: str
    write: Callable[[Exportable, Path], None]
    open: Callable[[Path, Exportable], Runs]
    load: Callable[[Path, Arguments, Setting], Run] | None = None
    inert: bool = True


FORMATS = {
    "onnx": Format(".onnx", "ONNX Runtime", "ort", write_onnx, open_onnx, ort_run),
    "pt2": Format(".pt2", "torch.export", "eager", write_pt2, open_pt2, pt2_run, inert=False),
    "safetensors": Format(
        ".safetensors", "a network built anew", "eager", write_safetensors, open_safetensors
    ),
}


@dataclass(frozen=True)
class Export:
    """An exported file, which was checked against PyTorch.

    Attributes:
        path: the file.
        format: a name in `FORMATS`.
        files: all files that were written: large ONNX files keep their weights in a second one.
        batch: the only batch size that it takes, or None for any.
        batches: batch sizes at which it was checked.
        difference: from PyTorch's outputs, as by `precrop.deployment.exporting.difference`.
        telling: whether the outputs depend on the inputs. If not (the last layer starts from
            zeros), the check says little.
        runtime: what ran it, in words.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    batch: int | None
    batches: tuple[int, ...]
    difference: float
    telling: bool
    runtime: str

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the record in JSON types."""
        files = [str(file) for file in self.files]
        return {**asdict(self), "path": str(self.path), "files": files, "bytes": self.bytes}


def export(
    model: nn.Module,
    input_shape: Any,
    path: str | Path,
    format: str | None = None,
    *,
    batch: int | None = None,
    origin: Origin | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Export:
    """Write a network to a file and check the file by running it on random inputs.

    An existing file is only replaced once the new file's outputs were found to be PyTorch's.

    Args:
        model: the network; it is not changed, and is exported in eval mode.
        input_shape: as in `precrop.plan`, example inputs too.
        path: the file.
        format: a name in `FORMATS`; if None, the one of the file's suffix, or ONNX if it has none.
        batch: the only batch size that the file takes; None for any. It does not matter for
            weights alone, or for example inputs without a batch axis.
        origin: how to rebuild the network; a safetensors file keeps it.
        metadata: further JSON values to keep, such as ``mean``, ``std``, ``classes``. All formats
            keep them, with the network's name and the shape of its input.

    Raises:
        PrecropError: torch cannot export the network (with its reason), a library is missing, the
            file cannot be written, has another format's suffix, or gives other outputs; or the
            metadata is not JSON.
    """
    inputs = given_inputs(model, input_shape)
    source = Exportable(model, inputs, batch=batch, origin=origin, metadata=metadata)
    return write(source, Path(path), format)


def format_of(path: Path, format: str | None = None) -> str:
    """Return the given format, or else the one of the file's suffix; without a suffix it is ONNX.

    Raises:
        PrecropError: the given format is unknown, or the suffix is that of another.
    """
    meant = next((n for n, kind in FORMATS.items() if kind.suffix == path.suffix.lower()), None)
    if format is None:
        if meant is None and path.suffix[1:].isalpha():  # .pt would hold what torch.load refuses
            suffixes = ", ".join(kind.suffix for kind in FORMATS.values())
            raise PrecropError(
                f"{path.name} says no format: name it {suffixes}, or give the format, too"
            )
        return meant or "onnx"
    check_known(f"format {format!r}", format, FORMATS)
    if meant not in (None, format):
        raise PrecropError(
            f"{path.name} would be a file of format {format} under the suffix of {meant}: write "
            f"{path.with_suffix(FORMATS[format].suffix).name}, or drop the format"
        )
    return format


def write(source: Exportable, path: Path, format: str | None = None) -> Export:
    """Write and check a file as `export` does; ``source`` can be reused for other formats."""
    format = format_of(path, format)
    kind = FORMATS[format]
    check_runtime(kind.runtime)
    check_writable(path)
    with (
        errors_as(f"cannot write {path}", OSError),
        TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
        ) as folder,
    ):
        temporary = Path(folder, path.name)
        # First, to tell a network that fails by itself from one that torch cannot export.
        _ = source.references
        kind.write(source, temporary)
        difference = _checked(kind, source, temporary, path)
        beside = [file for file in Path(folder).iterdir() if file != temporary]
        moved = [file.replace(path.parent / file.name) for file in (*sorted(beside), temporary)]
    return Export(
        path=path,
        format=format,
        files=tuple(reversed(moved)),
        batch=source.batch,
        batches=source.batches,
        difference=difference,
        telling=source.telling,
        runtime=kind.reader,
    )


def _checked(kind: Format, source: Exportable, file: Path, path: Path) -> float:
    """Return the largest difference of a file's outputs from PyTorch's; fail if it is too large."""
    doing, gaps = "read it", {}
    try:
        run = kind.open(file, source)
        for batch, (arguments, wanted) in source.references.items():
            doing = f"run a batch of {batch}"
            gaps[batch] = difference(run(arguments), wanted)
    except Exception as error:  # whatever a runtime raises
        text = innermost_reason(error).replace(str(file), path.name)
        raise PrecropError(f"{path} was not kept: {kind.reader} cannot {doing}: {text}") from error
    for batch, gap in gaps.items():
        _, wanted = source.references[batch]
        steps = (torch.finfo(one.dtype).eps for one in wanted if one.is_floating_point())
        most = max(TOLERANCE, 2 * max(steps, default=0.0))
        if not gap <= most:
            raise PrecropError(
                f"{path} was not kept: on a batch of {batch} its outputs in {kind.reader} differ "
                f"from PyTorch's by {gap:.1e} of their scale, more than {most:.0e}"
            )
    return max(gaps.values())


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return the largest difference of outputs, relative to the wanted output's largest value.

    It is infinite if their number, shapes, types or non-finite values differ, or any integers.
    """
    if len(found) != len(wanted):
        return float("inf")
    return max(map(_difference, found, wanted), default=0.0)


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if found.equal(wanted) else float("inf")
    finite = wanted.isfinite()
    same = torch.allclose(found[~finite], wanted[~finite], equal_nan=True)
    if not same or not bool(found[finite].isfinite().all()):
        return float("inf")
    found, wanted = found[finite].double(), wanted[finite].double()
    if not wanted.numel():
        return 0.0
    gap, scale = float((found - wanted).abs().max()), float(wanted.abs().max())
    return gap / scale if scale else (float("inf") if gap else 0.0)
