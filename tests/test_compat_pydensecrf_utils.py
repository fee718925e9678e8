"""wsss_fast.compat.pydensecrf: the helpers of utils, and errors where pydensecrf crashes or answers with nonsense."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from dense_crf_cases import maps
from helpers import read_only
from peers import peer

from wsss_fast.compat import pydensecrf as compat

THEIRS = SimpleNamespace(utils=peer("pydensecrf.utils"))
OURS = SimpleNamespace(dcrf=compat.densecrf, utils=compat.utils)


def both(make):
    """What `make(utils)` gives with our module and with theirs."""
    return make(OURS.utils), make(THEIRS.utils)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 7), (4,), (3, 2, 3, 4)], ids=str)
def test_unary_from_softmax(dtype, shape) -> None:
    p = (np.random.default_rng(0).random(shape) * 1.2).astype(dtype)
    for arguments in ({}, {"scale": 0.5}, {"scale": 1}, {"clip": 0.2}, {"clip": None, "scale": 0.9}):
        ours, theirs = both(lambda utils, a=arguments: utils.unary_from_softmax(p, **a))
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype and np.allclose(ours, theirs, rtol=2e-7, atol=1e-7)
        assert ours.flags.c_contiguous and ours.flags.writeable


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16])
def test_unary_from_labels(dtype) -> None:
    random = np.random.default_rng(0)
    for count, sure in ((2, 0.7), (3, 0.2), (21, 0.9)):
        for unsure in (True, False):
            labels = random.integers(0, count + unsure, (5, 6)).astype(dtype)
            for given in (labels, labels + (labels == 0)):  # with and without points of label 0
                ours, theirs = both(
                    lambda utils, x=given % (count + unsure), n=count, p=sure, u=unsure: utils.unary_from_labels(
                        x, n, gt_prob=p, zero_unsure=u
                    )
                )
                assert ours.dtype == theirs.dtype and np.allclose(ours, theirs, rtol=2e-7, atol=0)


def test_unary_from_labels_of_small_types() -> None:
    """uint8, as masks are stored: 0 - 1 must not wrap around."""
    labels = np.array([[0, 1], [2, 3]])
    for dtype in (np.uint8, np.uint16, np.int8):
        assert np.array_equal(
            OURS.utils.unary_from_labels(labels.astype(dtype), 3, 0.7), OURS.utils.unary_from_labels(labels, 3, 0.7)
        )
    assert np.allclose(OURS.utils.unary_from_labels([0, 0], 1, 0.7, False), -np.log(0.7))


def test_pairwise_features() -> None:
    random = np.random.default_rng(0)
    for sdims, shape in (((3, 2), (4, 5)), ((3, 2, 1.5), (4, 5, 6)), ((0.7,), (5,))):
        ours, theirs = both(lambda utils, a=sdims, b=shape: utils.create_pairwise_gaussian(a, b))
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    image = random.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    for sdims, schan, img, axis in (
        ((30, 20), (13, 12, 11), image, 2),
        ((30, 20), (13, 12, 11), image.transpose(2, 0, 1), 0),
        ((30, 20), 13, image, 2),
        ((30, 20), (13,), image[..., 0], -1),
        ((30, 20), (0.1,), image[..., :1] / 255, 2),
        ((30, 20, 9), 5, image, -1),
        ((30, 20, 9), (5, 4), random.random((3, 2, 4, 5)), 1),
    ):
        ours, theirs = both(
            lambda utils, a=sdims, b=schan, c=img, d=axis: utils.create_pairwise_bilateral(a, b, c.copy(), chdim=d)
        )
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_old_names(caplog) -> None:
    p, labels = maps(3, 4, 5, 0), np.arange(4)
    with caplog.at_level(logging.WARNING):
        for ours, theirs in (
            both(lambda utils: utils.softmax_to_unary(p)),
            both(lambda utils: utils.softmax_to_unary(p, 0.7)),
            both(lambda utils: utils.compute_unary(labels, 3)),
            both(lambda utils: utils.compute_unary(labels, 3, 0.6)),
        ):
            assert np.allclose(ours, theirs, rtol=2e-7, atol=1e-7)
    assert "compute_unary is deprecated, use unary_from_labels" in caplog.text


# ---- errors ---------------------------------------------------------------------------------------------------------------


def crf(set_unary: bool = True):
    instance = OURS.dcrf.DenseCRF2D(5, 4, 3)
    if set_unary:
        instance.setUnaryEnergy(np.ones((3, 20), np.float32))
    return instance


def with_value(value: float, shape=(3, 20)) -> np.ndarray:
    array = np.ones(shape, np.float32)
    array[..., 7] = value
    return array


RGB = np.zeros((4, 5, 3), np.uint8)

BAD = {
    "no unary": (lambda: crf(False).inference(3), RuntimeError, "DenseCRF2D.inference: no unary energy is set. Hint: call set"),
    "unary shape": (
        lambda: crf().setUnaryEnergy(np.ones((3, 19))),
        ValueError,
        r"DenseCRF2D.setUnaryEnergy: 'u' must have shape \[L, N\] = \[3, 20\], got \[3, 19\]",
    ),
    "unary NaN": (lambda: crf().setUnaryEnergy(with_value(np.nan)), ValueError, "'u' must hold finite numbers, got 3 NaN"),
    "unary -inf": (lambda: crf().setUnaryEnergy(with_value(-np.inf)), ValueError, "'u' must hold finite numbers"),
    "unary all inf": (lambda: crf().setUnaryEnergy(with_value(np.inf)), ValueError, "'u' must leave each point a label"),
    "unary text": (lambda: crf().setUnaryEnergy("energy"), TypeError, "'u' must be an array .* got str"),
    "unary complex": (lambda: crf().setUnaryEnergy(np.ones((3, 20), complex)), TypeError, r"'u' must be .* \(complex128\)"),
    "unary object": (lambda: crf().setUnary(np.ones((3, 20))), TypeError, "'u' must be a ConstUnary or LogisticUnary"),
    "unary none": (lambda: crf().setUnary(None), TypeError, "'u' must be a ConstUnary"),
    "const unary shape": (lambda: crf().setUnary(OURS.dcrf.ConstUnary(np.ones((3, 4)))), ValueError, r"'u' .* got \[3, 4\]"),
    "logistic shapes": (
        lambda: OURS.dcrf.LogisticUnary(np.ones((3, 4)), np.ones((5, 20))),
        ValueError,
        r"\[3, 4\] and \[5, 20\]",
    ),
    "width 0": (lambda: OURS.dcrf.DenseCRF2D(0, 4, 3), ValueError, "DenseCRF2D: 'w' must be 1 or more, got 0"),
    "negative height": (lambda: OURS.dcrf.DenseCRF2D(5, -4, 3), ValueError, "DenseCRF2D: 'h' must be 1 or more, got -4"),
    "no labels": (lambda: OURS.dcrf.DenseCRF(5, 0), ValueError, "DenseCRF: 'nlabels' must be 1 or more, got 0"),
    "half a pixel": (lambda: OURS.dcrf.DenseCRF(5.5, 2), TypeError, "DenseCRF: 'nvar' must be an integer, got 5.5"),
    "sigma 0": (lambda: crf().addPairwiseGaussian(0, 3), ValueError, "'sxy' must be positive, got 0"),
    "sigma negative": (lambda: crf().addPairwiseGaussian((3, -3), 3), ValueError, "'sxy' must be positive"),
    "sigma NaN": (lambda: crf().addPairwiseBilateral(80, np.nan, RGB, 3), ValueError, "'srgb' must be positive, got nan"),
    "three sxy": (lambda: crf().addPairwiseGaussian((3, 3, 3), 3), ValueError, "'sxy' must be a number or 2 numbers"),
    "two srgb": (lambda: crf().addPairwiseBilateral(80, (13, 13), RGB, 3), ValueError, "'srgb' must be a number or 3 numbers"),
    "sxy text": (lambda: crf().addPairwiseGaussian("3", 3), TypeError, "'sxy' must be a number or 2 numbers"),
    "image size": (
        lambda: crf().addPairwiseBilateral(80, 13, np.zeros((5, 4, 3), np.uint8), 10),
        ValueError,
        r"DenseCRF2D.addPairwiseBilateral: 'rgbim' must have shape \[H, W, 3\] = \[4, 5, 3\], got \[5, 4, 3\]",
    ),
    "grey image": (lambda: crf().addPairwiseBilateral(80, 13, RGB[..., 0], 10), ValueError, r"'rgbim' .* got \[4, 5\]"),
    "float image": (
        lambda: crf().addPairwiseBilateral(80, 13, RGB / 255, 10),
        TypeError,
        "'rgbim' must be of type uint8, got float64. Hint: other images",
    ),
    "features of other points": (
        lambda: crf().addPairwiseEnergy(np.ones((2, 19)), 3),
        ValueError,
        r"'features' .* got \[2, 19\]",
    ),
    "no features": (lambda: crf().addPairwiseEnergy(np.ones((0, 20)), 3), ValueError, "'features' must .* D of 1 or more"),
    "features NaN": (
        lambda: crf().addPairwiseEnergy(with_value(np.nan, (2, 20)), 3),
        ValueError,
        "'features' must hold finite numbers, got 2",
    ),
    "compat length": (lambda: crf().addPairwiseGaussian(3, np.ones(2)), ValueError, r"'compat' must .* L = 3, got \[2\]"),
    "compat not square": (lambda: crf().addPairwiseGaussian(3, np.ones((3, 4))), ValueError, r"'compat' must .* got \[3, 4\]"),
    "compat NaN": (lambda: crf().addPairwiseGaussian(3, np.nan), ValueError, "'compat' must hold finite numbers"),
    "compat none": (lambda: crf().addPairwiseGaussian(3, None), TypeError, "'compat' must be .* got NoneType"),
    "normalization": (
        lambda: crf().addPairwiseGaussian(3, 3, normalization=7),
        ValueError,
        r"'normalization' must be one of NO_NORMALIZATION \(0\), .* got 7",
    ),
    "kernel": (lambda: crf().addPairwiseGaussian(3, 3, kernel=7), ValueError, r"'kernel' must be one of CONST_KERNEL \(0\)"),
    "negative iterations": (lambda: crf().inference(-1), ValueError, "'niter' must be 0 or more, got -1"),
    "iterations none": (lambda: crf().inference(None), TypeError, "'niter' must be an integer, got None"),
    "step of another shape": (lambda: crf().stepInference(np.ones((3, 19))), ValueError, r"'Q' must have shape \[3, 20\]"),
    "step of integers": (lambda: crf().stepInference(np.ones((3, 20), int)), TypeError, "'Q' must be a floating point array"),
    "step of a list": (lambda: crf().stepInference([[1.0] * 20] * 3), TypeError, "'Q' must be a floating point array.* got list"),
    "step of read-only": (lambda: crf().stepInference(read_only(np.ones((3, 20)))), ValueError, "'Q' must be writable"),
    "step of NaN": (lambda: crf().stepInference(with_value(np.nan)), ValueError, "'Q' must hold finite numbers"),
    "divergence shape": (lambda: crf().klDivergence(np.ones((2, 20))), ValueError, r"'Q' must have shape \[3, 20\]"),
    "scale": (
        lambda: OURS.utils.unary_from_softmax(RGB, scale=0),
        ValueError,
        r"unary_from_softmax: 'scale' must lie in \(0, 1\]",
    ),
    "softmax text": (lambda: OURS.utils.unary_from_softmax("p"), TypeError, "'sm' must be an array"),
    "gt_prob": (lambda: OURS.utils.unary_from_labels([0], 3, 1.0), ValueError, r"'gt_prob' must lie in \(0, 1\), got 1.0"),
    "label too large": (lambda: OURS.utils.unary_from_labels([0, 4], 3, 0.5), ValueError, r"'labels' must lie in 0..3, got 0..4"),
    "label too large, no unsure": (
        lambda: OURS.utils.unary_from_labels([0, 3], 3, 0.5, zero_unsure=False),
        ValueError,
        r"'labels' must lie in 0..2, got 0..3. Hint: zero_unsure",
    ),
    "ignore label": (lambda: OURS.utils.unary_from_labels(np.uint8([0, 255]), 3, 0.5), ValueError, r"got 0..255"),
    "negative label": (
        lambda: OURS.utils.unary_from_labels([-1, 0], 3, 0.5),
        ValueError,
        r"'labels' must lie in 0..3, got -1..0",
    ),
    "float labels": (
        lambda: OURS.utils.unary_from_labels([0.0, 1.0], 3, 0.5),
        TypeError,
        "'labels' must be integers, got float64",
    ),
    "sdims": (
        lambda: OURS.utils.create_pairwise_gaussian((3,), (4, 5)),
        ValueError,
        "'sdims' must have one number for each of the 2",
    ),
    "sdims 0": (lambda: OURS.utils.create_pairwise_gaussian((3, 0), (4, 5)), ValueError, "'sdims' must be positive"),
    "schan": (
        lambda: OURS.utils.create_pairwise_bilateral((3, 3), (1, 2), RGB, chdim=2),
        ValueError,
        "'schan' must be a number or 3 numbers",
    ),
    "chdim": (
        lambda: OURS.utils.create_pairwise_bilateral((3, 3), 1, RGB, chdim=3),
        ValueError,
        "'chdim' must be an axis of 'img'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, error, message = BAD[case]
    with pytest.raises(error, match=message):
        run()


def test_an_error_changes_nothing() -> None:
    instance = crf()
    expected = instance.inference(2)
    for call in (
        lambda: instance.setUnaryEnergy(with_value(np.nan)),
        lambda: instance.addPairwiseGaussian(0, 3),
        lambda: instance.addPairwiseGaussian(3, np.ones(2)),
    ):
        with pytest.raises(ValueError):
            call()
    assert np.array_equal(instance.inference(2), expected)
