"""Every error that MonkeyRay raises on purpose.

Each message is one line that names the thing, the value and the way out. The command line
prints it and exits with 2; anything that is not a MonkeyRayError is a bug.
"""


class MonkeyRayError(Exception):
    """Base of all errors below."""


class ConfigError(MonkeyRayError):
    """An option has a value that cannot work."""


class InputError(MonkeyRayError):
    """The images, labels or manifest given cannot be used."""


class BundleError(MonkeyRayError):
    """A model bundle is missing, damaged, of a newer format, or not the one that is pinned."""


class RunError(MonkeyRayError):
    """The output place holds another run, or a run does not add up."""


class LeaseError(RunError):
    """Another live run is writing into the same place."""


class ClusterError(MonkeyRayError):
    """The machine or cluster cannot give what the job asks for, or its processes keep dying."""


class StorageError(MonkeyRayError):
    """The store cannot be used: wrong credentials, no bucket, no space."""


class FaultError(StorageError):
    """A fault of the store that may pass: throttled, unreachable, broken off. Worth a retry."""


class ConflictError(StorageError):
    """A file was to be created that is there, or replaced that is another one by now."""


class ObjectError(StorageError):
    """The store answered for certain that one object cannot be read. `kind` is its status."""

    kind = "unreadable"


class MissingError(ObjectError):
    """There is no such file or object."""

    kind = "missing"


class ForbiddenError(ObjectError):
    """The store refuses to give this file or object."""

    kind = "forbidden"


class TooLargeError(ObjectError):
    """It has more bytes than may be read."""

    kind = "too_large"


class NoFileError(ObjectError):
    """It is no file that can be read to an end, but a pipe, a socket or a device."""

    kind = "unsupported"


class DecodeError(MonkeyRayError):
    """The bytes are no image that can be read; `kind` is the status of the image's row."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
