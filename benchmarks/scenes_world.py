#!/usr/bin/env python3
"""How difficult the synthetic world is: python benchmarks/scenes_world.py [IMAGES]

Prints the numbers of docs/scenes.md. The classifiers are simple on purpose (softmax regression on histograms): they show how much
of a class can be read from the colours of the body and of the part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from wsss_fast.data.scenes import CLASSES, Scene, SceneSettings, make_scene

BINS = 6
SETTINGS = SceneSettings()


def histogram(scene: Scene, where: np.ndarray) -> np.ndarray:
    """Root of the shares of BINS^3 colours."""
    bins = (scene.image[where] // (256 // BINS + 1)).astype(np.intp)
    counts = np.bincount((bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2], minlength=BINS**3)
    return np.sqrt(counts / max(1, counts.sum()))


def objects(scenes: list[Scene], pixels: Callable[[Scene, np.ndarray], np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Histograms of chosen pixels of every class in every image, and the class."""
    rows = [(histogram(scene, pixels(scene, scene.mask == label + 1)), label) for scene in scenes for label in scene.labels]
    return torch.tensor(np.stack([row[0] for row in rows]), dtype=torch.float32), torch.tensor([row[1] for row in rows])


def accuracy(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """Of softmax regression: the class, and whether the family was right."""
    weight = torch.zeros(train[0].shape[1], len(CLASSES), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=60)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = cross_entropy(train[0] @ weight, train[1]) + 1e-3 * weight.square().sum() / len(CLASSES)
        value.backward()
        return value

    optimiser.step(loss)
    answer = (test[0] @ weight).argmax(1)
    families = torch.tensor([sorted({look.family for look in CLASSES}).index(look.family) for look in CLASSES])
    return (answer == test[1]).float().mean().item(), (families[answer] == families[test[1]]).float().mean().item()


def f_measure(scene: Scene) -> float:
    """Of the saliency map cut at a half, with beta^2 = 0.3."""
    kept = scene.mask < 255
    found, truth = (scene.saliency >= 128)[kept], (scene.mask > 0)[kept]
    both = (found & truth).sum()
    precision, recall = both / max(1, found.sum()), both / max(1, truth.sum())
    return 1.3 * precision * recall / max(1e-9, 0.3 * precision + recall)


def describe(split: str, scenes: list[Scene]) -> list[str]:
    share = [((scene.mask > 0) & (scene.mask < 255)).mean() for scene in scenes]
    counts = np.bincount([len(scene.labels) for scene in scenes], minlength=4)[1:] / len(scenes)
    lines = [
        f"{split}: {len(scenes)} images",
        f"  1, 2, 3 classes an image    {', '.join(f'{value:.2f}' for value in counts)}",
        f"  pixels of objects           {np.mean(share):.3f} (a tenth below {np.quantile(share, 0.1):.3f}, "
        f"a tenth above {np.quantile(share, 0.9):.3f}); void {np.mean([(scene.mask == 255).mean() for scene in scenes]):.3f}",
        f"  part, of an object's pixels {1 - np.mean([scene.body_only for scene in scenes]):.3f}",
        f"  saliency, mean F            {np.mean([f_measure(scene) for scene in scenes]):.3f}",
    ]
    for label, look in enumerate(CLASSES):
        if look.context:
            has = [look.context in scene.contexts for scene in scenes if label in scene.labels]
            goes = [label in scene.labels for scene in scenes if look.context in scene.contexts]
            where = f"{look.name} where {look.context}: {np.mean(goes):.2f}"
            lines.append(f"  {look.context} with {look.name}: {np.mean(has):.2f}; {where}")
    return lines


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    splits = {"train": count, "test": 3 * count // 10}
    worlds = {split: [make_scene(SETTINGS, 0, split, index) for index in range(size)] for split, size in splits.items()}
    lines = [line for split, scenes in worlds.items() for line in describe(split, scenes)]
    views = {"body": lambda scene, inside: inside & ~scene.part, "part": lambda scene, inside: inside & scene.part}
    for name, pixels in views.items():
        right, family = accuracy(*(objects(scenes, pixels) for scenes in worlds.values()))
        lines.append(f"class from the colours of the {name} alone: {right:.3f} (family {family:.3f})")
    sys.stdout.write(f"settings {SETTINGS.digest()}\n" + "\n".join(lines) + "\n")
