"""MonkeyRay: train a species classifier and score millions of images on a Ray cluster."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("monkeyray")
except PackageNotFoundError:  # came as a plain folder with `ray job submit --working-dir`
    __version__ = "0.1.0"
