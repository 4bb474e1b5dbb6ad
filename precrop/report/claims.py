"""Claims as data: statements in a study's file that its runs confirm or refute.

A claim compares roles, which the study's file gives to its variants; no method, network or variant
is known here by name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from precrop.errors import PrecropError, within
from precrop.progress import say
from precrop.study.entries import Entry, Line, Several, as_entry, read_entry
from precrop.study.reading import read_yaml
from precrop.study.spec import Part, StudyFile

Names = Annotated[
    Several[Line], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]
"""A list of names; a single name may be written as plain text."""
Paragraph = Annotated[str, BeforeValidator(lambda text: " ".join(str(text).split()))]
Above0 = Annotated[float, Field(gt=0)]
Points = Annotated[float, Field(gt=0, le=100)]


class Claim(Entry):
    """A statement about the accuracy of some variants compared with that of others.

    Attributes:
        name: unique among the claims.
        text: one sentence; ``{margin}`` stands for the margin.
        source: who claims or asks it.
        compare: roles of the variants that the claim is about.
        against: roles of the variants that these are compared with.
        shows: how the accuracy of ``compare`` is claimed to relate to that of ``against``.
        metric: what is compared.
        loss: percentage points that ``no worse`` may lose; None stands for the margin.
        margin: percentage points that count as no difference; None stands for the report's margin.
        at: what both of a pair have in common: the ``budget``, the ``size`` (if possible because
            the study makes one variant as large as the other, `match`) or the layer ``densities``.
        networks: patterns, one of which the network's name must match; empty allows any.
        data: patterns, one of which the data's name must match; empty allows any.
        params: largest share of the other network's parameters that the first may have.
        macs: largest share of the other network's multiply-accumulates that the first may have.
        untestable: why no study's runs can decide the claim; if given, nothing is compared.
    """

    name: Line = Field(validation_alias="claim")
    text: Paragraph
    source: Paragraph
    untestable: Paragraph | None = None
    compare: Names = Field(default_factory=list)
    against: Names = Field(default_factory=list, validation_alias="with")
    shows: Literal["better", "no worse", "equal"] = "better"
    metric: Literal["accuracy"] = "accuracy"
    loss: Points | None = None
    margin: Points | None = None
    at: Literal["budget", "size", "densities"] = "budget"
    networks: Names = Field(default_factory=list, validation_alias="network")
    data: Names = Field(default_factory=list)
    params: Above0 | None = None
    macs: Above0 | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> "Claim":
        compared = self.written - {"claim", "text", "source", "untestable"}
        if self.untestable is not None and compared:
            raise PrecropError(f"{min(compared)} and untestable exclude one another: drop one")
        for needed in ("compare", "with", "shows"):
            if self.untestable is None and needed not in compared:
                raise PrecropError(f"{needed} is missing")
        if self.loss is not None and self.shows != "no worse":
            raise PrecropError(f"loss goes with shows: no worse, not with {self.shows}")
        return self


class _ClaimsEntry(Entry):
    claims: Several[Claim]


@dataclass(frozen=True)
class Claims:
    """The claims of several studies, and the parts that the studies' variants play in them."""

    claims: tuple[Claim, ...] = ()
    parts: Mapping[tuple[str, str], Part] = field(default_factory=dict)


def read_claims(paths: Iterable[Path], studies: Iterable[str]) -> Claims:
    """Read the claims of the studies with these names.

    Args:
        paths: study files, and folders of such files. In a folder, other files are skipped, with a
            note on those that cannot be read.
        studies: names of the studies whose runs are judged.

    Raises:
        PrecropError: one line with the file, the entry and what is wrong there.
    """
    wanted = set(studies)
    claims: dict[str, Claim] = {}
    parts: dict[tuple[str, str], Part] = {}
    for path, asked in _studies(paths, wanted):
        for name, part in asked.parts.items():
            if parts.setdefault((asked.study, name), part) != part:
                raise PrecropError(f"{path}: {name} has another role in another file of this study")
        for claim in _claims(path, asked.claims):
            if claims.setdefault(claim.name, claim) != claim:
                raise PrecropError(f"{path}: claims, {claim.name}: another study means another")
    return Claims(tuple(claims.values()), parts)


def _studies(paths: Iterable[Path], wanted: Set[str]) -> Iterator[tuple[Path, StudyFile]]:
    for path in paths:
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            if file == path or _named(file) in wanted:
                study = read_entry(StudyFile, file)
                if study.study in wanted:
                    yield file, study


def _named(file: Path) -> str | None:
    """Return the name of the study in a file; None if the file is broken or no mapping."""
    try:
        content = read_yaml(file)
    except PrecropError as error:
        say(f"{error}; it is passed over")
        return None
    return str(content.get("study")) if isinstance(content, Mapping) else None


def _claims(path: Path, given: str | Sequence[Any] | None) -> list[Claim]:
    if given is None:
        return []
    if isinstance(given, str):
        path = path.with_name(given)
        given = read_yaml(path)
    with within(str(path)):
        return as_entry(_ClaimsEntry, {"claims": given}).claims
