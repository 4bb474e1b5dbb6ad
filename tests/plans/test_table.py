"""What the table and the picture say."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from precrop.errors import PrecropError
from precrop.plans.plan import Plan
from precrop.plans.plot import plot
from precrop.plans.table import show
from tests.plan_files import PLAN, WIDENED


def shown(plan: Plan, **options: Any) -> list[str]:
    out = io.StringIO()
    show(plan, Console(file=out, **options))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_one_row_per_layer_with_a_bar() -> None:
    lines = shown(PLAN)
    conv1, hidden, repeated, fc = lines[1:5]
    assert conv1.split() == ["conv1", "3", "16", "→", "9", "█" * 18 + "░" * 14, "56%", "56.2%"]
    assert hidden.startswith("layer1.0.conv1")
    assert repeated.startswith("        .conv2")
    assert fc.split()[-2:] == ["frozen", "56.2%"]


@pytest.mark.parametrize("plan", [PLAN, WIDENED])
def test_bars_give_room_to_numbers(plan: Plan) -> None:
    wide, narrow = (
        [
            [word for word in line.split() if not set(word) & set("█▓░")]
            for line in shown(plan, width=width, force_terminal=True, color_system=None)
        ]
        for width in (110, 62)
    )
    assert narrow[: len(plan.layers) + 1] == wide[: len(plan.layers) + 1]


def test_the_widest_bar_is_that_of_the_widest_layer() -> None:
    first = dataclasses.replace(WIDENED.layers[0], out_channels=4 * WIDENED.layers[0].base_out)
    lines = shown(dataclasses.replace(WIDENED, layers=(first, *WIDENED.layers[1:])))
    bars = [sum(map(line.count, "█▓░")) for line in lines[1 : len(WIDENED.layers) + 1]]
    assert bars[0] == max(bars) == 32
    assert lines[1].count("▓") == 16


def test_totals_budgets_frozen_and_seconds() -> None:
    text = "\n".join(shown(PLAN))
    rows = [line.split() for line in text.splitlines()]
    assert ["parameters", "5,200", "1,143", "22.0%", "2,600", "43.96%", "0"] in rows
    assert ["MACs", "622,528", "280,562", "45.1%", "311,264", "90.14%", "0.0123"] in rows
    assert "Frozen: fc: a size that no op explains" in text
    assert text.endswith("Planned in 0.123 s.")


def test_a_train_mode_that_was_not_read_is_no_frozen_layer() -> None:
    unread = dataclasses.replace(PLAN, frozen={"train mode": "was not read: KeyError: 'boxes'"})
    lines = shown(unread)
    assert "Nothing is frozen." in lines
    assert "Train mode was not read: KeyError: 'boxes'" in lines


def test_widened_layers_stand_out() -> None:
    lines = shown(WIDENED)
    assert "16 → 24" in lines[1]
    assert "▓" in lines[1]
    assert "150%" in lines[1]
    assert "Nothing is frozen." in lines
    assert any(line.startswith("Wider than the original: conv1") for line in lines)


def test_targets_stand_beside_densities() -> None:
    layers = (dataclasses.replace(PLAN.layers[0], target=0.5), *PLAN.layers[1:])
    lines = shown(dataclasses.replace(PLAN, layers=layers))
    assert lines[0].split()[-1] == "target"
    assert lines[1].split()[-2:] == ["56.2%", "50.0%"]


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_picture(tmp_path: Path, name: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    plot(PLAN, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_kinds_of_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="is a .png or an .svg file"):
        plot(PLAN, tmp_path / "a.txt")
    assert not [*tmp_path.iterdir()]
