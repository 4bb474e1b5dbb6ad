"""One row of a study's store: what was trained, under which conditions, with what result.

In a file a row is a line of JSON with a checksum at its end. Its history, most of the line, comes
last and is decoded on first use.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from precrop.errors import MALFORMED, PrecropError, one_line, reason
from precrop.files import LARGEST, figures, is_figure, json_text

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
Width = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Figure = Annotated[float, Field(ge=0, lt=LARGEST)]
Seconds = Annotated[float, Field(ge=0, lt=1e9)]
Time = Annotated[
    AwareDatetime, Field(gt=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))
]


@dataclass(frozen=True)
class Row:
    """A cell of a study that was run, once.

    Densities and widths are those of every layer with a weight, in the order in which the network
    runs them; an empty value was not measured or does not apply.
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    study: str
    cell: str  # id of what was asked for; a cell that is done is not run again
    run: str | None  # id of what was trained, which cells may share; None if it had none
    network: str  # its name, as for ``precrop train``
    args: Mapping[str, Any]  # keyword arguments for its builder
    variant: str  # its name within the study
    kind: Literal["dense", "cropped", "masked"]  # how the network was made smaller
    method: str  # what decided the layers' shares: ``synexp``, ``uniform``…; empty where dense
    granularity: Literal["", "weight", "kernel", "filter", "channel"]  # of what was removed
    asked_params: Figure | None  # the budget as a share of the original's parameters
    asked_macs: Figure | None  # the budget as a share of the original's multiply-accumulates
    seed: Whole
    data: str  # its name, and the images' size where the study gives one
    data_digest: str  # of the images' content
    recipe: Mapping[str, Any]  # its fields
    status: Literal["done", "failed"]
    error: str | None  # in one line
    accuracy: Share | None  # share of held-out images classified correctly after the last epoch
    best_accuracy: Share | None  # the highest accuracy after any epoch
    loss: Figure | None  # mean loss of the held-out images after the last epoch
    params: Count | None  # parameters, without masked weights
    macs: Count | None  # multiply-accumulates at batch 1, without those of masked weights
    base_params: Count | None  # of the original
    base_macs: Count | None  # of the original
    densities: Mapping[str, Figure]  # share of a layer's weights that remain, by layer name
    widths: Mapping[str, tuple[Width, Width]]  # input and output channels, by layer name
    history: Sequence[Mapping[str, float]]  # per epoch learning rate, losses, accuracies, seconds
    seconds: Seconds  # that training took
    overhead: Seconds  # for everything else that the study did for the cell
    started: Time  # when it was begun, in UTC
    ended: Time  # when it was over, in UTC
    device: str  # what it was trained on
    versions: Mapping[str, str]  # of precrop, Python and the libraries that compute
    code: Mapping[str, str] = field(default_factory=dict)  # the user's source files with digests


FIELDS = tuple(one.name for one in fields(Row))
_FINISHED = ("accuracy", "best_accuracy", "loss", "params", "macs", "base_params", "base_macs")
"""Fields that are None only if a cell failed."""
_READER = TypeAdapter(Row)
_HISTORY, _CHECKSUM = b', "history":', b',"crc32":"'
"""What a line's last two values begin with. The first has the only blank outside of texts, whose
quotes are escaped, so its first match is the right one.
"""


class History(Sequence[Mapping[str, float]]):
    """A run's epochs, which ``text`` reads as JSON; they are decoded on first use."""

    def __init__(self, cell: str, text: Callable[[], bytes]) -> None:
        self._cell, self._text = cell, text

    @cached_property
    def _epochs(self) -> tuple[Mapping[str, float], ...]:
        try:
            epochs = tuple(map(figures, json.loads(self._text())))
            if all(is_figure(*each) for epoch in epochs for each in epoch.items()):
                return epochs
        except OSError as error:
            raise PrecropError(
                f"the history of cell {self._cell} cannot be read any more: open the store again"
            ) from error
        except MALFORMED:
            pass
        raise PrecropError(f"the history of cell {self._cell} is not a list of epochs")

    def __getitem__(self, place: Any) -> Any:
        return self._epochs[place]

    def __len__(self) -> int:
        return len(self._epochs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._epochs == tuple(other)

    def __repr__(self) -> str:
        return repr(self._epochs)

    def __reduce__(self) -> Any:
        return tuple, (self._epochs,)


def to_line(row: Row) -> bytes:
    """Return a row as a line of a file."""
    left_out = {"history"} if row.code else {"history", "code"}  # for older versions
    values = {name: getattr(row, name) for name in FIELDS if name not in left_out}
    content = _json(values)[:-1] + _HISTORY + _json(tuple(row.history))
    return b'%s%s%08x"}\n' % (content, _CHECKSUM, zlib.crc32(content))


def _json(value: object) -> bytes:
    text = json_text(value, default=str, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def from_line(line: bytes, read: Callable[[int, int], bytes]) -> Row:
    """Return the row of a line that `to_line` made.

    ``read(start, size)`` returns bytes of the line; it is called when the history is first used.

    Raises:
        ValueError: the line was changed, or is not a row.
    """
    content, _, checksum = line.rpartition(_CHECKSUM)
    if checksum.rstrip() != b'%08x"}' % zlib.crc32(content):  # Git may have changed a line's end
        raise ValueError("it is not what was written: its checksum differs")
    first, _, history = content.partition(_HISTORY)
    place = len(content) - len(history)
    return from_json(first + b"}", partial(read, place, len(history)))


def from_json(text: bytes, history: Callable[[], bytes]) -> Row:
    """Return a row from JSON of everything but the history, which ``history`` reads later.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of its bounds.
    """
    row = _READER.validate_json(text[:-1] + b',"history":[]}')
    if row.status == "done":
        for name in _FINISHED:
            if getattr(row, name) is None:
                raise ValueError(f"a finished run has no {name}")
    return replace(row, history=History(row.cell, history))


def why_not_read(error: Exception) -> str:
    """Return why rows cannot be read, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return one_line(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"]))))
    return one_line(reason(error))
