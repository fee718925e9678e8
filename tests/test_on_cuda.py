"""What only a GPU can show of training and labelling. Kernels have their own tests; engines are in test_export_engines.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training import RandomFeed, fit, narrow
from training_cases import NAMES, shapes, small

import wsss_fast
from wsss_fast.train.processes import Processes

pytestmark = pytest.mark.cuda


def on_gpu(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_step_of_each_method(name: str, dtype: torch.dtype | None) -> None:
    training = small(name, crop=64).cuda()
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        terms = training(on_gpu(shapes(64, 4)))
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    (terms["total"] * (1024 if dtype is torch.float16 else 1)).backward()
    gradients = [weight.grad for weight in training.parameters() if weight.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_the_cpu(name: str) -> None:
    training, batch = small(name, crop=64), shapes(64, 4)
    for layer in training.modules():
        if isinstance(layer, torch.nn.Dropout2d):
            layer.p = 0.0
    torch.manual_seed(1)
    expected = training(batch)
    torch.manual_seed(1)
    got = training.cuda()(on_gpu(batch))
    for term, value in expected.items():
        torch.testing.assert_close(got[term].cpu(), value, rtol=1e-3, atol=1e-4, msg=f"{name}: {term}")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loop(tmp_path: Path, precision: str) -> None:
    device = torch.device("cuda")
    training = narrow().to(device)
    outcome = fit(tmp_path, training, RandomFeed(), Processes(device), precision=precision)
    assert outcome.step == outcome.steps and (tmp_path / "model.safetensors").exists()


def test_labels_are_those_of_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(shapes(96, 4)["pixels"]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{index}.png")
    settings = {"method": "cam", "random_weights": 0, "num_classes": 3, "walk": "image", "crf": True}
    for device in ("cpu", "cuda"):
        summary = wsss_fast.label(tmp_path / "images", out=tmp_path / device, device=device, **settings)
        assert summary.labelled == 4
    for index in range(4):
        masks = [torch.tensor(list(Image.open(tmp_path / device / f"{index}.png").tobytes())) for device in ("cpu", "cuda")]
        assert float((masks[0] == masks[1]).float().mean()) > 0.98
