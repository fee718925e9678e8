"""Damaged files by the thousand, long runs, large images: small here, at full counts in `make soak`."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from label_standins import five_pictures, label, picture
from PIL import Image

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "gif": "GIF", "ppm": "PPM"}


def seeds() -> list[tuple[str, bytes]]:
    """A whole file of every kind, and some of the rarer pixel types."""
    found = []
    for suffix, kind in FORMATS.items():
        for image in (picture(1, (48, 40)), picture(2, (48, 40)).convert("L"), picture(3, (48, 40)).convert("P")):
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind)
            except (OSError, ValueError):
                continue  # this kind has no such pixels
            found.append((suffix, buffer.getvalue()))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture(4, (48, 40)).save(buffer, "JPEG", exif=exif)
    return [*found, ("jpg", buffer.getvalue())]


def mutate(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Cut, flipped, filled, spliced, grown, or with a number of the header set to an extreme."""
    work = bytearray(data)
    kind = random.integers(6)
    place = int(random.integers(len(work)))
    if kind == 0:
        return bytes(work[:place])
    if kind == 1:
        for where in random.integers(len(work), size=random.integers(1, 20)):
            work[where] ^= 1 << random.integers(8)
    elif kind == 2:
        work[place : place + 16] = bytes(16)
    elif kind == 3:
        work[place:] = other[min(place, len(other)) :]
    elif kind == 4:
        work[place:place] = random.bytes(int(random.integers(1, 2000)))
    else:
        where = int(random.integers(min(40, len(work) - 4)))
        work[where : where + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1\0\0"][random.integers(4)]
    return bytes(work)


def damaged(tmp_path, count, seed=5):
    """Damaged files among healthy ones: the healthy ones come out as if they were alone."""
    images = five_pictures(tmp_path)
    label(images, tmp_path / "clean")
    random, whole = np.random.default_rng(seed), seeds()
    for i in range(count):
        suffix, data = whole[random.integers(len(whole))]
        other = whole[random.integers(len(whole))][1]
        (images / f"bad{i:05d}.{suffix}").write_bytes(mutate(data, other, random))
    out = tmp_path / "out"
    summary = label(images, out, workers=2, timeout=10.0)
    assert summary.labelled + summary.failed == count + 5
    assert summary.failed > count / 20
    reasons = {failure.reason for failure in summary.failures}
    assert not [reason for reason in reasons if "decoder" in reason and "times" in reason], reasons
    assert len((out / "failures.jsonl").read_text().splitlines()) == summary.failed
    for path in images.glob("img*.png"):
        assert (out / path.name).read_bytes() == (tmp_path / "clean" / path.name).read_bytes()


def test_damaged_files_fail_alone(tmp_path):
    damaged(tmp_path, 200)


@pytest.mark.soak
def test_ten_thousand_damaged_files_fail_alone(tmp_path):
    damaged(tmp_path, 10_000)


PEAK = """
import os, sys
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
sys.path[:0] = [{tests!r}]
import resource
import numpy as np
import torch
from label_standins import BrightEngine
import wsss_fast
from wsss_fast import methods
{program}
"""


def program_output(text: str) -> list[float]:
    whole = PEAK.format(tests=os.path.dirname(__file__), program=text)  # noqa: PTH120
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(word) for word in done.stdout.split()]


def growth(tmp_path, count, size=(500, 375)):
    """Resident bytes after a third of the images, and how many more after all of them."""
    images = tmp_path / "images"
    images.mkdir()
    data = io.BytesIO()
    picture(1, size).save(data, "JPEG")
    for i in range(count):
        (images / f"{i}.jpg").write_bytes(data.getvalue())
    first, last = program_output(
        f"""
sizes = []
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def progress(summary, result):
    if summary.labelled in ({count} // 3, {count}):
        sizes.append(now())
wsss_fast.label({str(images)!r}, BrightEngine(), {str(tmp_path / "out")!r}, workers=2, crf=True, walk="image", progress=progress)
print(*sizes)
"""
    )
    return last - first


def test_memory_is_flat_over_sixty_images(tmp_path):
    assert growth(tmp_path, 60, (200, 150)) < 40e6


@pytest.mark.soak
def test_memory_is_flat_over_two_thousand_images(tmp_path):
    assert growth(tmp_path, 2000, (200, 150)) < 40e6


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "settings", "gigabytes"),
    [
        # every class is taken for present, or walk and CRF would have nothing to do
        ("'efficientnet-lite0'", "present=0.0", 4),
        # of the four scales and mirror images, the pass that needs the most
        ("methods.create('cam', 20, backbone='resnet38').eval()", "scales=(2.0,), flip=False", 8),
        ("'efficientnet-lite0'", "present=0.0, max_side=4000, base_side=448", 4),
    ],
)
def test_twelve_megapixels_fit(tmp_path, model, settings, gigabytes):
    picture(1, (4000, 3000)).save(tmp_path / "large.jpg")
    (peak,) = program_output(
        f"""
wsss_fast.label([{str(tmp_path / "large.jpg")!r}], {model}, {str(tmp_path / "out")!r}, crf=True, walk="image", {settings})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    )
    assert peak < gigabytes * 2**30, peak / 2**30
    with Image.open(tmp_path / "out" / "large.png") as mask:
        assert mask.size == (4000, 3000)
