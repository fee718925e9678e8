"""The photos of the demo: three that scikit-image carries, so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast._extras import require
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.png import png

PHOTOS = ("chelsea", "coffee", "camera")


def write_photos(folder: Path) -> list[Path]:
    """PNG copies in RGB; `camera` is grey in the original."""
    data = require("skimage", "demo").data
    target = OutputFolder(folder, "demo")
    try:
        for name in PHOTOS:
            photo = Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")
            target.write(f"{name}.png", png(photo))
    finally:
        target.close()
    return [folder / f"{name}.png" for name in PHOTOS]
