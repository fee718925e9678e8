"""What each method makes of its terms: against the formulas restated in float64, and which parts of a network they move."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsss_fast import methods, ops
from wsss_fast.methods import affinitynet, cam, cpn, eps, l2g, losses, seam

LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
PUBLISHED = (None, "paper", "code")
Pair = tuple[Tensor, Tensor]


def pair(h: int, w: int) -> Pair:
    """Raw and refined maps of three images with three classes."""
    return tuple(torch.randn(3, 4, h, w, dtype=torch.float64).requires_grad_() for _ in range(2))


# ---- restatements: one image after the other, one step a line --------------------------------------------------------------


def normalised(maps: Tensor) -> Tensor:
    """[C, h, w]"""
    z = maps.clamp(min=0)
    least, largest = z.amin(dim=(1, 2), keepdim=True), z.amax(dim=(1, 2), keepdim=True)
    return (z - least - 1e-5).clamp(min=0) / (largest - least + 1e-5)


def hardest(error: Tensor) -> Tensor:
    return error.flatten().sort(descending=True).values[: int(error.numel() * 0.2)].mean()


def strongest(maps: Tensor) -> Tensor:
    return maps * (maps == maps.max(dim=0).values)


def margin(raw: Tensor, labels: Tensor) -> Tensor:
    s = raw[1:].flatten(1).mean(dim=1)
    return -sum(torch.sigmoid(s[c] if labels[c] else -s[c]).log() for c in range(len(labels))) / len(labels)


def quiet_quarter(refined: Tensor, labels: Tensor) -> Tensor:
    m = (refined[1:] * labels[:, None, None]).max(dim=0).values.flatten()
    return m.sort().values[: len(m) // 4].clamp(min=0).mean()


def with_first(first: Tensor, maps: Tensor) -> Tensor:
    return torch.cat([first[None], maps[1:]])


def seam_restated(first: Pair, second: Pair, labels: Tensor, published: str | None) -> dict[str, float]:
    terms = {"classification": 0.0, "min_pooling": 0.0, "er": 0.0, "ecr": 0.0}
    size = second[0].shape[2:]
    for i, present in enumerate(labels.double()):
        own = torch.cat([torch.ones(1), present])[:, None, None]
        raw1, refined1 = (
            functional.interpolate(normalised(x[i])[None], size, mode="bilinear", align_corners=True)[0] * own for x in first
        )
        raw2, refined2 = (normalised(x[i]) * own for x in second)
        terms["classification"] += (margin(first[0][i], present) + margin(second[0][i], present)) / 2
        terms["min_pooling"] += (quiet_quarter(first[1][i], present) + quiet_quarter(second[1][i], present)) / 2
        terms["er"] += (raw1 - raw2)[1:].abs().mean()
        for raw, refined in ((raw2, refined1), (raw1, refined2)):
            objects = raw if published == "paper" else with_first(raw[0], torch.cat([raw[:1], strongest(raw[1:])]))
            terms["ecr"] += hardest((with_first(1 - raw[1:].max(dim=0).values, objects) - refined).abs())
    if published == "paper":
        del terms["min_pooling"]
    return {name: term / len(labels) for name, term in terms.items()}


def cpn_restated(
    whole: Pair, first: Pair, second: Pair, share: Tensor, labels: Tensor, published: str | None
) -> dict[str, Tensor]:
    terms = {"classification": 0.0, "min_pooling": 0.0, "tcp_raw": 0.0, "tcp_refined": 0.0, "cpcr": 0.0}
    for i, present in enumerate(labels.double()):
        own = torch.cat([torch.ones(1), present])[:, None, None]
        parts = (1.0, share[i].item(), 1 - share[i].item())
        maps = []
        for view, part in zip((whole, first, second), parts, strict=True):
            if published is not None or part > 0:
                terms["classification"] += margin(view[0][i], present) / 3
            terms["min_pooling"] += quiet_quarter(view[1][i], present) / 3
            for x in view:
                m = normalised(x[i]) * own
                if published == "code":
                    maps.append(with_first(1 - (part * m)[1:].max(dim=0).values, part * m))
                else:
                    maps.append(part * with_first(1 - m[1:].max(dim=0).values, m))
        w, w_refined, f, f_refined, s, s_refined = maps
        terms["tcp_raw"] += (f.detach() + s.detach() - w)[1:].abs().mean()
        terms["tcp_refined"] += (f_refined + s_refined - w_refined)[1:].abs().mean()
        for part, refined in ((f, s_refined), (s, f_refined)):
            target = (w - part).detach()
            terms["cpcr"] += hardest(((target if published == "paper" else strongest(target)) - refined).abs())
    if published == "paper":
        del terms["min_pooling"]
    return {name: term / len(labels) for name, term in terms.items()}


def compare(got: dict[str, Tensor], expected: dict[str, Tensor], leaves: list[Tensor], constants: dict[str, list[int]]) -> None:
    """Values, their sum, and gradients; ``constants`` names the leaves that a term must not reach at all."""
    assert set(got) == {*expected, "total"}
    assert got["total"].item() == pytest.approx(sum(term.item() for term in expected.values()), rel=1e-12)
    for name, term in expected.items():
        assert got[name].item() == pytest.approx(term.item(), rel=1e-12)
        gradients = torch.autograd.grad(got[name], leaves, retain_graph=True, allow_unused=True)
        reached = [i for i, gradient in enumerate(gradients) if gradient is not None]
        assert reached == [i for i in range(len(leaves)) if i not in constants[name]], name
        for i, other in zip(reached, torch.autograd.grad(term, [leaves[i] for i in reached], retain_graph=True), strict=True):
            assert torch.allclose(gradients[i], other, rtol=1e-9, atol=1e-15), name


@pytest.mark.parametrize("published", PUBLISHED)
@pytest.mark.parametrize("size", [(5, 7), (12, 16)], ids=str)
def test_seam(size: tuple[int, int], published: str | None) -> None:
    first, second = pair(12, 16), pair(*size)
    got = seam.losses(first, second, LABELS, published)
    expected = seam_restated(first, second, LABELS, published)
    raw, refined = [0, 2], [1, 3]
    constants = {"classification": refined, "er": refined, "ecr": raw, "min_pooling": raw}
    # the restatement takes raw maps along in ecr
    expected["ecr"] = seam_restated(*[(r.detach(), x) for r, x in (first, second)], LABELS, published)["ecr"]
    compare(got, expected, [*first, *second], constants)


@pytest.mark.parametrize("published", PUBLISHED)
def test_cpn(published: str | None) -> None:
    views = [pair(9, 8) for _ in range(3)]
    share = torch.tensor([0.3, 1.0, 0.55])  # of the second image the second part shows nothing
    got = cpn.losses(*views, share, LABELS, published)
    expected = cpn_restated(*views, share.double(), LABELS, published)
    raw, refined = [0, 2, 4], [1, 3, 5]
    constants = {
        "classification": refined,
        "min_pooling": raw,
        "tcp_raw": [1, 2, 3, 4, 5],  # moves the raw maps of the whole image alone
        "tcp_refined": raw,
        "cpcr": [*raw, 1],
    }
    compare(got, expected, [x for view in views for x in view], constants)


def test_cpn_background_adds_up() -> None:
    """Two parts that show what the whole shows: with the background times the share nothing is left to learn."""
    raw = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    view, labels, share = (raw, raw), torch.ones(1, 2), torch.tensor([0.25])
    assert cpn.losses(view, view, view, share, labels, "paper")["cpcr"].item() == pytest.approx(0, abs=1e-12)
    assert cpn.losses(view, view, view, share, labels, "code")["cpcr"].item() > 0.1
    for published in PUBLISHED:
        assert cpn.losses(view, view, view, share, labels, published)["tcp_raw"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["seam", "cpn"])
def test_absent_classes_are_not_looked_at(method: str) -> None:
    """What stands in the map of a class that is not in the image changes no comparison, and gets no gradient from any."""
    labels = torch.tensor([[1, 0, 1]] * 3)

    def terms(views: list[Pair]) -> dict[str, Tensor]:
        if method == "seam":
            return seam.losses(*views[:2], labels)
        return cpn.losses(*views, torch.full((3,), 0.4), labels)

    views = [pair(6, 6) for _ in range(3)]
    got = terms(views)
    raised = []
    for view in views:
        changed = [x.detach().clone() for x in view]
        for x in changed:
            x[:, 2] = 100 * torch.rand(3, 6, 6)
        raised.append(tuple(changed))
    other = terms(raised)
    leaves = [x for view in views for x in view]
    for name in set(got) - {"classification", "total"}:
        assert torch.equal(got[name], other[name])
        for gradient in torch.autograd.grad(got[name], leaves, retain_graph=True, allow_unused=True):
            assert gradient is None or not gradient[:, 2].any()


def test_cam_and_affinitynet() -> None:
    scores = torch.randn(3, 3)
    assert cam.losses(scores, LABELS)["total"].item() == losses.soft_margin(scores, LABELS).item()
    planes, labels = ops.affinity(torch.rand(2, 4, 11, 12)), torch.randint(0, 4, (2, 11, 12))
    for published in PUBLISHED:
        border = "published" if published == "code" else "full"
        expected = losses.affinitynet_pairs(planes, labels, border=border)
        assert affinitynet.losses(planes, labels, published)["total"].item() == expected.item()
    assert affinitynet.losses(planes, labels)["total"] != affinitynet.losses(planes, labels, "code")["total"]


@pytest.mark.parametrize("published", PUBLISHED)
def test_eps(published: str | None) -> None:
    scores, logits = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, 5, 6, requires_grad=True)
    saliency = torch.rand(3, 1, 21, 17)  # another size
    got = eps.losses((scores, logits), saliency, LABELS, published, lam=0.9)
    assert got["classification"].item() == losses.soft_margin(scores[:, :3], LABELS).item()
    assert got["saliency"].item() == losses.eps_saliency(logits, saliency, LABELS, lam=0.9).item()
    assert got["total"].item() == pytest.approx(got["classification"].item() + got["saliency"].item())
    got["classification"].backward()
    assert not scores.grad[:, 3].any()  # the background is not classified


@pytest.mark.parametrize("published", PUBLISHED)
def test_l2g(published: str | None) -> None:
    maps = torch.randn(3, 4, 7, 7, requires_grad=True)
    taught, scores = torch.randn(4, 4, 5, 5, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    boxes = torch.tensor([[0, 0, 0, 40, 40], [0, 16, 8, 56, 48], [2, 9, 3, 49, 43], [1, 16, 16, 56, 56]])
    saliency = torch.rand(4, 1, 40, 40)
    saliency[3] = 0
    for s in (saliency, None):
        got = l2g.losses(maps, (taught, scores), boxes, LABELS, s, published)
        labels = LABELS[[0, 0, 2, 1]]
        goal = l2g.target(taught, labels, s, published=published)
        cut = methods.roi_align.roi_align(maps, boxes, (5, 5), 1 / 8, aligned=published != "code")
        assert torch.equal(cut[0], maps[0, :, :5, :5]) == (published != "code")
        assert got["transfer"].item() == pytest.approx(10 * (cut.softmax(1) - goal).square().mean().item())
        assert got["classification"].item() == losses.soft_margin(scores, labels).item()
        assert got["total"].item() == pytest.approx(got["transfer"].item() + got["classification"].item())
        leaves = [maps, taught, scores]
        for name, reached in (("transfer", [0]), ("classification", [2])):
            gradients = torch.autograd.grad(got[name], leaves, retain_graph=True, allow_unused=True)
            assert [i for i, gradient in enumerate(gradients) if gradient is not None] == reached


# ---- which parameters a term moves --------------------------------------------------------------------------------------------


def moved(model: nn.Module, loss: Tensor) -> set[str]:
    """Names of the parts of a network that get a gradient; the others get none, not a zero."""
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {name.split(".")[0] for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def small(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return methods.create(name, 3, width=1 / 16)


def test_routes_of_seam_and_cpn() -> None:
    image, labels = torch.randn(2, 3, 32, 32), torch.tensor([[1, 0, 1], [0, 1, 0]])
    small_image = functional.interpolate(image, (16, 16), mode="bilinear", align_corners=True)
    model = small("seam")
    terms = seam.losses(model(image), model(small_image), labels)
    branches = {"f8_3", "f8_4", "f9"}
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} - branches
    assert trained > {"b3", "b7", "fc8"} and not trained & {"conv1a", "b2"}
    assert moved(model, terms["classification"]) == moved(model, terms["er"]) == trained
    assert moved(model, terms["ecr"]) == moved(model, terms["min_pooling"]) == branches

    model = small("cpn")
    first, second, share = ops.complementary_pair(image, grid=8)
    terms = cpn.losses(model(image), model(first), model(second), share, labels)
    branches.add("f10")
    assert moved(model, terms["classification"]) == moved(model, terms["tcp_raw"]) == trained
    for name in ("tcp_refined", "cpcr", "min_pooling"):
        assert moved(model, terms[name]) == branches


def test_routes_of_eps_and_l2g() -> None:
    image, labels = torch.randn(2, 3, 32, 32), torch.tensor([[1, 0, 1], [0, 1, 0]])
    model = small("eps")
    terms = eps.losses(model(image), torch.rand(2, 1, 32, 32), labels)
    assert moved(model, terms["classification"]) == moved(model, terms["saliency"]) > {"b3", "fc8"}

    whole, local = small("l2g"), small("l2g", 1)
    boxes = torch.tensor([[0, 0, 0, 24, 24], [1, 8, 8, 32, 32]])
    patches = torch.stack([image[0, :, :24, :24], image[1, :, 8:, 8:]])
    terms = l2g.losses(whole(image)[0], local(patches), boxes, labels, torch.rand(2, 1, 24, 24))
    assert moved(whole, terms["transfer"]) == moved(local, terms["classification"]) > {"b3", "fc8", "f9"}
    assert not moved(local, terms["transfer"]) and not moved(whole, terms["classification"])


# ---- bad input --------------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "cam": lambda x, labels, **k: cam.losses(x[:, 1:].mean(dim=(2, 3)), labels, **k),
    "seam": lambda x, labels, **k: seam.losses((x, x), (x, x), labels, **k),
    "cpn": lambda x, labels, **k: cpn.losses((x, x), (x, x), (x, x), torch.full((len(x),), 0.5), labels, **k),
    "eps": lambda x, labels, **k: eps.losses((x.mean(dim=(2, 3)), x), torch.ones(len(x), 1, 9, 9), labels, **k),
    "l2g": lambda x, labels, **k: l2g.losses(
        x, (x[:1], x[:1, 1:].mean(dim=(2, 3))), torch.tensor([[1, 0, 0, 48, 40]]), labels, **k
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_no_class_and_all_classes(method: str) -> None:
    maps = torch.randn(2, 4, 5, 6).requires_grad_()
    for labels in (torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([[0, 0, 0], [1, 1, 1]])):
        terms = CALLS[method](maps, labels)
        assert all(term.isfinite() and term >= 0 for term in terms.values())
        assert torch.autograd.grad(terms["total"], maps)[0].isfinite().all()
    for constant in (0.0, 3.0):  # maps without a largest place
        maps = torch.full((2, 4, 5, 6), constant, requires_grad=True)
        terms = CALLS[method](maps, torch.ones(2, 3))
        assert terms["total"].isfinite() and torch.autograd.grad(terms["total"], maps)[0].isfinite().all()


@pytest.mark.parametrize("method", CALLS)
def test_nan_is_told(method: str) -> None:
    maps = torch.randn(2, 4, 5, 6)
    maps[1, 1, 2, 2] = math.nan
    assert CALLS[method](maps, torch.ones(2, 3))["total"].isnan()


@pytest.mark.parametrize("method", CALLS)
def test_half_gives_float32(method: str) -> None:
    maps = torch.randn(2, 4, 20, 24)
    for kind in (torch.float16, torch.bfloat16):
        got, expected = CALLS[method](maps.to(kind), torch.ones(2, 3)), CALLS[method](maps.to(kind).float(), torch.ones(2, 3))
        assert got["total"].dtype == torch.float32
        assert got["total"].item() == pytest.approx(expected["total"].item(), rel=1e-2)


@pytest.mark.parametrize("method", CALLS)
def test_errors(method: str) -> None:
    maps = torch.randn(2, 4, 5, 6)
    for labels in (torch.ones(2, 4), torch.ones(2, 2), torch.ones(3, 3), torch.ones(3)):
        with pytest.raises(ValueError, match="'labels' must have shape"):
            CALLS[method](maps, labels)
    with pytest.raises(ValueError, match=rf"{method}.losses: 'published' must be None, 'paper' or 'code', got 'papers'"):
        CALLS[method](maps, torch.ones(2, 3), published="papers")


def test_errors_of_pairs() -> None:
    maps, labels = torch.randn(2, 4, 5, 6), torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"seam.losses: 'first' must be the raw and the refined maps, got Tensor"):
        seam.losses(maps, (maps, maps), labels)
    with pytest.raises(ValueError, match=r"seam.losses: 'second' must have N and 1 \+ C of 'first', \[2, 4\]"):
        seam.losses((maps, maps), (maps[:1], maps[:1]), labels)
    with pytest.raises(ValueError, match=r"cpn.losses: 'first' must have the shape of 'whole'"):
        cpn.losses((maps, maps), (maps[..., 1:], maps[..., 1:]), (maps, maps), torch.ones(2), labels)
    with pytest.raises(ValueError, match=r"cpn.losses: 'share' must have shape \[N\] = \[2\], got \[2, 1\]"):
        cpn.losses((maps, maps), (maps, maps), (maps, maps), torch.ones(2, 1), labels)
    with pytest.raises(ValueError, match=r"l2g.losses: 'boxes' must be one for each of 2 patches, got 1"):
        l2g.losses(maps, (maps, maps[:, 1:, 0, 0]), torch.tensor([[0, 0, 0, 8, 8]]), labels)
