"""S3's GET without boto3's overhead, which costs a tenth of the time of an image."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import boto3.session

#: After this many refused plain GETs, a bucket is left to boto3.
_REFUSALS = 3

#: Status codes that concern one object, or may pass.
_PASSING = (404, 408, 425, 429)

#: The most bytes of an error that are read, so that the connection can be reused.
_ERROR_BYTES = 2**16


class PlainGet:
    """GET of whole objects with botocore's signer and connections alone.

    It returns successes only. Callers ask boto3 after a failure, which handles buckets of other
    regions, other signatures and retries, and knows the meaning of errors. A bucket that keeps
    refusing is left to boto3.
    """

    def __init__(self, session: boto3.session.Session, client: Any, anonymous: bool) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        self._client = client
        self._credentials = None if anonymous else session.get_credentials()
        self._usable = anonymous or self._credentials is not None
        options = client.meta.config
        self._http = URLLib3Session(
            # Where boto3 finds it too.
            verify=session._session.get_config_variable("ca_bundle")
            or os.environ.get("REQUESTS_CA_BUNDLE")
            or True,
            proxies=options.proxies or get_environ_proxies(client.meta.endpoint_url),
            timeout=(options.connect_timeout, options.read_timeout),
            max_pool_connections=options.max_pool_connections,
        )
        self._buckets: dict[str, str] = {}
        self._refusals: Counter[str] = Counter()

    def get(self, bucket: str, key: str, max_bytes: int | None) -> tuple[bytes, str] | None:
        """An object's bytes and its ETag, or None to ask boto3, whatever the reason."""
        if not self._usable or self._refusals[bucket] >= _REFUSALS:
            return None
        try:
            answer = self._get(self._base(bucket) + quote(key, safe="/~"))
            size = int(answer.headers.get("content-length", -1))
            etag = str(answer.headers.get("etag", "")).strip('"')
            if answer.status_code == 200 and etag and 0 <= size <= (max_bytes or size):
                data: bytes = answer.content
                self._refusals.pop(bucket, None)
                # As botocore sets it up, urllib3 raises no error for a connection that ends early.
                return (data, etag) if len(data) == size else None
            words = b""
            if answer.status_code != 200 and size <= _ERROR_BYTES:
                words = answer.content
            else:
                answer.raw.close()
            # A missing, forbidden, archived or large object says nothing about the bucket.
            code = answer.status_code
            own = code in _PASSING or b"AccessDenied" in words or b"InvalidObjectState" in words
            if 300 <= code < 500 and not own:
                self._refusals[bucket] += 1
        except Exception:  # of botocore, urllib3 or a role service: boto3 will raise it again
            return None
        return None

    def _base(self, bucket: str) -> str:
        """The URL before the keys of a bucket, as boto3 forms it: by path or host."""
        if bucket not in self._buckets:
            url: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": "k"}
            )
            self._buckets[bucket] = url.partition("?")[0].removesuffix("k")
        return self._buckets[bucket]

    def _get(self, url: str) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("GET", url, headers={}, stream_output=True)
        if self._credentials is not None:
            # Freezing them each time renews those of a role before they expire.
            frozen = self._credentials.get_frozen_credentials()
            S3SigV4Auth(frozen, "s3", self._client.meta.region_name).add_auth(request)
        return self._http.send(request.prepare())
