"""Mutation testing: take a branch, a call or an entry of a table away, and see if a test notices.

    pip install pytest-cov
    pytest -m 'not matrix' --cov precrop --cov-context test
    python -m scripts.mutants --rooms read fit --count 200 --log mutants.jsonl

What no test misses is either needless or untested. A mutant is drawn at random from all of the
rooms, changed in a work tree of its own, and tried on the tests that ran its line, those that ran
fewest lines first. The same seed draws the same mutants of the same code, and what the log has is
not tried again.
"""

import argparse
import ast
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coverage.numbits import numbits_to_nums  # type: ignore[import-not-found]
from scipy.stats import binomtest

PACKAGE = Path("precrop")
SECONDS = 300
"""A mutant's tests that take longer are stopped; it may loop forever."""


@dataclass(frozen=True)
class Mutant:
    """A piece of a file that is replaced by another text.

    Attributes:
        file: the path from the root.
        line: of its first character, from 1.
        kind: what is taken away.
        start: offset of its first byte in the file.
        end: offset behind its last byte.
        text: what stands there instead.
    """

    file: str
    line: int
    kind: str
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        """The file's source with it."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants(file: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(node: Any) -> tuple[int, int]:
        end = starts[node.end_lineno - 1] + node.end_col_offset
        return starts[node.lineno - 1] + node.col_offset, end

    def text(node: ast.AST) -> str:
        start, end = span(node)
        return f"({source[start:end].decode()})"

    def mutant(node: Any, kind: str, new: str) -> Mutant:
        return Mutant(str(file), node.lineno, kind, *span(node), new)

    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.If(test=test) if "TYPE_CHECKING" not in ast.unparse(test):
                yield mutant(test, "if", "False")
            case ast.IfExp(orelse=other):
                yield mutant(node, "conditional expression", text(other))
            case ast.BoolOp(op=op, values=values):
                word = " and " if isinstance(op, ast.And) else " or "
                for one in values:
                    left = [text(other) for other in values if other is not one]
                    yield mutant(node, f"operand of{word}".rstrip(), f"({word.join(left)})")
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield mutant(test, "filter", "True")
            case ast.ExceptHandler(type=ast.expr() as caught):
                yield mutant(caught, "except", "()")
            case ast.Expr(value=ast.Call()):
                yield mutant(node, "call", "pass")
    for statement in tree.body:
        table = getattr(statement, "value", None)
        if isinstance(table, ast.Dict):
            entries: list[tuple[Any, Any]] = [*zip(table.keys, table.values, strict=True)]
        elif isinstance(table, (ast.Tuple, ast.List, ast.Set)):
            entries = [(entry, entry) for entry in table.elts]
        else:
            continue
        for place, (key, value) in enumerate(entries if len(entries) > 2 else ()):
            start, end = span(key or value)[0], span(value)[1]
            end = (
                span(entries[place + 1][0] or entries[place + 1][1])[0]
                if entries[place + 1 :]
                else end
            )
            yield Mutant(str(file), value.lineno, "entry", start, end, "")


@cache
def tests_by_line(data: Path) -> dict[str, dict[int, list[str]]]:
    """By file and line the tests that ran it, those that ran fewest lines first."""
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    size = Counter[str]()
    with contextlib.closing(sqlite3.connect(data)) as database:
        rows = database.execute(
            "select path, context, numbits from line_bits "
            "join file on file.id = file_id join context on context.id = context_id"
        )
        for path, context, bits in rows:
            test, _, phase = context.rpartition("|")
            if phase != "run" or f"/{PACKAGE}/" not in path:
                continue
            lines = numbits_to_nums(bits)
            size[test] += len(lines)
            file = path[path.rindex(f"/{PACKAGE}/") + 1 :]
            for line in lines:
                found[file][line].append(test)
    for lines_of in found.values():
        for tests in lines_of.values():
            tests.sort(key=lambda test: (size[test], test))
    return found


def tried(mutant: Mutant, tree: Path, tests: list[str]) -> str:
    """What comes of a mutant's tests, which run in a process forked from this one."""
    file = tree / mutant.file
    source = file.read_bytes()
    file.write_bytes(mutant.applied(source))
    try:
        process = os.fork()
        if process == 0:
            _test(tree, tests)
        return _ended(process)
    finally:
        file.write_bytes(source)


def _test(tree: Path, tests: list[str]) -> None:
    """Run tests in this process, and end it."""
    os.setpgid(0, 0)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silent, stream)
    os.chdir(tree)
    sys.dont_write_bytecode = True
    sys.path[:] = [
        one for one in sys.path if Path(one or ".").resolve() != Path(__file__).parents[1]
    ]
    status = 1
    try:
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


def _ended(process: int) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "stopped"


def main() -> None:
    """Draw mutants, try them, and print what share of them tests notice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rooms", nargs="+", default=["read", "fit", "plans", "solve", "modules"])
    parser.add_argument("--count", type=int, default=100, help="mutants that are tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", type=int, default=60, help="tests of one mutant, at most")
    parser.add_argument("--coverage", type=Path, default=Path(".coverage"))
    parser.add_argument("--log", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--part", default="1/1", help="2/3: every third one, from the second")
    given = parser.parse_args()
    files = sorted(file for room in given.rooms for file in _files(room))
    drawn = sorted(
        (one for file in files for one in mutants(file)),
        key=lambda one: (one.file, one.start, one.end),
    )
    random.Random(given.seed).shuffle(drawn)
    print(f"{len(drawn)} mutants of {len(files)} files")
    part, parts = map(int, given.part.split("/"))
    known = _log(given.log)
    tree = Path(f"{given.log.resolve()}.tree.{part}")
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree)], check=True)
        pycs = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "checked-hash",
            str(tree / PACKAGE),
        ]
        subprocess.run(pycs, check=True)
    for library in (
        "numpy",
        "pandas",
        "scipy.optimize",
        "torch",
        "torchvision",
        "timm",
        "hypothesis",
        "pytest",
    ):
        __import__(library)  # once for all of the processes
    by_line = tests_by_line(given.coverage)
    for one in drawn[: given.count][part - 1 :: parts]:
        if json.dumps(asdict(one)) in known:
            continue
        tests = by_line.get(one.file, {}).get(one.line, [])
        chosen = tests[: given.tests]
        start = time.monotonic()
        result = tried(one, tree, chosen) if chosen else "not run by tests"
        row = {**asdict(one), "result": result, "tests": len(chosen), "of": len(tests)}
        with given.log.open("a") as log:
            print(json.dumps(row | {"seconds": round(time.monotonic() - start, 1)}), file=log)
    _print(drawn[: given.count], _log(given.log))


def _files(room: str) -> Iterator[Path]:
    place = PACKAGE / room
    yield from place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]


def _log(path: Path) -> dict[str, dict[str, Any]]:
    """What is known of mutants, by what they are."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        found[json.dumps({name: row[name] for name in Mutant.__dataclass_fields__})] = row
    return found


def _print(drawn: list[Mutant], known: dict[str, dict[str, Any]]) -> None:
    rows = [known[key] for one in drawn if (key := json.dumps(asdict(one))) in known]
    results = Counter(row["result"] for row in rows)
    for row in rows:
        if row["result"] not in ("killed", "stopped"):
            old = Path(row["file"]).read_bytes()[row["start"] : row["end"]].decode()
            print(
                f"{row['file']}:{row['line']}: {row['kind']}: {' '.join(old.split())[:90]} ({row['result']}, {row['tests']} of {row['of']} tests)"
            )
    noticed = results["killed"] + results["stopped"]
    share = binomtest(noticed, len(rows)).proportion_ci(method="wilson")
    print(dict(results))
    print(
        f"noticed by a test: {noticed} of {len(rows)} ({noticed / len(rows):.1%}, 95% interval {share.low:.1%} to {share.high:.1%})"
    )


if __name__ == "__main__":
    main()
