"""Tells what a TensorRT library offers Python, as JSON, without using any of it.

python tensorrt_surface.py MODULE [BINDINGS STUBS]   BINDINGS: the folder of the module, STUBS: of libraries that it is linked to

pybind11 writes into each docstring what a function takes and returns, and of which type a property is.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# what the docstrings tell in the words of C++, or not at all
_NAMES = {"nvonnxparser::IParserError": "ParserError"}
_RETURNS = {"get_plugin_registry": "IPluginRegistry"}


def type_name(text: str) -> str:
    """``typing.Optional[tensorrt_bindings.tensorrt.ILayer]`` -> ``ILayer``"""
    text = text.strip().removesuffix("| None").strip()
    if found := re.fullmatch(r"(?:typing\.)?Optional\[(.*)\]", text):
        text = found.group(1)
    return _NAMES.get(text, re.sub(r"^tensorrt\w*\.tensorrt\w*\.", "", text))


def returned(doc: str | None) -> str:
    found = re.search(r"\) -> (.+)", doc or "")
    return type_name(found.group(1)) if found else ""


def member(owner: Any, name: str) -> dict[str, Any]:
    value = inspect.getattr_static(owner, name)
    if isinstance(value, property):
        return {"kind": "value", "type": returned(value.fget.__doc__ if value.fget else None)}
    value = getattr(owner, name)
    if callable(value) and not inspect.isclass(value):
        return {"kind": "function", "type": _RETURNS.get(name) or returned(value.__doc__)}
    if inspect.isclass(value):
        return {"kind": "class", "type": value.__qualname__}
    return {"kind": "value", "type": type(value).__qualname__}


def surface(module: Any) -> dict[str, Any]:
    top = {name: member(module, name) for name in dir(module)}
    classes = {}
    for name in dir(module):
        if inspect.isclass(value := getattr(module, name)):
            classes[name] = {entry: member(value, entry) for entry in dir(value)}
    return {"module": top, "classes": classes}


def main(name: str, *folders: str) -> None:
    if folders:
        bindings, stubs = folders
        sys.path.insert(0, bindings)
        # a library that is loaded is found by its name when the bindings ask for it
        for library in sorted(Path(stubs).glob("lib*.so*")):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    sys.stdout.write(json.dumps(surface(import_module(name))))


if __name__ == "__main__":
    main(*sys.argv[1:])
