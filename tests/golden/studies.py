"""What studies are made of: names of cells and runs, how far a study is, and a report's tables."""

import contextlib
import io
import json
from pathlib import Path

import torch

from precrop.cli.app import main

# The names below are those of the package's inside: where they move, this is the place to follow.
from precrop.study.cells import Cell, expand
from precrop.study.preparing import prepare
from precrop.study.spec import read_study
from precrop.training.data import ImageData, Images
from tests.golden.plans import digest

ROOT = Path(__file__).parents[2]
FILES = {
    path.stem: path
    for path in sorted((ROOT / "studies").glob("*.yaml"))
    if path.name != "claims.yaml"
}
STORES = ("methods-pilot", "proxy-pilot", "proxy-seeds")
"""Studies whose results are committed."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGESTS = {
    32: "5bcd53fecf8c3bef8fce11518a0ccfdf40291cffe967117e9881cdc20d7ee2b1",
    16: "333210c908c4805cd8ca3004c3f6151622d73b033526be8f459b6c81e6faaa1e",
}
"""Of CIFAR-10 by pixels of a side."""
BY_WEIGHTS = ("SynFlow channels", "PreCrop as SynFlow channels", "PreCrop, exact")
"""Variants whose plan depends on random weights, which PyTorch draws otherwise elsewhere."""


def printed(*words: str) -> str:
    """What a command prints; studies and stores are named as seen from the project's folder."""
    text = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(text):
        status = main(words)
    assert status == 0, f"precrop {' '.join(words)}: exit status {status}"
    return text.getvalue()


def cells() -> dict[str, str]:
    """Per study the ids of its cells, in order."""
    return {name: " ".join(cell.id for cell in _cells(name)) for name in FILES}


def runs(name: str) -> dict[str, str]:
    """Ids of a study's runs, one for each network, variant and budget.

    CIFAR-10's images are not here, but their digest is.
    """
    found: dict[str, str] = {}
    study = read_study(FILES[name], trust=True)
    for cell in _cells(name):
        kind = f"{cell.network.name}, {cell.variant}, {cell.limits.given()}"
        if kind not in found and cell.variant not in BY_WEIGHTS:
            found[kind] = prepare(cell, _images(study.image_size or 32)).run.id
    return found


def states() -> dict[str, str]:
    """What ``precrop study status`` says of every study; of those not run here, without results."""
    return {
        name: printed("study", "status", f"studies/{name}.yaml", "--store", f"results/{store}")
        for name in FILES
        for store in [name if name in STORES else "none-yet"]
    }


def rows() -> dict[str, dict[str, str]]:
    """Per store and cell the id of its run and a digest of its row.

    Without its code, which later rows have: these are of none but ours.
    """
    found = {}
    for name in STORES:
        lines = printed("study", "show", f"results/{name}", "--json").splitlines()
        shown = [json.loads(line) for line in lines]
        assert not any(row.pop("code") for row in shown)
        found[name] = {row["cell"]: f"{row['run']} {digest(row)}" for row in shown}
    return found


def report(folder: Path) -> tuple[dict[str, str], str]:
    """Verdicts on all committed results, and all tables of the report."""
    stores = [f"results/{name}" for name in STORES]
    said = json.loads(printed("report", *stores, "-o", str(folder), "--json"))
    text = (folder / "report.md").read_text(encoding="utf-8")
    tables = [line for line in text.splitlines() if line.startswith(("|", "#"))]
    return {name: claim["verdict"] for name, claim in said.items()}, "\n".join(tables) + "\n"


def _cells(name: str) -> list[Cell]:
    return expand(read_study(FILES[name], trust=True))


def _images(side: int) -> ImageData:
    """What a run's name needs of CIFAR-10."""
    black = Images(torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.zeros(2).long())
    shape, half, fifth = (3, side, side), (0.5,) * 3, (0.2,) * 3
    return ImageData("cifar10", CLASSES, shape, half, fifth, black, black, DIGESTS[side])
