"""A cropped network in a folder comes back as it was, and nothing in the folder is trusted."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import lightning
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import precrop
from precrop.errors import PlanError, PrecropError
from precrop.model_spec import ModelSpec
from precrop.models import resnet20
from precrop.plans.plan import Plan
from precrop.pretrained import FILES
from tests.networks import SHAPE
from tests.networks import small as small_network
from tests.training.small_runs import signed_net

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture(scope="module")
def half() -> Plan:
    return precrop.plan(resnet20(), (3, 32, 32), params=0.5, divisor=1)


@pytest.fixture
def trained(half: Plan) -> nn.Module:
    """Weights and statistics that no fresh network has."""
    torch.manual_seed(3)
    network = half.build(resnet20())
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    torch.optim.SGD(network.parameters(), 0.01).step()
    return network


@pytest.fixture
def saved(trained: nn.Module, half: Plan, tmp_path: Path) -> Path:
    precrop.save_pretrained(trained, half, tmp_path / "net", name="resnet20")
    return tmp_path / "net"


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether the states are alike, to the bit and in type."""
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        value.dtype == states[1][name].dtype and torch.equal(value, states[1][name])
        for name, value in states[0].items()
    )


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_what_is_saved_comes_back(trained: nn.Module, saved: Path) -> None:
    again = precrop.from_pretrained(saved)
    assert same(again, trained)
    assert not again.training
    assert torch.equal(again(IMAGES), trained.eval()(IMAGES))
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)


def test_modules_are_told_that_their_weights_are_of_their_version(tmp_path: Path) -> None:
    plan = precrop.plan(signed_net(), (3, 8, 8), params=0.5)
    small = plan.build(signed_net())
    precrop.save_pretrained(small, plan, tmp_path / "net")
    assert same(precrop.from_pretrained(tmp_path / "net", signed_net), small)


def test_saving_leaves_the_network_and_the_random_numbers(half: Plan, tmp_path: Path) -> None:
    network = half.build(resnet20())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(1)
    precrop.save_pretrained(network, half, tmp_path / "net", name="resnet20")
    drawn = torch.rand(1)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    torch.manual_seed(1)
    assert drawn == torch.rand(1)


def test_arguments_and_metadata_are_kept(tmp_path: Path) -> None:
    original = resnet20(num_classes=7)
    plan = precrop.plan(original, (3, 32, 32), params=0.5)
    info = {"classes": ["a", "b"], "mean": [0.5]}
    precrop.save_pretrained(
        plan.build(original),
        plan,
        tmp_path,
        name="resnet20",
        args={"num_classes": 7},
        metadata=info,
    )
    assert precrop.from_pretrained(str(tmp_path))(IMAGES).shape == (2, 7)
    assert json.loads((tmp_path / "config.json").read_text())["metadata"] == info
    assert Plan.load(tmp_path / "plan.json").source == ModelSpec("resnet20", {"num_classes": 7})


def test_other_classes_than_were_planned(half: Plan, tmp_path: Path) -> None:
    built = half.build(resnet20(num_classes=7))
    precrop.save_pretrained(built, half, tmp_path, name="resnet20", args={"num_classes": 7})
    assert same(precrop.from_pretrained(tmp_path), built)
    kept = Plan.load(tmp_path / "plan.json")
    assert kept.params == sum(p.numel() for p in built.parameters())
    assert kept.options["outputs"] == {"fc": (10, 7)}


def test_a_plan_says_the_name_itself(trained: nn.Module, saved: Path, tmp_path: Path) -> None:
    plan = Plan.load(saved / "plan.json")
    precrop.save_pretrained(trained, plan, tmp_path / "again")
    assert same(precrop.from_pretrained(tmp_path / "again"), trained)


@pytest.mark.parametrize("give", [lambda make: make(), lambda make: make])
def test_a_network_of_ones_own(give: Callable[[Any], Any], tmp_path: Path) -> None:
    original = small_network("residual")
    plan = precrop.plan(original, SHAPE, params=0.5, residual="crop")
    built = plan.build(original)
    precrop.save_pretrained(built, plan, tmp_path)
    with pytest.raises(PrecropError, match="does not say how its network .* is built: give"):
        precrop.from_pretrained(tmp_path)
    again = precrop.from_pretrained(tmp_path, give(lambda: small_network("residual")))
    x = torch.ones(1, *SHAPE)
    assert torch.equal(again(x), built.eval()(x))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1))
        self.second = nn.Conv2d(16, 16, 1)
        self.third = nn.Conv2d(16, 16, 1)
        self.third.weight = self.second.weight
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.second(self.first(self.stem(x))))
        made: torch.Tensor = self.head(x.mean((2, 3)))
        return made


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    plan = precrop.plan(Tied(), SHAPE, params=0.5)
    built = plan.build(Tied())
    precrop.save_pretrained(built, plan, tmp_path)
    again: Any = precrop.from_pretrained(tmp_path, Tied)
    assert again.third.weight is again.second.weight
    assert same(again, built)


def test_precision_and_memory_format_do_not_matter(half: Plan, tmp_path: Path) -> None:
    network: nn.Module = half.build(resnet20()).to(memory_format=torch.channels_last)
    precrop.save_pretrained(network.bfloat16(), half, tmp_path, name="resnet20")
    again = precrop.from_pretrained(tmp_path)
    assert same(again, network)
    assert next(again.parameters()).dtype == torch.bfloat16


def test_wrapped_networks_are_saved_as_what_they_are(
    trained: nn.Module, half: Plan, tmp_path: Path
) -> None:
    wrapped: Any = torch.compile(trained, backend="eager")
    precrop.save_pretrained(wrapped, half, tmp_path, name="resnet20")
    assert same(precrop.from_pretrained(tmp_path), trained)


@pytest.mark.parametrize("average", [AveragedModel, ModelEma, ModelEmaV2, ModelEmaV3])
def test_averages_are_saved_as_the_networks_that_they_are_of(
    average: Any, trained: nn.Module, half: Plan, tmp_path: Path
) -> None:
    precrop.save_pretrained(average(trained), half, tmp_path, name="resnet20")
    assert same(precrop.from_pretrained(tmp_path), trained)


def test_what_lightnings_fabric_made_is_saved(
    trained: nn.Module, half: Plan, tmp_path: Path
) -> None:
    wrapped: Any = lightning.Fabric(accelerator="cpu", devices=1).setup(trained)
    precrop.save_pretrained(wrapped, half, tmp_path, name="resnet20")
    assert same(precrop.from_pretrained(tmp_path), trained)


def masked(network: Any) -> None:
    prune.l1_unstructured(network.conv1, "weight", 0.5)
    prune.ln_structured(network.layer1[0].conv1, "weight", 0.3, n=2, dim=0)


def parametrised(network: Any) -> None:
    parametrizations.weight_norm(network.conv1)
    parametrizations.spectral_norm(network.fc)


def normed(network: Any) -> None:
    nn.utils.weight_norm(network.conv1)
    nn.utils.spectral_norm(network.fc)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("change", [masked, parametrised, normed])
def test_weights_that_tools_compute_are_saved_as_they_are_used(
    change: Callable[[Any], None], trained: nn.Module, half: Plan, tmp_path: Path
) -> None:
    change(trained.eval())
    with torch.no_grad():
        made = trained(IMAGES)
    before = trained.state_dict()
    precrop.save_pretrained(trained, half, tmp_path, name="resnet20")
    again = precrop.from_pretrained(tmp_path)
    assert again.state_dict().keys() == half.build(resnet20()).state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), made)
        assert torch.equal(trained(IMAGES), made)
    assert trained.state_dict().keys() == before.keys()


def test_another_head_is_found_by_the_name(tmp_path: Path) -> None:
    plan = precrop.plan(timm.create_model("resnet18"), (3, 64, 64), params=0.3)
    args = {"num_classes": 0, "in_chans": 1}
    network = plan.build(timm.create_model("resnet18", **args))
    with pytest.raises(PlanError, match="it has no fc"):
        precrop.save_pretrained(network, plan, tmp_path)
    precrop.save_pretrained(network, plan, tmp_path, name="timm:resnet18", args=args)
    assert same(precrop.from_pretrained(tmp_path), network)


# --- what is refused ----------------------------------------------------------------------------


def test_another_network_is_not_saved(half: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"not the one that the plan builds: layer2.0.conv2"):
        precrop.save_pretrained(resnet20(), half, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet32"}, "for another network"),
        ({"name": "resnet20", "args": {"num_classes": 9}}, r"fc.weight is 9x64"),
        ({"name": "resnet2O"}, "did you mean"),
        ({"args": {"num_classes": 10}}, "name it with name="),
        ({"metadata": {"mean": torch.ones(3)}}, "plain JSON"),
        ({"metadata": {"mean": float("nan")}}, "plain JSON"),
    ],
)
def test_what_could_not_be_found_again_is_not_saved(
    options: Any, message: str, trained: nn.Module, half: Plan, tmp_path: Path
) -> None:
    with pytest.raises(PrecropError, match=message) as caught:
        precrop.save_pretrained(trained, half, tmp_path / "net", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_a_save_that_fails_leaves_the_old_one(
    trained: nn.Module, half: Plan, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise PrecropError("cannot write: no space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr("precrop.pretrained.save_tensors", full)
    with pytest.raises(PrecropError, match="no space"):
        precrop.save_pretrained(trained, half, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_file_in_place_of_the_folder(trained: nn.Module, half: Plan, tmp_path: Path) -> None:
    (tmp_path / "net").write_text("")
    with pytest.raises(PrecropError, match="cannot write .*net"):
        precrop.save_pretrained(trained, half, tmp_path / "net")
    with pytest.raises(PrecropError, match="not written by precrop.save_pretrained"):
        precrop.from_pretrained(tmp_path / "net")


def test_a_file_never_runs_code(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger_code.py").write_text(
        "from precrop.models import resnet20\n"
        "from pathlib import Path\n"
        "Path('ran').touch()\n"
        "def make():\n    return resnet20()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = "stranger_code:make"
    edit(saved, name=name)
    with pytest.raises(PrecropError, match="not run unasked: say model='stranger_code:make'"):
        precrop.from_pretrained(saved)
    with pytest.raises(PrecropError, match="is of stranger_code:make, not of resnet20"):
        precrop.from_pretrained(saved, "resnet20")
    assert precrop.from_pretrained(saved, resnet20) is not None
    assert "stranger_code" not in sys.modules
    assert precrop.from_pretrained(saved, name) is not None
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": {"weights": "http://example.com/x"}}, "is not taken from a file"),
        ({"args": {"num_classes": 2**40}}, "is not taken from a file"),
        ({"args": {"num_classes": 2**20}}, "far larger than the network that the file is of"),
        ({"args": [1]}, "config.json is broken"),
        ({"name": 3}, "config.json is broken"),
        ({"format": 99}, "was not written by save_pretrained"),
        ({"name": "resnet32"}, "for another network"),
    ],
)
def test_a_broken_config(changes: Any, message: str, saved: Path) -> None:
    edit(saved, **changes)
    with pytest.raises(PrecropError, match=message) as caught:
        precrop.from_pretrained(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_broken_file(name: str, damage: str, saved: Path) -> None:
    file = saved / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    with pytest.raises(PrecropError, match=name.replace(".", r"\.")) as caught:
        precrop.from_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network(saved: Path, tmp_path: Path) -> None:
    plan = precrop.plan(resnet20(), (3, 32, 32), params=0.3)
    precrop.save_pretrained(plan.build(resnet20()), plan, tmp_path / "other", name="resnet20")
    (tmp_path / "other" / "model.safetensors").replace(saved / "model.safetensors")
    with pytest.raises(PrecropError, match="does not fit the model: .* has shape"):
        precrop.from_pretrained(saved)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model= is a int"),
        (lambda classes: resnet20(classes), "without arguments"),
        (lambda: 3, "model= gave a int"),
        (lambda: resnet20(9), "fc.weight has shape"),
        (lambda: small_network("conv"), "for another network"),
    ],
)
def test_a_wrong_original(model: Any, message: str, saved: Path) -> None:
    with pytest.raises(PrecropError, match=message):
        precrop.from_pretrained(saved, model)


# --- the Hub, by a stand-in ---------------------------------------------------------------------


class Hub:
    """Folders for repositories, behind the functions of `huggingface_hub` that are used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, Any]] = []

    def create_repo(self, repo_id: str, *, token: Any, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.asked.append((repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        token: Any,
        allow_patterns: list[str],
        commit_message: str,
    ) -> str:
        for file in folder_path.iterdir():
            if file.name in allow_patterns:
                (self.root / repo_id / file.name).write_bytes(file.read_bytes())
        return f"https://hub.invalid/{repo_id}"

    def snapshot_download(
        self, repo_id: str, *, revision: Any, token: Any, allow_patterns: list[str]
    ) -> str:
        assert allow_patterns == list(FILES)
        self.asked.append((repo_id, revision))
        if not (self.root / repo_id).is_dir():
            raise OSError(f"404: no {repo_id}\nsecond line")
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(made, name))
    monkeypatch.chdir(tmp_path)
    return made


def test_pushed_and_pulled(hub: Hub, trained: nn.Module, saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "README.md").write_text("A network.")
    assert precrop.push_to_hub(saved, "someone/half") == "https://hub.invalid/someone/half"
    assert not (hub.root / "someone/half/notes.txt").exists()
    assert (hub.root / "someone/half/README.md").exists()
    assert same(precrop.from_pretrained("someone/half", revision="v1"), trained)
    assert hub.asked == [("someone/half", False), ("someone/half", "v1")]


def test_a_folder_comes_before_the_hub(hub: Hub, trained: nn.Module, saved: Path) -> None:
    assert same(precrop.from_pretrained(f"../{saved.parent.name}/net"), trained)
    saved.rename(saved.parent / "moved")
    (saved.parent / "someone").mkdir()
    (saved.parent / "moved").rename(saved.parent / "someone" / "half")
    assert same(precrop.from_pretrained("someone/half"), trained)
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["nothing", "./a/b", "a/b/c", "/a/b", "../a", "~/b", "a/", "a b/c"]
)
def test_what_is_no_name_of_a_repository_is_not_looked_up(name: str, hub: Hub) -> None:
    with pytest.raises(PrecropError, match="not written by precrop.save_pretrained"):
        precrop.from_pretrained(name)
    assert hub.asked == []


def test_what_is_not_on_the_hub(hub: Hub, saved: Path) -> None:
    with pytest.raises(PrecropError, match="not on the Hugging Face Hub: OSError: 404") as caught:
        precrop.from_pretrained("someone/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(PrecropError, match="is not a repository: write user/name"):
        precrop.push_to_hub(saved, "half")
    (saved / "plan.json").unlink()
    with pytest.raises(PrecropError, match="has no plan.json"):
        precrop.push_to_hub(saved, "someone/half")


def test_an_upload_that_fails(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "upload_folder", refuse)
    with pytest.raises(PrecropError, match="cannot upload to a/b: ConnectionError: no route"):
        precrop.push_to_hub(saved, "a/b")


def test_without_the_hubs_package(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PrecropError, match=r"not a folder here, .* pip install 'precrop\[hub\]'"):
        precrop.from_pretrained("someone/half")
    with pytest.raises(PrecropError, match="which is not installed"):
        precrop.push_to_hub(saved, "someone/half")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_a_senseless_type(saved: Path, dtype: torch.dtype) -> None:
    weights = load_file(saved / "model.safetensors")
    save_file({n: t.to(dtype) for n, t in weights.items()}, saved / "model.safetensors")
    with pytest.raises(PrecropError, match=f"holds {str(dtype)[6:]}, not float32"):
        precrop.from_pretrained(saved)
