"""Recipes, settings from the command line, learning rates, and the identity of runs."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from precrop.errors import PrecropError
from precrop.model_spec import ModelSpec
from precrop.training.recipes import RECIPES, Recipe, find_recipe, settings, settings_help
from precrop.training.runs import MaskSpec, Run, Start
from tests.training.small_runs import small_run


def test_cifar_160_is_the_usual_one() -> None:
    recipe = RECIPES["cifar-160"]
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (160, 128, 0.1)
    assert (recipe.momentum, recipe.weight_decay, recipe.crop, recipe.flip) == (0.9, 1e-4, 4, True)
    steps = 160 * 390
    rates = [recipe.learning_rate(epoch * 390, steps) for epoch in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rates_end_lower_than_they_were(name: str) -> None:
    recipe = RECIPES[name]
    rates = [recipe.learning_rate(step, 1000) for step in range(1000)]
    assert all(0 < rate <= recipe.lr for rate in rates)
    assert max(rates) == pytest.approx(recipe.lr, rel=0.01)
    assert rates[-1] <= recipe.lr / 100 * 1.001
    falling = rates[round(recipe.warmup * 1000) :]
    assert all(later <= earlier for earlier, later in pairwise(falling))


def test_warmup_climbs() -> None:
    recipe = Recipe(lr=1.0, schedule="cosine", warmup=0.1, milestones=())
    rates = [recipe.learning_rate(step, 100) for step in range(12)]
    assert rates[:11] == pytest.approx([k / 11 for k in range(1, 12)])
    assert rates[11] < 1


def test_settings() -> None:
    pairs = ["lr=0.05", "milestones=0.3,0.6", "nesterov=true", "schedule=steps", "batch-size=64"]
    recipe = Recipe().changed(settings(pairs))
    assert recipe == Recipe(
        lr=0.05, milestones=(0.3, 0.6), nesterov=True, schedule="steps", batch_size=64
    )
    assert Recipe().changed({"lr": None, "epochs": 3}) == Recipe(epochs=3)
    assert Recipe().changed({"milestones": "0.5"}).milestones == (0.5,)


def test_milestones_without_the_schedule_that_has_them() -> None:
    quick = RECIPES["cifar-quick"]
    with pytest.raises(PrecropError, match="schedule=one-cycle has no milestones: add schedule="):
        quick.changed({"milestones": "0.3"})
    assert quick.changed({"milestones": "0.3", "schedule": "steps"}).milestones == (0.3,)
    assert RECIPES["imagenet-90"].changed({"schedule": "cosine"}).schedule == "cosine"


def test_a_setting_is_said_once() -> None:
    with pytest.raises(PrecropError, match="^batch_size is given twice: 64 and 32$"):
        settings(["batch-size=64", "lr=0.1", "batch_size=32"])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lr", "'lr' is not like lr=0.05"),
        ("epoch=3", "no 'epoch'; did you mean epochs?"),
        ("epochs=2.5", "epochs=2.5 is not a whole number"),
        ("epochs=0", "epochs=0 is not from 1"),
        ("lr=fast", "lr=fast is not a number"),
        ("lr=0", "lr=0 trains nothing"),
        ("lr=nan", "lr=nan is not a number"),
        ("flip=2", "flip=2 is not true or false"),
        ("schedule=linear", "choose from steps, one-cycle, cosine"),
        ("milestones=80,120", "milestones are shares"),
        ("label_smoothing=2", "label_smoothing=2.0 is not from 0 to 0.99"),
        ("lr={[]: 1}", "lr={[]: 1} is not a number"),
        ("lr=" + "-" * 9000 + "1", "lr=---"),
        ("lr=1" + "0" * 400, "0 is not a number"),
        ("lr=0x" + "f" * 5000, "lr=0xfff"),
        ("epochs=1" + "0" * 400, "0 is not a whole number"),
        ("milestones=[1" + "0" * 400 + "]", "0] is not like 0.5,0.75"),
        ("nesterov=true", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_settings(pair: str, message: str | None) -> None:
    if message is None:
        with pytest.raises(PrecropError, match="nesterov=true needs"):
            Recipe(optimizer="rmsprop").changed(settings([pair]))
        return
    with pytest.raises(PrecropError) as caught:
        Recipe().changed(settings([pair]))
    assert message in str(caught.value)


def test_a_recipe_of_fields_without_names() -> None:
    with pytest.raises(PrecropError, match="a recipe has no 1; choose from epochs"):
        Recipe.from_json({1: 2})


def test_every_field_has_help() -> None:
    for field in dataclasses.fields(Recipe):
        assert f"{field.name}: {field.metadata['help']}" in settings_help()


def test_recipes_by_name() -> None:
    assert find_recipe("cifar-quick", "digits").epochs == 10
    assert find_recipe(None, "digits") is RECIPES["digits"]
    assert find_recipe(None, "cifar100") is RECIPES["cifar-160"]
    with pytest.raises(PrecropError, match="choose from cifar-160"):
        find_recipe("cifar-161", "cifar10")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    content = json.loads(json.dumps(RECIPES[name].to_json()))
    assert Recipe.from_json(content) == RECIPES[name]


def test_identity_is_what_decides_the_result() -> None:
    run = small_run()
    assert len(run.id) == 12
    assert run.name == f"tests.training.small_runs-batch_net-digits-{run.id}"
    same: list[dict[str, Any]] = [{"data": "./digits"}, {"versions": {}}, {"init": "reset"}]
    for fields in same:
        assert dataclasses.replace(run, **fields).id == run.id
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"model": ModelSpec(run.model.name, {"num_classes": 10, "width": 2})},
        {"data_digest": "0"},
        {"recipe": run.recipe.changed({"lr": 0.2})},
        {"mask": MaskSpec("synflow", params="0.1")},
        {"mask": MaskSpec("synflow", "filter", params="0.1")},
        {"mask": MaskSpec("synflow", "filter", params="0.1", options={"rounds": 7})},
    ]
    ids = {dataclasses.replace(run, **fields).id for fields in others}
    assert len(ids | {run.id}) == len(others) + 1


def test_runs_survive_json() -> None:
    options = {"batch_norm": "stored"}
    run = small_run(mask=MaskSpec("snip", "filter", params="10%", options=options), seed=3)
    content = json.loads(json.dumps(run.described()))
    assert Run.from_json(content, trust=True) == run
    content["seed"] = 4
    with pytest.raises(PrecropError, match="and says it is"):
        Run.from_json(content, trust=True)
    with pytest.raises(PrecropError, match="not the description of a run"):
        Run.from_json({"model": "resnet20"})
    content["mask"]["options"] = "stored"
    with pytest.raises(PrecropError, match="a mask's options are 'stored', not names"):
        Run.from_json(content)


@pytest.mark.parametrize(
    ("text", "budget", "message"),
    [
        ("synflo:weight", "0.1", "method 'synflo' is unknown"),
        ("synflow:block", "0.1", "granularity 'block' is unknown"),
        ("synflow:weight", None, "needs a budget"),
    ],
)
def test_wrong_masks(text: str, budget: str | None, message: str) -> None:
    with pytest.raises(PrecropError, match=message):
        MaskSpec.parse(text, budget, None)


def test_arguments_must_fit_in_a_file() -> None:
    with pytest.raises(PrecropError, match="fits in no file"):
        _ = small_run(args={"norm": object()}).id


def test_what_a_run_tells_of_its_images_is_no_part_of_its_name() -> None:
    plain = small_run()
    told = dataclasses.replace(plain, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), crop_pct=0.875)
    assert told.id == plain.id
    content = json.loads(json.dumps(told.described()))
    assert Run.from_json(content, trust=True) == told
    assert told.metadata == {
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.1),
        "crop_pct": 0.875,
        "classes": told.classes,
        "run": told.id,
    }
    for name in ("mean", "std", "crop_pct"):  # a run of before there were any
        del content[name]
    assert Run.from_json(content, trust=True) == plain
    for name, value in (
        ("mean", [1, 2]),
        ("std", [1, 2, "x"]),
        ("mean", [1, 2, float("nan")]),
        ("std", [0, 0, 0]),
        ("std", [1, -1, 1]),
        ("crop_pct", 2.0),
        ("crop_pct", "all"),
        ("weights", {"file": "x"}),
    ):
        with pytest.raises(PrecropError, match="^this (run|is not the description of a run)"):
            Run.from_json({**content, name: value}, trust=True)


def test_the_content_of_first_weights_is_part_of_a_runs_name(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    runs = [small_run(weights=Start.of(tmp_path / name)) for name in "abc"]
    assert runs[0].id == runs[1].id != runs[2].id
    assert small_run().id not in {run.id for run in runs}
    assert Run.from_json(json.loads(json.dumps(runs[0].described())), trust=True) == runs[0]
    with pytest.raises(PrecropError, match="cannot read"):
        Start.of(tmp_path / "none")


def test_a_runs_name_fits_a_file_system() -> None:
    """Which counts bytes; names of data may be of any letters."""
    names = {name: small_run(data_name=name).name for name in ("字" * 85, "x" * 300)}
    assert all(len(name.encode()) < 200 for name in names.values())


def test_few_images_get_small_batches() -> None:
    recipe = RECIPES["imagenet-90"]
    assert recipe.fitted(256, {}) == recipe
    for images in (1, 2, 3, 7, 16, 100, 255):
        small = recipe.fitted(images, {})
        assert small.batch_size >= min(images, 2)
        assert small.batch_size >= 8 or small.batch_size * 2 > images
        assert images // small.batch_size >= 8 or small.batch_size <= 8
        assert small.lr / small.batch_size == pytest.approx(recipe.lr / recipe.batch_size)
        assert dataclasses.replace(small, batch_size=256, lr=recipe.lr) == recipe
    assert recipe.fitted(255, {}).batch_size == 16
    assert recipe.fitted(100, {"batch_size": 200}).lr == recipe.lr
