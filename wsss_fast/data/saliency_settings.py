"""What `wsss saliency` can be told. Apart from the rest, so that its help comes at once."""

from __future__ import annotations

from dataclasses import dataclass

from wsss_fast import _settings
from wsss_fast._settings import setting

CLASSICAL = "classical"
ACTIVATIONS = ("none", "sigmoid", "minmax")


@dataclass(frozen=True)
class SaliencySettings:
    """How an ONNX network is fed and read; the classical method takes none of this."""

    side: int = setting(320, "side in pixels of the square that the network sees, where its file leaves it open")
    mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "subtracted from RGB in 0 to 1")
    std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "what the difference is divided by")
    activation: str = setting("none", "what turns the output into 0 to 1: none, sigmoid, or minmax (each map's own range)")
    output: str | None = setting(None, "name of the output, for networks with several; by default the first")

    def __post_init__(self) -> None:
        _settings.whole("saliency", "side", self.side, 16, 4096)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or len(values) != 3:
                _settings.fail("saliency", name, "be 3 numbers", values)
            for value in values:
                _settings.number("saliency", name, value, 1e-6 if name == "std" else -1e6, 1e6)
            object.__setattr__(self, name, tuple(float(value) for value in values))
        _settings.choice("saliency", "activation", self.activation, ACTIVATIONS)
