"""Engines: each stands where the network stood, on its own device, with its own threads, and no other in its place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exported import SEAM, SHAPES, SMALLEST, Case, error_of, onnx_file
from helpers import relative_error

from wsss_fast import export, methods
from wsss_fast.export import aoti, load_engine, ort, source
from wsss_fast.export.engine import Engine, EngineMeta
from wsss_fast.nets import weights

DEEPLAB = Case("deeplab", "resnet38", (("head", "aspp"),))
IRN = Case("irn", "resnet50")


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_an_engine_infers_as_the_network_does() -> None:
    model, image = SEAM.network(), pixels(2, 3, 70, 91)
    present = torch.tensor([[True, False, True], [False, True, True]])
    wanted = methods.infer_cam(model, image, scales=(0.5, 1.0), present=present)
    for engine in (load_engine(model, "torch", "cpu"), load_engine(onnx_file(SEAM), device="cpu")):
        assert isinstance(engine, Engine)
        # maps are divided by their maxima: what rounding leaves grows
        assert relative_error(methods.infer_cam(engine, image, scales=(0.5, 1.0), present=present), wanted) < 1e-3
        assert relative_error(engine.maps(image), model.objects(model.forward_cam(model.normalise(image)))) < 1e-4
        assert engine.maps(image).shape == (2, 3, 9, 12)


@pytest.mark.parametrize("case", [SEAM, SMALLEST, DEEPLAB, IRN], ids=lambda case: case.id)
def test_the_network_in_pytorch_is_one_of_them(case: Case) -> None:
    model = case.network()
    engine = load_engine(model, device="cpu")
    assert max(error_of(engine, model, shape) for shape in SHAPES) < 1e-4
    assert engine.identity["engine"] == "torch" and engine.identity["weights_sha256"] == EngineMeta.of(model).weights_sha256


def test_an_engine_tells_what_it_is() -> None:
    first, second = (load_engine(onnx_file(SEAM, precision), device="cpu") for precision in ("fp32", "fp16"))
    assert first.identity["file_sha256"] != second.identity["file_sha256"]
    assert first.identity["weights_sha256"] == second.identity["weights_sha256"]
    assert {"engine": "ort", "device": "cpu", "precision": "fp16"}.items() <= second.identity.items()
    assert load_engine(first) is first


def test_networks_without_class_maps_say_so() -> None:
    engine = load_engine(IRN.network(), device="cpu")
    edge, displacement = engine.forward_cam(engine.normalise(pixels(1, 3, 64, 48)))
    assert edge.shape == (1, 1, 16, 12) and displacement.shape == (1, 2, 16, 12) and engine.meta.output_stride == 4
    with pytest.raises(ValueError, match="'irn' gives edge and displacement, no class maps"):
        engine.maps(pixels(1, 3, 64, 48))


def test_onnx_runtime_shares_memory_with_torch() -> None:
    engine = load_engine(onnx_file(SMALLEST), device="cpu")
    image = torch.randn(1, 3, 48, 64)
    wide = torch.cat([image, image], dim=3)[..., :64]
    outputs = [engine.forward_cam(image), engine.forward_cam(wide), engine.forward_cam(torch.randn(1, 3, 48, 64))]
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    kept = outputs[0].clone()
    del engine
    outputs[2].zero_()
    assert torch.equal(outputs[0], kept)  # each result is memory of its own, and outlives the engine


def test_threads_are_those_of_torch_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []
    made = onnxruntime.InferenceSession

    def spy(path: str, settings: onnxruntime.SessionOptions, **rest: object) -> onnxruntime.InferenceSession:
        seen.append(settings.intra_op_num_threads)
        return made(path, settings, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    load_engine(onnx_file(SMALLEST), device="cpu")
    load_engine(onnx_file(SMALLEST), device="cpu", threads=3)
    assert seen == [torch.get_num_threads(), 3]


def test_no_provider_stands_in_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"this onnxruntime has no CUDAExecutionProvider\. Hint: pip uninstall onnxruntime"):
        ort.session(onnx_file(SMALLEST), torch.device("cuda"))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="'device' must be a device of this machine, got 'cuda'"):
            load_engine(onnx_file(SMALLEST), device="cuda")
    import onnxruntime

    made = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, settings, providers: made(path, settings, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(RuntimeError, match=r"runs .* on CPUExecutionProvider, asked for CUDAExecutionProvider"):
        ort.session(onnx_file(SMALLEST), torch.device("cuda"))


@pytest.mark.cuda
def test_onnx_runtime_on_cuda() -> None:
    model = SEAM.network()
    engine = load_engine(onnx_file(SEAM), device="cuda")
    image = torch.randn(2, 3, 81, 65)
    got = engine.forward_cam(image.cuda())
    assert got.is_cuda and relative_error(got, model.forward_cam(image)) < 1e-3


def test_a_checkpoint_becomes_any_engine(tmp_path: Path) -> None:
    model, path = SMALLEST.network(), tmp_path / "a.safetensors"
    weights.save_checkpoint(path, model, {**model.description(), "classes": ["a", "b", "c"]})
    for kind in ("torch", "ort"):
        engine = load_engine(path, kind, "cpu")
        assert engine.identity["engine"] == kind and engine.meta.classes == ("a", "b", "c")
        assert error_of(engine, model, SHAPES[0]) < 1e-4
    with pytest.raises(ValueError, match="shapes differ"):
        load_engine(path, device="cpu", num_classes=4)


def test_random_weights_are_those_of_their_seed() -> None:
    state = torch.get_rng_state()
    first, again, other = (source.random("seam", seed, 3, width=1 / 16) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    hashes = [EngineMeta.of(model).weights_sha256 for model in (first, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_refusals(tmp_path: Path) -> None:
    file = onnx_file(SMALLEST)
    wrong = {
        "'engine' must be one of torch, ort, trt, aoti, got 'openvino'": {"model": file, "engine": "openvino"},
        "'engine' must be ort or trt": {"model": file, "engine": "torch"},
        "'device' must be auto, cpu or cuda": {"model": file, "device": "tpu"},
        "'threads' must be a whole number": {"model": file, "threads": 0},
        "'precision' is decided in": {"model": file, "precision": "fp16"},
        "'num_classes' is decided in the built-in model": {"model": "efficientnet-lite0", "num_classes": 3},
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            load_engine(**{"device": "cpu", **arguments})
    with pytest.raises(TypeError, match="'model' must be a file, a name, a network or an engine, got int"):
        load_engine(3)
    with pytest.raises(FileNotFoundError, match=r"'none.onnx' does not exist"):
        load_engine("none.onnx", device="cpu")
    with pytest.raises(FileNotFoundError, match="'model' must be a file or a known name, got 'efficientnet'"):
        load_engine("efficientnet", device="cpu")
    with pytest.raises(AttributeError):
        export.nothing  # noqa: B018
    broken = tmp_path / "a.pt2"
    broken.write_bytes(b"PK no package")
    with pytest.raises(ValueError, match="cannot be opened as an AOTInductor package"):
        load_engine(broken, device="cpu")
    with pytest.raises(ValueError, match=r"must end in \.pt2"):
        aoti.write_aoti(SMALLEST.network(), tmp_path / "a.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("case", [SMALLEST, SEAM, IRN], ids=lambda case: case.id)
def test_aoti(case: Case, tmp_path: Path) -> None:
    """Minutes of compiling."""
    from wsss_fast.export.inspect import inspect

    model, path = case.network(), tmp_path / "a.pt2"
    meta = aoti.write_aoti(model, path)
    engine = load_engine(path, device="cpu")
    assert engine.meta == meta and engine.identity["engine"] == "aoti"
    assert max(error_of(engine, model, shape) for shape in SHAPES) < 1e-4
    assert inspect(path)["network"]["method"] == case.method and inspect(path)["device"] == "cpu"
