"""Cells: the single trainings that a study asks for."""

from dataclasses import dataclass

from precrop.files import digest_of
from precrop.model_spec import ModelSpec
from precrop.solve.budgets import Budget
from precrop.study.spec import Limits, Study
from precrop.study.variants import Variant
from precrop.training.recipes import Recipe
from precrop.trust import code_of

SCHEMA = 1
"""Raised when the same fields would ask for something else; part of every cell's id."""


@dataclass(frozen=True)
class Cell:
    """One training that a study asks for."""

    study: str  # its name
    network: ModelSpec
    how: Variant  # what makes the network smaller
    limits: Limits  # its budgets
    seed: int
    recipe: Recipe
    data: str  # name or folder of the images, as for ``precrop train --data``
    data_name: str  # the images' name in the study's file, wherever they are
    image_size: int | None = None  # side in pixels that images are scaled to, or None

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of everything that is asked for.

        The study's name and the place of the images are excluded, and so is the source of the
        user's code, which rows record.
        """
        content = {
            "schema": SCHEMA,
            "network": self.network.name,
            "args": dict(self.network.args),
            "variant": self.how.to_json(),
            "budgets": self.limits.given(),
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "data": self.data_name,
        }
        if self.image_size is not None:  # without one, ids stay as they always were
            content["image_size"] = self.image_size
        return digest_of(content)[:12]

    def own_code(self) -> dict[str, str]:
        """Return the user's source files that build its network and its variant, with digests.

        Their modules are executed: whether to trust them was asked when the study was read.
        """
        return code_of({self.network.name: None, **self.how.load_own()})

    @property
    def variant(self) -> str:
        """Name of the variant within the study."""
        return self.how.name


def expand(study: Study) -> list[Cell]:
    """List a study's cells by network, then budget, then variant, then seed, each cell once."""
    most = max(len(series.budgets) for series in study.series)
    cells = (
        Cell(
            study=study.name,
            network=network.model,
            how=series.variant,
            limits=limits,
            seed=seed,
            recipe=network.recipe,
            data=study.data,
            data_name=study.data_name,
            image_size=study.image_size,
        )
        for network in study.networks
        for place in range(most)
        for series in study.series
        if network in series.networks
        for limits in series.budgets[place : place + 1]
        for seed in series.seeds
    )
    return list({cell.id: cell for cell in cells}.values())


def label(cell: Cell) -> str:
    """Return a cell in words: ``resnet20, PreCrop, params 30%, macs 30%, seed 1``."""
    budgets = [f"{name} {_in_words(budget)}" for name, budget in cell.limits.given().items()]
    return ", ".join([str(cell.network), cell.variant, *budgets, f"seed {cell.seed}"])


def _in_words(budget: Budget) -> str:
    return f"{budget * 100:g}%" if isinstance(budget, float) else str(budget)
