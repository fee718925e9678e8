"""Images on a GPU: what is asked of it, checked with a stand-in on the CPU; and, where there is one, that the masks are the same.

What is marked cuda has never been run where these tests were written.
"""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from label_standins import BrightEngine, five_pictures, picture
from PIL import Image

import wsss_fast
from wsss_fast import methods
from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.label import refine
from wsss_fast.label.device import CPU, Device
from wsss_fast.label.graphs import Graphs
from wsss_fast.label.predict import Prediction


class StandIn:
    """For torch.cuda: notes what is asked of it, in order, by thread."""

    def __init__(self):
        self.log = []
        self._now = threading.local()

    def note(self, *what):
        self.log.append((threading.current_thread().name, *what))

    def current_stream(self, device=None):
        if not hasattr(self._now, "stream"):
            self._now.stream = Stream(self, "ordinary")
        return self._now.stream

    def Stream(self, device=None):
        return Stream(self, f"own of {threading.current_thread().name}")

    @contextlib.contextmanager
    def stream(self, stream):
        before, self._now.stream = self.current_stream(), stream
        yield
        self._now.stream = before

    # graphs: what the network did is done again by whoever replays
    recorded = None

    def graph_pool_handle(self):
        return "pool"

    def CUDAGraph(self):
        return Replayed()

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        self.note("record", pool, capture_error_mode)
        yield
        graph.replay = self.recorded


class Stream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def record_event(self):
        self.cuda.note("mark", self.name)
        return len(self.cuda.log)

    def wait_event(self, event):
        self.cuda.note("wait", self.name, event)

    def synchronize(self):
        self.cuda.note("synchronize", self.name)


class Replayed:
    replay = None


class OnStandIn(Device):
    """Tensors stay on the CPU; everything else is as on a GPU."""

    def __init__(self):
        super().__init__(torch.device("cuda"), StandIn())
        self.log = self._cuda.log
        self.torch = torch.device("cpu")

    def _pinned(self, like):
        self._cuda.note("pinned", tuple(like.shape), like.dtype)
        return torch.empty_like(like, memory_format=torch.contiguous_format)


class Guessed(BrightEngine):
    """As BrightEngine, on the stand-in."""

    def __init__(self):
        super().__init__()
        self.device = OnStandIn()

    def predict(self, pixels):
        made = super().predict(pixels)
        return Prediction(made.scores, made.maps, image=self.device.upload(pixels))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_goes_up_once_and_its_mask_comes_down_once(tmp_path, workers):
    folder, engine = five_pictures(tmp_path), Guessed()
    settings = {"walk": "image", "crf": True, "batch": 2}
    wsss_fast.label(folder, BrightEngine(), tmp_path / "cpu", workers=0, **settings)
    wsss_fast.label(folder, engine, tmp_path / "gpu", workers=workers, **settings)
    for path in (tmp_path / "cpu").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "gpu" / path.name).read_bytes()
    kinds = [what for _, what, *_ in engine.device.log]
    assert [kinds.count(kind) for kind in ("pinned", "mark", "wait", "synchronize")] == [10, 5, 5, 5]
    shapes = [rest[0] for _, what, *rest in engine.device.log if what == "pinned"]
    assert shapes.count((16, 24, 3)) == shapes.count((16, 24)) == 5


def test_a_finishing_thread_waits_for_its_image_alone():
    device = OnStandIn()
    marks = [device.mark(), device.mark()]

    def finish():
        with device.after(marks[0]):
            device.download(torch.zeros(2, 2))

    thread = threading.Thread(target=finish, name="writer")
    thread.start()
    thread.join()
    assert [entry for entry in device.log if entry[0] == "writer" and entry[1] != "pinned"] == [
        ("writer", "wait", "own of writer", marks[0]),
        ("writer", "synchronize", "own of writer"),
    ]
    assert device._cuda.current_stream().name == "ordinary"


def test_on_a_cpu_nothing_is_copied():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = CPU.upload(pixels)
    assert image.shape == (1, 3, 2, 4) and image.data_ptr() == pixels.ctypes.data
    assert CPU.mark() is None
    with CPU.after(None):
        assert CPU.download(image).ctypes.data == pixels.ctypes.data


def test_sizes_that_come_often_are_recorded_and_rare_ones_are_not():
    cuda, runs = StandIn(), []

    def run(image):
        runs.append(tuple(image.shape))
        made = image * 2
        cuda.recorded = lambda: made.copy_(image * 2)
        return made

    graphs = Graphs(run, cuda, most=2)
    inputs = [torch.full((1, side), float(n)) for n in range(6) for side in (3, 4)]
    results = [graphs(value) for value in inputs]
    for value, result in zip(inputs, results, strict=True):
        assert torch.equal(result, value * 2)  # none was overwritten by a later replay
    assert runs == [(1, 3), (1, 4)] * 3  # two passes and the recording of each
    assert [entry[1:] for entry in cuda.log] == [("record", "pool", "thread_local")] * 2
    for _ in range(4):
        graphs(torch.ones(1, 5))
    graphs(torch.ones(1, 4))
    assert runs[6:] == [(1, 5)] * 3  # the new size took the place of the least recently used one, (1, 3)
    graphs(torch.ones(1, 3))
    assert runs[9:] == [(1, 3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_stops_a_job_that_can_be_resumed(tmp_path, monkeypatch, workers):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    folder, out = five_pictures(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(refine, "_merge", full)
        with pytest.raises(OutputStoppedError, match=r"not enough memory: CUDA out of memory\. Tried to allocate 2 GiB\. Hint"):
            wsss_fast.label(folder, BrightEngine(), out, workers=workers)
    assert wsss_fast.label(folder, BrightEngine(), out, workers=0).labelled == 5


@pytest.mark.cuda
def test_masks_of_a_gpu_are_those_of_a_cpu(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(8):
        picture(n, (96, 64)).save(folder / f"{n}.png")
    (tmp_path / "labels.csv").write_text("".join(f"{n}.png,0;2\n" for n in range(8)))
    model = methods.create("cam", 3, backbone="efficientnet-lite0").eval()
    for device in ("cpu", "cuda"):
        settings = {"labels": str(tmp_path / "labels.csv"), "walk": "image", "crf": True, "device": device, "workers": 2}
        wsss_fast.label(folder, model, tmp_path / device, **settings)
    differing = []
    for path in (tmp_path / "cpu").glob("*.png"):
        masks = [np.array(Image.open(tmp_path / device / path.name)) for device in ("cpu", "cuda")]
        differing.append((masks[0] != masks[1]).mean())
    assert len(differing) == 8 and max(differing) < 0.01


@pytest.mark.cuda
def test_graphs_replay_the_network():
    model = methods.create("cam", 3, backbone="efficientnet-lite0").eval().cuda()
    graphs = Graphs(model.forward_cam)
    with torch.inference_mode():
        for n in range(5):
            image = torch.rand(1, 3, 64, 96, device="cuda") + n
            assert torch.allclose(graphs(image), model.forward_cam(image), atol=1e-4)
