"""Files to RGB pixels. Everything about a file is untrusted: its kind, its size, its metadata."""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.label.plan import Location

# Decided from the bytes, never from the extension. JPEG includes MPO, which many phones write as .jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")

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


class ImageError(Exception):
    """One image cannot be labelled. ``lasting``: whatever the limits, as long as the file does not change."""

    def __init__(self, reason: str, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Limits:
    max_pixels: int
    max_bytes: int
    max_side: int | None = None  # larger images are reduced to it
    exif: str = "apply"


@dataclass(frozen=True)
class FileStamp:
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray  # uint8 [h, w, 3], the longest side at most max_side
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


def read_image(location: Location, limits: Limits) -> Picture:
    """RGB pixels of the first frame. Transparent pixels count as white; 16-bit grey keeps its upper 8 bits."""
    try:
        # Without O_NONBLOCK a named pipe would hang here.
        handle = os.open(location.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ImageError(_system_reason(error), lasting=False) from None
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ImageError("not a regular file")
        size = info.st_size if location.size < 0 else location.size
        if size == 0:
            raise ImageError("the file is empty")
        if size > limits.max_bytes:
            raise ImageError(f"{size} bytes, more than max_bytes {limits.max_bytes}", lasting=False)
        source = file if location.size < 0 else io.BytesIO(os.pread(handle, size, location.offset))
        pixels, kind = _decode(source, limits.max_pixels, limits.exif)
    height, width = pixels.shape[:2]
    if limits.max_side is not None and max(height, width) > limits.max_side:
        pixels = resize_to_side(pixels, limits.max_side)
    return Picture(pixels, height, width, FileStamp(size, info.st_mtime_ns), kind)


def resize_to_side(pixels: np.ndarray, side: int, multiple: int = 1) -> np.ndarray:
    """The longest side becomes ``side``, both sides multiples of ``multiple`` (at least one)."""
    height, width = pixels.shape[:2]
    ratio = side / max(height, width)
    new_width, new_height = (max(1, round(old * ratio / multiple)) * multiple for old in (width, height))
    if (new_width, new_height) == (width, height):
        return pixels
    # The filter widens with the reduction, so that fine texture does not alias.
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    return np.array(resized)


def _decode(file: object, max_pixels: int, exif: str) -> tuple[np.ndarray, str]:
    try:
        with warnings.catch_warnings():
            # The pixel limit below is stricter and is checked before anything is decoded.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                kind = str(image.format)
                width, height = image.size
                if width < 1 or height < 1:
                    raise ImageError(f"the header says {width} x {height} pixels")
                if width * height > max_pixels:
                    raise ImageError(f"{width} x {height} pixels, more than max_pixels {max_pixels}", lasting=False)
                turn = _turn(image) if exif == "apply" else None
                rgb = _to_rgb(image)
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
        raise ImageError(f"cannot be decoded: {error or type(error).__name__}") from None
    if turn is not None:
        rgb = rgb.transpose(turn)
    return np.array(rgb, dtype=np.uint8), kind


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
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


def _system_reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be opened: {text}"
