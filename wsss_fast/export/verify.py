"""Does an exported network label as the network does? Both run on the same images at several sizes, and are compared.

report = verify(engine, model, images)
report.passed, report.to_json(), report.to_markdown()

The reference is the network in PyTorch, float32, as `methods.create` made it: nothing folded, nothing packed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import ops
from wsss_fast.counts import Confusion
from wsss_fast.export.engine import BaseEngine, Engine, EngineMeta, as_tuple
from wsss_fast.files.names import printable
from wsss_fast.methods._infer import resized, resized_to

# the share of pixels that must get the same label, on images
LABELS = {"fp32": 0.999, "fp16": 0.995, "bf16": 0.95, "int8": 0.95}
# the largest difference, in parts of the largest value, on generated pictures: their labels mean nothing
DIFFERENCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}
FAR = 10  # times that may be the difference on images, where labels decide: a class may be wrong that no label is made of
SCALES = (1.0, 0.77, 0.5)  # of each image: three shapes, none of which was traced
LONGEST = 448
COMPETING = (
    5  # classes of an image, as many as labelling takes at most; of a thousand, each of its own maximum, any two would tie
)
BACKGROUND = 0.3  # the score of the background where the method has none of its own
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


class Eager(BaseEngine):
    """The network as it is. `exact`: on CUDA without TF32, which torch allows for convolutions and which is no float32."""

    def __init__(self, model: nn.Module, device: torch.device, exact: bool = True) -> None:
        super().__init__(EngineMeta.of(model), "eager", device)
        self._model = model.eval().to(device)
        self._tf32 = not exact

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        cudnn = torch.backends.cudnn
        with torch.inference_mode(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=self._tf32 and cudnn.allow_tf32):
            outputs = self._model.forward_cam(image)
        return as_tuple(outputs)


@dataclass(frozen=True)
class Comparison:
    """Of one image at one size."""

    image: str
    height: int
    width: int
    largest: float  # difference, in parts of the largest value of the reference
    mean: float  # difference, in the same parts
    cosine: float
    agreement: float  # share of pixels with the same label
    pixels: int


@dataclass(frozen=True)
class Report:
    method: str
    engine: dict[str, Any]
    reference: dict[str, Any]
    judged_by: str  # "labels" or "differences"
    bound: float  # the least share of equal labels, or the largest difference
    comparisons: tuple[Comparison, ...]
    miou: dict[str, float] | None = None  # against masks: of the reference, of the engine, their difference
    diverges: dict[str, Any] | None = None  # the first node, where the bound is not kept and the engine shows its nodes
    float16: dict[str, Any] | None = None  # how large values become, and what therefore stays float32

    @property
    def agreement(self) -> float:
        return sum(entry.agreement * entry.pixels for entry in self.comparisons) / sum(entry.pixels for entry in self.comparisons)

    @property
    def passed(self) -> bool:
        largest = self.worst("largest").largest
        if self.judged_by == "differences":
            return largest <= self.bound  # NaN is not
        return self.agreement >= self.bound and largest <= FAR * DIFFERENCES[self.engine["precision"]]

    def verdict(self) -> str:
        if self.judged_by == "labels":
            most = FAR * DIFFERENCES[self.engine["precision"]]
            largest = (
                f"the largest difference is {self.worst('largest').largest:.1e} of the largest value, at most {most:.0e} may be"
            )
            return f"{self.agreement:.4%} of pixels get the same label, at least {self.bound:.2%} must; {largest}"
        return (
            f"the largest difference is {self.worst('largest').largest:.1e} of the largest value, at most {self.bound:.0e} may be"
        )

    def to_json(self) -> str:
        figures = {"passed": self.passed, "agreement": self.agreement, "worst": self.worst("largest").largest}
        return json.dumps({**figures, **dataclasses.asdict(self)}, indent=1) + "\n"

    def worst(self, figure: str) -> Comparison:
        sign = -1 if figure in ("agreement", "cosine") else 1
        # a NaN is worse than any number
        return max(self.comparisons, key=lambda entry: (isnan(value := getattr(entry, figure)), sign * value))

    def to_markdown(self) -> str:
        engine = ", ".join(f"{name} {value}" for name, value in self.engine.items())
        lines = [
            f"# {self.method}: exported against eager",
            "",
            f"**{'Passed' if self.passed else 'FAILED'}**: {self.verdict()}.",
            "",
            f"Engine: {engine}. Reference: {self.reference['engine']}, {self.reference['precision']}.",
            "",
            "| image | size | largest difference | mean difference | cosine | same label |",
            "|---|---|---|---|---|---|",
            *(
                f"| {printable(entry.image)} | {entry.height} x {entry.width} | {entry.largest:.2e} | {entry.mean:.2e} "
                f"| {entry.cosine:.7f} | {entry.agreement:.3%} |"
                for entry in self.comparisons
            ),
            "",
            "Differences are in parts of the largest value of the reference.",
        ]
        if self.miou is not None:
            told = ", ".join(f"{name} {value:.4f}" for name, value in self.miou.items())
            lines += ["", f"mIoU against the masks: {told}."]
        if self.diverges is not None:
            lines += [
                "",
                "First node that diverges: " + ", ".join(f"{name} {value}" for name, value in self.diverges.items()) + ".",
            ]
        if self.float16 is not None:
            lines += ["", *_float16_lines(self.float16)]
        return "\n".join(lines) + "\n"


def _float16_lines(told: dict[str, Any]) -> list[str]:
    kept = ", ".join(told["kept_in_float32"]) or "none"
    return [
        f"Values larger than {told['allowed']:,.0f} on these images, half of what float16 holds, computed in float32: {kept}.",
        "",
        "| largest values | layer | magnitude |",
        "|---|---|---|",
        *(f"| {entry['value']} | {entry['layer']} | {entry['largest']:,.6g} |" for entry in told["largest"]),
    ]


Picture = tuple[str, Tensor, Tensor | None]  # name, uint8 [1, 3, H, W], labels [H, W] or None


def verify(
    engine: Engine,
    reference: Engine | nn.Module,
    images: Sequence[Picture] | None = None,
    bound: float | None = None,
    onnx_file: Path | None = None,
) -> Report:
    """Compares an engine with the network (or another engine) on images.

    Args:
        images: of `pictures`, each compared at three sizes; default three generated ones, judged by differences.
        bound: the share of pixels that must get the same label; default 99.9 % in fp32, 99.5 % in fp16, 95 % in bf16 and int8.
        onnx_file: what the engine runs; where the bound is not kept, its first diverging node is looked for.
    """
    network = reference if isinstance(reference, nn.Module) else None
    eager = Eager(reference, engine.device) if isinstance(reference, nn.Module) else reference
    if (eager.meta.method, eager.meta.num_classes) != (engine.meta.method, engine.meta.num_classes):
        ours, theirs = (f"{entry.meta.method} of {entry.meta.num_classes} classes" for entry in (engine, eager))
        raise ValueError(f"verify: both must be the same network, got {ours} and {theirs}")
    if engine.meta.outputs not in (("maps",), ("logits",)) and any(mask is not None for _, _, mask in images or ()):
        raise ValueError(f"verify: masks are for networks that label pixels, '{engine.meta.method}' gives none")
    comparisons: list[Comparison] = []
    counts = Confusion(engine.meta.num_classes + 1), Confusion(engine.meta.num_classes + 1)
    worst: tuple[float, Tensor | None] = (2.0, None)
    with torch.inference_mode():
        for name, pixels, mask in images or generated():
            for scale in SCALES if images else (1.0,):
                small = _taken(resized(pixels, scale), engine).to(engine.device)
                entry, outputs = _compare(name, small, eager, engine)
                comparisons.append(entry)
                if entry.agreement < worst[0]:
                    worst = entry.agreement, small
                if mask is not None and scale == 1:
                    present = _present(mask, engine.meta.num_classes).to(engine.device)
                    for count, output in zip(counts, outputs, strict=True):
                        labels = scores(output, engine.meta, tuple(mask.shape), present).argmax(dim=1)
                        count.add(labels[0].cpu().numpy(), mask.numpy(), name)
    miou = None
    if counts[0].counts.any():
        values = [count.miou() for count in counts]
        miou = {"reference": values[0], "engine": values[1], "difference": values[1] - values[0]}
    judged_by = "labels" if images or bound is not None else "differences"
    bound = (LABELS if judged_by == "labels" else DIFFERENCES)[engine.meta.precision] if bound is None else bound
    report = Report(engine.meta.method, engine.identity, eager.identity, judged_by, bound, tuple(comparisons), miou)
    if report.passed or onnx_file is None or network is None:
        return report
    from wsss_fast.export.diverge import first_diverging

    image = engine.normalise(worst[1]).cpu()
    return dataclasses.replace(report, diverges=first_diverging(onnx_file, network, image, engine.meta))


def _compare(name: str, pixels: Tensor, eager: Engine, engine: Engine) -> tuple[Comparison, list[Tensor]]:
    image = eager.normalise(pixels)
    # the reference may be on the CPU where the engine is on a GPU
    wanted, got = ([out.to(pixels.device) for out in as_tuple(one.forward_cam(image.to(one.device)))] for one in (eager, engine))
    return compare(name, tuple(pixels.shape[2:]), wanted, got, engine.meta), [wanted[0], got[0]]


def compare(
    name: str, size: tuple[int, int], wanted: tuple[Tensor, ...], got: tuple[Tensor, ...], meta: EngineMeta
) -> Comparison:
    """What the network and an engine give of one image of `size`."""
    if [one.shape for one in wanted] != [one.shape for one in got]:
        shapes = [[list(one.shape) for one in side] for side in (got, wanted)]
        raise ValueError(f"verify: the engine gives shapes {shapes[0]}, the network {shapes[1]}")
    present = _strongest(wanted[0], meta)
    labels = [scores(one[0], meta, size, present).argmax(dim=1) for one in (wanted, got)]
    same = labels[0] == labels[1]
    flat = [torch.cat([one.double().flatten() for one in side]) for side in (wanted, got)]
    difference, top = (flat[1] - flat[0]).abs(), float(flat[0].abs().max().clamp_min(1e-30))
    return Comparison(
        image=name,
        height=size[0],
        width=size[1],
        largest=float(difference.max()) / top,  # NaN where either is
        mean=float(difference.mean()) / top,
        cosine=float(functional.cosine_similarity(flat[0], flat[1], dim=0)),
        agreement=float(same.double().mean()),
        pixels=same.numel(),
    )


def _strongest(output: Tensor, meta: EngineMeta) -> Tensor | None:
    """The classes that compete for an image: those of the largest means in the network's own maps."""
    if meta.merge is None or meta.num_classes <= COMPETING:
        return None
    strength = meta.objects(output).mean(dim=(2, 3))
    chosen = strength.topk(COMPETING, dim=1).indices
    return torch.zeros_like(strength, dtype=torch.bool).scatter_(1, chosen, True)


def _present(mask: Tensor, classes: int) -> Tensor:
    """Which classes a mask holds: bool [1, C]."""
    values = mask.unique().long()
    present = torch.zeros(1, classes, dtype=torch.bool)
    present[0, values[(values > 0) & (values <= classes)] - 1] = True
    return present


def scores(output: Tensor, meta: EngineMeta, size: tuple[int, int], present: Tensor | None = None) -> Tensor:
    """[N, L, ...]: the largest of L decides the label, as the method makes labels. Class maps stand at image size against the
    background's score, planes and edges against one half.
    """
    if meta.merge is not None:
        maps = ops.cam_merge([meta.objects(output)], [False], size, present, **ops.CAM_MERGE[meta.merge])
        background = maps.new_full((maps.shape[0], 1, *size), BACKGROUND if meta.threshold is None else meta.threshold)
        return torch.cat([background, maps], dim=1)
    if meta.outputs == ("logits",):
        return functional.interpolate(output, size, mode="bilinear", align_corners=False)
    return torch.stack([torch.full_like(output, 0.5), output], dim=1)


def _taken(pixels: Tensor, engine: Engine) -> Tensor:
    """The picture at the nearest size that the engine takes; all but TensorRT's take any."""
    profile = getattr(engine, "profile", None)
    return pixels if profile is None else resized_to(pixels, profile.nearest(*pixels.shape[2:]))


def generated(count: int = 3) -> list[Picture]:
    """Coloured clouds of several sizes: enough to see whether an engine computes what it should."""
    generator = torch.Generator().manual_seed(0)
    clouds = []
    for number, size in zip(range(count), ((192, 224), (225, 161), (129, 290)), strict=False):
        coarse = torch.rand(1, 3, 9, 9, generator=generator)
        fine = torch.rand(1, 3, *size, generator=generator)
        smooth = functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
        clouds.append((f"generated {number + 1}", ((0.8 * smooth + 0.2 * fine) * 255).clamp(0, 255).to(torch.uint8), None))
    return clouds


def image_files(folder: str | Path) -> list[Path]:
    folder = Path(folder)
    return [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def pictures(folder: str | Path, masks: str | Path | None = None, limit: int = 20) -> list[Picture]:
    """The first `limit` images of a folder, or one image; the longer side at most 448. Masks are PNG files of the same stems: 0
    background, a class's number + 1, 255 ignored."""
    from wsss_fast.files.images import ImageError, read_image

    paths = image_files(folder)
    if not paths:
        raise ValueError(f"verify: '{folder}' must be an image or a folder of images")
    found: list[Picture] = []
    for path in paths[:limit]:
        try:
            pixels = torch.from_numpy(read_image(path, 1 << 28, 1 << 30).pixels).permute(2, 0, 1)[None]
        except ImageError as error:
            raise ValueError(f"verify: '{printable(str(path))}' cannot be read: {error}") from None
        pixels = resized(pixels, min(1.0, LONGEST / max(pixels.shape[2:])))
        mask = None if masks is None else _mask(Path(masks) / f"{path.stem}.png", tuple(pixels.shape[2:]))
        found.append((path.name, pixels, mask))
    return found


def _mask(path: Path, size: tuple[int, int]) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"verify: '{printable(str(path))}' must be a mask with one number a pixel, got {image.mode}")
            return torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.NEAREST)))
    except OSError as error:
        raise ValueError(f"verify: the mask '{printable(str(path))}' cannot be read ({error})") from None
