"""Mean field of a dense CRF: `dense_crf` filters on permutohedral lattices, `exact` sums over the pixels themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Filter = Callable[[Tensor], Tensor]  # [N, L, H, W] -> [N, L, H, W], linear

EXACT_PIXELS = 40_000  # 1.6e9 pairs, about 5 seconds, an iteration
_REACH = 4.0  # standard deviations at which the separable Gaussian is cut: e^-8
_BLOCK = 1 << 18  # elements of the kernel matrix held at once: what a cache holds
_FACTOR = 0x1E3779B97F4A7C15
_TOO_FAR = "dense_crf: 'features' must span fewer lattice cells, got coordinates too large. Hint: raise sigma"


def dense_crf(
    unary: Tensor,
    features: Sequence[Tensor],
    compats: Sequence[Tensor],
    normalisations: Sequence[int],
    iterations: int,
    initial: Tensor | None = None,
    message: bool = False,
) -> Tensor:
    """unary [N,L,H,W], features [N or 1,D,H,W] (coordinates / sigma), compats [1], [L] or [L,L] -> Q [N,L,H,W].

    D = 0: a term that joins no two pixels, its kernel is the identity.

    Normalisations: 0 none, 1 before, 2 after, 3 symmetric. Half types are computed in float32. `message=True` gives the sum of
    the messages of the first Q instead of iterating.
    """
    if not unary.numel():
        return unary.clone()
    filters = [lattice_filter(feature, unary.shape[0]) for feature in features]
    return mean_field(unary, filters, compats, normalisations, iterations, initial, message)


def energies(probability: Tensor) -> Tensor:
    return -probability.clamp_min(1e-5).log()


def exact(
    unary: Tensor,
    image: Tensor,
    terms: Sequence[tuple[tuple[float, float, float | None], Tensor]],
    iterations: int,
) -> Tensor:
    """The same with the true kernels, normalised symmetrically, of terms ((sigma_x, sigma_y, sigma_colour or None), compat).

    Without colours: a separable Gaussian cut at 4 sigma. With them: the sum over all pairs of pixels of image [N,3,H,W].
    """
    h, w = unary.shape[2:]
    if any(sigma[2] for sigma, _ in terms) and h * w > EXACT_PIXELS:
        raise ValueError(
            f"dense_crf: 'image' must have at most {EXACT_PIXELS:,} pixels with kernel='exact' and a bilateral term, got"
            f" {h} x {w} = {h * w:,}. Hint: crop the image, or use kernel='lattice'"
        )
    if not unary.numel():
        return unary.clone()
    filters, wide = [], torch.promote_types(unary.dtype, torch.float32)
    for (sx, sy, colour), _ in terms:
        if colour is None:
            filters.append(gaussian_filter(sx, sy))
        else:
            x, y = (torch.arange(size, dtype=wide, device=image.device) / s for size, s in ((w, sx), (h, sy)))
            grid = torch.stack((x.expand(h, w), y[:, None].expand(h, w))).expand(len(image), 2, h, w)
            filters.append(pairs_filter(torch.cat((grid, image.to(wide) / colour), dim=1)))
    return mean_field(unary, filters, [compat for _, compat in terms], [3] * len(terms), iterations, None, False)


def mean_field(
    unary: Tensor,
    filters: Sequence[Filter],
    compats: Sequence[Tensor],
    normalisations: Sequence[int],
    iterations: int,
    initial: Tensor | None,
    message: bool,
) -> Tensor:
    wide = torch.promote_types(unary.dtype, torch.float32)
    energy = unary.to(wide)
    ones = energy.new_ones((unary.shape[0], 1, *unary.shape[2:]))
    kernels = [normalised(kernel, ones, kind) for kernel, kind in zip(filters, normalisations, strict=True)]
    weights = [compat.to(wide) for compat in compats]

    def messages(q: Tensor) -> Tensor:
        total = torch.zeros_like(q)
        for kernel, weight in zip(kernels, weights, strict=True):
            total += apply_compat(weight, kernel(q))
        return total

    q = torch.softmax(-energy, dim=1) if initial is None else initial.to(wide)
    if message:
        return messages(q).to(unary.dtype)
    for _ in range(iterations):
        q = torch.softmax(messages(q) - energy, dim=1)
    return q.to(unary.dtype, copy=True)


def apply_compat(weight: Tensor, filtered: Tensor) -> Tensor:
    """A number rewards the same label; vectors and matrices are costs (the signs of pydensecrf)."""
    if weight.dim() == 2:
        return -torch.einsum("kl,nlhw->nkhw", weight, filtered)
    return weight * filtered if weight.numel() == 1 else -weight[:, None, None] * filtered


def normalised(kernel: Filter, ones: Tensor, kind: int) -> Filter:
    if kind == 0:
        return kernel
    scale = 1 / (kernel(ones) + 1e-20)
    if kind == 1:
        return lambda q: kernel(q * scale)
    if kind == 2:
        return lambda q: kernel(q) * scale
    root = scale.sqrt()
    return lambda q: kernel(q * root) * root


# ---- the three kinds of filter --------------------------------------------------------------------------------------------


def lattice_filter(feature: Tensor, images: int) -> Filter:
    if feature.shape[1] == 0:
        return lambda q: q
    lattices = [Lattice(image.flatten(1)) for image in feature]
    chosen = lattices if len(lattices) == images else lattices * images
    return lambda q: torch.stack([one.filter(image.flatten(1)) for one, image in zip(chosen, q, strict=True)]).view_as(q)


class Lattice:
    """Pixels with features [D, P] on the permutohedral lattice: D + 1 vertices a pixel, in densecrf's embedding.

    That embeds four pixels at a time, the missing ones of the last four as zeros: their vertices take part in the blur.
    """

    def __init__(self, feature: Tensor) -> None:
        d, pixels = feature.shape
        points = torch.nn.functional.pad(feature.float(), (0, -pixels % 4))
        weight, key = embed(points)  # [D+1, points] and [D+1, points, D]
        # one int64 a vertex: the sum of its coordinates times powers of _FACTOR, modulo 2^64. Equal for two of M vertices with
        # probability below M^2 / 2^64
        place = torch.full((d,), _FACTOR, device=key.device).cumprod(0)
        code, vertex = torch.unique((key * place).sum(-1), return_inverse=True)  # sorted
        self.weight, self.vertex, self.count = weight[:, :pixels], vertex.view(d + 1, -1)[:, :pixels], len(code)
        self.neighbours = []
        for axis in range(d + 1):  # a step along an axis: -1 in every coordinate, +D in its own; the last is not stored
            step = -place.sum() + ((d + 1) * place[axis] if axis < d else 0)
            self.neighbours.append([self._find(code, code + sign * step) for sign in (1, -1)])
        self.alpha = 1 / (1 + 2.0**-d)

    def _find(self, code: Tensor, wanted: Tensor) -> Tensor:
        at = torch.searchsorted(code, wanted).clamp(max=self.count - 1)
        return torch.where(code[at] == wanted, at, self.count)  # `count`: a row of zeros

    def filter(self, values: Tensor) -> Tensor:
        weight = self.weight.to(values.dtype)
        state = values.new_zeros((values.shape[0], self.count + 1))
        for w, v in zip(weight, self.vertex, strict=True):  # splat
            state.index_add_(1, v, values * w)
        for left, right in self.neighbours:  # blur
            state[:, :-1] += 0.5 * (state[:, left] + state[:, right])
        return self.alpha * sum(w * state[:, v] for w, v in zip(weight, self.vertex, strict=True))  # slice


def embed(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [D+1, P] and vertices [D+1, P, D] of float32 features [D, P]. The order of the operations is that of densecrf,
    each rounded on its own, since a pixel on the border of two simplices falls on either side by rounding."""
    d, pixels = feature.shape
    deviation = torch.tensor(math.sqrt(2 / 3) * (d + 1), dtype=torch.float32).item()
    elevated, total = feature.new_empty((d + 1, pixels)), feature.new_zeros(pixels)
    for j in range(d, 0, -1):
        scale = torch.tensor(1 / math.sqrt((j + 1) * j) * deviation, dtype=torch.float32, device=feature.device)
        scaled = feature[j - 1] * scale
        elevated[j] = total - scaled * j
        total = total + scaled
    elevated[0] = total
    if not bool(elevated.abs().max() < 2**22):  # beyond that float32 has no fractions; NaN
        raise ValueError(_TOO_FAR)
    over = torch.tensor(1 / (d + 1), dtype=torch.float32, device=feature.device)
    cell = torch.round(elevated * over)
    corner = cell * (d + 1)  # the nearest vertex of colour 0, were the sum of the cells 0
    away = elevated - corner
    rank = cell.sum(0).long().repeat(d + 1, 1)
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = away[i] < away[j]
            rank[i] += less
            rank[j] += ~less
    shift = (d + 1) * ((rank < 0).long() - (rank > d).long())
    rank, corner = rank + shift, corner + shift
    offset = (elevated - corner) * over
    rising = torch.empty_like(offset).scatter_(0, d - rank, offset)  # rank 0 is the largest
    weight = rising - rising.roll(1, 0)
    weight[0] += 1
    colour = torch.arange(d + 1, device=feature.device)[:, None, None]
    key = corner.long().T[:, :d] + colour - (d + 1) * (rank.T[:, :d] > d - colour).long()
    return weight, key


def gaussian_filter(sx: float, sy: float) -> Filter:
    def filter_rows(q: Tensor, sigma: float, axis: int) -> Tensor:
        reach = min(math.ceil(_REACH * sigma), q.shape[axis] - 1)
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64, device=q.device) / sigma) ** 2).to(q.dtype)
        rows = q.movedim(axis, -1)
        padded = torch.nn.functional.pad(rows.reshape(-1, 1, rows.shape[-1]), (reach, reach))
        return torch.nn.functional.conv1d(padded, taps[None, None]).view(rows.shape).movedim(-1, axis)

    return lambda q: filter_rows(filter_rows(q, sx, 3), sy, 2)


def pairs_filter(feature: Tensor) -> Filter:
    points = feature.flatten(2)
    pixels = points.shape[2]
    rows = max(1, _BLOCK // pixels)

    def filter_all(q: Tensor) -> Tensor:
        values = q.flatten(2)
        out = torch.empty_like(values)
        for image, of_image in enumerate(points):
            for start in range(0, pixels, rows):
                some = slice(start, start + rows)
                exponent = values.new_zeros((min(rows, pixels - start), pixels))
                for coordinate in of_image:
                    difference = coordinate[some, None] - coordinate
                    exponent.addcmul_(difference, difference, value=-0.5)
                # below e^-60 a weight adds nothing, and denormal numbers are slow
                out[image, :, some] = values[image] @ exponent.clamp_(min=-60).exp_().T
        return out.view(q.shape)

    return filter_all
