"""Views of an image: which region a backbone sees, and whether mirrored."""

from __future__ import annotations

from dataclasses import dataclass

#: Left, top, right and bottom, in pixels.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """A crop about the image's middle, squeezed into the backbone's square, and perhaps mirrored.

    `squareness`: 0 keeps the whole frame, 1 cuts its long side to a square; in between, the crop's
    aspect ratio is the image's to the power of 1 - squareness.
    """

    squareness: float
    mirrored: bool = False

    def box(self, width: float, height: float) -> Box:
        """The crop in an image of that size, in pixels.

        >>> View(0.5).box(400, 100)
        (100.0, 0.0, 300.0, 100.0)
        """
        cut = (1 - (min(width, height) / max(width, height)) ** self.squareness) / 2
        if width > height:
            return width * cut, 0.0, width * (1 - cut), float(height)
        return 0.0, height * cut, float(width), height * (1 - cut)


#: `middle` was the best single crop in our measurements; its mirror image adds a little.
_CROPS = {"middle": 0.5, "whole": 0.0, "square": 1.0}

VIEWS: dict[str, View] = {
    f"{crop}{'-mirrored' if mirrored else ''}": View(squareness, mirrored)
    for crop, squareness in _CROPS.items()
    for mirrored in (False, True)
}

CROPS = tuple(_CROPS)

#: Possible numbers of views: one, it and its mirror image, or those of two or three crops.
COUNTS = (1, 2, 4, 6)


def choose_views(crop: str, count: int) -> tuple[str, ...]:
    """The names of `count` views, those of `crop` first.

    >>> choose_views("whole", 4)
    ('whole', 'whole-mirrored', 'middle', 'middle-mirrored')
    """
    order = [crop, *(other for other in _CROPS if other != crop)]
    return tuple(name for each in order for name in (each, f"{each}-mirrored"))[:count]
