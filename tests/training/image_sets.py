"""Small data sets on disk: parquet files, and a folder for every class."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from precrop.errors import PrecropError
from precrop.training.data import Images, load_data

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def pictures(count: int, height: int = 6, width: int = 6, seed: int = 0) -> Tensor:
    """uint8 (N, 3, H, W)"""
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), generator=numbers, dtype=torch.uint8)


def png(picture: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    file: Path,
    images: Iterable[Tensor | bytes | None],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = ("cat", "dog"),
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"bytes": png(image) if isinstance(image, Tensor) else image, "path": None}
        for image in images
    ]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {columns[0]: pa.array(rows, image_type), columns[1]: pa.array(labels, "int64")}
    )
    if names:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        written = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": written})
    pq.write_table(table, file, row_group_size=3)


def parquet_set(folder: Path, **options: Any) -> tuple[Tensor, Tensor]:
    """Seven training and four test images."""
    train, test = pictures(7), pictures(4, seed=1)
    write_parquet(folder / "train-00000-of-00002.parquet", train[:4], [0, 1, 1, 0], **options)
    write_parquet(folder / "train-00001-of-00002.parquet", train[4:], [1, 0, 0], **options)
    write_parquet(folder / "test-00000-of-00001.parquet", test, [1, 0, 0, 1], **options)
    return train, test


def class_folders(
    folder: Path, size: tuple[int, int] = (6, 6), held_out: str = "val", each: int = 3
) -> None:
    for split in ("train", held_out):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for k, picture in enumerate(pictures(each, *size, seed=2 * label + (split == "train"))):
                (folder / split / name / f"{k}.png").write_bytes(png(picture))


def held(split: Any) -> Images:
    assert isinstance(split, Images)
    return split


def one_line(error: pytest.ExceptionInfo[PrecropError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def fault(source: Path | str, **options: Any) -> str:
    with pytest.raises(PrecropError) as error:
        load_data(str(source), **options)
    return one_line(error)
