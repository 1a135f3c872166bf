"""Backbones, heads, the engines that run them, and the bundle that holds both."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Bundle", "Network", "choose_engine", "load_bundle", "save_bundle"]

if TYPE_CHECKING:
    from monkeyray.model.bundle import Bundle, load_bundle, save_bundle
    from monkeyray.model.engines.choice import choose_engine
    from monkeyray.model.network import Network
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "bundle": "Bundle load_bundle save_bundle",
            "network": "Network",
            "engines.choice": "choose_engine",
        },
    )
