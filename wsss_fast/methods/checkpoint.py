"""Networks from files: a published checkpoint needs its method named, our own say what they are.

convert("resnet38_SEAM.pth", "seam.safetensors", method="seam")
model = load("seam.safetensors")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast.methods import create
from wsss_fast.nets import weights

__all__ = ["convert", "load"]


def load(
    path: str | Path,
    method: str | None = None,
    num_classes: int | None = None,
    backbone: str | None = None,
    published: str | None = None,
    absent: Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """The network of a checkpoint, in evaluation mode.

    A file of ours describes itself. For others `method` is needed; `num_classes` is read off the file's shapes unless given.
    `absent` names what the file may lack, as for `nets.load_checkpoint`.
    """
    told = weights.describe(path)
    if not told and method is None:
        hint = "name the method, as in method='seam'; `wsss convert` writes a file that describes itself"
        raise ValueError(f"load: '{path}' does not say which network it holds. Hint: {hint}")
    method = method or told.get("method")
    if method is None:
        raise ValueError(f"load: '{path}' does not say of which method it is. Hint: name it, as in method='seam'")
    if told and method != told.get("method", method):
        raise ValueError(f"load: 'method' must be '{told['method']}', of which '{path}' is a checkpoint, got '{method}'")
    state = weights.read_state_dict(path)
    backbone = backbone or told.get("backbone")
    published = published if published is not None else told.get("published")
    options = {**told.get("options", {}), **options}
    if num_classes is None:
        num_classes = told.get("num_classes") or _classes_of(state, method, backbone, options)
    with torch.device("meta"):  # a description may name a network that is larger than any memory
        weights.check_fit(create(method, num_classes, backbone=backbone, published=published, **options), state, absent=absent)
    model = create(method, num_classes, backbone=backbone, published=published, **options)
    weights.load_checkpoint(model, state, absent=absent)
    return model.eval()


def convert(path: str | Path, out: str | Path, *, classes: Sequence[str] = (), **arguments: Any) -> dict[str, Any]:
    """Writes the checkpoint `path` as one safetensors file that describes itself; gives the description.

    classes: names of the object classes. Other arguments: those of `load`.
    """
    model = load(path, **arguments)
    description = model.description()
    if classes:
        if len(classes) != model.num_classes:
            raise ValueError(f"convert: 'classes' must name {model.num_classes} classes, as the file has, got {len(classes)}")
        description["classes"] = list(classes)
    weights.save_checkpoint(out, model, description)
    return description


def _classes_of(state: dict[str, Any], method: str, backbone: str | None, options: dict[str, Any]) -> int:
    """The number of classes that makes the network's head as large as the file's."""
    with torch.device("meta"):
        own = create(method, 1, backbone=backbone, **options).state_dict()
    layout = weights.weight_names.best_layout(state, own)
    values = weights.weight_names.renamed(state, weights.weight_names.LAYOUTS[layout])
    more = {values[key].shape[0] - own[key].shape[0] for key in own if key in values and values[key].shape != own[key].shape}
    return 1 + more.pop() if len(more) == 1 and min(more) > 0 else 1
