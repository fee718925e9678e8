"""What each method adds to its backbone, against the formula written out."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from networks import lively
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods, nets, ops
from wsss_fast.methods._method import seed

IMAGE = (2, 3, 33, 42)


def small(name: str, backbone: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    if backbone != "efficientnet-lite0":
        options = {"width": 1 / 16, **options}
    return lively(methods.create(name, 3, backbone, **options))


def column_normalised(feature: Tensor) -> Tensor:
    """[N, D, h, w] -> [N, hw, hw]"""
    x = feature.flatten(2)
    x = x / (x.norm(dim=1, keepdim=True) + 1e-5)
    likeness = (x.transpose(1, 2) @ x).relu()
    return likeness / (likeness.sum(dim=1, keepdim=True) + 1e-5)


def joined(model: nn.Module, image: Tensor, relu: bool) -> Tensor:
    conv4, conv5 = model.features(image, "conv4", "conv5")
    parts = model.f8_3(conv4), model.f8_4(conv5)
    parts = [part.relu() for part in parts] if relu else parts
    small = functional.interpolate(image, conv4.shape[2:], mode="bilinear", align_corners=True)
    return torch.cat([small, *parts], dim=1)


def test_seed_by_hand() -> None:
    """Two objects and the background on three pixels. Pixel 0: object 1; pixel 1: object 2; pixel 2: nothing."""
    cam = torch.tensor([[[9.0, 9, 9]], [[4.0, 1, -1]], [[1.0, 2, -3]]]).view(1, 3, 1, 3)
    got = seed(cam)[0, :, 0]
    one, two = (4 - 1e-5) / (4 + 1e-5), (2 - 1e-5) / (2 + 1e-5)
    expected = torch.tensor([[1 - one, 1 - two, 1.0], [one, 0, 0], [0, two, 0]])
    assert relative_error(got, expected) < 1e-6
    assert not seed(cam.requires_grad_()).requires_grad


@torch.inference_mode()
def test_seam() -> None:
    model = small("seam")
    image = torch.randn(IMAGE)
    raw, refined = model.maps(image)
    assert relative_error(raw, model.fc8(model.features(image, "conv6")[0])) < 1e-6
    likeness = column_normalised(model.f9(joined(model, image, relu=True)))
    assert relative_error(refined, (seed(raw).flatten(2) @ likeness).view_as(raw)) < 1e-5
    for got, maps in zip(model(image), (raw, refined), strict=True):
        assert relative_error(got, functional.interpolate(maps, IMAGE[2:], mode="bilinear", align_corners=True)) < 1e-6
    assert torch.equal(model.forward_cam(image), refined)


@pytest.mark.parametrize("published", [None, "paper", "code"])
@torch.inference_mode()
def test_cpn(published: str | None) -> None:
    model = small("cpn", published=published)
    image = torch.randn(IMAGE)
    raw, refined = model.maps(image)
    y, x = seed(raw), joined(model, image, relu=True)
    n, c, h, w = y.shape
    query = model.f9(x).relu().flatten(2)
    centres = y.flatten(2).softmax(dim=2) @ x.flatten(2).transpose(1, 2)
    keys = functional.conv2d(centres.transpose(1, 2)[..., None], model.f10.weight).relu()[..., 0]
    keys = keys.reshape(n, c, -1) if published == "code" else keys.transpose(1, 2)
    gate = (keys @ query) * (1 if published == "paper" else c**-0.5)
    gate = gate.softmax(dim=1 if published == "paper" else 2).view(n, c, h, w)
    expected = (y.flatten(2) @ column_normalised(model.f9(x))).view_as(y) + y * gate
    assert relative_error(refined, expected) < 1e-5


def test_cpn_switches_differ() -> None:
    torch.manual_seed(0)
    image = torch.randn(IMAGE)
    with torch.inference_mode():
        outs = [small("cpn", published=published).forward_cam(image) for published in (None, "paper", "code")]
    assert all(relative_error(outs[i], outs[j]) > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))


@torch.inference_mode()
def test_l2g_is_the_published_product() -> None:
    """fc8(conv6) + fc8(conv6 A), with A over all features."""
    model = small("l2g")
    image = torch.randn(IMAGE)
    conv6 = model.features(image, "conv6")[0]
    likeness = column_normalised(model.f9(joined(model, image, relu=False)))
    attended = (conv6.flatten(2) @ likeness).view_as(conv6)
    maps, scores = model(image)
    expected = model.fc8(conv6) + model.fc8(attended)
    assert relative_error(maps, expected) < 1e-5
    assert relative_error(scores, expected[:, :-1].mean(dim=(2, 3))) < 1e-5


@pytest.mark.parametrize("name", ["seam", "cpn"])
def test_refined_maps_train_their_own_layers_alone(name: str) -> None:
    model = small(name)
    model(torch.randn(IMAGE))[1].square().sum().backward()
    reached = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert reached == {"f8_3.weight", "f8_4.weight", "f9.weight"} | ({"f10.weight"} if name == "cpn" else set())


@torch.inference_mode()
def test_eps() -> None:
    model = small("eps")
    image = torch.randn(IMAGE)
    scores, logits = model(image)
    assert relative_error(scores, logits.mean(dim=(2, 3))) < 1e-6
    assert relative_error(model.objects(logits), logits.softmax(1)[:, :3]) < 1e-6


@torch.inference_mode()
def test_cam() -> None:
    image = torch.randn(IMAGE)
    for backbone in ("resnet38", "vgg16-psa"):
        model = small("cam", backbone)
        conv6 = model.features(image, "conv6")[0]
        assert relative_error(model(image), conv6.mean(dim=(2, 3)) @ model.fc8.weight[..., 0, 0].T) < 1e-5
        assert relative_error(model.forward_cam(image), functional.conv2d(conv6, model.fc8.weight).relu()) < 1e-6
    published = small("cam", "vgg16-psa", published="code")
    assert relative_error(published.forward_cam(image), model.forward_cam(image).sqrt()) < 1e-6


@pytest.mark.parametrize("backbone", ["resnet38", "vgg16-psa"])
@torch.inference_mode()
def test_affinitynet(backbone: str) -> None:
    image = torch.randn(IMAGE)
    mean, total = (small("affinitynet", backbone, published=published)(image) for published in (None, "paper"))
    assert relative_error(total, mean**448) < 1e-4  # exp(-sum) = exp(-mean)^448
    wide = small("affinitynet", backbone, radius=10)(image)
    assert wide.shape[1] == 152
    for (dy, dx), plane in zip(ops.affinity_offsets(5).tolist(), mean.unbind(1), strict=True):
        index = ops.affinity_offsets(10).tolist().index([dy, dx])
        assert relative_error(wide[:, index], plane) < 1e-6


def test_irn_edges_of_the_mirror_image() -> None:
    model = small("irn")
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        edge, displacement = model(image)
        mirrored = model(image.flip(3))[0].flip(3)
        got, same = model.forward_mirrored(image)
    assert relative_error(got, ((edge + mirrored) / 2).sigmoid()) < 1e-6 and torch.equal(same, displacement)


def test_irn_mean_displacement() -> None:
    model = small("irn").train()
    image = torch.randn(1, 3, 32, 48)
    mean = model(image)[1].detach().mean(dim=(0, 2, 3))
    shift = model.fc_dp7[4]
    assert relative_error(shift.running_mean, 0.1 * mean) < 1e-5
    with torch.no_grad():
        raw = model(image)[1]
        shifted = model.eval()(image)[1]
    assert relative_error(shifted, raw - shift.running_mean.view(1, 2, 1, 1)) < 1e-5


def test_irn_backbone_stays() -> None:
    model = small("irn").train()
    edge, displacement = model(torch.randn(1, 3, 32, 48))
    (edge.sum() + displacement.sum()).backward()
    assert not any(value.requires_grad for key, value in model.named_parameters() if key.startswith("resnet50"))
    assert not model.resnet50.layer1[0].bn1.training


@pytest.mark.parametrize(("name", "listed"), [("irn", "edge_layers.0.0"), ("cam", "newly_added.0")])
def test_checkpoints_that_hold_layers_twice(name: str, listed: str) -> None:
    """The published modules register their layers in lists too."""
    model = small(name, "resnet50")
    state = dict(model.state_dict())
    state |= {"stage1.0.weight": state["resnet50.conv1.weight"], "backbone.0.0.weight": state["resnet50.conv1.weight"]}
    state[f"{listed}.weight"] = torch.zeros(1)
    model.load_state_dict(state, strict=True)
    nets.load_checkpoint(model, state)
    with pytest.raises(RuntimeError, match=r"other\.weight"):
        model.load_state_dict({**state, "other.weight": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize("backbone", methods.backbones("deeplab"))
@pytest.mark.parametrize("head", ["aspp", "largefov"])
@torch.inference_mode()
def test_deeplab_scales(backbone: str, head: str) -> None:
    model = small("deeplab", backbone, head=head)
    image = torch.randn(IMAGE)
    full = model.forward_cam(image)
    expected = full
    for scale in (0.75, 0.5):
        logits = model.forward_cam(functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False))
        expected = expected.maximum(functional.interpolate(logits, full.shape[2:], mode="bilinear", align_corners=False))
    assert relative_error(model(image), expected) < 1e-6
    assert torch.equal(small("deeplab", backbone, head=head, scales=(1.0,))(image), full)


def test_deeplab_in_training() -> None:
    model = small("deeplab").train()
    with torch.no_grad():
        *every, largest = model(torch.randn(1, 3, 64, 64))
    assert [tuple(logits.shape[2:]) for logits in every] == [(9, 9), (7, 7), (5, 5)]
    assert largest.shape == every[0].shape and (largest >= every[0]).all()


@pytest.mark.parametrize("head", ["aspp", "largefov"])
def test_deeplab_heads_by_hand(head: str) -> None:
    """VGG16's: every branch is 3x3, 1x1, 1x1 with ReLU between."""
    model = small("deeplab", "vgg16", head=head)
    image = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        x = model.base.layer2(model.base.layer1(image))
        total = 0
        for index, rate in enumerate((6, 12, 18, 24) if head == "aspp" else (12,)):
            branch = model.base.aspp.get_submodule(f"c{index}") if head == "aspp" else model.base.aspp
            fc = [layer for layer in branch if isinstance(layer, nn.Conv2d)]
            y = functional.conv2d(x, fc[0].weight, fc[0].bias, padding=rate, dilation=rate).relu()
            total = total + fc[2](fc[1](y).relu())
        assert relative_error(model.forward_cam(image), total) < 1e-5


@torch.inference_mode()
def test_deeplab_on_efficientnet_looks_as_far_at_any_stride() -> None:
    """The dilations are counted in pixels: at output stride 8 twice as many cells as at 16."""
    for stride, rates in ((8, (6, 12, 18, 24)), (16, (3, 6, 9, 12)), (32, (1, 3, 4, 6))):
        model = small("deeplab", "efficientnet-lite0", output_stride=stride)
        image = torch.randn(1, 3, 64, 96)
        features, total = model.backbone.features(image), 0
        for branch, rate in zip(model.aspp.children(), rates, strict=True):
            total = total + functional.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
        assert relative_error(model.forward_cam(image), total) < 1e-5
    assert not any("_fc" in name for name in model.state_dict())


def test_deeplab_published_names() -> None:
    names = {
        ("resnet101-caffe", "largefov"): {"base.layer1.conv1.conv.weight", "base.fov.conv6.weight", "base.fov.conv8.bias"},
        ("vgg16", "largefov"): {"base.layer1.0.0.weight", "base.layer2.0.0.bias", "base.aspp.conv7.weight"},
        ("vgg16", "aspp"): {"base.layer1.0.0.weight", "base.aspp.c3.6.bias"},
        ("resnet38", "largefov"): {"backbone.conv1a.weight", "conv_fov.weight", "bn_fov2.running_var", "cls_conv.bias"},
    }
    for (backbone, head), expected in names.items():
        assert expected <= set(small("deeplab", backbone, head=head).state_dict())


def test_deeplab_published_switches() -> None:
    code = small("deeplab", "resnet38", published="code").train()
    assert code.backbone.bn7.training and code.backbone.conv1a.weight.requires_grad
    sound = small("deeplab", "resnet38").train()
    assert not sound.backbone.bn7.training and sound.bn_fov.training
    image = torch.randn(IMAGE)
    with torch.inference_mode():
        paper, default = (small("deeplab", "vgg16", published=published).base for published in ("paper", None))
        paper, default = (base.layer2(base.layer1(image)) for base in (paper, default))
    assert relative_error(paper, functional.avg_pool2d(default, 3, 1, 1)) < 1e-6
