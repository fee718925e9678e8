"""The compiled module. Private: call the functions of wsss_fast.ops, which check, allocate and differentiate."""

from typing import Any

View = tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]] | None
Context = tuple[int, int, int, int]

def build_info() -> dict[str, Any]: ...
def set_simd(level: str) -> None: ...
def pcm_forward_workspace(cam: View, feature: View, context: Context) -> int: ...
def pcm_forward(
    cam: View, feature: View, eps: float, out: View, denominator: View, workspace: View, context: Context
) -> None: ...
def pcm_backward_workspace(cam: View, feature: View, context: Context) -> int: ...
def pcm_backward(
    grad: View,
    cam: View,
    feature: View,
    out: View,
    denominator: View,
    eps: float,
    grad_cam: View,
    grad_feature: View,
    workspace: View,
    context: Context,
) -> None: ...
def complementary_pair_workspace(
    image: View, segments: View, options: tuple[list[int], float, int, int], context: Context
) -> int: ...
def complementary_pair(
    image: View,
    segments: View,
    options: tuple[list[int], float, int, int],
    outputs: tuple[View, View, View, View],
    workspace: View,
    context: Context,
) -> None: ...
def dense_crf_workspace(unary: View, terms: list[tuple[View, View, int]], context: Context) -> int: ...
def dense_crf(
    unary: View,
    terms: list[tuple[View, View, int]],
    iterations: int,
    initial: View,
    message: bool,
    out: View,
    workspace: View,
    context: Context,
) -> None: ...
def slic_workspace(image: View, segments: int, context: Context) -> int: ...
def slic(
    image: View,
    mask: View,
    segments: int,
    compactness: float,
    iterations: int,
    out: View,
    workspace: View,
    context: Context,
) -> None: ...
