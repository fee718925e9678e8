"""Labelling by the workers of a Ray cluster: the bytes of one machine, whatever dies. One cluster of two nodes for all tests."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from exported import SMALLEST
from label_on_ray import BrightWorker, OtherWorker
from label_standins import BrightEngine, five_pictures, label, picture, tree
from test_label_jobs import twenty

import wsss_fast
from wsss_fast.cli import main
from wsss_fast.label import ray_cluster, ray_worker
from wsss_fast.label.manifest import read_rows
from wsss_fast.label.plan import Location
from wsss_fast.label.read import FileStamp
from wsss_fast.label.settings import LabelSettings, SettingsError
from wsss_fast.nets.weights import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from wsss_fast.cli import main; sys.exit(main())"
PATHS = os.pathsep.join((str(ROOT), str(ROOT / "tests")))


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two nodes with a processor each, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(**node)
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


def test_a_shard_begun_here_goes_on_there(bright, tmp_path):
    images = twenty(tmp_path)
    for place, shard in (("one", "0/2"), ("one", "1/2"), ("many", "0/2")):
        label(images, tmp_path / place, batch=3, shard=shard)
    engine = BrightEngine()
    engine.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        label(images, tmp_path / "many", engine, batch=3, shard="1/2")
    assert bright(images, tmp_path / "many", shard="1/2", workers=2).skipped == 3
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_workers_that_differ_are_refused(bright, monkeypatch, tmp_path):
    monkeypatch.setattr(ray_cluster, "Worker", OtherWorker)
    with pytest.raises(SettingsError, match=r"(?s)the worker on .* is not as the one on .*worker\.model\.made_by"):
        bright(five_pictures(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_cluster_cannot_do(bright, tmp_path):
    images = five_pictures(tmp_path)
    with pytest.raises(SettingsError, match="a model that every worker can load, a name or a file, got BrightEngine"):
        label(images, tmp_path / "out", ray="auto")
    with pytest.raises(SettingsError, match="'ray' is for files"):
        label(images, ray="auto")
    with pytest.raises(SettingsError, match="'ray' must have processors for device cuda"):
        bright(images, tmp_path / "out", device="cuda")


# Without a cluster


def test_workers_that_do_not_see_the_images_are_refused(tmp_path):
    images = five_pictures(tmp_path)
    here = Location(str(images / "img8.png"))
    for location, stamp in ((here, FileStamp(1, 1)), (Location(str(images / "other.png")), FileStamp(1, 1))):
        with pytest.raises(SettingsError, match=r"must see the images that the job sees, .*img8|other.*Hint: the folder"):
            ray_worker.Worker().prepare("efficientnet-lite0", LabelSettings(), 1, [(location, stamp)])


def say(server, text):
    with server.accept()[0] as connection:
        connection.sendall(text)


@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-server\r\n"], ids=["closed", "silent", "another"])
def test_an_address_without_ray_is_answered_at_once(tmp_path, monkeypatch, answer):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        elif answer:
            threading.Thread(target=say, args=(server, answer)).start()
        expected = "is not Ray" if answer else "no Ray cluster answers at"
        with pytest.raises(RuntimeError, match=f"{expected}.*Hint"):
            wsss_fast.label(five_pictures(tmp_path), "efficientnet-lite0", tmp_path / "out", ray=address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["", "here", "host:", ":6379", "ray://host:10001", "host:99999999"])
def test_bad_addresses(tmp_path, monkeypatch, address):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises((SettingsError, RuntimeError), match=r"auto or HOST:PORT|no Ray cluster answers"):
        wsss_fast.label(five_pictures(tmp_path), "efficientnet-lite0", tmp_path / "out", ray=address)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    images = str(five_pictures(tmp_path))
    assert main(["label", images, "--out", str(tmp_path / "out"), "--ray", "auto"]) == 1
    assert 'needs the package ray. Hint: pip install "wsss_fast[ray]", on every machine' in capsys.readouterr().err


def test_one_worker_a_gpu_else_one_a_machine():
    def node(name, alive=True, **resources):
        return {"NodeID": name, "NodeManagerHostname": f"host-{name}", "Alive": alive, "Resources": {"memory": 1.0, **resources}}

    head, small, gone = node("head"), node("small", CPU=4.0), node("gone", alive=False, CPU=4.0, GPU=8.0)
    big = node("big", CPU=64.0, GPU=2.0)
    assert ray_cluster.placements([head, small, gone, big], "auto") == [ray_cluster.Place("big", "host-big", 64, True)] * 2
    assert [place.node for place in ray_cluster.placements([head, small, gone, big], "cpu")] == ["small", "big"]
    assert ray_cluster.placements([head, small, gone], "cuda") == []
    assert ray_cluster.placements([head, small, gone], "auto") == [ray_cluster.Place("small", "host-small", 4, False)]
