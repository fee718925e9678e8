"""One image of the world, with everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from wsss_fast.data.scenes.objects import Thing, draw_thing, make_thing
from wsss_fast.data.scenes.paint import OVERSAMPLING, Frame, noise
from wsss_fast.data.scenes.settings import CLASSES, SceneSettings
from wsss_fast.data.scenes.surroundings import background, draw_distractor, draw_ground, plain_background

VOID = 255
SPLITS = ("train", "test", "crops")
_CONTEXTS = tuple(look.context for look in CLASSES if look.context is not None)
_TRIES = 12
_PLACES = 10


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # uint8 [H, W]: 0 background, class + 1, 255 along outlines
    saliency: np.ndarray  # uint8 [H, W]
    labels: tuple[int, ...]  # the classes of the image
    contexts: tuple[str, ...]
    part: np.ndarray  # bool [H, W]: visible parts
    body_only: float  # share of the visible object pixels that are not of a part


def stream(seed: int, split: str, index: int) -> np.random.Generator:
    """The randomness of one image: independent of all others, so that the number of processes changes nothing."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def make_scene(settings: SceneSettings, seed: int, split: str, index: int) -> Scene:
    random = stream(seed, split, index)
    # Drawn once: were they drawn with each try, crowded images would be rarer than the settings say.
    count = 1 + int(random.choice(len(settings.classes_an_image), p=settings.classes_an_image))
    labels = random.permutation(len(CLASSES))[:count].tolist()
    for _ in range(_TRIES):
        scene = _try_scene(settings, split, labels, random)
        if scene is not None:
            break
    else:
        raise RuntimeError(f"scenes: image {index} of {split} found no layout in {_TRIES} tries; the settings crowd the image")
    return scene


def _try_scene(settings: SceneSettings, split: str, labels: list[int], random: np.random.Generator) -> Scene | None:
    width, height = settings.sizes[random.integers(len(settings.sizes))]
    width, height = OVERSAMPLING * width, OVERSAMPLING * height
    light = _light(random)
    things = _layout(settings, labels, random, width, height)
    canvas = background(random, height, width)
    grounds: dict[str, np.ndarray] = {}
    chance, stray = (
        (settings.context_train, settings.stray_context_train)
        if split == "train"
        else (settings.context_test, settings.stray_context_test)
    )
    for kind in _CONTEXTS:
        owner = max((thing for thing in things if thing.look.context == kind), key=lambda thing: thing.scale, default=None)
        if random.random() >= (stray if owner is None else chance):
            continue
        if owner is not None:
            grounds[kind] = draw_ground(canvas, kind, owner.frame, owner.outline.foot, random)
        else:
            place = (random.uniform(0.2, 0.8) * width, random.uniform(0.2, 0.7) * height)
            frame = Frame.make(*place, random.uniform(0.2, 0.4) * min(width, height), random.uniform(-15, 15))
            grounds[kind] = draw_ground(canvas, kind, frame, 0.0, random)

    # 0: nothing, n: things[n - 1], -n: a distractor
    owner_of = np.zeros((height, width), np.int16)
    part_of = np.zeros((height, width), bool)
    strangers = int(random.choice(len(settings.distractors), p=settings.distractors))
    in_front = [random.random() < settings.distractor_in_front for _ in range(strangers)]

    def add_strangers(front: bool) -> None:
        for number, asked in enumerate(in_front, 1):
            if asked == front:
                x, y = random.uniform(0, width), random.uniform(0, height)
                size = random.uniform(*settings.distractor_size) * min(width, height)
                owner_of[draw_distractor(canvas, random, x, y, size, light)] = -number

    add_strangers(front=False)
    full: list[tuple[int, int]] = []
    for number, thing in enumerate(things, 1):
        (left, top, right, bottom), whole, part = draw_thing(canvas, thing, random, light)
        owner_of[top:bottom, left:right][whole] = number
        part_of[top:bottom, left:right][whole] = part[whole]
        full.append((int(whole.sum()), int(part.sum())))
    add_strangers(front=True)
    part_of &= owner_of > 0
    if not _all_visible(settings, things, labels, owner_of, part_of, full):
        return None
    mask = _mask(things, owner_of)
    seen = np.unique(mask)
    if {label + 1 for label in labels} != set(seen[(seen > 0) & (seen != VOID)].tolist()):
        return None
    objects = int((owner_of > 0).sum())
    return Scene(
        _photograph(settings, canvas, random),
        mask,
        _saliency(settings, owner_of, grounds, random),
        tuple(sorted(labels)),
        tuple(grounds),
        part_of[::OVERSAMPLING, ::OVERSAMPLING].copy(),
        1 - float(part_of.sum()) / max(1, objects),
    )


def _layout(settings: SceneSettings, labels: list[int], random: np.random.Generator, width: int, height: int) -> list[Thing]:
    """Objects from back to front, each away from the others as far as a few tries find room."""
    side = min(width, height)
    wanted = [(label, random.uniform(*settings.object_size[len(labels) - 1]) * side) for label in labels]
    again = [label for label in labels if random.random() < settings.more_instances]
    wanted += [(label, random.uniform(*settings.second_size) * side) for label in again]
    placed: list[tuple[float, float, float]] = []
    things = []
    for label, size in wanted:
        best, least = (width / 2, height / 2), np.inf
        for _ in range(_PLACES):
            x = random.uniform(0.55 * size, max(0.56 * size, width - 0.55 * size))
            y = random.uniform(0.55 * size, max(0.56 * size, height - 0.55 * size))
            crowd = sum(max(0.0, 0.62 * (size + other) - float(np.hypot(x - px, y - py))) for px, py, other in placed)
            if crowd < least:
                best, least = (x, y), crowd
        placed.append((*best, size))
        things.append(make_thing(label, random, settings, size, *best))
    order = random.permutation(len(things))
    return [things[i] for i in order]


def _all_visible(
    settings: SceneSettings,
    things: list[Thing],
    labels: list[int],
    owner_of: np.ndarray,
    part_of: np.ndarray,
    full: list[tuple[int, int]],
) -> bool:
    """Whether each class has an object of which enough is seen, inside the image and in front of others."""
    good = set()
    for number, thing in enumerate(things, 1):
        seen = owner_of == number
        radius = thing.outline.part[2] * thing.scale
        whole = thing.outline.area() * thing.scale**2
        enough = seen.sum() >= settings.least_visible * max(whole, full[number - 1][0])
        part_enough = (seen & part_of).sum() >= settings.least_visible * np.pi * radius**2
        if enough and part_enough:
            good.add(thing.label)
    return good == set(labels)


def _light(random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(-np.pi, 0)  # from above
    return -np.array([np.cos(angle), np.sin(angle)]) * random.uniform(0.6, 1.2)


def _mask(things: list[Thing], owner_of: np.ndarray) -> np.ndarray:
    """VOC's: class values, and 255 where a pixel or its rim belongs to more than one."""
    values = np.zeros(len(things) + 1, np.uint8)
    for number, thing in enumerate(things, 1):
        values[number] = thing.label + 1
    numbered = np.where(owner_of > 0, owner_of, 0)
    height, width = (side // OVERSAMPLING for side in numbered.shape)
    around = np.pad(numbered, 1, mode="edge")
    reach = OVERSAMPLING + 2
    windows = [around[dy::OVERSAMPLING, dx::OVERSAMPLING][:height, :width] for dy in range(reach) for dx in range(reach)]
    same = np.logical_and.reduce([window == windows[0] for window in windows[1:]])
    return np.where(same, values[windows[0]], VOID).astype(np.uint8)


def _photograph(settings: SceneSettings, canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Light over the picture, a colour cast, made small, a little out of focus, noise."""
    height, width = canvas.shape[:2]
    gain = random.uniform(*settings.light)
    slope = random.uniform(-0.2, 0.2, 2)
    x, y = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
    cast = 1 + random.normal(0, 0.04, 3)
    lit = np.clip(255 * canvas * (gain * (1 + slope[0] * x + slope[1] * y))[..., None] * cast, 0, 255)
    picture = Image.fromarray(lit.astype(np.uint8))
    if random.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.5)))
    small = np.asarray(picture.reduce(OVERSAMPLING), np.float32)
    grain = random.standard_normal(small.shape, np.float32) * random.uniform(*settings.noise)
    return np.clip(small + grain, 0, 255).round().astype(np.uint8)


def _saliency(
    settings: SceneSettings, owner_of: np.ndarray, grounds: dict[str, np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """What a saliency network might answer: objects with misses and holes, some distractors and grounds, coarse outlines."""
    height, width = (side // OVERSAMPLING for side in owner_of.shape)
    small = owner_of[::OVERSAMPLING, ::OVERSAMPLING]
    found = np.zeros((height, width), np.float32)
    for number in np.unique(small[small != 0]).tolist():
        chance = 1 - settings.saliency_miss if number > 0 else settings.saliency_distractor
        strength = random.uniform(0.75, 1.0)
        if random.random() < chance:
            found[small == number] = strength
    for mask in grounds.values():
        if random.random() < settings.saliency_context:
            found = np.maximum(found, 0.7 * mask[::OVERSAMPLING, ::OVERSAMPLING])
    shift = [settings.saliency_warp * 4 * (noise(random, height, width, 16, 2) - 0.5) for _ in range(2)]
    rows = np.clip(np.arange(height)[:, None] + shift[0], 0, height - 1).round().astype(int)
    columns = np.clip(np.arange(width)[None] + shift[1], 0, width - 1).round().astype(int)
    found = found[rows, columns]
    uneven = 1 - settings.saliency_hole * np.clip(4 * (noise(random, height, width, 14) - 0.5), 0, 1.8)
    false = 0.25 * np.clip(4 * (noise(random, height, width, 20, 2) - 0.6), 0, 1)
    blurred = Image.fromarray((255 * np.clip(found * uneven + false, 0, 1)).astype(np.uint8))
    return np.asarray(blurred.filter(ImageFilter.GaussianBlur(random.uniform(*settings.saliency_blur)))).copy()


def make_crop(settings: SceneSettings, seed: int, index: int) -> tuple[int, np.ndarray]:
    """A class, and an image of one whole object of it in the middle, before something plain or cluttered, never on its ground."""
    random = stream(seed, "crops", index)
    label = index % len(CLASSES)
    side = OVERSAMPLING * settings.crop_side
    plain = random.random() < settings.crop_plain
    canvas = (plain_background if plain else background)(random, side, side)
    for _ in range(_TRIES):
        thing = make_thing(label, random, settings, random.uniform(*settings.crop_size) * side, side / 2, side / 2)
        points = thing.frame.to_canvas(np.concatenate(thing.outline.polygons()))
        if points.min() >= 0 and points.max() <= side:
            break
    draw_thing(canvas, thing, random, _light(random))
    return label, _photograph(settings, canvas, random)
