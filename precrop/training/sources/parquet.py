"""Parquet files of encoded images, as Hugging Face writes them."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from precrop.errors import MALFORMED, PrecropError, errors_as, within
from precrop.files import checked_path, read_json, read_parquet
from precrop.training.sources.source import Source, decoded

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
# The held-out split's names, the preferred one first: "test" is the split that results are given
# for, unless it has no labels.
TESTS = ("test", "valid", "validation", "val")
# All encoded images are read into memory; more than this would have to be streamed.
MOST_BYTES = 8_000_000_000
# Parquet hardly compresses encoded images: files that unpack to more than LARGE bytes, and to more
# than MOST_TIMES their own size, are made to fill the memory.
LARGE, MOST_TIMES = 2**28, 32
# Most classes that have no names, unless there are more images than that.
MOST_CLASSES = 2**16


class Rows:
    """Encoded images of one or several parquet files, held in memory as they are."""

    def __init__(self, files: Sequence[Path], tables: Sequence[Any], columns: tuple[str, str]):
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        image, label = columns
        self.files = files
        self.lengths = [table.num_rows for table in tables]
        chunks = [c for table in tables for c in pc.struct_field(table[image], "bytes").chunks]
        self.encoded = pa.chunked_array(chunks, type=pa.binary())
        # -2 stands for no label at all; -1 is Hugging Face's own sign for an unknown one.
        labels = (table[label].cast("int64", safe=False).fill_null(-2) for table in tables)
        self.labels = torch.from_numpy(np.concatenate([one.to_numpy() for one in labels]))

    def image(self, index: int) -> "Image":
        """Return the image in RGB."""
        encoded = self.encoded[index].as_py()
        if encoded is None:
            raise PrecropError(f"{self.where(index)} has no image bytes")
        return decoded(io.BytesIO(encoded), self.where(index))

    def where(self, index: int) -> str:
        """Return the row, counted from 0, and its file."""
        for file, length in zip(self.files, self.lengths, strict=True):
            if index < length:
                return f"row {index} of {file}"
            index -= length
        raise IndexError(index)

    def contents(self) -> Iterable[str]:
        """Return a line per file, with its size in bytes."""
        return (f"{file.name} {file.stat().st_size}" for file in self.files)


def parquet(folder: Path, files_in: Path) -> Source:
    """Return the data set in the files of ``files_in``, named after ``folder``."""
    train, train_names = _rows(files_in, "train")
    chosen: tuple[Rows, tuple[str, ...] | None] | None = None
    for split in TESTS:
        if any(files_in.glob(f"{split}-*.parquet")):
            chosen = _rows(files_in, split)
            if bool((chosen[0].labels != -1).any()):
                break  # otherwise its labels are secret, as those of ImageNet's test split
    if chosen is None:
        raise PrecropError(f"{files_in} has train-*.parquet, but no test-, valid- or validation-")
    test, test_names = chosen
    if train_names and test_names and train_names != test_names:
        raise PrecropError(f"{test.files[0]} names other classes than {train.files[0]}")
    classes = train_names or test_names or _listed_classes(files_in)
    for rows in (train, test):
        if not len(rows.labels):
            raise PrecropError(f"{rows.files[0]} has no images")
        _check_labels(rows, classes)
    if classes is None:
        row = int(train.labels.argmax())
        label = int(train.labels[row])
        if label >= max(len(train.labels), MOST_CLASSES):
            raise PrecropError(
                f"{train.where(row)} has label {label}, of {len(train.labels)} images: labels are "
                "numbers of classes, counted from 0"
            )
        classes = tuple(map(str, range(label + 1)))
    known = torch.isin(test.labels, train.labels)
    if not bool(known.all()):
        row = int((~known).nonzero()[0])
        label = int(test.labels[row])
        name = classes[label] if label < len(classes) else str(label)
        named = "" if name == str(label) else f" ({name})"
        raise PrecropError(
            f"{test.where(row)} has label {label}{named}, which no training image has"
        )
    return Source(folder.resolve().name, classes, train, test)


def _check_labels(rows: Rows, classes: Sequence[str] | None) -> None:
    wrong = rows.labels < 0
    if classes is not None:
        wrong |= rows.labels >= len(classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        label = "no label" if rows.labels[row] == -2 else f"label {int(rows.labels[row])}"
        allowed = f"0 to {len(classes) - 1}" if classes is not None else "0 or more"
        raise PrecropError(f"{rows.where(row)} has {label}; labels are {allowed}")


def _rows(folder: Path, split: str) -> tuple[Rows, tuple[str, ...] | None]:
    """Return the rows of a split, and the names of its classes if the files give them."""
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    files = sorted(folder.glob(f"{split}-*.parquet"))
    _check_shards(files)
    size = sum(file.stat().st_size for file in files)
    if size > MOST_BYTES:
        raise PrecropError(
            f"{folder} holds {size / 1e9:.0f} GB of parquet, more than is read into memory: "
            "unpack it into train/CLASS/ and val/CLASS/ folders"
        )
    left = max(LARGE, MOST_TIMES * size)
    tables, names, columns = [], None, None
    for file in files:
        with errors_as(f"{file} is damaged", OSError, ValueError, pa.ArrowException):
            opened = pq.ParquetFile(checked_path(file))
            found = _columns(file, opened.schema_arrow)
            if columns not in (None, found):
                raise PrecropError(f"{file} has other columns than {files[0]}")
            columns = found
            tables.append(read_parquet(opened, columns, left))
            left -= tables[-1].nbytes
        names = names or _class_names(opened.schema_arrow.metadata, columns[1])
    assert columns is not None
    return Rows(files, tables, columns), names


def _check_shards(files: Sequence[Path]) -> None:
    """Check that no shard is missing: ``train-00000-of-00002`` needs ``train-00001-of-00002``."""
    names = {file.name for file in files}
    for file in files:
        parts = re.fullmatch(r"(.+)-(\d+)-of-(\d+)\.parquet", file.name)
        if parts is None:
            continue
        stem, digits, count = parts[1], len(parts[2]), parts[3]
        for shard in range(int(count)):
            name = f"{stem}-{shard:0{digits}d}-of-{count}.parquet"
            if name not in names:
                raise PrecropError(f"{file.parent / name} is missing, {file.name} is there")


def _columns(file: Path, schema: Any) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    import pyarrow as pa

    found = []
    for names in (IMAGE_COLUMNS, LABEL_COLUMNS):
        here = [name for name in names if name in schema.names]
        if not here:
            columns = ", ".join(schema.names)
            raise PrecropError(f"{file} has no column {' or '.join(names)} but {columns}")
        found.append(here[0])
    image, label = found
    kind = schema.field(image).type
    encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not encoded or kind.field("bytes").type != pa.binary():
        raise PrecropError(f"{file}: column {image} holds {kind}, not encoded images")
    kind = schema.field(label).type
    if not pa.types.is_integer(kind):
        raise PrecropError(f"{file}: column {label} holds {kind}, labels are integers")
    return image, label


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's library writes into a file's metadata, or None."""
    try:
        written = json.loads((metadata or {})[b"huggingface"])
        names = written["info"]["features"][label]["names"]
    except MALFORMED:
        return None
    return _names(names)


def _listed_classes(folder: Path) -> tuple[str, ...] | None:
    """Return the names in ``classes.json``: a list, or an object whose keys are in label order."""
    file = folder / "classes.json"
    if not file.is_file():
        return None
    with within(f"{file} is damaged"):
        names = _names(read_json(file))
    if names is None:
        raise PrecropError(f"{file} is not a list of class names")
    return names


def _names(written: object) -> tuple[str, ...] | None:
    """Return names in label order; a name that several classes have gets each one's label."""
    if not isinstance(written, list | dict) or not written:
        return None
    names = [str(name) for name in written]
    often = Counter(names)
    return tuple(f"{n} ({label})" if often[n] > 1 else n for label, n in enumerate(names))
