"""What is written for an image: a mask as PNG, or its class maps as npz. Files of all images: `collect.py`."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from PIL import Image

from wsss_fast.files.png import mask_png, png
from wsss_fast.label.refine import Mask

PAIRS = "pairs"
# They are made of the masks, which are palette PNG.
COLLECTED = ("coco", "panoptic", "cvat", "labelstudio")


def main_file(output: str, kind: str) -> str:
    """``output`` is the planned name, which ends in .png."""
    return output[:-4] + ".npz" if kind == "npz" else output


def further_files(output: str, kind: str) -> list[str]:
    return [f"{PAIRS}/{output[:-4]}.npz"] if kind == "alpha" else []


def encode(mask: Mask, output: str, kind: str) -> dict[str, bytes]:
    """File name → content; the main file comes first."""
    if kind == "npz":
        return {main_file(output, kind): maps_npz(mask, mask.maps[""])}
    files = {output: index_png(mask.values) if kind == "index" else mask_png(mask.values)}
    if kind == "alpha":
        files[further_files(output, kind)[0]] = pairs_npz(mask)
    return files


def index_png(values: np.ndarray) -> bytes:
    """16-bit grey: the value is the class index + 1, 65535 is to be ignored."""
    return png(Image.fromarray(values.astype(np.uint16)))


def maps_npz(mask: Mask, maps: np.ndarray) -> bytes:
    """``classes``, ascending class indices from 0; ``maps`` uint8 [K, H, W], 255 being 1."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, values in (("classes", np.array(sorted(mask.classes), np.int32)), ("maps", maps)):
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(values), allow_pickle=False)
            # without a time of day: equal maps give equal bytes
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), inner.getvalue(), zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def pairs_npz(mask: Mask) -> bytes:
    """Both refined sets of maps, as the training of AffinityNet reads them."""
    from wsss_fast.methods.pair_labels import PairMaps

    return PairMaps(np.array(sorted(mask.classes), np.int64), mask.maps["low"], mask.maps["high"]).encoded()
