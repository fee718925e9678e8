"""The registered operators and the arguments with which `torch.library.opcheck` tries them, from an operation's example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import random_walk_cases
import torch
from family import Example

Check = tuple[str, tuple[Any, ...]]  # an operator and its arguments


def pcm_checks(example: Example, impl: str) -> Iterator[Check]:
    cam, feature = example.tensors.values()
    leaves = cam.clone().requires_grad_(), feature.clone().requires_grad_()
    yield "pcm", (*leaves, 1e-5, impl)
    yield "pcm", (cam, leaves[1], 1e-5, impl)
    out, denominator = torch.ops.wsss_fast.pcm(cam, feature, 1e-5, impl)
    for want in ([True, True], [False, True], [True, False]):
        yield "pcm_backward", (torch.ones_like(out), cam, feature, out, denominator, 1e-5, want, impl)


def prcm_checks(example: Example, impl: str) -> Iterator[Check]:
    cam, x, *leaves = example.tensors.values()
    for options in ((0.5, False, False, False), (1.0, True, True, True)):
        marked = [leaf.clone().requires_grad_() for leaf in leaves]
        yield "prcm", (cam, x, *marked, *options, impl)
        yield "prcm", (cam, x, leaves[0], marked[1], *options, impl)
        out, *kept = torch.ops.wsss_fast.prcm(cam, x, *leaves, *options, impl)
        for want in ([True, True], [False, True], [True, False]):
            yield "prcm_backward", (torch.ones_like(out), cam, leaves[0], *kept, *options, want, impl)


def affinity_checks(name: str, example: Example, impl: str) -> Iterator[Check]:
    x, radius = next(iter(example.tensors.values())), example.settings["radius"]
    yield name, (x, radius, impl)
    yield name, (x.clone().requires_grad_(), radius, impl)
    out = getattr(torch.ops.wsss_fast, name)(x, radius, impl)
    saved = (x, out) if name == "affinity" else (x,)
    yield f"{name}_backward", (torch.ones_like(out), *saved, radius, impl)


def random_walk_checks(example: Example, impl: str) -> Iterator[Check]:
    for radius in (5, 2):
        tensors = random_walk_cases.inputs((2, 3, 4, 3), radius, device=example.tensors["cam"].device)
        for leaves in (tensors, [x.clone().requires_grad_() for x in tensors]):
            yield "random_walk", (*leaves, radius, 8.0, 4, False, 1e-3, False, impl)


def slic_checks(example: Example, impl: str) -> Iterator[Check]:
    for mask in (None, example.tensors["mask"]):
        yield "slic", (example.tensors["image"], 6, 10.0, 2, mask, impl)


def complementary_checks(example: Example, impl: str) -> Iterator[Check]:
    image, segments = example.tensors.values()
    for leaf in (image, image.clone().requires_grad_()):
        for source in ((segments, torch.tensor(17), []), (None, torch.tensor(17), [2, 3])):
            yield "complementary_pair", (leaf, *source, 0.5, "", impl)


def dense_crf_checks(example: Example, impl: str) -> Iterator[Check]:
    device, generator = example.tensors["image"].device, torch.Generator().manual_seed(1)
    unary = torch.rand((2, 3, 4, 5), generator=generator).to(device)
    features = [torch.randn((n, d, 4, 5), generator=generator).to(device) for n, d in ((1, 2), (2, 5))]
    compats = [torch.tensor([3.0], device=device), torch.eye(3, device=device)]
    for initial, message in ((None, False), (torch.softmax(unary, 1), False), (None, True)):
        yield "dense_crf", (unary, features, compats, [3, 0], 2, initial, message, impl)


def cam_merge_checks(example: Example, impl: str) -> Iterator[Check]:
    maps, present = example.tensors.values()
    flipped, choices = example.settings["flipped"], ("sum", "minmax", "after", "bilinear", False)
    yield "cam_merge", (maps, flipped, [9, 11], None, *choices, None, "float32", 1e-5, 1.0, 1, impl)
    yield "cam_merge", (maps, flipped, [9, 11], present, *choices, 4.0, "uint8", 1e-5, 0.5, 16, impl)


CHECKS: dict[str, Callable[[Example, str], Iterator[Check]]] = {
    "pcm": pcm_checks,
    "prcm": prcm_checks,
    "affinity": partial(affinity_checks, "affinity"),
    "edge_affinity": partial(affinity_checks, "edge_affinity"),
    "random_walk": random_walk_checks,
    "slic": slic_checks,
    "complementary_pair": complementary_checks,
    "dense_crf": dense_crf_checks,
    "cam_merge": cam_merge_checks,
}
