"""The photos of the demo: three that scikit-image carries, so that nothing is downloaded."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.files.folder import OutputFolder

PHOTOS = ("chelsea", "coffee", "camera")
INSTALL_HINT = 'pip install "wsss_fast[demo]"'


def write_photos(folder: Path) -> list[Path]:
    """PNG copies in RGB; `camera` is grey in the original."""
    try:
        from skimage import data
    except ImportError:
        raise ModuleNotFoundError(
            f"demo: scikit-image, which carries the photos, is not installed. Hint: {INSTALL_HINT}"
        ) from None
    target = OutputFolder(folder)
    try:
        for name in PHOTOS:
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB").save(buffer, "PNG")
            target.write(f"{name}.png", buffer.getvalue())
    finally:
        target.close()
    return [folder / f"{name}.png" for name in PHOTOS]
