"""The random walk between maps and mask: along the edges of the image, or as an AffinityNet or IRN network guides it.

A network runs in the predicting stage (`guide`), the walk itself behind it (`spread`). The walk is on a grid of stride 8 (IRN: 4)
of the bounded image, radius 5; the maps are averaged onto that grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch.nn import functional

from wsss_fast import ops
from wsss_fast.files.names import printable, state_of
from wsss_fast.label.settings import LabelSettings, SettingsError
from wsss_fast.methods import _walk

if TYPE_CHECKING:
    from torch import Tensor

RADIUS = 5
STRIDE, IRN_STRIDE = 8, 4
BETA, IRN_BETA = 8.0, 10.0
IRN_BACKGROUND = 0.25
# A step of this share of the full range between neighbouring cells is an edge that nothing crosses.
EDGE = 0.5


class Walk(Protocol):
    identity: dict[str, Any]
    background: float | None  # a constant that joins after the walk; None: the background walks too

    def guide(self, image: Tensor) -> Any:
        """``image`` is uint8 [1, 3, H, W]."""
        ...

    def spread(self, rows: Tensor, guide: Any) -> Tensor:
        """Rows [1, R, H, W] at the size of the bounded image, walked, at the same size."""
        ...


def load_walk(settings: LabelSettings) -> Walk | None:
    if settings.walk is None:
        return None
    if settings.walk == "image":
        return ImageWalk(settings)
    from wsss_fast.export.engine import load_engine
    from wsss_fast.label.predict import chosen_device

    if not Path(settings.walk).is_file():
        what = state_of(settings.walk)
        raise SettingsError(
            f"label: 'walk' must be 'image' or a checkpoint of affinitynet or irn, got '{printable(settings.walk)}', which {what}"
        )
    engine = load_engine(settings.walk, None, chosen_device(settings.device))
    if engine.meta.outputs == ("planes",):
        return AffinityWalk(engine, settings)
    if engine.meta.outputs == ("edge", "displacement"):
        return IrnWalk(engine, settings)
    raise SettingsError(f"label: 'walk' must be a checkpoint of affinitynet or irn, got one of {engine.meta.method}")


class ImageWalk:
    """Edges are steps of colour: the image averaged onto the grid, the largest central difference of its channels."""

    background = None

    def __init__(self, settings: LabelSettings) -> None:
        self.identity: dict[str, Any] = {"name": "image"}
        self._beta = BETA if settings.walk_beta is None else settings.walk_beta
        self._steps = settings.walk_steps

    def guide(self, image: Tensor) -> Tensor:
        return image

    def spread(self, rows: Tensor, guide: Tensor) -> Tensor:
        image = guide.to(rows.device).float() / 255
        grid = grid_of(rows, STRIDE)
        affinity = ops.edge_affinity(image_edges(functional.adaptive_avg_pool2d(image, grid)), RADIUS)
        out = ops.random_walk(functional.adaptive_avg_pool2d(rows, grid), affinity, RADIUS, self._beta, self._steps)
        return functional.interpolate(out, rows.shape[2:], mode="bilinear", align_corners=False)


class AffinityWalk:
    background = None

    def __init__(self, engine: Any, settings: LabelSettings) -> None:
        self.identity = {"method": engine.meta.method, **engine.identity}
        self._engine = engine
        self._beta = BETA if settings.walk_beta is None else settings.walk_beta
        self._steps = settings.walk_steps

    def guide(self, image: Tensor) -> Tensor:
        beyond = _walk.beyond(image.shape[2:], STRIDE)
        planes = self._engine.forward_cam(functional.pad(self._engine.normalise(image), beyond))
        if planes.shape[1] != len(ops.affinity_offsets(RADIUS)):
            raise SettingsError(f"label: 'walk' must be an affinitynet of radius {RADIUS}, got {planes.shape[1]} planes")
        return planes.clamp_(0, 1)

    def spread(self, rows: Tensor, guide: Tensor) -> Tensor:
        return _walk.by_planes(rows, guide, STRIDE, RADIUS, self._beta, self._steps)


class IrnWalk:
    background = IRN_BACKGROUND

    def __init__(self, engine: Any, settings: LabelSettings) -> None:
        self.identity = {"method": engine.meta.method, **engine.identity}
        self._engine = engine
        self._beta = IRN_BETA if settings.walk_beta is None else settings.walk_beta
        self._steps = settings.walk_steps

    def guide(self, image: Tensor) -> Tensor:
        """The edge of the image and of its mirror image, averaged before the sigmoid."""
        image = self._engine.normalise(image)
        edge, mirrored = (self._engine.forward_cam(view)[0] for view in (image, image.flip(3)))
        mean = (edge.clamp(1e-6, 1 - 1e-6).logit() + mirrored.flip(3).clamp(1e-6, 1 - 1e-6).logit()) / 2
        return mean.sigmoid()

    def spread(self, rows: Tensor, guide: Tensor) -> Tensor:
        small = functional.adaptive_avg_pool2d(rows, guide.shape[2:])
        return _walk.by_edge(small, guide, IRN_STRIDE, rows.shape[2:], RADIUS, self._beta, self._steps)


def grid_of(rows: Tensor, stride: int) -> tuple[int, int]:
    height, width = rows.shape[2:]
    return -(-height // stride), -(-width // stride)


def image_edges(image: Tensor) -> Tensor:
    """[1, 3, h, w] from 0 to 1 → [1, 1, h, w], 1 where nothing passes."""
    around = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    steps = (across.square() + down.square()).sqrt().amax(dim=1, keepdim=True)
    return (steps / EDGE).clamp_(max=1)
