"""Plan files: exact both ways, and refused in one line when anything is amiss."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import precrop
from precrop.errors import PlanError
from precrop.plans.plan import Plan
from tests.plan_files import PLAN

TEXT = PLAN.to_json()
STREAM = {"path": "a", "end": "read", "dim": 1, "width": 8}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text().filter(lambda key: key != "list"), inner, max_size=3)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """``value`` with its types, so that 1, 1.0 and True, and lists and tuples, differ."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value), value


def signed(content: dict[str, Any]) -> str:
    """A plan file of any content, with a digest that fits it."""
    content = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "digest": hashlib.sha256(text.encode()).hexdigest()})


def test_round_trip(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == PLAN
    assert typed(dataclasses.asdict(loaded)) == typed(dataclasses.asdict(PLAN))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_layer_without_outputs_is_no_broken_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 0))
    plan = precrop.plan(model, (3, 8, 8), params=0.5)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.build(model)(torch.ones(2, 3, 8, 8)).shape == (2, 0)
    assert plan.layers[-1].kept == 1
    assert str(plan)
    assert plan.plot().axes
    assert len(plan.to_frame()) == 2
    some = plan.for_outputs(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 3)))
    assert some.widths["2"] == (plan.widths["1"][1], 3)


def test_text_is_deterministic_and_has_a_line_per_layer() -> None:
    shuffled = dataclasses.replace(PLAN, shapes=dict(reversed([*PLAN.shapes.items()])))
    assert shuffled.to_json() == TEXT == Plan.from_json(TEXT).to_json()
    assert sum('"kind"' in line for line in TEXT.splitlines()) == len(PLAN.layers)


@given(values, values)
def test_free_values_keep_their_types(value: Any, option: Any) -> None:
    plan = dataclasses.replace(
        PLAN, attributes=(("conv1", "x", value),), options={"option": option}
    )
    loaded = Plan.from_json(plan.to_json())
    assert typed(loaded.attributes) == typed(plan.attributes)
    assert typed(loaded.options) == typed(plan.options)


def test_lists_of_sizes_become_tuples() -> None:
    lists: dict[str, Any] = {"tensors": {"w": [[[16, 9]], 3]}, "input_shape": {"x": [3, 8, 8]}}
    plan = dataclasses.replace(PLAN, **lists)
    assert plan.tensors == {"w": (((16, 9),), 3)}
    assert plan.input_shape == {"x": (3, 8, 8)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j, {1: 2}, {"list": []}, b""])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(PlanError):
        dataclasses.replace(PLAN, options={"x": value}).to_json()


@settings(max_examples=300)
@given(st.data())
def test_a_truncated_file_is_refused(data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(TEXT.rstrip()) - 1))
    with pytest.raises(PlanError, match="^[^\n]*$"):
        Plan.from_json(TEXT[:length])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans") / "plan.json"


@settings(max_examples=500)
@given(data=st.data())
def test_an_altered_file_is_refused_or_means_the_same(scratch: Path, data: st.DataObject) -> None:
    raw = bytearray(TEXT.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(len(raw), start + 4)))
        raw[start:end] = data.draw(st.binary(max_size=4))
    scratch.write_bytes(raw)
    try:
        loaded = Plan.load(scratch)
    except PlanError as error:
        assert "\n" not in str(error)
        assert str(scratch) in str(error)
    else:
        assert loaded == PLAN


def without(field: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(field)


def replacing(field: str, value: object) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers"), "plan of this plan is broken"),
        (replacing("extra", 1), "plan of this plan is broken"),
        (replacing("params", 1.5), "plan.params of this plan is broken: 1.5"),
        (replacing("params", True), "plan.params of this plan is broken: True"),
        (replacing("network", None), "plan.network of this plan is broken"),
        (replacing("seconds", "1"), "plan.seconds of this plan is broken"),
        (replacing("frozen", {"a": 1}), "plan.frozen.a of this plan is broken"),
        (replacing("shapes", {"a": [1, "2"]}), "plan.shapes.a of this plan is broken: '2'"),
        (replacing("tensors", {"a": [[[1, 2, 3]]]}), "plan.tensors.a of this plan is broken"),
        (replacing("layers", [{"name": "a"}]), "plan.layers of this plan is broken"),
        (replacing("attributes", [["a", "b"]]), "plan.attributes of this plan is broken"),
        (replacing("macs", -5), "params or macs of this plan are broken"),
        (replacing("base_params", 0), "params or macs of this plan are broken"),
        (replacing("streams", [STREAM | {"dim": -1}]), "the stream at 'a' of this plan is broken"),
        (replacing("streams", [STREAM | {"width": 0}]), "the stream at 'a' of this plan is broken"),
        *(
            (replacing(name, content), "solver or options of this plan are broken")
            for name, content in (
                ("solver", {"uniform": 5}),
                ("solver", {"uniform": {"share": "x"}}),
                ("solver", {"uniform": {"share": 10**400, "apart": 0}}),
                ("solver", {"starved": {"layer": 1}}),
                ("solver", {"lookalikes": 5}),
                ("options", {"outputs": 0}),
                ("options", {"outputs": {"a": [1]}}),
            )
        ),
        *(
            (replacing("tensors", {"conv1.weight": axes}), "the tensor 'conv1.weight' of this plan")
            for axes in ([], [16], [16, 3, 3], [[[8, 4]], 3, 3, 3], [[[16, 0]], 3, 3, 3])
        ),
        (replacing("schema", 1), "schema version 1; precrop reads 2"),
        (replacing("schema", [[]]), "schema version"),
        (without("schema"), "no schema version"),
    ],
)
def test_types_are_checked_even_under_a_fitting_digest(
    change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = json.loads(TEXT)
    change(content)
    with pytest.raises(PlanError) as caught:
        Plan.from_json(signed(content))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", "null", "[" * 100_000, '{"schema": NaN}', '{"schema": 1}', "1e999"],
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="^[^\n]*$"):
        Plan.from_json(text)


def test_one_changed_digit_is_noticed() -> None:
    with pytest.raises(PlanError, match="altered"):
        Plan.from_json(TEXT.replace('"params": 1143', '"params": 1144'))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 10])
def test_binary_files_are_refused(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    with pytest.raises(PlanError, match="not a plan file"):
        Plan.load(scratch)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read .*No such file"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(PlanError, match="cannot read"):
        Plan.load(tmp_path)
