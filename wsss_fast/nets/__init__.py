"""Networks, each in a file of its own, and their weights. Importing this package imports no network."""

from wsss_fast.nets.fold import fold
from wsss_fast.nets.pack import pack
from wsss_fast.nets.weights import load_checkpoint

__all__ = ["fold", "load_checkpoint", "pack"]
