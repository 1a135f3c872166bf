"""Credentials in URIs and texts: found, and masked before anything is printed or written."""

from __future__ import annotations

import re

_PATH = r"(?!file:/(?:[^/]|//))"


_NONE_HERE = rf"{_PATH}(?!abfss?:)"


_WHOLE_USER = re.compile(rf"(?i)^{_NONE_HERE}([a-z][a-z0-9+.\-]+:/+)[^/]*@")


_USER = re.compile(rf"(?i)\b{_NONE_HERE}([a-z][a-z0-9+.\-]+:/+)[^/\s]*@")


#: A user with a password that may have slashes. Elsewhere than in buckets it may be a host with its
#: port, and S3's access points have colons in their names.
_PASSWORD = re.compile(
    rf"(?i)\b{_PATH}((?:s3[an]?|gs|gcs|az|abfss?):/+"
    r"|[a-z][a-z0-9+.\-]+:/+(?![^/\s:@]*:\d{1,5}(?:[/\s'\",;)\]]|$)))"
    r"(?!arn:)[^/\s:@]*:\S*@"
)


#: Parameters that let in whoever has the URL: of presigned ones of S3 and Google, of Azure's SAS.
_PARAMETER = re.compile(
    r"(?i)([?&;](?:sig|pwd|[\w.\-]*(?:signature|secret|password|passwd|token|credential"
    r"|(?:api|access|account)[_\-]?key)[\w.\-]*)=)[^&;#\s'\"]+"
)


def masked(uri: str) -> str:
    """A URI as it may be printed, without the credentials that it may carry.

    >>> masked("s3://key:se cret@bucket/a@b.jpg"), masked("/a@b.jpg")
    ('s3://***@bucket/a@b.jpg', '/a@b.jpg')
    """
    return masked_anywhere(_WHOLE_USER.sub(r"\1***@", uri))


def masked_anywhere(text: str) -> str:
    """A text without the credentials that URIs in it carry, before an @ or in a query.

    What is before the @ of abfs://container@account is none, unless it has a colon.

    >>> masked_anywhere("['s3://key:se/cret@bucket/a', 'abfs://photos@account/b']")
    "['s3://***@bucket/a', 'abfs://photos@account/b']"
    >>> masked_anywhere("https://host/a.jpg?X-Amz-Signature=12ab&x=1 and hdfs://host:8020/a@b")
    'https://host/a.jpg?X-Amz-Signature=***&x=1 and hdfs://host:8020/a@b'
    """
    for pattern in (_USER, _PASSWORD):
        text = pattern.sub(r"\1***@", text)
    return _PARAMETER.sub(r"\1***", text)


def has_secret(text: str) -> bool:
    """Whether a text has a URI that carries credentials. A path may have any name.

    >>> has_secret("--images=s3://key:secret@bucket"), has_secret("/downloads/a.jpg?token=1")
    (True, False)
    """
    return ":/" in text and masked_anywhere(text) != text
