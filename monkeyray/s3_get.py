"""S3's GET without all that boto3 does around one, which costs as much as a tenth of an image."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import boto3.session

#: So many times in a row may a plain GET fail where boto3 succeeds, until a bucket is left to it.
_FAILURES = 3


class PlainGet:
    """GET of whole objects with botocore's own signer and connections, and nothing else of it.

    It answers where all is well only. What boto3 knows beside that, such as another region's
    bucket, other signatures, retries and the meaning of errors, stays boto3's: whoever calls this
    asks boto3 again. A bucket where that is so each time is left to boto3 from then on.
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
            verify=session._session.get_config_variable("ca_bundle") or True,
            proxies=options.proxies or get_environ_proxies(client.meta.endpoint_url),
            timeout=(options.connect_timeout, options.read_timeout),
            max_pool_connections=options.max_pool_connections,
        )
        self._buckets: dict[str, str] = {}
        self._failures: Counter[str] = Counter()

    def get(self, bucket: str, key: str, max_bytes: int | None) -> tuple[bytes, str] | None:
        """An object's bytes and its ETag; None where boto3 is to be asked, whatever the reason."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        if not self._usable or self._failures[bucket] >= _FAILURES:
            return None
        try:
            got = self._get(self._base(bucket) + quote(key, safe="/~"), max_bytes)
        except (BotoCoreError, HTTPError, OSError, ValueError):
            return None
        if got is not None:
            self._failures.pop(bucket, None)
        return got

    def failed(self, bucket: str) -> None:
        """Note that boto3 got an object of this bucket right after `get` had not."""
        self._failures[bucket] += 1

    def _base(self, bucket: str) -> str:
        """The URL of a bucket's objects, which boto3 knows: by path or by host, of which region."""
        if bucket not in self._buckets:
            url: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": "k"}
            )
            self._buckets[bucket] = url.partition("?")[0].removesuffix("k")
        return self._buckets[bucket]

    def _get(self, url: str, max_bytes: int | None) -> tuple[bytes, str] | None:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("GET", url, headers={}, stream_output=True)
        if self._credentials is not None:
            # Frozen anew each time, which renews those of a role before they expire.
            frozen = self._credentials.get_frozen_credentials()
            S3SigV4Auth(frozen, "s3", self._client.meta.region_name).add_auth(request)
        answer = self._http.send(request.prepare())
        size = int(answer.headers.get("content-length", -1))
        etag = str(answer.headers.get("etag", "")).strip('"')
        fits = size >= 0 and (max_bytes is None or size <= max_bytes)
        if answer.status_code != 200 or not etag or not fits:
            answer.raw.close()
            return None
        data: bytes = answer.content
        # A connection that ends early is no error to urllib3 as botocore sets it up.
        return (data, etag) if len(data) == size else None
