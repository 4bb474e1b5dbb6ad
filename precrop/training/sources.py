"""Where labelled images come from: digits, CIFAR, parquet files, a folder for every class.

Everything that can be wrong with a data set and shows without decoding its images is found here,
and named by file and row. Libraries say less: of a damaged parquet file `datasets` tells that an
error occurred, of a damaged image neither file nor row, and class folders take it seven times as
long; torchvision's ImageFolder takes hidden files for images.
"""

import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from precrop.errors import PrecropError
from precrop.files import os_errors_as, read_json

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES_AND_SIDE = {"digits": (10, 8), "cifar10": (10, 32), "cifar100": (100, 32)}
"""Of the data sets that have names: how many classes, and pixels of an image's side."""
NAMES = (*CLASSES_AND_SIDE,)
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")
# The held-out split's names, the preferred one first. Hugging Face's "test" is the split that
# results are given for, unless it has no labels; an ImageNet folder's "test" never has any.
PARQUET_TESTS = ("test", "valid", "validation", "val")
FOLDER_TESTS = ("val", "valid", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Encoded images of a parquet data set are read at once; beyond this it would have to be streamed.
PARQUET_BYTES = 8_000_000_000


class Split(Protocol):
    """Labelled images that are decoded one at a time."""

    labels: Tensor  # int64 (N,)

    def image(self, index: int) -> "Image":
        """The image in RGB; `PrecropError` that names it if it is damaged."""

    def where(self, index: int) -> str:
        """The file, and the row in it, of an image."""

    def contents(self) -> Iterable[str]:
        """Lines that tell this split from others without decoding its images."""


@dataclass(frozen=True)
class Source:
    """A data set whose images are still encoded."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split


def find(source: str) -> Source:
    """The data set of this name or in this folder."""
    if source == "digits":
        return _digits()
    if source in NAMES:
        return _named(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "is neither a data set nor a folder"
        raise PrecropError(f"{source!r} {problem}: say {', '.join(NAMES)} or a data set's folder")
    return _folder(folder)


def at_hand(source: str) -> bool:
    """Whether a data set is here, or comes with a library: nothing would be downloaded."""
    if source in _ARCHIVES:
        return any((_home() / name).is_dir() for name in (_ARCHIVES[source], source))
    return source == "digits" or Path(source).expanduser().is_dir()


def _folder(folder: Path) -> Source:
    files = sorted(folder.glob("train-*.parquet")) or sorted(folder.glob("*/train-*.parquet"))
    if files:
        parents = sorted({file.parent.name for file in files})
        if len(parents) > 1:
            raise PrecropError(f"{folder} holds several data sets, say which: {', '.join(parents)}")
        return _parquet(folder, files[0].parent)
    for name, archive in _ARCHIVES.items():
        if folder.name == archive:
            return _torchvision(name, folder.resolve().parent, folder.resolve().name)
        if (folder / archive).is_dir():
            return _torchvision(name, folder, folder.resolve().name)
    return _class_folders(folder)


def _decoded(encoded: Any, where: str) -> "Image":
    """The image in a file or a stream, in RGB."""
    from PIL import Image

    try:
        with Image.open(encoded) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    # What a decoder raises on damaged bytes depends on the format and the damage.
    except Exception as error:
        reason = "no image that can be read" if "cannot identify" in str(error) else _line(error)
        raise PrecropError(f"{where} is damaged: {reason}") from error


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- arrays: digits, and CIFAR as torchvision downloads it --------------------------------------


class Arrays:
    """Images that are decoded already: uint8 (N, H, W, 3)."""

    def __init__(self, name: str, pixels: Tensor, labels: Tensor) -> None:
        self.name = name
        self.pixels = pixels
        self.labels = labels

    def image(self, index: int) -> "Image":
        """The image in RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels[index].numpy())

    def where(self, index: int) -> str:
        """Its number."""
        return f"image {index} of {self.name}"

    def contents(self) -> Iterable[str]:
        """The name is enough: these data sets never change."""
        return (self.name,)


def _digits() -> Source:
    """scikit-learn's 1,797 digits of 8 x 8 pixels; every fifth image is held out."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise PrecropError("digits need scikit-learn: pip install scikit-learn") from error
    found = load_digits()
    labels = torch.from_numpy(found.target).long()
    grey = (torch.from_numpy(found.images) * (255 / 16)).round().byte()  # 0..16 before
    pixels = grey[..., None].repeat(1, 1, 1, 3)
    # In the order of the classes, and at random within each, every fifth image takes a fifth of
    # each class.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[::5]] = True
    return Source(
        "digits",
        tuple(str(name) for name in found.target_names),
        Arrays("digits' training split", pixels[~held_out], labels[~held_out]),
        Arrays("digits' test split", pixels[held_out], labels[held_out]),
    )


_ARCHIVES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""The folder that torchvision's archive unpacks to."""


def _named(name: str) -> Source:
    """CIFAR in the data folder, downloaded if it is not there yet."""
    from filelock import FileLock

    root = _home()
    if not (root / _ARCHIVES[name]).is_dir() and (root / name).is_dir():
        return _folder(root / name)
    with os_errors_as(f"cannot write to {root}"):
        root.mkdir(parents=True, exist_ok=True)
        alone = FileLock(root / ".downloading").acquire()
    with alone:  # processes that start together download once; the others then find the files
        return _torchvision(name, root, name, download=True)


def _home() -> Path:
    """The data folder."""
    home = os.environ.get("PRECROP_DATA")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "precrop"


def _torchvision(name: str, root: Path, title: str, *, download: bool = False) -> Source:
    """CIFAR from torchvision's archive in ``root``.

    Its files are pickles, which run code when they are read. torchvision reads them only if their
    checksums are those of the official archive, so that no other code can hide in them.
    """
    try:
        import torchvision
    except ImportError as error:
        raise PrecropError(f"{name} needs torchvision: pip install 'precrop[models]'") from error
    kind = getattr(torchvision.datasets, name.upper())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about the age of the pickles
            train = kind(str(root), train=True, download=download)
            test = kind(str(root), train=False)
    except OSError as error:
        cause = getattr(error, "reason", error)  # what a URLError is about
        reason = getattr(cause, "strerror", None) or _line(error)
        raise PrecropError(
            f"cannot {'download' if download else 'read'} {name} in {root} ({reason}): "
            "say the folder of a copy instead"
        ) from error
    except RuntimeError as error:
        raise PrecropError(
            f"{root / _ARCHIVES[name]} does not have the checksums of the official archive, and "
            f"pickles of another origin are not opened: use {name} as parquet, or let "
            f"{name!r} download it"
        ) from error
    splits = [
        Arrays(f"{name}'s {which} split", torch.from_numpy(split.data), torch.tensor(split.targets))
        for which, split in (("training", train), ("test", test))
    ]
    return Source(title, tuple(train.classes), *splits)


# --- parquet, as Hugging Face writes it ---------------------------------------------------------


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
        self.labels = torch.cat([self._labels(table[label]) for table in tables])

    @staticmethod
    def _labels(column: Any) -> Tensor:
        # -2 stands for no label at all; -1 is Hugging Face's own sign for an unknown one.
        return torch.from_numpy(column.cast("int64").fill_null(-2).to_numpy().copy())

    def image(self, index: int) -> "Image":
        """The image in RGB."""
        encoded = self.encoded[index].as_py()
        if encoded is None:
            raise PrecropError(f"{self.where(index)} has no image bytes")
        return _decoded(io.BytesIO(encoded), self.where(index))

    def where(self, index: int) -> str:
        """The row, counted from 0, and its file."""
        for file, length in zip(self.files, self.lengths, strict=True):
            if index < length:
                return f"row {index} of {file}"
            index -= length
        raise IndexError(index)

    def contents(self) -> Iterable[str]:
        """The files and their sizes."""
        return (f"{file.name} {file.stat().st_size}" for file in self.files)


def _parquet(folder: Path, files_in: Path) -> Source:
    train, train_names = _rows(files_in, "train")
    chosen: tuple[Rows, tuple[str, ...] | None] | None = None
    for split in PARQUET_TESTS:
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
        classes = tuple(str(label) for label in range(int(train.labels.max()) + 1))
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
    """The rows of a split, and the names of its classes if the files give them."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    files = sorted(folder.glob(f"{split}-*.parquet"))
    _check_shards(files)
    size = sum(file.stat().st_size for file in files)
    if size > PARQUET_BYTES:
        raise PrecropError(
            f"{folder} holds {size / 1e9:.0f} GB of parquet, more than is read into memory: "
            "unpack it into train/CLASS/ and val/CLASS/ folders"
        )
    tables, names, columns = [], None, None
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            found = _columns(file, parquet.schema_arrow)
            if columns not in (None, found):
                raise PrecropError(f"{file} has other columns than {files[0]}")
            columns = found
            tables.append(parquet.read(columns=list(columns)))
        except PrecropError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
            raise PrecropError(f"{file} is damaged: {_line(error)}") from error
        names = names or _class_names(parquet.schema_arrow.metadata, columns[1])
    assert columns is not None
    return Rows(files, tables, columns), names


def _check_shards(files: Sequence[Path]) -> None:
    """``train-00000-of-00002`` needs ``train-00001-of-00002``."""
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
    """The columns of the images and of the labels."""
    import pyarrow as pa

    found = []
    for kind, names in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        here = [name for name in names if name in schema.names]
        if not here:
            columns = ", ".join(schema.names)
            raise PrecropError(f"{file} has no column {' or '.join(names)} but {columns}")
        kind_of = schema.field(here[0]).type
        if kind == "label" and not pa.types.is_integer(kind_of):
            raise PrecropError(f"{file}: column {here[0]} holds {kind_of}, labels are integers")
        if kind == "image" and (
            not pa.types.is_struct(kind_of)
            or kind_of.get_field_index("bytes") < 0
            or kind_of.field("bytes").type != pa.binary()
        ):
            raise PrecropError(f"{file}: column {here[0]} holds {kind_of}, not encoded images")
        found.append(here[0])
    return found[0], found[1]


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face's library writes into a file's metadata, if it did."""
    try:
        written = json.loads((metadata or {})[b"huggingface"])
        names = written["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return _names(names)


def _listed_classes(folder: Path) -> tuple[str, ...] | None:
    """The names in ``classes.json``, a list or an object whose keys are in label order."""
    file = folder / "classes.json"
    if not file.is_file():
        return None
    try:
        names = _names(read_json(file))
    except PrecropError as error:
        raise PrecropError(f"{file} is damaged: {error}") from error
    if names is None:
        raise PrecropError(f"{file} is not a list of class names")
    return names


def _names(written: object) -> tuple[str, ...] | None:
    if isinstance(written, list | dict) and written:
        return tuple(str(name) for name in written)
    return None


# --- a folder for every class -------------------------------------------------------------------


class Files:
    """Image files below one folder."""

    def __init__(self, root: Path, files: Mapping[str, list[tuple[str, int]]]) -> None:
        self.root = root
        self.paths = [path for found in files.values() for path, _ in found]
        self.sizes = [size for found in files.values() for _, size in found]
        counts = torch.tensor([len(found) for found in files.values()])
        self.labels = torch.arange(len(files)).repeat_interleave(counts)

    def image(self, index: int) -> "Image":
        """The image in RGB."""
        return _decoded(self.root / self.paths[index], self.where(index))

    def where(self, index: int) -> str:
        """The file."""
        return str(self.root / self.paths[index])

    def contents(self) -> Iterable[str]:
        """The files and their sizes."""
        return (f"{path} {size}" for path, size in zip(self.paths, self.sizes, strict=True))


def _class_folders(folder: Path) -> Source:
    splits = {
        name: _subfolders(folder / name)
        for name in ("train", *FOLDER_TESTS)
        if (folder / name).is_dir()
    }
    held_out = next((name for name in FOLDER_TESTS if splits.get(name)), None)
    if not splits.get("train") or held_out is None:
        missing = "train/" if not splits.get("train") else "val/, valid/ or test/"
        raise PrecropError(
            f"{folder} is not a data set: it has neither train-*.parquet nor {missing} "
            "with a folder for every class"
        )
    for here, there in (("train", held_out), (held_out, "train")):
        lone = sorted(set(splits[here]) - set(splits[there]))
        if lone:
            raise PrecropError(
                f"{folder / here / lone[0]} has no counterpart: class {lone[0]} is missing "
                f"in {folder / there}"
            )
    return Source(
        folder.resolve().name,
        tuple(splits["train"]),
        _files(folder / "train", splits["train"]),
        _files(folder / held_out, splits["train"]),
    )


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones aside, sorted: label k is the k-th."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(root: Path, classes: Iterable[str]) -> Files:
    found = {}
    for name in classes:
        found[name] = sorted(_image_files(root, name))
        if not found[name]:
            raise PrecropError(f"{root / name} has no images")
        empty = next((path for path, size in found[name] if not size), None)
        if empty is not None:
            raise PrecropError(f"{root / empty} is damaged: it is empty")
    return Files(root, found)


def _image_files(root: Path, below: str) -> Iterable[tuple[str, int]]:
    """Paths below ``root`` and sizes in bytes of the images in a folder and its subfolders."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _image_files(root, path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield path, entry.stat().st_size
