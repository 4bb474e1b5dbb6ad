"""Networks by name, and what is said about names that are none."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from precrop import trust, zoo
from precrop.errors import PrecropError
from precrop.models.resnet import CifarResNet


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\nWIDTH = 3\n"
        "def net(width=4):\n    return nn.Conv2d(3, width, 1)\n"
        "def number():\n    return 3\n"
    )
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def load_on_meta(name: str, **args: object) -> nn.Module:
    with torch.device("meta"):
        return zoo.load_model(name, args)


def test_own_networks_come_first() -> None:
    assert isinstance(load_on_meta("resnet20", shortcut="pad", num_classes=3), CifarResNet)


@pytest.mark.usefixtures("own_module")
def test_factory_in_the_current_folder() -> None:
    model = zoo.load_model("my_nets:net", {"width": 7})
    assert isinstance(model, nn.Conv2d)
    assert model.out_channels == 7


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_net:net", "cannot import my_net: ModuleNotFoundError"),
        ("my_broken:net", "cannot import my_broken: RuntimeError: two lines"),
        ("my_nets:nett", "unknown factory in my_nets 'nett'; did you mean net?"),
        ("my_nets:number", "gave a int, not a torch.nn.Module"),
        (":net", "cannot import"),
        ("my_nets:", "unknown factory in my_nets '': it has net, number"),
        ("my_nets:WIDTH", "my_nets:WIDTH is 3, no factory: name one"),
        ("my_nets.py", "name a function in it, my_nets.py:FUNCTION"),
        ("half.json", "a plan's file is for --plan or `precrop show`"),
        ("torchvision.models.resnet18", "write torchvision.models:resnet18"),
        ("torchvision:resnet18", "have no prefix: write resnet18"),
    ],
)
def test_broken_factories(name: str, message: str) -> None:
    with pytest.raises(PrecropError) as caught:
        zoo.load_model(name, {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_network_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine with 4 MB: half of that are half a million numbers."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert isinstance(zoo.load_model("resnet20", {}), CifarResNet)
    with pytest.raises(PrecropError, match="or than this machine's memory"):
        zoo.load_model("cifar_vgg16_bn", {})


@pytest.mark.usefixtures("own_module")
def test_factory_in_a_file(tmp_path: Path) -> None:
    """Wherever it lies, with what lies beside it, and whatever module has its name."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("WIDTH = 9")
    (folder / "json.py").write_text(
        "from torch import nn\nfrom beside import WIDTH\n"
        "def net():\n    return nn.Conv2d(3, WIDTH, 3)"
    )
    model = zoo.load_model(f"{folder}/json.py:net", {})
    assert isinstance(model, nn.Conv2d)
    assert model.out_channels == 9
    assert type(zoo.load_model("./my_nets.py:net", {})) is type(zoo.load_model("my_nets:net", {}))
    with pytest.raises(PrecropError, match=r"cannot import ./nets.py: ImportError: there is no"):
        zoo.load_model("./nets.py:net", {})


def test_arguments_that_a_builder_refuses() -> None:
    with pytest.raises(PrecropError, match=r"resnet20 could not be built: TypeError: .*'colour'"):
        zoo.load_model("resnet20", {"colour": "red"})


def test_no_shape_is_guessed_for_a_factory() -> None:
    with pytest.raises(PrecropError, match="--input-shape"):
        zoo.default_input_shape("my_nets:net", nn.Identity())


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet50"])
def test_missing_library_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PrecropError, match=r"not installed: pip install 'precrop\[models\]'"):
        zoo.load_model(name, {})


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("cifar_mobilenet_v2", {}, (3, 32, 32)),
        ("resnet18", {}, (3, 224, 224)),
        ("inception_v3", {}, (3, 299, 299)),
        ("efficientnet_b4", {}, (3, 380, 380)),
        ("swin_v2_t", {}, (3, 256, 256)),
        ("vit_b_32", {"image_size": 64}, (3, 64, 64)),
        ("lraspp_mobilenet_v3_large", {}, (3, 520, 520)),
        ("ssdlite320_mobilenet_v3_large", {}, (3, 320, 320)),
        ("fasterrcnn_mobilenet_v3_large_fpn", {}, (3, 800, 800)),
        ("r3d_18", {}, (3, 16, 112, 112)),
        ("swin3d_t", {}, (3, 32, 224, 224)),
        ("quantized_resnet18", {}, (3, 224, 224)),
        ("timm:resnet18", {}, (3, 224, 224)),
        ("timm:resnet18.a1_in1k", {}, (3, 224, 224)),
        ("timm:inception_v4", {}, (3, 299, 299)),
    ],
)
def test_default_input_shape(name: str, args: dict[str, object], shape: tuple[int, ...]) -> None:
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    assert zoo.default_input_shape(name, load_on_meta(name, **args)) == shape


def test_the_smallest_published_crop_is_the_default() -> None:
    pytest.importorskip("torchvision")
    assert zoo.default_input_shape("regnet_y_128gf", nn.Identity()) == (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet21", "resnet20"),
        ("resnet51", "resnet50"),
        ("timm:resnext50d_32x4", "resnext50d_32x4d"),
    ],
)
def test_unknown_names_come_with_close_ones(name: str, close: str) -> None:
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    with pytest.raises(PrecropError, match=rf"unknown .*did you mean .*{close}"):
        zoo.load_model(name, {})


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("resnet18", "weights"),
        ("fcn_resnet50", "weights_backbone"),
        ("timm:resnet18", "pretrained"),
        ("timm:resnet18", "pretrained_cfg_overlay"),
    ],
)
def test_nothing_is_downloaded(name: str, argument: str) -> None:
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    with pytest.raises(PrecropError, match=rf"argument {argument}: .*--weights"):
        zoo.load_model(name, {argument: "DEFAULT"})


def test_user_code_is_told_apart() -> None:
    assert trust.runs_user_code("os:system")
    assert not trust.runs_user_code("timm:resnet18")
    assert not trust.runs_user_code("resnet50")
