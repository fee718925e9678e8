"""Covariances of many features in one pass, and their first eigenvectors.

Sums are float64. Features in float64 are multiplied as such; others in float32, at most `ROWS` places at a time, less the mean of
the first image. So the error of a covariance is that of one product of matrices, whatever the number of images: at most
2**-24 * ROWS of the mean of |x_i| |x_j|, and about 1e-7 of it in practice.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 4096
BLOCK = 512
TOLERANCE = 1e-10
SMALL = 256  # channels up to which all eigenvectors are found as fast as one


class Sums:
    """What is kept of the images of one class: sums over places of features less a common shift."""

    def __init__(self, channels: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.products = zeros(channels, channels)  # lower triangle
        self.features = zeros(channels)
        self.guided = zeros(channels)  # features times guide
        self.guide, self.guide_squared = zeros(), zeros()
        self.images, self.places = 0, 0


def add_rows(every: list[Sums], rows: Tensor, guides: Tensor) -> None:
    """Adds places to the sums of all classes in ``every``. rows [places, channels], guides [places, classes]."""
    for start in range(0, rows.shape[1], BLOCK):  # the lower triangle, in blocks
        columns = slice(start, start + BLOCK)
        product = rows[:, start:].T @ rows[:, columns]
        for sums in every:
            sums.products[start:, columns] += product
    total = rows.sum(0, dtype=torch.float64)
    guided = rows.T @ guides.to(rows.dtype)
    for index, sums in enumerate(every):
        sums.features += total
        sums.guided += guided[:, index]
        sums.guide += guides[:, index].sum()
        sums.guide_squared += guides[:, index].square().sum()
        sums.places += len(rows)


def first_eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues and their vectors (as columns) of a symmetric matrix, of which the lower triangle is there.
    The matrix is used up.

    Subspace iteration with 8 vectors, until the residual of the first is under `TOLERANCE` times its eigenvalue; where the
    largest eigenvalues are too close to each other for that, all of them.
    """
    if len(matrix) > SMALL:
        matrix.tril_()
        matrix += matrix.tril(-1).T
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(len(matrix), 8, dtype=matrix.dtype, generator=generator).to(matrix.device)
        for _ in range(200):
            basis = torch.linalg.qr(image).Q
            image = matrix @ basis
            values, turn = torch.linalg.eigh(basis.T @ image)
            values, turn = values.flip(0), turn.flip(1)
            residual = (image @ turn - basis @ turn * values).norm(dim=0)
            if bool((residual[0] <= TOLERANCE * values[0]) & (residual[1] <= 1e-4 * values[0])):
                return values, basis @ turn
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)
