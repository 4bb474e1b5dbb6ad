"""What a file of ``torch.save`` may ask for: no more memory and time than others of its size."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from precrop.errors import PrecropError
from precrop.plans.pickles import check_modest
from precrop.plans.state_dicts import load_state, read_state


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def twice(index: int) -> bytes:
    """A pair of what is remembered under a number, remembered under the next one."""
    return b"h%ch%c\x86q%c" % (index, index, index + 1)


PAIRS = b"}q\0)q\1" + b"".join(map(twice, range(1, 41)))
NUMBERS = b"](" + b"K\1" * 10_000 + b"eq\0"
SETS = b"}(" + text("l") + NUMBERS + (text("s") + b"cbuiltins\nset\nh\0\x85R") * 2_000 + b"u"
LONG = b"}(" + text("t") + text("x" * 100_000) + b"q\0"
BYTES = LONG + (text("b") + b"c_codecs\nencode\nh\0" + text("utf-32") + b"\x86R") * 2_000 + b"u"
PICKLES = {
    "a key of pairs of pairs": PAIRS + b"h\0h\x29K\1s",
    "a value of pairs of pairs": PAIRS + b"h\0" + text("x") + b"h\x29s",
    "a list that becomes many sets": SETS,
    "a text that becomes many others": BYTES,
    "a deep key": b"})" + b"\x85" * 1_000_000 + b"K\1s",
}


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("net/data.pkl", b"\x80\x02" + pickled + b".")
        file.writestr("net/version", "3\n")
        file.writestr("net/data/0", bytes(1 << 20))


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("legacy", [False, True])
def test_few_bytes_that_stand_for_many_values(tmp_path: Path, name: str, legacy: bool) -> None:
    path = tmp_path / "net.pt"
    if legacy:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        whole, empty = path.read_bytes(), b"\x80\x02}q\0."
        assert whole.count(empty) == 1
        path.write_bytes(whole.replace(empty, b"\x80\x02" + PICKLES[name] + b"."))
    else:
        archive(path, PICKLES[name])
    with pytest.raises(PrecropError, match=r"stand for millions of values|nested too deeply"):
        read_state(path)


def test_compressed_archives(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    archive(path, b"}", zipfile.ZIP_DEFLATED)
    with pytest.raises(PrecropError, match="is an archive that is compressed"):
        read_state(path)


def test_archives_that_may_be_read_in_two_ways(tmp_path: Path) -> None:
    path, other = tmp_path / "net.pt", tmp_path / "other.pt"
    archive(path, b"}")
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("net/DATA.PKL", b"\x80\x02" + PICKLES["a deep key"] + b".")
    archive(other, PICKLES["a deep key"])
    for content in (path.read_bytes(), other.read_bytes() + whole, whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(PrecropError, match="is broken: torch.load cannot read it"):
            read_state(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_that_hold_a_network_more_than_once(legacy: bool) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    state, file = model.state_dict(), io.BytesIO()
    content = {"model": state, "best": state, "optimizer": optimizer.state_dict(), "ema": [state]}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    check_modest(file)


def test_names_of_many_parts(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"a." * 200_000 + "b": torch.ones(1)}, path)
    with pytest.raises(PrecropError, match="does not fit the model"):
        load_state(nn.Linear(1, 1), path)
