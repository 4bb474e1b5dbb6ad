import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

import precrop
from precrop.errors import PrecropError
from precrop.evidence import published
from precrop.evidence.candidates import UNIFORM, Candidate
from precrop.evidence.published import (
    CIFAR,
    IMAGENET,
    cifar_resnet,
    compare,
    disagreement,
    load_published,
    mobilenet_v1,
)

VGG = [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256]
OTHER = [64, 16, 64, 64, 128, 256, 192, 400, 512, 256, 64, 128, 512]
RESNET = {
    "family": "tas C010-ResNet8",
    "name": "a narrow one",
    "method": "TAS",
    "xchannels": [3, 16, 6, 16, 12, 28, 40, 64],
    "xblocks": [1, 1, 1],
    "mflops_published": 4.0,
}
ROWS = [
    {"family": "cifar_vgg16_bn", "name": "halves", "method": "L1", "widths": VGG},
    {"family": "cifar_vgg16_bn", "name": "halves again", "method": "L2", "widths": OTHER},
    {"family": "cifar_vgg16_bn", "name": "uniform 0.5", "method": "uniform", "widths": VGG},
    {"family": "atomnas", "name": "mixed kernels", "method": "AtomNAS"},
    RESNET,
]


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    (tmp_path / published.FILE).write_text(json.dumps(ROWS))
    return tmp_path


def test_topologies_have_their_published_costs() -> None:
    plan = precrop.plan(mobilenet_v1(), IMAGENET, params=1.0)
    assert (plan.base_params, plan.base_macs) == (4_231_976, 568_740_352)
    ours = cifar_resnet((3, 3, 3), 10)
    known = precrop.models.resnet20()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in known.parameters())


def test_what_cannot_be_built_and_controls_are_left_out(folder: Path) -> None:
    names = [configuration.name for configuration in load_published(folder)]
    assert names == ["halves", "halves again", "a narrow one"]


def test_configurations_can_go_to_other_processes(folder: Path) -> None:
    for configuration in load_published(folder):
        made = pickle.loads(pickle.dumps(configuration))
        assert made.widths == configuration.widths
        assert sum(p.numel() for p in made.make().parameters()) > 0


def test_budgets_are_those_of_the_published_network(folder: Path) -> None:
    vgg, _, resnet = load_published(folder)
    assert resnet.budgets == {"macs": 4_000_000}
    assert resnet.input_shape == CIFAR
    plan = precrop.plan(vgg.make(), CIFAR, widths=dict(vgg.widths))
    assert vgg.budgets == {"params": plan.params, "macs": plan.macs}


def test_widths_that_a_plan_itself_chose_are_found_again(folder: Path) -> None:
    vgg = load_published(folder)[0]
    plan = precrop.plan(vgg.make(), CIFAR, params=0.3, macs=0.3, divisor=1)
    widths = {layer.name: layer.out_channels for layer in plan.layers if layer.name in vgg.widths}
    budgets = {"params": plan.params, "macs": plan.macs}
    same = published.Configuration(
        vgg.family, "ours", "precrop", vgg.make, CIFAR, widths, budgets, None
    )
    synexp, uniform = compare(same, [Candidate("synexp"), Candidate(UNIFORM, {"rule": "uniform"})])
    assert synexp["rho"] > 0.95
    assert synexp["distance"] < 0.05 < uniform["distance"]
    assert np.isnan(uniform["rho"])


def test_experts_are_set_beside_each_other(folder: Path) -> None:
    uniform = [Candidate(UNIFORM, {"rule": "uniform"})]
    rows = [row for found in load_published(folder) for row in compare(found, uniform)]
    (pair,) = disagreement(pd.DataFrame(rows)).to_dict("records")
    assert (pair["one"], pair["other"], pair["same method"]) == ("halves", "halves again", False)
    assert pair["rho"] < 1
    assert pair["distance"] > 0


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(PrecropError, match="holds no published-widths.json"):
        load_published(tmp_path)
    for text, said in {
        "[1]": "not a list of published widths",
        '[{"family": "cifar_vgg16_bn", "name": "x"}]': "not a list of published widths",
        "{": "is not JSON",
        "[" * 100_000: "nested too deeply",
    }.items():
        (tmp_path / published.FILE).write_text(text)
        with pytest.raises(PrecropError, match=said):
            load_published(tmp_path)
