"""A study as it would come out: two networks, two budgets, three seeds, every kind of variant."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from precrop.report.claims import read_claims
from precrop.study.rows import Row
from precrop.study.spec import Part
from tests.study.made_rows import LAYERS, made_row

LEVELS: dict[str, tuple[float, dict[str, Any]]] = {
    "uniform width": (0.0, {"method": "uniform"}),
    "PreCrop": (0.1, {}),
    "SynFlow channels": (-0.9, {"method": "synflow"}),
    "SynFlow weights": (1.2, {"method": "synflow", "kind": "masked", "granularity": "weight"}),
    "PreCrop weights": (0.2, {"kind": "masked", "granularity": "weight"}),
    "PreCrop filters": (-0.1, {"kind": "masked", "granularity": "filter"}),
}
"""By variant the points above what its size would give it, and what makes it that variant."""
STUDIES = Path(__file__).parents[2] / "studies"
CLAIMS = {claim.name: claim for claim in read_claims([STUDIES], ["methods"]).claims}
"""Of the studies here, by name."""
ROLES = {role for claim in CLAIMS.values() for role in (*claim.compare, *claim.against)}
PARTS = {
    **{("made", role): Part(role) for role in ROLES},
    ("made", "PreCrop"): Part("precrop"),
    ("made", "PreCrop weights"): Part("precrop weights"),
    ("made", "PreCrop filters"): Part("precrop filters"),
    ("made", "SynFlow channels"): Part("synflow channels"),
    ("made", "SynFlow weights"): Part("synflow weights"),
    ("made", "dense"): Part("original"),
    ("made", "PreConfig"): Part("preconfig"),
    ("made", "PreCrop as synflow channels"): Part("precrop", "synflow channels"),
}
"""What variants of made rows are to these claims."""
SYNFLOW = dict(zip((*LAYERS, "classifier"), (1.0, 0.9, 0.7, 0.2, 0.4), strict=True))


def made_study() -> list[Row]:
    """The rows; the same ones every time."""
    return [*_runs("resnet20", 85.0), *_runs("vgg16_bn", 88.0), _failed()]


def _runs(network: str, dense: float) -> Iterator[Row]:
    chance = random.Random(network)
    nothing = {"asked_params": None, "asked_macs": None}
    yield made_row(
        network=network,
        variant="dense",
        kind="dense",
        method="",
        granularity="",
        **nothing,
        accuracy=dense / 100,
        params=270_000,
        macs=40_000_000,
    )
    for share in (0.3, 0.1):
        for variant, (above, what) in LEVELS.items():
            for seed in range(3):
                points = dense - 12 * (1 - share) ** 2 + above + chance.gauss(0, 0.25)
                yield made_row(
                    network=network,
                    variant=variant,
                    seed=seed,
                    asked_params=share,
                    asked_macs=share,
                    accuracy=points / 100,
                    params=round(share * 270_000) - seed,
                    macs=round(share * 40_000_000) - seed,
                    densities=_densities(what, share),
                    **what,
                )


def _densities(what: dict[str, Any], share: float) -> dict[str, float]:
    if what.get("method") == "synflow":
        return {name: min(1.0, density * share / 0.3) for name, density in SYNFLOW.items()}
    return dict.fromkeys(SYNFLOW, share)


def _failed() -> Row:
    return made_row(
        variant="GraSP weights", status="failed", error="grasp: the loss is not a number"
    )


def made_file(folder: Path) -> Path:
    """A file of the study whose claims are those of the studies here, beside it."""
    (folder / "claims.yaml").write_text((STUDIES / "claims.yaml").read_text())
    lines = ["study: made", "description: Made up.", "data: digits", "recipe: digits"]
    lines += ["seeds: [0]", "networks: [resnet20]", "claims: claims.yaml", "variants:"]
    for (_, name), part in PARTS.items():
        match = "" if part.match is None else f", match: {part.match}"
        lines.append(f"  - {{name: {name}, role: {part.role}{match}}}")
    path = folder / "made.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
