"""The pictures of an image in the report: itself, and two layers that lie over it, the class maps and the mask."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.images import ImageError
from wsss_fast.files.names import printable
from wsss_fast.files.png import png
from wsss_fast.label.overlay import mask_layer
from wsss_fast.label.refine import foreground, make_mask

if TYPE_CHECKING:
    from wsss_fast.label.job import Again, Job
    from wsss_fast.label.report.survey import Labelled

SIDE = 640
# A cell of a network is some 16 pixels of what it sees: more would only be larger.
_CAM_SIDE = 160
_HEAT = np.array([(28, 22, 84), (112, 30, 132), (222, 66, 88), (251, 164, 56), (255, 244, 168)], np.float32)
_HEAT_OPACITY = (0.5, 0.55, 0.65, 0.75, 0.85)

ENDINGS = {"image": ".jpg", "cam": "-cam.png", "mask": "-mask.png"}


def pictures_of(job: Job, folder: OutputFolder, image: Labelled, again: Again) -> dict[str, bytes]:
    """Layer → file. The mask is the file of the job; without one (format npz) it is made again."""
    small = Image.fromarray(again.picture.pixels)
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=84)
    values = _mask(job, folder, image, again)
    layer = mask_layer(np.asarray(Image.fromarray(values).resize(small.size, Image.Resampling.NEAREST)))
    return {"image": buffer.getvalue(), "cam": _cam(job, image, again), "mask": png(Image.fromarray(layer))}


def _cam(job: Job, image: Labelled, again: Again) -> bytes:
    height, width = again.picture.pixels.shape[:2]
    ratio = min(1.0, _CAM_SIDE / max(height, width))
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    heat = foreground(again.prediction, tuple(item.index for item in image.found), size, job.settings)
    at = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(heat, at, _HEAT[:, channel]) for channel in range(3)]
    channels.append(255 * np.interp(heat, at, _HEAT_OPACITY))
    return png(Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8)))


def _mask(job: Job, folder: OutputFolder, image: Labelled, again: Again) -> np.ndarray:
    if job.settings.format == "npz":
        settings = dataclasses.replace(job.settings, format="palette")
        return make_mask(again.prediction, again.picture, settings, job.walk, again.labels).values
    try:
        with Image.open(io.BytesIO(folder.read(job.plan[image.number].output)), formats=("PNG",)) as mask:
            if mask.size != (image.width, image.height):
                raise ValueError(f"it has {mask.size[0]} x {mask.size[1]} pixels, not those of the manifest")
            return np.array(mask)
    except Exception as error:
        # Gone, a link, damaged: decoders raise nearly anything.
        raise ImageError(f"its mask cannot be read: {printable(str(error))}") from None
