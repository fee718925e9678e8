"""Weakly supervised semantic segmentation: training, C++/CUDA kernels, export and labelling in one package.

Importing this package is cheap: torch and the kernels are imported when something that needs them is first used.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsss_fast._version import __version__

# With the repository as working directory its sources come before an installed package; the compiled module then stands only in
# the installed one. A path over both lets either be found (wsss_fast/_native.py checks that the versions agree).
__path__ = pkgutil.extend_path(__path__, __name__)

if TYPE_CHECKING:
    from wsss_fast import ops
    from wsss_fast._native import build_info
    from wsss_fast.label import label

__all__ = ["__version__", "build_info", "label", "ops"]

_LAZY = {
    "build_info": ("wsss_fast._native", "build_info"),
    "label": ("wsss_fast.label", None),
    "ops": ("wsss_fast.ops", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'wsss_fast' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
