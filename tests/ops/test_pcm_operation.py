"""pcm as a torch operation: autograd, compilation, autocast, threads, streams, and bad input."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import LAYOUTS, Implementation, relative_error, same_from_many_threads, threads, true_in_forked_child
from pcm_cases import inputs, reference
from torch import Tensor

from wsss_fast import ops


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradcheck(seed: int, layout: str) -> None:
    torch.manual_seed(seed)
    cam = LAYOUTS[layout](torch.rand(2, 3, 3, 2, dtype=torch.float64)).requires_grad_()
    feature = LAYOUTS[layout](torch.randn(2, 5, 3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.pcm(a, b, impl="cpu"), (cam, feature))


def test_second_derivative_is_refused(kernel: Implementation) -> None:
    cam, feature = (x.requires_grad_() for x in inputs((1, 2, 3, 2, 2), device=kernel.device))
    out = ops.pcm(cam, feature, impl=kernel.name)
    (grad,) = torch.autograd.grad(out.sum(), feature, create_graph=True)
    with pytest.raises(RuntimeError, match=r"pcm: it can be differentiated once.*reference"):
        grad.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(kernel: Implementation) -> None:
    cam, feature = inputs((2, 3, 5, 4, 3), device=kernel.device)
    leaves = cam.clone().requires_grad_(), feature.clone().requires_grad_()
    torch.library.opcheck(torch.ops.wsss_fast.pcm.default, (*leaves, 1e-5, kernel.name))
    torch.library.opcheck(torch.ops.wsss_fast.pcm.default, (cam, leaves[1], 1e-5, kernel.name))
    out, denominator = torch.ops.wsss_fast.pcm(cam, feature, 1e-5, kernel.name)
    for want in ([True, True], [False, True], [True, False]):
        arguments = (torch.ones_like(out), cam, feature, out, denominator, 1e-5, want, kernel.name)
        torch.library.opcheck(torch.ops.wsss_fast.pcm_backward.default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(kernel: Implementation) -> None:
    cam, feature = inputs((1, 3, 8, 5, 6), device=kernel.device)
    feature.requires_grad_()

    def loss(cam: Tensor, feature: Tensor) -> Tensor:
        return ops.pcm(cam.relu(), feature * 2, impl=kernel.name).square().sum()

    expected = torch.autograd.grad(loss(cam, feature), feature)[0]
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(cam, feature), feature)[0]
    assert relative_error(got, expected) < 1e-4


def test_autocast(kernel: Implementation) -> None:
    cam, feature = inputs((1, 3, 8, 5, 6), device=kernel.device)
    with torch.autocast(kernel.device, torch.bfloat16):
        out = ops.pcm(cam, feature.bfloat16(), impl=kernel.name)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, reference(cam, feature)) < 3e-2


def test_data_loader_worker() -> None:
    cam, feature = inputs((2, 4, 16, 24, 24))
    with threads(2):
        expected = ops.pcm(cam, feature)  # the parent's pool runs now
        assert true_in_forked_child(lambda: torch.equal(ops.pcm(cam, feature), expected))


def test_called_from_many_threads() -> None:
    cam, feature = inputs((1, 3, 12, 20, 21))
    assert same_from_many_threads(lambda: ops.pcm(cam, feature), times=160)


def test_releases_the_gil() -> None:
    cam, feature = inputs((1, 21, 192, 64, 64), away_from_zero=False)
    running = threading.Event()
    running.set()
    turns = 0

    def count() -> None:
        nonlocal turns
        while running.is_set():
            turns += 1

    counter = threading.Thread(target=count)
    with threads(1):
        counter.start()
        before = turns
        torch.ops.wsss_fast.pcm(cam, feature, 1e-5, "cpu")
        during = turns - before
    running.clear()
    counter.join()
    assert during > 10_000  # with the GIL held the other thread gets a few turns at most


@pytest.mark.cuda
def test_streams() -> None:
    cam, feature = inputs((2, 21, 64, 20, 20), device="cuda")
    expected = ops.pcm(cam, feature)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        out = ops.pcm(cam, feature)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(out, expected)


@pytest.mark.cuda
def test_cuda_graph() -> None:
    cam, feature = inputs((1, 21, 192, 28, 28), torch.bfloat16, "cuda")
    expected = ops.pcm(cam, feature)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.pcm(cam, feature)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


# ---- bad input ------------------------------------------------------------------------------------------------------------

CAM, FEATURE = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 4, 5)
BAD = {
    "array": (
        lambda: (CAM.numpy(), FEATURE),
        TypeError,
        r"pcm: 'cam' must be a torch.Tensor, got numpy.ndarray. Hint: torch.from_numpy",
    ),
    "none": (lambda: (CAM, None), TypeError, "pcm: 'feature' must be a torch.Tensor, got builtins.NoneType"),
    "three dimensions": (
        lambda: (CAM[0], FEATURE),
        ValueError,
        r"pcm: 'cam' must have shape \[N, C, H, W\], got \[3, 4, 5\]. Hint: add",
    ),
    "other batch": (
        lambda: (CAM, FEATURE[:1]),
        ValueError,
        r"pcm: 'feature' must have shape \[N, D, H, W\] = \[2, any, 4, 5\] \(N, H, W of 'cam'\), got",
    ),
    "other height": (lambda: (CAM, FEATURE[:, :, :3]), ValueError, r"'feature' .* got \[2, 6, 3, 5\]"),
    "same pixels": (lambda: (CAM, FEATURE.reshape(2, 6, 5, 4)), ValueError, r"'feature' .* got \[2, 6, 5, 4\]"),
    "integers": (
        lambda: (CAM.int(), FEATURE.int()),
        TypeError,
        "pcm: 'cam' must be of type float32, .* got int32. Hint: convert",
    ),
    "complex": (lambda: (CAM.cfloat(), FEATURE.cfloat()), TypeError, "pcm: 'cam' must be of type .* got complex64"),
    "mixed types": (
        lambda: (CAM, FEATURE.double()),
        TypeError,
        r"pcm: 'feature' must have the type of 'cam' \(float32\), got float64",
    ),
    "mixed devices": (
        lambda: (CAM, FEATURE.to("meta")),
        ValueError,
        r"pcm: 'feature' must be on the device of 'cam' \(cpu\), got meta",
    ),
    "sparse": (lambda: (CAM.to_sparse(), FEATURE), TypeError, "pcm: 'cam' must be a dense tensor"),
    "negative eps": (
        lambda: (CAM, FEATURE, -1.0),
        ValueError,
        "pcm: 'eps' must be a finite number, 0 or more, got -1.0",
    ),
    "nan eps": (lambda: (CAM, FEATURE, float("nan")), ValueError, "pcm: 'eps' must"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, error, message = BAD[case]
    arguments = make()
    before = CAM.clone(), FEATURE.clone()
    with pytest.raises(error, match=message):
        ops.pcm(*arguments)
    assert torch.equal(CAM, before[0]) and torch.equal(FEATURE, before[1])


def test_unknown_and_unfit_implementation() -> None:
    with pytest.raises(ValueError, match="pcm: 'impl' must be None or one of reference, cpu, simt, cuda, got 'gpu'"):
        ops.pcm(CAM, FEATURE, impl="gpu")
    with pytest.raises(
        ValueError, match="pcm: 'impl' must fit the device: 'cuda' needs tensors on a CUDA device, got tensors on cpu"
    ):
        ops.pcm(CAM, FEATURE, impl="cuda")


def test_negative_numpy_strides() -> None:
    """torch has no negative strides: such an array is refused as any array is, and right once copied, as the hint leads to."""
    flipped = CAM.numpy()[:, :, ::-1]
    with pytest.raises(TypeError, match=r"pcm: 'cam' must be a torch.Tensor, got numpy.ndarray. Hint: torch.from_numpy"):
        ops.pcm(flipped, FEATURE)
    out = ops.pcm(torch.from_numpy(flipped.copy()), FEATURE.flip(2))
    assert relative_error(out, ops.pcm(CAM, FEATURE).flip(2)) < 1e-5


def test_sizes_too_large_for_memory() -> None:
    """2^43 elements, expanded from one: the message says which operation wanted how much for what; nothing is harmed."""
    cam = torch.rand(1, 1, 1, 1).expand(2**20, 2**20, 2, 4)
    feature = torch.rand(1, 1, 1, 1).expand(2**20, 3, 2, 4)
    out, _ = torch.ops.wsss_fast.pcm(cam.to("meta"), feature.to("meta"), 1e-5, "cpu")
    assert out.shape == cam.shape
    with pytest.raises(RuntimeError, match=r"pcm: no memory for 'out' of shape \[1048576, 1048576, 2, 4\], 32,768.0 GiB on cpu"):
        ops.pcm(cam, feature)


@pytest.mark.soak
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_more_than_2_to_31_elements(device: str) -> None:
    n, h, w = 2**21 + 1, 32, 32
    cam = torch.rand(1, 1, h, w, device=device).expand(n, 1, h, w)
    feature = torch.randn(1, 1, h, w, device=device).expand(n, 1, h, w)
    out = ops.pcm(cam, feature)
    assert out.numel() > 2**31
    expected = ops.pcm(cam[:1], feature[:1])
    for image in (0, n // 2, n - 1):
        assert torch.equal(out[image], expected[0])


def test_no_cuda_build() -> None:
    """The compiled function itself refuses a CUDA tensor when it was built without CUDA."""
    from wsss_fast import _native

    if _native.build_info()["cuda"]:
        if torch.cuda.is_available():
            return
        cuda_view = (16, 0, 1, 0, (1, 1, 1, 1), (1, 1, 1, 1))
        assert _native.load().pcm_forward_workspace(cuda_view, cuda_view, (1, 0, 1, 0)) > 0
        return
    cuda_view = (16, 0, 1, 0, (1, 1, 1, 1), (1, 1, 1, 1))
    with pytest.raises(RuntimeError, match=r"pcm: the input is on a CUDA device, but this build .* holds no CUDA kernels. Hint"):
        _native.load().pcm_forward_workspace(cuda_view, cuda_view, (1, 0, 1, 0))
