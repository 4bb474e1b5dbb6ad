"""Plans for a latency say what it rests on: in the table, in the summary and in the file."""

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console
from torch import nn

import precrop
from precrop.cli.app import main
from precrop.costs.machine import NOT_MEASURED, basis, describe_machine
from precrop.costs.profiles import DeviceProfile, roofline
from precrop.plans.plan import Plan
from precrop.plans.table import show

HERE = describe_machine()
ROOFLINE = roofline(1e11, 1e10, step=4)


def profile(**machine: Any) -> DeviceProfile:
    return dataclasses.replace(ROOFLINE, threads=2, machine={**HERE, **machine})


def planned(device_profile: DeviceProfile | None) -> Plan:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3))
    return precrop.plan(model, (3, 8, 8), latency=0.95, device_profile=device_profile)


def shown(plan: Plan) -> str:
    out = io.StringIO()
    show(plan, Console(file=out, width=400))
    return out.getvalue()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "estimated by a roofline, not measured"),
        (ROOFLINE, "estimated by a roofline, not measured"),
        (profile(), f"predicted by a profile measured on this machine ({HERE['cpu']}, 2 threads"),
        (
            profile(cpu="Abacus 3000"),
            "predicted by a profile of another machine (Abacus 3000, 2 threads, onnxruntime "
            f"{HERE['versions']['onnxruntime']}), not measured on this {HERE['cpu']}",
        ),
        (
            profile(versions={"onnxruntime": "0.1"}),
            f"another onnxruntime ({HERE['cpu']}, 2 threads, onnxruntime 0.1; now ",
        ),
    ],
)
def test_a_latency_says_what_it_rests_on(given: DeviceProfile | None, words: str) -> None:
    plan = planned(given)
    line = f"The latency above is {plan.options['device_profile']['basis']}."
    assert words in line
    assert line in shown(plan)
    assert line in str(plan)
    assert words in plan.to_json()
    assert Plan.from_json(plan.to_json()) == plan


def test_a_gpu_that_is_not_here() -> None:
    one = dataclasses.replace(profile(gpu="Abacus X"), device="cuda")
    assert "another machine (Abacus X, 2 threads" in basis(one)
    assert "another machine (Abacus X, 2 threads" in basis(
        dataclasses.replace(one, device="cuda:7")
    )


def test_what_a_file_says_of_its_machine_stays_in_its_line() -> None:
    text = basis(profile(cpu="a\x1b[2J\nb" * 999, versions=7))
    assert text.isprintable()
    assert len(text) < 300


def test_a_plan_without_a_latency_says_nothing_of_it() -> None:
    plan = precrop.plan(nn.Conv2d(3, 32, 3), (3, 8, 8), params=1.0)
    assert "latency" not in shown(plan).lower()


def test_a_measured_plan_says_so() -> None:
    plan = planned(ROOFLINE)
    record = {"seconds": 0.0078, "dense_seconds": 0.0145}
    measured = dataclasses.replace(plan, options={**plan.options, "calibrated": record})
    line = "Latency was measured: 7.800 ms, the original 14.500 ms in the same rounds."
    assert line in shown(measured)
    assert line in str(measured)
    broken = {"seconds": "0.0078", "dense_seconds": None}
    odd = dataclasses.replace(plan, options={**plan.options, "calibrated": broken})
    assert "was measured" not in shown(odd)


def test_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "resnet20", "--latency", "0.6"]) == 0
    assert NOT_MEASURED in " ".join(capsys.readouterr().out.split())
