"""Mutates every kind of file that precrop reads at random, and reads it again.

    python -m scripts.fuzz_files --count 2000 --log fuzz-files.jsonl

A mutation changes bytes, or a value somewhere inside (digests and checksums are then made to match,
as an attacker would). Reading the file must end with exit status 0 and the right answer, or with
status 2 (1 if cells have failed) and one line: never with a traceback, after more than a minute, or
beyond a memory limit. Mutations are numbered, and a number makes the same mutation on any machine;
what the log has is not done again.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

SECONDS = 60.0
MEMORY = 8 << 30
"""Bytes of address space that a mutation may add to what the libraries take."""

STUDY = """
study: fuzzed
description: Small networks.
data: digits
recipe: {name: digits, epochs: 1}
seeds: [0, 1]
networks: [{model: resnet20, args: {num_classes: 10}}]
budgets: [{params: 0.5}, {macs: 0.3}]
variants:
  - {name: dense, seeds: [0]}
  - {name: PreCrop, plan: {divisor: 2, min_width: 2}}
  - {name: by hand, plan: {widths: {conv1: 8}}}
  - {name: masks, mask: "magnitude:weight"}
"""
OLD_STORE = Path(__file__).parents[1] / "tests/study/stores/merged"
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e-300, 1e300, 2**31, 2**53, 10**18, 10**30),
    *(float("nan"), float("inf"), "", "x", "..", "../../x", "/dev/zero", "a\nb", "\x1b[2J", "\x00"),
    *("os:system", "timm:local-dir:/tmp", "x" * 3000, "NaN", "9" * 400, "\u0661", "__class__"),
    *([], {}, [1], {"list": [1]}, {"x": 1}, [[[[]]]], [0] * 50),
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes sound files into a folder.
        files: patterns, below that folder, of the files to mutate.
        inside: mutates a value inside one of these files, as an alternative to bytes.
        words: command lines that read it.
        same: whether a command that succeeds although bytes were changed must give the sound file's
            answer, since there are digests.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    inside: Callable[[Path, random.Random], None]
    words: tuple[tuple[str, ...], ...]
    same: bool = False


def changed_value(content: Any, rng: random.Random) -> Any:
    """Replace, drop or double one value in the content."""
    places = [*_places(content)]
    owner, key = rng.choice(places) if places else ([content], 0)
    what = rng.random()
    if what < 0.15:
        del owner[key]
    elif what < 0.25 and isinstance(owner, list):
        owner.insert(key, owner[key])
    elif what < 0.4 and type(owner[key]) in (int, float):
        owner[key] = owner[key] * rng.choice((-1, 0, 2, 1000, 10**12)) + rng.choice((0, 1))
    else:
        owner[key] = rng.choice(STRANGE)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(content, (dict, list)):
        return
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        yield from _places(content[key])


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change, drop, double or add a few bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place, size = rng.randrange(len(content) + 1), rng.choice((1, 1, 4, 64))
        middle = {
            "flip": bytes(byte ^ 1 << rng.randrange(8) for byte in content[place : place + size]),
            "drop": b"",
            "double": content[place : place + size] * 2,
            "noise": rng.randbytes(size),
            "end": b"",
        }
        what = rng.choice(sorted(middle))
        after = b"" if what == "end" else content[place + size :]
        content = content[:place] + middle[what] + after
    return content


# --- kinds ----------------------------------------------------------------------------------------


def _plan(folder: Path) -> None:
    import precrop
    from precrop.model_spec import ModelSpec
    from precrop.zoo import load_model

    plan = precrop.plan(load_model("resnet20", {}), (3, 32, 32), params=0.5, residual="crop")
    source = ModelSpec("resnet20", {"num_classes": 10})
    replace(plan, source=source, seconds=0.5).save(folder / "plan.json")


def _inside_plan(path: Path, rng: random.Random) -> None:
    from precrop.errors import PlanError
    from precrop.plans.file import digest

    content = changed_value(json.loads(path.read_text()), rng)
    if isinstance(content, dict):
        content.pop("digest", None)
        with contextlib.suppress(PlanError):  # not a number: it stays without
            content["digest"] = digest(content)
    path.write_text(json.dumps(content))


def _trained(folder: Path, *, masked: bool = False) -> Path:
    from precrop.model_spec import ModelSpec
    from precrop.training.data import load_data
    from precrop.training.loop import train
    from precrop.training.recipes import RECIPES
    from precrop.training.runs import MaskSpec, Run

    data = load_data("digits")
    run = Run(
        model=ModelSpec("resnet20", {"num_classes": 10}),
        data="digits",
        data_name=data.name,
        data_digest=data.digest,
        classes=tuple(data.classes),
        input_shape=tuple(data.shape),
        recipe=RECIPES["digits"].changed({"epochs": 1, "batch_size": 512}),
        mask=MaskSpec("erk", "weight", params="0.5") if masked else None,
    )
    return train(run, data=data, output=folder, loggers=("none",)).folder


def _checkpoint(folder: Path) -> None:
    shutil.copytree(_trained(folder) / "last", folder / "given")


def _inside_checkpoint(path: Path, rng: random.Random) -> None:
    if path.suffix != ".json":
        path.write_bytes(changed_bytes(path.read_bytes(), rng))
        return
    from precrop.files import digest_of
    from precrop.training.runs import Run

    content = json.loads(path.read_text())
    run = content["run"]
    content = changed_value(content if rng.random() < 0.3 else run, rng)
    if content is run:
        with contextlib.suppress(Exception):  # what no run can have keeps its old identity
            run["id"] = ""
            Run.from_json(run, trust=True)
        with contextlib.suppress(Exception):
            run["id"] = _identity(run)
        content = {**json.loads(path.read_text()), "run": run}
    content.pop("digest", None)
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))


def _identity(run: dict[str, Any]) -> str:
    from precrop.errors import PrecropError
    from precrop.training.runs import Run

    try:
        Run.from_json({**run, "id": ""}, trust=True)
    except PrecropError as error:
        words = str(error).split()
        return words[3] if str(error).startswith("this run is") else words[2]
    return ""


def _run(folder: Path) -> None:
    (folder / "found").symlink_to(_trained(folder).name)


def _interrupted(folder: Path) -> None:
    found = _trained(folder, masked=True)
    (found / "result.json").unlink()


def _inside_json(path: Path, rng: random.Random) -> None:
    if path.suffix != ".json":
        path.write_bytes(changed_bytes(path.read_bytes(), rng))
        return
    path.write_text(json.dumps(changed_value(json.loads(path.read_text()), rng)))


def _profile(folder: Path) -> None:
    from precrop.costs.profiles import ROOFLINES

    ROOFLINES["cpu"].save(folder / "profile.json")


def _densities(folder: Path) -> None:
    import precrop
    from precrop.zoo import load_model

    found = precrop.densities(load_model("resnet20", {}), (3, 32, 32), params=0.5)
    (folder / "densities.json").write_text(json.dumps(found))


def _store(folder: Path) -> None:
    from precrop.study.store import Store
    from tests.study.made_rows import made_row

    store = Store.open(folder / "store", create=True)
    for seed in range(3):
        store.append([made_row(seed=seed, variant=name) for name in ("PreCrop", "uniform")])
    (file,) = store.path.glob("*.jsonl")
    file.rename(file.with_name("rows-0.jsonl"))


def _inside_lines(path: Path, rng: random.Random) -> None:
    """Mutate a value of one row, or a part of its text, and write the matching checksum."""
    if path.suffix != ".jsonl":
        _inside_json(path, rng)
        return
    lines = path.read_bytes().splitlines(keepends=True)
    place = rng.randrange(len(lines))
    content = lines[place].rpartition(b',"crc32":"')[0]
    if rng.random() < 0.3:
        content = changed_bytes(content, rng)
    else:
        row = changed_value(json.loads(content + b"}"), rng)
        history = row.pop("history", None) if isinstance(row, dict) else None
        content = json.dumps(row)[:-1].encode("utf-8", "replace")
        content += b', "history":' + json.dumps(history).encode()
    lines[place] = b'%s,"crc32":"%08x"}\n' % (content, zlib.crc32(content))
    path.write_bytes(b"".join(lines))


def _old_store(folder: Path) -> None:
    shutil.copytree(OLD_STORE, folder / "store")


def _inside_parts(path: Path, rng: random.Random) -> None:
    if path.suffix != ".parquet":
        _inside_json(path, rng)
        return
    table = pq.read_table(path)
    place = rng.randrange(table.num_columns)
    field, value = table.schema.field(place), rng.choice(STRANGE)
    column = table.column(place)
    if rng.random() < 0.3:
        with contextlib.suppress(pa.ArrowException, ValueError):
            column = column.cast(rng.choice((pa.string(), pa.float32(), pa.int32(), pa.binary())))
    else:
        if pa.types.is_string(field.type):
            value = value if isinstance(value, str) or value is None else json.dumps(value)
        with contextlib.suppress(pa.ArrowException, OverflowError, ValueError, TypeError):
            column = pa.array([value] * table.num_rows, type=field.type)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(place, field.name, column), sink)
    content = sink.getvalue().to_pybytes()
    path.unlink()
    crc = f"-crc{zlib.crc32(content):08x}.parquet"
    path.with_name(path.name.partition("-crc")[0] + crc).write_bytes(content)


def _study(folder: Path) -> None:
    (folder / "study.yaml").write_text(STUDY)


def _inside_study(path: Path, rng: random.Random) -> None:
    path.write_text(yaml.safe_dump(changed_value(yaml.safe_load(path.read_text()), rng)))


CHECKPOINT_FILES = ("checkpoint.json", "model.safetensors", "state.safetensors")
TRAIN = (
    *("train", "resnet20", "--data", "digits", "--logger", "none", "--json", "-o", "."),
    *("--epochs", "1", "--set", "batch_size=512"),
)
READ_STORE = (
    *2 * (("study", "show", "store"),),
    *5 * (("study", "show", "store", "--json"),),
    ("study", "diff", "store", "store"),
    ("report", "store", "-o", "report"),
)
KINDS = {
    "plan": Kind(
        _plan,
        ("plan.json",),
        _inside_plan,
        (("show", "plan.json"), ("show", "plan.json", "--json"), ("build", "plan.json", "--json")),
        same=True,
    ),
    "checkpoint": Kind(
        _checkpoint,
        tuple(f"given/{name}" for name in CHECKPOINT_FILES),
        _inside_checkpoint,
        (
            ("eval", "given", "--json"),
            ("export", "given", "--format", "safetensors", "-o", "x.safetensors"),
        ),
        same=True,
    ),
    "run": Kind(
        _run,
        ("found/run.json", "found/result.json", "found/last/checkpoint.json"),
        _inside_json,
        (("eval", "found", "--json"), TRAIN),
        same=True,
    ),
    "interrupted": Kind(
        _interrupted,
        ("*/masks.safetensors", *(f"*/last/{name}" for name in CHECKPOINT_FILES)),
        _inside_json,
        ((*TRAIN, "--mask", "erk", "--params", "0.5"),),
        same=True,
    ),
    "profile": Kind(
        _profile,
        ("profile.json",),
        _inside_json,
        (("plan", "resnet20", "--latency", "50%", "--profile", "profile.json"),),
    ),
    "densities": Kind(
        _densities,
        ("densities.json",),
        _inside_json,
        (("plan", "resnet20", "--params", "50%", "--densities", "densities.json"),),
    ),
    "store": Kind(
        _store, ("store/store.json", *3 * ("store/rows-0.jsonl",)), _inside_lines, READ_STORE
    ),
    "old store": Kind(
        _old_store, ("store/store.json", *3 * ("store/parts/*.parquet",)), _inside_parts, READ_STORE
    ),
    "study": Kind(
        _study,
        ("study.yaml",),
        _inside_study,
        (("study", "status", "study.yaml"), ("study", "run", "study.yaml", "--dry-run")),
    ),
}


# --- one mutation ---------------------------------------------------------------------------------


def run(words: tuple[str, ...]) -> tuple[int | None, str, str]:
    """Return the exit status (None after a traceback), the output, and the error output."""
    from precrop.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = main(words)
        except BaseException:
            return None, out.getvalue(), traceback.format_exc()
    return status, out.getvalue(), err.getvalue()


def sound(kind: str, root: Path) -> Path:
    """Return a folder with the kind's sound files, which are made once."""
    folder = root / kind
    if not folder.is_dir():
        folder.mkdir(parents=True)
        KINDS[kind].make(folder)
    return folder


def attempt(number: int, root: Path) -> dict[str, Any]:
    """Make the mutation with this number, read it, and judge how that ends."""
    rng = random.Random(number)
    name = list(KINDS)[number % len(KINDS)]
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(dir=root) as place:
        folder = Path(place) / "work"
        shutil.copytree(sound(name, root), folder, symlinks=True)
        path = rng.choice(sorted(folder.glob(rng.choice(kind.files))))
        bytewise = rng.random() < 0.5
        if bytewise:
            path.write_bytes(changed_bytes(path.read_bytes(), rng))
        else:
            kind.inside(path, rng)
        words = rng.choice(kind.words)
        with contextlib.chdir(folder):
            status, out, err = run(words)
        problem = problem_in(status, err)
        if problem is None and status == 0 and bytewise and kind.same and "--json" in words:
            problem = _other_answer(name, words, out, root)
        found = {"number": number, "kind": name, "words": words, "status": status}
        return found if problem is None else {**found, "problem": problem}


def problem_in(status: int | None, err: str) -> str | None:
    """Return what is wrong with how a command ended, or None."""
    if status is None:
        return err
    lines = [line for line in err.splitlines() if line.startswith("precrop: error: ")]
    if status not in (0, 1, 2):
        return f"exit status {status}: {err}"
    if "Traceback" in err:
        return err
    if status == 2 and (len(lines) != 1 or len(lines[0]) > 2100 or not lines[0].isprintable()):
        return f"not one short line: {err[:3000]!r}"
    return None


def _other_answer(name: str, words: tuple[str, ...], out: str, root: Path) -> str | None:
    found, wanted = _answer(out), _answer(_sound_output(name, words, root))
    return None if found == wanted else f"another answer: {found} in place of {wanted}"[:1000]


@cache
def _sound_output(name: str, words: tuple[str, ...], root: Path) -> str:
    with tempfile.TemporaryDirectory(dir=root) as place, contextlib.chdir(place):
        shutil.copytree(sound(name, root), "work", symlinks=True)
        with contextlib.chdir("work"):
            return run(words)[1]


def _answer(out: str) -> Any:
    """Return the JSON that was printed, without what differs from run to run."""
    content = json.loads(out)
    return {name: content[name] for name in content if name not in ("seconds", "history")}


# --- all of them ----------------------------------------------------------------------------------


def serve(pipe: Connection, root: Path) -> None:
    """Attempt the mutations whose numbers come through the pipe: the main function of a process."""
    import torch

    import precrop.study.store
    import precrop.training.loop

    del precrop.study.store, precrop.training.loop
    torch.set_num_threads(1)
    for name in KINDS:
        sound(name, root)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    pipe.send(None)
    while True:
        pipe.send(attempt(pipe.recv(), root))


class Worker:
    """A process that attempts mutations; one that hangs or dies is killed."""

    def __init__(self, root: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, root), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def attempt(self, number: int) -> dict[str, Any] | None:
        """Return the outcome; None if there was none, and the process was killed."""
        self.pipe.send(number)
        with contextlib.suppress(EOFError, OSError):
            if self.pipe.poll(SECONDS):
                found: dict[str, Any] = self.pipe.recv()
                return found
        self.process.kill()
        self.process.join()
        return None


def main() -> int:
    """Run what the log does not have, and report what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--log", type=Path, default=Path("fuzz-files.jsonl"))
    options = parser.parse_args()
    lines = options.log.read_text().splitlines() if options.log.exists() else []
    known = {entry["number"]: entry for entry in map(json.loads, lines)}
    worker: Worker | None = None
    with tempfile.TemporaryDirectory() as place, options.log.open("a") as log:
        for number in range(options.count):
            if number in known:
                continue
            worker = worker or Worker(Path(place))
            found = worker.attempt(number)
            if found is None:
                worker, kind = None, list(KINDS)[number % len(KINDS)]
                found = {"number": number, "kind": kind, "problem": "it hung, or its process died"}
            known[number] = found
            log.write(json.dumps(found) + "\n")
            log.flush()
    wrong = [known[number] for number in range(options.count) if "problem" in known[number]]
    for entry in wrong:
        print(f"{entry['number']} {entry['kind']} {entry.get('words', '')}: {entry['problem']}")
    print(f"{options.count} mutations of {len(KINDS)} kinds of files, {len(wrong)} end wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
