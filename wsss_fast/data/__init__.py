"""Images with their image-level labels, saliency maps and masks: what training starts from. Importing it is cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_fast.data._problems import DataError
    from wsss_fast.data.dataset import Dataset, open_dataset
    from wsss_fast.data.labels import ImageLabels, read_classes, read_labels

__all__ = ["DataError", "Dataset", "ImageLabels", "open_dataset", "read_classes", "read_labels"]
_HOMES = {
    "_problems": ("DataError",),
    "dataset": ("Dataset", "open_dataset"),
    "labels": ("ImageLabels", "read_classes", "read_labels"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
