"""Exports every network of the coverage matrix to pt2 and ONNX and writes docs/export.md.

Run from the repository's root: ``python -m scripts.export_table --cache results/exports.jsonl
--markdown docs/export.md``; with ``--crop 0.5`` the networks are first cropped to half their MACs.
What is in the cache isn't exported again, so an interrupted run resumes, and dense and cropped
networks go into one page. Networks are exported in worker processes: a network that hangs or kills
its process is recorded, stops nothing, and is tried again by the next run.

Exits with status 1 if a network fails that PyTorch itself exports.
"""

import argparse
import dataclasses
import fnmatch
import io
import json
import multiprocessing
import platform
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

import precrop
from precrop.deployment.exportable import BATCHES, Exportable, innermost_reason, noise
from precrop.deployment.exporting import TOLERANCE, difference, write
from precrop.errors import PrecropError
from precrop.files import write_text
from precrop.read.inputs import Inputs
from precrop.zoo import load_model
from tests.matrix.networks import Entry, entries

FORMATS = ("pt2", "onnx")
Runs = Callable[[Sequence[Tensor]], list[Tensor]]
PER_PROCESS = 20
"""Networks that one process exports before a fresh one takes over, with all memory given back."""


@dataclass
class Attempt:
    """The result for one network in one format."""

    batch: int | None = None  # the one batch size of the file, or None for any
    difference: float | None = None  # the largest from PyTorch's outputs, relative to their scale
    telling: bool = True  # whether the network's outputs depend on its input
    megabytes: float = 0.0  # of the file
    error: str = ""  # why there is no file, or ``""``
    torch_error: str = ""  # in what way PyTorch's own exporter fails on the network, or ``""``
    any_error: str = ""  # why the file does not take any batch size, or ``""``
    torch_any_error: str = ""  # in what way PyTorch's own exporter fails on that, or ``""``
    seconds: float = 0.0  # the second format goes on from the first's exported program

    @property
    def ours(self) -> bool:
        """Whether we fail to export what PyTorch itself exports."""
        return bool(self.error) and not self.torch_error

    @property
    def ours_any(self) -> bool:
        """The same for a dynamic batch size."""
        return bool(self.any_error) and not (self.error or self.torch_any_error)


@dataclass
class Result:
    """The results for one network, as plain values that fit in a line of JSON."""

    name: str  # of the network
    crop: float | None  # the share of its MACs that it was cropped to, or None
    formats: dict[str, Attempt] = field(default_factory=dict)  # by name
    stopped: str = ""  # why there is no answer: it took too long, or its process died; or ``""``
    seconds: float = 0.0  # in all

    def to_json(self) -> str:
        """Return the result as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """Read what `to_json` returned."""
        content = json.loads(text)
        content["formats"] = {n: Attempt(**one) for n, one in content["formats"].items()}
        return cls(**content)

    @property
    def sound(self) -> bool:
        """Whether PyTorch itself has all failures, too."""
        found = self.formats.values()
        return not self.stopped and not any(one.ours or one.ours_any for one in found)


def main() -> int:
    """Export what the cache lacks, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="JSON-lines file of results")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="networks by name")
    parser.add_argument("--crop", type=float, help="crop to this share of the MACs before")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one network")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: 1)")
    options = parser.parse_args()
    chosen = [entry for entry in entries() if fnmatch.fnmatch(entry.name, options.only)]
    known = read_cache(options.cache)
    rest = [entry for entry in chosen if (entry.name, options.crop) not in known]
    for result in export_all(rest, options.crop, options.timeout, options.threads):
        known[result.name, result.crop] = result
        with options.cache.open("a") as file:
            file.write(result.to_json() + "\n")
    if options.markdown is not None:
        write_text(options.markdown, page(list(known.values())))
        print(f"wrote {options.markdown}")
    wrong = [result for result in known.values() if not result.sound]
    for result in wrong:
        print(f"{result.name}: {result.stopped or 'PyTorch itself exports it'}", file=sys.stderr)
    return 1 if wrong else 0


def read_cache(cache: Path) -> dict[tuple[str, float | None], Result]:
    """Return the results of earlier runs, except those that were stopped or cut off."""
    known = {}
    for line in cache.read_text().splitlines() if cache.exists() else []:
        try:
            found = Result.from_json(line)
        except (json.JSONDecodeError, TypeError, KeyError):
            continue
        if not found.stopped:
            known[found.name, found.crop] = found
    return known


# --- processes ------------------------------------------------------------------------------------


class Worker:
    """A process that exports networks one after the other."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, threads), daemon=True)
        self.process.start()
        there.close()
        self.done = 0

    def result(self, entry: Entry, crop: float | None, timeout: float) -> Result:
        """Return the result for one network; if there is none in time, the process is killed."""
        self.connection.send((entry, crop))
        self.done += 1
        try:
            if self.connection.poll(timeout):
                found: Result = self.connection.recv()
                return found
            self.kill()
            return Result(entry.name, crop, stopped=f"took more than {timeout:.0f} seconds")
        except (EOFError, ConnectionError):
            self.kill()
            code = self.process.exitcode
            return Result(entry.name, crop, stopped=f"its process died with status {code}")

    def stop(self) -> None:
        """Let the process end by itself."""
        self.connection.close()
        self.process.join()

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()
        self.done = PER_PROCESS


def export_all(
    networks: Sequence[Entry], crop: float | None, timeout: float, threads: int
) -> Iterator[Result]:
    """Yield the results in the order of the networks."""
    columns = (TextColumn("{task.description:45}"), BarColumn(), MofNCompleteColumn())
    worker: Worker | None = None
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(networks))
        try:
            for entry in networks:
                progress.update(task, description=entry.name)
                if worker is None or worker.done >= PER_PROCESS:
                    if worker is not None:
                        worker.stop()
                    worker = Worker(threads)
                yield worker.result(entry, crop, timeout)
                progress.advance(task)
        finally:
            if worker is not None:
                worker.stop()


def serve(connection: Connection, threads: int) -> None:
    """Export the networks that come through the connection, until it is closed."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # networks' own
    sys.stdout = sys.stderr = io.StringIO()  # exporters print whole graphs where they fail
    while True:
        try:
            entry, crop = connection.recv()
        except EOFError:
            return
        connection.send(export_one(entry, crop))


# --- one network ----------------------------------------------------------------------------------


def export_one(entry: Entry, crop: float | None) -> Result:
    """Export a network in every format, for any batch size if possible, else for one."""
    start = time.perf_counter()
    result = Result(entry.name, crop)
    torch.manual_seed(0)
    try:
        model = load_model(entry.name, {})
        if crop is not None:
            model = precrop.plan(model, entry.shape, macs=crop, divisor=1).build(model)
        settle(model, entry)
        inputs = Inputs(entry.run_shape)
        sources = [Exportable(model, inputs), Exportable(model, inputs, batch=1)]
        for name in FORMATS:
            result.formats[name] = attempt(sources, name)
    except Exception as error:  # a traceback is a shortfall too
        result.formats = {name: Attempt(error=innermost_reason(error)) for name in FORMATS}
    result.seconds = round(time.perf_counter() - start, 2)
    return result


def settle(model: nn.Module, entry: Entry) -> None:
    """Give an untrained network statistics and no zeros, so that equal outputs prove something.

    Parameters that start at zero (last layers, last norms) hide what comes before them, and norms
    without statistics let deep networks overflow. One pass in train mode moves the statistics half
    way to those of a batch. A detector needs boxes to train, so only its backbone runs.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.02)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 0.5
        trained: Any = model.backbone if entry.detector else model
        trained.train()(torch.randn(2, *entry.run_shape))
    model.eval()


def attempt(sources: Sequence[Exportable], name: str) -> Attempt:
    """Export in one format, from the first source that works."""
    start = time.perf_counter()
    found = Attempt(error="")
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            try:
                made = write(source, Path(folder) / f"network.{name}", name)
            except PrecropError as error:
                found.any_error = found.any_error or plain(error)
                found.error = plain(error)
                continue
            found.batch, found.difference = made.batch, made.difference
            found.telling, found.megabytes = made.telling, round(made.bytes / 1e6, 1)
            found.error = ""
            break
    found.seconds = round(time.perf_counter() - start, 2)
    model, inputs = sources[0].model, sources[0].inputs
    if found.error:
        found.torch_error = bare(model, inputs, name, 1)
    elif found.any_error:
        found.torch_any_error = bare(model, inputs, name, None)
    return found


def plain(error: PrecropError) -> str:
    """Return the error without its hint and without the temporary file's name."""
    text = str(error).partition("; it may with one batch size")[0]
    head, _, tail = text.partition(" was not kept: ")
    return tail or head


def bare(model: nn.Module, inputs: Inputs, name: str, batch: int | None) -> str:
    """Return how PyTorch's own exporter fails if called as documented; ``""`` if it doesn't."""
    args, _ = noise(inputs, model, batch or 2)
    shapes = None if batch else tuple({0: Dim("batch")} for _ in args)
    largest = 0.0
    try:
        run = BARE[name](model.eval(), args, shapes)
        for size in (batch,) if batch else BATCHES:
            args, _ = noise(inputs, model, size)
            with torch.no_grad():
                largest = max(largest, difference(run(args), leaves(model(*args))))
    except Exception as error:  # exporters raise errors of any kind
        return re.sub(r"/\S+/network\.onnx", "network.onnx", innermost_reason(error))
    return "" if largest <= TOLERANCE else f"its outputs differ by {largest:.1e} of their scale"


def bare_pt2(model: nn.Module, args: Sequence[Tensor], shapes: Any) -> Runs:
    """Return what runs a network's `torch.export` program."""
    module = torch.export.export(model, tuple(args), dynamic_shapes=shapes).module()
    return lambda given: leaves(module(*given))


def bare_onnx(model: nn.Module, args: Sequence[Tensor], shapes: Any) -> Runs:
    """Return what runs the file of `torch.onnx.export` in ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            model, tuple(args), path, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


BARE = {"pt2": bare_pt2, "onnx": bare_onnx}


def leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors in a network's output."""
    return [leaf.detach() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


# --- the page -------------------------------------------------------------------------------------

TEXT = f"""# Export

    precrop export half.json --weights half.safetensors -o half.onnx   # a plan's network; .pt too
    precrop export runs/resnet20-digits-0123456789ab --format pt2      # a trained run
    precrop export resnet50 --format safetensors                       # a network by name
    precrop export mine:net --input mine:tokens                        # one that takes token ids

writes one file and checks it by running it; `pip install '.[deploy]'` brings what ONNX needs.

| format | written by | read by | checked in |
|---|---|---|---|
| `onnx` | `torch.onnx.export(dynamo=True)` | ONNX Runtime and others | ONNX Runtime, on a CPU |
| `pt2` | `torch.export.save` | `torch.export.load`, without the network's code | the same |
| `safetensors` | `save_file`, with the plan | `load_safetensors` | a network built anew |

**The check.** The file is run on random inputs at batch {BATCHES[0]} and {BATCHES[1]}, and every
output may differ from PyTorch's by at most {TOLERANCE:.0e} of its largest value. The difference is
printed. A file that fails is removed, and what had its name before stays.

**Batch.** Files take any batch size. Networks that PyTorch cannot export that way (they loop over
the batch) are refused with its reason; `--batch 1` exports them for one size.

**Names.** ONNX inputs are called as the arguments of `forward`, outputs by the keys and places that
lead to them: `output`, `output_0`, `boxes_0`. A masked network is exported dense, with zeros.
Weights beyond 1.5 GB go to a second file, `half.onnx.data`.

From Python:

```python
import precrop
from precrop.deployment.exporting import export
from precrop.models import resnet20

small = precrop.crop(resnet20(), (3, 32, 32), macs=0.5)
made = export(small, (3, 32, 32), "half.onnx")
print(made.difference)
```

**Its inputs.** Every file names its network and input shape. That of a run of `precrop train` also
has `mean`, `std`, `crop_pct` (the share of an image's shorter side that was used) and `classes`:
ONNX in `metadata_props`, each in JSON; pt2 in the extra file `precrop`; safetensors in the metadata
entry `precrop`. So a file runs with ONNX Runtime, NumPy and Pillow alone
([examples/onnx_runtime.py](../examples/onnx_runtime.py)):

```python
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, picture = "net.onnx", "photo.png"
session = onnxruntime.InferenceSession(file)
about = {{name: json.loads(x) for name, x in session.get_modelmeta().custom_metadata_map.items()}}
size, border = about["input_shape"][:0:-1], (1 - about["crop_pct"]) / 2
photo = Image.open(picture).convert("RGB")
image = ImageOps.fit(photo, size, Image.Resampling.BILINEAR, border)
pixels = ((np.asarray(image) / 255 - about["mean"]) / about["std"]).astype(np.float32)
(scores,) = session.run(None, {{session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]}})
print(about["classes"][scores.argmax()])
```
"""


def page(results: Sequence[Result]) -> str:
    """Return the whole page."""
    order = {entry.name: place for place, entry in enumerate(entries())}
    crops = sorted({result.crop for result in results}, key=lambda crop: -(crop or 1))
    lines = [TEXT, "## The coverage matrix", "", *_conditions(), ""]
    for crop in crops:
        chosen = [result for result in results if result.crop == crop and result.name in order]
        chosen.sort(key=lambda result: order[result.name])
        lines += _section(chosen, crop)
    return "\n".join(lines)


def _conditions() -> Iterator[str]:
    import onnxruntime
    import onnxscript
    import timm
    import torchvision

    yield "Networks of [the matrix](coverage.md) with fresh weights, on small images where they"
    yield "take them, by `python -m scripts.export_table --cache results/exports.jsonl --markdown"
    yield "docs/export.md`"
    yield f"(Python {platform.python_version()}, torch {torch.__version__}, torchvision"
    yield f"{torchvision.__version__}, timm {timm.__version__}, onnxscript"
    yield f"{onnxscript.__version__}, ONNX Runtime {onnxruntime.__version__}). Where an export"
    yield "fails, the reason of PyTorch's own exporter stands beside ours."


def _section(results: Sequence[Result], crop: float | None) -> Iterator[str]:
    yield "### Dense networks" if crop is None else f"### Cropped to {crop:.0%} of their MACs"
    yield ""
    missing = len(entries()) - len(results)
    if missing:
        yield f"{len(results)} networks of the matrix; {missing} more were not tried yet."
        yield ""
    for name in FORMATS:
        yield _summary(results, name)
    stopped = [result for result in results if result.stopped]
    yield from (f"- {result.name}: no answer, {result.stopped}." for result in stopped)
    yield ""
    failures = list(_failures(results))
    if failures:
        yield "| network | format | batch | precrop says | PyTorch by itself |"
        yield "|---|---|---|---|---|"
        yield from failures
        yield ""
    yield "| network | batch | pt2: difference | ONNX: difference | MB | seconds |"
    yield "|---|---|---:|---:|---:|---:|"
    for result in results:
        if not result.stopped:
            yield _row(result)
    yield ""


def _summary(results: Sequence[Result], name: str) -> str:
    found = [result.formats[name] for result in results if not result.stopped]
    good = [one for one in found if not one.error]
    fixed = sum(one.batch is not None for one in good)
    largest = max((one.difference or 0.0 for one in good), default=0.0)
    failing = len(found) - len(good)
    ours = sum(one.ours or one.ours_any for one in found)
    silent = sum(not one.telling for one in good)
    text = (
        f"- {name}: {len(good)} of {len(results)} networks, {len(good) - fixed} of them for any "
        f"batch size; the largest difference is {largest:.1e}. {failing} fail."
    )
    if ours:
        text += f" PyTorch itself exports {ours} of those that fail or take one batch size alone."
    if silent:
        text += f" The outputs of {silent} do not depend on the input."
    return text


def _failures(results: Iterable[Result]) -> Iterator[str]:
    for result in results:
        for name, one in result.formats.items():
            if one.error:
                cells = ["1", one.error, one.torch_error]
            elif one.any_error:
                cells = ["any", one.any_error, one.torch_any_error]
            else:
                continue
            cells[2] = cells[2] or "**exports it**"
            texts = [cell.replace("|", "\\|").replace("](", "] (") for cell in cells]
            yield "| " + " | ".join([result.name, name, *texts]) + " |"


def _row(result: Result) -> str:
    pt2, onnx = (result.formats[name] for name in FORMATS)
    sizes = {str(one.batch or "any") for one in (pt2, onnx) if not one.error}
    cells = [result.name, " / ".join(sorted(sizes)) or "–"]
    cells += ["–" if one.difference is None else f"{one.difference:.1e}" for one in (pt2, onnx)]
    size = onnx.megabytes or pt2.megabytes
    cells += [f"{size:.1f}" if size else "–", f"{result.seconds:.1f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
