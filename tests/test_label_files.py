"""Names, plans and untrusted files: what goes in and under which name it comes out."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from label_standins import five_pictures, label, picture, tree
from PIL import Image

from wsss_fast.files.names import printable
from wsss_fast.label.manifest import read_rows
from wsss_fast.listing import plan


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


def test_outputs_of_equal_stems_do_not_collide():
    names = ["a.jpg", "a.png", "b.jpg", "sub/a.jpg", "c.JPG", "C.png", "d.jpg", "d.png", "d.jpg.png", "noext.x.jpg"]
    long = plan.output_names(names)
    outputs = {name: long.get(place) or plan.short_output(name) for place, name in enumerate(names)}
    assert outputs["a.jpg"] == "a.jpg.png" and outputs["a.png"] == "a.png.png"
    assert outputs["b.jpg"] == "b.png" and outputs["sub/a.jpg"] == "sub/a.png" and outputs["noext.x.jpg"] == "noext.x.png"
    folded = [output.casefold() for output in outputs.values()]
    assert len(set(folded)) == len(names)


def test_strange_names_are_labelled_and_shown_harmlessly(tmp_path):
    images = tmp_path / "images"
    names = ["ü ñ 猫.png", "line\nfeed.png", "-dash.png", "x" * 251 + ".png", "\x1b[31mred.png", b"\xff\xfe.png", "e\u0301.png"]
    (images / "sub").mkdir(parents=True)
    for index, name in enumerate(names):
        path = os.fsencode(images) + b"/" + os.fsencode(name)
        buffer = io.BytesIO()
        picture(index).save(buffer, "PNG")
        with open(path, "wb") as file:  # noqa: PTH123 - a name in bytes
            file.write(buffer.getvalue())
    summary = label(images, tmp_path / "out")
    assert (summary.labelled, summary.failed) == (len(names), 0)
    rows = read_rows(tmp_path / "out")
    assert {os.fsencode(name) for name in rows} == {os.fsencode(name) for name in names}
    assert all((tmp_path / "out" / row["output"]).is_file() for row in rows.values())
    assert printable("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"


def test_a_name_too_long_for_its_mask_fails_alone(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    stem = "y" * 251
    picture(0).save(images / f"{stem}.png")
    picture(1).save(images / f"{stem}.bmp")  # same stem: .bmp.png has 259 bytes
    picture(2).save(images / "ok.png")
    summary = label(images, tmp_path / "out")
    assert (summary.labelled, summary.failed) == (1, 2)
    assert all("longer than 255 bytes" in failure.reason for failure in summary.failures)


def test_natural_order_is_total():
    names = ["img10.png", "img2.png", "img02.png", "b.png", "IMG1.png", "1.png", "10/a.png", "9/a.png", "a1b.png", "ab.png"]
    ordered = list(plan.Names([plan.sort_key(name) for name in names]))
    names.reverse()
    assert ordered == list(plan.Names([plan.sort_key(name) for name in names])) and set(ordered) == set(names)
    assert ordered.index("img2.png") < ordered.index("img10.png") and ordered.index("9/a.png") < ordered.index("10/a.png")


def test_folders_without_images_and_missing_folders_are_errors(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no images in .*1 other files"):
        label(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="no image folder or file"):
        label(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ValueError, match="no images"):
        label([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_to_files_are_read_and_loops_are_not_followed(folder, tmp_path):
    (folder / "again.png").symlink_to(folder / "img8.png")
    (folder / "loop").symlink_to(folder)
    assert label(folder, tmp_path / "out").labelled == 6


def test_images_are_never_overwritten(folder):
    before = tree(folder)
    for out in (folder, folder.parent):
        with pytest.raises(ValueError, match="lies in the output folder"):
            label(folder, out)
    assert tree(folder) == before
    summary = label(folder, folder / "masks")  # inside the images: allowed, and not scanned the next time
    assert summary.labelled == 5
    assert label(folder, folder / "masks").total == 5


def test_a_folder_of_somebody_else_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "img9.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"img9\.png is there"):
        label(folder, out)
    assert (out / "img9.png").read_bytes() == b"precious"


# Untrusted files


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bad_files_fail_alone_with_a_reason(folder, tmp_path):
    whole = (folder / "img8.png").read_bytes()
    bad = {
        "bomb.png": (header_only_png(50_000, 50_000), "more pixels than"),
        "empty.png": (b"", "empty"),
        "page.jpg": (b"<html>not found</html>", "not an image"),
        "torn.png": (whole[: len(whole) // 2], "cannot be decoded"),
        "vector.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    summary = label(folder, tmp_path / "out")
    assert (summary.labelled, summary.failed) == (5, len(bad) + 2)
    reasons = {failure.image: failure.reason for failure in summary.failures}
    for name, (_, reason) in bad.items():
        assert reason in reasons[name], name
    assert "regular file" in reasons["pipe.png"] and "No such file" in reasons["dangling.png"]
    alone = label([folder / f"img{n}.png" for n in range(8, 13)])
    for result in alone.results:
        assert np.array_equal(result.mask, np.array(Image.open(tmp_path / "out" / result.image)))


def test_a_large_picture_is_refused_from_its_header(folder):
    (folder / "large.png").write_bytes(header_only_png(10_000, 9_000))
    failures = label(folder).failures
    assert [failure.reason for failure in failures] == ["10000 x 9000 pixels, more than max_pixels 80000000"]


def test_limits_on_pixels_and_bytes(folder, tmp_path):
    assert label(folder, max_bytes=100).failed == 5
    assert label(folder, tmp_path / "out", max_pixels=24 * 16 - 1).failed == 5
    assert label(folder, tmp_path / "out").labelled == 5  # a raised limit is enough to go on


def test_every_orientation_gives_the_displayed_mask(tmp_path):
    upright = picture(3, (32, 20))
    reference = label([_saved(upright, tmp_path / "upright.png")]).results[0].mask
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = upright if turn is None else upright.transpose(turn)
        path = tmp_path / f"{orientation}.png"
        turned.save(path, exif=exif)
        assert np.array_equal(label([path]).results[0].mask, reference), orientation
        assert label([path], exif="ignore").results[0].mask.shape == (turned.height, turned.width)


def _saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "YCbCr"])
def test_every_pixel_type_gives_the_same_mask(tmp_path, mode):
    grey = np.full((16, 24), 20, np.uint8)
    grey[:8] = 235
    plain = Image.fromarray(grey)
    want = label([_saved(plain.convert("RGB"), tmp_path / "rgb.png")]).results[0].mask
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = plain.convert("RGB").convert(mode, dither=Image.Dither.NONE)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    image.save(path)
    result = label([path]).results[0]
    assert result.status == "ok", result.reason
    assert np.array_equal(result.mask, want)


def test_transparent_pixels_count_as_white(tmp_path):
    hidden = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    hidden.paste((0, 0, 0, 255), (0, 4, 8, 8))
    mask = label([_saved(hidden, tmp_path / "a.png")]).results[0].mask
    assert (mask[:3] == 1).all() and (mask[5:] == 0).all()
