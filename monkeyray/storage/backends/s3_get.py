"""S3's GET through obstore, which costs a fifth of boto3's and leaves the interpreter alone."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monkeyray.errors import MissingError
from monkeyray.storage.backends.obstore_limits import is_expressible, owns_threads
from monkeyray.storage.backends.protocol import Blob, check_size
from monkeyray.storage.location import Location

if TYPE_CHECKING:
    import boto3.session
    from obstore.store import S3Credential, S3Store

#: After this many consecutive objects that only boto3 could read, it serves the next ones alone.
_FAILURES = 3
_SERVED_ALONE = 200

#: The region in an AWS URL, by host or path.
_REGION = re.compile(r"https?://(?:.+\.)?s3[.-]([a-z]+(?:-[a-z]+)+-\d+)\.amazonaws\.com\b")


class PlainGet:
    """GET of whole objects, signed with boto3's credentials and sent where boto3 sends it.

    Callers ask boto3 after a failure, which handles buckets of other regions, other signatures and
    retries, and knows the meaning of errors. A bucket that keeps failing is mostly left to boto3.
    """

    def __init__(self, session: boto3.session.Session, client: Any, anonymous: bool) -> None:
        self._session, self._client, self._anonymous = session, client, anonymous
        self._credentials = None if anonymous else session.get_credentials()
        self._usable = anonymous or self._credentials is not None
        self._stores: dict[str, S3Store] = {}
        self._failures: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._lock = threading.Lock()

    def serves(self, place: Location) -> bool:
        """Whether to try `get` for this object, instead of using boto3 directly."""
        if self._left[place.bucket]:
            self._left[place.bucket] -= 1
            return False
        return self._usable and is_expressible(place.path) and owns_threads()

    def get(self, place: Location, max_bytes: int | None) -> Blob | None:
        """An object's bytes and ETag, or None, for any reason, if boto3 should be used.

        Raises MissingError and TooLargeError, for which boto3 need not be asked.
        """
        import obstore

        try:
            answer = obstore.get(self._store(place.bucket), place.path)
            size, etag = answer.meta["size"], answer.meta["e_tag"]
            fits = max_bytes is None or size <= max_bytes
            data = answer.bytes().to_bytes() if fits else b""
        except FileNotFoundError as error:
            if "<Code>NoSuchKey</Code>" in str(error).rpartition("status code: 404 ")[2]:
                raise MissingError(f"{place} does not exist") from None
            return None
        except Exception:  # of obstore, botocore or a role service: boto3 will raise it again
            return None
        check_size(place, size, max_bytes)
        self._failures.pop(place.bucket, None)
        return Blob(data, etag.strip('"')) if etag else None

    def failed(self, bucket: str) -> None:
        """Note that boto3 could read what `get` could not."""
        self._failures[bucket] += 1
        if self._failures[bucket] >= _FAILURES:
            self._left[bucket] = _SERVED_ALONE
            # By now boto3 may know that the bucket is in another region.
            self._stores.pop(bucket, None)

    def _store(self, bucket: str) -> S3Store:
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = self._open(bucket)
            return self._stores[bucket]

    def _open(self, bucket: str) -> S3Store:
        from botocore.httpsession import ProxyConfiguration, get_cert_path
        from botocore.utils import get_environ_proxies
        from obstore.store import S3Store

        # The URL before the keys of the bucket, as boto3 forms it: by path or host.
        named = {"Bucket": bucket, "Key": "k"}
        url: str = self._client.generate_presigned_url("get_object", Params=named)
        base = url.partition("?")[0].removesuffix("/k")
        region = _REGION.match(base)
        proxy = ProxyConfiguration(get_environ_proxies(base)).proxy_url_for(base)
        options = self._client.meta.config
        client_options: dict[str, Any] = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=options.connect_timeout),
            "read_timeout": timedelta(seconds=options.read_timeout),
            "timeout": timedelta(hours=1),
            "proxy_url": proxy or base,
            # Without this, it would look for proxies by other rules than boto3's.
            "proxy_excludes": "" if proxy else "*,0.0.0.0/0,::/0",
        }
        if base.startswith("https:"):
            verify = (
                self._session._session.get_config_variable("ca_bundle")
                or os.environ.get("REQUESTS_CA_BUNDLE")
                or True
            )
            client_options["root_certificate"] = Path(get_cert_path(verify)).read_bytes()
        return S3Store(
            config={
                "bucket": bucket,
                # Goes before what the environment gives, which `endpoint` does not.
                "aws_endpoint_url_s3": base,
                "virtual_hosted_style_request": True,
                "region": region[1] if region else self._client.meta.region_name,
                "skip_signature": self._anonymous,
            },
            client_options=client_options,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=None if self._anonymous else self._give_credentials,
        )

    def _give_credentials(self) -> S3Credential:
        # Freezing them renews those of a role. obstore asks again within a tenth of a second,
        # since it renews what expires within five minutes.
        assert self._credentials is not None
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=1),
        }
