"""Figures: one chart description each, written as an SVG and a PNG that are the same every time."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from PIL import Image

from precrop.report.figures import FIGURES, figures
from precrop.report.frames import ResultFrame, percent, run_id
from precrop.report.grouping import frame_of
from precrop.report.tables import COLORS, looks
from precrop.report.words import PICTURES, Report
from precrop.study.rows import Row
from tests.report.made_study import made_study
from tests.study.made_rows import made_row

ELSEWHERE = """
import sys
from pathlib import Path
from tests.report.test_figures import write_some
write_some(Path(sys.argv[1]))
"""


def write_some(folder: Path) -> None:
    folder.mkdir()
    for figure in figures(frame_of([made_row(), made_row(seed=1)]), 0.5):
        figure.write(folder)


@pytest.fixture(scope="module")
def frame() -> ResultFrame:
    return frame_of(made_study())


@pytest.fixture(scope="module")
def charts(frame: ResultFrame) -> dict[str, dict]:
    """Those of the first setting, by name."""
    return {f.name: f.chart for f in figures(frame, 0.5) if f.setting == frame.settings[0]}


def drawn(*rows: Row) -> dict[str, dict]:
    """The charts of rows in one setting, by name."""
    return {figure.name: figure.chart for figure in figures(frame_of(rows), 0.5)}


def parts(value: Any) -> Iterator[dict]:
    """All objects within a description."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts(item)


def test_every_figure_of_every_setting_is_written_twice(report: Report) -> None:
    names = {path.name for path in (report.folder / PICTURES).iterdir()}
    assert names == {
        f"{network}-cifar10-cifar-quick-{figure}.{kind}"
        for network in ("resnet20", "vgg16_bn")
        for figure in FIGURES
        for kind in ("svg", "png")
    }


def test_files_are_what_they_say(report: Report) -> None:
    for path in (report.folder / PICTURES).glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
    for path in (report.folder / PICTURES).glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert len(set(image.convert("L").resize((64, 64)).get_flattened_data())) > 5


def test_every_run_is_a_point_with_its_name(report: Report) -> None:
    path = report.folder / PICTURES / "resnet20-cifar10-cifar-quick-accuracy.svg"
    content = path.read_text(encoding="utf-8")
    for row in report.frame.rows:
        found = f'aria-label="{row.run}"' in content
        assert found == (row.network == "resnet20")


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    write_some(here)
    subprocess.run([sys.executable, "-c", ELSEWHERE, elsewhere], check=True)
    contents = [{path.name: path.read_bytes() for path in f.iterdir()} for f in (here, elsewhere)]
    assert contents[0] == contents[1]
    assert {Path(name).suffix for name in contents[0]} == {".svg", ".png"}


def test_what_is_drawn_are_the_runs(frame: ResultFrame, charts: dict[str, dict]) -> None:
    (points,) = charts["accuracy"]["datasets"].values()
    own = [group for group in frame.groups if group.setting == frame.settings[0]]
    assert {p["run"]: p["accuracy"] for p in points} == {
        run_id(row): pytest.approx(percent(row), abs=1e-4) for g in own for row in g.rows
    }
    assert [p["spread"] for p in points] == [str(g.accuracy) for g in own for _ in g.rows]


def test_a_band_is_the_margin_around_single_weights(
    frame: ResultFrame, charts: dict[str, dict]
) -> None:
    (points,) = charts["granularity"]["datasets"].values()
    for point in points:
        variant, _, budget = point["family"].partition(", ")
        (first,) = (
            g
            for g in frame.within(frame.settings[0])
            if (g.variant, str(g.budget)) == (variant, budget)
        )
        assert (point["least"] + point["most"]) / 2 == pytest.approx(first.accuracy.mean)
        assert point["most"] - point["least"] == pytest.approx(1.0)


def test_shares_far_apart_stand_on_a_logarithmic_axis(charts: dict[str, dict]) -> None:
    near = drawn(made_row(), made_row(variant="o", method="uniform", params=90_000))
    for shown, wanted in ((charts, "log"), (near, None)):
        panels = shown["sizes"]["hconcat"]
        scales = [panel["layer"][0]["encoding"]["x"]["scale"] for panel in panels]
        assert [scale.get("type") for scale in scales] == [wanted, wanted]


def test_settings_with_names_alike_have_files_of_their_own() -> None:
    rows = [made_row(network=name) for name in ("timm:net", "timm-net")]
    stems = [figure.stem for figure in figures(frame_of(rows), 1.0)]
    assert len(stems) == len(set(stems)) > 2


def test_an_axis_of_logarithms_has_no_zero() -> None:
    rows = [made_row(variant=name, densities={"stem": 0.0, "body.0": 0.3}) for name in "ab"]
    (layers,) = drawn(*rows)["densities"]["datasets"].values()
    assert {layer["density"] for layer in layers if layer["layer"] == "stem"} == {None}
    assert {layer["density"] for layer in layers if layer["layer"] == "body.0"} == {0.3}


def test_where_there_is_nothing_there_is_no_figure() -> None:
    assert set(drawn(made_row())) == {"accuracy", "widths", "densities"}
    assert set(drawn(made_row(densities={}, widths={}, history=()))) == {"accuracy"}


def test_a_large_table_is_drawn_whole() -> None:
    row = made_row(densities={f"layer{n}": 0.3 for n in range(6000)})
    (layers,) = drawn(row)["densities"]["datasets"].values()
    assert len({layer["layer"] for layer in layers}) >= 6000


def test_a_variant_has_one_color_everywhere(frame: ResultFrame, charts: dict[str, dict]) -> None:
    found = {
        tuple(zip(part["scale"]["domain"], part["scale"]["range"], strict=True))
        for part in parts(charts)
        if part.get("field") == "variant" and "#" in str(part.get("scale"))
    }
    known = looks(frame)
    assert found == {tuple(zip(known["variant"], known["color"], strict=True))}


def test_more_variants_than_colors_are_still_told_apart() -> None:
    rows = [made_row(variant=f"v{n:02}", accuracy=0.8 + n / 1000) for n in range(len(COLORS) + 2)]
    (points,) = (
        part for part in parts(drawn(*rows)["accuracy"]) if {"color", "shape"} <= part.keys()
    )
    looks = zip(points["color"]["scale"]["range"], points["shape"]["scale"]["range"], strict=True)
    assert len(set(looks)) == len(rows)


def test_names_are_data_and_never_evaluated() -> None:
    evil = 'zqx\'"]+alert(1)+["\\'
    layers = {f"{evil}{n}": (8, 9) for n in range(2)}
    found = drawn(
        *(
            made_row(
                variant=f"{evil} {kind}",
                run=f"{evil} {kind}",
                network=evil,
                data=evil,
                device=evil,
                kind=kind,
                granularity="weight",
                asked_params=share,
                densities=dict.fromkeys(layers, 0.3),
                widths=layers,
            )
            for kind in ("cropped", "masked")
            for share in (0.3, 0.1)
        )
    )
    assert set(found) == set(FIGURES)
    for name, chart in found.items():
        assert "zqx" in str(chart), name
        for part in parts(vl_convert.vegalite_to_vega(chart)):
            for key in ("expr", "signal", "test", "update", "init"):
                assert "zqx" not in str(part.get(key)), (name, key, part)
