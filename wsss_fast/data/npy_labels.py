"""`cls_labels.npy`, the label file of PSA, IRN and EPS, read without running what it says.

The file is a NumPy array of no dimensions that holds one pickled dict, image id → float32[C]. Unpickling calls whatever
functions a file names. This reader has no functions at all: it follows the few instructions that such a file consists of,
notes the calls instead of making them, and recognises the notes that mean "an array of numbers". All else is refused.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data._problems import DataError
from wsss_fast.files.names import shown

LARGEST_FILE = 1 << 28
MOST_NUMBERS = LARGEST_FILE // 4  # float32: rows of a small file can all be the same large array
_TYPES = {"b1": "?", "u1": "u1", "i1": "i1", "i2": "i2", "i4": "i4", "i8": "i8", "f2": "f2", "f4": "f4", "f8": "f8"}
_KNOWN = {
    (module, name): name
    for module, names in {
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
        "_codecs": ("encode",),  # bytes in the oldest files
    }.items()
    for name in names
}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PLAIN = frozenset(_NUMBERS | _TEXTS | _BYTES)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(eq=False)  # notes are keys of dicts: each is itself
class _Note:
    """A function or type that the file names; after a call also its arguments, and the state it was given."""

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None


def read(path: str | Path) -> dict[str | int, np.ndarray]:
    """id → array of one dimension. The ids are strings or whole numbers, as they stand in the file."""
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"labels: there is no file {shown(path)}")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE >> 20} MiB")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # numpy reads the header as Python's literals
            _check_header(file)
            entries = _entries(_follow(file.read()))
    except OSError as error:
        raise DataError(f"labels: cannot read {shown(path)}: {error.strerror}") from None
    except DataError:
        raise
    except Exception as error:  # of numpy's and pickletools' readers, on what is neither: nearly anything
        hint = "a dict of image id to an array of 0 and 1, saved with numpy.save, is expected; nothing in the file was run"
        raise DataError(f"labels: {shown(path)} is no cls_labels.npy: {shown(str(error))}. Hint: {hint}") from None
    return entries


def _check_header(file: Any) -> None:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is unknown")
    shape, _, dtype = readers[version](file)
    if dtype.kind != "O" or shape != ():
        raise ValueError(f"it holds {dtype} of shape {list(shape)}, not one dict")


def _follow(data: bytes) -> Any:
    """What the pickle builds, with notes in place of calls."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(_pop(stack, _TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(_pop_marked(stack)))
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(*_pop(stack, 2)))
        elif name == "REDUCE":
            function, arguments = _pop(stack, 2)
            if not isinstance(function, _Note) or function.arguments is not None or not isinstance(arguments, tuple):
                raise ValueError("it calls something that is no function")
            stack.append(_Note(function.name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Note) or stack[-1].arguments is None:
                raise ValueError("it gives a state to something without one")
            stack[-1].state = state
        elif name in ("APPEND", "APPENDS"):
            items = _pop(stack, 1) if name == "APPEND" else _pop_marked(stack)
            _top(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop(stack, 2) if name == "SETITEM" else _pop_marked(stack)
            if not all(isinstance(key, str | int | _Note) for key in items[::2]):  # a nested tuple may take for ever to hash
                raise ValueError("a key is neither text nor a whole number")
            _top(stack, dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it holds the instruction {name}")
    raise ValueError("it ends too early")


def _named(module: str, name: str) -> _Note:
    if (module, name) not in _KNOWN:
        raise ValueError(f"it names {module!s}.{name!s}, which no array needs")
    return _Note(_KNOWN[module, name])


def _pop(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count or any(item is _MARK for item in items):
        raise ValueError("its stack runs empty")
    del stack[-count:]
    return items


def _pop_marked(stack: list[Any]) -> list[Any]:
    place = next((i for i in range(len(stack) - 1, -1, -1) if stack[i] is _MARK), None)
    if place is None:
        raise ValueError("its stack runs empty")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise ValueError(f"it fills something that is no {kind.__name__}")
    return stack[-1]


def _entries(whole: Any) -> dict[str | int, np.ndarray]:
    _, shape, dtype, _, items = _array_state(whole)
    if shape != () or _dtype_name(dtype) != "O8" or not (isinstance(items, list) and len(items) == 1):
        raise ValueError("it holds no single dict")
    if type(items[0]) is not dict:
        raise ValueError(f"it holds a {type(items[0]).__name__}, not a dict")
    entries: dict[str | int, np.ndarray] = {}
    count = 0
    for key, value in items[0].items():
        numbers = _numbers(value)
        count += len(numbers)
        if count > MOST_NUMBERS:
            raise ValueError(f"its rows have more than {MOST_NUMBERS} numbers")
        entries[_key(key)] = numbers
    return entries


def _key(key: Any) -> str | int:
    if isinstance(key, _Note) and key.name == "scalar" and key.arguments is not None:
        dtype, raw = key.arguments
        key = _from_bytes(raw, dtype, (1,))[0].item()
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError("an image id is neither text nor a whole number")
    return key


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, _Note) and value.name == "_frombuffer":
        raw, dtype, shape, *_ = value.arguments or ()
    else:
        _, shape, dtype, _, raw = _array_state(value)
    if not (isinstance(shape, tuple) and len(shape) == 1 and isinstance(shape[0], int)):
        raise ValueError("an image's labels are not of one dimension")
    return _from_bytes(raw, dtype, shape)


def _array_state(value: Any) -> tuple[Any, ...]:
    state = value.state if isinstance(value, _Note) and value.name == "_reconstruct" else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("it holds something that is no array of numbers")
    return state


def _from_bytes(raw: Any, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(raw, _Note) and raw.name == "encode" and raw.arguments is not None:
        text, encoding = raw.arguments
        if encoding != "latin1":
            raise ValueError("bytes in an unknown encoding")
        raw = text.encode("latin1")
    elif isinstance(raw, str):  # written by Python 2
        raw = raw.encode("latin1")
    name = _dtype_name(dtype)
    if name not in _TYPES or not isinstance(raw, bytes | bytearray):
        raise ValueError(f"an array of type {name!r}, not of numbers")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    numbers = np.frombuffer(bytes(raw), np.dtype(_TYPES[name]).newbyteorder(">" if order == ">" else "<"))
    if numbers.shape != shape:
        raise ValueError(f"{numbers.size} numbers for an array of {shape[0]}")
    return numbers


def _dtype_name(dtype: Any) -> str:
    if not isinstance(dtype, _Note) or dtype.name != "dtype" or not dtype.arguments or not isinstance(dtype.arguments[0], str):
        raise ValueError("an array without a type")
    return "O8" if dtype.arguments[0] == "O" else dtype.arguments[0]
