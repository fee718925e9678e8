"""slic as a torch operation: layouts, threads, compilation, bad input."""

from __future__ import annotations

import pytest
import torch
from helpers import LAYOUTS, Implementation, same_from_many_threads, threads, true_in_forked_child
from slic_cases import noise, photo, smooth

from wsss_fast import _native, ops


def inputs(kernel: Implementation, n: int = 2, h: int = 35, w: int = 43) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.stack([photo(name, h, w) for name in ("chelsea", "coffee", "rocket")[:n]])
    mask = torch.stack([smooth(h, w, i) > -0.9 for i in range(n)])
    return image.to(kernel.device), mask.to(kernel.device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernel: Implementation, layout: str) -> None:
    image, mask = inputs(kernel)
    expected = ops.slic(image, 15, 10, 4, mask, impl=kernel.name)
    image, mask = LAYOUTS[layout](image), LAYOUTS[layout](mask[:, None])
    before = image.clone(), mask.clone()
    assert torch.equal(ops.slic(image, 15, 10, 4, mask, impl=kernel.name), expected)
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1]), "an input was changed"


def test_expanded_inputs(kernel: Implementation) -> None:
    image, mask = inputs(kernel, 1)
    labels = ops.slic(image.expand(3, -1, -1, -1), 15, 10, 3, mask.expand(3, -1, -1), impl=kernel.name)
    assert all(torch.equal(one, labels[0]) for one in labels)
    grey = image[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(ops.slic(grey, 9, 10, 3, impl=kernel.name), ops.slic(grey.contiguous(), 9, 10, 3, impl=kernel.name))


def test_same_labels_every_time(kernel: Implementation) -> None:
    size = (35, 43) if kernel.name == "simt" else (150, 170)
    image, mask = inputs(kernel, 3, *size)
    results = []
    for count in (1, 2, 5, 1):
        with threads(count):
            results.append(ops.slic(image, 40, mask=mask, iterations=4, impl=kernel.name))
    assert all(torch.equal(other, results[0]) for other in results[1:])


def test_batch_is_a_loop_of_images(kernel: Implementation) -> None:
    image, mask = inputs(kernel, 3)
    whole = ops.slic(image, 15, 10, 4, mask, impl=kernel.name)
    alone = [ops.slic(image[i : i + 1], 15, 10, 4, mask[i : i + 1], impl=kernel.name) for i in range(3)]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_opcheck(kernel: Implementation) -> None:
    image, mask = inputs(kernel, h=12, w=17)
    for taken in (None, mask):
        torch.library.opcheck(torch.ops.wsss_fast.slic.default, (image, 6, 10.0, 2, taken, kernel.name))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_fullgraph(kernel: Implementation) -> None:
    image, mask = inputs(kernel, h=12, w=17)

    def one_more(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ops.slic(255 - image, 6, 10, 2, mask, impl=kernel.name) + 1

    compiled = torch.compile(one_more, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image, mask), one_more(image, mask))


def test_meta() -> None:
    labels = ops.slic(torch.empty((2, 3, 7, 9), dtype=torch.uint8, device="meta"))
    assert labels.shape == (2, 7, 9) and labels.dtype == torch.int32


def test_has_no_gradient_and_no_autocast(kernel: Implementation) -> None:
    image, _ = inputs(kernel, h=12, w=17)
    with torch.autocast(kernel.device, torch.bfloat16):
        labels = ops.slic(image, 6, 10, 2, impl=kernel.name)
    assert labels.dtype == torch.int32 and not labels.requires_grad


def test_data_loader_worker() -> None:
    image = noise(70, 90)[None]
    with threads(2):
        expected = ops.slic(image, 20)  # the parent's pool runs now
        assert true_in_forked_child(lambda: torch.equal(ops.slic(image, 20), expected))


def test_called_from_many_threads() -> None:
    image = photo("coffee", 60, 70)[None]
    assert same_from_many_threads(lambda: ops.slic(image, 20), times=80)


@pytest.mark.cuda
def test_cuda_graph_and_stream() -> None:
    image = photo("coffee", 224, 224)[None].cuda()
    expected = ops.slic(image)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.equal(ops.slic(image), expected)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = ops.slic(image)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(labels, expected)


# ---- bad input ------------------------------------------------------------------------------------------------------------

IMAGE = noise(8, 9)[None]
MASK = torch.ones((1, 8, 9), dtype=torch.bool)
BAD = {
    "array": ({"image": IMAGE.numpy()}, TypeError, r"slic: 'image' must be a torch.Tensor, got numpy.ndarray. Hint"),
    "one image": ({"image": IMAGE[0]}, ValueError, r"slic: 'image' must have shape \[N, 3, H, W\], got \[3, 8, 9\]. Hint: add"),
    "channels last": (
        {"image": IMAGE.permute(0, 2, 3, 1)},
        ValueError,
        r"slic: 'image' must have shape \[N, 3, H, W\], got \[1, 8, 9, 3\]. Hint: channels come first",
    ),
    "grey": ({"image": IMAGE[:, :1]}, ValueError, r"slic: 'image' must have shape \[N, 3, H, W\], got \[1, 1, 8, 9\]$"),
    "float": ({"image": IMAGE / 255}, TypeError, "slic: 'image' must be of type uint8, got float32. Hint: colours are 0 to 255"),
    "no segments": ({"segments": 0}, ValueError, "slic: 'segments' must be a whole number, 1 or more, got 0"),
    "half a segment": ({"segments": 1.5}, ValueError, "slic: 'segments' must be a whole number"),
    "true segments": ({"segments": True}, ValueError, "slic: 'segments' must be a whole number"),
    "compactness 0": ({"compactness": 0}, ValueError, r"slic: 'compactness' must be above 0 and at most 1e\+06, got 0"),
    "negative compactness": ({"compactness": -1.0}, ValueError, "slic: 'compactness' must"),
    "huge compactness": ({"compactness": 1e7}, ValueError, "slic: 'compactness' must"),
    "nan compactness": ({"compactness": float("nan")}, ValueError, "slic: 'compactness' must .* got nan"),
    "text compactness": ({"compactness": "10"}, ValueError, "slic: 'compactness' must .* got '10'"),
    "negative iterations": ({"iterations": -1}, ValueError, "slic: 'iterations' must be a whole number, 0 or more, got -1"),
    "mask type": ({"mask": MASK.int()}, TypeError, "slic: 'mask' must be of type bool, got int32. Hint"),
    "mask shape": ({"mask": MASK[:, :4]}, ValueError, r"slic: 'mask' must have shape \[N, H, W\] or \[N, 1, H, W\]"),
    "mask array": ({"mask": MASK.numpy()}, TypeError, "slic: 'mask' must be a torch.Tensor"),
    "mask device": ({"mask": MASK.to("meta")}, ValueError, r"slic: 'mask' must be on the device of 'image' \(cpu\), got meta"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ops.slic(**{"image": IMAGE, **arguments})


def test_the_compiled_function_checks_for_itself() -> None:
    module, context = _native.load(), (0, 0, 1, 0)
    image = (IMAGE.data_ptr(), 4, 0, 0, (1, 3, 8, 9), (216, 72, 9, 1))
    out, scratch = torch.empty((1, 8, 9), dtype=torch.int32), torch.empty(1 << 20, dtype=torch.uint8)
    labels, space = (out.data_ptr(), 5, 0, 0, (1, 8, 9), (72, 9, 1)), (scratch.data_ptr(), 4, 0, 0, (1 << 20,), (1,))
    small = (*space[:4], (16,), (1,))
    for arguments, message in (
        ((image, None, 0, 10.0, 1, labels, space), "'segments' must be 1 or more"),
        ((image, None, 5, float("nan"), 1, labels, space), "'compactness' must be above 0"),
        ((image, None, 5, 10.0, -1, labels, space), "'iterations' must be 0 or more"),
        ((image, labels, 5, 10.0, 1, labels, space), "'mask' must be of type bool"),
        ((image, None, 5, 10.0, 1, image, space), r"'out' must have shape \[N, H, W\]"),
        ((image, None, 5, 10.0, 1, labels, small), "'workspace' must hold at least"),
        (((*image[:4], (1, 3, 1 << 20, 1 << 20), image[5]), None, 5, 10.0, 1, labels, space), "fewer than 2.31 pixels"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"slic: .*{message}"):
            module.slic(*arguments, context)


def test_no_cuda_build() -> None:
    if _native.build_info()["cuda"]:
        return
    view = (16, 4, 1, 0, (1, 3, 1, 1), (3, 1, 1, 1))
    with pytest.raises(RuntimeError, match=r"slic: the input is on a CUDA device, but this build .* holds no CUDA kernels. Hint"):
        _native.load().slic_workspace(view, 5, (1, 0, 1, 0))
