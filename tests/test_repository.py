"""Rules about the files themselves: what may stand in them, how long they may be, and that they are formatted."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsss_fast import _native

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
CODE = (".py", ".pyi", ".h", ".cpp", ".cu", ".cuh")


def files() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


FILES = files()
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8", errors="replace") for name in FILES}


def lines_with(pattern: str, names: list[str]) -> list[str]:
    search = re.compile(pattern).search
    return [f"{name}:{i}: {line.strip()}" for name in names for i, line in enumerate(TEXTS[name].splitlines(), 1) if search(line)]


def under(*folders: str, suffixes: tuple[str, ...] = CODE) -> list[str]:
    return [name for name in FILES if name.startswith(folders) and name.endswith(suffixes)]


def test_kernels_know_no_framework() -> None:
    names = under("csrc/")
    assert names
    assert not lines_with(r'#\s*include\s*[<"](torch|ATen|c10)\b', names)
    assert not lines_with(r"#\s*include\s*[<\"](pybind11|Python\.h)", [name for name in names if name != "csrc/bindings.cpp"])


def test_kernels_neither_print_nor_abort() -> None:
    names = [name for name in under("csrc/") if not name.startswith("csrc/simt/")]
    assert not lines_with(r"std::c(out|err)\b|\bf?printf\(|\babort\(|\b_?exit\(", names)


def test_kernels_have_a_header_comment() -> None:
    assert not [name for name in under("csrc/", suffixes=(".cu", ".cuh")) if not TEXTS[name].startswith("//")]


def test_a_namespace_is_the_stem_of_its_folder() -> None:
    opened = {}
    for name in under("csrc/"):
        folder = name.split("/")[1]
        if folder != "simt" and name != "csrc/bindings.cpp":
            opened.setdefault(folder, set()).update(re.findall(r"^namespace ([\w:]+) \{", TEXTS[name], re.MULTILINE))
    assert opened.pop("common") == {"wsss", "sort_scan", "plain", "avx2", "avx512"}
    assert opened.keys() > {"affinity", "edge_affinity"}
    assert opened == {folder: {f"wsss::{folder}"} for folder in opened}


def test_one_page_says_what_has_run_on_a_gpu() -> None:
    names = [name for name in under("", suffixes=(*CODE, ".md", ".sh")) if name not in ("README.md", "docs/gpu.md")]
    names.remove("tests/test_repository.py")
    assert not lines_with(r"(?i)never run on a gpu|not (yet )?run on a gpu|estimate for an? H\d", names)
    assert "gpu.md" in TEXTS["README.md"]


def test_file_lengths() -> None:
    written = [name for name in FILES if name not in ("docs/cli.md", "docs/api.md")]  # those are made by docs/reference.py
    lengths = {name: TEXTS[name].count("\n") for name in written if name.endswith((*CODE, ".sh", ".md"))}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_no_paths_of_one_machine_and_no_package_hosts() -> None:
    names = [name for name in FILES if name != "tests/test_repository.py"]
    assert not lines_with(r"(?<![\w.-])/(work|root|home/\w+)/|/tmp/\w", names)
    assert not lines_with(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|pypi\.nvidia\.com|index-url", names)


def test_no_loose_ends() -> None:
    names = [name for name in under("") if name != "tests/test_repository.py"]
    assert not lines_with(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError", names)


def test_the_library_does_not_print() -> None:
    assert not lines_with(r"(?<![\w.])print\(", [name for name in under("wsss_fast/") if not is_text_in(name, "print(")])


def test_nothing_runs_what_a_file_says() -> None:
    """No unpickling but torch's restricted one, no YAML but the safe loader, no shell."""
    forbidden = (
        r"pickle\.(load|loads|Unpickler)\b|allow_pickle=True|weights_only=False|yaml\.(load|full_load|unsafe_load)\("
        r"|(?<![\w.])(eval|exec)\(|os\.(system|popen)\(|shell=True"
    )
    names = under("wsss_fast/")
    assert not lines_with(forbidden, names)
    assert not [line for line in lines_with(r"torch\.load\(", names) if "weights_only=True" not in line]


def test_the_promises_of_security_have_their_tests() -> None:
    promised = re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXTS["SECURITY.md"])
    assert len(promised) > 20
    assert not [f"{file}::{name}" for file, name in promised if f"\ndef {name}(" not in TEXTS.get(file, "")]


def is_text_in(name: str, word: str) -> bool:
    """Whether every line with `word` belongs to a string: a program for a child process."""
    strings = [
        node.value for node in ast.walk(ast.parse(TEXTS[name])) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return sum(text.count(word) for text in strings) == TEXTS[name].count(word)


def test_licence() -> None:
    assert "Apache License" in TEXTS["LICENSE"] and "Version 2.0, January 2004" in TEXTS["LICENSE"]
    assert 'license = "Apache-2.0"' in TEXTS["pyproject.toml"]


def test_stub_names_what_the_module_has() -> None:
    module = _native.load()
    stub = ast.parse(TEXTS["wsss_fast/_kernels.pyi"])
    told = {node.name: [argument.arg for argument in node.args.args] for node in stub.body if isinstance(node, ast.FunctionDef)}
    real = {name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")}
    assert set(told) == real
    for name, arguments in told.items():
        signature = str(getattr(module, name).__doc__).split("\n")[0]
        assert len(re.findall(r"arg\d+:", signature)) == len(arguments), signature


def test_every_operation_has_its_files() -> None:
    """Whoever looks for the stem of an operation finds its whole life."""
    for name in sorted(path.parent.name for path in (ROOT / "csrc").glob("*/*_cpu.cpp")):
        page = {"edge_affinity": "affinity"}.get(name, name)  # one page, one benchmark, and tests that both must pass
        wanted = (
            f"csrc/{name}/{name}.h",
            f"csrc/{name}/{name}_cuda.cu",
            f"wsss_fast/ops/{name}.py",
            f"wsss_fast/ops/_reference/{name}.py",
            f"wsss_fast/bench/{page}.py",
            f"tests/ops/test_{page}.py",
            f"docs/{page}.md",
        )
        assert not [path for path in wanted if path not in FILES]
        assert name in TEXTS[f"docs/{page}.md"].split("\n")[0]
        assert f'"{name}"' in TEXTS["benchmarks/sanitize.py"]


def test_seeded_faults_stand_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "mutants"))
    from faults import FAULTS

    assert not [fault.name for fault in FAULTS if TEXTS[fault.file].count(fault.old) != 1]


def tool(name: str) -> str:
    """Of this environment first: versions differ in what they call formatted."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [tool("ruff"), *arguments, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_clang_format() -> None:
    names = under("csrc/", "export/", "tests/", suffixes=(".h", ".cpp", ".cu", ".cuh"))
    command = [tool("clang-format"), "--dry-run", "--Werror", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    unformatted = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "error:" in line})
    assert done.returncode == 0, f"make format: {', '.join(unformatted)}"
