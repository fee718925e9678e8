"""ResNet-50 and ResNet-101, in the two forms that published checkpoints come in.

``ResNet``: torchvision's parameter names and strides (in the 3x3 convolution of a block). ``CaffeResNet``: the original MSRA
model as DeepLab uses it: strides in the first 1x1 convolution, a max-pool whose last window may hang over the border, names
of deeplab-pytorch. Weights of one form are of no use in the other.

**Output stride.** Of 32, the strides of the last stages are taken out and, with ``dilate``, what comes behind filters at
twice the spacing; ``dilate=False`` (as IRN trains it) leaves the filters as they are. In the Caffe form a stage dilates all
of its blocks; in torchvision's its first block still filters at the old spacing.

**Frozen.** Batch normalisation always runs on its stored statistics; ``train()`` keeps it so.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from wsss_fast.nets import _common
from wsss_fast.nets.fold import Foldable

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
MIDDLE = (64, 128, 256, 512)
EXPANSION = 4
STRIDES = (8, 16, 32)
TAPS = ("stem", "layer1", "layer2", "layer3", "layer4")


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilation: int, projects: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if projects:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return y.relu_()

    def foldable(self) -> Iterator[Foldable]:
        for index in (1, 2, 3):
            yield [getattr(self, f"conv{index}")], self, f"bn{index}"
        if self.downsample is not None:
            yield [self.downsample[0]], self.downsample, "1"


class ResNet(_common.KeepsStatistics):
    """``features`` gives taps (stem, layer1 to layer4), ``forward`` the last one, [N, 2048, h, w]."""

    normalise = _common.IMAGENET

    def __init__(self, depth: int = 50, output_stride: int = 32, dilate: bool = True, width: float = 1.0) -> None:
        super().__init__()
        _common.check_choice("resnet", "depth", depth, BLOCKS)
        _common.check_choice(f"resnet{depth}", "output_stride", output_stride, STRIDES)
        self.depth = depth
        self.output_stride = output_stride
        sizes = [_common.scaled(middle, width) for middle in MIDDLE]
        self.channels = dict(zip(TAPS, (sizes[0], *(EXPANSION * size for size in sizes)), strict=True))
        self.conv1 = nn.Conv2d(3, sizes[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs, reached, dilation = sizes[0], 4, 1
        for number, (middle, repeats) in enumerate(zip(sizes, BLOCKS[depth], strict=True), 1):
            trained_stride = 1 if number == 1 else 2
            stride, after = _common.stride_or_dilation(trained_stride, reached, dilation, output_stride)
            after = after if dilate else 1
            outputs = EXPANSION * middle
            blocks = [Bottleneck(inputs, middle, outputs, stride, dilation, projects=True)]
            blocks += [Bottleneck(outputs, middle, outputs, 1, after, projects=False) for _ in range(1, repeats)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs, reached, dilation = outputs, reached * stride, after
        _common.keep_statistics(self)

    def features(self, image: Tensor, *taps: str) -> tuple[Tensor, ...]:
        """The asked ``taps``, of stem, layer1, layer2, layer3 and layer4."""
        _common.check_image(f"resnet{self.depth}", image)
        x = self.maxpool(self.bn1(self.conv1(image)).relu_())
        kept = {"stem": x}
        for name in TAPS[1:]:
            x = getattr(self, name)(x)
            kept = {tap: value for tap, value in kept.items() if tap in taps} | {name: x}
        return tuple(kept[tap] for tap in taps)

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image, "layer4")[0]

    def foldable(self) -> Iterator[Foldable]:
        yield [self.conv1], self, "bn1"


class ConvNorm(nn.Module):
    """A convolution and its normalisation, with ReLU where asked."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2) if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x.relu_() if self.relu else x

    def foldable(self) -> Iterator[Foldable]:
        yield [self.conv], self, "bn"


class CaffeBottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, projects: bool) -> None:
        super().__init__()
        middle = outputs // EXPANSION
        self.reduce = ConvNorm(inputs, middle, 1, stride)
        self.conv3x3 = ConvNorm(middle, middle, 3, 1, dilation)
        self.increase = ConvNorm(middle, outputs, 1, relu=False)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride, relu=False) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.increase(self.conv3x3(self.reduce(x)))
        y += self.shortcut(x)
        return y.relu_()


class CaffeResNet(_common.KeepsStatistics, nn.Sequential):
    """[N, 2048, h, w]; layer1 is the stem, layer2 to layer5 the four stages."""

    normalise = _common.CAFFE

    def __init__(self, depth: int = 101, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__()
        _common.check_choice("resnet-caffe", "depth", depth, BLOCKS)
        _common.check_choice("resnet-caffe", "output_stride", output_stride, STRIDES)
        self.output_stride = output_stride
        sizes = [EXPANSION * _common.scaled(middle, width) for middle in MIDDLE]
        inputs = sizes[0] // EXPANSION
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvNorm(3, inputs, 7, 2))
        self.layer1.add_module("pool", nn.MaxPool2d(3, 2, padding=1, ceil_mode=True))
        reached, dilation = 4, 1
        for number, (outputs, repeats) in enumerate(zip(sizes, BLOCKS[depth], strict=True), 2):
            stride, dilation = _common.stride_or_dilation(1 if number == 2 else 2, reached, dilation, output_stride)
            stage = nn.Sequential()
            for index in range(1, repeats + 1):
                first = index == 1
                block = CaffeBottleneck(inputs, outputs, stride if first else 1, dilation, projects=first)
                stage.add_module(f"block{index}", block)
                inputs = outputs
            self.add_module(f"layer{number}", stage)
            reached *= stride
        self.outputs = inputs
        _common.freeze(*_common.batch_norms(self))
        _common.keep_statistics(self)
