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


OPERATIONS = {"pcm": pcm, "dense_crf": dense_crf, "random_walk": random_walk}


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
