"""Labelling a folder of images: ``wsss_fast.label(images, model, out=None, **settings)``.

The name stands for the function and for this package of its stages (``wsss_fast.label.manifest`` …). Python sets the
attribute ``label`` of ``wsss_fast`` to this module on import, so the module itself is callable. Importing it is cheap.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_fast.label.pipeline import ImageResult, LabelSummary, label
    from wsss_fast.label.settings import LabelSettings

__all__ = ["ImageResult", "LabelSettings", "LabelSummary", "label"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        from wsss_fast.label import pipeline

        return pipeline.label(*args, **settings)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsss_fast.label import pipeline, settings

    return getattr(settings if name == "LabelSettings" else pipeline, name)


sys.modules[__name__].__class__ = _CallableModule
