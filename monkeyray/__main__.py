"""`python -m monkeyray` is the command `monkeyray`."""

from monkeyray.cli.main import entry

entry()
