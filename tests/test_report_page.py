"""The report in a browser: sliders, keys, widths and colours, and that neither a name nor a script gets out of its place."""

from __future__ import annotations

import json

import pytest
from browser import browser, find_browser
from label_standins import BrightEngine, label, picture

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

NAMES = [
    "<img src=x onerror=alert(1)>.png",
    'a"><script>alert(1)<' + "/script>.png",
    "'\n\u202eb.png",
    "long" * 55 + ".png",
    "c.png",
    "d.png",
]
OPACITY = "Number(getComputedStyle(document.querySelectorAll('.card')[{card}].querySelector('.{layer}')).opacity)"


class Some(BrightEngine):
    """Pictures that are wider than high have no class."""

    class_names = ("<b onclick=alert(1)>bright</b>", "dark")

    def predict(self, pixels):
        found = super().predict(pixels)
        if pixels.shape[1] > 30:
            found.scores[0] = 0.1
        return found


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    for n, name in enumerate(NAMES):
        (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(n, (40, 16) if name == "d.png" else (24, 16 + n)).save(place / "images" / name, "PNG")
    (place / "images" / "broken <img src=x onerror=alert(2)>.png").write_bytes(b"x")
    summary = label(place / "images", place / "out", Some(), report=True)
    assert (summary.labelled, summary.failed) == (6, 1)
    return summary.report


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def opacity(chromium, card: int, layer: str) -> float:
    return chromium.run(OPACITY.format(card=card, layer=layer))


def focused(chromium) -> str:
    return chromium.run("document.activeElement.getAttribute('aria-label')")


def test_the_page_is_whole_and_stays_on_the_disk(chromium, index):
    chromium.open(index)
    chromium.run("for (const image of document.images) image.loading = 'eager'")
    chromium.wait("[...document.images].every(image => image.complete)")
    assert chromium.run("[...document.images].every(image => image.naturalWidth > 0)")
    counts = "[document.querySelectorAll('.card').length, document.images.length, document.scripts.length]"
    assert chromium.run(counts) == [6, 18, 1]
    assert chromium.run("[...document.querySelectorAll('.figure dd')].map(e => e.textContent)")[:4] == ["7", "6", "1", "1"]
    assert chromium.run("document.querySelectorAll('.column').length") == 20
    folder = index.parent.as_uri()
    assert len(chromium.requests) == 1 + 18 and all(url.startswith(folder) for url in chromium.requests)
    names = chromium.run("[...document.querySelectorAll('.card .name')].map(e => e.textContent)")
    assert set(names) >= {"<img src=x onerror=alert(1)>.png", 'a"><script>alert(1)</script>.png', "'\\n\\u202eb.png"}
    assert not chromium.complaints


def test_nothing_that_is_put_into_the_page_runs(chromium, index):
    """What the policy is for, should a name ever get through."""
    chromium.open(index)
    for hostile in ("<img src=x onerror='window.ran = 1'>", "<b onclick='window.ran = 1'>b</b>"):
        chromium.run(f'document.body.insertAdjacentHTML("beforeend", "{hostile}")')
    chromium.run("document.body.lastElementChild.click()")
    chromium.run("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    chromium.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert chromium.run("window.ran") is None
    assert sum("Content Security Policy" in text for text in chromium.complaints) >= 3


def test_sliders_go_from_image_to_cam_to_mask(chromium, index):
    chromium.open(index)
    assert (opacity(chromium, 0, "cam"), opacity(chromium, 0, "mask")) == (0, 1)
    chromium.run("document.querySelector('.card .layer').focus()")
    chromium.press("Home")
    assert (opacity(chromium, 0, "cam"), opacity(chromium, 0, "mask")) == (0, 0)
    assert (opacity(chromium, 1, "cam"), opacity(chromium, 1, "mask")) == (0, 1)
    chromium.press("ArrowRight")
    assert 0 < opacity(chromium, 0, "cam") < 0.1
    slide = "(() => { const s = document.getElementById('all'); s.value = 50; s.dispatchEvent(new Event('input')) })()"
    chromium.run(slide)
    assert [(opacity(chromium, n, "cam"), opacity(chromium, n, "mask")) for n in range(6)] == [(1, 0)] * 6
    assert chromium.run("document.querySelector('.card .layer').getAttribute('aria-valuetext')") == "CAM"
    assert not chromium.complaints


def test_keys_go_from_picture_to_picture(chromium, index):
    chromium.open(index)
    labels = chromium.run("[...document.querySelectorAll('.open')].map(e => e.getAttribute('aria-label'))")
    chromium.run("document.querySelector('.open').focus()")
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 4),
        ("ArrowLeft", 3),
        ("ArrowUp", 0),
        ("ArrowLeft", 0),
        ("End", 5),
        ("Home", 0),
    ):
        chromium.press(key)
        assert focused(chromium) == labels[expected], key
    assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_viewer_by_keys(chromium, index):
    chromium.open(index)
    place = "document.getElementById('viewer-place').textContent"
    layers = "['cam', 'mask'].map(n => Number(document.querySelector('#viewer-pictures .' + n).style.opacity))"
    labels = chromium.run("[...document.querySelectorAll('.open')].map(e => e.getAttribute('aria-label'))")
    chromium.run("document.querySelector('.open').focus()")
    chromium.press("Enter")
    chromium.wait("document.getElementById('viewer').open")
    assert chromium.run(place) == "1 of 6" and chromium.run(layers) == [0, 1]
    for key, expected in (("ArrowRight", 2), ("End", 6), ("ArrowRight", 6), ("ArrowLeft", 5), ("Home", 1), ("ArrowRight", 2)):
        chromium.press(key)
        assert chromium.run(place) == f"{expected} of 6", key
    for key, expected in (("1", [0, 0]), ("2", [1, 0]), ("3", [0, 1])):
        chromium.press(key)
        assert chromium.run(layers) == expected
    assert chromium.run("document.getElementById('viewer-name').textContent") == labels[1].removeprefix("Open ")
    chromium.run("document.getElementById('viewer-layer').focus()")
    chromium.press("Home")  # of the slider
    assert chromium.run(place) == "2 of 6" and chromium.run(layers) == [0, 0]
    chromium.press("Escape")
    chromium.wait(f"document.activeElement.getAttribute('aria-label') === {json.dumps(labels[1])}")
    assert not chromium.run("document.getElementById('viewer').open")
    assert not chromium.complaints


def test_groups_choose_and_order(chromium, index):
    chromium.open(index)
    names = "[...document.querySelectorAll('.card:not([hidden]) .name')].map(e => e.textContent)"
    click = "document.querySelector('[data-group={}]').click()"
    everything = chromium.run(names)
    chromium.run(click.format("largest"))
    assert (
        chromium.run(names)[0] == "d.png" and chromium.run("document.querySelector('[data-group=largest]').ariaPressed") == "true"
    )
    chromium.run(click.format("without"))
    assert chromium.run(names) == ["d.png"]
    chromium.run(click.format("all"))
    assert chromium.run(names) == everything


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_follows_the_colour_scheme(chromium, index, width):
    grounds = []
    for dark in (False, True):
        chromium.open(index, width, 740, dark)
        assert chromium.run("document.documentElement.scrollWidth") <= width
        grounds.append(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(244, 246, 248)", "rgb(15, 19, 23)"]
    chromium.run("document.querySelector('.open').click()")
    assert chromium.run("document.getElementById('viewer').scrollWidth") <= width
    assert not chromium.complaints
