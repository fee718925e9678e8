from __future__ import annotations

from functools import cache
from math import isqrt

import torch
from torch import Tensor

TILE_HEIGHT, TILE_WIDTH = 16, 32
NO_CENTRE = -(2**31)


def slic(image: Tensor, segments: int = 200, compactness: float = 10, iterations: int = 10, mask: Tensor | None = None) -> Tensor:
    """image [N,3,H,W] uint8, mask [N,H,W] bool -> [N,H,W] int32. In whole numbers, as csrc/slic/slic_rules.h defines it."""
    n, _, h, w = image.shape
    out = torch.empty((n, h, w), dtype=torch.int32, device=image.device)
    for i in range(n if h * w else 0):
        valid = torch.ones((h, w), dtype=torch.bool, device=image.device) if mask is None else mask[i]
        labels, colours, minimum = _assignment(lab(image[i]), valid, segments, compactness, iterations)
        out[i] = _connected(labels, colours, minimum)
    return out


@cache
def _lab_tables() -> tuple[Tensor, Tensor]:
    """What a value of red, green or blue adds to X, Y, Z [3, 256, 3] (white: 2^16), and f at steps of 2^-13 (2^14 is 1)."""
    v = torch.arange(256, dtype=torch.float64) / 255
    light = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    part = v.new_tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    share = part.T[:, None] / part.new_tensor([0.95047, 1.0, 1.08883]) * light[None, :, None]
    t = torch.arange(2**13 + 1, dtype=torch.float64) / 2**13
    root = torch.where(t * 24389 <= 216, 841 / 108 * t + 4 / 29, t ** (1 / 3))
    return (share * 2**16 + 0.5).floor().long(), (root * 2**14 + 0.5).floor().long()


def lab(image: Tensor) -> Tensor:
    """[3, H, W] uint8 -> L, a, b [3, H, W] in quarters of a unit."""
    adds, root = (table.to(image.device) for table in _lab_tables())
    x, y, z = root[sum(adds[channel, image[channel].long()] for channel in range(3)) >> 3].unbind(-1)
    return torch.stack((464 * y - (64 << 14), 2000 * (x - y), 800 * (y - z))) + (1 << 13) >> 14


def _grid(h: int, w: int, segments: int) -> tuple[int, int]:
    most_rows, most_cols = max(1, h // 2), max(1, w // 2)
    wanted = min(segments, most_rows * most_cols)
    root = min(isqrt(wanted * h // w), most_rows)
    sizes = [(rows, max(1, min(most_cols, (2 * wanted + rows) // (2 * rows)))) for rows in (max(root, 1), root + 1)]
    return min((size for size in sizes if size[0] <= most_rows), key=lambda size: abs(size[0] * size[1] - wanted))


def _candidates(cells: int, size: int, first: int, last: int) -> range:
    """The cells along an axis whose windows (two cells wide) meet the pixels first .. last."""
    low, high = -((3 * size - 2 * cells * first) // (2 * size)), (2 * cells * last + size) // (2 * size)
    return range(max(0, low), min(cells - 1, high) + 1)


def _tiles(h: int, w: int, rows: int, cols: int) -> list[tuple[slice, slice, list[int]]]:
    """The tiles of the image, and the labels of their candidates."""
    spans = [
        [
            (slice(first, min(first + tile, size)), _candidates(cells, size, first, min(first + tile, size) - 1))
            for first in range(0, size, tile)
        ]
        for size, tile, cells in ((h, TILE_HEIGHT, rows), (w, TILE_WIDTH, cols))
    ]
    return [(y, x, [r * cols + c for r in down for c in across]) for y, down in spans[0] for x, across in spans[1]]


def _rounded(value: Tensor, bits: int) -> Tensor:
    return value + (1 << (bits - 1)) >> bits


def _assignment(lab: Tensor, valid: Tensor, segments: int, compactness: float, iterations: int) -> tuple[Tensor, Tensor, int]:
    """Labels [H, W] (-1: not valid), the colours of the centres [K, 3], and the pixels of a segment that stands alone."""
    h, w = valid.shape
    rows, cols = _grid(h, w, segments)
    tiles = _tiles(h, w, rows, cols)
    bits = (max(len(labels) for _, _, labels in tiles) - 1).bit_length()
    # the weights of colour and space, as large as 16-bit coefficients and costs of 30 - bits bits allow
    reach, limit = float(2 * max(w // cols + 1, h // rows + 1) + 64), float(1 << (30 - bits))
    weight = 16.0 * compactness * compactness * float(rows * cols) / (float(h) * float(w))
    most = min(16000.0 / reach, limit / 8.0 / reach / reach)
    scale = min(most / weight if weight else float("inf"), limit / 3.2e6, 32.0)
    colour, space, space_alone = (int(scale * 2.0**12 + 0.5), int(scale * weight * 2.0**20 + 0.5), int(most * 2.0**20 + 0.5))

    k = torch.arange(rows * cols, device=lab.device)
    centre = torch.zeros((rows * cols, 5), dtype=torch.int64, device=lab.device)  # L, a, b, x, y in sixteenths
    centre[:, 3] = (2 * (k % cols) + 1) * w * 8 // cols - 8
    centre[:, 4] = (2 * (k // cols) + 1) * h * 8 // rows - 8
    y, x = torch.meshgrid(torch.arange(h, device=lab.device), torch.arange(w, device=lab.device), indexing="ij")
    pixel = torch.stack((*lab, x, y), dim=-1)
    label = torch.full_like(x, -1)
    stride = 3 if h >= 8 * rows else 1
    for turn in range(iterations + 1):
        taken = torch.ones(h, dtype=torch.bool, device=lab.device)
        if 0 < turn < iterations:
            taken = y[:, 0] % stride == turn % stride
        for down, across, labels in tiles:
            near = torch.tensor(labels, device=lab.device)
            corner = pixel.new_tensor([0, 0, 0, across.start, down.start])
            cost = _cost(
                pixel[down, across][taken[down]] - corner,
                centre[near],
                corner,
                colour * (turn > 0),
                space if turn else space_alone,
            )
            cost = torch.where(centre[near, 0] == NO_CENTRE, 1 << (30 - bits), cost)
            label[down, across][taken[down]] = near[cost.argmin(-1)]  # torch takes the first of equals
        if turn == iterations:
            return torch.where(valid, label, -1), centre[:, :3], h * w // (5 * rows * cols)
        some = valid & taken[:, None]
        total = torch.zeros_like(centre).index_add_(0, label[some], pixel[some])
        count = torch.bincount(label[some], minlength=rows * cols)[:, None]
        mean = (32 * total + count).div(2 * count.clamp_min(1), rounding_mode="floor")
        centre = torch.where(count > 0, mean, centre)
        if turn == 0:
            centre[count[:, 0] == 0, 0] = NO_CENTRE
    raise AssertionError("the last turn returns")


def _cost(pixel: Tensor, centre: Tensor, corner: Tensor, colour: int, space: int) -> Tensor:
    """Squared distances [..., K], less what all K candidates share, of pixels [..., 5] counted from the corner of their tile."""
    near = centre - 16 * corner
    slopes = torch.cat((_rounded(2 * colour * near[:, :3], 16), _rounded(2 * space * near[:, 3:], 24)), dim=-1)
    base = _rounded(colour * near[:, :3].square().sum(-1), 20) + _rounded(space * near[:, 3:].square().sum(-1), 28)
    return base - (pixel[..., None, :] * slopes).sum(-1)


def _connected(labels: Tensor, colours: Tensor, minimum: int) -> Tensor:
    """Cuts labels [H, W] into connected pieces, lets small ones join a neighbour, and numbers what is left."""
    h, w = labels.shape
    flat, number = labels.flatten(), torch.arange(h * w, device=labels.device).view(h, w)
    pairs = torch.stack(
        (
            torch.cat((number[:, :-1].flatten(), number[:-1].flatten())),
            torch.cat((number[:, 1:].flatten(), number[1:].flatten())),
        )
    )
    pairs = pairs[:, (flat[pairs] >= 0).all(0)]
    pairs = torch.cat((pairs, pairs.flip(0)), dim=1)
    # a segment's name is its first pixel
    name = _spread(number.flatten(), pairs[:, flat[pairs[0]] == flat[pairs[1]]])
    label = flat.clone()
    while True:
        size = torch.bincount(name[flat >= 0], minlength=h * w)
        a, b = name[pairs]
        greater = (size[b] > size[a]) | ((size[b] == size[a]) & (b < a))
        a, b = (end[(size[a] < minimum) & greater] for end in (a, b))
        if len(a) == 0:
            break
        apart = (colours[label[a]] - colours[label[b]]).square().sum(-1)
        key = torch.full_like(name, 2**62).scatter_reduce(0, a, apart << 32 | b, "amin")
        joins = torch.where(key < 2**62, key & 0xFFFFFFFF, number.flatten())
        while not torch.equal(joins, joins[joins]):
            joins = joins[joins]
        name = joins[name]
    first = number.flatten().clone().scatter_reduce(0, name, number.flatten(), "amin")[name]
    _, order = first[flat >= 0].unique(return_inverse=True)
    out = torch.full_like(flat, -1)
    out[flat >= 0] = order
    return out.view(h, w).int()


def _spread(name: Tensor, pairs: Tensor) -> Tensor:
    """The least number of each connected piece."""
    while True:
        least = name.scatter_reduce(0, pairs[0], name[pairs[1]], "amin")
        least = least[least]
        if torch.equal(least, name):
            return name
        name = least
