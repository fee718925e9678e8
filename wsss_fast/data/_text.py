"""Text files from strangers: of bounded size, in UTF-8, as JSON or as XML without anything that XML can be bent to do."""

from __future__ import annotations

import io
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from wsss_fast.data._problems import DataError, doubles, hinted, shown
from wsss_fast.files.regular import open_to_read

LARGEST_TEXT = 1 << 30
LARGEST_XML = 1 << 24


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    try:
        with io.TextIOWrapper(open_to_read(path), encoding="utf-8-sig") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise DataError(f"data: {shown(path)} is larger than {most >> 20} MiB")
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"data: there is no file {shown(path)}") from None
    except OSError as error:
        raise DataError(f"data: cannot read {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(hinted(f"data: {shown(path)} is no text in UTF-8", "save it as UTF-8")) from None


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise DataError(f"data: {shown(path)} is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"data: {shown(path)} is no JSON: {error}") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers keep the last of two equal names, and nobody notices."""
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError(f"'{shown(doubles(name for name, _ in pairs)[0])}' stands there twice")
    return whole


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities, which can grow without bound, are declared in a document type; annotations need none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type is not allowed")


def read_xml(path: Path) -> ElementTree.Element:
    text = read_text(path, LARGEST_XML)
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(text)
        return parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"data: {shown(path)} is no XML annotation: {error}") from None
