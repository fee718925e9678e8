"""Text files from strangers: of bounded size, in UTF-8, as JSON or as XML without anything that XML can be bent to do."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from wsss_fast.data._problems import DataError, doubles
from wsss_fast.files import text
from wsss_fast.files.names import shown

LARGEST_XML = 1 << 24


def read_text(path: Path, most: int = text.LARGEST_TEXT) -> str:
    try:
        return text.read_text(path, most)
    except text.TextError as error:
        raise DataError(f"data: {error}") from None


def read_json(path: Path) -> Any:
    content = read_text(path)
    try:
        return json.loads(content, object_pairs_hook=_without_doubles)
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
    content = read_text(path, LARGEST_XML)
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(content)
        return parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"data: {shown(path)} is no XML annotation: {error}") from None
