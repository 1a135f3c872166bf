"""A small synthetic camera-trap collection to try the product on, drawn with numpy and Pillow."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from monkeyray.errors import ConfigError

LABELS = ("empty", "giraffe", "warthog", "zebra")
CAMERAS = (("ACACIA", "A1"), ("ACACIA", "A2"), ("RIVER", "R1"), ("RIVER", "R2"))
CAMERA_WITH_OFFSET = "R2"  # only one writes its UTC offset, since few real cameras do
FRAMES_PER_BURST = 3

_WIDTH, _HEIGHT = 1024, 768  # pixels
_STRIP = 36  # pixels of the height for the black info strip at the bottom
_FIRST_DAY = datetime(2024, 5, 6)

_Floats = NDArray[np.floating[Any]]
_Colour = tuple[int, int, int]
_Points = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class DemoImages:
    """Where one demo collection lies."""

    labelled: Path  # folder whose sub-folders are the labels
    unlabelled: Path  # folder tree SITE/CAMERA/IMG_nnnn.JPG, as copied from SD cards
    truth: Path  # CSV uri,label: what is on each readable image, uri relative to `unlabelled`


@dataclass(frozen=True)
class _Species:
    # Parts are tubes through points (x forward, y up from the ground, radius), in shoulder
    # heights and in drawing order, each with the group that it moves with and its fill.
    parts: tuple[tuple[str, str, _Points], ...]
    pattern: str  # of the coat
    fills: dict[str, _Colour]  # "coat" and "mark" are the two colours of the coat's pattern
    eye: tuple[float, float]
    pivot: tuple[float, float]  # what the neck turns about
    nod: tuple[float, float]  # lowest and highest turn of the neck in degrees
    shoulder: tuple[float, float]  # least and greatest shoulder height per image height


@dataclass(frozen=True)
class _Scene:
    picture: Image.Image  # RGB in plain daylight, without animals
    front: Image.Image  # RGBA: grass and leaves in front of any animal
    horizon: float  # in pixels from the top

    def mirrored(self) -> _Scene:
        return _Scene(ImageOps.mirror(self.picture), ImageOps.mirror(self.front), self.horizon)


# Weights of four neighbouring points at 0, 1/4, 1/2 and 3/4 of the way between the middle two.
_CATMULL_ROM = (
    (0, 1, 0, 0),
    (-0.0703125, 0.8671875, 0.2265625, -0.0234375),
    (-0.0625, 0.5625, 0.5625, -0.0625),
    (-0.0234375, 0.2265625, 0.8671875, -0.0703125),
)
# Bare earth and what grows on it.
_GROUNDS: tuple[tuple[_Colour, _Colour], ...] = (
    ((196, 166, 112), (160, 138, 82)),
    ((168, 150, 104), (108, 124, 62)),
    ((184, 124, 84), (164, 142, 84)),
    ((158, 146, 126), (132, 130, 86)),
    ((128, 118, 84), (84, 112, 54)),
)
_LEAVES: tuple[_Colour, ...] = ((84, 104, 50), (120, 116, 66), (54, 80, 46), (100, 112, 76))


_SPECIES = {
    "giraffe": _Species(
        (
            ("body", "mark", ((-.54, .80, .02), (-.61, .62, .015), (-.61, .44, .03))),
            ("hind", "coat", ((-.40, .74, .15), (-.37, .54, .08), (-.43, .36, .045),
                              (-.40, .20, .034), (-.40, .03, .036))),
            ("fore", "coat", ((.22, .78, .13), (.24, .52, .06), (.24, .30, .042),
                              (.24, .16, .032), (.24, .03, .036))),
            ("body", "coat", ((-.42, .77, .14), (-.2, .77, .18), (.05, .81, .2), (.22, .88, .18))),
            ("head", "mark", ((.12, 1.06, .03), (.29, 1.33, .03), (.41, 1.6, .03), (.5, 1.8, .02))),
            ("head", "coat", ((.2, .92, .17), (.36, 1.2, .1), (.47, 1.5, .075), (.55, 1.72, .065))),
            ("head", "coat", ((.55, 1.74, .065), (.63, 1.71, .056), (.74, 1.65, .04))),
            ("head", "soft", ((.72, 1.66, .042), (.78, 1.62, .034))),
            ("head", "dark", ((.54, 1.79, .018), (.52, 1.86, .016), (.515, 1.88, .022))),
            ("head", "soft", ((.50, 1.77, .02), (.43, 1.77, .032), (.38, 1.79, .01))),
        ),
        "patches",
        {"coat": (226, 196, 146), "mark": (142, 82, 36), "soft": (206, 172, 128),
         "dark": (52, 36, 26)},
        (.62, 1.735), (.2, .92), (-32, 8), (.30, .40),
    ),
    "warthog": _Species(
        (
            ("body", "dark", ((-.93, .72, .03), (-1.04, 1., .022), (-1.06, 1.25, .022),
                              (-1.05, 1.38, .05))),
            ("hind", "coat", ((-.72, .55, .22), (-.70, .35, .1), (-.78, .24, .065),
                              (-.74, .04, .06))),
            ("fore", "coat", ((.35, .5, .18), (.38, .3, .09), (.38, .18, .07), (.38, .04, .06))),
            ("body", "coat", ((-.75, .62, .24), (-.45, .62, .3), (0, .66, .33), (.4, .7, .3))),
            ("body", "dark", ((-.5, .88, .03), (-.1, .94, .06), (.3, 1., .07), (.6, .95, .06))),
            ("head", "coat", ((.45, .72, .28), (.75, .68, .23), (1.05, .5, .16), (1.28, .38, .12))),
            ("head", "soft", ((1.28, .38, .115), (1.34, .355, .11))),
            ("head", "dark", ((.92, .46, .06), (.98, .43, .04))),
            ("head", "bone", ((1.15, .38, .04), (1.27, .44, .036), (1.31, .54, .026),
                              (1.27, .64, .01))),
            ("head", "soft", ((.66, .88, .05), (.58, 1.04, .06), (.54, 1.12, .015))),
        ),
        "bristles",
        {"coat": (104, 84, 68), "mark": (66, 52, 43), "soft": (122, 98, 84), "dark": (40, 31, 26),
         "bone": (232, 224, 200)},
        (.9, .68), (.45, .72), (-14, 12), (.22, .32),
    ),
    "zebra": _Species(
        (
            ("body", "dark", ((-.78, .90, .03), (-.89, .72, .022), (-.9, .5, .045),
                              (-.88, .36, .02))),
            ("hind", "coat", ((-.60, .74, .18), (-.57, .52, .1), (-.67, .36, .062),
                              (-.63, .2, .042), (-.62, .05, .042))),
            ("hind", "dark", ((-.62, .05, .045), (-.6, .02, .05))),
            ("fore", "coat", ((.38, .72, .16), (.4, .46, .08), (.4, .29, .056), (.4, .15, .038),
                              (.4, .05, .04))),
            ("fore", "dark", ((.4, .05, .044), (.42, .02, .05))),
            ("body", "coat", ((-.6, .79, .2), (-.35, .74, .245), (0, .72, .255), (.3, .76, .24),
                              (.44, .82, .19))),
            ("head", "mane", ((.32, 1.06, .03), (.46, 1.22, .055), (.58, 1.38, .05),
                              (.7, 1.42, .03))),
            ("head", "coat", ((.38, .84, .21), (.56, 1.06, .15), (.7, 1.25, .12))),
            ("head", "coat", ((.7, 1.26, .12), (.84, 1.15, .1), (.99, 1.01, .072))),
            ("head", "dark", ((.99, 1.01, .072), (1.04, .96, .066))),
            ("head", "soft", ((.66, 1.34, .03), (.62, 1.45, .035), (.61, 1.51, .01))),
        ),
        "stripes",
        {"coat": (232, 226, 214), "mark": (34, 30, 30), "mane": (70, 62, 58), "dark": (40, 34, 33),
         "soft": (206, 198, 186)},
        (.8, 1.24), (.38, .84), (-70, 8), (.30, .44),
    ),
}  # fmt: skip


def draw_demo_images(
    folder: Path, seed: int = 0, labelled_per_label: int = 40, bursts: int = 30
) -> DemoImages:
    """Draw a labelled and an unlabelled camera-trap collection below `folder`.

    `labelled_per_label` JPEGs of 1024 x 768 pixels, each of another place, for each of LABELS;
    `bursts` bursts of 3 frames, spread evenly over LABELS and over CAMERAS, each camera at its
    own place; and five files among them that are no readable image. About 40 % are infrared
    night images. Equal arguments give equal bytes. About 50 ms an image.

    Raises ConfigError where a collection lies already, or a count is below 1.
    """
    if labelled_per_label < 1 or bursts < 1:
        raise ConfigError(
            f"labelled_per_label={labelled_per_label}, bursts={bursts}: both must be 1 or more"
        )
    demo = DemoImages(folder / "labelled", folder / "unlabelled", folder / "truth.csv")
    for path in (demo.labelled, demo.unlabelled, demo.truth):
        if path.exists():
            raise ConfigError(f"{path} exists already: name another folder, or remove it")
    rng = np.random.default_rng(seed)
    _draw_labelled(rng, demo.labelled, labelled_per_label)
    truth = _draw_unlabelled(rng, demo.unlabelled, bursts)
    _write_broken(rng, demo.unlabelled)
    with open(demo.truth, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("uri", "label"), *truth])
    return demo


def _draw_labelled(rng: Generator, folder: Path, count: int) -> None:
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for number in range(count):
        # A place takes longest to draw, so each serves two labels, the second time mirrored.
        scenes = [_scene(rng) for _ in LABELS[::2]]
        scenes += [scene.mirrored() for scene in scenes]
        for label, scene in zip(LABELS, scenes, strict=True):
            night = bool(rng.random() < 0.4)
            taken = _time(rng, int(rng.integers(60)), night)
            (picture,) = _burst(rng, scene, label, taken, night, frames=1)
            camera = ("SURVEY", f"S{rng.integers(1, 30)}")
            _save(picture, folder / label / f"{label}_{number + 1:04d}.jpg", taken, camera)


def _draw_unlabelled(rng: Generator, folder: Path, bursts: int) -> list[tuple[str, str]]:
    truth: list[tuple[str, str]] = []
    for place, (site, camera) in enumerate(CAMERAS):
        (folder / site / camera).mkdir(parents=True)
        scene = _scene(rng)
        # Every camera gets each label in turn; 40 % of its bursts, here and there, are at night.
        numbers = range(place, bursts, len(CAMERAS))
        labels = [LABELS[(n // len(CAMERAS) + place) % len(LABELS)] for n in numbers]
        rng.shuffle(labels)
        frame = 0
        for day, label in enumerate(labels):
            night = bool((day * 2 + place) % 5 < 2)
            taken = _time(rng, 2 * day, night)
            for picture in _burst(rng, scene, label, taken, night, FRAMES_PER_BURST):
                frame += 1
                path = folder / site / camera / f"IMG_{frame:04d}.JPG"
                _save(picture, path, taken, (site, camera))
                truth.append((path.relative_to(folder).as_posix(), label))
                taken += timedelta(seconds=int(rng.integers(1, 3)))
    return truth


def _write_broken(rng: Generator, folder: Path) -> None:
    """What SD cards bring along: damaged files, and files that were never images."""
    folders = [folder / site / camera for site, camera in CAMERAS]
    whole = (folders[0] / "IMG_0001.JPG").read_bytes()
    (folders[0] / "IMG_9001.JPG").write_bytes(b"")
    (folders[1] / "IMG_9002.JPG").write_bytes(whole[: len(whole) // 10])
    (folders[2] / "IMG_9003.JPG").write_text("Card was full, pictures moved to card 7.\n")
    (folders[3] / "IMG_9004.JPG").write_text(
        "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n"
        "<body><h1>502 Bad Gateway</h1></body></html>\n"
    )
    volts = ", ".join(f"{v:.2f}" for v in 6.3 - np.cumsum(rng.uniform(0, 0.04, 8)))
    (folders[0] / "BATTERY.TXT").write_text(f"TrailSight TS-2 battery volts by week: {volts}\n")


def _time(rng: Generator, day: int, night: bool) -> datetime:
    """Local time on that day of the survey: by day 06:30-17:30, at night 19:00-05:00."""
    hour = 19 + 10 * rng.random() if night else 6.5 + 11 * rng.random()
    return _FIRST_DAY + timedelta(days=day, seconds=int(hour * 3600))


def _burst(
    rng: Generator, scene: _Scene, label: str, taken: datetime, night: bool, frames: int
) -> list[Image.Image]:
    """Frames of one animal, or of none, that walks through the same view in the same light."""
    mode = "L" if night else "RGB"  # infrared has no colour
    back, front = scene.picture.convert(mode), scene.front.convert(mode)
    if night:  # the flash reaches an animal better than what is behind it
        back = ImageChops.multiply(back, _flash_reach(rng, scene.horizon).resize(back.size))
    light = _flash(rng) if night else _daylight(rng, taken, scene.horizon)
    walk = int(rng.integers(2**32))
    pictures = []
    for frame in range(frames):
        picture = back.copy()
        if label in _SPECIES:
            # The same numbers for each frame: an animal keeps its coat, size and direction.
            same = np.random.default_rng(walk)
            _paste_animal(same, picture, _SPECIES[label], frame, night, scene.horizon)
        picture.paste(front, mask=scene.front.getchannel("A"))
        spread = 18 if night else 12  # grain of the sensor
        grain = Image.fromarray(rng.integers(0, spread, (light.height, light.width), np.uint8))
        noisy = ImageChops.add(light, grain.convert(mode), offset=-spread // 2)
        noisy = noisy.resize(picture.size, Image.Resampling.NEAREST)
        pictures.append(ImageChops.multiply(picture, noisy))
    return pictures


def _paste_animal(
    rng: Generator, picture: Image.Image, species: _Species, frame: int, night: bool,
    horizon: float,
) -> None:  # fmt: skip
    near = rng.random()  # nearer animals are larger, and stand lower in the picture
    least, greatest = species.shoulder
    size = (least + near * (greatest - least)) * _HEIGHT
    feet = int(horizon + (_HEIGHT - horizon) * (0.4 + 0.35 * near + rng.uniform(-0.06, 0.06)))
    forward = 1 if rng.random() < 0.5 else -1
    x = int(_WIDTH * rng.uniform(0.25, 0.75) + forward * frame * rng.uniform(5, 45))
    animal, (left, ground) = _animal(rng, species, size, frame, night)
    if forward < 0:
        animal, left = ImageOps.mirror(animal), animal.width - left
    width, height = int(size * 1.8), int(size * 0.3)
    shadow = Image.new("L", (width, height))
    box = (width * 0.12, height * 0.3, width * 0.88, height * 0.7)
    ImageDraw.Draw(shadow).ellipse(box, fill=100 if night else 150)
    shadow = shadow.filter(ImageFilter.GaussianBlur(height * 0.12))
    picture.paste("#141414", (x - width // 2, feet - height // 2), shadow)
    colours = animal.convert(picture.mode)
    picture.paste(colours, (x - left, feet - ground), animal.getchannel("A"))


def _animal(
    rng: Generator, species: _Species, size: float, frame: int, night: bool
) -> tuple[Image.Image, tuple[int, int]]:
    """RGBA picture of one animal that looks to the right, and the pixel below its middle."""
    swing = rng.uniform(0, math.tau)
    turn = rng.uniform(*species.nod) + 3 * math.sin(swing + 2 * frame)
    length = rng.uniform(0.72, 1), 1, 1  # seen from the side, or at an angle
    stride = 15 * math.sin(swing + frame)
    pivots = {group: points[0][:2] for group, _, points in reversed(species.parts)}
    pivots["head"] = species.pivot
    angles = {"head": turn, "fore": stride, "hind": -stride, "body": 0.0}
    tubes = [
        (_turned(points, pivots[group], far * angles[group]) * length, fill, far)
        for far in (-1, 1)  # the legs of the far side come first, and swing the other way
        for group, fill, points in species.parts
        if far == 1 or group in ("fore", "hind")
    ]
    low = np.min([(p[:, :2] - p[:, 2:]).min(0) for p, _, _ in tubes], axis=0) - 0.02
    high = np.max([(p[:, :2] + p[:, 2:]).max(0) for p, _, _ in tubes], axis=0) + 0.02
    width, height = (int(n) for n in (high - low) * size)

    # The number of the tube that each pixel shows, at twice the size for smooth edges.
    canvas = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas)
    for number, (points, _, _) in enumerate(tubes, start=1):
        pixels = np.column_stack([points[:, 0] - low[0], high[1] - points[:, 1], points[:, 2]])
        _tube(draw, pixels * 2 * size, number)
    alpha, fine = canvas.point([0] + [255] * 255).reduce(2), np.asarray(canvas)
    index = np.maximum(
        np.maximum(fine[::2, ::2], fine[1::2, ::2]), np.maximum(fine[::2, 1::2], fine[1::2, 1::2])
    )

    u = (low[0] + np.arange(width, dtype=np.float32) / size)[None, :]
    v = (high[1] - np.arange(height, dtype=np.float32) / size)[:, None]
    axes = np.array([(0, 0)] + [p[-1, :2] - p[0, :2] for p, _, _ in tubes], np.float32)
    axes[1:] /= np.linalg.norm(axes[1:], axis=1, keepdims=True)
    along = u * axes[index, 0] + v * axes[index, 1]
    light = np.array([[0.62 if far < 0 else 1.0] for _, _, far in tubes])
    plain = light * [species.fills[fill] for _, fill, _ in tubes]
    marked = light * [species.fills["mark" if fill == "coat" else fill] for _, fill, _ in tubes]
    depth = Image.fromarray((_coat(rng, species.pattern, u, v, along) * 255).astype(np.uint8))
    picture = Image.composite(_painted(index, marked), _painted(index, plain), depth)

    # Light from above: bright where the blurred outline grows downwards, dark where it ends.
    soft = np.asarray(alpha.reduce(2).filter(ImageFilter.GaussianBlur(0.035 * size)), np.float32)
    shift = int(0.04 * size)
    padded = np.pad(soft, ((shift, shift), (0, 0)), mode="edge")
    shade = (220 + 0.4 * (padded[2 * shift :] - padded[: -2 * shift])).clip(0, 255)
    shades = Image.fromarray(shade.astype(np.uint8)).resize(picture.size).convert("RGB")
    picture = ImageChops.multiply(picture, shades)

    eye = _turned(((*species.eye, 0.03 if night else 0.022),), pivots["head"], turn)[0] * length
    x, y, r = (eye[0] - low[0]) * size, (high[1] - eye[1]) * size, eye[2] * size
    draw = ImageDraw.Draw(picture)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(200,) * 3 if night else (16, 12, 10))
    shine = r * (0.7 if night else 0.3)
    draw.ellipse((x - shine, y - r * 0.8, x + shine, y - r * 0.8 + 2 * shine), fill=(255,) * 3)
    picture.putalpha(alpha)
    return picture, (int(-low[0] * size), int(high[1] * size))


def _painted(index: NDArray[np.uint8], colours: _Floats) -> Image.Image:
    """RGB image with row i - 1 of `colours` where `index` is i, and black where it is 0."""
    image = Image.fromarray(index).convert("P")
    image.putpalette([0, 0, 0, *colours.astype(int).ravel().tolist()])
    return image.convert("RGB")


def _coat(rng: Generator, pattern: str, u: _Floats, v: _Floats, along: _Floats) -> _Floats:
    """How much of the mark's colour each pixel has, 0-1, shape of `along`.

    `u`, `v`: place in shoulder heights; `along`: place along the part of the body.
    """
    height, width = along.shape
    if pattern == "stripes":  # rings around each part, bent a little
        wave = np.sin(along * 44 + 5 * _noise(rng, height, width, 4, 2))
        return (0.5 + 2.2 * wave).clip(0, 1)
    if pattern == "bristles":
        return _noise(rng, height, width, 60, 2)
    # Patches: cells around jittered points, with light gaps where two points are equally near.
    cell, jitter = 0.15, rng.uniform(0.1, 0.9, (2, 32, 32)).astype(np.float32)
    x, y = np.broadcast_arrays(u[:, ::3] / cell + 8, v[::3] / cell + 8)
    column, row = x.astype(np.int32), y.astype(np.int32)
    distances = [
        (column + i + jitter[0, row + j, column + i] - x) ** 2
        + (row + j + jitter[1, row + j, column + i] - y) ** 2
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    first, second = np.partition(np.sqrt(distances), 1, axis=0)[:2]
    gaps: _Floats = _enlarged(second - first, width, height) * 6 - 0.6
    return gaps.clip(0, 1)


def _turned(points: _Points, pivot: tuple[float, float], degrees: float) -> _Floats:
    """(x, y, radius) points turned counter-clockwise about the pivot, shape (n, 3)."""
    array = np.array(points, np.float32)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    array[:, :2] = (array[:, :2] - pivot) @ np.array([[c, s], [-s, c]], np.float32) + pivot
    return array


def _tube(draw: ImageDraw.ImageDraw, points: _Floats, fill: int | _Colour) -> None:
    """Draw a smooth tube through (x, y, radius) points in pixels, with round ends."""
    p = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    spans = p[np.arange(len(points) - 1)[:, None] + np.arange(4)]
    curve = np.vstack([(np.array(_CATMULL_ROM) @ spans).reshape(-1, 3), points[-1]])
    ahead, behind = np.vstack([curve[1:], curve[-1]]), np.vstack([curve[0], curve[:-1]])
    step = (ahead - behind)[:, :2]
    step /= np.hypot(step[:, :1], step[:, 1:]) + 1e-6
    side = step[:, ::-1] * curve[:, 2:] * (-1, 1)
    outline = np.vstack([curve[:, :2] + side, (curve[:, :2] - side)[::-1]])
    draw.polygon(outline.ravel().tolist(), fill)
    for x, y, r in points.tolist():
        draw.ellipse((x - r, y - r, x + r, y + r), fill)


def _noise(rng: Generator, height: int, width: int, cells: int, octaves: int) -> _Floats:
    """Smooth noise, 0-1 around 0.5, shape (height, width); `cells` across, doubled by octave."""
    total = np.zeros((2, 2), np.float32)
    for octave in range(octaves):
        columns = cells * 2**octave
        rows = max(2, columns * height // width)
        total = _enlarged(total, columns, rows)
        total += rng.random((rows, columns), np.float32) / 2**octave
    return (_enlarged(total, width, height) / (2 - 0.5 ** (octaves - 1))).clip(0, 1)


def _enlarged(values: _Floats, width: int, height: int) -> _Floats:
    size = (width, height)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)).copy()


def _scene(rng: Generator) -> _Scene:
    """A place in the savanna: sky, hills, ground, bushes and trees, with grass in front."""
    height, width = _HEIGHT // 2, _WIDTH // 2  # drawn small and enlarged, as cheap cameras do
    horizon = int(height * rng.uniform(0.22, 0.5))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    picture = np.empty((height, width, 3), np.float32)
    clouds = (3 * _noise(rng, horizon, width, 3, 4) - rng.uniform(1.1, 2)).clip(0, 1)
    sky = _mix((118, 160, 212), (222, 228, 232), rows[:horizon] / horizon)
    picture[:horizon] = _mix(sky, (240, 240, 240), clouds)
    bare, grown = _GROUNDS[rng.integers(len(_GROUNDS))]
    leaf = _LEAVES[rng.integers(len(_LEAVES))]
    for rise, cells, haze in ((0.25, 3, 0.6), (0.12, 12, 0.3)):  # hills, and woods before them
        ridge = horizon - height * rise * rng.random() * _noise(rng, 2, width, cells, 4)[0]
        picture[:horizon][rows[:horizon] >= ridge] = _mix(leaf, (176, 190, 205), haze)
    # The ground in perspective: what is twice as far is half as large.
    texture = (2.6 * _noise(rng, 512, 512, 12, 5) - 0.8).clip(0, 1)
    far = 1 / ((np.arange(horizon, height) - horizon) / (height - horizon) + 0.08)
    down = np.abs((far * 160).astype(np.intp)[:, None] % 1024 - 512).clip(0, 511)
    across = np.abs(((columns - width / 2) * far[:, None] * 0.55).astype(np.intp)).clip(0, 511)
    grain = 0.85 + 0.3 * rng.random((height - horizon, width, 1), np.float32)
    picture[horizon:] = _mix(bare, grown, texture[down, across]) * grain
    image = Image.fromarray(picture.astype(np.uint8))
    image = image.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)

    draw = ImageDraw.Draw(image)
    room = _HEIGHT - 2 * horizon
    for near in np.sort(rng.random(rng.integers(2, 11)) ** 2) * 0.4:
        x, y = rng.uniform(0, _WIDTH), 2 * horizon + room * near
        tint = _mix(leaf, (150, 160, 150), 0.3 * (1 - near / 0.4))
        if rng.random() < 0.4:
            _tree(draw, rng, x, y, _HEIGHT * (0.14 + near * 1.1) * rng.uniform(0.8, 1.4), tint)
        else:
            r = _HEIGHT * (0.03 + 0.3 * near) * rng.uniform(0.7, 1.5)
            _foliage(draw, rng, (x, y - r * 0.5, r * rng.uniform(1, 2), r * 0.7), tint)
    density = int(rng.integers(60, 400))
    _grass(draw, rng, density, (2 * horizon + 0.1 * room, _HEIGHT), (0.2, 1.0), grown)

    front = Image.new("RGBA", (_WIDTH, _HEIGHT), (*grown, 0))
    draw = ImageDraw.Draw(front)
    _grass(draw, rng, density // 2, (_HEIGHT - 0.35 * room, _HEIGHT), (0.6, 2.2), grown)
    for edge in (0, _WIDTH):  # at times a trunk or a bush close to the camera
        x, kind, dark = edge + rng.uniform(-60, 60), rng.random(), np.array(leaf) * 0.85
        if kind < 0.25:
            _tree(draw, rng, x, _HEIGHT + 40, _HEIGHT * rng.uniform(1.1, 1.6), dark)
        elif kind < 0.55:
            y = float(rng.choice([0, _HEIGHT]))
            _foliage(draw, rng, (x, y, rng.uniform(70, 170), rng.uniform(70, 200)), dark)
    return _Scene(image, front, 2 * horizon)


def _mix(a: ArrayLike, b: ArrayLike, share: ArrayLike) -> _Floats:
    """Colour `a` with that share of colour `b`: (..., 3) and (...) to (..., 3)."""
    part = np.asarray(share, np.float32)[..., None]
    return np.asarray(a, np.float32) * (1 - part) + np.asarray(b, np.float32) * part


def _tints(rng: Generator, colour: _Colour | _Floats, lightness: _Floats) -> list[_Colour]:
    """A variation of the colour for each value of `lightness`, which is 1 for no change."""
    shares = lightness[:, None] * rng.uniform(0.88, 1.12, (len(lightness), 3))
    tints = (np.asarray(colour) * shares).clip(0, 255).astype(int)
    return [(r, g, b) for r, g, b in tints.tolist()]


def _tree(
    draw: ImageDraw.ImageDraw, rng: Generator, x: float, y: float, height: float, leaf: _Floats
) -> None:
    """An acacia: crooked trunk, branches, flat crown. (x, y): its foot in pixels."""
    (bark,) = _tints(rng, (96, 80, 64), rng.uniform(0.7, 1.1, 1))
    lean = rng.uniform(-0.15, 0.15) * height
    top = (x + lean, y - 0.62 * height, 0.025 * height)
    foot = (x, y, 0.05 * height)
    _tube(draw, np.array([foot, (x + lean * 0.2, y - 0.3 * height, 0.032 * height), top]), bark)
    for _ in range(int(rng.integers(3, 6))):
        end = top[0] + rng.uniform(-0.42, 0.42) * height, y - rng.uniform(0.7, 0.92) * height
        _tube(draw, np.array([top, (*end, 0.01 * height)]), bark)
        radius = rng.uniform(0.16, 0.3) * height
        _foliage(draw, rng, (*end, radius, radius * 0.35), leaf)


def _foliage(
    draw: ImageDraw.ImageDraw, rng: Generator, place: tuple[float, float, float, float],
    leaf: _Floats,
) -> None:  # fmt: skip
    """Leaves all over an ellipse (x, y, x radius, y radius in pixels), lighter at the top."""
    x, y, rx, ry = place
    count = int(40 + 0.6 * min(rx, 150))
    angle, away = rng.uniform(0, math.tau, count), np.sqrt(rng.random(count))
    order = np.argsort(-np.sin(angle) * away)  # from the dark bottom to the light top
    across, height = (np.cos(angle) * away)[order], (np.sin(angle) * away)[order]
    radius = rng.uniform(0.3, 1, count) * min(0.2 * rx, 0.35 * ry, 20) + 1
    tints = _tints(rng, leaf, 0.9 - 0.35 * height)
    cx, cy = x + across * rx, y + height * ry
    boxes = np.column_stack([cx - radius * 1.3, cy - radius, cx + radius * 1.3, cy + radius])
    for box, tint in zip(boxes.tolist(), tints, strict=True):
        draw.ellipse(box, fill=tint)


def _grass(
    draw: ImageDraw.ImageDraw, rng: Generator, count: int, rows: tuple[float, float],
    sizes: tuple[float, float], colour: _Colour,
) -> None:  # fmt: skip
    """Tufts of blades with their feet between two rows in pixels, larger towards the lower."""
    near = np.sort(rng.random(3 * count))
    size = 30 * (sizes[0] + (sizes[1] - sizes[0]) * near)
    x, y = rng.uniform(0, _WIDTH, count).repeat(3), rows[0] + (rows[1] - rows[0]) * near
    lean, half = rng.uniform(-0.6, 0.6, 3 * count) * size, 0.04 * size + 0.4
    foot, tip = x + 0.3 * lean, y - rng.uniform(0.5, 1.3, 3 * count) * size
    blades = np.column_stack([foot - half, y, foot + half, y, x + lean, tip]).tolist()
    for blade, tint in zip(blades, _tints(rng, colour, np.full(3 * count, 0.9)), strict=True):
        draw.polygon(blade, fill=tint)


def _daylight(rng: Generator, taken: datetime, horizon: float) -> Image.Image:
    """RGB to multiply a picture with: shadows of clouds and trees, warm while the sun is low."""
    height, width = _HEIGHT // 8, _WIDTH // 8
    dapple = (3 * _noise(rng, height, width, 3, 3) - rng.uniform(0.5, 1.2)).clip(0, 1)
    ground = ((np.arange(height)[:, None] * 8 - horizon) / _HEIGHT * 8 + 0.4).clip(0.4, 1)
    light = rng.uniform(0.85, 1) * (1 - ground * rng.uniform(0.3, 0.6) * (1 - dapple))
    low = abs(taken.hour + taken.minute / 60 - 12) / 6
    return _shade(light[..., None] * (1, 1 - 0.1 * low**2, 1 - 0.3 * low**2))


def _flash(rng: Generator) -> Image.Image:
    """L to multiply a night picture with: the flash is weak at the edges."""
    x, y = rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.65)
    across = np.linspace(0, 1, _WIDTH // 8) - x
    down = np.linspace(0, 1, _HEIGHT // 8)[:, None] - y
    return _shade(rng.uniform(0.85, 1) * np.exp(-rng.uniform(1, 3) * (across**2 + down**2)))


def _flash_reach(rng: Generator, horizon: float) -> Image.Image:
    """L to multiply a night scene with: the flash is weak far away."""
    height, width = _HEIGHT // 8, _WIDTH // 8
    reach = (np.arange(height)[:, None] * 8 - horizon) / (_HEIGHT - horizon) + 0.4
    return _shade(reach.clip(0.13, 1) * (0.75 + 0.5 * _noise(rng, height, width, 4, 2)))


def _shade(share: NDArray[Any]) -> Image.Image:
    """Half as large as a picture, with 255 for 1; `share` is of shape (h, w) or (h, w, 3)."""
    small = Image.fromarray((share * 255).clip(0, 255).astype(np.uint8))
    return small.resize((_WIDTH // 2, _HEIGHT // 2), Image.Resampling.BILINEAR)


def _save(picture: Image.Image, path: Path, taken: datetime, place: tuple[str, str]) -> None:
    """Write the JPEG with the camera's info strip and EXIF."""
    warmth = math.cos((taken.hour + taken.minute / 60 - 15) / 24 * math.tau)
    celsius = round(21 + 8 * warmth + 3 * math.sin(taken.toordinal()))
    (width, height), white = picture.size, "#f5f5f5"
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    draw.rectangle((0, height - _STRIP, width, height), fill="black")
    middle = height - _STRIP // 2
    draw.text((20, middle), f"TrailSight   {' '.join(place)}", white, font, "lm")
    draw.text((width // 2, middle), f"{taken:%Y-%m-%d   %H:%M:%S}", white, font, "mm")
    degrees = f"{celsius}°C   {round(celsius * 1.8 + 32)}°F"
    draw.text((width - 20, middle), degrees, white, font, "rm")

    exif = Image.Exif()
    stamp = f"{taken:%Y:%m:%d %H:%M:%S}"
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "TrailSight", "TS-2"
    exif[ExifTags.Base.DateTime] = stamp
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = stamp
    if place[1] == CAMERA_WITH_OFFSET:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = "+03:00"
    picture.convert("RGB").save(path, "JPEG", quality=85, exif=exif)
