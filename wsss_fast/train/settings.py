"""What a training run is told besides the settings of its method: the data, the network, and how to run.

Three frozen dataclasses that Python, YAML and the command line share. No torch here: the command line reads them for its help.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsss_fast import _settings
from wsss_fast._settings import DATASETS, PUBLISHED, UNREADABLE, setting
from wsss_fast.files import yaml_text

if TYPE_CHECKING:
    from wsss_fast.methods._training import TrainSettings

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """As `data.open_dataset` takes them."""

    data: str = setting("", "the data set: a folder, or COCO's file of instances", metavar="DIR")
    kind: str | None = setting(None, "its layout: voc, coco, folders or images; by default by what lies in it")
    split: str | None = setting(
        None, "list of images; by default train where VOC's lists have it, else all images", metavar="LIST"
    )
    labels: str | None = setting(None, "file of image-level labels, if not those of the data set", metavar="FILE")
    saliency: str | None = setting(None, "folder of saliency maps, ID.png", metavar="DIR")
    affinity: str | None = setting(None, "folder of labels of pairs, ID.npz or ID.png", metavar="DIR")
    masks: str | None = setting(None, "folder of masks, ID.png", metavar="DIR")
    class_names: str | None = setting(None, "file of class names, one a line", metavar="FILE")
    empty: str = setting("stop", "at images of no class: stop, drop (leave them out) or keep")

    def __post_init__(self) -> None:
        if not self.data:
            _settings.fail("train", "data", "name the folder of the data set", self.data)


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    backbone: str | None = setting(None, "of the method; by default its first")
    published: str | None = setting(None, "settings and losses as the paper or the code has them: none, paper or code")
    dataset: str = setting("voc", "whose published schedule: voc or coco")
    init: str | None = setting(
        None, "pretrained weights: a file, or efficientnet-lite0 for the built-in ones of that backbone", metavar="FILE"
    )
    options: str = setting("", "options of the network, as width=0.25,output_stride=16", metavar="A=B,…")

    def __post_init__(self) -> None:
        if self.published not in PUBLISHED:
            _settings.fail("train", "published", "be none, paper or code", self.published)
        _settings.choice("train", "dataset", self.dataset, DATASETS)
        self.network_options()

    def train_settings(self, method: str, **changes: Any) -> TrainSettings:
        """Those of a method on this network."""
        from wsss_fast import methods

        head = self.network_options().get("head")
        asked = {} if head is None else {"head": head}
        return methods.settings(method, self.published, self.dataset, self.backbone, **asked, **changes)

    def network_options(self) -> dict[str, Any]:
        """`options` as arguments of `methods.create`."""
        chosen: dict[str, Any] = {}
        for entry in filter(None, re.split(r"[,\s]+", self.options)):
            name, sign, value = entry.partition("=")
            if not sign or not name.isidentifier() or name in chosen:
                _settings.fail("train", "options", "be NAME=VALUE,NAME=VALUE with each name once", self.options)
            try:
                chosen[name] = yaml_text.load(value)
            except yaml_text.YamlError:
                _settings.fail("train", "options", "have simple values", entry)
        return chosen


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    device: str = setting("auto", "auto, cpu or cuda")
    precision: str = setting("fp32", "of the forward pass: fp32, bf16 or fp16 (with a scaled loss)")
    workers: int = setting(2, "processes that read and cut images, for each training process; 0: none")
    threads: int | None = setting(None, "CPU threads of torch; by default its own choice")
    seed: int = setting(0, "of weights, order, cuts and dropout")
    log_every: int = setting(10, "steps between lines of losses.jsonl")
    checkpoint_every: str = setting(
        "1 epoch", "as '500 steps' or '2 epochs'; 0: only at the end and when stopped", metavar="TIME"
    )
    keep: int = setting(0, "models of earlier checkpoints to keep, in RUN/models")
    pictures: str = setting("1 epoch", "how often class maps are drawn, as checkpoint_every; 0: never", metavar="TIME")
    tensorboard: bool = setting(True, "write event files, if TensorBoard is installed (extra `train`)")
    compile: bool = setting(False, "compile the method with torch.compile: slow to start, faster afterwards")
    unreadable: str = setting("stop", "at an image that cannot be read: stop, or skip it and count")
    max_steps: int | None = setting(None, "end after so many steps in all; the schedule stays that of all epochs")

    def __post_init__(self) -> None:
        for name, allowed in (("device", DEVICES), ("precision", PRECISIONS), ("unreadable", UNREADABLE)):
            _settings.choice("train", name, getattr(self, name), allowed)
        _settings.whole("train", "workers", self.workers, 0, 256)
        _settings.whole("train", "seed", self.seed, 0, 2**63 - 1)
        _settings.whole("train", "log_every", self.log_every, 1, 10**9)
        _settings.whole("train", "keep", self.keep, 0, 10**6)
        for name in ("threads", "max_steps"):
            if getattr(self, name) is not None:
                _settings.whole("train", name, getattr(self, name), 1, 10**12 if name == "max_steps" else 1024)
        for name in ("tensorboard", "compile"):
            _settings.boolean("train", name, getattr(self, name))
        for name in ("checkpoint_every", "pictures"):
            every(name, getattr(self, name), 1)

    def decides(self) -> dict[str, Any]:
        """Those that change the weights that come out."""
        return {name: getattr(self, name) for name in ("precision", "seed", "unreadable")}


def every(name: str, text: str, steps_per_epoch: int) -> int:
    """'500 steps' (or '500') and '2 epochs' in steps; 0 for never."""
    found = re.fullmatch(r"([0-9]{1,9}) *(steps?|epochs?)?", str(text).strip())
    if not found:
        _settings.fail("train", name, "be a number of steps or epochs, or 0", text, "for example '500 steps' or '2 epochs'")
    return int(found[1]) * (steps_per_epoch if (found[2] or "").startswith("epoch") else 1)
