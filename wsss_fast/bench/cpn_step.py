"""A training step of CPN: the image and its two complementary halves, superpixels and pair included."""

from __future__ import annotations

from wsss_fast.bench._train_step import operation

OPERATION = operation("cpn", views=3.0, terms=6)
