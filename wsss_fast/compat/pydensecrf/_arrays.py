"""Argument checks of the stand-in: what pydensecrf refuses although it is clear (read-only, strided, float64) is taken, what
makes it crash or give nonsense is refused."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from wsss_fast.ops._check import complaint


def real(op: str, argument: str, value: Any, layout: str) -> np.ndarray:
    """An array of real numbers as contiguous float32, never the caller's memory."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(complaint(op, argument, f"be an array {layout} of numbers", f"{type(value).__name__} ({array.dtype})"))
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and is treated as such
        return np.array(array, dtype=np.float32, order="C")


def finite(op: str, argument: str, array: np.ndarray, hint: str = "") -> None:
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(complaint(op, argument, "hold finite numbers", f"{bad} NaN or infinite ones", hint))


def count(op: str, argument: str, value: Any, least: int) -> int:
    """An integer, or a float that is one, of at least `least`."""
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(complaint(op, argument, "be an integer", repr(value))) from None
    if number < least:
        raise ValueError(complaint(op, argument, f"be {least} or more", number))
    return number


def deviations(op: str, argument: str, value: Any, length: int) -> np.ndarray:
    """One standard deviation for all of `length` coordinates, or one each. Infinite: the coordinate does not count."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(complaint(op, argument, f"be a number or {length} numbers", repr(value)))
    if array.shape not in ((), (1,), (length,)):
        raise ValueError(complaint(op, argument, f"be a number or {length} numbers", f"shape {list(array.shape)}"))
    if not (array > 0).all():
        raise ValueError(complaint(op, argument, "be positive", repr(value)))
    return np.broadcast_to(array.astype(np.float32), (length,))


def compatibility(op: str, value: Any, labels: int) -> np.ndarray:
    """A number, L costs or an L x L matrix of costs, made symmetric as pydensecrf does: [1], [L] or [L, L]."""
    array = real(op, "compat", value, "[L] or [L, L]")
    finite(op, "compat", array)
    if array.ndim == 0:
        return array[None]
    if array.shape == (labels, labels):
        return (array + array.T) / 2
    if array.shape == (labels,):
        return np.diag(array) if labels == 1 else array  # a single number would count with the other sign
    expected = f"be a number or have shape [L] or [L, L] with L = {labels}"
    raise ValueError(complaint(op, "compat", expected, list(array.shape)))


def probability(op: str, argument: str, value: Any, *, one: bool) -> float:
    number = float(value)
    if not (0 < number <= 1 if one else 0 < number < 1) or math.isnan(number):
        raise ValueError(complaint(op, argument, f"lie in (0, 1{']' if one else ')'}", value))
    return number
