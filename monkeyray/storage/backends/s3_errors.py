"""S3 servers' answers as our errors: about one object, transient, or final."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from monkeyray.errors import (
    ArchivedError,
    ConflictError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
)
from monkeyray.storage.location import Location


class EmptyObjectError(StorageError):
    """A byte range was requested from an empty object."""


#: Codes, the error, and its message.
_ANSWERS = (
    ("NoSuchKey 404 NoSuchVersion", MissingError, "{place} does not exist"),
    ("KeyTooLongError", MissingError, "{place} cannot exist: its key is longer than S3 allows"),
    ("InvalidObjectState", ArchivedError,
     "{place} is archived, as in S3 Glacier: restore it, and run the same command again"),
    ("NoSuchBucket", StorageError,
     "bucket {place.bucket!r} does not exist at {server}: create it, or correct the URI"),
    ("AccessDenied 403 Forbidden", ForbiddenError,
     "{server} refuses {place} ({code}): check the permissions of these credentials"),
    ("AllAccessDisabled", ForbiddenError,
     "{server} has disabled all access to {place}: ask the owner of the bucket"),
    ("PreconditionFailed 412", ConflictError, "{place} was changed by another program ({code})"),
    ("InvalidRange", EmptyObjectError, "{place} is empty"),
    ("NotImplemented", StorageError,
     "{answer}: this store has no conditional writes (If-Match, If-None-Match), which keep two "
     "runs apart: write to another store"),
    ("SlowDown InternalError ServiceUnavailable Throttling ThrottlingException "
     "RequestLimitExceeded RequestTimeout TooManyRequests", FaultError,
     "{answer}: the store is overloaded or down, run the same command again later"),
    ("OperationAborted ConditionalRequestConflict", FaultError,
     "{answer}: another program writes there at the same time, run the same command again"),
    ("QuotaExceeded XMinioStorageFull InsufficientStorage", StorageError,
     "{answer}: the store is full, free or add space, and run the same command again"),
    ("InvalidAccessKeyId SignatureDoesNotMatch InvalidToken", StorageError,
     "{answer}: the credentials are wrong, correct them"),
    ("AuthorizationHeaderMalformed PermanentRedirect 301 IllegalLocationConstraintException",
     StorageError, "{answer}: the region is wrong, set AWS_REGION to that of the bucket"),
    ("RequestTimeTooSkewed", StorageError, "{answer}: set the clock of this machine"),
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
    except (aws.SSOError, aws.TokenRetrievalError, aws.CredentialRetrievalError) as error:
        raise StorageError(
            f"the AWS credentials for {place} cannot be obtained ({type(error).__name__}): log in "
            "again, as with aws sso login, or correct the profile"
        ) from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError):
        raise StorageError(
            f"no AWS credentials for {place}: set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or a role, or, if the bucket is public, give "
            f"--anonymous s3://{place.bucket}"
        ) from None
    except aws.ParamValidationError:
        raise StorageError(
            f"malformed URI {str(place)!r}: {place.bucket!r} is not a valid bucket name"
        ) from None
    except aws.SSLError:
        raise FaultError(
            f"no secure connection to {server} for {place}: if its certificate is your own, name "
            "the file of its authority in AWS_CA_BUNDLE"
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
        known = {501: "NotImplemented", 507: "InsufficientStorage"}.get(status, "SlowDown")
    kind, message = _BY_CODE.get(known, _OTHER)
    answer = f"{server} answers {code} for {place}"
    return kind(message.format(server=server, place=place, code=code, answer=answer))
