"""A small synthetic camera-trap collection for the demo, drawn with Pillow."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFont, ImageOps

from monkeyray.arrays import Array

LABELS = ("empty", "giraffe", "warthog", "zebra")
CAMERAS = (("ACACIA", "A1"), ("ACACIA", "A2"), ("RIVER", "R1"), ("RIVER", "R2"))
CAMERA_WITH_OFFSET = "R2"  # only one writes its UTC offset, since few real cameras do
FRAMES_PER_BURST = 3

_WIDTH, _HEIGHT = _SIZE = 1024, 768  # pixels
_STRIP = 36  # pixels of the height for the black info strip at the bottom
_FIRST_DAY = datetime(2024, 5, 6)

_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class DemoImages:
    """Where a demo collection keeps its files."""

    labelled: Path  # folder whose sub-folders are the labels
    unlabelled: Path  # folder tree SITE/CAMERA/IMG_nnnn.JPG, as copied from SD cards
    truth: Path  # CSV uri,label: what is on each readable image, uri relative to `unlabelled`


@dataclass(frozen=True)
class _Species:
    coat: _Colour
    mark: _Colour
    blotches: int  # marks per shoulder height; 0 for stripes
    size: tuple[float, float]  # least and greatest shoulder height, in image heights
    # All lengths from here on are in shoulder heights.
    body: tuple[float, float]  # half axes of an ellipse
    neck: tuple[float, float, float]  # how far the head is in front and above, and the thickness
    head: float  # length of the head


@dataclass(frozen=True)
class _Scene:
    picture: Image.Image  # RGB in plain daylight, without animals
    horizon: int  # in pixels from the top

    def mirrored(self) -> _Scene:
        return _Scene(ImageOps.mirror(self.picture), self.horizon)


_SPECIES = {
    "giraffe": _Species((226, 196, 146), (142, 82, 36), 7, (0.30, 0.40),
                        (0.50, 0.21), (0.40, 0.95, 0.16), 0.30),
    "warthog": _Species((134, 110, 90), (72, 58, 48), 25, (0.22, 0.32),
                        (0.80, 0.36), (0.36, 0.02, 0.42), 0.66),
    "zebra": _Species((232, 226, 214), (34, 30, 30), 0, (0.30, 0.44),
                      (0.66, 0.28), (0.36, 0.45, 0.26), 0.42),
}  # fmt: skip


def draw_demo_images(
    folder: Path, seed: int = 0, labelled_per_label: int = 40, bursts: int = 30
) -> DemoImages:
    """Draw a labelled and an unlabelled camera-trap collection below `folder`.

    `labelled_per_label` JPEGs of 1024 x 768 pixels, each of a different place, for each of LABELS;
    `bursts` bursts of 3 frames, spread evenly over LABELS and over CAMERAS, each camera at its
    own place; and five files among them that are not readable images. About 40 % are infrared
    night images. Equal arguments give equal bytes.
    """
    demo = DemoImages(folder / "labelled", folder / "unlabelled", folder / "truth.csv")
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
        # Each place serves two labels, mirrored for the second, so that no place reveals a label.
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
    """Write what else SD cards hold: damaged files, and files that were never images."""
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
    """Draw frames of one animal, or none, walking through the same view in the same light."""
    light = _light(rng, taken, night)
    walk = int(rng.integers(2**32))
    pictures = []
    for frame in range(frames):
        picture = scene.picture.copy()
        if label in _SPECIES:
            # The same numbers for each frame: an animal keeps its coat, size and direction.
            same = np.random.default_rng(walk)
            _paste_animal(same, picture, _SPECIES[label], frame, scene.horizon)
        grain = Image.fromarray(rng.integers(0, 16, (_HEIGHT // 2, _WIDTH // 2), np.uint8))
        grain = grain.resize(_SIZE, Image.Resampling.NEAREST).convert("RGB")
        picture = ImageChops.add(ImageChops.multiply(picture, light), grain, offset=-8)
        pictures.append(picture.convert("L") if night else picture)  # infrared has no colour
    return pictures


def _scene(rng: Generator) -> _Scene:
    """Draw a place in the savanna: sky, hills, ground and bushes."""
    horizon = int(_HEIGHT * rng.uniform(0.22, 0.5))
    earth = _colour(rng.uniform((128, 118, 84), (196, 166, 126)))
    growth = _colour(rng.uniform((84, 112, 54), (164, 142, 86)))
    leaf = rng.uniform((50, 70, 40), (120, 125, 80))
    picture = _blend(_noise(rng, 9), earth, growth)
    sky = _blend(_noise(rng, 4), (118, 160, 212), (236, 238, 240))
    picture.paste(sky.crop((0, 0, _WIDTH, horizon)))
    draw = ImageDraw.Draw(picture)
    for near in (0.0, *np.sort(rng.random(rng.integers(3, 10)) ** 2)):  # the first one is a hill
        x, y = rng.uniform(0, _WIDTH), horizon + 0.6 * near * (_HEIGHT - horizon)
        width, height = rng.uniform(0.5, 1.2, 2) * _HEIGHT * (0.1 + 0.4 * near, 0.06 + 0.3 * near)
        if near == 0:
            width, height = 4 * width + 300, 2 * height
        for _ in range(25):
            dx, dy = rng.uniform(-0.7, 0.7, 2) * (width, height)
            shade = rng.uniform(0.75, 1.2) * (1.25 - 0.25 * near)
            box = (x + dx - width / 3, y + dy - height, x + dx + width / 3, y + min(dy, 0))
            draw.ellipse(box, _colour(leaf * shade))
    return _Scene(picture, horizon)


def _paste_animal(
    rng: Generator, picture: Image.Image, species: _Species, frame: int, horizon: int
) -> None:
    near = rng.random()  # nearer animals are larger, and stand lower in the picture
    least, greatest = species.size
    size = (least + near * (greatest - least)) * _HEIGHT
    feet = horizon + (_HEIGHT - horizon) * (0.4 + 0.35 * near + rng.uniform(-0.06, 0.06))
    forward = 1 if rng.random() < 0.5 else -1
    x = _WIDTH * rng.uniform(0.25, 0.75) + forward * frame * rng.uniform(5, 45)
    length, height = species.body
    length *= rng.uniform(0.75, 1)  # seen from the side, or at an angle
    swing = rng.uniform(0, math.tau) + frame
    ahead, above, thick = species.neck
    above *= rng.uniform(0.6, 1.05)
    shoulder, top = (0.75 * length, 1 - 0.5 * height), (length + ahead, 1 - height + above)
    nose = top[0] + species.head * 0.8, top[1] - species.head * 0.5

    def at(*point: float) -> tuple[float, float]:
        return x + forward * point[0] * size, feet - point[1] * size

    shape = Image.new("L", _SIZE)
    draw = ImageDraw.Draw(shape)
    for leg, phase in ((-0.7, 0), (-0.6, 2.5), (0.6, 1), (0.7, 3.5)):
        foot = leg * length + 0.12 * math.sin(swing + phase)
        draw.line((*at(leg * length, 1 - height), *at(foot, 0)), 255, int(0.09 * size))
    (left, upper), (right, lower) = at(-length * forward, 1), at(length * forward, 1 - 2 * height)
    draw.ellipse((left, upper, right, lower), 255)
    draw.line((*at(*shoulder), *at(*top)), 255, int(thick * size), joint="curve")
    draw.line((*at(*top), *at(*nose)), 255, int(0.6 * thick * size + 0.05 * size))
    draw.line((*at(*top), *at(top[0] - 0.05, top[1] + 0.16)), 255, int(0.06 * size))
    draw.line((*at(-length, 1 - 0.6 * height), *at(-length - 0.12, 0.5)), 255, int(0.04 * size))
    shadow = shape.transform(_SIZE, Image.Transform.AFFINE, (1, 0, 0, 0, 5, -4 * feet - 0.1 * size))
    picture.paste((40, 36, 30), mask=shadow.point([each // 2 for each in range(256)]))
    if species.blotches:
        marks = _noise(rng, int(_WIDTH / size * species.blotches))
    else:
        columns, rows = np.arange(_WIDTH) - x, np.arange(_HEIGHT)[:, None]
        wave = np.sin(columns / size * 40 + 0.02 * rows)
        marks = Image.fromarray((127 + 127 * wave).astype(np.uint8))
    if species.blotches < 10:  # large ones have sharp edges
        marks = marks.point([0] * 118 + list(range(0, 252, 12)) + [255] * 117)
    picture.paste(_blend(marks, species.coat, species.mark), mask=shape)


def _light(rng: Generator, taken: datetime, night: bool) -> Image.Image:
    """Draw the light that a picture is multiplied by: by day cloud shadows, warm while the sun is
    low; at night a flash that fades towards the edges."""
    if night:
        falloff = [230 - far * 3 // 4 for far in range(256)]
        return Image.radial_gradient("L").resize(_SIZE).point(falloff).convert("RGB")
    low = abs(taken.hour + taken.minute / 60 - 12) / 6
    warm = 255, int(255 - 25 * low**2), int(255 - 76 * low**2)
    return _blend(_noise(rng, 5), (150, 150, 150), warm)


def _colour(values: Array) -> _Colour:
    r, g, b = values.astype(int).tolist()
    return r, g, b


def _noise(rng: Generator, cells: int) -> Image.Image:
    """Draw smooth noise, an L image with that many cells across."""
    small = rng.integers(0, 256, (cells * _HEIGHT // _WIDTH + 2, cells + 1), np.uint8)
    return Image.fromarray(small).resize(_SIZE, Image.Resampling.BICUBIC)


def _blend(share: Image.Image, a: _Colour, b: _Colour) -> Image.Image:
    """Blend two colours, with more of `b` where `share` is lighter."""
    return Image.composite(Image.new("RGB", _SIZE, b), Image.new("RGB", _SIZE, a), share)


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
