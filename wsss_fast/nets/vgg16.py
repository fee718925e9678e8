"""VGG16 as the published systems cut it: three strides (output stride 8), dilated conv5, 3x3 pools that overlap.

``VGG16PSA``: with fc6 and fc7 as convolutions, names of the Caffe model (conv1_1 ... fc7); taps conv4 (512), conv5 (512) and
conv6 (the output of fc7, 1024). Its pool5 is declared in the published code and not applied, and has no parameters.
``VGG16``: the convolutions alone, with pool5, as deeplab-pytorch's followers name them (layer1, layer2); DeepLab adds the
head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from wsss_fast.nets import _common

# (convolutions, channels, dilation, stride of the pool behind)
STAGES = ((2, 64, 1, 2), (2, 128, 1, 2), (3, 256, 1, 2), (3, 512, 1, 1), (3, 512, 2, 1))
FULLY_CONNECTED = 1024


class VGG16PSA(nn.Module):
    """``features`` gives taps, ``forward`` the last one, [N, 1024, H/8, W/8] (sides rounded up at each halving)."""

    normalise = _common.CAFFE

    def __init__(self, fc6_dilation: int = 1, width: float = 1.0) -> None:
        super().__init__()
        self.output_stride = 8
        inputs = 3
        for stage, (count, channels, dilation, _) in enumerate(STAGES, 1):
            for index in range(1, count + 1):
                outputs = _common.scaled(channels, width)
                self.add_module(f"conv{stage}_{index}", nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation))
                inputs = outputs
        last = _common.scaled(FULLY_CONNECTED, width)
        self.channels = {"conv4": inputs, "conv5": inputs, "conv6": last}
        self.fc6 = nn.Conv2d(inputs, last, 3, padding=fc6_dilation, dilation=fc6_dilation)
        self.drop6 = nn.Dropout2d(0.5)
        self.fc7 = nn.Conv2d(last, last, 1)
        _common.freeze(self.conv1_1, self.conv1_2, self.conv2_1, self.conv2_2)

    def features(self, image: Tensor, *taps: str) -> tuple[Tensor, ...]:
        """The asked ``taps``, of conv4 and conv5 (before their pools) and conv6."""
        _common.check_image("vgg16-psa", image)
        kept = {}
        x = image
        for stage, (count, _, _, stride) in enumerate(STAGES, 1):
            for index in range(1, count + 1):
                x = getattr(self, f"conv{stage}_{index}")(x).relu_()
            if f"conv{stage}" in taps:
                kept[f"conv{stage}"] = x
            if stage < len(STAGES):
                x = functional.max_pool2d(x, 3, stride, padding=1)
        x = self.drop6(self.fc6(x).relu_())
        kept["conv6"] = self.fc7(x).relu_()
        return tuple(kept[tap] for tap in taps)

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image, "conv6")[0]


class VGG16(nn.Sequential):
    """[N, 512, H/8, W/8]. ``average_pool`` puts DeepLab's 3x3 average behind pool5, as its Caffe model has it."""

    normalise = _common.CAFFE

    def __init__(self, width: float = 1.0, average_pool: bool = False) -> None:
        super().__init__()
        self.output_stride = 8
        stages = []
        inputs = 3
        for count, channels, dilation, stride in STAGES:
            layers: list[nn.Module] = []
            for _ in range(count):
                outputs = _common.scaled(channels, width)
                convolution = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
                layers.append(nn.Sequential(convolution, nn.ReLU(inplace=True)))
                inputs = outputs
            stages.append([*layers, nn.MaxPool2d(3, stride, padding=1)])
        if average_pool:
            stages[-1].append(nn.AvgPool2d(3, 1, padding=1))
        self.layer1 = nn.Sequential(*(layer for stage in stages[:-1] for layer in stage))
        self.layer2 = nn.Sequential(*stages[-1])
        self.outputs = inputs
