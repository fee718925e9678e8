#!/usr/bin/env python3
"""Every operation once on small, awkward shapes: the program that compute-sanitizer watches.

    compute-sanitizer --tool racecheck python3 benchmarks/sanitize.py

Inputs are made on the CPU and only copied, so that no kernel but ours runs on the device. To add an operation, add a function to
OPERATIONS. `--impl simt` and `--impl cpu` run the same program without a GPU.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.ops._reference.half_disc import half_disc

BOUND = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def pcm(impl: str, device: str, dtype: torch.dtype) -> float:
    """Forward and both gradients; tiles that are partial in pixels, channels and classes; strides; two images."""
    worst = 0.0
    for n, c, d, h, w in ((1, 1, 1, 1, 1), (1, 3, 16, 5, 13), (2, 21, 195, 9, 16), (1, 40, 80, 11, 13)):
        generator = torch.Generator().manual_seed(h)
        cam = torch.rand((n, c, h, w), generator=generator).to(dtype)
        feature = torch.randn((n, d, h, w), generator=generator).to(dtype).to(memory_format=torch.channels_last)
        grad = torch.randn((n, c, h, w), generator=generator).to(dtype)
        on_device = [x.to(device) for x in (cam, feature, grad)]
        out, denominator = torch.ops.wsss_fast.pcm(*on_device[:2], 1e-5, impl)
        arguments = (on_device[2], *on_device[:2], out, denominator, 1e-5, [True, True], impl)
        grad_cam, grad_feature = torch.ops.wsss_fast.pcm_backward(*arguments)
        wide = [x.double().requires_grad_() for x in (cam, feature)]
        expected = ops.pcm(*wide, impl="reference")
        expected_grads = torch.autograd.grad(expected, wide, grad.double())
        worst = max(worst, difference(out, expected), difference(grad_cam, expected_grads[0]) / 2)
        if h * w > 1:
            worst = max(worst, difference(grad_feature, expected_grads[1]) / 20)  # a cosine near 0 may count or not
    return worst


def dense_crf(impl: str, device: str, dtype: torch.dtype) -> float:
    """Partial tiles, one label and many, shared and own lattices, each kind of compatibility."""
    worst = 0.0
    for n, labels, h, w in ((1, 1, 1, 1), (2, 3, 5, 13), (1, 21, 9, 17), (1, 34, 7, 6)):
        generator = torch.Generator().manual_seed(h)
        probability = torch.rand((n, labels, h, w), generator=generator).to(dtype)
        image = torch.randint(0, 256, (n, 3, h, w), generator=generator, dtype=torch.uint8)
        for compat in (10.0, torch.rand(labels, generator=generator), torch.rand((labels, labels), generator=generator)):
            terms = {"gaussian": (1.5, 3.0), "bilateral": (4.0, 60.0, compat)}
            got = ops.dense_crf(probability.to(device), image.to(device), iterations=3, **terms, impl=impl)
            worst = max(
                worst, difference(got, ops.dense_crf(probability.double(), image, iterations=3, **terms, impl="reference"))
            )
    return worst


def cam_merge(impl: str, device: str, dtype: torch.dtype) -> float:
    """Enlarging and shrinking, partial tiles, flips, absent classes, backgrounds, each output type."""
    worst = 0.0
    for grids, size in (([(1, 1)], (1, 1)), ([(3, 4), (5, 6), (5, 6)], (17, 261)), ([(37, 21), (5, 6)], (3, 4))):
        generator = torch.Generator().manual_seed(size[0])
        maps = [torch.rand((2, 3, *grid), generator=generator).to(dtype) for grid in grids]
        flipped = [k % 2 == 1 for k in range(len(maps))]
        present = torch.tensor([[True, False, True], [False, False, True]])
        for name, settings in ops.CAM_MERGE.items():
            background = 4 if name in ("psa", "l2g") else None
            arguments = (flipped, size, present.to(device))
            for wanted in (dtype, torch.uint8):
                whole = {**settings, "background": background, "dtype": wanted}
                got = ops.cam_merge([value.to(device) for value in maps], *arguments, **whole, impl=impl)
                wide = [value.double() for value in maps]
                expected = ops.cam_merge(wide, flipped, size, present, **whole | {"dtype": torch.float64}, impl="reference")
                if wanted == torch.uint8:
                    worst = max(worst, 1.0 if ((255 * expected) - got.cpu()).abs().max() > 0.51 else 0.0)
                else:
                    worst = max(worst, difference(got, expected))
    return worst


def prcm(impl: str, device: str, dtype: torch.dtype) -> float:
    """Forward and both gradients, each softmax and layout; tiles that are partial in pixels, channels and classes; strides."""
    worst = 0.0
    for n, c, c1, c2, h, w in ((1, 1, 1, 1, 1, 1), (2, 3, 5, 7, 5, 13), (1, 21, 195, 192, 9, 16), (2, 26, 34, 98, 11, 13)):
        generator = torch.Generator().manual_seed(h)
        maps = [torch.randn((n, channels, h, w), generator=generator).to(dtype) for channels in (c, c1, c2, c)]
        maps[1] = maps[1].to(memory_format=torch.channels_last)
        cam, x, query, grad = maps
        phi = (torch.randn((c2, c1), generator=generator) / c1**0.5).to(dtype)
        on_device = [t.to(device) for t in (cam, x, query, phi)]
        for classes, view in ((False, False), (True, True)):
            options = 0.5, classes, view, True
            out, *kept = torch.ops.wsss_fast.prcm(*on_device, *options, impl)
            arguments = (grad.to(device), on_device[0], on_device[2], *kept, *options, [True, True], impl)
            gradients = torch.ops.wsss_fast.prcm_backward(*arguments)
            wide = [query.double().requires_grad_(), phi.double().requires_grad_()]
            names = "classes" if classes else "positions", "view" if view else "transpose"
            expected = ops.prcm(cam.double(), x.double(), wide[0].relu(), wide[1], 0.5, *names, impl="reference")
            worst = max(worst, difference(out, expected))
            for got, known in zip(gradients, torch.autograd.grad(expected, wide, grad.double()), strict=True):
                if h * w > 1:  # the softmax of one pixel does not move
                    worst = max(worst, difference(got, known))
    return worst


def affinity(impl: str, device: str, dtype: torch.dtype) -> float:
    """affinity and edge_affinity, forward and gradient: channels split and not, partial tiles, a wide radius, strides."""
    worst = 0.0
    for (n, c, h, w), radius in (((1, 1, 1, 1), 5), ((1, 37, 9, 12), 5), ((2, 3, 9, 35), 5), ((1, 3, 5, 6), 14)):
        generator = torch.Generator().manual_seed(h)
        # steps that every type holds exactly: the sign of a difference is never in doubt
        feature = (torch.randint(0, 33, (n, c, h, w), generator=generator) / 32).to(dtype).to(memory_format=torch.channels_last)
        for name, x in (("affinity", feature), ("edge_affinity", feature[:, :1])):
            run, back = (getattr(torch.ops.wsss_fast, name + part) for part in ("", "_backward"))
            leaf = x.double().requires_grad_()
            expected = getattr(ops, name)(leaf, radius, impl="reference")
            grad = torch.randint(-8, 9, expected.shape, generator=generator).to(dtype)
            (expected_gradient,) = torch.autograd.grad(expected, leaf, grad.double())
            out = run(x.to(device), radius, impl)
            saved = (x.to(device), out) if name == "affinity" else (x.to(device),)
            gradient = back(grad.to(device), *saved, radius, impl)
            if h * w > 1:
                worst = max(worst, difference(out, expected), difference(gradient, expected_gradient))
    return worst


def complementary(impl: str, device: str, dtype: torch.dtype) -> float:
    """Planes that are aligned and not, segments and grids, each rule of the draw."""
    worst = 0.0
    for n, c, h, w in ((1, 3, 1, 1), (3, 2, 13, 17), (2, 3, 32, 36)):
        image = (torch.arange(n * c * h * w).reshape(n, c, h, w) % 250 + 1).to(dtype)
        segments = (torch.arange(h)[:, None] // 4 * w + torch.arange(w) // 3).int().repeat(n, 1, 1)
        segments[:, -1:, 2:] = -1
        for source in ({"segments": segments}, {"grid": (1, min(h, 5))}):
            for published in (None, "paper", "code"):
                results = []
                for name, where in ((impl, device), ("reference", "cpu")):
                    there = {key: x.to(where) if isinstance(x, Tensor) else x for key, x in source.items()}
                    settings = {"generator": torch.Generator().manual_seed(h), "published": published, "impl": name}
                    results.append(ops.complementary_pair(image.to(where), **there, **settings))
                worst = max(worst, *(difference(got, expected.double()) for got, expected in zip(*results, strict=True)))
    return worst


def random_walk(impl: str, device: str, dtype: torch.dtype) -> float:
    """On chip and out of memory, partial strips and tiles, one class and more than four, both modes and borders."""
    worst = 0.0
    for n, c, h, w, radius in ((1, 1, 1, 1, 5), (2, 5, 19, 13, 5), (1, 2, 2, 270, 5), (2, 5, 7, 12, 3), (1, 1, 4, 5, 10)):
        generator = torch.Generator().manual_seed(h)
        cam = torch.rand((n, c, h, w), generator=generator).to(dtype)
        affinity = torch.rand((n, len(half_disc(radius)), h, w), generator=generator).to(dtype)
        for mode, border, beta in (("exact", "full", 8), ("chebyshev", "published", 2.5)):
            settings = {"radius": radius, "beta": beta, "steps": 5, "mode": mode, "border": border}
            got = ops.random_walk(cam.to(device), affinity.to(device), **settings, impl=impl)
            expected = ops.random_walk(cam.double(), affinity.double(), **settings, impl="reference")
            worst = max(worst, difference(got, expected))
    return worst


def slic(impl: str, device: str, dtype: torch.dtype) -> float:
    """Partial tiles, cells from 2x2 pixels to the whole image, noise (many small segments), masks. The type does not matter."""
    worst = 0.0
    for n, h, w, segments in ((1, 1, 1, 1), (1, 17, 33, 9), (2, 40, 50, 300), (1, 35, 70, 2)):
        generator = torch.Generator().manual_seed(h)
        image = torch.randint(0, 256, (n, 3, h, w), generator=generator, dtype=torch.uint8)
        mask = torch.rand((n, h, w), generator=generator) < 0.8
        for taken in (None, mask):
            expected = ops.slic(image, segments, 20, 3, taken, impl="reference")
            there = None if taken is None else taken.to(device)
            worst = max(worst, difference(ops.slic(image.to(device), segments, 20, 3, there, impl=impl), expected.double()))
    return worst


OPERATIONS = {
    "pcm": pcm,
    "prcm": prcm,
    "affinity": affinity,
    "random_walk": random_walk,
    "slic": slic,
    "complementary": complementary,
    "dense_crf": dense_crf,
    "cam_merge": cam_merge,
}


def difference(got: Tensor, expected: Tensor) -> float:
    error = (got.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max().clamp_min(1e-30)
    return error.item() if error == error else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", default="cuda", choices=("cuda", "simt", "cpu"))
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=", ".join(OPERATIONS))
    given = parser.parse_args()
    device = "cuda" if given.impl == "cuda" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no CUDA device\n")
        return 2
    wrong = False
    for name in given.operations or OPERATIONS:
        for dtype, bound in BOUND.items():
            worst = OPERATIONS[name](given.impl, device, dtype)
            wrong = wrong or not worst <= bound
            sys.stdout.write(f"{name} {dtype}: worst relative error {worst:.1e} (bound {bound:.0e})\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
