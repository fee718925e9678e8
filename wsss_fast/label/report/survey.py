"""What a report tells of a job: two passes over the manifest, in memory of 8 bytes an image and the rows that are shown."""

from __future__ import annotations

import heapq
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_fast.label import manifest
from wsss_fast.listing.plan import Plan

BINS = 20
FAILURES_SHOWN = 200
_REASONS_KEPT = 1000
OTHER_REASONS = "other reasons"


@dataclass(frozen=True)
class Found:
    """A class in an image."""

    index: int  # of the class, from 0
    score: float | None  # None: nobody said how sure it is
    share: float  # of the pixels


@dataclass(frozen=True)
class Labelled:
    """An image that has a mask."""

    number: int  # its place in the plan
    name: str
    width: int
    height: int
    found: tuple[Found, ...]

    @property
    def certainty(self) -> float | None:
        """The score of its least sure class."""
        return min((item.score for item in self.found if item.score is not None), default=None)

    @property
    def coverage(self) -> float:
        return min(1.0, sum(item.share for item in self.found))


@dataclass
class Survey:
    planned: int
    shown: int  # at most so many images get pictures
    class_images: list[int]  # a class
    class_pixels: list[float]
    labelled: int = 0
    failed: int = 0
    without_class: int = 0
    pixels: int = 0
    coverage: list[int] = field(default_factory=lambda: [0] * BINS)  # images; of those with a class
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)  # the first: name, reason
    groups: dict[str, list[Labelled]] = field(default_factory=dict)  # those that are shown, by what they are shown for

    @property
    def waiting(self) -> int:
        """Images without a row: the job, or another shard of it, is not done."""
        return self.planned - self.labelled - self.failed

    def images(self) -> list[Labelled]:
        """All that are shown, each once, in the order of the plan."""
        return sorted({image.number: image for group in self.groups.values() for image in group}.values(), key=lambda i: i.number)


def take_survey(out: Path, plan: Plan, class_names: tuple[str, ...], shown: int) -> Survey:
    """Of the images of the plan, those of all shards. The last row of an image counts."""
    places = {name: index for index, name in enumerate(class_names)}
    told = Survey(len(plan.names), shown, [0] * len(class_names), [0.0] * len(class_names))
    last = array("Q", [0]) * len(plan.names)
    for ordinal, number, _ in _numbered(out, plan):
        last[number] = ordinal
    few = shown // 4  # so that all groups together are no more
    groups = {"uncertain": _Smallest(few), "largest": _Smallest(few), "without": _Smallest(few), "sample": _Smallest(shown)}
    for ordinal, number, row in _numbered(out, plan):
        if last[number] != ordinal:
            continue
        try:
            if row["status"] == "ok":
                _count(told, groups, _labelled(number, row, places))
            else:
                _count_failure(told, str(row["image"]), str(row.get("reason", "")))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise manifest.ManifestError(f"report: the row of an image is damaged: {error!r}") from None
    chosen = {name: groups[name].images() for name in ("uncertain", "largest", "without")}
    taken = {image.number for images in chosen.values() for image in images}
    room = max(0, shown - len(taken))
    chosen["sample"] = [image for image in groups["sample"].images() if image.number not in taken][:room]
    told.groups = chosen
    return told


def _numbered(out: Path, plan: Plan) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Rows of images of the plan, counted from 1, with the place of the image."""
    following = 0
    for ordinal, row in enumerate(manifest.image_rows(out), 1):
        number = plan.names.find(str(row.get("image")), following)
        if number is not None:
            following = number + 1
            yield ordinal, number, row


def _labelled(number: int, row: dict[str, Any], places: dict[str, int]) -> Labelled:
    width, height = int(row["width"]), int(row["height"])
    if not 1 <= width * height < 1 << 40:
        raise ValueError("its size")
    names, shares = row["classes"], row["share"]
    scores = row["scores"] or [None] * len(names)
    found = tuple(
        Found(places[name], None if score is None else _from_0_to_1(score), _from_0_to_1(share))
        for name, score, share in zip(names, scores, shares, strict=True)
    )
    return Labelled(number, row["image"], width, height, found)


def _from_0_to_1(value: Any) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not from 0 to 1")
    return float(value)


def _count(told: Survey, groups: dict[str, _Smallest], image: Labelled) -> None:
    pixels = image.width * image.height
    told.labelled += 1
    told.pixels += pixels
    for item in image.found:
        told.class_images[item.index] += 1
        told.class_pixels[item.index] += item.share * pixels
    if image.found:
        told.coverage[min(BINS - 1, int(image.coverage * BINS))] += 1
    else:
        told.without_class += 1
        groups["without"].offer(_mixed(image.number), image)
    if image.certainty is not None:
        groups["uncertain"].offer(image.certainty, image)
    groups["largest"].offer(-pixels, image)
    groups["sample"].offer(_mixed(image.number), image)


def _count_failure(told: Survey, name: str, reason: str) -> None:
    told.failed += 1
    told.reasons[reason if reason in told.reasons or len(told.reasons) < _REASONS_KEPT else OTHER_REASONS] += 1
    if len(told.failures) < FAILURES_SHOWN:
        told.failures.append((name, reason))


def _mixed(number: int) -> int:
    """As good as random, and the same in every run."""
    return zlib.crc32(number.to_bytes(8, "big"))


class _Smallest:
    """Of all images offered, those with the smallest keys; of equal ones the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Labelled]] = []

    def offer(self, key: float, image: Labelled) -> None:
        entry = (-key, -image.number, image)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def images(self) -> list[Labelled]:
        return [image for _, _, image in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]
