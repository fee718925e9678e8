"""Labelling on a cluster, without Ray: workers that die, differ or see nothing; addresses; what is refused. Milliseconds each."""

from __future__ import annotations

import socket
import sys
import threading

import pytest
import torch
from helpers import threads
from label_on_ray import NEVER, DeathError, FakeRay, MortalWorker
from label_standins import BrightEngine, five_pictures, label, picture, tree
from test_label_jobs import twenty

import wsss_fast
from wsss_fast.cli import main
from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.files.images import FileStamp, Location
from wsss_fast.label import ray_cluster, ray_worker
from wsss_fast.label.manifest import read_rows
from wsss_fast.label.settings import LabelSettings, SettingsError


@pytest.fixture
def cluster(monkeypatch):
    """A function that labels on a cluster of such workers, and gives the hosts on which any were started."""

    def on_cluster(images, out, worker=MortalWorker, hosts=("a", "b"), engine=None, **settings):
        fake = FakeRay(worker, hosts)
        monkeypatch.setattr(ray_cluster, "_connected", lambda address: (fake, False))
        monkeypatch.setattr(ray_worker, "load_model", lambda model, chosen: engine or BrightEngine())
        summary = wsss_fast.label(images, "efficientnet-lite0", out, **{"ray": "auto", "batch": 3, "workers": 0, **settings})
        return summary, fake.started

    return on_cluster


def test_a_shard_begun_here_goes_on_there(cluster, tmp_path):
    images = twenty(tmp_path)
    for place, shard in (("one", "0/2"), ("one", "1/2"), ("many", "0/2")):
        label(images, tmp_path / place, batch=3, shard=shard)
    engine = BrightEngine()
    engine.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        label(images, tmp_path / "many", engine, batch=3, shard="1/2")
    summary, _ = cluster(images, tmp_path / "many", shard="1/2")
    assert summary.skipped == 3 and tree(tmp_path / "many") == tree(tmp_path / "one")


def test_images_that_kill_their_workers_fail_alone(cluster, tmp_path):
    """They are the last: two in the batch of 19.png, two in one of their own. The only worker is not given up for them."""
    images = twenty(tmp_path)
    for number in range(4):
        (images / f"{number}.png").rename(images / f"poison{number}.png")
    summary, started = cluster(images, tmp_path / "out", hosts=("a",))
    assert [failure.image for failure in summary.failures] == [f"poison{number}.png" for number in range(4)]
    assert {failure.reason for failure in summary.failures} == {"its worker died, 3 times"}
    assert summary.labelled == 16 and len(started) == 1 + 2 + 4 * 2
    label(images, tmp_path / "one", batch=3)
    rows = read_rows(tmp_path / "out")
    assert list(rows) == list(read_rows(tmp_path / "one")) and not rows["poison3.png"]["lasting"]


def test_a_machine_that_kills_every_worker_is_done_without(cluster, tmp_path, caplog):
    class Bad(MortalWorker):
        def label(self, images, labels):
            if self.host == "a":
                raise DeathError
            return super().label(images, labels)

    images = twenty(tmp_path)
    label(images, tmp_path / "one", batch=1)
    summary, started = cluster(images, tmp_path / "many", Bad, batch=1)
    assert tree(tmp_path / "many") == tree(tmp_path / "one") and summary.failed == 0
    assert started.count("a") == 3 and started.count("b") == 1
    assert "goes on without the worker on a, which died 3 times without labelling an image" in caplog.text


def test_workers_that_all_die_stop_the_job_and_it_goes_on_later(cluster, tmp_path):
    class DyingAtOnce(MortalWorker):
        def prepare(self, *_):
            raise DeathError

    class DyingAtImages(MortalWorker):
        def label(self, images, labels):
            raise DeathError

    images = twenty(tmp_path)
    for worker in (DyingAtOnce, DyingAtImages):
        with pytest.raises(OutputStoppedError, match=r"no worker of the cluster is left|images in a row killed their workers"):
            cluster(images, tmp_path / "out", worker)
    label(images, tmp_path / "one", batch=3)
    cluster(images, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_ten_images_in_a_row_that_kill_their_workers_stop_the_job(cluster, tmp_path):
    images = twenty(tmp_path)
    for number in range(10, 20):
        (images / f"{number}.png").rename(images / f"poison{number}.png")
    with pytest.raises(OutputStoppedError, match="10 images in a row killed their workers"):
        cluster(images, tmp_path / "out", batch=20)


def test_labels_and_names_that_cannot_be_written(cluster, tmp_path):
    images = five_pictures(tmp_path)
    (tmp_path / "labels.json").write_text('{"img8.png": ["dark"], "img9.png": [], "img10.png": ["bright", "dark"], "x.png": []}')
    picture(7).save(images / ("y" * 251 + ".png"))
    picture(8).save(images / ("y" * 251 + ".bmp"))
    settings = {"labels": str(tmp_path / "labels.json"), "format": "npz"}
    label(images, tmp_path / "one", batch=3, **settings)
    summary, _ = cluster(images, tmp_path / "many", **settings)
    assert (summary.labelled, summary.failed) == (3, 4)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_an_error_of_a_worker_is_the_jobs_error(cluster, tmp_path):
    class Full(BrightEngine):
        def predict(self, pixels):
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    class Broken(BrightEngine):
        def predict(self, pixels):
            raise KeyError("x")

    images = five_pictures(tmp_path)
    with pytest.raises(OutputStoppedError, match=r"the device has not enough memory: CUDA out of memory.*\(on a\)"):
        cluster(images, tmp_path / "out", engine=Full())
    with pytest.raises(RuntimeError, match=r"label: a worker failed: KeyError: 'x' \(on a\)"):
        cluster(images, tmp_path / "out", engine=Broken())


def test_workers_that_differ_are_refused(cluster, tmp_path):
    class Other(MortalWorker):
        def prepare(self, *arguments):
            description = super().prepare(*arguments)
            description.identity["made_by"] = self.host
            return description

    class Older(MortalWorker):
        def prepare(self, *arguments):
            description = super().prepare(*arguments)
            description.tool["tool"] = "wsss_fast 0.0.1"
            return description

    images = five_pictures(tmp_path)
    with pytest.raises(SettingsError, match=r'(?s)is not as the one on .*worker\.model\.made_by: "a" before, "b" now'):
        cluster(images, tmp_path / "out", Other)
    with pytest.raises(SettingsError, match=r"has wsss_fast 0\.0\.1, the job wsss_fast "):
        cluster(images, tmp_path / "out", Older)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_finds_no_room_is_done_without(cluster, tmp_path, monkeypatch, caplog):
    class Waiting(MortalWorker):
        def prepare(self, *arguments):
            return NEVER if self.host == "b" else super().prepare(*arguments)

    monkeypatch.setattr(ray_cluster, "START_SECONDS", 0.0)
    summary, _ = cluster(five_pictures(tmp_path), tmp_path / "out", Waiting)
    assert summary.labelled == 5 and "without the worker on b, which was not ready after 0 seconds" in caplog.text


def test_what_a_cluster_cannot_do(cluster, tmp_path):
    images = five_pictures(tmp_path)
    with pytest.raises(SettingsError, match="a model that every worker can load, a name or a file, got BrightEngine"):
        label(images, tmp_path / "out", ray="auto")
    with pytest.raises(SettingsError, match="'ray' is for files"):
        label(images, ray="auto")
    with pytest.raises(SettingsError, match=r"'report' does not go with 'ray'.*without --ray"):
        label(images, tmp_path / "out", ray="auto", report=True)
    with pytest.raises(SettingsError, match="'ray' must have processors for device cuda"):
        cluster(images, tmp_path / "out", device="cuda")


def test_workers_that_do_not_see_the_images_are_refused(tmp_path):
    images = five_pictures(tmp_path)
    here = Location(str(images / "img8.png"))
    for location, stamp in ((here, FileStamp(1, 1)), (Location(str(images / "other.png")), FileStamp(1, 1))):
        with pytest.raises(SettingsError, match=r"must see the images that the job sees, .*img8|other.*Hint: the folder"):
            ray_worker.Worker().prepare("efficientnet-lite0", LabelSettings(), [(location, stamp)])


def test_a_worker_has_the_threads_of_the_job():
    with threads(1):
        ray_worker.Worker().prepare("efficientnet-lite0", LabelSettings(threads=3, workers=0), [])
        assert torch.get_num_threads() == 3


def test_workers_on_other_processors_label_with_a_warning(cluster, tmp_path, caplog):
    class Elsewhere(MortalWorker):
        def prepare(self, *arguments):
            description = super().prepare(*arguments)
            description.tool["made_with"]["processor"] = f"kind {self.host}"
            return description

    summary, _ = cluster(five_pictures(tmp_path), tmp_path / "out", Elsewhere)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert summary.labelled == 5 and "(kind b) is not of the kind of" in warning and "(kind a)" in warning


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
    assert 'ray is not installed. Hint: pip install "wsss_fast[ray]", on every machine' in capsys.readouterr().err


def test_one_worker_a_gpu_else_one_a_machine():
    def node(name, alive=True, **resources):
        return {"NodeID": name, "NodeManagerHostname": f"host-{name}", "Alive": alive, "Resources": {"memory": 1.0, **resources}}

    head, small, gone = node("head"), node("small", CPU=4.0), node("gone", alive=False, CPU=4.0, GPU=8.0)
    big = node("big", CPU=64.0, GPU=2.0)
    assert ray_cluster.placements([head, small, gone, big], "auto") == [ray_cluster.Place("big", "host-big", 64, True)] * 2
    assert [place.node for place in ray_cluster.placements([head, small, gone, big], "cpu")] == ["small", "big"]
    assert ray_cluster.placements([head, small, gone], "cuda") == []
    assert ray_cluster.placements([head, small, gone], "auto") == [ray_cluster.Place("small", "host-small", 4, False)]
