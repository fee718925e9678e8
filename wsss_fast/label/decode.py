"""Processes that decode images. A file that crashes, hangs or bloats a decoder costs that file, not the job.

A process says that it is ready, then reads requests from its standard input and answers on its standard output, each a length,
JSON, and for an answer the pixels. It ends when its standard input does, so none outlives a job, however that ends.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import numpy as np

from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.files.images import FileStamp, ImageError, Limits, Location, Picture, read_image

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 1 << 20
_MEMORY = 2 << 30  # bytes of addresses besides those of the pixels
_ATTEMPTS = 2
_START_SECONDS = 120.0  # imports from a slow disk
# Isolated: neither the working folder nor the environment adds modules.
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from wsss_fast.label.decode import serve; serve()"
# Decoders do not compute; threads of a BLAS would only take memory.
_QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Item = TypeVar("Item")
Outcome = Callable[[], Picture]  # gives the picture or raises ImageError


class Decoders:
    """``workers`` processes; with 0, images are decoded by whoever asks for them."""

    def __init__(self, limits: Limits, workers: int, timeout: float) -> None:
        self._limits = limits
        self._timeout = timeout
        self._workers = workers
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []
        self._threads = ThreadPoolExecutor(workers, "decode") if workers else None
        for _ in range(workers):
            process = _Process(limits, timeout)
            self._all.append(process)
            self._idle.put(process)

    def ahead(self, items: Iterable[tuple[Item, Location]]) -> Iterator[tuple[Item, Outcome]]:
        """Each item with the outcome of reading it, in order; a few are read ahead."""
        waiting: list[tuple[Item, Future[Picture]]] = []
        for item, location in items:
            if self._threads is None:
                yield item, lambda location=location: read_image(location, **dataclasses.asdict(self._limits))
                continue
            waiting.append((item, self._threads.submit(self._read, location)))
            if len(waiting) > self._workers + 1:
                first, future = waiting.pop(0)
                yield first, future.result
        for item, future in waiting:
            yield item, future.result

    def _read(self, location: Location) -> Picture:
        process = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return process.read(location)
                except _DiedError as death:
                    reason = str(death)
            # The file may be at fault, or a machine that is short of memory or slow: it is tried again in the next run.
            raise ImageError(f"its decoder {reason}, {_ATTEMPTS} times", lasting=False)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        for process in self._all:
            process.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._all:  # one may have been started meanwhile
            process.close()


class _DiedError(Exception):
    pass


class _Process:
    """One decoder, started when it is needed and again after it died."""

    def __init__(self, limits: Limits, timeout: float) -> None:
        self._limits = dataclasses.asdict(limits)
        self._timeout = timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def read(self, location: Location) -> Picture:
        child = self._child or self._start()
        with self._watched(child, self._timeout):
            _send(child.stdin, {"location": dataclasses.astuple(location), "limits": self._limits})
            return _picture(child.stdout)

    def _start(self) -> subprocess.Popen[bytes]:
        """A process that is ready. If there can be none, it is not an image that is at fault, and the job stops."""
        try:
            with self._lock:
                if self._closed:
                    raise ImageError("the job was stopped", lasting=False)
                command = [sys.executable, "-I", "-c", _START, json.dumps(sys.path)]
                child = self._child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **_QUIET}
                )
            with self._watched(child, _START_SECONDS):
                _receive(child.stdout)
            return child
        except (OSError, _DiedError) as error:
            if self._closed:
                raise ImageError("the job was stopped", lasting=False) from None
            reason = f"it {error}" if isinstance(error, _DiedError) else error.strerror
            hint = "it needs memory, processes and file handles (ulimit -a); then the same command goes on"
            raise OutputStoppedError(f"label: a process that decodes images cannot start: {reason}. Hint: {hint}") from None

    @contextmanager
    def _watched(self, child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
        """What happens inside may take some time; a process that takes longer or dies is put away, and a `_DiedError`."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, stop)
        try:
            timer.start()
            yield
        except (OSError, EOFError, ValueError) as error:
            self._stop(child)
            if late.is_set():
                raise _DiedError(f"took more than {seconds:g} seconds") from None
            status = child.returncode
            if status < 0:
                raise _DiedError(f"died of {_signal_name(-status)}") from None
            if status > 0:
                raise _DiedError(f"ended with status {status}") from None
            raise _DiedError(f"answered nonsense ({type(error).__name__})") from None
        finally:
            timer.cancel()

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                _close(pipe)
            if self._child is child:
                self._child = None

    def close(self) -> None:
        self._closed = True
        if self._child is not None:
            self._stop(self._child)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # what was still to be sent to a dead process


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _send(pipe: IO[bytes] | None, message: dict[str, Any], pixels: np.ndarray | None = None) -> None:
    assert pipe is not None
    text = json.dumps(message).encode("ascii")
    pipe.write(_LENGTH.pack(len(text)) + text)
    if pixels is not None:
        pipe.write(memoryview(np.ascontiguousarray(pixels)).cast("B"))
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> dict[str, Any]:
    assert pipe is not None
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > _LARGEST_HEADER:
        raise ValueError("too long")
    return json.loads(_exactly(pipe, length))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _picture(pipe: IO[bytes] | None) -> Picture:
    answer = _receive(pipe)
    try:
        if "reason" in answer:
            stamp = None if answer["stamp"] is None else FileStamp(*map(int, answer["stamp"]))
            raise ImageError(str(answer["reason"]), bool(answer["lasting"]), stamp)
        shape = tuple(int(side) for side in answer["shape"])
        height, width, size, mtime_ns = (int(answer[name]) for name in ("height", "width", "size", "mtime_ns"))
        kind = str(answer["kind"])
    except (KeyError, TypeError) as error:
        raise ValueError("incomplete") from error
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or math.prod(shape) > height * width * 3:
        raise ValueError("shape")
    assert pipe is not None
    pixels = np.empty(shape, np.uint8)
    view, read = memoryview(pixels).cast("B"), 0
    while read < len(view):
        count = pipe.readinto(view[read:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        read += count
    return Picture(pixels, height, width, FileStamp(size, mtime_ns), kind)


def serve() -> None:
    """The process itself."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the job decides
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between
    _send(sink, {"ready": True})
    limited = False
    while True:
        try:
            request = _receive(source)
        except EOFError:
            return
        limits = Limits(**request["limits"])
        if not limited:
            most = _MEMORY + 16 * limits.max_pixels + 2 * limits.max_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            limited = True
        try:
            picture = read_image(Location(*request["location"]), **request["limits"])
        except ImageError as error:
            stamp = None if error.stamp is None else dataclasses.astuple(error.stamp)
            _send(sink, {"reason": str(error), "lasting": error.lasting, "stamp": stamp})
            continue
        _send(
            sink,
            {
                "shape": picture.pixels.shape,
                "height": picture.height,
                "width": picture.width,
                "size": picture.stamp.size,
                "mtime_ns": picture.stamp.mtime_ns,
                "kind": picture.kind,
            },
            picture.pixels,
        )
