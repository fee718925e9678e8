"""wsss_fast.compat.pydensecrf: programs written for pydensecrf run on both by one changed import, and give the same."""

from __future__ import annotations

import itertools
import multiprocessing
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from dense_crf_cases import maps, photo
from helpers import read_only, threads
from peers import peer

from wsss_fast.compat import pydensecrf as compat

THEIRS = SimpleNamespace(dcrf=peer("pydensecrf.densecrf"), utils=peer("pydensecrf.utils"))
OURS = SimpleNamespace(dcrf=compat.densecrf, utils=compat.utils)


def assert_same(ours: np.ndarray, theirs: np.ndarray, bound: float = 1e-4) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= bound
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999


# ---- programs -------------------------------------------------------------------------------------------------------------
# The ways the published stages use pydensecrf, written as such programs are: `run(image, maps)`.
PROGRAMS = {
    "unnormalised scores, one term scaled down (PSA, SEAM)": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import unary_from_softmax

        def run(image, probs, steps=10, scale=1.0):
            count = probs.shape[0]
            rows, columns = image.shape[:2]
            crf = dcrf.DenseCRF2D(columns, rows, count)
            crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs * 1.7)))
            crf.addPairwiseGaussian(sxy=3 / scale, compat=3)
            crf.addPairwiseBilateral(sxy=80 / scale, srgb=13, rgbim=np.copy(image), compat=10)
            return np.array(crf.inference(steps)).reshape((count, rows, columns))
    """,
    "scale factor 12 (PSA)": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        import pydensecrf.utils as utils

        def run(image, probs):
            rows, columns = image.shape[:2]
            crf = dcrf.DenseCRF2D(columns, rows, len(probs))
            crf.setUnaryEnergy(utils.unary_from_softmax(probs, scale=0.9, clip=1e-4))
            crf.addPairwiseGaussian(3 / 12, 3)
            crf.addPairwiseBilateral(80 / 12, 13, image, 10)
            return np.array(crf.inference(10)).reshape(probs.shape)
    """,
    "hard labels (IRN)": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import unary_from_labels

        def run(image, probs):
            hard = np.argmax(probs, axis=0)
            rows, columns = image.shape[:2]
            crf = dcrf.DenseCRF2D(columns, rows, len(probs))
            crf.setUnaryEnergy(unary_from_labels(hard, len(probs), gt_prob=0.7, zero_unsure=False))
            crf.addPairwiseGaussian(sxy=3, compat=3)
            crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(image)), compat=10)
            q = crf.inference(10)
            assert np.argmax(q, axis=0).shape == (rows * columns,)
            return np.array(q).reshape((len(probs), rows, columns))
    """,
    "labels with an unsure class": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import unary_from_labels

        def run(image, probs):
            hard = np.where(probs.max(0) > 0.45, probs.argmax(0) + 1, 0)
            crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(probs))
            crf.setUnaryEnergy(unary_from_labels(hard, len(probs), gt_prob=0.8, zero_unsure=True))
            crf.addPairwiseGaussian(sxy=(3, 3), compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
            crf.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10,
                                     kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
            return np.array(crf.inference(5))
    """,
    "softmax of a network (DeepLab)": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        import pydensecrf.utils as utils

        class Post:
            def __init__(self, steps, pos_w, pos_xy, bi_w, bi_xy, bi_rgb):
                self.settings = steps, pos_w, pos_xy, bi_w, bi_xy, bi_rgb

            def __call__(self, image, probs):
                steps, pos_w, pos_xy, bi_w, bi_xy, bi_rgb = self.settings
                labels, rows, columns = probs.shape
                energy = np.ascontiguousarray(utils.unary_from_softmax(probs))
                image = np.ascontiguousarray(image)
                crf = dcrf.DenseCRF2D(columns, rows, labels)
                crf.setUnaryEnergy(energy)
                crf.addPairwiseGaussian(sxy=pos_xy, compat=pos_w)
                crf.addPairwiseBilateral(sxy=bi_xy, srgb=bi_rgb, rgbim=image, compat=bi_w)
                return np.array(crf.inference(steps)).reshape((labels, rows, columns))

        run = Post(10, 3, 1, 4, 67, 3)
    """,
    "features of one's own (DenseCRF)": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

        def run(image, probs):
            crf = dcrf.DenseCRF(image.shape[0] * image.shape[1], len(probs))
            crf.setUnaryEnergy(unary_from_softmax(probs))
            crf.addPairwiseEnergy(create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2]), compat=3)
            features = create_pairwise_bilateral(sdims=(50, 50), schan=(20, 20, 20), img=image, chdim=2)
            crf.addPairwiseEnergy(features, compat=10, kernel=dcrf.FULL_KERNEL, normalization=dcrf.NORMALIZE_AFTER)
            return np.array(crf.inference(5))
    """,
    "step by step": """
        import numpy as np
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import unary_from_softmax

        def run(image, probs):
            crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(probs))
            crf.setUnaryEnergy(unary_from_softmax(probs))
            crf.addPairwiseBilateral(sxy=30, srgb=13, rgbim=image, compat=5)
            Q, tmp1, tmp2 = crf.startInference()
            for _ in range(4):
                crf.stepInference(Q, tmp1, tmp2)
            return np.array(Q)
    """,
}


def load(program: str, changed: bool):
    source = textwrap.dedent(PROGRAMS[program])
    if changed:
        source = source.replace("import pydensecrf.", "import wsss_fast.compat.pydensecrf.")
        source = source.replace("from pydensecrf.", "from wsss_fast.compat.pydensecrf.")
    names: dict = {"__name__": "program"}
    exec(compile(source, program, "exec"), names)
    return names["run"]


@pytest.mark.parametrize("labels", [2, 3, 21])
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_by_one_changed_import(program: str, labels: int) -> None:
    image, probability = photo("coffee", 60, 83), maps(labels, 60, 83, 1)
    ours, theirs = (load(program, changed)(image.copy(), probability.copy()) for changed in (True, False))
    assert_same(ours, theirs)


# ---- numbers --------------------------------------------------------------------------------------------------------------


def both(make):
    """What `make(dcrf, utils)` gives with our modules and with theirs."""
    return make(OURS.dcrf, OURS.utils), make(THEIRS.dcrf, THEIRS.utils)


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (12, 1), (11, 17), (32, 32), (29, 31)], ids=str)
@pytest.mark.parametrize("labels", [1, 2, 5, 9])
def test_sizes_and_label_counts(size, labels: int) -> None:
    (h, w), probability = size, maps(labels, *size, 0)

    def run(dcrf, utils):
        crf = dcrf.DenseCRF2D(w, h, labels)
        crf.setUnaryEnergy(utils.unary_from_softmax(probability))
        crf.addPairwiseGaussian((3, 1.5), 3)
        crf.addPairwiseBilateral((30, 20), (13, 10, 9), photo("coffee", h, w), 10)
        return np.array(crf.inference(5))

    assert_same(*both(run))


@pytest.mark.parametrize("normalization", range(4))
@pytest.mark.parametrize("kind", ["number", "vector", "matrix"])
@pytest.mark.parametrize("sxy", [3, (1 / 3, 0.2)], ids=str)
def test_normalisations_compatibilities_steps_and_divergence(normalization: int, kind: str, sxy) -> None:
    h, w = 23, 19
    random = np.random.default_rng(3)
    vector, matrix = random.uniform(-2, 2, 3).astype(np.float32), random.uniform(-2, 2, (3, 3)).astype(np.float32)
    cost = {"number": 0.7, "vector": vector, "matrix": matrix}[kind]

    def run(dcrf, utils):
        crf = dcrf.DenseCRF2D(w, h, 3)
        crf.setUnaryEnergy(utils.unary_from_softmax(maps(3, h, w, 0)))
        crf.addPairwiseGaussian(sxy, cost, normalization=normalization)
        crf.addPairwiseBilateral(30, 13, photo("coffee", h, w), cost, dcrf.CONST_KERNEL, normalization)
        q, tmp1, tmp2 = crf.startInference()
        divergences = [crf.klDivergence(q)]
        for _ in range(3):
            assert crf.stepInference(q, tmp1, tmp2) is None
            divergences.append(crf.klDivergence(q))
        return np.array(q), np.array(crf.inference(3)), np.array(divergences)

    ours, theirs = both(run)
    assert_same(ours[0], theirs[0])
    assert_same(ours[1], theirs[1])
    assert np.abs(ours[0] - ours[1]).max() < 1e-5  # steps are inference
    assert ours[2] == pytest.approx(theirs[2], rel=1e-4, abs=1e-2)


def test_divergence_falls() -> None:
    crf = OURS.dcrf.DenseCRF2D(40, 30, 3)
    crf.setUnaryEnergy(OURS.utils.unary_from_softmax(maps(3, 30, 40, 0)))
    crf.addPairwiseGaussian(3, 1)
    crf.addPairwiseBilateral(80, 13, photo("coffee", 30, 40), 1)
    q, *rest = crf.startInference()
    divergences = []
    for _ in range(8):
        divergences.append(crf.klDivergence(q))
        crf.stepInference(q, *rest)
    assert all(later < earlier for earlier, later in itertools.pairwise(divergences))


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("count", [152, 149])
def test_features_of_any_dimension(dims: int, count: int) -> None:
    features = np.random.default_rng(dims).normal(0, 2, (dims, count)).astype(np.float32)
    energy = np.random.default_rng(0).uniform(0, 3, (4, count)).astype(np.float32)

    def run(dcrf, _):
        crf = dcrf.DenseCRF(count, 4)
        crf.setUnaryEnergy(energy.copy())
        crf.addPairwiseEnergy(features.copy(), 4)
        return np.array(crf.inference(5))

    assert_same(*both(run))


def test_more_terms_than_the_kernels_take() -> None:
    def run(dcrf, utils):
        crf = dcrf.DenseCRF2D(17, 12, 3)
        crf.setUnaryEnergy(utils.unary_from_softmax(maps(3, 12, 17, 0)))
        for sigma in (1, 2, 3, 4, 5, 6):
            crf.addPairwiseGaussian(sigma, 1)
        return np.array(crf.inference(3))

    assert_same(*both(run))


def test_kinds_of_unary() -> None:
    random = np.random.default_rng(0)
    energy, weight, feature = (random.normal(size=shape).astype(np.float32) for shape in ((3, 40), (3, 4), (4, 40)))
    for make in (
        lambda dcrf: dcrf.ConstUnary(energy.copy()),
        lambda dcrf: dcrf.LogisticUnary(weight.copy(), feature.copy()),
    ):

        def run(dcrf, _, make=make):
            crf = dcrf.DenseCRF(40, 3)
            crf.setUnaryEnergy(energy * 5)  # replaced by the next
            crf.setUnary(make(dcrf))
            return np.array(crf.inference(0))

        assert_same(*both(run), bound=1e-5)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # theirs
def test_impossible_labels() -> None:
    """Probability 0 without clipping: an infinite energy."""
    probability = maps(3, 12, 17, 0)
    probability[1, 4:9] = 0

    def run(dcrf, utils):
        crf = dcrf.DenseCRF2D(17, 12, 3)
        crf.setUnaryEnergy(utils.unary_from_softmax(probability, clip=None))
        crf.addPairwiseGaussian(3, 3)
        return np.array(crf.inference(5))

    ours, theirs = both(run)
    assert_same(ours, theirs)
    assert not ours.reshape(3, 12, 17)[1, 4:9].any()


# ---- arrays ---------------------------------------------------------------------------------------------------------------


ARRAYS = {
    "plain": lambda x: x,
    "read-only": read_only,
    "columns first": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "a view of more": lambda x: np.pad(x, [(1, 2)] * x.ndim)[(slice(1, -2),) * x.ndim],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_in_any_layout(name: str) -> None:
    change = ARRAYS[name]
    probability, image = maps(3, 14, 17, 0), photo("coffee", 14, 17)
    energy = OURS.utils.unary_from_softmax(probability)
    compatibility = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    features = np.random.default_rng(0).random((4, 14 * 17)).astype(np.float32)

    def run(change) -> np.ndarray:
        arrays = [change(x) for x in (energy, image, compatibility, features)]
        before = [x.copy() for x in arrays]
        crf = OURS.dcrf.DenseCRF2D(17, 14, 3)
        crf.setUnaryEnergy(arrays[0])
        crf.addPairwiseBilateral(30, 13, arrays[1], arrays[2])
        crf.addPairwiseEnergy(arrays[3], 2)
        q = crf.inference(3)
        assert all(np.array_equal(x, y) for x, y in zip(arrays, before, strict=True))
        assert np.array_equal(OURS.utils.unary_from_softmax(change(probability)), energy)
        return q

    assert np.array_equal(run(change), run(lambda x: x.copy()))


def test_other_types_and_shapes() -> None:
    probability = maps(3, 6, 7, 0)
    energy = OURS.utils.unary_from_softmax(probability)

    def q(energy, compatibility=3) -> np.ndarray:
        crf = OURS.dcrf.DenseCRF2D(np.int64(7), 6.0, 3)
        crf.setUnaryEnergy(energy)
        crf.addPairwiseGaussian(np.float64(3), compatibility)
        return crf.inference(np.int32(2))

    expected = q(energy)
    for same in (energy.astype(np.float64), energy.tolist(), energy.reshape(3, 6, 7)):
        assert np.array_equal(q(same), expected)
    assert np.array_equal(q((energy * 3).astype(int)), q((energy * 3).astype(int).astype(np.float32)))
    for same in (np.float32(3), np.int64(3), np.array(3.0), 3.0):
        assert np.array_equal(q(energy, same), expected)
    vector = q(energy, np.array([1, 2, 3], np.float32))
    for same in ([1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), np.array([1.0, 2, 3])):
        assert np.array_equal(q(energy, same), vector)


def test_results_are_arrays_of_their_own() -> None:
    crf = OURS.dcrf.DenseCRF2D(7, 6, 3)
    energy = OURS.utils.unary_from_softmax(maps(3, 6, 7, 0))
    crf.setUnaryEnergy(energy)
    expected = crf.inference(0)
    energy[:] = 0  # what was set is a copy
    q = crf.inference(0)
    assert type(q) is np.ndarray and q.shape == (3, 42) and q.dtype == np.float32 and q.flags.c_contiguous
    assert np.array_equal(q, expected)
    q[:] = 0
    assert np.array_equal(crf.inference(0), expected)
    assert (crf.npixels, crf.nlabels) == (42, 3)
    assert isinstance(crf, OURS.dcrf.DenseCRF)


def test_a_step_writes_into_its_array() -> None:
    crf = OURS.dcrf.DenseCRF2D(7, 6, 3)
    crf.setUnaryEnergy(OURS.utils.unary_from_softmax(maps(3, 6, 7, 0)))
    crf.addPairwiseGaussian(3, 3)
    whole = np.zeros((3, 84), np.float64)
    view = whole[:, ::2]
    view[:] = crf.startInference()[0]
    crf.stepInference(view)
    assert np.allclose(view, crf.inference(1), atol=1e-6) and not whole[:, 1::2].any()


def test_forked_processes() -> None:
    """Threads of the parent are not there in a forked child: nothing may wait for them."""
    run = load("hard labels (IRN)", changed=True)
    image, probability = photo("coffee", 120, 160), maps(3, 120, 160, 0)
    with threads(2):
        expected = run(image, probability)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()

        def work() -> None:
            queue.put(np.array_equal(run(image, probability), expected))

        children = [context.Process(target=work) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(timeout=30)
            child.kill()
        assert all(child.exitcode == 0 for child in children), "a forked process hangs or fails"
        assert all(queue.get() for _ in children)


def test_constants() -> None:
    for name in ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"):
        assert int(getattr(OURS.dcrf, name)) == int(getattr(THEIRS.dcrf, name))
    for name in ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"):
        assert int(getattr(OURS.dcrf, name)) == int(getattr(THEIRS.dcrf, name))
    for ours, theirs in ((OURS.dcrf.DenseCRF2D, THEIRS.dcrf.DenseCRF2D), (OURS.dcrf.DenseCRF, THEIRS.dcrf.DenseCRF)):
        assert {name for name in dir(theirs) if name[0] != "_"} <= set(dir(ours))
