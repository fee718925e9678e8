"""random_walk against 256 products with a sparse matrix, and the published way: eight squarings of the dense one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_fast.bench._definition import OURS, Condition, Contestant, Function, Operation, Size, Work
from wsss_fast.bench.dense_crf import photo, probability
from wsss_fast.ops._reference.half_disc import half_disc
from wsss_fast.ops._reference.random_walk import windows

RADIUS, BETA, STEPS = 5, 8, 256
MODES = ("exact", "chebyshev")


def inputs(size: Size) -> Mapping[str, Tensor]:
    """Maps as a network would give them, affinities of 64 features mixed from the colours of a photo."""
    n, c, h, w, mode = size
    generator = torch.Generator().manual_seed(0)
    mix = 3 * torch.randn((64, 3), generator=generator)
    colours = torch.stack([photo(i, h, w) for i in range(n)]).float() / 255
    affinity = torch.zeros((n, len(half_disc(RADIUS)), h, w))
    for e, (dy, dx) in enumerate(half_disc(RADIUS)):
        here, there = windows(dy, dx, h, w)
        difference = torch.einsum("fc,nchw->nfhw", mix, colours[here] - colours[there])
        affinity[:, e][here] = torch.exp(-difference.abs().mean(dim=1))
    return {"cam": probability(n, c, h, w), "affinity": affinity, "mode": torch.tensor(mode)}


def ours() -> Function:
    from wsss_fast import ops

    def run(cam: Tensor, affinity: Tensor, mode: Tensor) -> Tensor:
        return ops.random_walk(cam, affinity, RADIUS, BETA, STEPS, MODES[int(mode) - 1])

    return run


def definition(cam: Tensor, affinity: Tensor, mode: Tensor) -> Tensor:
    """On the CPU the kernel in float64, which the tests hold against the matrix; it is quicker than the reference."""
    from wsss_fast import ops

    return ops.random_walk(cam, affinity, RADIUS, BETA, STEPS, impl="reference" if cam.is_cuda else "cpu")


def pairs(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of the affinity matrix of one image: indices [2, M] and values [M]."""
    _, h, w = affinity.shape
    pixel = torch.arange(h * w, device=affinity.device).view(h, w)
    rows, columns, values = [pixel.flatten()], [pixel.flatten()], [torch.ones_like(affinity[0]).flatten()]
    for e, (dy, dx) in enumerate(half_disc(RADIUS)):
        here, there = windows(dy, dx, h, w)
        i, j, value = pixel[here].flatten(), pixel[there].flatten(), affinity[e][here].flatten()
        rows += [i, j]
        columns += [j, i]
        values += [value, value]
    return torch.stack((torch.cat(rows), torch.cat(columns))), torch.cat(values)


def dense(cam: Tensor, affinity: Tensor, mode: Tensor) -> Tensor:
    """The steps of the released AffinityNet code: a dense matrix, its power, its columns divided, squared eight times."""

    def one(cam: Tensor, affinity: Tensor) -> Tensor:
        indices, values = pairs(affinity)
        count = cam.shape[1] * cam.shape[2]
        matrix = torch.sparse_coo_tensor(indices, values, (count, count)).to_dense()
        matrix = torch.pow(matrix, BETA)
        matrix = matrix / matrix.sum(dim=0, keepdim=True)
        for _ in range(STEPS.bit_length() - 1):
            matrix = torch.matmul(matrix, matrix)
        return torch.matmul(cam.flatten(1), matrix).view(cam.shape)

    return torch.stack([one(*image) for image in zip(cam, affinity, strict=True)])


def csr() -> Function:
    """256 products with a sparse matrix, which is made at the first call and not timed."""
    matrices: dict[tuple[int, torch.Size], list[Tensor]] = {}

    def transposed(affinity: Tensor) -> Tensor:
        (i, j), values = pairs(affinity)
        values = values**BETA
        count = affinity.shape[1] * affinity.shape[2]
        sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, j, values)
        entries = torch.sparse_coo_tensor(torch.stack((j, i)), values / sums[j], (count, count))
        return entries.coalesce().to_sparse_csr()

    def run(cam: Tensor, affinity: Tensor, mode: Tensor) -> Tensor:
        key = affinity.data_ptr(), affinity.shape  # a size always has the same values
        if key not in matrices:
            matrices.clear()
            matrices[key] = [transposed(image) for image in affinity]
        out = []
        for rows, matrix in zip(cam, matrices[key], strict=True):
            x = rows.flatten(1).T.contiguous()
            for _ in range(STEPS):
                x = matrix @ x
            out.append(x.T.reshape(rows.shape))
        return torch.stack(out)

    return run


def work(size: Size, mode: str, dtype: str) -> Work:
    """Two products a pair and one a pixel, row and step (series: 78 in place of 256); inputs and output once."""
    n, c, h, w, kind = size
    pixels, planes = n * h * w, len(half_disc(RADIUS))
    steps = STEPS if kind == 1 else 78
    return Work(2.0 * steps * c * pixels * (2 * planes + 1), 4.0 * pixels * (2 * c + planes))


EXACT, SERIES = (1, 3, 47, 63, 1), (1, 3, 47, 63, 2)  # VOC at stride 8
LARGE, LARGE_SERIES = (1, 4, 750, 1000, 1), (1, 4, 750, 1000, 2)  # 3000x4000 at stride 4

OPERATION = Operation(
    name="random_walk",
    what="class maps walked 256 steps, radius 5, beta 8; M is 1 for mode exact, 2 for chebyshev",
    axes="NxCxHxWxM",
    sizes=(EXACT, SERIES, (1, 4, 94, 125, 1), (1, 4, 94, 125, 2), LARGE, LARGE_SERIES),
    cuda_sizes=tuple((n, 4, s, s, mode) for n, s in ((1, 56), (8, 56), (1, 112)) for mode in (1, 2)),
    inputs=inputs,
    exact=definition,
    contestants=(
        Contestant(OURS, "wsss_fast.ops.random_walk", ours),
        Contestant("csr", "PyTorch, 256 products with a sparse matrix that is there already", csr),
        Contestant(
            "dense", "PyTorch, eight squarings of the dense matrix, as AffinityNet publishes it", lambda: dense, extra=True
        ),
    ),
    work=work,
    modes={"fwd": ()},
    default_modes=("fwd",),
    conditions=(
        Condition(EXACT, "fwd", "ratio", 6.0, "csr"),
        Condition(SERIES, "fwd", "ratio", 20.0, "csr"),
        Condition(EXACT, "fwd", "ratio", 100.0, "dense"),
        *(Condition(size, "fwd", "error", 1e-4) for size in (EXACT, SERIES, LARGE, LARGE_SERIES)),
        *(Condition(size, "fwd", "memory", 10.0) for size in (EXACT, SERIES)),
        *(Condition(size, "fwd", "memory", 1024.0) for size in (LARGE, LARGE_SERIES)),
    ),
    tolerance={"float32": (1e-3, 0.0)},
)
