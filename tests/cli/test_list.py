"""What the command line lists by name."""

import json

import pytest
import torch

from precrop import models, zoo
from precrop.cli.app import main
from precrop.pruning.methods import METHODS

Output = pytest.CaptureFixture[str]


def listed(capsys: Output, *words: str) -> list[str]:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_networks_are_those_that_can_be_built(capsys: Output) -> None:
    names = listed(capsys)
    assert set(models.__all__) < set(names)
    assert len(names) == len(set(names))
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    assert {"resnet50", "timm:resnet50d"} < set(names)
    for name in ("resnet56", "squeezenet1_1", "timm:ghostnet_100"):
        assert name in names
        with torch.device("meta"):
            zoo.load_model(name, {})


def test_a_pattern_goes_with_or_without_the_library(capsys: Output) -> None:
    pytest.importorskip("timm")
    found = listed(capsys, "mobilenetv3_small*")
    assert "timm:mobilenetv3_small_100" in found
    assert all("mobilenetv3_small" in name for name in found)
    assert listed(capsys, "timm:mobilenetv3_small*") == found
    assert set(found) < set(listed(capsys, "ilenetv3_smal"))
    assert json.loads("\n".join(listed(capsys, "resnet2[01]", "--json"))) == {"resnet20": "precrop"}


def test_what_matches_nothing_is_refused(capsys: Output) -> None:
    assert main(["list", "resent20"]) == 2
    err = capsys.readouterr().err
    assert "none of" in err
    assert "did you mean resnet20" in err
    assert main(["list", "qqq*"]) == 2
    assert "`precrop list` shows all" in capsys.readouterr().err


def test_missing_libraries_are_named(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "library_names", lambda: {"precrop": ["resnet20"]})
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert out == "resnet20\n"
    assert "timm are not listed: pip install 'precrop[models]'" in err
    assert main(["list", "-q"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["methods", "objectives", "rules", "costs"])
def test_other_names_say_what_they_are(kind: str, capsys: Output) -> None:
    found = json.loads("\n".join(listed(capsys, "--kind", kind, "--json")))
    assert all(len(about) > 10 for about in found.values())
    assert all(" " in line for line in listed(capsys, "--kind", kind))


def test_methods_are_all_there_are(capsys: Output) -> None:
    found = json.loads("\n".join(listed(capsys, "--kind", "methods", "--json")))
    assert set(found) == {*METHODS}
    needing = {name for name, method in METHODS.items() if method.needs_data}
    assert {name for name, about in found.items() if "Needs --data" in about} == needing
