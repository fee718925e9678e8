"""Maps of several scales and mirror images, merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import relative_error
from networks import lively
from PIL import Image

from wsss_fast import methods, ops
from wsss_fast.methods._infer import resized


def small(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return lively(methods.create(name, 3, width=1 / 16))


def pixels(n: int = 1, h: int = 37, w: int = 50) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8)


def test_resized_as_pillow_does() -> None:
    smooth = torch.nn.functional.interpolate(pixels(1, 9, 12).float(), (37, 50), mode="bilinear").to(torch.uint8)
    for scale, size in ((0.5, (18, 25)), (1.5, (56, 75)), (2.0, (74, 100))):
        picture = Image.fromarray(smooth[0].permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        got = resized(smooth, scale)[0].permute(1, 2, 0).numpy().astype(int)
        assert got.shape == expected.shape and np.abs(got - expected).max() <= 1
    assert resized(smooth, 0.001).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("name", ["cam", "seam", "cpn", "eps", "l2g"])
def test_is_the_merge_of_all_passes(name: str) -> None:
    model, image = small(name), pixels(2)
    present = torch.tensor([[True, False, True], [True, True, True]])
    maps, flipped = [], []
    with torch.inference_mode():
        for scale in model.scales:
            small_image = model.normalise(resized(image, scale))
            maps += [model.objects(model.forward_cam(small_image)), model.objects(model.forward_cam(small_image.flip(3)))]
            flipped += [False, True]
        expected = ops.cam_merge(maps, flipped, (37, 50), present, **ops.CAM_MERGE[model.merge])
    got = methods.infer_cam(model, image, present=present)
    assert len(maps) == 8 and got.shape == (2, 3, 37, 50)
    assert torch.equal(got, expected)
    assert not got[0, 1].any() and got.max() <= 1 and got.min() >= 0


def test_one_pass_and_another_size() -> None:
    model, image = small("cam"), pixels()
    got = methods.infer_cam(model, image, (20, 30), scales=(1.0,), flip=False, preset="irn")
    with torch.inference_mode():
        maps = torch.nn.functional.interpolate(model.forward_cam(model.normalise(image)), (20, 30), mode="bilinear")
    assert relative_error(got, maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)) < 1e-5


def test_of_a_mirror_image() -> None:
    """With mirror images the map of the mirror image is the mirror image of the map."""
    model, image = small("seam"), pixels(1, 40, 48)
    got = methods.infer_cam(model, image.flip(3), scales=(1.0,))
    assert relative_error(got.flip(3), methods.infer_cam(model, image, scales=(1.0,))) < 1e-4


def test_errors() -> None:
    with pytest.raises(ValueError, match="infer_cam: 'model' must give class maps, got 'irn'"):
        methods.infer_cam(small("irn"), pixels())
    with pytest.raises(ValueError, match=r"'model' must be in eval mode. Hint: model.eval\(\)"):
        methods.infer_cam(small("cam").train(), pixels())
    with pytest.raises(ValueError, match="infer_cam: 'image' must be uint8 RGB"):
        methods.infer_cam(small("seam"), pixels().float())
