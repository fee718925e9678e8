"""Every method on every backbone: what it gives for images of all sizes, and what wrong arguments are told."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import Tensor, nn

from wsss_fast import methods

SMALL = {"width": 1 / 16}
PAIRS = [(name, backbone) for name in methods.NAMES for backbone in methods.backbones(name)]
# with C objects: channels of forward_cam's maps
CHANNELS = {"cam": lambda c: c, "seam": lambda c: c + 1, "cpn": lambda c: c + 1, "eps": lambda c: c + 1, "l2g": lambda c: c + 1}
CHANNELS |= {"deeplab": lambda c: c + 1, "affinitynet": lambda c: 34}


def small(name: str, num_classes: int = 3, backbone: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    if backbone != "efficientnet-lite0":
        options = {**SMALL, **options}
    return lively(methods.create(name, num_classes, backbone, **options))


def cells(side: int, stride: int) -> int:
    return -(-side // stride)


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
@pytest.mark.parametrize("size", [(40, 56), (33, 17), (3, 5)], ids=str)
@torch.inference_mode()
def test_shapes(name: str, backbone: str, size: tuple[int, int]) -> None:
    model = small(name, 3, backbone)
    n, image = 2, torch.randn(2, 3, *size)
    out = model.forward_cam(image)
    if name == "irn":
        grid = [cells(side, 4) for side in size]
        edge, displacement = out
        assert edge.shape == (n, 1, *grid) and displacement.shape == (n, 2, *grid)
        assert edge.min() >= 0 and edge.max() <= 1
    else:
        if name == "deeplab" and backbone == "resnet101-caffe":
            grid = list(out.shape[2:])  # its pool may hang over the border
        else:
            grid = [cells(side, model.output_stride) for side in size]
        assert out.shape == (n, CHANNELS[name](3), *grid)
    assert all(part.isfinite().all() for part in (out if isinstance(out, tuple) else (out,)))
    if model.merge:
        assert model.objects(out).shape == (n, 3, *grid)


@pytest.mark.parametrize(
    ("name", "classes"), [(name, c) for name in ("cam", "seam", "cpn", "eps", "l2g", "deeplab") for c in (1, 1000)]
)
@torch.inference_mode()
def test_class_counts(name: str, classes: int) -> None:
    maps = small(name, classes).forward_cam(torch.randn(1, 3, 24, 24))
    assert maps.shape[1] == CHANNELS[name](classes) and maps.isfinite().all()


@pytest.mark.parametrize("name", methods.NAMES)
@torch.inference_mode()
def test_what_forward_gives(name: str) -> None:
    model = small(name, published="code")
    image = torch.randn(2, 3, 32, 40)
    out = model(image)
    if name == "cam":
        assert out.shape == (2, 3)
    elif name in ("seam", "cpn"):
        assert [part.shape for part in out] == [(2, 4, 32, 40)] * 2
    elif name == "eps":
        assert out[0].shape == (2, 4) and torch.equal(out[1], model.forward_cam(image))
    elif name == "l2g":
        assert torch.equal(out[0], model.forward_cam(image)) and out[1].shape == (2, 3)
    elif name == "irn":
        assert torch.equal(out[0].sigmoid(), model.forward_cam(image)[0])
    elif name == "affinitynet":
        assert torch.equal(out, model.forward_cam(image)) and out.shape == (2, 34, 4, 5)
    else:
        assert out.shape == model.forward_cam(image).shape and (out >= model.forward_cam(image)).all()


@pytest.mark.parametrize("name", methods.NAMES)
def test_export(name: str) -> None:
    """The graph of forward_cam stands without Python: no branch on data, no mask."""
    model = small(name)

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> object:
            return self.model.forward_cam(image)

    image = torch.randn(1, 3, 32, 40)
    program = torch.export.export(Exported().eval(), (image,))
    with torch.inference_mode():
        got, expected = program.module()(image), model.forward_cam(image)
    for one, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, expected)), strict=True):
        assert relative_error(one, other) < 1e-5


def test_compile_in_one_graph() -> None:
    model, image = small("cpn"), torch.randn(1, 3, 24, 24)
    compiled = torch.compile(model.forward_cam, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert relative_error(compiled(image), model.forward_cam(image)) < 1e-5


@pytest.mark.parametrize("name", methods.NAMES)
def test_training_step(name: str) -> None:
    """Gradients reach every parameter that is to be trained, in train mode."""
    model = small(name).train()
    out = model(torch.randn(2, 3, 32, 32))
    sum(part.square().mean() for part in (out if isinstance(out, (tuple, list)) else (out,))).backward()
    without = {key for key, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert not without


@pytest.mark.parametrize("name", ["cam", "seam", "irn", "deeplab"])
@torch.inference_mode()
def test_copies(name: str) -> None:
    model = small(name)
    image = torch.randn(1, 3, 24, 24)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for one, two in zip(model(image), other(image), strict=True):
            assert torch.equal(one, two)


def test_description_makes_the_same_network() -> None:
    model = small("deeplab", 5, "vgg16", head="largefov", published="paper")
    told = model.description()
    again = methods.create(told["method"], told["num_classes"], told["backbone"], told["published"], **told["options"])
    again.load_state_dict(model.state_dict())
    assert told["options"] == {**SMALL, "head": "largefov"} and told["normalisation"]["order"] == "bgr"


def test_normalise() -> None:
    pixels = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert relative_error(small("seam").normalise(pixels), (pixels / 255 - mean) / std) < 1e-5
    caffe = pixels.flip(1) - torch.tensor([104.008, 116.669, 122.675]).view(3, 1, 1)
    assert torch.equal(small("deeplab").normalise(pixels), caffe)
    with pytest.raises(ValueError, match=r"normalise: 'pixels' must be uint8 RGB of shape \[N, 3, H, W\], got float32"):
        small("seam").normalise(pixels.float())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("sean", 20), {}, r"create: 'name' must be one of cam, .*, got 'sean'. Hint: did you mean 'seam'\?"),
        (("seam", 20, "resnet83"), {}, r"create: 'backbone' for seam must be one of resnet38, got 'resnet83'. .*'resnet38'"),
        (("cam", 20, "vgg16"), {}, r"'backbone' for cam must be one of .*'vgg16-psa'"),
        (("seam", 0), SMALL, "seam: 'num_classes' must be a whole number, 1 or more .*, got 0"),
        (("seam", True), SMALL, "'num_classes' must be"),
        (("seam", 20, None, "paperr"), SMALL, "seam: 'published' must be None, 'paper' or 'code', got 'paperr'"),
        (("deeplab", 20), {"head": "fov"}, "deeplab: 'head' must be one of aspp, largefov, got 'fov'"),
        (("deeplab", 20), {"scales": (0.5,)}, "deeplab: 'scales' must begin with 1"),
        (("deeplab", 20, "vgg16"), {"output_stride": 16}, "deeplab: 'output_stride' must be one of 8, got 16"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.create(*arguments, **options)


def test_bad_option() -> None:
    with pytest.raises(
        TypeError, match=r"'option' of seam on resnet38 must be one of output_stride, width, got 'widht'. .*'width'"
    ):
        methods.create("seam", 20, widht=0.5)


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_bad_image(name: str, backbone: str) -> None:
    model = small(name, 3, backbone)
    for call in (model, model.forward_cam):
        with pytest.raises(ValueError, match=r"'image' must have shape \[N, 3, H, W\], got \[1, 4, 8, 8\]"):
            call(torch.zeros(1, 4, 8, 8))
        with pytest.raises(TypeError, match="'image' must be of a float type, normalised, got uint8"):
            call(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_deeplab_needs_pixels_for_its_scales() -> None:
    with pytest.raises(
        ValueError, match=r"deeplab: 'image' must have sides of at least 2 pixels for scales .*, got \[1, 3, 1, 9\]"
    ):
        small("deeplab")(torch.zeros(1, 3, 1, 9))
