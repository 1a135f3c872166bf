"""Finds credentials in URIs and texts, and masks them before anything is printed or written."""

from __future__ import annotations

import re

#: Not a local path, which may have any name; nor abfs://container@account.
_PATH = r"(?!file:/(?:[^/]|//))"
_NONE_HERE = rf"{_PATH}(?!abfss?:)"

_WHOLE_USER = re.compile(rf"(?i)^{_NONE_HERE}([a-z][a-z0-9+.\-]+:/+)[^/]*@")
_USER = re.compile(rf"(?i)\b{_NONE_HERE}([a-z][a-z0-9+.\-]+:/+)[^/\s]*@")

#: A user with a password, which may contain slashes. Outside of bucket URIs, what looks like one
#: may be a host and port; names of S3 access points contain colons.
_PASSWORD = re.compile(
    rf"(?i)\b{_PATH}((?:s3[an]?|gs|gcs|az|abfss?):/+"
    r"|[a-z][a-z0-9+.\-]+:/+(?![^/\s:@]*:\d{1,5}(?:[/\s'\",;)\]]|$)))"
    r"(?!arn:)[^/\s:@]*:\S*@"
)

#: Query parameters that grant access: presigned URLs of S3 and Google, SAS tokens of Azure.
PARAMETER = re.compile(
    r"(?i)([?&;](?:sig|pwd|[\w.\-]*(?:signature|secret|password|passwd|token|credential"
    r"|(?:api|access|account)[_\-]?key)[\w.\-]*)=)[^&;#\s'\"]+"
)


def masked(uri: str) -> str:
    """Mask the credentials in a URI.

    >>> masked("s3://key:se cret@bucket/a@b.jpg"), masked("/a@b.jpg")
    ('s3://***@bucket/a@b.jpg', '/a@b.jpg')
    """
    return masked_anywhere(_WHOLE_USER.sub(r"\1***@", uri))


def masked_anywhere(text: str) -> str:
    """Mask the credentials in the URIs of a text, before an @ or in a query.

    In abfs://container@account, the part before the @ is a credential only if it has a colon.

    >>> masked_anywhere("['s3://key:se/cret@bucket/a', 'abfs://photos@account/b']")
    "['s3://***@bucket/a', 'abfs://photos@account/b']"
    >>> masked_anywhere("https://host/a.jpg?X-Amz-Signature=12ab&x=1 and hdfs://host:8020/a@b")
    'https://host/a.jpg?X-Amz-Signature=***&x=1 and hdfs://host:8020/a@b'
    """
    for pattern in (_USER, _PASSWORD):
        text = pattern.sub(r"\1***@", text)
    return PARAMETER.sub(r"\1***", text)


def has_secret(text: str) -> bool:
    """Whether a text has a URI with credentials. Local paths never count.

    >>> has_secret("--images=s3://key:secret@bucket"), has_secret("/downloads/a.jpg?token=1")
    (True, False)
    """
    return ":/" in text and masked_anywhere(text) != text
