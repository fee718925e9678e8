"""Checkpoints: published ones read, our own read and written.

Our own are one safetensors file that describes itself: its header holds, as JSON, what `methods.create` needs to make the network
again, and what the network expects of images.
"""

from __future__ import annotations

import fnmatch
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast.files.names import is_text, printable
from wsss_fast.files.whole import whole_file
from wsss_fast.nets import mxnet_params, weight_names

__all__ = ["describe", "load_checkpoint", "read_state_dict", "save_checkpoint"]

HEADER = "wsss_fast"
# Under which a training script keeps the parameters beside its optimiser.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "params")
_SHOWN = 8
MOST_CLASSES = 65_535  # that a mask of 16 bits tells apart


def load_checkpoint(
    module: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    absent: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> str:
    """Fills `module` with a published or own checkpoint; nothing is changed unless every name and shape fits.

    Args:
        module: its state dict's names are those of the published file.
        source: a file (.safetensors, .pth, .pt, .params) or a state dict, also one wrapped as {"state_dict": ...}.
        absent: patterns ("fc8.*") of parameters that the file may lack: they keep what they have.
        unused: patterns of entries that may stand in the file without a use, besides those in `module.unused`.

    Names are taken as published, as torch.nn.DataParallel prefixes them, from MXNet's ResNet38 and from the Caffe ResNet-101 of
    DeepLab. `num_batches_tracked` may be missing: frozen batch norms do not use it.

    Returns:
        the layout that was found, one of weight_names.LAYOUTS.

    Raises:
        ValueError: entries are missing, left over or of another shape: the message names them. Or the file is none of these.
    """
    layout, own, values = _fitted(module, source, absent, unused)
    with torch.no_grad():
        for key in own:
            own[key].copy_(values[key])
    return layout


def check_fit(module: nn.Module, source: str | Path | Mapping[str, Any], *, absent: Sequence[str] = ()) -> None:
    """Raises what `load_checkpoint` raises. The module may be one without memory, on torch's device "meta"."""
    _fitted(module, source, absent, ())


def _fitted(
    module: nn.Module, source: str | Path | Mapping[str, Any], absent: Sequence[str], unused: Sequence[str]
) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """The layout, the module's own tensors that the source fills, and with what."""
    if isinstance(source, Mapping):
        name, values = "the state dict", _unwrapped(source, "the state dict")
    else:
        name, values = printable(f"'{source}'"), read_state_dict(source)
    own = module.state_dict()
    unused = (*unused, *getattr(module, "unused", ()))
    layout = weight_names.best_layout(values, own)
    values = weight_names.renamed(values, weight_names.LAYOUTS[layout])
    missing = [key for key in own if key not in values and not _matches(key, absent) and not key.endswith("num_batches_tracked")]
    left_over = [key for key in values if key not in own and not _matches(key, unused)]
    shared = [key for key in own if key in values]
    shapes = [key for key in shared if own[key].shape != values[key].shape]
    problems = [_listed(f"{len(missing)} of {len(own)} parameters are missing", missing)] if missing else []
    if left_over:
        problems.append(_listed(f"{len(left_over)} entries have no place in the network", left_over))
    if shapes:
        pairs = [f"{key} {list(values[key].shape)}, wanted {list(own[key].shape)}" for key in shapes]
        problems.append(_listed(f"{len(shapes)} shapes differ", pairs))
    if problems:
        raise ValueError(
            f"load_checkpoint: {name} does not fit the network: {'; '.join(problems)}.{_hint(missing, left_over, shapes)}"
        )
    if not shared:
        raise ValueError(f"load_checkpoint: {name} holds no parameter of the network")
    broken = [key for key in shared if values[key].is_floating_point() and not values[key].isfinite().all()]
    if broken:
        hint = "such a network sees nothing; was its training stopped by a loss that is no number?"
        what = _listed(f"{len(broken)} parameters hold values that are no numbers", broken)
        raise ValueError(f"load_checkpoint: {name} is refused: {what}. Hint: {hint}")
    return layout, {key: own[key] for key in shared}, values


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """name → tensor of a .safetensors, .pth / .pt or MXNet .params file. Nothing in the file is executed."""
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"load_checkpoint: '{path}' {kind}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".params":
        return {name: torch.from_numpy(array) for name, array in mxnet_params.read(path).items()}
    if suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _read_torch(path)
    raise ValueError(
        f"load_checkpoint: '{path}' must end in .safetensors, .pth, .pt, .bin, .ckpt or .params, got '{path.suffix}'"
    )


def save_checkpoint(path: str | Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """One safetensors file with the module's parameters and the description (method, backbone, classes, ...)."""
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_checkpoint: 'path' must end in .safetensors, got '{path.name}'")
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with whole_file(path, "save_checkpoint") as part:
        save_file(tensors, part, metadata={HEADER: json.dumps(dict(description), sort_keys=True)})


def describe(path: str | Path) -> dict[str, Any]:
    """The description in one of our own checkpoints; empty for other files."""
    if Path(path).suffix.lower() != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(HEADER, "{}")
    except SafetensorError as error:
        raise _unreadable(Path(path), error) from error
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    odd = "" if isinstance(told, dict) else "it is no object"
    if not odd:
        odd = next(
            (f"'{name}' is {told[name]!r:.80}" for name, fits in _DESCRIBED.items() if name in told and not fits(told[name])), ""
        )
    if odd:
        hint = "`wsss convert` makes it again from the published file"
        raise ValueError(
            f"load_checkpoint: '{path}' describes itself in a way that cannot be read ({printable(odd)}). Hint: {hint}"
        )
    return told


def _is_plain(value: Any) -> bool:
    """A word, or a number that no network makes long tables of."""
    return isinstance(value, str | None) or (isinstance(value, int | float) and abs(value) <= 4096)


# What a description may say; `methods.create` knows which names there are.
_DESCRIBED: dict[str, Callable[[Any], bool]] = {
    "method": lambda value: isinstance(value, str),
    "backbone": lambda value: value is None or isinstance(value, str),
    "published": lambda value: value is None or isinstance(value, str),
    "num_classes": lambda value: type(value) is int and 1 <= value <= MOST_CLASSES,
    "options": lambda value: isinstance(value, dict) and all(map(_is_plain, value.values())),
    "classes": lambda value: isinstance(value, list) and all(isinstance(name, str) and is_text(name) for name in value),
}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # about pickle protocols: what cannot be read is refused below
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "such a file could run programs; get one that was saved with torch.save(model.state_dict(), path)"
        reason = printable(str(error).split("\n")[0][:200])
        raise ValueError(f"load_checkpoint: '{path}' holds more than tensors and is refused ({reason}). Hint: {hint}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, AssertionError, TypeError) as error:
        raise _unreadable(path, error) from error
    return _unwrapped(loaded, f"'{path}'")


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = printable((str(error) or type(error).__name__).split("\n")[0][:200])
    return ValueError(f"load_checkpoint: '{path}' cannot be read ({reason}). Hint: is the download complete?")


def _unwrapped(loaded: Any, name: str) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a training script saved."""
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            if len(tensors) != len(loaded) or not tensors:
                others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
                raise ValueError(f"load_checkpoint: {name} must hold tensors by name, got {_listed('other entries', others)}")
            return tensors
        loaded = inner
    raise ValueError(f"load_checkpoint: {name} must hold tensors by name, got {type(loaded).__name__}")


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(map(printable, names[:_SHOWN]))}{more}" if names else f"{what}: none"


def _hint(missing: Sequence[str], left_over: Sequence[str], shapes: Sequence[str]) -> str:
    if shapes and not missing and not left_over:
        return " Hint: another number of classes, or another width of the network"
    if missing and not left_over:
        return " Hint: a file without the head fills a network's backbone with absent=('fc8.*',)"
    if missing and left_over:
        return " Hint: is this the file of another method or backbone?"
    return ""
