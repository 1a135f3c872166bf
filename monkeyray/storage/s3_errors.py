"""What S3 servers answer, as our errors: certain of one object, transient, or final."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from monkeyray.errors import (
    ConflictError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
)
from monkeyray.storage.location import Location


class EmptyObjectError(StorageError):
    """A range of bytes was asked of an object that has none."""


#: Codes, the error, and its message.
_ANSWERS = (
    ("NoSuchKey 404 KeyTooLongError NoSuchVersion", MissingError, "{place} does not exist"),
    ("NoSuchBucket", StorageError,
     "bucket {place.bucket!r} does not exist at {server}: create it, or correct the URI"),
    ("AccessDenied 403 AllAccessDisabled InvalidObjectState Forbidden", ForbiddenError,
     "{server} refuses {place} ({code}): check the permissions of these credentials"),
    ("PreconditionFailed 412", ConflictError, "{place} was changed by another program ({code})"),
    ("InvalidRange", EmptyObjectError, "{place} is empty"),
    ("NotImplemented", StorageError,
     "{answer}: this store has no conditional writes (If-Match, If-None-Match), which keep two "
     "runs apart: write to another store"),
    ("SlowDown InternalError ServiceUnavailable Throttling ThrottlingException OperationAborted "
     "RequestLimitExceeded RequestTimeout TooManyRequests ConditionalRequestConflict", FaultError,
     "{answer}: the store is overloaded or down, run the same command again later"),
    ("InvalidAccessKeyId SignatureDoesNotMatch InvalidToken AuthorizationHeaderMalformed",
     StorageError, "{answer}: the credentials are wrong, correct them"),
    ("ExpiredToken RequestExpired ExpiredTokenException TokenRefreshRequired", StorageError,
     "{answer}: the credentials have expired, renew them and run the same command again"),
)  # fmt: skip
_BY_CODE = {code: (kind, say) for codes, kind, say in _ANSWERS for code in codes.split()}
_OTHER = (
    StorageError,
    "{answer}: run the same command again, or look the code up in the store's documentation",
)


@contextlib.contextmanager
def s3_errors(server: str, place: Location) -> Iterator[None]:
    """Turn botocore's errors into ours. `server`: its name in messages."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _answered(server, place, error.response) from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError):
        raise StorageError(
            f"no AWS credentials for {place}: set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or a role, or give --s3-anonymous for a public bucket"
        ) from None
    except aws.ParamValidationError:
        raise StorageError(
            f"malformed URI {str(place)!r}: {place.bucket!r} is not a valid bucket name"
        ) from None
    except (aws.BotoCoreError, OSError) as error:
        raise FaultError(
            f"cannot reach {server} for {place} ({type(error).__name__}): check "
            "--s3-endpoint and the network, and run the same command again"
        ) from None


def _answered(server: str, place: Location, response: dict[str, Any]) -> StorageError:
    code = str(response.get("Error", {}).get("Code", "unknown"))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    status = int(code) if code.isdigit() else status
    known = code
    if code not in _BY_CODE and (status == 429 or status >= 500):
        known = "NotImplemented" if status == 501 else "SlowDown"
    kind, message = _BY_CODE.get(known, _OTHER)
    answer = f"{server} answers {code} for {place}"
    return kind(message.format(server=server, place=place, code=code, answer=answer))
