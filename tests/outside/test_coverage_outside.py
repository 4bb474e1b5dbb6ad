"""The table of other packages' networks: measured and written for networks of our own."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from scripts import coverage_outside, outside_networks
from scripts.coverage_outside import OutsideMeasurement, measure, measure_all, page
from scripts.outside_networks import NETWORKS, Outside, always, floats, ids, ones

# PyTorch warns of a setting of GPUs when a kernel of the CPU is switched off.
pytestmark = pytest.mark.filterwarnings("ignore:TF32")


class Network(nn.Module):
    """Reads numbers, indices and a flag; in train mode it needs more than one input."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(20, 32), nn.Conv1d(4, 32, 3, padding=1)
        self.norm, self.deep, self.head = nn.BatchNorm1d(32), nn.Linear(32, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor, words: Tensor, *, mask: Tensor, flip: bool) -> dict[str, Tensor]:
        y = self.table(words).mean(1) + self.conv(x.flip(2) if flip else x).mean(2)
        return {"classes": self.head(self.deep(self.norm(y)).relu() * mask), "hidden": y.sum(1)}


ENTRY = Outside(
    "own network",
    Network,
    (floats(4, 8), ids(20, 5)),
    {"mask": ones(1), "flip": always(True)},
)


class Dying(Network):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        os._exit(3)


class Unwilling(Network):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            raise NotImplementedError("not to be trained")
        return super().forward(*args, **kwargs)


def test_a_network_comes_out_right() -> None:
    found = measure(ENTRY)
    assert found.right, found
    assert (found.error, found.limits) == ("", "")


def test_what_the_network_itself_cannot_do_is_not_asked() -> None:
    found = measure(dataclasses.replace(ENTRY, make=Unwilling))
    assert found.right, found
    assert found.limits == "training: NotImplementedError: not to be trained"


def test_processes_that_end_or_hang_are_told(tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    chosen = [dataclasses.replace(ENTRY, name="dying", make=Dying)]
    found = measure_all(chosen, cache, jobs=2)["dying"]
    assert (found.ended, found.right) == ("ended with status 3", False)
    assert measure_all(chosen, cache, jobs=1)["dying"] == found  # from the cache


def test_the_page_tells_what_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    good = OutsideMeasurement(
        "own good", params=0.5, macs=0.4, exact_params=True, exact_macs=True, seconds=0.25
    )
    rows = [
        good,
        dataclasses.replace(good, name="own refused", plan_error="BudgetError: too | much"),
        dataclasses.replace(
            good, name="own frozen", frozen=0.2, reasons={"add in a": ("a.b", 2)}, params=0.4
        ),
    ]
    monkeypatch.setattr(coverage_outside, "version", lambda _: "1.0")
    text = page(rows)
    assert "Of 3 networks of 1 packages, 1 (33.3%) are built" in text
    assert "| own good | yes | yes | yes | 100.0 | 0.0 | 0.25 |  |" in text
    assert "| own refused | no | – | – | – | – | – | BudgetError: too \\| much |" in text
    assert "| own frozen | yes | yes | yes | 80.0 | 20.0 | 0.25 | add in a (2, first a.b) |" in text


def test_networks_are_many_and_named_once() -> None:
    assert len({entry.name for entry in NETWORKS}) == len(NETWORKS) >= 150
    packages = {entry.name.split()[0] for entry in NETWORKS}
    assert len(packages) == len(outside_networks.PACKAGES)
