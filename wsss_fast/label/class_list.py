"""Which classes a model has, read without running it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_fast._nearest import did_you_mean
from wsss_fast.data._problems import hinted
from wsss_fast.data.class_names import ClassNames, folded, made_up
from wsss_fast.files.names import printable, state_of

_HINTS = dict.fromkeys((".pth", ".pt"), "`wsss convert --classes A,B,…` makes a file of it that describes itself")
_HINTS |= dict.fromkeys((".engine", ".plan"), "an engine has the classes of the .onnx file beside it")
_KINDS = "a checkpoint (.safetensors), an .onnx or .pt2 file of `wsss export`, or efficientnet-lite0"


@dataclass(frozen=True)
class ClassList:
    names: tuple[str, ...]  # the class at place i has mask value i + 1
    named: bool = True  # False: nobody named them, and these names are made up

    def matching(self, word: str | None) -> list[tuple[int, str]]:
        """(mask value, name) of the classes with the word in their name, whatever its case; of all without a word."""
        found = [(i, name) for i, name in enumerate(self.names, 1) if word is None or folded(word) in folded(name)]
        if not found:
            near = ClassNames(self.names).hint(word or "")
            raise ValueError(
                f"classes: no class has '{printable(word or '')}' in its name. "
                f"Hint: {near or 'the command without a word lists all'}"
            )
        return found


def class_list(model: str | os.PathLike[str]) -> ClassList:
    """Of the built-in model by its name, or of a file that describes itself."""
    from wsss_fast.label.predict import BUILT_IN

    name = os.fspath(model)
    if name == BUILT_IN:
        from wsss_fast.classes.groups import imagenet_groups

        return ClassList(tuple(group.name for group in imagenet_groups()))
    path = Path(name)
    if not path.is_file():
        message = f"classes: 'model' must be a file or {BUILT_IN}, got '{printable(name)}', which {state_of(path)}"
        raise FileNotFoundError(hinted(message, did_you_mean(name, [BUILT_IN])))
    return _described(_description(path), path)


def _description(path: Path) -> dict[str, Any]:
    from wsss_fast.export.inspect import inspect
    from wsss_fast.nets.weights import describe

    suffix = path.suffix.lower()
    if suffix in (".onnx", ".pt2"):
        found = inspect(path)["network"]
    elif suffix == ".safetensors":
        found = describe(path)
    else:
        raise ValueError(hinted(f"classes: 'model' must be {_KINDS}, got '{printable(path.name)}'", _HINTS.get(suffix, "")))
    return found if isinstance(found, dict) else {}


def _described(told: dict[str, Any], path: Path) -> ClassList:
    try:
        names = tuple(str(name) for name, _ in told.get("groups") or ()) or tuple(map(str, told.get("classes") or ()))
        if names:
            return ClassList(names)
        count = told["num_classes"]
        if isinstance(count, int) and 1 <= count <= 65534:
            return ClassList(made_up(count), named=False)
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(
        f"classes: '{printable(str(path))}' does not say which classes it has. Hint: `wsss convert` makes one that does"
    )
