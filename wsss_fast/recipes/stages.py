"""One small function for each kind of stage, over the functions of the library.

Each makes files in the stage's folder and gives what is worth telling. Files appear whole or not at all, so that an image whose
file is there is done: a stage that was stopped goes on with the next one. A training goes on from its checkpoint.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_fast import methods, ops
from wsss_fast import train as training
from wsss_fast.data import Dataset
from wsss_fast.evaluate import read_maps, read_mask
from wsss_fast.files.folder import OutputFolder
from wsss_fast.files.images import ImageError, read_image
from wsss_fast.files.limits import MAX_BYTES, MAX_PIXELS
from wsss_fast.files.png import mask_png
from wsss_fast.methods import affinitynet, checkpoint, dcp, irn, pair_labels
from wsss_fast.methods._maps import exponent_of
from wsss_fast.recipes import judge
from wsss_fast.recipes.schema import Recipe, RecipeError, Stage
from wsss_fast.recipes.settings import BEST, KINDS, Crf
from wsss_fast.recipes.work import StoppedError, Work
from wsss_fast.train.loop import MODEL

PATTERNS = "patterns.safetensors"


# ---- training --------------------------------------------------------------------------------------------------------------


def train_settings(recipe: Recipe, stage: Stage) -> Any:
    """The published settings with what the recipe changes."""
    changes = {**stage.settings, **({"head": stage.options["head"]} if "head" in stage.options else {})}
    return methods.settings(stage.method, stage.published, recipe.dataset, stage.backbone, **changes)


def train_plan(work: Work) -> training.Plan:
    stage = work.stage
    if stage.data is not None:
        data = work.data.inner(stage.data)
    else:
        given = {"pairs": "affinity", "masks": "masks"}
        more = {given[role]: str(path) for role, path in work.inputs.items() if role in given}
        data = work.data.settings(work.recipe.split(stage.split), **more)
    network = training.NetworkSettings(
        backbone=stage.backbone,
        published=stage.published,
        dataset=work.recipe.dataset,
        init=work.init,
        options=",".join(f"{name}={value}" for name, value in stage.options.items()),
    )
    run = training.RunSettings(
        device=work.options.device,
        precision=work.options.precision,
        workers=work.options.workers,
        seed=work.seed,
        tensorboard=False,
        pictures=work.options.pictures,
    )
    return training.Plan(stage.method, data, network, train_settings(work.recipe, stage), run)


def train(work: Work) -> dict[str, Any]:
    def report(now: training.Progress) -> None:
        detail = f"epoch {now.epoch}, loss {now.loss:.4g}, {now.images_per_second:.3g} images/s"
        work.report(now.step, now.steps, detail)

    finished = training.train(train_plan(work), work.folder, report=report, stop=work.stop)
    if finished.outcome is not None and finished.outcome.stopped:
        raise StoppedError
    return {"steps": finished.outcome.steps if finished.outcome else 0, "images": finished.images}


# ---- maps and what is made of them -----------------------------------------------------------------------------------------


def maps(work: Work) -> dict[str, Any]:
    """ID.npz: classes [K] of the image, and their maps uint8 [K, H, W]; for IRN also those of its grid."""
    model, dataset, settings = _network(work), work.dataset(), work.settings

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        pixels, present = _pixels(work, dataset, name), _present(work, dataset, name)
        chosen = present[0].nonzero().flatten()
        arrays = {"classes": chosen.cpu().numpy().astype(np.int64)}
        if settings.sizes == "irn":
            grid, full = irn.class_maps(model, pixels, present)
            arrays["grid"] = _bytes(grid[0, chosen])
        else:
            full = methods.infer_cam(model, pixels, scales=settings.scales, flip=settings.flip, present=present)
        yield ".npz", _npz(**arrays, maps=_bytes(full[0, chosen]))

    _each(work, dataset, ".npz", make)
    return _judged(work, work.folder)


def pairs(work: Work) -> dict[str, Any]:
    dataset, settings = work.dataset(), work.settings
    suffix = ".npz" if settings.style == "alpha" else ".png"
    alphas, thresholds = settings.alphas, settings.thresholds
    if settings.beside is not None:
        factor = exponent_of(best_threshold(work)) / settings.beside
        alphas = tuple(factor * alpha for alpha in alphas)
        thresholds = tuple(threshold_at(factor * exponent_of(threshold)) for threshold in thresholds)

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        image = _pixels(work, dataset, name)[0]
        classes, cam = _maps(work, name)
        if settings.style == "alpha":
            crf = pair_labels.PSA_CRF if settings.crf is None else settings.crf.arguments()
            yield suffix, pair_labels.cam_maps(cam, image, classes.tolist(), alphas, crf).encoded()
        else:
            crf = pair_labels.IRN_CRF if settings.crf is None else settings.crf.arguments()
            yield suffix, mask_png(pair_labels.irn_labels(cam, image, classes.tolist(), *thresholds, crf))

    _each(work, dataset, suffix, make)
    return {}


def walk(work: Work) -> dict[str, Any]:
    """ID.png, and where a later stage asks for them the scores behind it, ID.npz."""
    model, dataset, given = _network(work), work.dataset(), work.settings.given()
    if given.get("alpha") == BEST:
        given["alpha"] = exponent_of(best_threshold(work))
    if given.get("background") == BEST:
        given["background"] = best_threshold(work)
    kept = any(role == "scores" for _, role in work.recipe.consumers(work.stage.name))

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        pixels = _pixels(work, dataset, name)
        if "masks" in work.inputs:
            mask = torch.from_numpy(read_mask(work.inputs["masks"] / f"{name}.png").copy())[None].to(work.device)
            yield ".png", mask_png(affinitynet.walk_mask(model, pixels, mask, **given)[0].cpu().numpy())
            return
        if model.name == "irn":
            classes, cam = _maps(work, name, "grid")
            scores = irn.walk(model, pixels, cam[None], **given)
        else:
            classes, cam = _maps(work, name)
            scores = affinitynet.walk(model, pixels, cam[None], **given)
        if kept:
            yield ".npz", _npz(classes=classes, scores=scores[0].half().cpu().numpy())
        yield ".png", mask_png(_strongest(scores[0], classes))

    _each(work, dataset, ".png", make)
    return _judged(work, work.folder)


def crf(work: Work) -> dict[str, Any]:
    dataset, settings = work.dataset(), work.settings
    threshold = threshold_of(work) if "maps" in work.inputs and settings.alpha is None else None

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        pixels = _pixels(work, dataset, name)
        if "scores" in work.inputs:
            file = np.load(work.inputs["scores"] / f"{name}.npz", allow_pickle=False)
            classes, scores = file["classes"], torch.from_numpy(file["scores"]).float().to(work.device)
        else:
            classes, cam = _maps(work, name)
            best = cam.amax(dim=0, keepdim=True) if len(cam) else cam.new_zeros(1, *cam.shape[1:])
            background = torch.full_like(best, threshold) if threshold is not None else (1 - best) ** settings.alpha
            scores = torch.cat([background, cam])
        refined = ops.dense_crf(scores[None], pixels, **settings.arguments())
        yield ".png", mask_png(_strongest(refined[0], classes))

    _each(work, dataset, ".png", make)
    return _judged(work, work.folder)


def masks(work: Work) -> dict[str, Any]:
    dataset = work.dataset()
    make = _from_patterns(work, dataset) if "patterns" in work.inputs else _from_maps(work)
    _each(work, dataset, ".png", make)
    return _judged(work, work.folder)


def _from_maps(work: Work) -> Callable[[str], Iterator[tuple[str, bytes]]]:
    threshold = threshold_of(work)

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        classes, cam = _maps(work, name)
        yield ".png", mask_png(_strongest(torch.cat([cam.new_full((1, *cam.shape[1:]), threshold), cam]), classes))

    return make


def threshold_of(work: Work) -> float:
    """The constant of the recipe, or what the maps were best at."""
    threshold = work.settings.threshold
    return best_threshold(work) if threshold == BEST else float(threshold)


def best_threshold(work: Work) -> float:
    if work.outcomes["maps"].get("threshold") is None:
        hint = "give a number, or a data set with masks"
        raise RecipeError(f"run: stage {work.stage.name}: a best background needs a truth to choose by. Hint: {hint}")
    return float(work.outcomes["maps"]["threshold"])


def threshold_at(exponent: float) -> float:
    """The constant at which a map meets (1 - m)^exponent, to the hundredth that curves are measured at."""
    return min((step / 100 for step in range(1, 100)), key=lambda value: abs(exponent_of(value) - exponent))


# ---- class patterns --------------------------------------------------------------------------------------------------------


def patterns(work: Work) -> dict[str, Any]:
    model, dataset, settings = _network(work), work.dataset(), work.settings
    drawn = dcp.sample(torch.from_numpy(np.stack([dataset.labels(name) for name in dataset.ids])), settings.images, work.seed)
    rows = drawn.any(dim=1).nonzero().flatten().tolist()
    found: dcp.ClassPatterns | None = None
    for done, row in enumerate(rows, 1):
        image = model.normalise(_pixels(work, dataset, dataset.ids[row]))
        features, cam = dcp.tap(model, image, settings.layer)
        if found is None:
            found = dcp.ClassPatterns(len(dataset.classes), features.shape[1], settings.images).to(work.device)
        found.update(features, drawn[row : row + 1].to(work.device), cam)
        work.report(done, len(rows))
        if work.stop():
            raise StoppedError
    found.finish()
    found.cpu().save(work.folder / PATTERNS, classes=dataset.classes, layer=settings.layer)
    doubtful = {"missing": found.missing, "ambiguous": found.ambiguous}
    return {"images": len(rows), **{what: [dataset.classes[c] for c in classes] for what, classes in doubtful.items()}}


def _from_patterns(work: Work, dataset: Dataset) -> Callable[[str], Iterator[tuple[str, bytes]]]:
    model, found = _network(work), dcp.ClassPatterns.load(work.inputs["patterns"] / PATTERNS).to(work.device)
    settings, source = work.settings, work.recipe.stage(work.stage.inputs["patterns"])
    refine = None if not isinstance(settings.crf, Crf) else settings.crf.arguments()

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        pixels, present = _pixels(work, dataset, name), _present(work, dataset, name)
        features, _ = dcp.tap(model, model.normalise(pixels), source.chosen().layer)
        photo = None if settings.crf is False else pixels
        mask = found.labels(found.scores(features), present.float(), tuple(pixels.shape[2:]), photo, refine)
        yield ".png", mask_png(mask[0].cpu().numpy())

    return make


# ---- segmentation ----------------------------------------------------------------------------------------------------------


def segment(work: Work) -> dict[str, Any]:
    model, dataset, settings = _network(work), work.dataset(), work.settings
    refine = settings.crf.arguments() if isinstance(settings.crf, Crf) else settings.crf

    def make(name: str) -> Iterator[tuple[str, bytes]]:
        pixels = _pixels(work, dataset, name)
        given = {name: getattr(settings, name) for name in ("scales", "flip", "reduce", "squares")}
        scores = methods.infer_segmentation(model, pixels, crf=refine, **given)
        yield ".png", mask_png(scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy())

    _each(work, dataset, ".png", make)
    return _judged(work, work.folder)


def evaluate(work: Work) -> dict[str, Any]:
    return _judged(work, work.inputs["of"], KINDS[work.recipe.stage(work.stage.inputs["of"]).kind].gives)


FUNCTIONS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "train": train,
    "maps": maps,
    "pair_labels": pairs,
    "walk": walk,
    "crf": crf,
    "masks": masks,
    "patterns": patterns,
    "segment": segment,
    "eval": evaluate,
}


def only_output(stage: Stage) -> str | None:
    """The one file that later stages read, where the rest of the folder is for people."""
    return MODEL if stage.kind == "train" else None


# ---- shared ----------------------------------------------------------------------------------------------------------------


def _each(work: Work, dataset: Dataset, suffix: str, make: Callable[[str], Iterator[tuple[str, bytes]]]) -> None:
    """Makes the files of each image that lacks the one with `suffix`, which `make` gives last."""
    folder = OutputFolder(work.folder, "run")
    try:
        for done, name in enumerate(dataset.ids, 1):
            if folder.size(f"{name}{suffix}") is None:
                with torch.inference_mode():
                    for ending, data in make(name):
                        folder.write(f"{name}{ending}", data)
            work.report(done, len(dataset))
            if work.stop():
                raise StoppedError
    finally:
        folder.close()


def _judged(work: Work, folder: Path, gives: str = "") -> dict[str, Any]:
    found = work.judge()
    if found is None:
        return {}
    measure = judge.measure_maps if (gives or KINDS[work.stage.kind].gives) == "maps" else judge.measure_masks
    return measure(folder, *found, work.report)


def _network(work: Work) -> Any:
    return checkpoint.load(work.inputs["model"] / MODEL).to(work.device)


def _pixels(work: Work, dataset: Dataset, name: str) -> Tensor:
    try:
        pixels = read_image(dataset.image_path(name), MAX_PIXELS, MAX_BYTES, "ignore").pixels
    except ImageError as error:
        raise RecipeError(f"run: stage {work.stage.name}: image {name}: {error}") from None
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].contiguous().to(work.device)


def _present(work: Work, dataset: Dataset, name: str) -> Tensor:
    return torch.from_numpy(dataset.labels(name) > 0.5)[None].to(work.device)


def _maps(work: Work, name: str, kind: str = "maps") -> tuple[np.ndarray, Tensor]:
    path = work.inputs["maps"] / f"{name}.npz"
    classes, values = read_maps(path)
    if kind != "maps":
        with np.load(path, allow_pickle=False) as file:
            values = file[kind]
    return classes, torch.from_numpy(values).to(work.device).float() / 255


def _strongest(scores: Tensor, classes: np.ndarray) -> np.ndarray:
    """Scores [1 + K, H, W], background first, to a mask; of equal ones the first."""
    values = torch.from_numpy(np.concatenate([[0], classes + 1]).astype(np.uint8))
    return values[scores.argmax(dim=0).cpu()].numpy()


def _bytes(planes: Tensor) -> np.ndarray:
    return (planes.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
