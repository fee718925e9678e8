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
def prcm_forward_workspace(cam: View, x: View, query: View, phi: View, context: Context) -> int: ...
def prcm_forward(
    cam: View,
    x: View,
    query: View,
    phi: View,
    scale: float,
    over_classes: bool,
    view: bool,
    rectify: bool,
    out: View,
    gate: View,
    proxy: View,
    key: View,
    workspace: View,
    context: Context,
) -> None: ...
def prcm_backward_workspace(grad: View, cam: View, query: View, gate: View, proxy: View, key: View, context: Context) -> int: ...
def prcm_backward(
    grad: View,
    cam: View,
    query: View,
    gate: View,
    proxy: View,
    key: View,
    scale: float,
    over_classes: bool,
    view: bool,
    rectify: bool,
    grad_query: View,
    grad_phi: View,
    workspace: View,
    context: Context,
) -> None: ...
def affinity_forward_workspace(feature: View, radius: int, context: Context) -> int: ...
def affinity_forward(feature: View, radius: int, out: View, workspace: View, context: Context) -> None: ...
def affinity_backward_workspace(feature: View, radius: int, context: Context) -> int: ...
def affinity_backward(
    grad: View, feature: View, out: View, radius: int, grad_feature: View, workspace: View, context: Context
) -> None: ...
def edge_affinity_forward_workspace(edge: View, radius: int, context: Context) -> int: ...
def edge_affinity_forward(edge: View, radius: int, out: View, workspace: View, context: Context) -> None: ...
def edge_affinity_backward_workspace(edge: View, radius: int, context: Context) -> int: ...
def edge_affinity_backward(grad: View, edge: View, radius: int, grad_edge: View, workspace: View, context: Context) -> None: ...
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
    probability: bool,
    terms: list[tuple[View, View, int]],
    iterations: int,
    initial: View,
    message: bool,
    out: View,
    workspace: View,
    context: Context,
) -> None: ...
def random_walk_workspace(
    cam: View, affinity: View, settings: tuple[int, float, int, bool, float, bool], context: Context
) -> int: ...
def random_walk(
    cam: View,
    affinity: View,
    settings: tuple[int, float, int, bool, float, bool],
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
def cam_merge_workspace(
    maps: list[View], settings: tuple[bool, bool, bool, bool, bool, bool, float, float, float, int], out: View, context: Context
) -> int: ...
def cam_merge(
    maps: list[View],
    flipped: list[bool],
    present: View,
    settings: tuple[bool, bool, bool, bool, bool, bool, float, float, float, int],
    out: View,
    workspace: View,
    context: Context,
) -> None: ...
