"""Workers on the machines of a Ray cluster: connected to, placed, prepared, replaced when they die."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_fast import _settings
from wsss_fast._extras import require
from wsss_fast._settings import SettingsError, differences
from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.files.images import ImageError, Location, stamp_of
from wsss_fast.files.names import printable
from wsss_fast.label import manifest
from wsss_fast.label.ray_worker import Description, Made, Sample, Worker
from wsss_fast.label.settings import LabelSettings
from wsss_fast.listing.plan import Plan, PlannedImage

if TYPE_CHECKING:
    from wsss_fast.label.job import Labels

logger = logging.getLogger("wsss_fast.label")

START_SECONDS = 300.0  # for a worker to find room and to load its network
_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_MOST_DEATHS = 3  # of a worker, without an image labelled in between
# HTTP/2's greeting and an empty frame of settings; whoever speaks it, as Ray does, answers with a frame of settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


@dataclass(frozen=True)
class Place:
    node: str
    host: str
    cpus: int
    gpu: bool


@dataclass(eq=False)
class Hand:
    """A place and the worker that is there now."""

    place: Place
    actor: Any = None
    preparing: Future[Description] | None = None  # until it is ready
    since: float = 0.0
    deaths: int = 0  # since it last finished a call, not counting those that the images may have caused
    calls: dict[Future[list[Made]], Call] = field(default_factory=dict)  # in the order in which they are done


@dataclass(eq=False)
class Call:
    batch: Any
    images: list[tuple[PlannedImage, Location]]
    deaths: int = 0  # of workers that were at it


@dataclass(frozen=True)
class Event:
    call: Call
    made: list[Made] | None  # None: its worker died
    blamed: bool = False  # and was at this call


class Cluster:
    """``hands`` are the workers that live; ``model`` describes the network that each of them holds."""

    def __init__(self, model: Any, settings: LabelSettings, plan: Plan) -> None:
        if not isinstance(model, str | os.PathLike):
            raise SettingsError(
                f"label: 'ray' needs a model that every worker can load, a name or a file, got {type(model).__name__}. "
                "Hint: wsss_fast.nets.save_checkpoint writes a network to a file"
            )
        assert settings.ray is not None
        self._ray, self._owned = _connected(settings.ray)
        self.model: Description | None = None
        self.hands: list[Hand] = []
        try:
            self._model, self._settings = _from_anywhere(os.fspath(model), settings)
            self._plan = plan
            self._actor = self._ray.remote(Worker)
            self.hands = [Hand(place) for place in placements(self._ray.nodes(), settings.device)]
            if not self.hands:
                raise SettingsError(f"label: 'ray' must have processors for device {settings.device}, and the cluster has none")
            for hand in self.hands:
                self._start(hand)
            while any(hand.preparing is not None for hand in self.hands):
                self.wait()
        except BaseException:
            self.close()
            raise
        for warning in self.model.warnings if self.model is not None else ():
            logger.warning("%s", warning)

    def submit(self, hand: Hand, call: Call, labels: Labels | None) -> None:
        hand.calls[_future(hand.actor.label.remote(call.images, labels))] = call

    def wait(self, seconds: float = _LOOK_SECONDS) -> list[Event]:
        """What happened to calls, once anything happened or the time is over. The dead are replaced."""
        pending = [future for hand in self.hands for future in ([hand.preparing] if hand.preparing else hand.calls)]
        ready = wait(pending, seconds, FIRST_COMPLETED).done
        events: list[Event] = []
        for hand in list(self.hands):
            if hand.preparing is not None:
                self._look(hand, hand.preparing in ready)
            elif ready & hand.calls.keys():
                events += self._collect(hand, ready)
        if not self.hands:
            raise OutputStoppedError(
                "label: no worker of the cluster is left. Hint: `ray status` shows its machines; wsss_fast must be on each "
                "of them; the same command goes on where it stopped"
            )
        return events

    def _start(self, hand: Hand) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = hand.place
        hand.actor = self._actor.options(
            num_cpus=0 if place.gpu else min(self._settings.threads, place.cpus),
            num_gpus=1 if place.gpu else 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote()
        settings = dataclasses.replace(self._settings, device="cuda" if place.gpu else "cpu")
        hand.preparing = _future(hand.actor.prepare.remote(self._model, settings, _samples(self._plan)))
        hand.since = time.monotonic()

    def _look(self, hand: Hand, ready: bool) -> None:
        """After a worker that prepares itself."""
        from ray.exceptions import RayError, RayTaskError

        if not ready:
            if time.monotonic() - hand.since > START_SECONDS:
                self._let_go(
                    hand, f"was not ready after {START_SECONDS:g} seconds; `ray status` shows whether its machine is free"
                )
            return
        try:
            found = hand.preparing.result()
        except RayTaskError as error:
            raise _readable(error.cause, hand.place.host) from error
        except RayError as error:
            self._bury(hand, error)
            return
        if found.tool["tool"] != manifest.tool()["tool"]:
            raise SettingsError(f"label: the worker on {found.host} has {found.tool['tool']}, the job {manifest.tool()['tool']}")
        if self.model is None:
            self.model = found
        elif changes := differences(self.model.compared, found.compared, "worker"):
            raise SettingsError(
                f"label: the worker on {found.host} is not as the one on {self.model.host}:\n  "
                + "\n  ".join(changes)
                + "\nHint: "
                "equal masks need equal files and versions on every machine"
            )
        elif found.processor != self.model.processor:
            logger.warning(
                "the processor of %s (%s) is not of the kind of %s (%s), so a few pixels may depend on who labels an image",
                *(found.host, found.processor, self.model.host, self.model.processor),
            )
        hand.preparing = None
        logger.info("worker on %s ready (process %d)", found.host, found.pid)

    def _collect(self, hand: Hand, ready: Set[Future[Any]]) -> list[Event]:
        from ray.exceptions import RayError, RayTaskError

        events: list[Event] = []
        for future in [future for future in hand.calls if future in ready]:
            try:
                made = future.result()
            except RayTaskError as error:
                raise _readable(error.cause, hand.place.host) from error
            except RayError as error:
                # what it had finished before is among the ready ones; of the rest it was at the first
                first, *others = hand.calls.values()
                first.deaths += 1
                events += [Event(first, None, blamed=True), *(Event(call, None) for call in others)]
                self._bury(hand, error, counts=first.deaths == 1)
                break
            events.append(Event(hand.calls.pop(future), made))
            hand.deaths = 0
        return events

    def _bury(self, hand: Hand, error: Exception, counts: bool = True) -> None:
        reason = " ".join(str(error).split())[:300]
        logger.warning("a worker on %s died: %s", printable(hand.place.host), printable(reason))
        hand.calls = {}
        self._kill(hand)
        hand.deaths += counts
        if hand.deaths < _MOST_DEATHS:
            self._start(hand)
        else:
            self._let_go(hand, f"died {_MOST_DEATHS} times without labelling an image")

    def _let_go(self, hand: Hand, reason: str) -> None:
        logger.warning("the job goes on without the worker on %s, which %s", printable(hand.place.host), reason)
        self._kill(hand)
        self.hands.remove(hand)

    def _kill(self, hand: Hand) -> None:
        with contextlib.suppress(Exception):  # of the dead, Ray complains in several ways
            self._ray.kill(hand.actor)

    def close(self) -> None:
        for hand in self.hands:
            self._kill(hand)
        self.hands = []
        if self._owned:
            self._ray.shutdown()


def _future(reference: Any) -> Future[Any]:
    """Waiting for it is Python's: a signal that comes while Ray itself waits ends in an error of Ray."""
    return reference.future()


def placements(nodes: Sequence[dict[str, Any]], device: str) -> list[Place]:
    """One worker a GPU; where the cluster has none, or for device cpu, one a machine."""
    alive = [node for node in nodes if node["Alive"]]

    def count(node: dict[str, Any], kind: str) -> int:
        return int(node["Resources"].get(kind, 0))

    def place(node: dict[str, Any], gpu: bool) -> Place:
        return Place(node["NodeID"], node["NodeManagerHostname"], count(node, "CPU"), gpu)

    gpus = [place(node, True) for node in alive for _ in range(count(node, "GPU"))] if device != "cpu" else []
    if gpus or device == "cuda":
        return gpus
    return [place(node, False) for node in alive if count(node, "CPU") > 0]


def _connected(address: str) -> tuple[Any, bool]:
    """The module ray, and whether the connection is ours to close."""
    ray = require("ray", "label")
    if ray.is_initialized():
        return ray, False
    _check_answer(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    try:
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False)
    except (Exception, SystemExit) as error:  # Ray ends the process where it finds no cluster
        reason = " ".join(str(error).split())[:300]
        hint = "the job must run on a machine of the cluster, as `ray start` makes it one; `ray status` tells"
        raise RuntimeError(
            f"label: cannot join the Ray cluster '{printable(address)}': {printable(reason)}. Hint: {hint}"
        ) from None
    return ray, True


def _check_answer(address: str) -> None:
    """Ray itself would try for minutes, and then end the process."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        hint = (
            "auto is the cluster that this machine belongs to; ray:// is not taken: run the command on a machine of the cluster"
        )
        _settings.fail("label", "ray", "be auto or HOST:PORT", address, hint)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_GREETING)
            answer = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RuntimeError(
            f"label: no Ray cluster answers at '{printable(address)}': {reason}. Hint: `ray start --head` prints its address"
        ) from None
    if len(answer) < 4 or answer[3] != _SETTINGS_FRAME:
        raise RuntimeError(f"label: what answers at '{printable(address)}' is not Ray. Hint: its port is 6379 unless set")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; the command has its own way to end on it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _from_anywhere(model: str, settings: LabelSettings) -> tuple[str, LabelSettings]:
    """With whole paths: a worker has its own working folder."""

    def whole(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path is not None and Path(path).exists() else path

    return str(whole(model)), dataclasses.replace(settings, classes=whole(settings.classes), walk=whole(settings.walk))


def _samples(plan: Plan) -> list[Sample]:
    """The first, the middle and the last image, as this machine sees them."""
    found = []
    for number in sorted({0, len(plan.names) // 2, len(plan.names) - 1}):
        location = whole_location(plan.location(plan[number]))
        with contextlib.suppress(ImageError):
            found.append((location, stamp_of(location)))
    return found


def whole_location(location: Location) -> Location:
    return dataclasses.replace(location, path=os.path.abspath(location.path))  # noqa: PTH100 - for each of a million names


def _readable(cause: Exception, host: str) -> Exception:
    text = f"{cause} (on {printable(host)})"
    if isinstance(cause, SettingsError | OutputStoppedError):
        return type(cause)(text)
    return RuntimeError(f"label: a worker failed: {type(cause).__name__}: {text}")
