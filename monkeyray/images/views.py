"""Views of an image: which part of it a network sees, and whether mirrored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """A crop about the image's middle, squeezed into the network's square, and perhaps mirrored.

    `squareness`: 0 keeps the whole frame, 1 cuts its long side to a square, and between them the
    aspect ratio of what is kept is the image's to the power of 1 - squareness.
    """

    squareness: float
    mirrored: bool = False

    def box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the crop in pixels of an image of that size.

        >>> View(0.5).box(400, 100)
        (100.0, 0.0, 300.0, 100.0)
        """
        cut = (1 - (min(width, height) / max(width, height)) ** self.squareness) / 2
        if width > height:
            return width * cut, 0.0, width * (1 - cut), float(height)
        return 0.0, height * cut, float(width), height * (1 - cut)


#: Measured with a linear head on MobileNet's features of the 10 Monkey Species, four times five
#: grouped folds: accuracy 0.985 on `middle` alone, 0.982 on `whole` and 0.980 on `square`; 0.988
#: with `middle` and its mirror image. Training on several views added nothing to that.
_CROPS = {"middle": 0.5, "whole": 0.0, "square": 1.0}

VIEWS: dict[str, View] = {
    f"{crop}{'-mirrored' if mirrored else ''}": View(squareness, mirrored)
    for crop, squareness in _CROPS.items()
    for mirrored in (False, True)
}

CROPS = tuple(_CROPS)

#: How many views there can be: one, it and its mirror image, or those of two or three crops.
COUNTS = (1, 2, 4, 6)


def choose_views(crop: str, count: int) -> tuple[str, ...]:
    """The names of `count` views, beginning with those of `crop`.

    >>> choose_views("whole", 4)
    ('whole', 'whole-mirrored', 'middle', 'middle-mirrored')
    """
    order = [crop, *(other for other in _CROPS if other != crop)]
    return tuple(name for each in order for name in (each, f"{each}-mirrored"))[:count]
