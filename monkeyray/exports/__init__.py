"""Predictions in the formats of other tools."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Deployments", "EventsConfig", "ExportConfig", "Taxa", "read_deployments", "read_taxa"]

if TYPE_CHECKING:
    from monkeyray.exports.deployments import Deployments, read_deployments
    from monkeyray.exports.options import EventsConfig, ExportConfig
    from monkeyray.exports.taxonomy import Taxa, read_taxa
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "options": "EventsConfig ExportConfig",
            "deployments": "Deployments read_deployments",
            "taxonomy": "Taxa read_taxa",
        },
    )
