"""What an engine is built of, and everything that makes one engine differ from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_fast.export.ort import file_sha256

Shape = tuple[int, int, int]  # batch, height, width
DEFAULT_SHAPES: tuple[Shape, Shape, Shape] = ((1, 64, 64), (1, 448, 448), (4, 1024, 1024))


@dataclass(frozen=True)
class Profile:
    """The sizes of images that an engine takes, and those that it is made to be fast for."""

    least: Shape
    best: Shape
    most: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.least, self.best, self.most, strict=True):
            if not 1 <= low <= middle <= high:
                raise ValueError(
                    f"export: 'shapes' must grow from min over opt to max, got {self.text()}. Hint: 1x64x64,1x448x448,4x1024x1024"
                )

    def text(self) -> str:
        return ",".join("x".join(map(str, shape)) for shape in (self.least, self.best, self.most))

    def holds(self, shape: Shape) -> bool:
        return all(low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True))


def parse_shapes(text: str) -> Profile:
    """``"1x64x64,1x448x448,4x1024x1024"``: batch x height x width, least, best and most."""
    try:
        shapes = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    except ValueError:
        shapes = []
    if len(shapes) != 3 or any(len(shape) != 3 for shape in shapes):
        hint = "three times batch x height x width, as in 1x64x64,1x448x448,4x1024x1024"
        raise ValueError(f"export: 'shapes' must be min,opt,max, got {text!r}. Hint: {hint}")
    return Profile(*shapes)


def profile_of_sizes(sizes: list[tuple[int, int]], scales: tuple[float, ...], batch: int = 1) -> Profile:
    """Of the heights and widths of a folder's images, at the scales at which the network will see them."""
    if not sizes:
        raise ValueError("export: 'profile_from' must hold images, got none")
    scaled = [(max(1, round(h * scale)), max(1, round(w * scale))) for h, w in sizes for scale in scales]
    heights, widths = sorted(h for h, _ in scaled), sorted(w for _, w in scaled)
    middle = len(scaled) // 2
    least = (1, max(32, heights[0]), max(32, widths[0]))
    best = (batch, max(32, heights[middle]), max(32, widths[middle]))
    return Profile(least, best, (batch, max(32, heights[-1]), max(32, widths[-1])))


@dataclass(frozen=True)
class EngineSpec:
    onnx: Path
    flavour: str  # "trt" or "trt-rtx"
    profile: Profile
    plugins: Path | None = None  # the library; None: the nodes' bodies are built
    require_plugins: int = 0  # plugin layers that must be there
    tf32: bool = False
    optimisation: int = 3
    capabilities: tuple[str, ...] = ()  # compute capabilities, as "8.6", for a flavour that builds without a GPU

    def facts(self, environment: dict[str, Any]) -> dict[str, Any]:
        """All that the bytes of the engine depend on; `environment` as `environment_of` tells it."""
        return {
            "onnx_sha256": file_sha256(self.onnx),
            "flavour": self.flavour,
            "profile": self.profile.text(),
            "plugins_sha256": file_sha256(self.plugins) if self.plugins else None,
            "tf32": self.tf32,
            "optimisation": self.optimisation,
            "capabilities": list(self.capabilities),
            **environment,
        }

    def to_json(self) -> str:
        told = dataclasses.asdict(self)
        told.update(onnx=str(self.onnx), plugins=str(self.plugins) if self.plugins else None)
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> EngineSpec:
        told = json.loads(text)
        told["profile"] = Profile(*(tuple(shape) for shape in told["profile"].values()))
        told["capabilities"] = tuple(told["capabilities"])
        return cls(**{**told, "onnx": Path(told["onnx"]), "plugins": Path(told["plugins"]) if told["plugins"] else None})


def key_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def environment_of(version: str) -> dict[str, Any]:
    """The GPU and its driver; an engine is good for these alone."""
    import torch

    facts: dict[str, Any] = {"library": version, "cuda": torch.version.cuda, "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts["gpu"] = properties.name
        facts["compute_capability"] = f"{properties.major}.{properties.minor}"
        facts["multiprocessors"] = properties.multi_processor_count
        facts["driver"] = driver_version()
    return facts


def driver_version() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    try:
        words = path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), None)
