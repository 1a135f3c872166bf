"""Reports and reviews in HTML."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Review", "ReviewConfig", "render_report"]

if TYPE_CHECKING:
    from monkeyray.pages.options import ReviewConfig
    from monkeyray.pages.report import render_report
    from monkeyray.pages.review import Review
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__, {"review": "Review", "options": "ReviewConfig", "report": "render_report"}
    )
