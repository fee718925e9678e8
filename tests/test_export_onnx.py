"""The ONNX file of every network: any size, the network's numbers in ONNX Runtime, our nodes with bodies that need no library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import CASES, MORE_CASES, SEAM, SHAPES, SMALLEST, Case, eager, error_of, onnx_file
from helpers import relative_error
from onnx import TensorProto, helper

from wsss_fast import methods, ops
from wsss_fast.export import functions, load_engine, write_onnx
from wsss_fast.export.engine import EngineMeta
from wsss_fast.export.onnx import demand_dynamic

every = pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.soak) for case in MORE_CASES)],
    ids=lambda case: case.id,
)


@every
def test_a_file_gives_what_the_network_gives_at_sizes_never_traced(case: Case) -> None:
    engine, model = load_engine(onnx_file(case), device="cpu"), case.network()
    assert max(error_of(engine, model, shape) for shape in SHAPES) < 1e-4


@every
def test_a_file_is_standard_and_free_in_every_axis(case: Case) -> None:
    path = onnx_file(case)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        sizes = value.type.tensor_type.shape.dim
        assert [bool(size.dim_param) for size in sizes] == [True, False, True, True], value.name
    domains = {node.domain for node in model.graph.node}
    assert domains <= {"", "wsss"} and {entry.domain for entry in model.opset_import} <= {"", "wsss"}
    wanted = {"seam": {"Pcm"}, "l2g": {"Pcm"}, "cpn": {"Pcm", "Prcm"}, "affinitynet": {"Affinity"}}.get(case.method, set())
    assert {node.op_type for node in functions.nodes(model)} == wanted == {entry.name for entry in model.functions}
    folded = "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert folded or case.backbone == "resnet38"  # of which 15 stand behind a shortcut


def test_an_axis_that_became_a_constant_is_refused() -> None:
    model, meta = onnx.load(onnx_file(SMALLEST)), EngineMeta.of(SMALLEST.network())
    demand_dynamic(model, meta)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(RuntimeError, match="axis 0 of 'image' became the constant 2"):
        demand_dynamic(model, meta)


def test_nodes_of_ours_carry_what_a_plugin_needs() -> None:
    (node,) = functions.nodes(onnx.load(onnx_file(SEAM)))
    told = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    assert told.pop("eps") == pytest.approx(1e-5)
    assert told == {"plugin_namespace": b"wsss", "plugin_version": b"1"}
    assert list(node.output) and len(node.input) == 2
    (body,) = onnx.load(onnx_file(SEAM)).functions
    assert set(body.attribute) == {"eps", "plugin_namespace", "plugin_version"} and {n.domain for n in body.node} == {""}


def test_the_file_describes_itself() -> None:
    case, model = SEAM, SEAM.network()
    meta = load_engine(onnx_file(case), device="cpu").meta
    assert (meta.method, meta.backbone, meta.classes, meta.num_classes) == ("seam", "resnet38", ("cat", "dog", "owl"), 3)
    assert (meta.background, meta.softmax, meta.merge, meta.threshold) == ("first", False, "seam", 0.26)
    assert meta.scales == model.scales and meta.output_stride == 8 and meta.normalisation == model.normalise
    assert meta.palette[:6] == (0, 0, 0, 128, 0, 0) and len(meta.palette) == 12
    assert {"wsss_fast", "torch", "onnx", "onnxscript"} <= meta.versions.keys()
    assert meta.weights_sha256 == EngineMeta.of(model).weights_sha256
    with torch.no_grad():
        model.fc8.weight[0, 0] += 1
    assert meta.weights_sha256 != EngineMeta.of(model).weights_sha256


_ALONE = """
import json, sys
sys.modules["wsss_fast"] = sys.modules["torch"] = None
import numpy, onnxruntime
worst = 0.0
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    cases = numpy.load(path + ".npz")
    for number in range(len(cases) // 2):
        (got,) = session.run(None, {"image": cases[f"image{number}"]})
        wanted = cases[f"maps{number}"]
        worst = max(worst, float(abs(got - wanted).max() / abs(wanted).max()))
    json.loads(session.get_modelmeta().custom_metadata_map["wsss_fast"])
print(worst)
"""


def test_no_path_of_this_machine_is_in_the_file() -> None:
    whole = onnx_file(SEAM).read_bytes()
    assert b".py" not in whole and str(Path(__file__).parents[1]).encode() not in whole


def test_plain_onnx_runtime_needs_neither_our_package_nor_torch(tmp_path: Path) -> None:
    files = []
    for case in (SEAM, *(case for case in CASES if case.method in ("cpn", "affinitynet"))):
        path = tmp_path / f"{case.id}.onnx"
        path.write_bytes(onnx_file(case).read_bytes())
        model, arrays = case.network(), {}
        for number, shape in enumerate(SHAPES):
            image = torch.randn(shape)
            arrays |= {f"image{number}": image.numpy(), f"maps{number}": eager(model, image)[0].numpy()}
        np.savez(f"{path}.npz", **arrays)
        files.append(str(path))
    done = subprocess.run([sys.executable, "-c", _ALONE, *files], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


@pytest.mark.parametrize("case", [SEAM, SMALLEST], ids=lambda case: case.id)
def test_half_precision_keeps_float32_at_both_ends(case: Case) -> None:
    model, path = case.network(), onnx_file(case, "fp16")
    halves = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    assert sum(np.prod(tensor.dims) for tensor in halves) > 0.9 * sum(parameter.numel() for parameter in model.parameters())
    assert path.stat().st_size < 0.75 * onnx_file(case).stat().st_size
    engine = load_engine(path, device="cpu")
    image = torch.randn(2, 3, 65, 49)
    got = engine.forward_cam(image)
    assert got.dtype == torch.float32 and relative_error(got, eager(model, image)[0]) < 2e-2
    assert engine.identity["precision"] == "fp16"


def test_bfloat16_is_a_valid_file() -> None:
    path = onnx_file(SEAM, "bf16")
    onnx.checker.check_model(path, full_check=True)
    assert TensorProto.BFLOAT16 in {tensor.data_type for tensor in onnx.load(path).graph.initializer}


# ---- bodies of our nodes against the operations ----------------------------------------------------------------------------


def run_body(name: str, attributes: dict, *inputs: torch.Tensor, kind: int = TensorProto.FLOAT) -> torch.Tensor:
    names, _ = functions.SIGNATURES[name]
    node = helper.make_node(name, list(names), ["out"], domain="wsss", **attributes, **functions.PLUGIN)
    values = [
        helper.make_tensor_value_info(entry, kind, [None] * tensor.ndim) for entry, tensor in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph([node], "body", values, [helper.make_tensor_value_info("out", kind, [None] * 4)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("wsss", 1)]
    body = functions.body(name, attributes, 20)
    model = helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in zip(names, inputs, strict=True)})[0])


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_body_of_pcm(eps: float) -> None:
    cam, feature = torch.randn(3, 4, 5, 7), torch.randn(3, 6, 5, 7)
    feature[0, :, 1, 2] = 0
    assert relative_error(run_body("Pcm", {"eps": eps}, cam, feature), ops.pcm(cam, feature, eps)) < 1e-5


def test_body_of_pcm_keeps_its_sums_in_float32() -> None:
    """Lengths of 200 x 48 and sums over 900 places are beyond float16."""
    cam, feature = torch.rand(1, 2, 30, 30).half() * 100, (torch.randn(1, 48, 30, 30) * 200).half()
    got = run_body("Pcm", {"eps": 1e-5}, cam, feature, kind=TensorProto.FLOAT16)
    assert got.dtype == torch.float16 and relative_error(got, ops.pcm(cam.float(), feature.float())) < 1e-3


@pytest.mark.parametrize("axis", ["positions", "classes"])
@pytest.mark.parametrize("layout", ["transpose", "view"])
@pytest.mark.parametrize("rectify", [False, True])
def test_body_of_prcm(axis: str, layout: str, rectify: bool) -> None:
    cam, x, query, phi = torch.rand(2, 4, 5, 6), torch.randn(2, 7, 5, 6), torch.randn(2, 3, 5, 6), torch.randn(3, 7)
    attributes = {"scale": 0.5, "classes": int(axis == "classes"), "view": int(layout == "view"), "rectify": int(rectify)}
    wanted = ops.prcm(cam, x, query.relu() if rectify else query, phi, 0.5, axis, layout)
    assert relative_error(run_body("Prcm", attributes, cam, x, query, phi), wanted) < 1e-5


@pytest.mark.parametrize(("radius", "size"), [(2, (3, 4)), (5, (9, 11)), (5, (3, 2)), (3, (1, 1))])
def test_body_of_affinity(radius: int, size: tuple[int, int]) -> None:
    feature = torch.randn(2, 6, *size)
    got, wanted = run_body("Affinity", {"radius": radius}, feature), ops.affinity(feature, radius)
    assert relative_error(got, wanted) < 1e-5 and torch.equal(got == 0, wanted == 0)


# ---- refusals --------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")
    model = SMALLEST.network()
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        write_onnx(model, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="'classes' must name 3 classes"):
        write_onnx(model, path, classes=("cat",))
    with pytest.raises(ValueError, match="'precision' must be one of fp32, fp16, bf16"):
        write_onnx(model, path, "int8")
    with pytest.raises(OSError, match="export: cannot write"):
        write_onnx(model, tmp_path / "none" / "a.onnx")
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("not valid")))
    with pytest.raises(RuntimeError, match="not valid"):
        write_onnx(model, path)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named_with_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsss_fast._extras import require

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{name} is not installed. Hint: pip install "wsss_fast\[export\]"'):
        require(name)


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    model = methods.create("seam", 2, width=1 / 16).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write_onnx(model, tmp_path / "a.onnx", "fp16")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    json.dumps(model.description())
