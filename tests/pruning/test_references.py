"""Masks bit for bit, and densities, as they follow from the papers' formulas alone.

`scripts.reference_masks` writes them out in plain PyTorch, without the package.
"""

import json
from typing import Any

import pytest
import torch

import precrop
from scripts import reference_masks as reference

STORED = json.loads(reference.FILE.read_text(encoding="utf-8"))
OPTIONS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "snip": {"method": "snip"},
    "snip, stored": {"method": "snip", "batch_norm": "stored"},
    "grasp": {"method": "grasp"},
    "grasp, stored": {"method": "grasp", "batch_norm": "stored"},
    "synflow, 1 round": {"method": "synflow", "rounds": 1},
    "synflow, 15 rounds": {"method": "synflow", "rounds": 15},
}


@pytest.mark.filterwarnings("ignore:synflow leaves a single weight of shortcut")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("name", reference.DENSITY)
def test_masks(name: str, method: str, memory: torch.memory_format) -> None:
    model = reference.network(name).to(memory_format=memory)
    options = {**OPTIONS[method], "params": reference.DENSITY[name]}
    if "batch_norm" in options or options["method"] in ("snip", "grasp"):
        options["data"] = [reference.batch()]
    densities = precrop.densities(model, reference.SHAPE, **options)
    scores = precrop.scores(model, reference.SHAPE, **options)
    found = precrop.masks(model, densities, scores=scores)
    assert {key: reference.packed(mask) for key, mask in found.items()} == (
        STORED[name]["masks"][method]
    )


@pytest.mark.parametrize("method", reference.RULES)
@pytest.mark.parametrize("name", reference.DENSITY)
def test_densities(name: str, method: str) -> None:
    model = reference.network(name)
    share = reference.DENSITY[name]
    found = precrop.densities(model, reference.SHAPE, method=method, params=share)
    expected = STORED[name]["densities"][method]
    assert {f"{key}.weight": value for key, value in found.items()} == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("name", reference.DENSITY)
def test_expectations(name: str) -> None:
    model, stored = reference.network(name), STORED[name]
    densities = {key.removesuffix(".weight"): p for key, p in stored["densities"]["synexp"].items()}
    scores = precrop.synexp(model, reference.SHAPE, densities)
    output = precrop.expected_output(model, reference.SHAPE, densities)
    assert {"synexp": scores, "output": output} == pytest.approx(stored["log"], rel=1e-9)


def test_the_file_is_what_the_script_writes() -> None:
    found = json.loads(json.dumps(reference.references()))
    for name, stored in STORED.items():
        assert found[name]["masks"] == stored["masks"]
        for method, densities in stored["densities"].items():
            assert found[name]["densities"][method] == pytest.approx(densities, rel=1e-12)


def test_masks_that_differ_are_told_apart() -> None:
    for stored in STORED.values():
        assert len({json.dumps(masks) for masks in stored["masks"].values()}) >= 5
        kept = [
            sum(int(text.split()[0]) for text in masks.values())
            for masks in stored["masks"].values()
        ]
        assert len(set(kept)) == 1
