"""A survey and its pictures to HTML. Every text is escaped when it enters a template; the page runs its own script and no other.

The page itself is `page.html`, `parts.html`, `page.css` and `page.js`, beside this file.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from wsss_fast._version import __version__
from wsss_fast.files.names import printable
from wsss_fast.label.overlay import colour_of
from wsss_fast.label.report.survey import BINS, Labelled, Survey

FIRST_BYTES = b"<!doctype html>\n<!-- A report of wsss label. -->\n"
_CLASSES_SHOWN = 100
_CHIPS_SHOWN = 8
_LONGEST_TEXT = 400
_GROUPS = {
    "uncertain": "Least certain",
    "largest": "Largest",
    "without": "No class found",
    "sample": "Random others",
}
_CHART_HEIGHT = 140


@dataclass(frozen=True)
class Card:
    image: Labelled
    files: dict[str, str]  # layer → file, from the folder of the page
    trouble: str  # why there are no files


class _Markup(str):
    """Text that is HTML already."""


def render(out: Path, header: dict[str, Any], told: Survey, cards: list[Card]) -> bytes:
    names = [str(name) for name in header.get("classes", [])]
    style, script = (_Markup(_asset(name)) for name in ("page.css", "page.js"))
    model = header.get("model", {})
    page = _fill(
        _asset("page.html"),
        title=out.resolve().name or "labels",
        lede=_lede(told, model),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        figures=_figures(told),
        images_about=_images_about(told, cards),
        groups=_groups(told, cards),
        cards=_cards(cards, told, names),
        classes_about=_classes_about(told, names),
        classes=_classes(told, names),
        coverage_about=_coverage_about(told),
        coverage_label=_coverage_label(told),
        coverage_most=_count(max(told.coverage), "image"),
        columns=_columns(told),
        failures_about=_failures_about(told),
        failures=_failures(told),
        settings=_settings(header),
        footer=f"Written by wsss_fast {__version__}. This page asks for nothing from the network.",
    )
    return page.encode("utf-8")


@lru_cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache
def _parts() -> dict[str, str]:
    found = re.findall(r'<template id="(\w+)">\n?(.*?)</template>', _asset("parts.html"), re.DOTALL)
    return dict(found)


def _fill(template: str, /, **values: object) -> _Markup:
    """The one way into the page: whatever is no markup is cut to a length, freed of control characters and escaped."""
    return _Markup(Template(template).substitute({name: _escaped(value) for name, value in values.items()}))


def _part(which: str, /, **values: object) -> _Markup:
    return _fill(_parts()[which], **values)


def _escaped(value: object) -> str:
    if isinstance(value, _Markup):
        return value
    text = printable(str(value))
    return html.escape(text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…")


def _joined(parts: Any) -> _Markup:
    return _Markup("".join(parts))


def _hash(text: str) -> _Markup:
    return _Markup("sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def _lede(told: Survey, model: dict[str, Any]) -> str:
    name = model.get("name") or model.get("method") or "a network"
    backbone = f" ({model['backbone']})" if model.get("backbone") else ""
    return f"{_count(told.planned, 'image')}, labelled by {name}{backbone}"


def _figures(told: Survey) -> _Markup:
    seen = sum(count > 0 for count in told.class_images)
    figures = [
        ("images" if told.planned != 1 else "image", told.planned, ""),
        ("labelled", told.labelled, ""),
        ("failed", told.failed, "bad" if told.failed else ""),
        ("without a class", told.without_class, ""),
        ("classes found", seen, ""),
        ("megapixels", round(told.pixels / 1e6, 1) if told.pixels < 1e8 else round(told.pixels / 1e6), ""),
    ]
    return _joined(_part("figure", name=name, value=f"{value:,}", kind=kind) for name, value, kind in figures)


def _images_about(told: Survey, cards: list[Card]) -> str:
    if not cards:
        return "No image was labelled."
    which = "All of them" if len(cards) == told.labelled else f"{len(cards):,} of {_count(told.labelled, 'labelled image')}"
    return (
        f"{which}. Move a slider to go from the image to its class activation maps (CAM) and to the mask. The maps are those of "
        "the classes found, before background, random walk and CRF; brighter is stronger."
    )


def _groups(told: Survey, cards: list[Card]) -> _Markup:
    chosen = [("all", "All shown", len(cards))]
    chosen += [(name, text, len(told.groups[name])) for name, text in _GROUPS.items() if told.groups[name]]
    return _joined(_part("group", name=name, text=text, count=f"{count:,}") for name, text, count in chosen)


def _cards(cards: list[Card], told: Survey, names: list[str]) -> _Markup:
    ranks: dict[int, list[str]] = {card.image.number: [] for card in cards}
    for group, images in told.groups.items():
        for place, image in enumerate(images):
            ranks[image.number].append(f'data-{group}="{place}"')
    return _joined(_card(card, _Markup(" ".join(ranks[card.image.number])), names) for card in cards)


def _card(card: Card, ranks: _Markup, names: list[str]) -> _Markup:
    image = card.image
    about = ", ".join(names[item.index] for item in image.found[:_CHIPS_SHOWN]) or "no class"
    return _part(
        "card",
        name=image.name,
        ranks=ranks,
        layers=_layers(card, about) if card.files else _part("missing", trouble=card.trouble),
        size=f"{image.width} × {image.height}, {_percent(image.coverage)} covered",
        chips=_chips(image, names),
    )


def _layers(card: Card, about: str) -> _Markup:
    image = card.image
    # The image alone is described: the layers over it show the same.
    alts = {"image": f"{image.name}: {about}"}
    return _joined(
        _part("layer", layer=layer, source=source, alt=alts.get(layer, ""), width=image.width, height=image.height)
        for layer, source in card.files.items()
    )


def _chips(image: Labelled, names: list[str]) -> _Markup:
    if not image.found:
        return _part("no_chip")
    chips = []
    for item in image.found[:_CHIPS_SHOWN]:
        sure = "" if item.score is None else f"{_percent(item.score)} sure, "
        told = f"{sure}{_percent(item.share)} of the image"
        chips.append(_part("chip", swatch=_swatch(item.index), name=names[item.index], told=told))
    if len(image.found) > _CHIPS_SHOWN:
        chips.append(_part("more", count=f"{len(image.found) - _CHIPS_SHOWN:,}"))
    return _joined(chips)


def _swatch(index: int) -> _Markup:
    red, green, blue = colour_of(index + 1)
    return _part("swatch", colour=f"#{red:02x}{green:02x}{blue:02x}")


def _classes_about(told: Survey, names: list[str]) -> str:
    seen = sum(count > 0 for count in told.class_images)
    if not seen:
        return f"None of the {len(names):,} that the model knows was found."
    text = f"{seen:,} of the {len(names):,} that the model knows. An image counts for each of its classes."
    return text if seen <= _CLASSES_SHOWN else f"{text} The {_CLASSES_SHOWN} most frequent:"


def _classes(told: Survey, names: list[str]) -> _Markup:
    order = sorted(range(len(names)), key=lambda index: (-told.class_images[index], -told.class_pixels[index], index))
    most = max(told.class_images, default=0)
    return _joined(
        _part(
            "class",
            swatch=_swatch(index),
            name=names[index],
            images=f"{told.class_images[index]:,}",
            width=f"{100 * told.class_images[index] / most:.2f}",
            pixels=_percent(told.class_pixels[index] / told.pixels),
        )
        for index in order[:_CLASSES_SHOWN]
        if told.class_images[index]
    )


def _coverage_about(told: Survey) -> str:
    with_class = told.labelled - told.without_class
    if not with_class:
        return "No image has a class."
    text = f"How much of an image is labelled with a class, of {_count(with_class, 'image')}."
    if told.without_class:
        be = "has" if told.without_class == 1 else "have"
        text += f" {_count(told.without_class, 'image')} without a class {be} no column."
    return text


def _coverage_label(told: Survey) -> str:
    parts = [f"{_bin(place)}: {count}" for place, count in enumerate(told.coverage) if count]
    return "Images by the share that has a class. " + "; ".join(parts)


def _columns(told: Survey) -> _Markup:
    most = max(max(told.coverage), 1)
    columns = []
    for place, count in enumerate(told.coverage):
        # One image among a million is still to be seen.
        height = max(2.0, _CHART_HEIGHT * count / most) if count else 0.0
        columns.append(
            _part(
                "column",
                told=f"{_bin(place)}: {_count(count, 'image')}",
                x=11 + 400 // BINS * place,
                y=f"{150 - height:.1f}",
                height=f"{height:.1f}",
            )
        )
    return _joined(columns)


def _bin(place: int) -> str:
    return f"{100 * place // BINS} to {100 * (place + 1) // BINS} %"


def _failures_about(told: Survey) -> str:
    if not told.failed:
        return "None: every image has a mask."
    text = f"{_count(told.failed, 'image')} could not be labelled; failures.jsonl names them all."
    return text if told.failed == len(told.failures) else f"{text} Here are the first {len(told.failures)}."


def _failures(told: Survey) -> _Markup:
    if not told.failed:
        return _Markup()
    reasons = [(reason, f"{count:,}") for reason, count in told.reasons.most_common(50)]
    return _joined((_table("reasons", "reason", "images", reasons), _table("failed", "image", "reason", told.failures)))


def _table(kind: str, first: str, second: str, rows: list[tuple[str, str]]) -> _Markup:
    filled = _joined(_part("row", first=one, second=two) for one, two in rows)
    return _part("table", kind=kind, first=first, second=second, rows=filled)


def _settings(header: dict[str, Any]) -> _Markup:
    titles = {"model": "Model", "settings": "Labelling", "made_with": "Made with"}
    sections = []
    for key, title in titles.items():
        entries = [(name, value) for name, value in _flat(header.get(key)) if value is not None]
        filled = _joined(_part("setting", name=name, value=_shown(value)) for name, value in entries)
        sections.append(_part("settings", title=title, entries=filled))
    return _joined(sections)


def _flat(value: Any, before: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(before, value)]
    return [entry for name, inner in value.items() for entry in _flat(inner, f"{before}.{name}" if before else str(name))]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
