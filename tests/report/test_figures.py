"""Pictures for papers: an SVG and a PNG each, drawn from the runs."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from precrop.report.figures import COLORS, FIGURES, accuracy, draw_all, granularity, sizes
from precrop.report.frames import Frame, frame_of
from precrop.report.writing import PICTURES, Report
from tests.report.made_study import made_study
from tests.study.made_rows import made_row


@pytest.fixture(scope="module")
def frame() -> Frame:
    return frame_of(made_study())


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
        found = f'id="run-{row.run}-{row.variant}"' in content
        assert found == (row.network == "resnet20")


def test_a_picture_is_the_same_every_time(tmp_path: Path) -> None:
    frame = frame_of([made_row()])
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        draw_all(frame, folder, 0.5)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0]


def test_labels_do_not_overlap(frame: Frame) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawing = accuracy(frame, frame.settings[0], 0.5)
    assert drawing is not None
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    (axes,) = drawing.figure.axes
    texts = [text for text in axes.get_yticklabels() if text.get_text()]
    boxes = sorted((box.y0, box.y1) for box in (text.get_window_extent() for text in texts))
    assert len(boxes) == len(frame.within(frame.settings[0]))
    assert all(lower[1] <= upper[0] for lower, upper in pairwise(boxes))


@pytest.mark.parametrize("length", [1, 60])
def test_runs_do_not_overprint_the_deviations(length: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows = [
        made_row(variant="v" * length, seed=seed, accuracy=accuracy, run=f"{seed:012x}")
        for seed, accuracy in enumerate((1.0, 0.7, 0.99))
    ]
    frame = frame_of(rows)
    drawing = accuracy(frame, frame.settings[0], 0.5)
    assert drawing is not None
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    (axes,) = drawing.figure.axes
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in axes.texts}
    (group,) = frame.groups
    assert boxes[str(group.accuracy)].x1 < boxes[" ".join(group.runs)].x0
    assert boxes[str(group.accuracy)].x0 > axes.get_window_extent().x1


def test_shares_far_apart_stand_on_a_logarithmic_axis(frame: Frame) -> None:
    drawing = sizes(frame, frame.settings[0], 0.5)
    near = frame_of([made_row(), made_row(variant="o", method="uniform", params=90_000)])
    other = sizes(near, near.settings[0], 0.5)
    assert drawing is not None
    assert other is not None
    assert [axes.get_xscale() for axes in drawing.figure.axes] == ["log", "log"]
    assert [axes.get_xscale() for axes in other.figure.axes] == ["linear", "linear"]


def test_where_there_is_nothing_there_is_no_figure() -> None:
    frame = frame_of([made_row()])
    assert granularity(frame, frame.settings[0], 0.5) is None
    assert sizes(frame, frame.settings[0], 0.5) is None


def test_more_variants_than_colors_are_still_told_apart(tmp_path: Path) -> None:
    rows = [made_row(variant=f"v{n:02}", accuracy=0.8 + n / 1000) for n in range(len(COLORS) + 2)]
    frame = frame_of(rows)
    drawing = accuracy(frame, frame.settings[0], 0.5)
    assert drawing is not None
    points = [
        line for line in drawing.figure.axes[0].lines if str(line.get_gid()).startswith("run-")
    ]
    looks = {(line.get_color(), line.get_markerfacecolor()) for line in points}
    assert len(looks) == len(rows)
