"""The errors that MonkeyRay raises on purpose.

Each message is one line that names what is wrong, its value and the way out. The command line
prints it and exits with 2; any other exception is a bug.
"""


class MonkeyRayError(Exception):
    """Base class of the errors below."""


class ConfigError(MonkeyRayError):
    """An option has a value that cannot work."""


class InputError(MonkeyRayError):
    """The images, labels or manifest given cannot be used."""


class BundleError(MonkeyRayError):
    """A model bundle is missing, damaged, in a newer format, or not the one that was asked for."""


class RunError(MonkeyRayError):
    """The output place holds another run, or a run is incomplete or inconsistent."""


class LeaseError(RunError):
    """Another live run is writing to the same place."""


class ClusterError(MonkeyRayError):
    """The machine or cluster lacks what the job needs, or its processes keep dying."""


class StorageError(MonkeyRayError):
    """The store cannot be used: wrong credentials, missing bucket, no space left."""


class FaultError(StorageError):
    """A transient error of the store, worth a retry: throttling or a lost connection."""


class ConflictError(StorageError):
    """A file to create exists already, or a file to replace has changed meanwhile."""


class ObjectError(StorageError):
    """The store says definitely that an object cannot be read. `kind` is the status of its row."""

    kind = "unreadable"


class MissingError(ObjectError):
    """The file or object does not exist."""

    kind = "missing"


class ForbiddenError(ObjectError):
    """The store denies access to the file or object."""

    kind = "forbidden"


class ArchivedError(ObjectError):
    """The object is in an archive and must be restored before it can be read."""

    kind = "archived"


class TooLargeError(ObjectError):
    """The file or object is larger than the limit."""

    kind = "too_large"


class NoFileError(ObjectError):
    """Not a regular file: a pipe, socket or device."""

    kind = "unsupported"


class KeyNameError(ObjectError):
    """The store's client cannot express the object's key."""

    kind = "unsupported"


class _ReasonedError(MonkeyRayError):
    """`kind`: the status of the image's row; `reason`: its error."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class MemberError(_ReasonedError, ObjectError):
    """A member of an archive cannot be unpacked."""


class DecodeError(_ReasonedError):
    """The bytes cannot be decoded as an image."""


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, at most 200 characters; its type if it has no
    text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
