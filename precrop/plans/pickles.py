"""Checks before a ``torch.save`` file is loaded that it does not expand far beyond its size.

An archive of a megabyte may expand to a gigabyte of zeros, and a pickle of a kilobyte to nested
tuples that take forever to hash. PyTorch writes neither.
"""

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from typing import IO

from precrop.errors import PrecropError

_ZIP = b"PK\x03\x04"
_PICKLES = 5
"""Pickles at the head of the older format: three that identify it, the content, storage keys."""
_PROTOCOLS = (2, 3)
"""Pickle protocols that ``weights_only=True`` reads; ``torch.save`` uses the first by default."""
_DEEPEST = 200
_MOST, _PER_BYTE = 1 << 20, 16
"""Most values that the memo may repeat in any file, and how many more for each of its bytes."""
_LINE = 16
"""Characters of a string that count as one value."""
_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_FILL = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
"""Opcodes that fill the lowest stack value that they take, and leave it on the stack."""


@dataclass
class _Value:
    """Number of values in a value, itself included, and the depth of their nesting."""

    size: int
    depth: int = 0


def check_modest(file: IO[bytes]) -> None:
    """Refuse a file that asks for much more memory or time than others of its size.

    Args:
        file: a seekable file; its position changes.

    Raises:
        PrecropError: it does; the message says why, without the file's name.
        Exception: the file is broken; any type of error.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(_ZIP)) == _ZIP:
        _weigh(io.BytesIO(_archived_pickle(file, size)))
        return
    file.seek(0)
    for _ in range(_PICKLES):
        if file.tell() < size:
            _weigh(file)


def _archived_pickle(file: IO[bytes], size: int) -> bytes:
    """Return the pickle of an archive, whose entries must not be compressed."""
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        inside = [entry.filename.partition("/")[2].lower() for entry in entries]
        if "constants.pkl" in inside:
            raise PrecropError(
                "is a TorchScript program, no state_dict: load it with torch.jit.load"
            )
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > size:
            raise PrecropError("is an archive that is compressed, as torch.save makes none")
        (pickled,) = [e for e, name in zip(entries, inside, strict=True) if name == "data.pkl"]
        return archive.read(pickled)


def _check_directory(file: IO[bytes], size: int) -> None:
    """Refuse an archive in which Python and PyTorch may find different tables of contents."""
    tail = min(size, 98)
    file.seek(size - tail)
    raw = file.read(tail).rjust(98, b"\0")
    length, start = struct.unpack_from("<2L", raw, 76 + 12)
    end = size - 22
    if raw[56:60] == b"PK\x06\x07":  # ZIP64, for archives of more than 4 GB
        end = size - 98
        length, start = struct.unpack_from("<2Q", raw, 40)
        if raw[:4] != b"PK\x06\x06" or struct.unpack_from("<Q", raw, 56 + 8) != (end,):
            raise ValueError("two tables of contents")
    if raw[76:80] != b"PK\x05\x06" or raw[96:] != b"\0\0" or start + length != end:
        raise ValueError("no table of contents at its end")


def _weigh(file: IO[bytes]) -> None:
    """Follow one pickle's opcodes like the unpickler, but with sizes in place of the values."""
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    again = 0
    for opcode, argument, place in pickletools.genops(file):
        if opcode.name == "PROTO" and argument not in _PROTOCOLS:
            raise PrecropError(
                f"has pickle protocol {argument}, which is not read as weights alone"
            )
        if opcode.name in _GETS:
            value = memo[argument or 0]
            again += value.size - 1
            if again > _MOST + _PER_BYTE * (place or 0):
                raise PrecropError(
                    "is not a plain state_dict: few bytes stand for millions of values"
                )
            stack.append(value)
        elif opcode.name in _PUTS or opcode.name == "MEMOIZE":
            memo[len(memo) if opcode.name == "MEMOIZE" else argument or 0] = _above(stack[-1])
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            _apply(opcode, argument, stack)


def _apply(opcode: pickletools.OpcodeInfo, argument: object, stack: list[_Value | None]) -> None:
    """Replace the values that an opcode takes from the stack by its result."""
    count, taken = len(opcode.stack_before), list[_Value]()
    if pickletools.markobject in opcode.stack_before:
        count = opcode.stack_before.index(pickletools.markobject)
        while (value := stack.pop()) is not None:
            taken.append(value)
    taken += [_above(stack.pop()) for _ in range(count)]
    filled = taken.pop() if opcode.name in _FILL else _Value(1)
    if isinstance(argument, str | bytes):
        filled.size += len(argument) // _LINE
    filled.size += sum(value.size for value in taken)
    filled.depth = max([filled.depth, *(value.depth + 1 for value in taken)])
    if filled.depth > _DEEPEST:
        raise PrecropError("is nested too deeply")
    stack.extend([filled] * len(opcode.stack_after))


def _above(value: _Value | None) -> _Value:
    if value is None:
        raise ValueError("a mark where a value should be")
    return value
