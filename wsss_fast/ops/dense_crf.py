"""Dense CRF: mean field inference with Gaussian and bilateral kernels, on permutohedral lattices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_fast.ops import _check, _library
from wsss_fast.ops._reference import dense_crf as _reference
from wsss_fast.ops._view import Call, empty

__all__ = ["dense_crf"]

SYMMETRIC = 3  # wsss::dense_crf::Normalisation in csrc/dense_crf/dense_crf.h
Compatibility = float | Sequence[float] | Tensor


def dense_crf(
    probability: Tensor | None = None,
    image: Tensor | None = None,
    unary: Tensor | None = None,
    iterations: int = 10,
    gaussian: tuple[float | tuple[float, float], Compatibility] | None = (3, 3),
    bilateral: tuple[float | tuple[float, float], float, Compatibility] | None = (80, 13, 10),
    kernel: str = "lattice",
    *,
    impl: str | None = None,
) -> Tensor:
    """Sharpen label probabilities with the image: neighbouring pixels of like colour get like labels.

    Starting from Q = softmax(-unary), each iteration is::

        Q = softmax(-unary + sum_k w_k n_k * K_k (n_k * Q)),     n_k = (K_k 1) ** -0.5

    where K_k filters each label's map: the Gaussian kernel over positions, the bilateral one over positions and colours.

    Args:
        probability: [N, L, H, W]; need not sum to 1, clamped to 1e-5 before -log. Either this or `unary`.
        image: [N, 3, H, W] uint8, any strides. Always given.
        unary: [N, L, H, W] energies, finite.
        iterations: 0 or more; 0 gives softmax(-unary).
        gaussian: (sxy, compat); None leaves the term out.
        bilateral: (sxy, srgb, compat); None leaves the term out.
        kernel: "lattice" (what pydensecrf computes) or "exact" (small images: the kernels themselves, for judging the lattice).
        impl: None (by device), "reference", "cpu", "simt" or "cuda".

    sxy is a number of pixels or a pair (x, y). compat is a number w, as above; or a vector [L] or matrix [L, L] whose product
    with the message is subtracted, as in pydensecrf (so that the number w equals the matrix -w I). Matrices are made symmetric.

    Returns:
        Q, [N, L, H, W], contiguous, of the type of the input. All types are computed in float32.

    No gradient: this is a step of inference. Under autocast the input stays as it is. NaN and Inf are refused.

    Raises:
        TypeError: not a tensor, or a type that is not supported.
        ValueError: shapes or devices that do not fit, a setting out of range, both or neither of `probability` and `unary`, or
            numbers that are not finite: on CUDA, where looking would wait for the device, these are not looked for.
        RuntimeError: CUDA tensors with a build that has no CUDA kernels.
    """
    _check.one_given("dense_crf", "probability", probability, "unary", unary)
    name = "unary" if probability is None else "probability"
    source = unary if probability is None else probability
    _check.tensor("dense_crf", name, source, "[N, L, H, W]")
    _check.dtype("dense_crf", name, source, (*_check.FLOATS, torch.float64))
    _check.photo("dense_crf", "image", image)
    n, _, h, w = source.shape
    _check.shape("dense_crf", "image", image, "[N, 3, H, W]", (n, 3, h, w), f"N, H, W of '{name}'")
    _check.device("dense_crf", "image", image, name, source)
    _check.whole("dense_crf", "iterations", iterations, 0)
    _check.choice("dense_crf", "kernel", kernel, ("lattice", "exact"))
    impl = _check.implementation("dense_crf", impl, source)
    values = source.detach().to(torch.promote_types(source.dtype, torch.float32) if impl == "reference" else torch.float32)
    terms = _terms(source, gaussian, bilateral)
    features = [_feature(image, sigma) for sigma, _ in terms]
    others = (features, [compat for _, compat in terms], [SYMMETRIC] * len(terms), iterations, None, False)
    if kernel == "lattice" and impl != "reference":
        return torch.ops.wsss_fast.dense_crf(values.contiguous(), *others, impl, probability is not None).to(source.dtype)
    energy = values if probability is None else _reference.energies(values)
    _check_finite(name, energy)  # the CPU kernel looks for itself; on CUDA it would have to wait for the device
    if kernel == "exact":
        return _reference.exact(energy, image, terms, iterations).to(source.dtype)
    return _reference.dense_crf(energy, *others).to(source.dtype)


def _check_finite(name: str, energy: Tensor) -> None:
    if not bool(energy.isfinite().all()):
        raise ValueError(_check.complaint("dense_crf", name, "be finite", "NaN or Inf", "torch.nan_to_num replaces them"))


def _terms(
    source: Tensor, gaussian: tuple | None, bilateral: tuple | None
) -> list[tuple[tuple[float, float, float | None], Tensor]]:
    """((sigma_x, sigma_y, sigma_colour or None), compat) of each term."""
    terms = []
    for name, form, term in (("gaussian", "(sxy, compat)", gaussian), ("bilateral", "(sxy, srgb, compat)", bilateral)):
        if term is None:
            continue
        if not isinstance(term, (tuple, list)) or len(term) != form.count(",") + 1:
            raise ValueError(_check.complaint("dense_crf", name, f"be None or {form}", repr(term)))
        sxy, *colour, compat = term
        pair = tuple(sxy) if isinstance(sxy, (tuple, list)) else (sxy, sxy)
        sigmas = (*pair, *colour)
        if len(pair) != 2 or not all(_check.is_number(s) and 0 < s < math.inf for s in sigmas):
            raise ValueError(_check.complaint("dense_crf", name, f"be {form} with finite sigmas above 0", repr(term)))
        h, w = source.shape[2:]
        if max(w / pair[0], h / pair[1], 255 / colour[0] if colour else 0) > 2**20:  # float32 could no longer part neighbours
            raise ValueError(_check.complaint("dense_crf", name, "have sigmas above a millionth of the image", repr(term)))
        terms.append(((*map(float, pair), float(colour[0]) if colour else None), _compatibility(name, compat, source)))
    return terms


def _compatibility(name: str, compat: Compatibility, source: Tensor) -> Tensor:
    labels = source.shape[1]
    matrix = torch.as_tensor(compat, dtype=torch.float32, device=source.device)
    looked_at = matrix.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere it would wait for the device
    if looked_at and not bool(matrix.isfinite().all()):
        raise ValueError(_check.complaint("dense_crf", name, "hold a finite compat", repr(compat)))
    if matrix.dim() == 0:
        matrix = matrix[None]
    elif tuple(matrix.shape) not in ((labels,), (labels, labels)):
        expected = f"hold a compat that is a number, [L] or [L, L] with L = {labels}"
        raise ValueError(_check.complaint("dense_crf", name, expected, f"shape {list(matrix.shape)}"))
    elif matrix.dim() == 1 and labels == 1:
        matrix = -matrix  # one label: a vector and a number look alike and differ in sign
    if matrix.dim() == 2:
        matrix = (matrix + matrix.T) / 2
    return matrix.contiguous()


def pixels_apart(sigma_x: float, sigma_y: float) -> bool:
    """Whether the lattice of the positions joins no two pixels, so that its normalised kernel is the identity.

    The edges of the 2-D lattice have length 1, in units of sigma: a pixel's three vertices are within 1 of it. Pixels 3 apart
    have no common vertices, and neighbouring ones at most where both have weight 0.
    """
    return max(sigma_x, sigma_y) <= 1 / 3


def _feature(image: Tensor, sigma: tuple[float, float, float | None]) -> Tensor:
    """Coordinates over their deviations: [1, 2, H, W], one grid for all images, or [N, 5, H, W] with colours. Where they would
    keep all pixels apart, none: [1, 0, H, W]."""
    n, _, h, w = image.shape
    sigma_x, sigma_y, sigma_colour = sigma
    if sigma_colour is None and pixels_apart(sigma_x, sigma_y):
        return torch.empty((1, 0, h, w), device=image.device)
    x = torch.arange(w, dtype=torch.float32, device=image.device) / sigma_x
    y = torch.arange(h, dtype=torch.float32, device=image.device) / sigma_y
    batch, dims = (1, 2) if sigma_colour is None else (n, 5)
    feature = torch.empty((batch, dims, h, w), device=image.device)
    feature[:, 0] = x
    feature[:, 1] = y[:, None]
    if sigma_colour is not None:
        feature[:, 2:] = image
        feature[:, 2:] /= sigma_colour
    return feature


def _run(
    unary: Tensor,
    features: list[Tensor],
    compats: list[Tensor],
    normalisations: list[int],
    iterations: int,
    initial: Tensor | None,
    message: bool,
    impl: str,
    probability: bool = False,
) -> Tensor:
    out = empty("dense_crf", "out", unary.shape, unary.dtype, unary.device)
    call = Call("dense_crf", impl, unary)
    terms = [
        (call.view(feature), call.view(compat), kind)
        for feature, compat, kind in zip(features, compats, normalisations, strict=True)
    ]
    values = call.view(unary)
    workspace = call.workspace(call.module.dense_crf_workspace(values, terms, call.context))
    call.module.dense_crf(
        values, probability, terms, iterations, call.view(initial), message, call.view(out), workspace, call.context
    )
    return out


def _fake(unary: Tensor, *_: object) -> Tensor:
    return unary.new_empty(unary.shape)


_library.define(
    "dense_crf(Tensor unary, Tensor[] features, Tensor[] compats, int[] normalisations, int iterations, Tensor? initial, "
    "bool message, str impl, bool probability=False) -> Tensor",
    _run,
    _fake,
)
