"""prcm and pcm_prcm as torch operations: autograd, compilation, autocast, threads, streams, and bad input."""

from __future__ import annotations

import pytest
import torch
from helpers import LAYOUTS, Implementation, relative_error, same_from_many_threads, threads, true_in_forked_child
from prcm_cases import VARIANTS, inputs, reference
from torch import Tensor

from wsss_fast import ops


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradcheck(variant, layout: str) -> None:
    given = inputs((2, 3, 4, 5, 3, 2), torch.float64)
    cam, x, query = map(LAYOUTS[layout], given[:3])
    leaves = query.clone().requires_grad_(), given[3].requires_grad_()
    assert torch.autograd.gradcheck(lambda q, p: ops.prcm(cam, x, q, p, impl="cpu", **variant), leaves)
    feature = torch.randn((2, 5, 3, 2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: ops.pcm_prcm(cam, x, f, p, impl="cpu", **variant), (feature, leaves[1]))


def test_second_derivative_is_refused(kernel: Implementation) -> None:
    cam, x, query, phi = inputs((1, 2, 3, 3, 2, 2), device=kernel.device)
    out = ops.prcm(cam, x, query.requires_grad_(), phi, impl=kernel.name)
    (grad,) = torch.autograd.grad(out.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match=r"prcm: it can be differentiated once.*reference"):
        grad.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(kernel: Implementation) -> None:
    given = inputs((2, 3, 5, 6, 4, 3), device=kernel.device)
    cam, x, *leaves = given
    for options in ((0.5, False, False, False), (1.0, True, True, True)):
        marked = [leaf.clone().requires_grad_() for leaf in leaves]
        torch.library.opcheck(torch.ops.wsss_fast.prcm.default, (cam, x, *marked, *options, kernel.name))
        torch.library.opcheck(torch.ops.wsss_fast.prcm.default, (cam, x, leaves[0], marked[1], *options, kernel.name))
        out, *kept = torch.ops.wsss_fast.prcm(*given, *options, kernel.name)
        for want in ([True, True], [False, True], [True, False]):
            arguments = (torch.ones_like(out), cam, leaves[0], *kept, *options, want, kernel.name)
            torch.library.opcheck(torch.ops.wsss_fast.prcm_backward.default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(kernel: Implementation) -> None:
    cam, x, feature, phi = inputs((1, 3, 8, 9, 5, 6), device=kernel.device)
    phi.requires_grad_()

    def loss(cam: Tensor, x: Tensor, feature: Tensor, phi: Tensor) -> Tensor:
        gated = ops.prcm(cam.relu(), x, feature.relu(), phi * 2, axis="classes", impl=kernel.name)
        return (gated + ops.pcm_prcm(cam, x, feature - 0.5, phi, impl=kernel.name)).square().sum()

    expected = torch.autograd.grad(loss(cam, x, feature, phi), phi)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(cam, x, feature, phi), phi)[0]
    assert relative_error(got, expected) < 1e-4


def test_autocast(kernel: Implementation) -> None:
    cam, x, query, phi = inputs((1, 3, 8, 7, 5, 6), device=kernel.device)
    phi.requires_grad_()
    with torch.autocast(kernel.device, torch.bfloat16):
        out = ops.prcm(cam, x, query.bfloat16(), phi, impl=kernel.name)
        both = ops.pcm_prcm(cam, x, query.bfloat16(), phi, impl=kernel.name)
    assert out.dtype == both.dtype == torch.bfloat16
    assert relative_error(out, reference([cam, x, query, phi])) < 5e-2
    out.sum().backward()
    assert phi.grad.dtype == torch.float32


def test_meta() -> None:
    given = inputs((1, 3, 8, 7, 5, 6))
    assert torch.equal(ops.prcm(*given), ops.prcm(*given, impl="cpu"))
    for function in (ops.prcm, ops.pcm_prcm):
        out = function(*(x.to("meta") for x in given))
        assert out.shape == given[0].shape and out.device.type == "meta"


def test_data_loader_worker() -> None:
    given = inputs((2, 4, 16, 30, 24, 24))
    with threads(2):
        expected = ops.prcm(*given)  # the parent's pool runs now
        assert true_in_forked_child(lambda: torch.equal(ops.prcm(*given), expected))


def test_called_from_many_threads() -> None:
    given = inputs((1, 3, 12, 30, 20, 21))
    assert same_from_many_threads(lambda: ops.prcm(*given), times=160)


@pytest.mark.cuda
def test_streams() -> None:
    given = inputs((2, 21, 64, 50, 20, 20), device="cuda")
    expected = ops.prcm(*given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        out = ops.prcm(*given)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(out, expected)


@pytest.mark.cuda
def test_cuda_graph() -> None:
    given = inputs((1, 21, 195, 192, 28, 28), torch.bfloat16, "cuda")
    expected = ops.prcm(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.prcm(*given)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


# ---- bad input ------------------------------------------------------------------------------------------------------------

CAM, X, QUERY, PHI = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 4, 5), torch.rand(2, 7, 4, 5), torch.rand(7, 6)
BAD = {
    "array": (lambda: (CAM.numpy(), X, QUERY, PHI), TypeError, r"prcm: 'cam' must be a torch.Tensor, got numpy.ndarray. Hint"),
    "none": (lambda: (CAM, X, QUERY, None), TypeError, "prcm: 'phi' must be a torch.Tensor, got builtins.NoneType"),
    "three dimensions": (
        lambda: (CAM, X[0], QUERY, PHI),
        ValueError,
        r"prcm: 'x' must have shape \[N, C1, H, W\], got \[6, 4, 5\]. Hint: add",
    ),
    "convolution weight": (
        lambda: (CAM, X, QUERY, PHI[:, :, None, None]),
        ValueError,
        r"prcm: 'phi' must have shape \[C2, C1\], got \[7, 6, 1, 1\]. Hint: .*flatten",
    ),
    "other batch": (
        lambda: (CAM, X[:1], QUERY, PHI),
        ValueError,
        r"prcm: 'x' must have shape \[N, C1, H, W\] = \[2, any, 4, 5\] \(N, H, W of 'cam'\), got \[1, 6, 4, 5\]",
    ),
    "other width": (lambda: (CAM, X, QUERY[..., :4], PHI), ValueError, r"'query' must .* got \[2, 7, 4, 4\]"),
    "turned phi": (
        lambda: (CAM, X, QUERY, PHI.T),
        ValueError,
        r"prcm: 'phi' must have shape \[C2, C1\] = \[7, 6\].*, got \[6, 7\]. Hint: phi.T",
    ),
    "integers": (
        lambda: tuple(x.int() for x in (CAM, X, QUERY, PHI)),
        TypeError,
        "prcm: 'cam' must be of type float32, .* got int32. Hint: convert",
    ),
    "mixed types": (
        lambda: (CAM, X, QUERY.double(), PHI),
        TypeError,
        r"prcm: 'query' must have the type of 'cam' \(float32\), got float64",
    ),
    "mixed devices": (
        lambda: (CAM, X, QUERY, PHI.to("meta")),
        ValueError,
        r"prcm: 'phi' must be on the device of 'cam' \(cpu\), got meta",
    ),
    "sparse": (lambda: (CAM, X.to_sparse(), QUERY, PHI), TypeError, "prcm: 'x' must be a dense tensor"),
    "nan scale": (lambda: (CAM, X, QUERY, PHI, float("nan")), ValueError, "prcm: 'scale' must be a finite number, got nan"),
    "axis": (
        lambda: (CAM, X, QUERY, PHI, None, "pixels"),
        ValueError,
        "prcm: 'axis' must be 'positions' or 'classes', got 'pixels'",
    ),
    "layout": (
        lambda: (CAM, X, QUERY, PHI, None, "classes", "reshape"),
        ValueError,
        "prcm: 'layout' must be 'transpose' or 'view', got 'reshape'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ops.prcm(*make())


def test_bad_input_of_pcm_prcm() -> None:
    with pytest.raises(ValueError, match=r"prcm: 'feature' must have shape \[N, C2, H, W\] = .*N, H, W of 'cam'"):
        ops.pcm_prcm(CAM, X, QUERY[..., :4], PHI)
    with pytest.raises(ValueError, match="pcm: 'eps' must be a finite number, 0 or more, got -1"):
        ops.pcm_prcm(CAM, X, QUERY, PHI, eps=-1.0)
    with pytest.raises(TypeError, match=r"prcm: 'cam' must be a torch.Tensor, got builtins.NoneType"):
        ops.pcm_prcm(None, X, QUERY, PHI)


def test_unknown_and_unfit_implementation() -> None:
    with pytest.raises(ValueError, match="prcm: 'impl' must be None or one of reference, cpu, simt, cuda, got 'gpu'"):
        ops.prcm(CAM, X, QUERY, PHI, impl="gpu")
    with pytest.raises(ValueError, match="prcm: 'impl' must fit the device: 'cuda' needs tensors on a CUDA device"):
        ops.prcm(CAM, X, QUERY, PHI, impl="cuda")


def test_sizes_too_large_for_memory() -> None:
    """2^43 elements, expanded from one: the message says which operation wanted how much for what; nothing is harmed."""
    one = torch.rand(1, 1, 1, 1)
    cam, x = one.expand(2**20, 2**20, 2, 4), one.expand(2**20, 3, 2, 4)
    with pytest.raises(RuntimeError, match=r"prcm: no memory for 'out' of shape \[1048576, 1048576, 2, 4\], 32,768.0 GiB on cpu"):
        ops.prcm(cam, x, x, torch.rand(3, 3))


def test_the_compiled_function_checks_too() -> None:
    """Whoever comes without the Python checks gets the messages of the C++ ones."""
    from wsss_fast import _native

    module, context = _native.load(), (0, 0, 1, 0)

    def view(*shape: int, dtype: int = 0) -> tuple:
        return (64, dtype, 0, 0, shape, torch.empty(shape, device="meta").stride())

    good = view(2, 3, 4, 5), view(2, 6, 4, 5), view(2, 7, 4, 5), view(7, 6)
    assert module.prcm_forward_workspace(*good, context) > 0
    with pytest.raises(ValueError, match=r"prcm: 'phi' must have shape \[C2, C1\] = \[7, 6\], got \[6, 7\]"):
        module.prcm_forward_workspace(*good[:3], view(6, 7), context)
    with pytest.raises(ValueError, match=r"prcm: 'x' must have shape .* got \[2, 6, 4, 4\]"):
        module.prcm_forward_workspace(good[0], view(2, 6, 4, 4), *good[2:], context)
    with pytest.raises(TypeError, match="prcm: 'cam' must be of type float32, float16, bfloat16, float64, got int32"):
        module.prcm_forward_workspace(*(view(*x[4], dtype=5) for x in good), context)
    kept = view(2, 3, 4, 5), view(2, 3, 6), view(2, 7, 3)
    with pytest.raises(ValueError, match=r"prcm: 'workspace' must hold at least \d+ bytes, got 0"):
        options = 1.0, False, False, False
        module.prcm_backward(good[0], good[0], good[2], *kept, *options, good[2], None, view(0, dtype=4), context)
    with pytest.raises(ValueError, match="prcm: 'scale' must be a finite number, got inf"):
        options = float("inf"), False, False, False
        module.prcm_forward(*good, *options, good[0], *kept, view(0, dtype=4), context)


def test_no_cuda_build() -> None:
    """The compiled function itself refuses a CUDA tensor when it was built without CUDA."""
    from wsss_fast import _native

    if _native.build_info()["cuda"]:
        return
    cuda_view, phi = (16, 0, 1, 0, (1, 1, 1, 1), (1, 1, 1, 1)), (16, 0, 1, 0, (1, 1), (1, 1))
    with pytest.raises(RuntimeError, match=r"prcm: the input is on a CUDA device, but this build .* holds no CUDA kernels. Hint"):
        _native.load().prcm_forward_workspace(cuda_view, cuda_view, cuda_view, phi, (1, 0, 1, 0))
