"""What an engine is built of, and everything that makes one engine differ from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_fast.export.trt.profile import Profile
from wsss_fast.files.whole import file_sha256


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
