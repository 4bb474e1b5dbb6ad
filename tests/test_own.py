"""Methods and objectives of one's own by ``module:function``: in commands, and in studies."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from precrop.cli.app import main
from precrop.errors import PrecropError
from precrop.plans.plan import Plan
from precrop.pruning import methods
from precrop.strategies import objectives
from precrop.study.spec import read_study

Output = pytest.CaptureFixture[str]
MINE = '''
import pathlib
import sys
import numpy as np
import torch
import precrop

pathlib.Path("ran").touch()


def late(structure):
    return np.linspace(0.2, 1.8, len(structure.layers))


def short(structure):
    return [1.0]


def negative(structure):
    return -np.ones(len(structure.layers))


def score(problem, *, power=1.0):
    """By itself: what it returns says that it ranks weights."""
    return {name: weight.abs() ** power for name, weight in problem.weights().items()}


def rule(problem):
    return {name: 0.3 for name in problem.layers}


def over(problem):
    return {name: 0.7 for name in problem.layers}


def ends(*args):
    sys.exit(0)


def bright(problem):
    inputs, _ = next(iter(problem.batches()))
    return {name: weight.abs() * inputs.abs().mean() for name, weight in problem.weights().items()}


@precrop.method("mine_registered", kind="score")
def registered(problem):
    return score(problem)


def fails(problem):
    return problem.nothing


def few(problem):
    return {"stem": 0.5}


def ones(problem):
    return {name: torch.ones(2) for name in problem.layers}


def thick(problem):
    return {name: 2.0 for name in problem.layers}


def nan(problem):
    return {name: weight * float("nan") for name, weight in problem.weights().items()}


class Ends(torch.nn.Module):
    def __init__(self, error, when=lambda x: True, num_classes=10):
        super().__init__()
        self.net, self.error, self.when = net(num_classes), error, when

    def forward(self, x):
        if self.when(x):
            raise self.error
        return self.net(x)


def exits():
    return Ends(SystemExit(0))


def closes():
    return Ends(GeneratorExit())


def exits_on_batches(num_classes=10):
    return Ends(SystemExit(), lambda x: len(x) > 4, num_classes)


def net(num_classes=10):
    convs = torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)
    return torch.nn.Sequential(*convs, torch.nn.Flatten(), torch.nn.Linear(256, num_classes))
'''
STUDY = """
study: ours
description: own
data: digits
recipe: {name: digits, epochs: 1}
seeds: [0]
networks: ["./mine.py:net"]
budgets: [{params: 0.5}]
variants:
  - {name: objective, plan: {objective: "./mine.py:late"}}
  - {name: mask, mask: "./mine.py:score:filter", method_options: {power: 2.0}}
  - {name: densities, densities: "./mine.py:rule", plan: {}}
  - {name: data, mask: "mine:bright"}
"""
NET = ["./mine.py:net", "--input-shape", "3,8,8"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file of the user's in the current folder; what it brings is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    # Another test's file of the same name must not be found.
    elsewhere = [folder for folder in sys.path if not Path(folder, "mine.py").is_file()]
    monkeypatch.setattr(sys, "path", elsewhere)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for table in (methods.METHODS, objectives.OBJECTIVES):
        for name, value in list(table.items()):
            monkeypatch.setitem(table, name, value)
    Path("mine.py").write_text(MINE)
    yield
    sys.modules.pop("mine", None)
    for table in (methods.METHODS, objectives.OBJECTIVES):
        for name in [name for name in table if "mine" in name]:
            del table[name]


def printed(capsys: Output, *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Output, *argv: str) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err


def test_an_objective(capsys: Output) -> None:
    args = ["--params", "0.4", "--divisor", "1", "-o", "own.json"]
    assert main(["plan", *NET, "--objective", "./mine.py:late", *args]) == 0
    own = Plan.load("own.json")
    assert own.options["objective"] == "./mine.py:late"
    assert main(["plan", *NET, *args]) == 0
    assert own.widths["0"][1] < Plan.load("own.json").widths["0"][1]
    assert main(["crop", *NET, "--objective", "mine:late", *args[:4], "-o", "c"]) == 0
    assert Plan.load("c.json").widths == own.widths


def test_methods_are_what_they_return(capsys: Output) -> None:
    words = ["densities", *NET, "--params", "0.4"]
    magnitude = printed(capsys, *words, "--method", "magnitude", "--seed", "1")
    for name in ("./mine.py:score", "mine:score", "mine:registered"):
        assert printed(capsys, *words, "--method", name, "--seed", "1") == magnitude
    rooted = printed(
        capsys, *words, "--method", "mine:score", "--option", "power=0.0", "--seed", "1"
    )
    assert rooted != magnitude
    assert set(printed(capsys, *words, "--method", "mine:rule").values()) == {0.3}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--objective", "./mine.py:lat"], "unknown objective in ./mine.py 'lat'; did you mean"),
        (["--objective", "./none.py:late"], "cannot import ./none.py: ImportError: there is no"),
        (["--objective", "nowhere:late"], "cannot import nowhere: ModuleNotFoundError"),
        (["--objective", ":late"], "cannot import"),
        (["--objective", "mine:short"], "mine:short must give 3 weights, a finite number"),
        (["--objective", "mine:negative"], "mine:negative must give 3 weights, a finite number"),
        (["--objective", "mine:score"], "objective mine:score fails (mine.py, line "),
    ],
)
def test_wrong_objectives(capsys: Output, option: list[str], message: str) -> None:
    assert message in refused(capsys, "plan", *NET, "--params", "0.5", *option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["mine:scor"], "unknown method in mine 'scor'; did you mean score"),
        (
            ["mine:score", "--option", "root=2"],
            "'mine:score' has no option 'root': its",
        ),
        (["mine:fails"], "method mine:fails fails (mine.py, line "),
        (["mine:few"], "must return a dict with the names in problem.layers, not others"),
        (["mine:net"], "method mine:net fails (mine.py, line "),
        (
            ["mine:ones"],
            "gives (2,) for 0: scores are a tensor of the weight's shape, (16,",
        ),
        (["mine:thick"], "gives 2.0 for 0: a rule gives a number above 0 and at most 1"),
        (["mine:nan"], "gives NaN or infinity for weights of 0"),
        (["mine:over"], "method mine:over leaves params=3,707, above the budget of 2,648"),
        (["builtins:dict"], "method builtins:dict does not say what it takes"),
        (["mine:bright"], "this method needs data: give data= (in a shell --data)"),
        (["mine:registered", "--data", "x"], "mine:registered looks at none"),
    ],
)
def test_wrong_methods(capsys: Output, option: list[str], message: str) -> None:
    words = ["densities", *NET, "--params", "0.5", "--method", *option]
    assert message in refused(capsys, *words)


def test_a_module_that_ends_the_process(capsys: Output) -> None:
    Path("mine_script.py").write_text("import sys; sys.exit('usage: …')")
    words = ["densities", *NET, "--params", "0.5", "--method", "./mine_script.py:score"]
    assert "cannot import ./mine_script.py: SystemExit: usage" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "./mine.py:ends"], "./mine.py:ends could not be built: SystemExit: 0"),
        (["plan", "./mine.py:exits"], "the network fails on input 3x8x8: SystemExit: 0"),
        (["plan", "./mine.py:closes"], "the network fails on input 3x8x8: GeneratorExit"),
        (["plan", "./odd.py:net"], "cannot import ./odd.py: ValueError: no such net"),
        (["plan", NET[0], "--objective", "mine:ends"], "objective mine:ends fails (mine.py, line"),
        (["densities", NET[0], "--method", "mine:ends"], "method mine:ends fails (mine.py, line"),
    ],
)
def test_code_that_ends_the_process_or_raises_anything(
    capsys: Output, words: list[str], message: str
) -> None:
    Path("odd.py").write_text("def __getattr__(name):\n    raise ValueError(f'no such {name}')\n")
    assert message in refused(capsys, *words, *NET[1:], "--params", "0.5")


def test_a_forward_that_ends_the_process_elsewhere(capsys: Output) -> None:
    assert "fails on input 3x8x8: SystemExit" in refused(
        capsys, "count", "./mine.py:exits", *NET[1:]
    )
    for name, said in (("exits", "cannot take images"), ("exits_on_batches", "cannot be trained")):
        assert main(["train", f"./mine.py:{name}", "--epochs", "1", "--logger", "none"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert said in error
        assert "SystemExit" in error


def test_ctrl_c_is_nobodys_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(problem: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(methods.METHODS, "mine", methods.Method(interrupted, "rule"))
    assert main(["densities", "resnet20", "--params", "0.5", "--method", "mine"]) == 130


def test_a_rule_above_the_budget_is_not_trained(capsys: Output) -> None:
    words = ["train", NET[0], "--epochs", "1", "--logger", "none", "--params", "0.5"]
    assert main([*words, "--mask", "./mine.py:over"]) == 2
    assert "method ./mine.py:over leaves params=" in capsys.readouterr().err


def test_masks_in_training(capsys: Output) -> None:
    words = ["train", NET[0], "--epochs", "1", "--logger", "none", "--params", "0.4"]
    found = printed(capsys, *words, "--mask", "./mine.py:bright:filter")
    content = json.loads((Path(found["folder"]) / "run.json").read_text())
    assert (content["mask"]["method"], content["mask"]["granularity"]) == (
        "./mine.py:bright",
        "filter",
    )
    assert "unknown method in mine 'scor'" in refused(capsys, *words, "--mask", "mine:scor")
    assert "no option 'root'" in refused(
        capsys, *words, "--mask", "mine:score", "--mask-option", "root=1"
    )
    assert "granularity 'row' is unknown" in refused(capsys, *words, "--mask", "synflow:row")


def test_studies(capsys: Output) -> None:
    """That they are found in a study's processes, too, tests/test_plugins.py sees."""
    Path("own.yaml").write_text(STUDY)
    found = printed(capsys, "study", "run", "own.yaml", "--trust", "--dry-run")
    by_name = {entry["variant"]: entry for entry in found["planned"]}
    assert list(by_name) == ["objective", "mask", "densities", "data"]
    assert all(entry["params"] < 0.6 * entry["base_params"] for entry in found["planned"])
    assert Path("ran").exists()


def test_a_strangers_study_names_functions(capsys: Output) -> None:
    """Nothing is imported until the user trusts the file."""
    for variant in (
        {"name": "x", "plan": {"objective": "./mine.py:late"}},
        {"name": "x", "mask": "mine:score:filter"},
        {"name": "x", "plan": {}, "densities": "os:system"},
    ):
        Path("own.yaml").write_text(
            STUDY.partition("variants")[0].replace("./mine.py:net", "resnet20")
            + f"variants: [{json.dumps(variant)}]\n"
        )
        for words in ([], ["--dry-run"]):
            line = refused(capsys, "study", "run", "own.yaml", *words)
            assert "the file names code, " in line
            assert ", which is not run unasked: say --trust" in line
        assert main(["study", "status", "own.yaml"]) == 0
    assert not Path("ran").exists()
    with pytest.raises(PrecropError, match="not run unasked"):
        read_study(Path("own.yaml"), "mine:score")


def test_a_wrong_name_in_a_study_is_told_at_once(capsys: Output) -> None:
    """Before images are looked for."""
    text = STUDY.replace("data: digits", "data: nowhere")
    for old, new, message in (
        ("mine.py:late", "mine.py:lat", "unknown objective in ./mine.py 'lat'"),
        ("mine:bright", "main:bright", "cannot import main"),
        ("power: 2.0", "root: 2.0", "'./mine.py:score' has no option 'root'"),
    ):
        Path("own.yaml").write_text(text.replace(old, new))
        assert message in refused(capsys, "study", "run", "own.yaml", "--trust")
    Path("own.yaml").write_text(STUDY.replace("mine:bright", "mine:fails"))
    line = refused(capsys, "study", "run", "own.yaml", "--trust", "--store", "s")
    assert "method mine:fails fails (mine.py, line " in line
