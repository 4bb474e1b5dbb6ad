"""What a user's code is made of, as it is kept beside results."""

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torchvision.models

from precrop.own import own_function, own_sources
from precrop.sources import changed, sources
from precrop.trust import code_of

FILES = {
    "nets.py": "import os\n\nimport heads\n\n\ndef net():\n    from kit.blocks import conv\n",
    "heads.py": "import torch\n",
    "aside.py": "",
    "kit/__init__.py": "",
    "kit/blocks.py": "from . import norms\nfrom .deep.sizes import *\n\nconv = 1\n",
    "kit/norms.py": "this is no Python\n",
    "kit/aside.py": "",
    "kit/deep/sizes.py": "from .. import blocks\n\nWIDTH = 8\n",
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module, a package, a folder without ``__init__.py``; circles, and a broken file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if name.partition(".")[0] in ("nets", "heads", "kit", "shop"):
            del sys.modules[name]


def test_files_that_a_module_imports_from_its_own_folder() -> None:
    found = own_sources(["./nets.py"])
    assert found.keys() == FILES.keys() - {"aside.py", "kit/aside.py"}


def test_a_module_of_a_package() -> None:
    Path("kit/norms.py").write_text("")
    found = own_sources(["kit.blocks"])
    assert found.keys() == {
        "kit/__init__.py", "kit/blocks.py", "kit/norms.py", "kit/deep/sizes.py",
    }  # fmt: skip


def test_line_ends_make_no_difference() -> None:
    Path("shop.py").write_bytes(b"a = 1\n")
    unix = own_sources(["./shop.py"])
    del sys.modules["shop"]
    Path("shop.py").write_bytes(b"a = 1\r\n")
    assert own_sources(["./shop.py"]) == unix


def test_what_is_edited_later_is_not_what_runs() -> None:
    own_function("./nets.py:net")
    found = own_sources(["./nets.py"])
    Path("kit/blocks.py").write_text("conv = 2\n")
    assert own_sources(["./nets.py"]) == found
    importlib.reload(sys.modules["nets"])
    assert changed(found, own_sources(["./nets.py"])) == "kit/blocks.py"


def test_of_an_installed_package_it_is_the_version() -> None:
    named = {"torchvision.models:resnet18": None}
    assert code_of(named) == {"torchvision": version("torchvision")}
    assert sources(torchvision.models) == code_of(named)


def test_nothing_of_ours_and_of_pythons() -> None:
    named = {"precrop.models:resnet20": None, "synflow": own_sources, "resnet50": None}
    assert code_of({**named, "timm:resnet18": None, "functools:partial": None}) == {}


def test_files_of_one_name_are_told_apart() -> None:
    Path("shop").mkdir()
    Path("shop/nets.py").write_text("net = dict\n")
    found = own_sources(["./nets.py", "./shop/nets.py"])
    assert {"nets.py", "./shop/nets.py: nets.py"} <= found.keys()


def test_what_has_changed() -> None:
    then, now = {"a.py": "1", "b.py": "2"}, {"b.py": "2"}
    assert changed(then, now) == changed({}, now) == changed(None, now) == ""
    assert changed(then, {"a.py": "3", "b.py": "2", "c.py": "4"}) == "a.py, c.py"
    assert changed({"x": "1"}, dict.fromkeys("abcde", "1")) == "a, b, c and 2 more"
