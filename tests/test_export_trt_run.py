"""Engines of TensorRT and TensorRT-RTX, loaded and run on a GPU. They have not run anywhere yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exported import BY_METHOD, SHAPES, Case, error_of, onnx_file
from tensorrt_wheels import plugin_library

from wsss_fast import methods
from wsss_fast.cli import main
from wsss_fast.export import load_engine, trt
from wsss_fast.export.trt.profile import parse_shapes
from wsss_fast.export.trt.spec import EngineSpec
from wsss_fast.export.verify import DIFFERENCES

pytestmark = pytest.mark.cuda
PROFILE = "1x32x32,1x96x96,3x320x320"


def brief(names: tuple[str, ...], first: tuple[str, ...]) -> list[Any]:
    """TensorRT builds for a minute and more: `first` go into every run on a GPU, the others into the long one."""
    return [pytest.param(name, marks=[] if name in first else [pytest.mark.soak]) for name in names]


@pytest.fixture(params=["trt", "trt-rtx"])
def flavour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("onnx", reason="onnx cannot be had here")
    pytest.importorskip(trt.flavour.MODULES[request.param], reason=f"{request.param} cannot be had here")
    folder = tmp_path_factory.getbasetemp() / "engines-that-run"  # one for the module
    folder.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("WSSS_CACHE", str(folder))
    return request.param


def engine(case: Case, precision: str, flavour: str, plugins: Path | None = None) -> Any:
    from wsss_fast.export.trt.run import TrtEngine

    path, record = trt.cached_engine(EngineSpec(onnx_file(case, precision), flavour, parse_shapes(PROFILE), plugins))
    return TrtEngine(path, record, torch.device("cuda"), plugins)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("method", brief(methods.NAMES, ("seam", "irn")))
def test_an_engine_gives_what_the_network_gives(method: str, precision: str, flavour: str) -> None:
    case = BY_METHOD[method]
    made, model = engine(case, precision, flavour), case.network()
    assert max(error_on_gpu(made, model, shape) for shape in SHAPES) < DIFFERENCES[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("method", brief(("seam", "cpn", "l2g"), ("cpn",)))
def test_plugin_layers_give_what_the_network_gives(method: str, precision: str, flavour: str) -> None:
    case = BY_METHOD[method]
    made, model = engine(case, precision, flavour, plugin_library()), case.network()
    assert max(error_on_gpu(made, model, shape) for shape in SHAPES) < DIFFERENCES[precision]


def error_on_gpu(made: Any, model: torch.nn.Module, shape: tuple[int, ...]) -> float:
    class OnGpu:
        def forward_cam(self, image: torch.Tensor) -> Any:
            return made.forward_cam(image.cuda())

    return error_of(OnGpu(), model, shape)


def test_two_engines_share_a_plugin_library(flavour: str) -> None:
    first, second = (engine(BY_METHOD[name], "fp32", flavour, plugin_library()) for name in ("seam", "cpn"))
    image = torch.randn(1, 3, 96, 96).cuda()
    assert all(bool(torch.isfinite(made.forward_cam(image)).all()) for made in (first, second))


def test_a_size_that_the_engine_was_not_built_for(flavour: str) -> None:
    with pytest.raises(ValueError, match=r"'image' must be within 1x32x32.*got 4x64x64\. Hint: --shapes or --profile-from"):
        engine(BY_METHOD["cam"], "fp32", flavour).forward_cam(torch.zeros(4, 3, 64, 64).cuda())


def test_the_command(flavour: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Built, verified on pictures within its sizes, loaded again from its file."""
    out = tmp_path / "cam.engine"
    source = ["--onnx", str(onnx_file(BY_METHOD["cam"])), "--engine", flavour, "--shapes", PROFILE]
    assert main(["export", *source, "--out", str(out)]) == 0
    assert "NOT verified" not in capsys.readouterr().out
    assert load_engine(out, device="cuda").maps(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[:2] == (1, 3)
