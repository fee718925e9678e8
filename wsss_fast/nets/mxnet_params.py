"""MXNet's `.params` files, read and written without MXNet.

A file is a list of named arrays, little-endian throughout::

    uint64  0x112                  the list's magic number
    uint64  0                      reserved
    uint64  n                      arrays, each as below
    uint64  n                      names, each: uint64 length, then that many bytes; "arg:NAME" or "aux:NAME"

    array   uint32 magic           0xF993FAC9 (version 2), 0xF993FACA (version 3) or 0xF993FAC8 (version 1)
            int32  storage         versions 2 and 3: 0, dense; other kinds are refused
            uint32 dims, int64 each size
            int32  device kind, int32 device number (absent, like all that follows, for an array without dims)
            int32  element type, then the elements in C order
    Files older than version 1 have the number of dims in place of a magic number, and uint32 sizes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}
MOST_DIMS = 32


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = memoryview(data), name, 0

    def fail(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: no MXNet .params file: {what} at byte {self.at}. Hint: is the download complete?")

    def bytes(self, count: int, what: str) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise self.fail(f"{what} reaches beyond the end ({len(self.data)} bytes)")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str, what: str) -> int:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form), what))[0]


def read(path: str | Path) -> dict[str, np.ndarray]:
    """name → array, names as they stand in the file ("arg:conv1a_weight")."""
    path = Path(path)
    reader = _Reader(path.read_bytes(), path.name)
    if reader.number("Q", "the magic number") != LIST_MAGIC:
        raise reader.fail("its first number is not 0x112")
    reader.number("Q", "the reserved number")
    count = reader.number("Q", "the number of arrays")
    if count > len(reader.data):
        raise reader.fail(f"{count} arrays are more than its size allows")
    arrays = [_array(reader) for _ in range(count)]
    if (names := reader.number("Q", "the number of names")) != count:
        raise reader.fail(f"{names} names for {count} arrays")
    result = {}
    for array in arrays:
        raw = bytes(reader.bytes(reader.number("Q", "a name's length"), "a name"))
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise reader.fail("a name that is no text") from error
        if name in result:
            raise reader.fail(f"the name {name!r} twice")
        result[name] = array
    return result


def _array(reader: _Reader) -> np.ndarray:
    first = reader.number("I", "an array")
    size = "q"
    if first in (V2, V3):
        if (storage := reader.number("i", "a storage kind")) != 0:
            raise reader.fail(f"storage kind {storage}: a sparse array")
        dims = reader.number("I", "a number of dimensions")
    elif first == V1:
        dims = reader.number("I", "a number of dimensions")
    else:
        dims, size = first, "I"
    if dims > MOST_DIMS:
        raise reader.fail(f"an array of {dims} dimensions")
    shape = tuple(reader.number(size, "a size") for _ in range(dims))
    if any(extent < 0 for extent in shape):
        raise reader.fail(f"the shape {shape}")
    if dims == 0 and first != V3:
        return np.zeros(0, np.float32)
    reader.number("q", "a device")  # two int32: where the array lay when it was saved
    kind = reader.number("i", "an element type")
    if kind not in TYPES:
        raise reader.fail(f"the unknown element type {kind}")
    dtype = np.dtype(TYPES[kind])
    data = reader.bytes(math.prod(shape) * dtype.itemsize, f"an array of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes version 2, what MXNet 1.x writes."""
    kinds = {np.dtype(form): kind for kind, form in TYPES.items()}
    parts = [struct.pack("<QQQ", LIST_MAGIC, 0, len(arrays))]
    for array in arrays.values():
        kind = kinds[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
        parts.append(struct.pack(f"<IiI{array.ndim}qiii", V2, 0, array.ndim, *array.shape, 1, 0, kind))
        parts.append(np.ascontiguousarray(array, TYPES[kind]).tobytes())
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        raw = name.encode()
        parts.append(struct.pack("<Q", len(raw)) + raw)
    Path(path).write_bytes(b"".join(parts))
