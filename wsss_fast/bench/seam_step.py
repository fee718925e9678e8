"""A training step of SEAM: the image and a copy of 0.3 the size."""

from __future__ import annotations

from wsss_fast.bench._train_step import operation

OPERATION = operation("seam", views=1.09, terms=5)
