"""What the ``study`` commands share: the study of a file, and the folder of its results."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precrop.cli.output import warn
from precrop.errors import needs

if TYPE_CHECKING:
    from precrop.study.rows import Row
    from precrop.study.spec import Study
    from precrop.study.store import Store

StoreFolder = Annotated[Path | None, "The folder of the results; results/NAME by default.", "DIR"]


@dataclass(frozen=True)
class StudyOptions:
    """A study, and where its results are."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study: a YAML file.")]
    store: StoreFolder = None

    def read(self, trust: bool = True) -> "Study":
        """The study; without trust one that names code of others is refused."""
        with needs("studies need", "precrop[study]"):
            from precrop.study.spec import read_study
        return read_study(self.file, trust)

    def folder(self, study: "Study") -> Path:
        """The folder of its results."""
        return self.store or Path("results") / study.name


def opened(path: Path, *, create: bool = False) -> "tuple[Store, list[Row]]":
    """A store and its rows; a warning for each part of it that cannot be read."""
    with needs("studies need", "precrop[study]"):
        from precrop.study.store import Store
    store = Store.open(path, create=create)
    rows = store.rows()
    for part, why in store.dropped.items():
        warn(f"{part} of {path} is left out: {why}")
    return store, rows
