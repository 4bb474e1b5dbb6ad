"""Device profiles: kept as files, refused in one line, and standing in for each other's kinds."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

import precrop
from precrop.costs.profiles import ROOFLINES, DeviceProfile, find_profile, roofline
from precrop.costs.work import FEATURES
from precrop.errors import PrecropError
from tests.networks import SHAPE, small

PROFILE = DeviceProfile(
    name="a laptop",
    device="cpu",
    runtime="eager",
    threads=2,
    coefficients={
        "other": {"calls": 1e-9, "reads": 2e-10, "writes": 3e-10},
        "pointwise": {"calls": 4e-9, "macs": 5e-12},
        "linear": {"calls": 1e-9 / 3},
    },
    step=16,
    machine={"cpu": "fast", "torch": "2.15"},
    fitted={"error": 0.03, "networks": ["resnet18", "vgg11"]},
)


def content() -> dict[str, Any]:
    return {"schema": 1, **json.loads(json.dumps(dataclasses.asdict(PROFILE)))}


def refused(given: Any) -> str:
    with pytest.raises(PrecropError) as raised:
        find_profile(given)
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


def test_saved_and_loaded(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "laptop.json")
    loaded = DeviceProfile.load(tmp_path / "laptop.json")
    assert loaded == PROFILE
    assert loaded.digest == PROFILE.digest
    assert find_profile(str(tmp_path / "laptop.json")) == PROFILE
    loaded.save(tmp_path / "again.json")
    texts = [(tmp_path / f"{name}.json").read_text() for name in ("laptop", "again")]
    assert texts[0] == texts[1]


def test_a_profile_from_a_file_plans_as_the_profile_itself(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "laptop.json")
    plans = [
        precrop.plan(small("residual"), SHAPE, latency=0.7, device_profile=given)
        for given in (PROFILE, tmp_path / "laptop.json", str(tmp_path / "laptop.json"))
    ]
    assert plans[0].layers == plans[1].layers == plans[2].layers
    record = plans[0].options["device_profile"]
    assert record.pop("basis").startswith("predicted by a profile of")
    assert record == {
        "name": "a laptop", "device": "cpu", "runtime": "eager", "digest": PROFILE.digest
    }  # fmt: skip


def test_how_profiles_are_named() -> None:
    assert find_profile(None) is find_profile("cpu") is ROOFLINES["cpu"]
    assert find_profile("cuda").device == "cuda"
    assert find_profile(PROFILE) is PROFILE


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in content().items() if key != name}


def coefficients(**kinds: Any) -> dict[str, Any]:
    return content() | {"coefficients": {**content()["coefficients"], **kinds}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a device profile"),
        ("{", "is not a device profile"),
        ("\x00", "is not a device profile"),
        ("[]", "is not a device profile"),
        ("3", "is not a device profile"),
        ("null", "is not a device profile"),
        ("{}", "make one with precrop profile"),
        (without("schema"), "make one with precrop profile"),
        (content() | {"schema": 2}, "make one with precrop profile"),
        (without("name"), "'name'"),
        (content() | {"speed": 3}, "'speed'"),
        (content() | {"runtime": "jax"}, "runtime 'jax' is not eager or ort"),
        (content() | {"runtime": ["eager"]}, "runtime"),
        (content() | {"step": 0}, "step 0"),
        (content() | {"step": 2.5}, "step 2.5"),
        (content() | {"step": True}, "step True"),
        (content() | {"threads": "two"}, "threads 'two' is not a number of threads"),
        (content() | {"device": "tpu"}, "device 'tpu' is not cpu, cuda or cuda:1"),
        (content() | {"device": "cuda:all"}, "device 'cuda:all' is not cpu, cuda or cuda:1"),
        (content() | {"machine": None}, "machine None is not a description"),
        (content() | {"machine": {"cores": 10**400}}, "machine {'cores': 1000"),
        (content() | {"fitted": {"error": math.nan}}, "fitted {'error': nan} is not a description"),
        (content() | {"fitted": [1]}, "fitted [1] is not a description"),
        (content() | {"name": ["a"]}, "name ['a'] is not a text"),
        (content() | {"coefficients": []}, "other"),
        (content() | {"coefficients": None}, "broken"),
        (content() | {"coefficients": "other"}, "broken"),
        (content() | {"coefficients": {"conv": {"calls": 1.0}}}, "no coefficients for 'other'"),
        (content() | {"coefficients": {"other": 3.0}}, "broken"),
        (coefficients(conv={"calls": -1e-6}), "conv.calls is -1e-06"),
        (coefficients(conv={"macs": math.nan}), "conv.macs is nan"),
        (coefficients(conv={"macs": math.inf}), "conv.macs is inf"),
        (coefficients(conv={"macs": 1e300}), "conv.macs is 1e+300"),
        (coefficients(conv={"macs": 10**400}), "conv.macs is 1000"),
        (content() | {"step": 10**400}, "step 1000"),
        (coefficients(conv={"macs": "1"}), "conv.macs is '1'"),
        (coefficients(conv={"macs": True}), "conv.macs is True"),
        (coefficients(conv={"macs": None}), "conv.macs is None"),
        (coefficients(conv={"flops": 1e-12}), "conv.flops"),
        (coefficients(conv=[1e-12]), "broken"),
    ],
)
def test_broken_files(tmp_path: Path, text: Any, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    message = refused(path)
    assert str(path) in message
    assert words in message


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not a device profile" in refused(path)
    assert "cannot read" in refused(tmp_path)
    assert "cpu or cuda" in refused(tmp_path / "nothing.json")


@pytest.mark.parametrize("given", ["gpu", "h100", "", 3, ["cpu"], {"name": "cpu"}])
def test_what_names_no_profile(given: Any) -> None:
    message = refused(given)
    assert "cpu or cuda" in message
    assert "precrop profile" in message


def test_a_broken_profile_of_ones_own() -> None:
    assert "runtime 'jax'" in refused(dataclasses.replace(PROFILE, runtime="jax"))
    assert "'other'" in refused(dataclasses.replace(PROFILE, coefficients={}))


def test_kinds_that_were_not_measured() -> None:
    assert PROFILE.of("pointwise") == {"calls": 4e-9, "macs": 5e-12}
    for kind in ("conv", "stem", "grouped", "unblocked", "transposed"):
        assert PROFILE.of(kind) is PROFILE.coefficients["pointwise"]
    assert PROFILE.of("matmul") is PROFILE.coefficients["linear"]
    for kind in ("depthwise", "relu", "other", "of tomorrow"):
        assert PROFILE.of(kind) is PROFILE.coefficients["other"]
    only = dataclasses.replace(PROFILE, coefficients={"other": {"calls": 1.0}})
    for kind in ("stem", "conv", "pointwise", "grouped", "transposed", "linear", "matmul"):
        assert only.of(kind) == {"calls": 1.0}
    dense = dataclasses.replace(PROFILE, coefficients={"other": {}, "conv": {"macs": 1.0}})
    assert dense.of("matmul") == dense.of("pointwise") == {"macs": 1.0}


def test_the_digest_is_that_of_predictions() -> None:
    same: list[dict[str, Any]] = [{"name": "b"}, {"threads": 7}, {"machine": {}}, {"fitted": {}}]
    assert {dataclasses.replace(PROFILE, **change).digest for change in same} == {PROFILE.digest}
    turned = dict(list(PROFILE.coefficients.items())[::-1])
    assert dataclasses.replace(PROFILE, coefficients=turned).digest == PROFILE.digest
    more = {**PROFILE.coefficients, "linear": {"calls": math.nextafter(1e-9 / 3, 1)}}
    other: list[dict[str, Any]] = [
        {"device": "cuda"},
        {"runtime": "ort"},
        {"step": 8},
        {"coefficients": more},
    ]
    digests = {dataclasses.replace(PROFILE, **change).digest for change in other}
    assert len(digests - {PROFILE.digest}) == len(other)


def test_a_roofline_is_the_time_of_its_peaks() -> None:
    made = roofline(2e12, 1e11, launch=3e-6, name="half a card", device="cuda", runtime="eager")
    assert (made.name, made.device, made.runtime, made.threads) == (
        *("half a card", "cuda", "eager", None),
    )
    every = made.of("conv")
    assert set(every) == set(FEATURES)
    assert every["calls"] == 3e-6
    assert every["reads"] == every["writes"] == every["weights"] == 1e-11
    assert every["macs"] == 1e-12  # two operations each
    assert made.of("view") == {}


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_senseless_rooflines(value: float) -> None:
    for name, peaks in {"flops": (value, 1.0), "bandwidth": (1.0, value)}.items():
        with pytest.raises(PrecropError, match=f"^{name}="):
            roofline(*peaks)


@pytest.mark.parametrize(
    "options",
    [
        *({"launch": -1e-6}, {"launch": math.nan}, {"launch": math.inf}),
        *({"runtime": "jax"}, {"step": 0}, {"step": 1.5}),
    ],
)
def test_senseless_options_of_rooflines(options: dict[str, Any]) -> None:
    with pytest.raises(PrecropError, match=next(iter(options))) as raised:
        roofline(1e12, 1e11, **options)
    assert "\n" not in str(raised.value)
