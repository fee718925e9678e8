"""Files as nobody should write them: whole ones of each kind, bent at random. The same number gives the same file."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

NAMES = ("a.png", "b.png", "sub/c.png", "2007_000032", "2007000032", "id", "a.jpg", "x.tar/y.png", "C.PNG")
WORDS = (
    *NAMES,
    *("cat", "dog", "background", "0", "7", "-1", "1.0", "999999999", "9" * 20, "9" * 5000, "1e999", "NaN", "true", "null", ""),
    *("../up.png", "/etc/passwd", "./a.png", "a//b.png", "..", ".", "a\\b", " ", "\t", "a b", "a;b", "a,b", '"', "'", "\u202e"),
    *("\x1b[2J", "\ud800", "\udc80", "é", "é", "1" * 70_000, "[" * 3000, "{" * 200, "*a", "&a", "x" * 5000, "\0"),
)
BITS = (
    *(b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b"\r\n", b",", b";", b'"', b"'", b"[", b"]", b"{"),
    *(
        b"}",
        b":",
        b"\\",
        b"\\ud800",
        b"\\u0000",
        b"1e999",
        b"-",
        b"9" * 400,
        b"NaN",
        b"null",
        b"true",
        b"<",
        b">",
        b"&",
        b"\x1b[2J",
    ),
    *(
        b"\x80",
        b"(",
        b"t",
        b"R",
        b"}",
        b"u",
        b"\x94",
        b"h\x00",
        b"q\x00",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b" " * 512,
        b"\0" * 512,
    ),
)
Content = bytes
Make = Callable[[random.Random], Content]


def _text(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(9 if depth < 4 else 6)
    if kind < 3:
        return draw.choice(WORDS)
    if kind < 6:
        return draw.choice((0, 1, 1.0, -1, 2**70, 10**400, True, None, float("nan"), float("inf"), 0.5))
    if kind == 6:
        return [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(WORDS): _value(draw, depth + 1) for _ in range(draw.randrange(4))}


def _replaced(draw: random.Random, whole: Any) -> Any:
    """Some values of a sound one by any."""
    if draw.random() < 0.06:
        return _value(draw)
    if isinstance(whole, dict):
        return {(draw.choice(WORDS) if draw.random() < 0.03 else key): _replaced(draw, value) for key, value in whole.items()}
    if isinstance(whole, list):
        found = [_replaced(draw, value) for value in whole]
        return found * 2 if draw.random() < 0.05 else found
    return whole


def _json(whole: Any) -> Make:
    # a number of 10**400 is not written by json.dumps without the limit of Python's own conversion; 400 digits are within it
    return lambda draw: json.dumps(_replaced(draw, whole), ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "sub/c.png"}],
    "annotations": [{"image_id": 1, "category_id": 3}, {"image_id": 2, "category_id": 3}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
}
ROW = {
    "kind": "image",
    "image": "a.png",
    "size": 5,
    "mtime_ns": 7,
    "status": "ok",
    "output": "a.png",
    "output_bytes": 3,
    "sha256": "0" * 64,
    "width": 3,
    "height": 3,
    "format": "PNG",
    "classes": ["cat"],
    "scores": [0.5],
    "share": [0.1],
    "labels": [0],
    "further": [{"output": "b.npz", "output_bytes": 1, "sha256": "1" * 64}],
}
FAILED = {"kind": "image", "image": "b.png", "size": -1, "mtime_ns": -1, "status": "failed", "reason": "x", "lasting": False}
FILE = {"kind": "file", "output": "coco.json", "output_bytes": 3, "sha256": "0" * 64}
PLAN = {"kind": "plan", "images": 2, "batch": 8, "sha256": "0" * 64}


def manifest_of(header: dict) -> Make:
    def make(draw: random.Random) -> Content:
        lines = [{"kind": "header", **header}, PLAN, ROW, FAILED, FILE]
        lines = [_replaced(draw, line) if draw.random() < 0.5 else line for line in lines]
        if draw.random() < 0.2:
            draw.shuffle(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return make


def lines(draw: random.Random, joint: str = "\n") -> Content:
    rows = [
        draw.choice(WORDS) + draw.choice(("", " 1", ",cat", ",cat;dog", "\tcat", " cat dog")) for _ in range(draw.randrange(6))
    ]
    return _text(draw.choice(("", "\ufeff", "image,classes\n", "id,")) + joint.join(rows))


def csv_text(draw: random.Random) -> Content:
    rows = [
        f"{draw.choice(NAMES)},{draw.choice(('cat', 'cat;dog', '3', '', draw.choice(WORDS)))}" for _ in range(draw.randrange(5))
    ]
    return _text("\n".join(rows))


def zeros(draw: random.Random) -> Content:
    return lines(draw, "\0")


def npy(draw: random.Random) -> Content:
    def row() -> Any:
        return draw.choice(
            (
                np.zeros(3, np.float32),
                np.ones(3, np.uint8),
                np.zeros((2, 2)),
                np.array("x"),
                [0, 1],
                None,
                np.zeros(2, ">i8"),
                np.zeros(0),
            )
        )

    keys = [draw.choice((*NAMES, 2007000032, -5, 2**200, np.int64(7))) for _ in range(draw.randrange(4))]
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(np.array({key: row() for key in keys}, dtype=object), file, protocol=draw.randrange(6))
    return file.getvalue()


def tar(draw: random.Random) -> Content:
    file = io.BytesIO()
    form = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as out:
        for _ in range(draw.randrange(4)):
            info = tarfile.TarInfo(
                draw.choice((*NAMES, "x" * 150 + "/" + "y" * 90 + ".png", "./a.png", "../a.png", "e\u0301" * 40 + ".png"))
            )
            info.size = draw.choice((0, 1, 511, 512, 700))
            info.type = draw.choice((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, b"Z"))
            if len(info.name.encode()) > 99 and form == tarfile.USTAR_FORMAT:
                info.name = "u.png"
            out.addfile(info, io.BytesIO(bytes(info.size)))
    data = bytearray(file.getvalue())
    for _ in range(draw.randrange(4)):
        at = 512 * draw.randrange(len(data) // 512)
        place = draw.choice((0, 100, 124, 124, 124, 156, 157, 257, 345, 386, 482, 483))
        bits = draw.choice(
            (b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"77777777777\0", b"00000000000\0", b"x", b"g", b"L", b"K", b"S", b"1")
        )
        data[at + place : at + place + len(bits)] = bits
        if draw.random() < 0.8:
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def xml(draw: random.Random) -> Content:
    hard = draw.choice(("0", "1", "x", "<a/>"))
    return _text(f"<annotation><object><name>{draw.choice(NAMES)}</name><difficult>{hard}</difficult></object></annotation>")


def yaml(draw: random.Random) -> Content:
    group = (
        f"- {{name: {draw.choice(('pet', 'no', '[', '*a', '&a x', draw.choice(WORDS)))}, classes: [cat, {draw.choice(WORDS)}]}}\n"
    )
    return _text(group * draw.randrange(1, 4))


def bent(draw: random.Random, data: Content) -> Content:
    """Cut, doubled, moved, or with bits of others in it."""
    for _ in range(draw.choice((0, 0, 1, 1, 2, 8))):
        start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        change = draw.randrange(7)
        if change == 0:
            data = data[:end]
        elif change == 1:
            data = data[:start] + data[end:]
        elif change == 2:
            data = data[:end] + data[start:end] * draw.choice((1, 1, 50)) + data[end:]
        elif change == 3 and data:
            data = data[:start] + bytes([draw.randrange(256)]) + data[start + 1 :]
        else:
            data = data[:start] + draw.choice(BITS) * draw.choice((1, 1, 1, 200)) + data[start:]
        data = data[: 1 << 20]
    return data
