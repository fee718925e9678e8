"""Labels of nearby pixels, out of class maps: what AffinityNet and IRN learn from.

Class maps say little at borders of objects and much inside them, so both systems keep what two dense CRFs agree on, one run in
favour of the background and one against it, and leave the rest out (255).

* AffinityNet: `cam_maps` are stored; the loader cuts them like the image and makes the labels of the crop with
  `affinity_target`.
* IRN: `irn_labels` are stored as an index image; the loader cuts it like the image and thins it out with `index_target`.
  AffinityNet takes such an image too: the mask of another method, where nothing but its 255 is left out.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.compat.pydensecrf.utils import unary_from_labels
from wsss_fast.files.names import printable
from wsss_fast.files.png import BACKGROUND, IGNORE
from wsss_fast.files.regular import open_to_read
from wsss_fast.methods import _maps
from wsss_fast.ops import _check

# the exponents of the background for the low and the high maps: PSA's best, and its first submission with SEAM
ALPHAS = {"psa": (4.0, 32.0), "seam": (4.0, 24.0)}
PSA_CRF: dict[str, Any] = {"iterations": 10, "gaussian": (3, 3), "bilateral": (80, 13, 10)}
IRN_CRF: dict[str, Any] = {"iterations": 10, "gaussian": (3, 3), "bilateral": (50, 5, 10)}
LARGEST = 1 << 28  # numbers in one map of a file
_TYPES = {"classes": np.dtype(np.int64), "low": np.dtype(np.uint8), "high": np.dtype(np.uint8)}


class PairLabelsError(ValueError):
    """A file of pair labels that cannot be read, or does not hold what it should."""


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Two sets of label probabilities of one image, in steps of 1/255: the background, then its ``classes``."""

    classes: np.ndarray  # int64 [K], indices from 0, each once
    low: np.ndarray  # uint8 [1 + K, H, W]: strong background, so the objects in it are sure
    high: np.ndarray  # the same shape: weak background, which is sure

    def __post_init__(self) -> None:
        for name, dtype in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                got = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
                raise PairLabelsError(_check.complaint("PairMaps", name, f"be an array of {dtype}", got))
        k, shown = self.classes.size, self.classes.tolist()
        if self.classes.ndim != 1 or len(set(shown)) != k or not all(0 <= value < IGNORE - 1 for value in shown):
            raise PairLabelsError(_check.complaint("PairMaps", "classes", "be different numbers from 0 to 253", shown))
        if self.low.ndim != 3 or len(self.low) != 1 + k or self.low.shape != self.high.shape or self.low.size == 0:
            got = f"{list(self.low.shape)} and {list(self.high.shape)}"
            raise PairLabelsError(_check.complaint("PairMaps", "low and high", f"have shape [{1 + k}, H, W]", got))

    def encoded(self) -> bytes:
        """The file: NumPy's .npz, without pickle, the same bytes for the same maps."""
        buffer = io.BytesIO()
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _TYPES}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()


# ---- AffinityNet -----------------------------------------------------------------------------------------------------------


def alpha_maps(cam: Tensor, image: Tensor, alpha: float, crf: Mapping[str, Any] = PSA_CRF) -> Tensor:
    """Probabilities of the background and of the classes: a dense CRF on [(1 - max cam)^alpha, cam], not made to sum to 1.

    Args:
        cam: [K, H, W] from 0 to 1, the classes of the image alone; K may be 0.
        image: uint8 RGB [3, H, W].
        alpha: above 0; the larger, the weaker the background. The published pairs are `ALPHAS`.
        crf: arguments of ``ops.dense_crf``.

    Returns:
        float32 [1 + K, H, W], sums over the labels are 1.
    """
    _check.tensor("alpha_maps", "cam", cam, "[K, H, W]")
    return ops.dense_crf(_maps.add_background(cam.float(), alpha)[None], image[None], **crf)[0]


def cam_maps(
    cam: Tensor, image: Tensor, classes: Sequence[int], alphas: Sequence[float] = ALPHAS["psa"], crf: Mapping[str, Any] = PSA_CRF
) -> PairMaps:
    """`alpha_maps` for a low and a high alpha, to be stored.

    Args:
        cam, image, crf: of `alpha_maps`.
        classes: the K classes of `cam`, counted from 0.
    """
    low, high = (_bytes(alpha_maps(cam, image, alpha, crf)) for alpha in alphas)
    return PairMaps(np.asarray(classes, np.int64).reshape(-1), low, high)


def affinity_target(low: np.ndarray, high: np.ndarray, classes: Sequence[int] | np.ndarray, stride: int = 8) -> np.ndarray:
    """The labels of a crop on the network's grid: each cell's strongest label, where both maps are sure of it.

    A cell holds the mean of `stride` x `stride` pixels, and its label is that of `low`; 255 where that is the background, but
    0 where the strongest label of `high` is the background; 255 where nothing of either map is (padding).

    Args:
        low, high: [1 + K, H, W] of `PairMaps`, cut and mirrored like the image, 0 beyond its border.
        classes: the K classes of the maps, counted from 0.
        stride: of the network.

    Returns:
        uint8 [ceil(H / stride), ceil(W / stride)]: 0 for the background, class + 1, 255 for what is ignored.
    """
    if low.ndim != 3 or low.shape != high.shape or len(low) != 1 + len(classes):
        got = f"{list(low.shape)} and {list(high.shape)}"
        raise ValueError(_check.complaint("affinity_target", "low and high", f"have shape [{1 + len(classes)}, H, W]", got))
    cells = [_cell_means(maps, stride) for maps in (low, high)]
    sure_object, sure_background = (mean.argmax(axis=0) for mean in cells)
    label = np.concatenate([[IGNORE], np.asarray(classes, np.int64) + 1]).astype(np.uint8)[sure_object]
    label[sure_background == 0] = BACKGROUND
    label[np.maximum(cells[0], cells[1]).max(axis=0) < 1e-5] = IGNORE
    return label


def _cell_means(maps: np.ndarray, stride: int) -> np.ndarray:
    c, h, w = maps.shape
    rows, columns = -(-h // stride), -(-w // stride)
    # sums of whole numbers are exact, so that equal means stay equal
    whole = np.zeros((c, rows * stride, columns * stride), np.float64)
    whole[:, :h, :w] = maps
    return whole.reshape(c, rows, stride, columns, stride).sum(axis=(2, 4)) / stride**2


# ---- IRN -------------------------------------------------------------------------------------------------------------------


def irn_labels(
    cam: Tensor,
    image: Tensor,
    classes: Sequence[int],
    foreground: float = 0.30,
    background: float = 0.05,
    crf: Mapping[str, Any] = IRN_CRF,
    certainty: float = 0.7,
) -> np.ndarray:
    """What is surely an object, what is surely background, and 255 for the rest.

    Twice each pixel takes its strongest class, or the background where none is above a threshold, and a dense CRF takes these
    labels for right with probability `certainty`. The label is that of the first run; where that is the background, it is 0 if
    the second run agrees and 255 if not.

    Args:
        cam: [K, H, W] from 0 to 1, the classes of the image alone (``irn.class_maps``, the second of the two); K may be 0.
        image: uint8 RGB [3, H, W].
        classes: the K classes, counted from 0.
        foreground, background: the thresholds of the first and the second run.
        crf: arguments of ``ops.dense_crf``.

    Returns:
        uint8 [H, W]: 0, class + 1 or 255.
    """
    _check.tensor("irn_labels", "cam", cam, "[K, H, W]")
    if len(classes) != len(cam):
        raise ValueError(_check.complaint("irn_labels", "classes", f"be the {len(cam)} classes of 'cam'", list(classes)))
    if not (_check.is_number(foreground) and _check.is_number(background) and 0 <= background <= foreground):
        raise ValueError(_check.complaint("irn_labels", "background", "lie from 0 to 'foreground'", (background, foreground)))
    surely, perhaps = (
        _after_crf(_strongest(cam, threshold), image, len(cam), crf, certainty) for threshold in (foreground, background)
    )
    value = np.asarray([IGNORE, *(index + 1 for index in classes)], np.uint8)[surely]
    value[(surely == 0) & (perhaps == 0)] = BACKGROUND
    return value


def _strongest(cam: Tensor, threshold: float) -> Tensor:
    return torch.cat([cam.new_full((1, *cam.shape[1:]), threshold), cam]).argmax(dim=0)


def _after_crf(labels: Tensor, image: Tensor, classes: int, crf: Mapping[str, Any], certainty: float) -> np.ndarray:
    energy = unary_from_labels(labels.cpu().numpy(), 1 + classes, certainty, zero_unsure=False)
    unary = torch.from_numpy(energy).view(1, 1 + classes, *labels.shape).to(image.device)
    return ops.dense_crf(unary=unary, image=image[None], **crf)[0].argmax(dim=0).cpu().numpy()


def index_target(labels: np.ndarray, stride: int = 4) -> np.ndarray:
    """The label in the middle of each cell of `stride` x `stride` pixels: uint8 [ceil(H / stride), ceil(W / stride)]."""
    labels = _index_image("index_target", "labels", labels)
    rows, columns = (np.minimum(np.arange(0, side, stride) + stride // 2, side - 1) for side in labels.shape)
    return labels[np.ix_(rows, columns)]


# ---- files -----------------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> PairMaps:
    """A file of `PairMaps.encoded`; all else is refused before it takes memory.

    Raises:
        PairLabelsError: naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        with open_to_read(path) as stored, zipfile.ZipFile(stored) as archive:
            found = {item.removesuffix(".npy") for item in archive.namelist()}
            if found != set(_TYPES) or len(archive.namelist()) != len(_TYPES):
                raise PairLabelsError(f"it must hold {', '.join(_TYPES)} and nothing else")
            return PairMaps(**{name: _array(archive, name) for name in _TYPES})
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error)
    raise PairLabelsError(f"pair labels: cannot read {printable(str(path))}: {printable(reason)}")


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of '{name}' is unknown")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != _TYPES[name] or fortran or min(shape, default=0) < 0 or math.prod(shape) > LARGEST:
            raise ValueError(f"'{name}' must be {_TYPES[name]}, at most {LARGEST} numbers, got {dtype} {list(shape)}")
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"'{name}' must have {size} bytes, got {'more' if len(data) > size else len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _bytes(maps: Tensor) -> np.ndarray:
    return (maps * 255).round_().to(torch.uint8).cpu().numpy()


def _index_image(op: str, argument: str, value: np.ndarray) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 2 or value.size == 0:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(_check.complaint(op, argument, "be a uint8 array [H, W]", got))
    return value
