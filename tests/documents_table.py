"""Every code block of README.md, CONTRIBUTING.md and docs/ is run, or checked, or said to be neither: TABLE is the list.

A page's blocks run from top to bottom in one folder and one Python session, beside stand-ins for people's data (`make_world`).
Python runs and text is shown without a line in TABLE; every other block needs one: page → beginning of its first line → what
happens.

    RUN         python runs, changed by REPLACED; `wsss` commands run, made small by STAND_INS, or are checked (ONLY_CHECKED)
    SOAK        run by `make soak`, else checked
    CHECK       shell: the real parsers take the arguments; targets, extras and files exist. python, yaml, json: it parses
    save(NAME)  the text is written to this file, for the blocks after it
    SHOWN       nothing: text
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from documents import Block, blocks, pages, small_networks

from wsss_fast import methods
from wsss_fast.data import scenes
from wsss_fast.nets import weights

RUN, SOAK, CHECK, SHOWN = "run", "soak", "check", "shown"
SAVE = "save "


def save(name: str) -> str:
    return SAVE + name


TABLE = {
    "README.md": {
        "make demo": CHECK,  # tests/test_label.py runs the demo
        "pip install torch": CHECK,
        "wsss label PHOTOS": RUN,
        "wsss demo scenes": RUN,
    },
    "CONTRIBUTING.md": {
        "make test": CHECK,
        ".venv/bin/pytest tests/ops/test_pcm.py": CHECK,
        "make peers": CHECK,
        "make wheelhouse": CHECK,
    },
    "docs/benchmarks.md": {"wsss bench --list": RUN},
    "docs/data.md": {"wsss saliency VOC2012/JPEGImages": RUN},
    "docs/eval.md": {"wsss eval MASKS": RUN},
    "docs/export.md": {
        "wsss export seam.safetensors --out": SOAK,
        "import json": SOAK,
        "import torch": SOAK,
        "wsss export seam.safetensors --engine trt": CHECK,
        "wsss export seam.safetensors --engine trt --profile-from": CHECK,
        "wsss export seam.safetensors --precision int8": CHECK,  # tests/test_export_int8.py quantises
        "cmake -S export/tensorrt": CHECK,
        "cmake -S export/runner": CHECK,  # tests/test_export_runner.py builds it
        "wsss export seam.safetensors --out seam.onnx --triton": CHECK,  # tests/test_export_triton.py writes it
    },
    "docs/faq.md": {
        "wsss train cam --data photos --out RUN": RUN,
        "wsss label PHOTOS --model seam.safetensors": RUN,
        "wsss label --verify MASKS": RUN,
    },
    "docs/label.md": {
        "wsss label PHOTOS": RUN,
        "wsss label wsss-demo/images": CHECK,
        "- {name: pet": save("groups.yaml"),
    },
    "docs/many_machines.md": {"ray start": CHECK},  # tests/test_label_ray.py starts a cluster
    "docs/nets.md": {"wsss convert resnet38_SEAM.pth": CHECK},  # tests/test_convert.py converts
    "docs/pair_labels.md": {"wsss train affinitynet": CHECK},  # tests/test_affinitynet_training.py trains
    "docs/report.md": {"wsss label PHOTOS": RUN},
    "docs/releasing.md": {"make wheel": CHECK},  # tests/test_wheels.py runs it in make soak
    "docs/run.md": {"wsss run --list": RUN, "title: Masks of my own images": save("mine.yaml")},
    "docs/scenes.md": {"wsss demo scenes": RUN},
    "docs/simt.md": {"pytest tests/test_simt.py": CHECK, "cmake -S tests/simt": CHECK},
    "docs/train.md": {
        "wsss train cam --data VOC2012": RUN,
        "wsss demo scenes": RUN,
        "torchrun": CHECK,  # tests/test_train_processes.py trains in two processes
    },
    "docs/tutorial.md": {  # test_the_tutorial_as_it_is_written runs it without stand-ins
        "wsss demo scenes": RUN,
        "wsss train cam": RUN,
        "wsss label photos": RUN,
        "wsss eval masks": RUN,
        "wsss train deeplab": RUN,
        "wsss label scenes": RUN,
        "wsss export deeplab": SOAK,
    },
}
# Commands with these words are checked by their parser alone: they need a GPU, minutes, or a whole published row.
ONLY_CHECKED = (
    "--device cuda",
    "--engine aoti",
    "--engine trt",
    "--random-weights",
    "bench pcm",
    "--bench",
    "wsss run seam",
)
# What makes a command small; `-X` takes the option `--X` away. tests/documents.py, with_stand_ins.
TINY_TRAINING = "--crop 64 --sizes 64,80 --batch 2 --max-steps 2 --workers 0 --threads 1 --pictures 0 --tensorboard false"
STAND_INS = {
    "demo scenes": "--train 6 --test 3 --crops 0",
    "train": TINY_TRAINING,
    "train cam --data VOC2012": f"-init --options width=0.0625 --freeze false {TINY_TRAINING}",
    "train cam --data photos --out RUN": TINY_TRAINING,
    "train deeplab --data photos": f"{TINY_TRAINING} --sizes 0.75,1.25",
    "train cam --data SCENES --out": f"--options width=0.0625 {TINY_TRAINING}",
    "label": "--workers 0",
    "label PHOTOS --model efficientnet-lite0": "--workers 0 --base-side 128",
    "label PHOTOS --out MASKS": "--workers 0 --base-side 128",
}
# What stands otherwise in the python and yaml blocks of a page: too large for a test, or more images than the stand-ins have.
REPLACED = {
    "README.md": {'out="MASKS"': 'out="MASKS", base_side=128, workers=0'},
    "docs/data.md": {'settings("seam")': 'settings("seam", batch=2, crop=64, sizes=(64, 80))', "workers=4": "workers=0"},
    "docs/dcp.md": {"channels=2048": "channels=128"},
    "docs/deeplab.md": {"321": "65"},
    "docs/faq.md": {"MASKS/a.png": "TRUTH/a.png"},
    "docs/label.md": {
        'out="MASKS"': 'out="MASKS", base_side=128, workers=0',
        '["a.jpg"]': '["a.jpg"], base_side=128, workers=0',
    },
    "docs/methods.md": {"224": "64"},
    "docs/pair_labels.md": {
        'settings("affinitynet")': 'settings("affinitynet", batch=2, crop=64)',
        "workers=4": "workers=0",
    },
    "docs/run.md": {"epochs: 3, batch: 4, crop: 128, sizes: [128, 192]": "epochs: 1, batch: 2, crop: 32, sizes: [32, 48]"},
    "docs/scenes.md": {"train=1000, test=300, seed=0, crops=2000": "train=3, test=1, seed=0, crops=8"},
    "docs/train.md": {"crop=128, sizes=(128, 192), epochs=4": "crop=64, sizes=(64, 80), epochs=1, batch=2"},
}
# Blocks that say the same in another way, or speak of other data: they begin in a fresh folder.
AFRESH = {
    "docs/scenes.md": ("from wsss_fast.data import open_dataset",),
}
PAGES = [page for page in pages() if blocks(page)]


def treatment(block: Block) -> str | None:
    chosen = [what for start, what in TABLE.get(block.page, {}).items() if block.start.startswith(start)]
    return chosen[0] if chosen else {"python": RUN, "text": SHOWN}.get(block.language)


def replaced(block: Block) -> Block:
    text = block.text
    if block.language in ("python", "yaml"):
        for old, new in REPLACED.get(block.page, {}).items():
            text = text.replace(old, new)
    return replace(block, text=text)


# ---- the world beside the pages ---------------------------------------------------------------------------------------------


def make_world(folder: Path) -> None:
    """What the pages call VOC2012, PHOTOS, labels.csv, ..."""
    voc = folder / "VOC2012"
    folder.mkdir()
    scenes.write(voc, train=6, test=3, processes=1)
    lists = voc / "ImageSets" / "Segmentation"
    for name, of in (("train_aug", "train"), ("trainaug", "train"), ("val", "test")):
        shutil.copy(lists / f"{of}.txt", lists / f"{name}.txt")
    photos = sorted((voc / "JPEGImages").iterdir())[:2]
    for place in (folder, folder / "PHOTOS", folder / "photos"):
        place.mkdir(exist_ok=True)
        for name, photo in zip("ab", photos, strict=True):
            shutil.copy(photo, place / f"{name}.jpg")
    (folder / "labels.csv").write_text("image,classes\na.jpg,cow;van\nb.jpg,horse\n")
    shutil.copy(voc / "classes.txt", folder / "names.txt")


def network(folder: Path) -> None:
    """seam.safetensors: a narrow SEAM that describes itself."""
    with small_networks():
        model = methods.create("seam", len(scenes.CLASSES))
    names = [look.name for look in scenes.CLASSES]
    weights.save_checkpoint(folder / "seam.safetensors", model, {**model.description(), "classes": names})


def masks(folder: Path) -> None:
    """MASKS and MAPS, as `wsss label` would have written them."""
    shutil.copytree(folder / "VOC2012" / "SegmentationClass", folder / "MASKS")
    (folder / "MAPS").mkdir()


def saliency_network(folder: Path) -> None:
    """network.onnx: three colours in, one map out."""
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    picture = value("image", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    logits = value("map", onnx.TensorProto.FLOAT, [1, 1, 32, 32])
    node = onnx.helper.make_node("ReduceMean", ["image", "axes"], ["map"], keepdims=1)
    axes = onnx.numpy_helper.from_array(torch.tensor([1]).numpy(), "axes")
    graph = onnx.helper.make_graph([node], "saliency", [picture], [logits], [axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "network.onnx")


def class_folders(folder: Path) -> None:
    for name, photo in (("cow", "a.jpg"), ("van", "b.jpg")):
        (folder / "images" / name).mkdir(parents=True)
        shutil.copy(folder / photo, folder / "images" / name / photo)


def questions(folder: Path) -> None:
    """photos with their table, and TRUTH to compare with."""
    network(folder)
    shutil.copy(folder / "labels.csv", folder / "photos" / "labels.csv")
    truth = sorted((folder / "VOC2012" / "SegmentationClass").iterdir())[:2]
    (folder / "TRUTH").mkdir()
    for name, mask in zip("ab", truth, strict=True):
        shutil.copy(mask, folder / "TRUTH" / f"{name}.png")


def nothing(folder: Path) -> None:
    """The page makes its own: an empty folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def pair_maps(folder: Path) -> None:
    """pairs: for every image its mask, which serves as labels as it is."""
    shutil.copytree(folder / "VOC2012" / "SegmentationClass", folder / "pairs")


FURNITURE = {
    "README.md": (network,),
    "docs/data.md": (saliency_network,),
    "docs/eval.md": (masks,),
    "docs/export.md": (network,),
    "docs/faq.md": (questions,),
    "docs/nets.md": (network,),
    "docs/pair_labels.md": (pair_maps,),
    "docs/run.md": (class_folders,),
    "docs/tutorial.md": (nothing,),
}
