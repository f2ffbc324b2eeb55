"""AWS Signature Version 4 for requests without a body. Pure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import quote

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def encoded_path(path: str) -> str:
    """As S3 wants it: each byte but unreserved ones and slashes, encoded once."""
    return quote(path, safe="/-_.~")


def signed_headers(
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    *,
    key_id: str,
    secret_key: str,
    session_token: str,
    region: str,
    at: datetime,
    service: str = "s3",
) -> dict[str, str]:
    """Headers to add to ``headers``. ``path`` is encoded already and has no query, ``at`` is in UTC."""
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": stamp}
    if session_token:
        added["x-amz-security-token"] = session_token
    lowered = {"host": host, **{name.lower(): " ".join(value.split()) for name, value in {**headers, **added}.items()}}
    names = ";".join(sorted(lowered))
    canonical = "\n".join(
        [method, path, "", *(f"{name}:{lowered[name]}" for name in sorted(lowered)), "", names, EMPTY_SHA256]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{_ALGORITHM} Credential={key_id}/{scope},SignedHeaders={names},Signature={signature}"
    return {**added, "Authorization": credential}
