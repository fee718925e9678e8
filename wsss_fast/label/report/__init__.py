"""`wsss label --report`: one static page about a job, `OUT/report/index.html`, with pictures beside it.

It is made of the manifest, of the masks, and of the images shown, which are read and predicted once more for their class maps.
The page names a folder of pictures that is written before it, so that there is a whole report at any moment: the earlier one or
this one. The same job gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_fast.files.folder import OutputFolder, OutputRefusedError
from wsss_fast.files.images import ImageError
from wsss_fast.label import manifest
from wsss_fast.label.lock import Lock, LockedError
from wsss_fast.label.report import page
from wsss_fast.label.report.pictures import ENDINGS, pictures_of
from wsss_fast.label.report.survey import Survey, take_survey

if TYPE_CHECKING:
    from wsss_fast.label.decode import Decoders
    from wsss_fast.label.job import Job

logger = logging.getLogger("wsss_fast.label")

FOLDER = "report"
INDEX = f"{FOLDER}/index.html"
_PICTURES = re.compile(r"pictures-[0-9a-f]{16}")
_SHOWN_PICTURES = re.compile(rb'src="(pictures-[0-9a-f]{16})/')  # no text of others can hold such quotes

Progress = Callable[[int, int], None]  # pictures made, of how many


def report(job: Job, folder: OutputFolder, decoders: Decoders, progress: Progress) -> bool:
    """Writes the report of a job whose rows are in the manifest; False while images have no row: the last shard writes it."""
    try:
        lock = Lock(folder, ".wsss-lock-report")
    except LockedError:
        return False
    try:
        told = take_survey(folder.path, job.plan, tuple(job.model.class_names), job.settings.report_images)
        if told.waiting:
            logger.info("%d images are not labelled yet, perhaps by other shards: the report waits for them", told.waiting)
            return False
        earlier = _earlier_page(folder)
        header = manifest.read_header(folder.path)
        pictures = f"pictures-{_digest(header, told)}"
        cards = _write_pictures(job, folder, decoders, told, pictures, progress)
        folder.write(INDEX, page.render(folder.path, header, told, cards))
        _remove_others(folder, {name.decode() for name in _SHOWN_PICTURES.findall(earlier)} - {pictures})
        return True
    finally:
        lock.release()


def _digest(header: dict[str, Any], told: Survey) -> str:
    """Of what is shown: another choice of images is another folder of pictures."""
    names = [image.name for image in told.images()]
    return hashlib.sha256(json.dumps([header.get("settings"), header.get("model"), names]).encode("ascii")).hexdigest()[:16]


def _write_pictures(
    job: Job, folder: OutputFolder, decoders: Decoders, told: Survey, place: str, progress: Progress
) -> list[page.Card]:
    """Files are named by us; names of images stand in the page alone."""
    images = told.images()
    cards = []
    for done, (image, again) in enumerate(zip(images, job.again([i.number for i in images], decoders), strict=True)):
        progress(done, len(images))
        files: dict[str, str] = {}
        try:
            if isinstance(again, ImageError):
                raise again
            for layer, data in pictures_of(job, folder, image, again).items():
                files[layer] = f"{place}/{done + 1:04d}{ENDINGS[layer]}"
                folder.write(f"{FOLDER}/{files[layer]}", data)
            trouble = ""
        except ImageError as error:
            trouble = str(error)
        cards.append(page.Card(image, files, trouble))
    progress(len(images), len(images))
    return cards


def in_the_way(out: Path) -> Path | None:
    """What a first report would replace, or write into."""
    place = out / FOLDER
    there = sorted(place.iterdir()) if place.is_dir() else []
    return next((path for path in there if path.name == "index.html" or _PICTURES.fullmatch(path.name)), None)


def _earlier_page(folder: OutputFolder) -> bytes:
    if folder.size(INDEX) is None:
        return b""
    page_there = folder.read(INDEX)
    if not page_there.startswith(page.FIRST_BYTES):
        raise OutputRefusedError(
            f"report: {folder.path / INDEX} was not written by wsss. Hint: move it away, or give another --out"
        )
    return page_there


def _remove_others(folder: OutputFolder, pictures: set[str]) -> None:
    """Pictures that the earlier page showed, and no page names any more."""
    for name in sorted(pictures):
        place = folder.path / FOLDER / name
        if place.is_dir() and not place.is_symlink():
            folder.remove_folder(f"{FOLDER}/{name}")
