"""load_checkpoint: published layouts, and files that are broken, foreign or malicious."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss_fast import nets
from wsss_fast.nets import mxnet_params, weight_names, weights

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"
KEYS = (
    "cam_resnet38",
    "seam_resnet38",
    "cpn_resnet38",
    "eps_resnet38",
    "l2g_resnet38",
    "affinitynet_resnet38",
    "deeplabv2_resnet101",
)


class Named(nn.Module):
    """A module whose state dict has exactly the given names."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_buffer(leaf, torch.zeros(shape))


def small(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The same names and numbers of dimensions: what is tested is names."""
    return {name: [min(size, 2) for size in shape] for name, shape in shapes.items()}


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}


def assert_filled(module: nn.Module, values: dict[str, Tensor]) -> None:
    own = module.state_dict()
    assert all(torch.equal(own[name], value) for name, value in values.items())


TINY = {
    "conv1a.weight": [2, 3, 1, 1],
    "b2.bn_branch2a.running_mean": [2],
    "b2.bn_branch2a.num_batches_tracked": [],
    "fc8.weight": [4, 2, 1, 1],
}


@pytest.mark.parametrize("name", KEYS)
def test_oracle_every_published_list_of_names_is_taken(name: str, tmp_path: Path) -> None:
    file = ORACLE / f"{name}.keys.json"
    if not file.is_file():
        pytest.skip("the oracle files are not beside the repository")
    shapes = small(json.loads(file.read_text()))
    values = filled(shapes)
    without_counts = {key: value for key, value in values.items() if not key.endswith("num_batches_tracked")}
    forms = {
        "published": values,
        "torch.nn.DataParallel": {f"module.{key}": value for key, value in values.items()},
        "older torch": without_counts,
    }
    for form, given in forms.items():
        for wrapped in (given, {"state_dict": given, "epoch": 3}, {"model": {"state_dict": given}}):
            torch.save(wrapped, tmp_path / "a.pth")
            module = Named(shapes)
            layout = nets.load_checkpoint(module, tmp_path / "a.pth")
            assert layout == (form if form == "torch.nn.DataParallel" else "published")
            assert_filled(module, without_counts)


def test_suffixes(tmp_path: Path) -> None:
    values = filled(TINY)
    save_file(values, tmp_path / "a.safetensors")
    torch.save(values, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        module = Named(TINY)
        nets.load_checkpoint(module, tmp_path / name)
        assert_filled(module, values)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        nets.load_checkpoint(Named(TINY), __file__)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        nets.load_checkpoint(Named(TINY), tmp_path / "none.pth")


def test_a_partial_match_is_refused_whole_and_named() -> None:
    module = Named(TINY)
    values = filled(TINY)
    missing = {key: value for key, value in values.items() if key != "fc8.weight"}
    with pytest.raises(ValueError, match=r"1 of 4 parameters are missing: fc8\.weight.*absent"):
        nets.load_checkpoint(module, missing)
    with pytest.raises(ValueError, match=r"1 entries have no place in the network: extra"):
        nets.load_checkpoint(module, {**values, "extra": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"1 shapes differ: fc8\.weight \[9, 2, 1, 1\], wanted \[4, 2, 1, 1\].*number of classes"
    ):
        nets.load_checkpoint(module, {**values, "fc8.weight": torch.zeros(9, 2, 1, 1)})
    assert all(not value.any() for value in module.state_dict().values()), "a refused file has changed the network"
    nets.load_checkpoint(module, {**missing, "linear.weight": torch.zeros(1)}, absent=("fc8.*",), unused=("linear.*",))
    assert_filled(module, missing)
    with pytest.raises(ValueError, match="no parameter of the network"):
        nets.load_checkpoint(module, {"linear.weight": torch.zeros(1)}, absent=("*",), unused=("*",))


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": {"conv1a.weight": torch.zeros(1)}, "x": Canary(canary)}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Canary(canary)))
    for name in ("zip.pth", "raw.pth"):
        with pytest.raises(ValueError, match=r"holds more than tensors and is refused"):
            nets.load_checkpoint(Named(TINY), tmp_path / name)
    assert not canary.exists()


def test_files_that_are_cut_short_or_no_checkpoint(tmp_path: Path) -> None:
    torch.save(filled(TINY), tmp_path / "whole.pth")
    save_file(filled(TINY), tmp_path / "whole.safetensors")
    mxnet_params.write(tmp_path / "whole.params", {"arg:a": np.arange(6, dtype=np.float32).reshape(2, 3), "aux:b": np.ones(1)})
    for name in ("whole.pth", "whole.safetensors", "whole.params"):
        whole = (tmp_path / name).read_bytes()
        for size in sorted({0, 1, 7, 8, 9, 17, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
            cut = tmp_path / f"cut{Path(name).suffix}"
            cut.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"cannot be read|more than tensors|no MXNet"):
                weights.read_state_dict(cut)
    for content in ([1, 2], {"a": 3}, {}, "text", torch.zeros(3)):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match="must hold tensors by name"):
            weights.read_state_dict(tmp_path / "odd.pth")


# Two arrays by hand: [[1, 2, 3]] of version 2 named "arg:w", and -1 as version 1 named "aux:m".
PARAMS_BY_HAND = """
    1201000000000000 0000000000000000 0200000000000000
    c9fa93f9 00000000 02000000 0100000000000000 0300000000000000 01000000 00000000 00000000 0000803f 00000040 00004040
    c8fa93f9 01000000 0100000000000000 01000000 00000000 00000000 000080bf
    0200000000000000 0500000000000000 6172673a77 0500000000000000 6175783a6d
"""


def test_mxnet_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    path.write_bytes(bytes.fromhex("".join(PARAMS_BY_HAND.split())))
    read = mxnet_params.read(path)
    assert list(read) == ["arg:w", "aux:m"]
    assert read["arg:w"].tolist() == [[1, 2, 3]] and read["aux:m"].tolist() == [-1]
    assert read["arg:w"].dtype == np.float32


def test_mxnet_files_of_every_type_and_age(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    arrays = {f"arg:{form}": np.arange(24).astype(form).reshape(2, 3, 4) for form in mxnet_params.TYPES.values()}
    mxnet_params.write(path, arrays)
    read = mxnet_params.read(path)
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in arrays.items())
    # the oldest form: the number of dimensions in place of a magic number, and 32-bit sizes
    old = "1201000000000000 0000000000000000 0100000000000000 01000000 02000000 01000000 00000000 00000000 0000803f 00000040"
    path.write_bytes(bytes.fromhex("".join((old + "0100000000000000 0100000000000000 78").split())))
    assert mxnet_params.read(path)["x"].tolist() == [1, 2]


def test_mxnet_files_that_lie_about_sizes(tmp_path: Path) -> None:
    whole = bytearray(bytes.fromhex("".join(PARAMS_BY_HAND.split())))
    path = tmp_path / "a.params"
    for at in range(len(whole)):
        for value in (0xFF, 0x7F):
            changed = bytearray(whole)
            changed[at] = value
            path.write_bytes(changed)
            try:
                mxnet_params.read(path)
            except ValueError as error:
                assert "a.params" in str(error)


def test_names_of_the_mxnet_resnet38(tmp_path: Path) -> None:
    file = ORACLE / "cam_resnet38.keys.json"
    if not file.is_file():
        pytest.skip("the oracle files are not beside the repository")
    shapes = {name: shape for name, shape in small(json.loads(file.read_text())).items() if not name.endswith("tracked")}
    values = {name: value for name, value in filled(shapes).items() if not name.startswith("fc8")}
    arrays = {mxnet_name(name): value.numpy() for name, value in values.items()}
    assert len(arrays) == len(values)
    arrays["arg:linear1000_weight"] = np.zeros((2, 2), np.float32)
    mxnet_params.write(tmp_path / "a.params", arrays)
    module = Named(shapes)
    assert nets.load_checkpoint(module, tmp_path / "a.params", absent=("fc8.*",)) == "MXNet ResNet38"
    assert_filled(module, values)


def mxnet_name(name: str) -> str:
    """What the file calls a parameter of ours: the other way round than the loader, and written apart from it."""
    layer, _, rest = name.partition(".")
    if layer == "conv1a":
        return "arg:conv1a_weight"
    what = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}[rest.split(".")[-1]]
    kind = "aux" if what.startswith("moving") else "arg"
    if layer == "bn7":
        return f"{kind}:bn7_{what}"
    stage, _, block = layer.removeprefix("b").partition("_")
    place = f"{stage}b{block}" if block else f"{stage}a"
    part, branch = rest.split(".")[0].split("_")
    return f"arg:res{place}_{branch}_weight" if part == "conv" else f"{kind}:bn{place}_{branch}_{what}"


def test_names_of_the_caffe_deeplab() -> None:
    cases = {
        "conv1.weight": "layer1.conv1.conv.weight",
        "bn_conv1.running_var": "layer1.conv1.bn.running_var",
        "scale_conv1.bias": "layer1.conv1.bn.bias",
        "res2a_branch1.weight": "layer2.block1.shortcut.conv.weight",
        "res2c_branch2b.weight": "layer2.block3.conv3x3.conv.weight",
        "bn4b22_branch2a.running_mean": "layer4.block23.reduce.bn.running_mean",
        "scale5b_branch2c.weight": "layer5.block2.increase.bn.weight",
        "fc1_voc12_c2.bias": "aspp.c2.bias",
    }
    assert {name: weight_names.deeplab_from_caffe(name) for name in cases} == cases
    for prefix in ("", "base."):
        module = Named({f"{prefix}{name}": [2] for name in cases.values()})
        layout = nets.load_checkpoint(module, {name: torch.ones(2) for name in cases})
        assert layout.startswith("Caffe DeepLab") and all(value.all() for value in module.state_dict().values())
    module = Named({f"base.{name}": [2] for name in cases.values()})
    assert nets.load_checkpoint(module, {f"module.{name}": torch.ones(2) for name in cases.values()}) == "DeepLab base network"


def test_two_entries_for_one_parameter_are_refused() -> None:
    twice = {"conv1a.weight": torch.zeros(1), "module.conv1a.weight": torch.ones(1), "module.fc8.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="two entries of the file stand for"):
        nets.load_checkpoint(Named({"conv1a.weight": [1], "fc8.weight": [1]}), twice)


def test_own_checkpoints_describe_themselves(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    module = Named(TINY)
    nets.load_checkpoint(module, filled(TINY))
    description = {"method": "seam", "classes": ["cat", "dog"], "mean": [0.485, 0.456, 0.406]}
    weights.save_checkpoint(path, module, description)
    assert weights.describe(path) == description and [entry.name for entry in tmp_path.iterdir()] == [path.name]
    again = Named(TINY)
    nets.load_checkpoint(again, path)
    assert_filled(again, filled(TINY))
    save_file(filled(TINY), tmp_path / "other.safetensors")
    assert weights.describe(tmp_path / "other.safetensors") == {} == weights.describe(tmp_path / "x.pth")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="cannot be read"):
        weights.describe(path)
