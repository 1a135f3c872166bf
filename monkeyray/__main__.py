"""`python -m monkeyray` is the command `monkeyray`."""

from monkeyray.cli import entry

entry()
