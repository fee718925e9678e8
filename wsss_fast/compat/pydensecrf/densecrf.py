"""DenseCRF and DenseCRF2D with the numbers of pydensecrf: mean field of dense_crf on one image.

Arrays may be read-only, strided or of another real type: they are copied to float32. Results are NumPy arrays [L, N] (float32,
contiguous) where pydensecrf gives a matrix object of its own, so both `np.array(Q)` and `Q.reshape(L, H, W)` work.
"""

# ruff: noqa: N802, N803 (the names are pydensecrf's)
from __future__ import annotations

import logging
from enum import IntEnum
from typing import Any

import numpy as np
import torch

import wsss_fast.ops  # noqa: F401 (defines torch.ops.wsss_fast.dense_crf)
from wsss_fast.compat.pydensecrf import _arrays
from wsss_fast.ops._check import complaint
from wsss_fast.ops._reference.dense_crf import dense_crf as _reference
from wsss_fast.ops.dense_crf import pixels_apart

logger = logging.getLogger("wsss_fast.compat")

_KERNEL_DIMS, _KERNEL_TERMS = 6, 4  # kMaxFeatureDims and kMaxTerms of csrc/dense_crf/dense_crf.h
_NEVER = np.float32(1e30)  # an infinite energy: e^-1e30 is 0 too, and 0 * 1e30 is not NaN


class KernelType(IntEnum):
    """Which covariance pydensecrf would learn; without learning the three are one."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Where the sum of a pixel's weights n is divided out: K / n, on the input, the output, or its root on both."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


class Unary:
    """Energies [L, N], from setUnary."""

    def __init__(self, energy: Any) -> None:
        self.energy = energy


class ConstUnary(Unary):
    def __init__(self, u: Any) -> None:
        super().__init__(_arrays.real("ConstUnary", "u", u, "[L, N]"))


class LogisticUnary(Unary):
    """Energies L f: weights [L, D] times features [D, N]."""

    def __init__(self, L: Any, f: Any) -> None:
        weight, feature = (_arrays.real("LogisticUnary", name, x, "[rows, columns]") for name, x in (("L", L), ("f", f)))
        if weight.ndim != 2 or feature.ndim != 2 or weight.shape[1] != feature.shape[0]:
            expected = "have shapes [L, D] and [D, N]"
            raise ValueError(complaint("LogisticUnary", "L, f", expected, f"{list(weight.shape)} and {list(feature.shape)}"))
        super().__init__(weight @ feature)


class DenseCRF:
    """N points with L labels; pairwise terms by `addPairwiseEnergy`."""

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._init((1, _arrays.count(self._op("__init__"), "nvar", nvar, 1)), nlabels)

    def _init(self, size: tuple[int, int], labels: int) -> None:
        self._size = size
        self._labels = _arrays.count(self._op("__init__"), "nlabels", labels, 1)
        self._unary: torch.Tensor | None = None
        self._terms: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    @property
    def npixels(self) -> int:
        return self._size[0] * self._size[1]

    @property
    def nlabels(self) -> int:
        return self._labels

    def _op(self, method: str) -> str:
        return type(self).__name__ + ("" if method == "__init__" else f".{method}")

    # ---- the energy ---------------------------------------------------------------------------------------------------

    def setUnaryEnergy(self, u: Any) -> None:
        """Energies -log p, [L, N]; DenseCRF2D takes [L, H, W] as well. +inf: never this label."""
        self._set_unary(self._op("setUnaryEnergy"), u)

    def setUnary(self, u: Unary) -> None:
        if not isinstance(u, Unary):
            kinds = "be a ConstUnary or LogisticUnary"
            raise TypeError(complaint(self._op("setUnary"), "u", kinds, type(u).__name__, "arrays go to setUnaryEnergy"))
        self._set_unary(self._op("setUnary"), u.energy)

    def _set_unary(self, op: str, u: Any) -> None:
        energy = _arrays.real(op, "u", u, "[L, N]")
        if energy.shape not in ((self.nlabels, self.npixels), (self.nlabels, *self._size)):
            expected = f"have shape [L, N] = [{self.nlabels}, {self.npixels}]"
            raise ValueError(complaint(op, "u", expected, list(energy.shape)))
        never = energy == np.inf
        if never.any():
            if never.reshape(self.nlabels, -1).all(axis=0).any():
                raise ValueError(complaint(op, "u", "leave each point a label", "a point where every label is infinite"))
            energy[never] = _NEVER
        _arrays.finite(op, "u", energy, "clip probabilities before -log, as unary_from_softmax does")
        self._unary = torch.from_numpy(energy.reshape(1, self.nlabels, *self._size))

    def addPairwiseEnergy(
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """features [D, N], each divided by its standard deviation."""
        op = self._op("addPairwiseEnergy")
        array = _arrays.real(op, "features", features, "[D, N]")
        if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != self.npixels:
            expected = f"have shape [D, N] with N = {self.npixels} and D of 1 or more"
            raise ValueError(complaint(op, "features", expected, list(array.shape)))
        self._add(op, array, compat, kernel, normalization)

    def _add(self, op: str, features: np.ndarray, compat: Any, kernel: int, normalization: int) -> None:
        _arrays.finite(op, "features", features)
        for argument, value, kinds in (("kernel", kernel, KernelType), ("normalization", normalization, NormalizationType)):
            if value not in tuple(kinds):
                names = ", ".join(f"{kind.name} ({kind.value})" for kind in kinds)
                raise ValueError(complaint(op, argument, f"be one of {names}", repr(value)))
        weight = torch.from_numpy(_arrays.compatibility(op, compat, self.nlabels))
        self._terms.append((torch.from_numpy(features.reshape(1, -1, *self._size)), weight, int(normalization)))

    # ---- inference ----------------------------------------------------------------------------------------------------

    def inference(self, niter: int) -> np.ndarray:
        """Q [L, N] after `niter` steps."""
        op = self._op("inference")
        return self._mean_field(op, iterations=_arrays.count(op, "niter", niter, 0))

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Q = softmax(-unary), and two arrays that programs hand on to `stepInference`, which has no use for them."""
        return self._mean_field(self._op("startInference"), iterations=0), *np.empty((2, 0, 0), np.float32)

    def stepInference(self, Q: np.ndarray, tmp1: Any = None, tmp2: Any = None) -> None:
        """One step, in place. The lattices are built again at each call: `inference(n)` is faster than n steps."""
        op = self._op("stepInference")
        start = self._start(op, Q)
        if not Q.flags.writeable:
            raise ValueError(complaint(op, "Q", "be writable", "a read-only array"))
        Q[...] = self._mean_field(op, iterations=1, initial=start)

    def klDivergence(self, Q: np.ndarray) -> float:
        """The divergence of Q from the CRF, but for the constant log of its partition sum."""
        op = self._op("klDivergence")
        start = self._start(op, Q)
        message = self._mean_field(op, iterations=0, initial=start, message=True)
        q, energy = np.asarray(Q, np.float64), self._unary.numpy().reshape(self.nlabels, -1)
        return float((q * (np.log(np.maximum(q, 1e-20)) + energy - message)).sum())

    def _start(self, op: str, Q: Any) -> torch.Tensor:
        if not isinstance(Q, np.ndarray) or Q.dtype.kind != "f":
            got = f"{type(Q).__name__} of {Q.dtype}" if isinstance(Q, np.ndarray) else type(Q).__name__
            raise TypeError(complaint(op, "Q", "be a floating point array, as startInference gives", got))
        if Q.shape != (self.nlabels, self.npixels):
            raise ValueError(complaint(op, "Q", f"have shape [{self.nlabels}, {self.npixels}]", list(Q.shape)))
        start = _arrays.real(op, "Q", Q, "[L, N]")
        _arrays.finite(op, "Q", start)
        return torch.from_numpy(start.reshape(1, self.nlabels, *self._size))

    def _mean_field(self, op: str, iterations: int, initial: torch.Tensor | None = None, message: bool = False) -> np.ndarray:
        if self._unary is None:
            raise RuntimeError(f"{op}: no unary energy is set. Hint: call setUnaryEnergy first")
        features, compats, kinds = ([term[i] for term in self._terms] for i in range(3))
        out = _run(self._unary, features, compats, kinds, iterations, initial, message)
        return out.numpy().reshape(self.nlabels, self.npixels)


class DenseCRF2D(DenseCRF):
    """An image of `w` x `h` pixels, row by row."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        op = self._op("__init__")
        self._init((_arrays.count(op, "h", h, 1), _arrays.count(op, "w", w, 1)), nlabels)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """exp(-|p - p'|^2 / 2) of positions divided by `sxy`, a number or (sx, sy)."""
        op = self._op("addPairwiseGaussian")
        position = self._position(op, sxy)
        if normalization != NO_NORMALIZATION and pixels_apart(*_arrays.deviations(op, "sxy", sxy, 2)):
            position = position[:0]  # without dimensions: no two pixels are joined
        self._add(op, position, compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """The same of positions and colours; `srgb` a number or three, `rgbim` uint8 [H, W, 3]."""
        op = self._op("addPairwiseBilateral")
        image = np.asarray(rgbim)
        if image.dtype != np.uint8:
            hint = "other images: utils.create_pairwise_bilateral and addPairwiseEnergy"
            raise TypeError(complaint(op, "rgbim", "be of type uint8", image.dtype, hint))
        if image.shape != (*self._size, 3):
            raise ValueError(complaint(op, "rgbim", f"have shape [H, W, 3] = {[*self._size, 3]}", list(image.shape)))
        colour = image.reshape(-1, 3).T.astype(np.float32) / _arrays.deviations(op, "srgb", srgb, 3)[:, None]
        self._add(op, np.concatenate((self._position(op, sxy), colour)), compat, kernel, normalization)

    def _position(self, op: str, sxy: Any) -> np.ndarray:
        sx, sy = _arrays.deviations(op, "sxy", sxy, 2)
        y, x = np.indices(self._size, dtype=np.float32).reshape(2, -1)
        return np.stack((x / sx, y / sy))


def _run(
    unary: torch.Tensor,
    features: list[torch.Tensor],
    compats: list[torch.Tensor],
    normalisations: list[int],
    iterations: int,
    initial: torch.Tensor | None,
    message: bool,
) -> torch.Tensor:
    arguments = (unary, features, compats, normalisations, iterations, initial, message)
    if len(features) > _KERNEL_TERMS or any(feature.shape[1] > _KERNEL_DIMS for feature in features):
        logger.warning(
            "DenseCRF: more than %d terms or %d dimensions: running the slower definition in PyTorch", _KERNEL_TERMS, _KERNEL_DIMS
        )
        return _reference(*arguments)
    return torch.ops.wsss_fast.dense_crf(*arguments, "cpu")
