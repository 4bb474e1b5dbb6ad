"""Files that earlier versions wrote, one of each form that there was: all still open.

Each in ``schemas/`` was written by the precrop of its day, never by hand (of ``evidence.json`` some
rows are here), and is compared with what it says itself, or with what that precrop made of it
(``said.json``).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precrop
from precrop.cli.app import main
from precrop.costs.profiles import DeviceProfile
from precrop.deployment.exporting import load_safetensors
from precrop.deployment.passes import PassFile
from precrop.evidence import page
from precrop.evidence.verdict import Evidence
from precrop.models import resnet20
from precrop.study.cells import expand
from precrop.study.spec import read_study
from precrop.training.runs import Run
from tests.planning import counted_macs, counted_params

SCHEMAS = Path(__file__).parent / "schemas"


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu())
        return out


class Mixture(nn.Module):
    """Three experts of which a pass may call one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(8, 16), nn.Linear(16, 3)
        self.experts = nn.ModuleList(Expert() for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        chosen, out = self.gate(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().squeeze(1)
            if rows.numel():
                out[rows] = expert(x[rows])
        made: Tensor = self.head(out)
        return made


class LowRank(nn.Module):
    """A layer with an update of rank 2, and one that no pass calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(24, 4)
        self.unused = nn.Conv2d(3, 5, 3)
        self.weight = nn.Parameter(torch.randn(24, 16))
        self.up, self.down = nn.Parameter(torch.randn(24, 2)), nn.Parameter(torch.randn(2, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(self.stem(x).relu(), self.weight + self.up @ self.down)
        made: Tensor = self.head(x.relu())
        return made


PLANS: dict[str, Callable[[], nn.Module]] = {
    "plan-of-streams.json": resnet20,
    "plan-with-followers.json": Mixture,
    "plan-with-added-weights.json": LowRank,
}


def said(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text())


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_builds_the_network_that_it_says(name: str) -> None:
    old, plan = said(name), precrop.Plan.load(SCHEMAS / name)
    assert plan.widths == {
        layer["name"]: (layer["in_channels"], layer["out_channels"]) for layer in old["layers"]
    }
    assert (plan.followers, list(plan.left_out)) == (
        old.get("followers", {}),
        old.get("left_out", []),
    )
    built = plan.build(PLANS[name]())
    assert counted_params(built) == old["params"] == plan.params
    assert old["macs"] == plan.macs
    if not plan.followers:  # what is called depends on the values of the input
        assert counted_macs(built, tuple(old["input_shape"])) == plan.macs
    assert precrop.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "name", ["trained/run.json", "trained-2/run.json", "masked.json", "masked-with-options.json"]
)
def test_a_run_is_the_run_that_it_says(name: str) -> None:
    old = said(name)
    run = Run.from_json(old)
    assert run.id == old["id"]
    assert run.recipe.to_json() == old["recipe"]
    new = json.loads(json.dumps(run.described()))
    assert {**new, **old, "plan": None} == {**new, "plan": None}


@pytest.mark.parametrize("name", ["trained", "trained-2"])
def test_a_checkpoint_is_as_accurate_as_it_was(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(SCHEMAS / name, tmp_path / "run")
    assert main(["eval", str(folder / "last"), "--data", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    old = said(f"{name}/result.json")
    assert found["accuracy"] == pytest.approx(old["accuracy"], abs=0.005)
    assert found["loss"] == pytest.approx(old["loss"], rel=0.01)


@pytest.mark.parametrize("name", ["methods.yaml", "balance.yaml", "granularity.yaml"])
def test_a_study_has_the_cells_that_it_had(name: str) -> None:
    cells = expand(read_study(SCHEMAS / name))
    assert [cell.id for cell in cells] == said("said.json")[name]


def test_networks_with_weights_say_what_they_said() -> None:
    exported = load_safetensors(SCHEMAS / "exported.safetensors")
    saved = precrop.from_pretrained(SCHEMAS / "pretrained").eval()
    for name, network in {"exported.safetensors": exported, "pretrained": saved}.items():
        (found,) = network(torch.ones(1, 3, 32, 32)).tolist()
        assert found == pytest.approx(said("said.json")[name], rel=1e-3, abs=1e-4)


def test_a_profile_predicts_as_it_did() -> None:
    profile = DeviceProfile.load(SCHEMAS / "profile.json")
    assert profile.coefficients == said("profile.json")["coefficients"]
    assert profile.digest == said("said.json")["profile.json"]


def test_passes_of_a_device_go_on() -> None:
    setting = {"cpu": "x", "runtime": "eager", "threads": 1}
    kept = PassFile(SCHEMAS / "passes.jsonl", setting)
    assert kept.step == 8
    assert list(kept.found) == [("resnet20", "3x32x32", 0.5), ("resnet20", "3x32x32", 0.25)]
    (found,) = kept.passes
    assert (found.network, found.share, found.seconds) == ("resnet20", 0.5, 2e-3)


def test_a_deployment_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(SCHEMAS / "deployed", tmp_path / "deployed")
    network = ["resnet20", "--input-shape", "3,32,32", "--params", "0.02", "--epochs", "0"]
    setting = ["--latency", "100%", "--profile", str(SCHEMAS / "profile.json"), "--rounds", "2"]
    assert main(["deploy", *network, *setting, "-o", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reused"][:2] == ["plan", "export"]  # another machine may measure anew
    assert (folder / "plan.json").read_text() == (SCHEMAS / "deployed/plan.json").read_text()


def test_densities_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "resnet20", "--params", "0.3", "--densities"]
    assert main([*words, str(SCHEMAS / "densities.json"), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {layer["name"]: layer["target"] for layer in layers} == said("densities.json")


def test_evidence_says_what_it_said() -> None:
    found, old = Evidence.load(SCHEMAS / "evidence.json"), said("evidence.json")
    assert found.noise == old["noise"]
    places = old["regret"]["strategy"]["places"]
    assert found.regret["strategy"].tolist() == [
        old["regret"]["strategy"]["words"][place] for place in places
    ]
    assert found.regret["beats"].tolist() == old["regret"]["beats"]
    for table, lines in said("said.json")["evidence.json"].items():
        assert getattr(page, table)(found) == "\n".join(lines)
    assert found.to_json() == old
