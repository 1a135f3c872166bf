"""S3's GET without all that boto3 does around one, which costs as much as a tenth of an image."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import boto3.session

#: So many plain GETs may be refused where boto3 succeeds, until a bucket is left to it.
_REFUSALS = 3

#: What a store says of one object, or for a while.
_PASSING = (404, 408, 425, 429)

#: An error's words, after which the connection can be used again.
_ERROR_BYTES = 2**16


class PlainGet:
    """GET of whole objects with botocore's own signer and connections, and nothing else of it.

    It answers where all is well only. What boto3 knows beside that, such as another region's
    bucket, other signatures, retries and the meaning of errors, stays boto3's: whoever calls this
    asks boto3 again. A bucket that refuses what boto3 is given is left to boto3 from then on.
    """

    def __init__(self, session: boto3.session.Session, client: Any, anonymous: bool) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        self._client = client
        self._credentials = None if anonymous else session.get_credentials()
        self._usable = anonymous or self._credentials is not None
        options = client.meta.config
        self._http = URLLib3Session(
            # As boto3 finds it; the names are those of botocore's configuration.
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
        """An object's bytes and its ETag; None where boto3 is to be asked, whatever the reason."""
        if not self._usable or self._refusals[bucket] >= _REFUSALS:
            return None
        try:
            answer = self._get(self._base(bucket) + quote(key, safe="/~"))
            size = int(answer.headers.get("content-length", -1))
            etag = str(answer.headers.get("etag", "")).strip('"')
            if answer.status_code == 200 and etag and 0 <= size <= (max_bytes or size):
                data: bytes = answer.content
                self._refusals.pop(bucket, None)
                # A connection that ends early is no error to urllib3 as botocore sets it up.
                return (data, etag) if len(data) == size else None
            words = b""
            if answer.status_code != 200 and size <= _ERROR_BYTES:
                words = answer.content
            else:
                answer.raw.close()
            # That one object is missing, forbidden or large says nothing of the bucket.
            code = answer.status_code
            if 300 <= code < 500 and code not in _PASSING and b"AccessDenied" not in words:
                self._refusals[bucket] += 1
        except Exception:  # of botocore, urllib3 or a service of roles: boto3 tells which it is
            return None
        return None

    def _base(self, bucket: str) -> str:
        """The URL of a bucket's objects, which boto3 knows: by path or by host, of which region."""
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
            # Frozen anew each time, which renews those of a role before they expire.
            frozen = self._credentials.get_frozen_credentials()
            S3SigV4Auth(frozen, "s3", self._client.meta.region_name).add_auth(request)
        return self._http.send(request.prepare())
