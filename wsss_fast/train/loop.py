"""The training loop: batches in, weights out, and at any step a state to go on from.

A step is one batch. The weights move after every `accumulate` steps and at the end of an epoch, by the mean of the gradients.
Each step draws its random numbers (dropout, patches) from a seed of its own, so that whoever goes on from step k computes what
an uninterrupted run computes: on a CPU to the last bit, for the same number of processes and threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from wsss_fast.files.folder import OutputFolder
from wsss_fast.methods._training import Training, check_finite
from wsss_fast.train import checkpoint, pictures
from wsss_fast.train.logs import RunLog, Speed
from wsss_fast.train.optimiser import learning_rate, make_optimiser, set_rates
from wsss_fast.train.processes import Processes
from wsss_fast.train.settings import RunSettings, every

MODEL = "model.safetensors"
MODELS = "models"
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GO, _STOP, _NOT_FINITE = 0, 1, 2


class Feed(Protocol):
    """Where batches come from: the same ones in the same order, whenever they are asked for."""

    steps: int  # batches of an epoch

    def batches(self, epoch: int, first: int) -> Iterable[dict[str, Any]]:
        """This process's shares of the batches of an epoch, from number `first` on."""


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    epoch: int  # from 1 on
    loss: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Outcome:
    step: int
    steps: int
    started: int  # the step it went on from
    stopped: bool  # asked to, with a checkpoint written; else all steps are done


def fit(
    training: Training,
    feed: Feed,
    run: RunSettings,
    folder: OutputFolder,
    processes: Processes,
    identity: dict[str, Any],
    classes: Sequence[str],
    examples: Sequence[pictures.Example] = (),
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Trains until all steps are done or `stop` says so, from the folder's checkpoint if there is one.

    Args:
        training: of `methods.training`; on the processes' device.
        identity: what decides the result, as JSON values; a checkpoint of another identity is refused.
        classes: names of the object classes, for the model file.
        examples: images whose class maps are drawn.
        report: called after every step in the first process.
        stop: asked after every step in every process; one is enough.

    Raises:
        FloatingPointError: a loss or the weights are not finite; the last checkpoint is from before.
        CheckpointError: the checkpoint is damaged, or of another identity.
        OutputStoppedError: the disk is full; the last checkpoint is whole.
    """
    return _Fit(training, feed, run, folder, processes, identity, list(classes), examples).run(report, stop)


class _Fit:
    def __init__(
        self,
        training: Training,
        feed: Feed,
        run: RunSettings,
        folder: OutputFolder,
        processes: Processes,
        identity: dict[str, Any],
        classes: list[str],
        examples: Sequence[pictures.Example],
    ) -> None:
        self.training, self.feed, self.settings = training, feed, run
        self.folder, self.processes, self.identity, self.classes = folder, processes, identity, classes
        self.examples = examples if training.model.merge else ()
        self.method = training.settings
        self.steps = self.method.epochs * feed.steps
        self.last = min(self.steps, run.max_steps or self.steps)
        self.optimiser = make_optimiser(training)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=run.precision == "fp16")
        self.step = self.started = self._restored()
        self.network: Any = training
        if processes.size > 1:
            self.network = DistributedDataParallel(training)
        if run.compile:
            self.network = torch.compile(self.network)
        self.log = RunLog(folder, self.step, run.tensorboard) if processes.first else None
        self.speed = Speed(self.method.batch)

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> Outcome:
        self.training.train()
        saved, stopped = self.step, False
        try:
            for batch in self._batches():
                verdict, terms = self._forward_backward(batch, stop)
                self._report(terms, report)
                stopped |= verdict == _STOP
                moved = self.step == self._group().start  # no gradient waits for others
                ends = moved and (stopped or self.step >= self.last)
                if self._due("pictures", self.step - 1) or (ends and not stopped):
                    self._draw()
                if moved and (ends or self._due("checkpoint_every", saved)):
                    self._save()
                    saved = self.step
                if ends:
                    break
            if self.processes.first and self.step >= self.last:
                self._save_model(MODEL)
            self.processes.wait()  # the model is there for all
        finally:
            if self.log:
                self.log.close()
        return Outcome(self.step, self.last, self.started, self.step < self.last)

    def _batches(self) -> Iterator[dict[str, Any]]:
        while self.step < self.last:
            epoch, first = divmod(self.step, self.feed.steps)
            yield from self.feed.batches(epoch, first)
            if self.step < (epoch + 1) * self.feed.steps:
                raise RuntimeError(f"train: epoch {epoch + 1} ended after {self.step} steps, not {(epoch + 1) * self.feed.steps}")

    def _forward_backward(self, batch: dict[str, Any], stop: Callable[[], bool]) -> tuple[int, dict[str, Tensor]]:
        """One step; whether any process was asked to stop, and the terms of this one's loss."""
        device = self.processes.device
        tensors = {name: x.to(device, non_blocking=True) for name, x in batch.items() if isinstance(x, Tensor)}
        torch.manual_seed(_seed(self.settings.seed, self.step, self.processes.rank))
        group = self._group()
        moves = self.step + 1 == group.stop
        with contextlib.nullcontext() if moves or self.processes.size == 1 else self.network.no_sync():
            dtype = _PRECISIONS.get(self.settings.precision)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                terms = self.network(tensors)
            finite = bool(torch.isfinite(terms["total"]))
            verdict = self.processes.highest(_NOT_FINITE if not finite else _STOP if stop() else _GO)
            values = {name: value.detach() for name, value in terms.items()}
            if verdict == _NOT_FINITE:
                check_finite(values, batch["names"])
                raise FloatingPointError("train: the loss is not finite in another process, which names the images")
            self.scaler.scale(terms["total"] / len(group)).backward()
        if moves:
            set_rates(self.optimiser, self._rate(group.start))
            self.scaler.step(self.optimiser)
            self.scaler.update()
            self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return verdict, values

    def _group(self) -> range:
        """The steps whose gradients are added with that of the next step; an epoch's end ends a group."""
        place = self.step % self.feed.steps
        start = place // self.method.accumulate * self.method.accumulate
        end = min(start + self.method.accumulate, self.feed.steps)
        return range(self.step - place + start, self.step - place + end)

    def _rate(self, step: int) -> float:
        return learning_rate(self.method, step, self.steps, self.feed.steps)

    def _report(self, terms: dict[str, Tensor], report: Callable[[Progress], None]) -> None:
        self.speed.step()
        epoch = (self.step - 1) // self.feed.steps + 1
        values = torch.stack([value.float() for value in terms.values()])
        if self.step % self.settings.log_every == 0 or self.step in (1, self.steps):
            values = self.processes.mean(values)
            if self.log:
                logged = dict(zip(terms, values.tolist(), strict=True))
                rate = self.method.lr * self._rate(self.step - 1)
                self.log.losses(self.step, epoch, rate, logged, self.speed.images_per_second)
        if self.processes.first:
            loss = float(values[list(terms).index("total")])
            left = self.speed.seconds_for(max(0, self.last - self.step))
            report(Progress(self.step, self.last, epoch, loss, self.speed.images_per_second, left))

    def _due(self, name: str, since: int) -> bool:
        interval = every(name, getattr(self.settings, name), self.feed.steps)
        return interval > 0 and self.step // interval > since // interval

    def _draw(self) -> None:
        if self.log and self.examples and every("pictures", self.settings.pictures, self.feed.steps):
            self.training.eval()
            self.log.picture(self.step, pictures.sheet(self.training.model, self.examples, self.classes))
            self.training.train()

    def _save(self) -> None:
        self._check_weights()
        if not self.log:
            return
        if self.settings.keep:
            self._save_model(f"{MODELS}/step-{self.step:08d}.safetensors")
            for path in sorted((self.folder.path / MODELS).glob("step-*.safetensors"))[: -self.settings.keep]:
                self.folder.remove(f"{MODELS}/{path.name}")
        # Last, since who goes on from it does nothing of its step again.
        self.log.sync()
        told = {"step": self.step, "steps": self.steps, "identity": self.identity}
        checkpoint.save(self.folder, self.training, self.optimiser, self.scaler, told)

    def _check_weights(self) -> None:
        """A finite loss can have a gradient that is not: such weights must not replace a good checkpoint."""
        largest = torch.stack([weight.detach().float().abs().max() for weight in self.training.parameters()]).max()
        if not bool(torch.isfinite(largest)):
            hint = "a lower lr, or fp32 in place of fp16; the last checkpoint is from before"
            raise FloatingPointError(f"train: the weights are not finite after step {self.step}. Hint: {hint}")

    def _save_model(self, name: str) -> None:
        model = self.training.model
        trained = {"step": self.step, "steps": self.steps, **self.identity}
        checkpoint.save_model(self.folder, name, model, {**model.description(), "classes": self.classes, "trained": trained})

    def _restored(self) -> int:
        path = self.folder.path / checkpoint.NAME
        saved = checkpoint.read(path)
        if saved is None:
            return 0
        checkpoint.check_identity(path, saved.told, self.identity)
        checkpoint.restore(path, saved, self.training, self.optimiser, self.scaler)
        return saved.told["step"]


def _seed(*numbers: int) -> int:
    """Far from those of neighbouring numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
