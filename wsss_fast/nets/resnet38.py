"""ResNet38, "wider or deeper" model A1: pre-activation residual blocks, 105 million parameters.

With a = ReLU(BN(x)) every block computes ``shortcut + branch(a)``. The shortcut is x itself where shape and stride allow,
else a 1x1 convolution of a. No convolution has a bias. Parameter names equal those of the published PyTorch checkpoints.

**Taps** are the a of a block, so they need no layer of their own: ``conv3`` (of b4), ``conv4`` (of b5), ``conv5`` (of b6), and
``conv6`` = ReLU(bn7(.)) behind the last block.

**Output stride.** ImageNet training had strides in b2 to b6, 32 in all. The published systems take those of b5 and b6 out
and dilate what comes behind instead: a block that lost its stride filters at the old spacing first and at twice that after.
``output_stride`` 16 and 32 keep one or both.

**Frozen.** Batch normalisation always runs on its stored statistics and is not trained; neither are conv1a and b2*.
``train()`` keeps it so. ``frozen=False`` makes it an ordinary network.

**Memory.** Tensors are rebound as soon as they are used up, ReLU and sums run in place on tensors that no gradient needs, and
the branch goes before the shortcut, so that the wide output of a block does not stand by while the branch works.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from wsss_fast.nets import _common
from wsss_fast.nets.fold import Foldable

STRIDES = (8, 16, 32)
CHANNELS = {"conv3": 256, "conv4": 512, "conv5": 1024, "conv6": 4096}
TAPS = {"b4": "conv3", "b5": "conv4", "b6": "conv5"}  # block → the name of its pre-activation

# name, blocks, inputs, middle, outputs, stride in ImageNet training
BASIC = (
    ("b2", 3, 64, 128, 128, 2),
    ("b3", 3, 128, 256, 256, 2),
    ("b4", 6, 256, 512, 512, 2),
    ("b5", 3, 512, 512, 1024, 2),
)
# name, inputs, outputs, stride in ImageNet training, dropout
BOTTLENECKS = (("b6", 1024, 2048, 2, 0.3), ("b7", 2048, 4096, 1, 0.5))


class Basic(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv3x3(inputs, middle, stride, first_dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv3x3(middle, outputs, 1, dilation)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        return self.conv_branch2b1(self.bn_branch2b1(self.conv_branch2a(a)).relu_())

    def foldable(self) -> Iterator[Foldable]:
        yield [self.conv_branch2a], self, "bn_branch2b1"


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with channel dropout between them."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, stride, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _conv3x3(outputs // 4, outputs // 2, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.projects = True
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        x = self.dropout_2b1(self.bn_branch2b1(self.conv_branch2a(a)).relu_())
        x = self.dropout_2b2(self.bn_branch2b2(self.conv_branch2b1(x)).relu_())
        return self.conv_branch2b2(x)

    def foldable(self) -> Iterator[Foldable]:
        yield [self.conv_branch2a], self, "bn_branch2b1"
        yield [self.conv_branch2b1], self, "bn_branch2b2"


class ResNet38(_common.KeepsStatistics):
    """``features`` gives taps, ``forward`` the last one, [N, 4096, H/8, W/8] (sides rounded up at each halving)."""

    normalise = _common.IMAGENET

    def __init__(self, output_stride: int = 8, width: float = 1.0, frozen: bool = True) -> None:
        super().__init__()
        _common.check_choice("resnet38", "output_stride", output_stride, STRIDES)
        self.output_stride = output_stride
        self.frozen = frozen
        self.channels = {tap: _common.scaled(channels, width) for tap, channels in CHANNELS.items()}
        self.conv1a = _conv3x3(3, _common.scaled(64, width), 1, 1)
        reached, dilation = 1, 1
        for name, repeats, *sizes, trained_stride in BASIC:
            inputs, middle, outputs = (_common.scaled(c, width) for c in sizes)
            stride, after = _common.stride_or_dilation(trained_stride, reached, dilation, output_stride)
            self.add_module(name, Basic(inputs, middle, outputs, stride, dilation, after))
            reached, dilation = reached * stride, after
            for index in range(1, repeats):
                self.add_module(f"{name}_{index}", Basic(outputs, middle, outputs, 1, dilation, dilation))
        for name, inputs, outputs, trained_stride, dropout in BOTTLENECKS:
            stride, dilation = _common.stride_or_dilation(trained_stride, reached, dilation, output_stride)
            sizes = _common.scaled(inputs, width), _common.scaled(outputs, width)
            self.add_module(name, Bottleneck(*sizes, stride, dilation, dropout))
            reached *= stride
        self.bn7 = nn.BatchNorm2d(self.channels["conv6"])
        if frozen:
            _common.freeze(self.conv1a, self.b2, self.b2_1, self.b2_2, *_common.batch_norms(self))
            _common.keep_statistics(self)

    def features(self, image: Tensor, *taps: str) -> tuple[Tensor, ...]:
        """The asked ``taps``, of conv3, conv4, conv5 and conv6."""
        _common.check_image("resnet38", image)
        kept: dict[str, Tensor] = {}
        x = self.conv1a(image)
        for name, block in self.named_children():
            if not isinstance(block, (Basic, Bottleneck)):
                continue
            a = block.bn_branch2a(x).relu_()
            if TAPS.get(name) in taps:
                kept[TAPS[name]] = a
            if block.projects:
                del x
                x = block.branch(a)
                x += block.conv_branch1(a)
            else:
                branch = block.branch(a)
                branch += x
                x = branch
                del branch
            del a
        kept["conv6"] = self.bn7(x).relu_()
        return tuple(kept[tap] for tap in taps)

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image, "conv6")[0]

    def foldable(self) -> Iterator[Foldable]:
        """The pre-activations of what nothing else reads: b2 projects, as do b6 and b7, which are sums of two convolutions."""
        yield [self.conv1a], self.b2, "bn_branch2a"
        yield [self.b6.conv_branch2b2, self.b6.conv_branch1], self.b7, "bn_branch2a"
        yield [self.b7.conv_branch2b2, self.b7.conv_branch1], self, "bn7"


def _conv3x3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
