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

_WRONG = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
)
_EXPIRED = ("ExpiredToken", "RequestExpired", "ExpiredTokenException", "TokenRefreshRequired")
_FORBIDDEN = ("AccessDenied", "403", "AllAccessDisabled", "InvalidObjectState", "Forbidden")
_MISSING = ("NoSuchKey", "404", "KeyTooLongError", "NoSuchVersion")
_CONFLICT = ("PreconditionFailed", "412")
_BUSY = (
    "SlowDown", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "RequestLimitExceeded", "RequestTimeout", "TooManyRequests", "OperationAborted",
    "ConditionalRequestConflict",
)  # fmt: skip


@contextlib.contextmanager
def s3_errors(server: str, place: Location) -> Iterator[None]:
    """Turn botocore's errors into ours. `server`: how messages call it."""
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
    if code in _MISSING:
        return MissingError(f"{place} does not exist")
    if code == "NoSuchBucket":
        return StorageError(
            f"bucket {place.bucket!r} does not exist at {server}: create it, or correct the URI"
        )
    if code in _FORBIDDEN:
        return ForbiddenError(
            f"{server} refuses {place} ({code}): check the permissions of these credentials"
        )
    if code in _CONFLICT:
        return ConflictError(f"{place} was changed by another program ({code})")
    answer = f"{server} answers {code} for {place}"
    if code == "NotImplemented" or status == 501:
        return StorageError(
            f"{answer}: this store has no conditional writes (If-Match, If-None-Match), which keep "
            "two runs apart: write to another store"
        )
    if code in _BUSY or status == 429 or status >= 500 or (code.isdigit() and int(code) >= 500):
        return FaultError(
            f"{answer}: the store is overloaded or down, run the same command again later"
        )
    if code in _WRONG:
        return StorageError(f"{answer}: the credentials are wrong, correct them")
    if code in _EXPIRED:
        return StorageError(
            f"{answer}: the credentials have expired, renew them and run the same command again"
        )
    return StorageError(
        f"{answer}: run the same command again, or look the code up in the store's documentation"
    )
