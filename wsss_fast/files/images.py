"""Files to RGB pixels. Everything about a file is untrusted: its kind, its size, its metadata."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin

from wsss_fast.files.regular import open_regular

# Decided from the bytes, never from the extension. JPEG includes MPO, which many phones write as .jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Only for telling images from other files in a folder.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

# EXIF orientation → what turns the stored picture into the displayed one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
# A decoder's picture and its copies in other pixel types; tables, buffers and compressed data.
_BYTES_A_PIXEL = 16
_BYTES_BESIDE = 16 << 20
# Pillow imports them when it meets the first such file; where no file handle is left then, it takes the kind for unknown.
_NEEDED_LATER = (MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of an image are: a file, or a part of one."""

    path: str
    offset: int = 0
    size: int = -1  # -1: the whole file
    damage: str = ""  # why there is no image, known before it is read


@dataclass(frozen=True)
class FileStamp:
    size: int
    mtime_ns: int


class ImageError(Exception):
    """One image cannot be labelled.

    Args:
        lasting: the bytes are at fault: it fails whatever the limits and the state of the machine, as long as they do not change.
        stamp: of the file whose bytes were read, if it could be opened.
    """

    def __init__(self, reason: str, lasting: bool = True, stamp: FileStamp | None = None) -> None:
        super().__init__(reason)
        self.lasting = lasting
        self.stamp = stamp


@dataclass(frozen=True)
class Limits:
    max_pixels: int
    max_bytes: int
    exif: str = "apply"
    max_side: int | None = None  # larger images are reduced to it


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray  # uint8 [h, w, 3], its longest side at most max_side
    height: int  # of the image as it is
    width: int
    stamp: FileStamp
    kind: str


def stamp_of(location: Location) -> FileStamp:
    try:
        info = Path(location.path).stat()
    except (OSError, ValueError) as error:
        raise ImageError(_system_reason(error), lasting=False) from None
    return FileStamp(info.st_size if location.size < 0 else location.size, info.st_mtime_ns)


def read_image(
    source: Path | Location, max_pixels: int, max_bytes: int, exif: str = "apply", max_side: int | None = None
) -> Picture:
    """RGB pixels of the first frame. Transparent pixels count as white; 16-bit grey keeps its upper 8 bits."""

    def convert(image: Image.Image) -> Picture:
        turn = _turn(image) if exif == "apply" else None
        kind = str(image.format)
        rgb = _to_rgb(image)
        rgb = rgb if turn is None else rgb.transpose(turn)
        width, height = rgb.size
        if max_side is not None and max(width, height) > max_side:
            rgb = _reduced(rgb, max_side)
        return Picture(np.array(rgb, dtype=np.uint8), height, width, stamp, kind)

    with _opened(source, max_bytes) as (file, stamp):
        return _with_image(file, max_pixels, convert)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """The longest side becomes ``side``."""
    ratio = side / max(image.size)
    # The filter widens with the reduction, so that fine texture does not alias.
    return image.resize([max(1, round(old * ratio)) for old in image.size], Image.Resampling.BICUBIC)


def read_grey(path: Path, max_pixels: int, max_bytes: int) -> np.ndarray:
    """uint8 [H, W]: the brightness of the picture as it is stored."""
    with _opened(path, max_bytes) as (file, _):
        return _with_image(file, max_pixels, lambda image: np.array(_to_rgb(image).convert("L")))


def read_indices(path: Path, max_pixels: int, max_bytes: int) -> np.ndarray:
    """uint8 [H, W]: the numbers in a palette or grey picture, whatever colours they stand for."""
    with _opened(path, max_bytes) as (file, _):
        return _with_image(file, max_pixels, _to_indices)


def read_size(path: Path, max_pixels: int, max_bytes: int) -> tuple[int, int]:
    """(width, height) as `read_image` gives them, from the header alone."""

    def convert(image: Image.Image) -> tuple[int, int]:
        turned = _turn(image) in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
        return image.size[::-1] if turned else image.size

    with _opened(path, max_bytes) as (file, _):
        return _with_image(file, max_pixels, convert)


@contextlib.contextmanager
def _opened(source: Path | Location, max_bytes: int) -> Iterator[tuple[BinaryIO, FileStamp]]:
    """The stamp is that of the bytes which are read, also in an ImageError that is raised meanwhile."""
    where = source if isinstance(source, Location) else Location(os.fspath(source))
    try:
        handle = open_regular(where.path)
    except (OSError, ValueError) as error:
        raise ImageError(_system_reason(error), lasting=False) from None
    with os.fdopen(handle, "rb") as file:
        stamp = _stamp(handle, where)
        try:
            yield _bytes_of(file, where, stamp.size, max_bytes), stamp
        except ImageError as error:
            _refuse_changes(handle, where, stamp)
            error.stamp = stamp
            raise
        _refuse_changes(handle, where, stamp)


def _stamp(handle: int, where: Location) -> FileStamp:
    info = os.fstat(handle)
    return FileStamp(info.st_size if where.size < 0 else where.size, info.st_mtime_ns)


def _refuse_changes(handle: int, where: Location, stamp: FileStamp) -> None:
    """Somebody may still be copying the file: what was read is neither its old nor its new content."""
    if _stamp(handle, where) != stamp:
        raise ImageError("it changed while it was read", lasting=False)


def _bytes_of(file: BinaryIO, where: Location, size: int, max_bytes: int) -> BinaryIO:
    if where.damage:
        raise ImageError(where.damage)
    if size == 0:
        raise ImageError("the file is empty")
    if size > max_bytes:
        raise ImageError(f"{size} bytes, more than max_bytes {max_bytes}", lasting=False)
    if where.size < 0:
        return file
    try:
        data = os.pread(file.fileno(), size, where.offset)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", lasting=False) from None
    if len(data) < size:
        raise ImageError(f"the file ends {size - len(data)} bytes before it does")
    return io.BytesIO(data)


def _with_image(file: BinaryIO, max_pixels: int, convert: Callable[[Image.Image], Result]) -> Result:
    pixels = max_pixels  # until the header is read: some decoders make room before they tell
    try:
        with warnings.catch_warnings():
            # The pixel limit below is stricter and is checked before anything is decoded.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width < 1 or height < 1:
                    raise ImageError(f"the header says {width} x {height} pixels")
                if width * height > max_pixels:
                    raise ImageError(f"{width} x {height} pixels, more than max_pixels {max_pixels}", lasting=False)
                pixels = width * height
                return convert(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError("not an image of a known kind (" + ", ".join(FORMATS) + ")") from None
    except Image.DecompressionBombError:
        raise ImageError(f"its header promises far more pixels than max_pixels {max_pixels}", lasting=False) from None
    except MemoryError:
        raise ImageError("not enough memory to decode it", lasting=False) from None
    except Exception as error:
        # Decoders raise nearly anything on damaged data: OSError, SyntaxError, ValueError, struct.error, IndexError …
        reason = f"cannot be decoded: {error or type(error).__name__}"
        raise ImageError(reason, lasting=not (_is_the_systems(error) or _memory_is_short(pixels))) from None


def _is_the_systems(error: Exception) -> bool:
    """Trouble of disk, handles or memory; what Pillow itself says of damaged data has no number."""
    return isinstance(error, OSError) and (error.errno is not None or "out of memory" in str(error))


def _memory_is_short(pixels: int) -> bool:
    """Whether a decoder cannot have what it may need: many then say that the data are broken."""
    try:
        np.empty(_BYTES_A_PIXEL * pixels + _BYTES_BESIDE, np.uint8)  # never touched: only addresses
    except MemoryError:
        return True
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except MemoryError:
        raise
    except Exception as error:
        if _is_the_systems(error):
            raise
        # Damaged metadata says nothing about orientation; the pixels are still good.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of type {image.mode} have no fixed range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_indices(image: Image.Image) -> np.ndarray:
    if image.mode not in ("P", "L", "1"):
        raise ImageError(f"a picture of type {image.mode} holds no 8-bit numbers")
    return np.array(image, dtype=np.uint8)


def _system_reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be opened: {text}"
