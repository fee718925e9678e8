"""affinity and edge_affinity as torch operations: autograd, compilation, autocast, threads, streams, and bad input."""

from __future__ import annotations

import pytest
import torch
from affinity_cases import BOTH, Case
from helpers import LAYOUTS, Implementation, relative_error, same_from_many_threads, threads, true_in_forked_child
from torch import Tensor

from wsss_fast import _native, ops


@pytest.fixture(params=BOTH, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.mark.parametrize("how", ["cpu", "reference"])
@pytest.mark.parametrize("radius", [2, 4])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradcheck(case: Case, how: str, radius: int, layout: str) -> None:
    # a permutation: no two values so near that a finite difference crosses the kink
    x = torch.randperm(2 * (case.channels or 3) * 12, dtype=torch.float64).div(30).reshape(2, -1, 4, 3)
    x = LAYOUTS[layout](x).requires_grad_()
    # the whole Jacobian for the kernel; a random projection for the definition, whose graph is large
    assert torch.autograd.gradcheck(lambda x: case.call(x, radius, impl=how), (x,), fast_mode=how == "reference")


def test_second_derivative_is_refused(case: Case, kernel: Implementation) -> None:
    x = case.input((1, 2, 3, 4), device=kernel.device).requires_grad_()
    (gradient,) = torch.autograd.grad(case.call(x, 3, impl=kernel.name).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"{case.name}: it can be differentiated once.*reference"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(case: Case, kernel: Implementation) -> None:
    x = case.input((2, 3, 4, 5), device=kernel.device)
    forward = getattr(torch.ops.wsss_fast, case.name).default
    backward = getattr(torch.ops.wsss_fast, f"{case.name}_backward").default
    torch.library.opcheck(forward, (x, 3, kernel.name))
    torch.library.opcheck(forward, (x.clone().requires_grad_(), 3, kernel.name))
    out = forward(x, 3, kernel.name)
    saved = (x, out) if case.channels is None else (x,)
    torch.library.opcheck(backward, (torch.ones_like(out), *saved, 3, kernel.name))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(case: Case, kernel: Implementation) -> None:
    x = case.input((1, 3, 5, 6), device=kernel.device).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return ops.affinity_pairs(case.call(x * 2, 2, impl=kernel.name), 2).square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), x)
    assert relative_error(got, expected) < 1e-5


def test_autocast(case: Case, kernel: Implementation) -> None:
    x = case.input((1, 3, 5, 6), device=kernel.device)
    with torch.autocast(kernel.device, torch.bfloat16):
        out = case.call(x, 5, impl=kernel.name)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, case.exact(x, 5)[0]) < 1e-2


def test_meta(case: Case) -> None:
    x = torch.empty(2, case.channels or 7, 5, 6, dtype=torch.float16, device="meta")
    out = case.call(x, 10)
    assert (out.shape, out.dtype, out.device.type) == ((2, 152, 5, 6), torch.float16, "meta")


def test_data_loader_worker(case: Case) -> None:
    x = case.input((1, 16, 24, 24))  # small enough for torch.equal not to need torch's own threads
    with threads(2):
        expected = case.call(x, 5)  # the parent's pool runs now
        assert true_in_forked_child(lambda: torch.equal(case.call(x, 5), expected))


def test_called_from_many_threads(case: Case) -> None:
    x = case.input((1, 12, 20, 21))
    grad = torch.ones(1, 34, 20, 21)
    assert same_from_many_threads(lambda: case.run(x, 5, grad, "cpu")[1], times=80)


@pytest.mark.cuda
def test_streams(case: Case) -> None:
    x = case.input((2, 64, 20, 20), device="cuda")
    expected = case.call(x, 5)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        out = case.call(x, 5)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(out, expected)


@pytest.mark.cuda
def test_cuda_graph(case: Case) -> None:
    x = case.input((1, 448, 28, 28), torch.bfloat16, "cuda")
    expected = case.call(x, 5)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.call(x, 5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


# ---- bad input ------------------------------------------------------------------------------------------------------------

FEATURE, LABELS = torch.rand(2, 6, 4, 5), torch.zeros(2, 4, 5, dtype=torch.uint8)
BAD = {
    "array": (lambda: ops.affinity(FEATURE.numpy()), TypeError, r"affinity: 'feature' must be a torch.Tensor, .*ndarray. Hint"),
    "three dimensions": (
        lambda: ops.affinity(FEATURE[0]),
        ValueError,
        r"affinity: 'feature' must have shape \[N, C, H, W\], got \[6, 4, 5\]. Hint: add",
    ),
    "integers": (lambda: ops.affinity(FEATURE.int()), TypeError, "affinity: 'feature' must be of type float32, .* got int32"),
    "sparse": (lambda: ops.affinity(FEATURE.to_sparse()), TypeError, "affinity: 'feature' must be a dense tensor"),
    "radius 0": (lambda: ops.affinity(FEATURE, 0), ValueError, "affinity: 'radius' must be a whole number from 1 to 32, got 0"),
    "radius 33": (
        lambda: ops.affinity(FEATURE, 33),
        ValueError,
        "affinity: 'radius' must be a whole number from 1 to 32, got 33",
    ),
    "radius 2.5": (lambda: ops.affinity(FEATURE, 2.5), ValueError, "affinity: 'radius' must be a whole number .* got 2.5"),
    "radius True": (
        lambda: ops.affinity_offsets(True),
        ValueError,
        "affinity_offsets: 'radius' must be a whole number .* got True",
    ),
    "implementation": (lambda: ops.affinity(FEATURE, impl="gpu"), ValueError, "affinity: 'impl' must be None or one of"),
    "device": (lambda: ops.affinity(FEATURE, impl="cuda"), ValueError, "affinity: 'impl' must fit the device"),
    "two edges": (
        lambda: ops.edge_affinity(FEATURE, 5),
        ValueError,
        r"edge_affinity: 'edge' must have shape \[N, 1, H, W\] = \[any, 1, any, any\].*, got \[2, 6, 4, 5\]",
    ),
    "edge radius": (lambda: ops.edge_affinity(FEATURE[:, :1], -1), ValueError, "edge_affinity: 'radius' must be a whole number"),
    "planes of another radius": (
        lambda: ops.affinity_pairs(FEATURE),
        ValueError,
        r"affinity_pairs: 'planes' must have shape .* = \[any, 34, any, any\] \(E for radius 5\), got \[2, 6, 4, 5\]",
    ),
    "float labels": (lambda: ops.affinity_labels(LABELS.float()), TypeError, "affinity_labels: 'labels' must be of type uint8"),
    "label channels": (
        lambda: ops.affinity_labels(LABELS[None]),
        ValueError,
        r"affinity_labels: 'labels' must have shape \[N, H, W\]",
    ),
    "border": (
        lambda: ops.affinity_labels(LABELS, border="half"),
        ValueError,
        "affinity_labels: 'border' must be 'full' or 'published', got 'half'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_sizes_too_large_for_memory(case: Case) -> None:
    x = torch.rand(1, 1, 1, 1).expand(2**20, 1, 2**10, 2**8)
    with pytest.raises(RuntimeError, match=rf"{case.name}: no memory for 'out' .* 34, 1024, 256\], 34,816.0 GiB"):
        case.call(x, 5)


VIEW = (16, 0, 0, 0, (1, 1, 3, 4), (12, 12, 4, 1))
PLANES = (16, 0, 0, 0, (1, 12, 3, 4), (144, 12, 4, 1))
CPU = (0, 0, 1, 0)


def test_the_compiled_function_checks_too(case: Case) -> None:
    """Called without the Python checks, they refuse what does not fit before they touch memory."""
    module = _native.load()
    forward, backward = (getattr(module, f"{case.name}_{part}") for part in ("forward", "backward"))
    workspace = getattr(module, f"{case.name}_forward_workspace")
    planes = (PLANES, VIEW, PLANES) if case.channels is None else (PLANES, VIEW)
    for radius in (0, -(2**40), 33, 2**40):
        with pytest.raises(ValueError, match=rf"{case.name}: 'radius' must be a whole number from 1 to 32, got {radius}"):
            workspace(VIEW, radius, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'out' must have shape \[N, E, H, W\] = \[1, 34, 3, 4\], got"):
        forward(VIEW, 5, PLANES, None, CPU)
    with pytest.raises(TypeError, match=rf"{case.name}: 'out' must have the type of"):
        forward(VIEW, 3, (16, 2, *PLANES[2:]), None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'out' must be contiguous"):
        forward(VIEW, 3, (*PLANES[:5], (144, 1, 48, 12)), None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'workspace' must hold at least \d+ bytes, got"):
        forward(VIEW, 3, PLANES, None, CPU)
    with pytest.raises(ValueError, match=rf"{case.name}: 'grad_\w+' must have shape"):
        backward(*planes, 3, PLANES, None, CPU)
    if not _native.build_info()["cuda"]:
        with pytest.raises(RuntimeError, match=rf"{case.name}: the input is on a CUDA device, but this build .* holds no CUDA"):
            workspace((16, 0, 1, 0, *VIEW[4:]), 5, (1, 0, 1, 0))
