"""Listing images, and turning their bytes into pixels."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Decoded", "Detections", "Limits", "list_images"]

if TYPE_CHECKING:
    from monkeyray.images.decode import Decoded, Limits
    from monkeyray.images.detections import Detections
    from monkeyray.images.listing import list_images
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__, {"decode": "Decoded Limits", "detections": "Detections", "listing": "list_images"}
    )
