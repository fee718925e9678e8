"""The scheduler examples do what they say: their commands are run, with a scheduler's variables, and give the bytes of one job.

No Slurm, Kubernetes or Docker is here: what these would make of the files is only simulated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from label_standins import BrightEngine, five_pictures, label, tree
from toml import read_toml

from wsss_fast.cli import exit_codes, main
from wsss_fast.label import pipeline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ROOT = EXAMPLES.parent
RECORD = "#!{python}\nimport json, sys\nwith open({out!r}, 'w') as file:\n    json.dump(sys.argv[1:], file)\n"


@pytest.fixture
def bright(monkeypatch):
    monkeypatch.setattr(pipeline, "load_model", lambda model, settings: BrightEngine())


def slurm(tmp_path, *arguments, **variables):
    """Runs the script as a task of an array: its status, what it says, and the arguments that `wsss` gets."""
    stubs, record = tmp_path / "stubs", tmp_path / "record.json"
    stubs.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    for name, text in (
        ("srun", '#!/bin/bash\nshift # --cpus-per-task\nexec "$@"\n'),
        ("wsss", RECORD.format(python=sys.executable, out=str(record))),
    ):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SHARDS"))}
    environment = {**keep, **variables, "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"}
    script = ["bash", str(EXAMPLES / "slurm.sh"), *arguments]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr, json.loads(record.read_text()) if record.exists() else None


def array(task, count, first=0):
    numbers = {"ID": task, "COUNT": count, "MIN": first, "MAX": first + count - 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}


def same_masks(shards, one):
    """The masks of both; each shard has its own manifest."""
    masks = [{name: digest for name, digest in tree(root).items() if name.endswith(".png")} for root in (shards, one)]
    assert masks[0] == masks[1] and len(masks[0]) == 5
    assert sorted(path.name for path in shards.glob("manifest*")) == ["manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"]


def test_slurm_tasks_are_the_shards_of_a_job(bright, tmp_path):
    images = five_pictures(tmp_path)
    label(images, tmp_path / "one", batch=2)
    for task in (0, 1):
        given = (str(images), str(tmp_path / "a b"), "--batch", "2", "--workers", "0")
        status, _, arguments = slurm(tmp_path, *given, **array(task, 2))
        assert status == 0 and main(arguments) == exit_codes.DONE
    same_masks(tmp_path / "a b", tmp_path / "one")


def test_slurm_arrays_that_are_not_all_shards(tmp_path):
    status, said, arguments = slurm(tmp_path, "photos", "masks", **array(8, 8, first=1))
    assert status == 2 and arguments is None and "the array must be 0-7" in said
    status, _, arguments = slurm(tmp_path, "photos", "masks", SHARDS="8", **array(5, 2, first=5))
    assert status == 0 and arguments[arguments.index("--shard") + 1] == "5/8"
    status, said, arguments = slurm(tmp_path, "photos", **array(0, 1))
    assert status != 0 and arguments is None and "usage" in said


def test_slurm_script_is_clean():
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert checker, "the extra dev brings shellcheck"
    done = subprocess.run([checker, str(EXAMPLES / "slurm.sh")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    lines = (EXAMPLES / "slurm.sh").read_text().splitlines()
    program = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[program:] if line.startswith("#SBATCH")], "Slurm reads these only above the program"


def kubernetes():
    return yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())


def pod_arguments(container, index):
    """As a kubelet fills in $(NAME) from the variables of the container."""
    index_of = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {}
    for entry in container["env"]:
        if "value" in entry:
            values[entry["name"]] = entry["value"]
        else:
            assert entry["valueFrom"] == {"fieldRef": {"fieldPath": index_of}}
            values[entry["name"]] = str(index)
    return [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], part) for part in container["args"]]


def test_kubernetes_pods_are_the_shards_of_a_job(bright, tmp_path):
    job = kubernetes()
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shards = next(entry for entry in container["env"] if entry["name"] == "SHARDS")
    assert shards["value"] == str(job["spec"]["completions"])
    shards["value"] = "2"
    images = five_pictures(tmp_path)
    label(images, tmp_path / "one", batch=2)
    for index in (0, 1):
        arguments = [part for part in pod_arguments(container, index) if not part.startswith("--labels")]
        arguments = [part.replace("/data/photos", str(images)).replace("/data/", f"{tmp_path}/") for part in arguments]
        assert main([*arguments, "--batch", "2", "--workers", "0"]) == exit_codes.DONE
    same_masks(tmp_path / "masks", tmp_path / "one")


def test_kubernetes_pods_that_cannot_do_better_are_not_tried_again():
    spec = kubernetes()["spec"]
    pod = spec["template"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailIndex" and rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert rule["onExitCodes"]["values"] == [exit_codes.ERROR, exit_codes.USAGE, exit_codes.SOME_FAILED]
    assert pod["restartPolicy"] == "Never", "a policy for failed pods needs it"
    assert spec["backoffLimitPerIndex"] > 0
    claimed = {entry["name"] for entry in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == claimed


def test_dockerfile(tmp_path):
    parser = DockerfileParser(path=str(tmp_path))
    parser.content = (EXAMPLES / "Dockerfile").read_text()
    steps = [(step["instruction"], step["value"]) for step in parser.structure]
    known = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "COMMENT"}
    assert {name for name, _ in steps} == known
    stages = [value for name, value in steps if name == "FROM"]
    assert stages[0].endswith(" AS build") and stages[0].split("-devel-")[0] == stages[1].split("-base-")[0]
    for value in (value for name, value in steps if name == "COPY" and not value.startswith("--from=build /opt/wsss ")):
        *sources, _ = value.split()
        assert not [source for source in sources if not (ROOT / source).exists()]
    (install,) = [value for name, value in steps if name == "RUN" and "WSSS_CUDA=ON" in value]
    extras = re.search(r"\.\[([\w,]+)\]", install)[1].split(",")
    project = read_toml(ROOT / "pyproject.toml")["project"]
    assert set(extras) <= set(project["optional-dependencies"]) and "demo" not in extras  # which brings weights
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["wsss"] and "wsss" in project["scripts"]
    users = [value for name, value in steps if name == "USER"]
    pod = kubernetes()["spec"]["template"]["spec"]
    assert users == [str(pod["securityContext"]["runAsUser"])] and "useradd --uid 10001" in parser.content
