"""Training: `wsss train` from Python, and the parts it is made of: optimiser, loop, checkpoints, logs.

from wsss_fast import train

plan = train.Plan("cam", train.DataSettings(data="VOC2012", split="train_aug"))
train.train(plan, out="RUN")
"""

from __future__ import annotations

from wsss_fast.files.folder import OutputStoppedError
from wsss_fast.train.job import Finished, Plan, train
from wsss_fast.train.loop import Outcome, Progress, fit
from wsss_fast.train.optimiser import learning_rate, make_optimiser, parameter_groups, set_rates
from wsss_fast.train.settings import DataSettings, NetworkSettings, RunSettings

__all__ = [
    "DataSettings",
    "Finished",
    "NetworkSettings",
    "Outcome",
    "OutputStoppedError",
    "Plan",
    "Progress",
    "RunSettings",
    "fit",
    "learning_rate",
    "make_optimiser",
    "parameter_groups",
    "set_rates",
    "train",
]
