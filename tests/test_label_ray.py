"""Labelling by the workers of a Ray cluster: the bytes of one machine, whatever dies. One cluster of two nodes for all tests."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from exported import SMALLEST
from label_on_ray import BrightWorker
from label_standins import five_pictures, label, picture, tree
from test_label_jobs import twenty

import wsss_fast
from wsss_fast.cli import main
from wsss_fast.label import ray_cluster
from wsss_fast.label.manifest import read_rows
from wsss_fast.nets.weights import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from wsss_fast.cli import main; sys.exit(main())"
PATHS = os.pathsep.join((str(ROOT), str(ROOT / "tests")))


def patiently(start):
    """Ray gives a node 30 seconds to start, which is short where others work."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # Ray has no class for it
            late = error
    raise late


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two nodes with a processor each, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=node))
        try:
            patiently(lambda: cluster.add_node(**node))
            before = signal.getsignal(signal.SIGTERM)
            ray_cluster._connected(cluster.address)
            assert signal.getsignal(signal.SIGTERM) is before
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def bright(monkeypatch, address):
    """The stand-in network on every worker: labels a folder on the cluster."""
    monkeypatch.setattr(ray_cluster, "Worker", BrightWorker)

    def on_cluster(images, out, **settings):
        return wsss_fast.label(images, "efficientnet-lite0", out, **{"ray": address, "batch": 3, "workers": 0, **settings})

    return on_cluster


def command(images, out, *arguments):
    call = [sys.executable, "-c", COMMAND, "label", str(images), "--out", str(out), "--batch", "2", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": PATHS})
    return done.returncode, done.stdout + done.stderr


def pngs(root):
    return {name: digest for name, digest in tree(root).items() if name.endswith(".png")}


def test_the_command_gives_the_bytes_of_one_machine(address, tmp_path):
    """A real network from its file, labels, walk, overlays, a broken image and one without labels."""
    images = five_pictures(tmp_path)
    for number in range(8, 13):
        picture(number, (70, 50)).save(images / f"img{number}.png")
    (images / "broken.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("broken.png,cat\n" + "".join(f"img{i}.png,cat;owl\n" for i in range(8, 12)))
    model = SMALLEST.network()
    save_checkpoint(tmp_path / "net.safetensors", model, {**model.description(), "classes": ["cat", "dog", "owl"]})
    given = ("--model", tmp_path / "net.safetensors", "--labels", tmp_path / "labels.csv", "--walk", "image", "--overlay")
    assert main(["label", str(images), "--out", str(tmp_path / "one"), "--batch", "2", *map(str, given)]) == 3
    status, said = command(images, tmp_path / "many", *given, "--ray", address)
    assert status == 3 and "6 images" in said and "4 labelled, 2 failed" in said, said
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert len(pngs(tmp_path / "many")) == 4


def test_a_worker_killed_in_the_middle_changes_nothing(bright, tmp_path, caplog):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(9):
        picture(number).save(images / f"slow{number}.png")
    label(images, tmp_path / "one", batch=1)
    killed = []

    def kill(summary, result):
        if not killed:
            killed.append(int(re.findall(r"ready \(process ([0-9]+)\)", caplog.text)[0]))
            os.kill(killed[0], signal.SIGKILL)

    with caplog.at_level(logging.INFO, "wsss_fast.label"):
        summary = bright(images, tmp_path / "many", batch=1, progress=kill)
    assert killed and "a worker on" in caplog.text and " died: " in caplog.text
    assert (summary.labelled, summary.failed) == (9, 0)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


@pytest.mark.soak  # each death loads torch once more; test_label_ray_workers.py has the same without Ray
def test_an_image_that_kills_its_worker_fails_alone(bright, tmp_path):
    images = five_pictures(tmp_path)
    picture(30).save(images / "poison.png")
    picture(31).save(images / "quiet.png")
    out = tmp_path / "out"
    summary = bright(images, out)
    assert (summary.labelled, summary.failed) == (6, 1)
    assert summary.failures[0].image == "poison.png" and summary.failures[0].reason == "its worker died, 3 times"
    summary = label(images, out, batch=3)
    label(images, tmp_path / "one", batch=3)
    assert (summary.labelled, summary.skipped) == (3, 4)  # its batch, on a machine where it does no harm
    assert pngs(out) == pngs(tmp_path / "one") and read_rows(out) == read_rows(tmp_path / "one")


def test_a_job_begun_there_goes_on_here(bright, tmp_path):
    images = twenty(tmp_path)
    label(images, tmp_path / "whole", batch=3)

    def interrupt(summary, result):
        if summary.labelled == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bright(images, tmp_path / "out", progress=interrupt)
    assert 0 < len(read_rows(tmp_path / "out")) < 20
    assert label(images, tmp_path / "out", batch=3).skipped == 6
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
