"""Lists which libraries are installed, and what each of the package's extras adds."""

import importlib.metadata
import re
from contextlib import suppress
from dataclasses import dataclass

from precrop.costs.machine import version

CORE = ""
ADDS = {
    CORE: "plans, crops, densities, masks",
    "models": "torchvision's and timm's networks by name",
    "plot": "pictures of widths (show --plot)",
    "hub": "folders on the Hugging Face Hub (push_to_hub)",
    "train": "train, eval, recalibrate",
    "study": "study: networks x variants x budgets x seeds",
    "ray": "studies on a Ray cluster",
    "deploy": "export to ONNX, bench and profile in ONNX Runtime",
    "report": "report, judge",
    "explore": "explore: plans in the browser",
    "docs": "the documentation as a site (make docs)",
    "dev": "tests and checks of precrop itself",
}
"""What each extra adds, in words."""

_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?")


@dataclass(frozen=True)
class Extra:
    """One of the package's extras.

    Attributes:
        name: as in ``precrop[name]``; empty for what is always installed.
        adds: what it is for.
        versions: the installed version of each library; None if it is missing.
    """

    name: str
    adds: str
    versions: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        """Libraries that are not installed."""
        return [library for library, version in self.versions.items() if version is None]

    @property
    def command(self) -> str | None:
        """The command that installs the missing ones; None if nothing is missing."""
        if not self.missing:
            return None
        return f"pip install 'precrop[{self.name}]'" if self.name else "pip install precrop"


def extras() -> list[Extra]:
    """Return what the package always needs, then each extra, from its metadata."""
    libraries: dict[str, list[str]] = {name: [] for name in ADDS}
    requirements: list[str] = []
    with suppress(importlib.metadata.PackageNotFoundError):  # where precrop is not installed
        requirements = importlib.metadata.requires("precrop") or []
    for requirement in requirements:
        if (found := _REQUIREMENT.match(requirement)) is not None:
            those = libraries.setdefault(found[2] or CORE, [])
            if found[1] not in (*those, "precrop"):
                those.append(found[1])
    return [
        Extra(name, ADDS.get(name, ""), {library: version(library) for library in sorted(those)})
        for name, those in libraries.items()
        if those
    ]
