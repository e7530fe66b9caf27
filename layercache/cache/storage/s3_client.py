"""Reaching an S3 endpoint: credentials from the usual places, bounded retries, errors of one line.

obstore signs, sends, retries and lists. botocore finds the credentials: environment, ~/.aws files
and profiles, container and instance roles; they are renewed before they expire. They are in no URL
(signatures travel in a header), and no text of an error is passed on unchanged: of an endpoint's
answer only status and code are shown.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from layercache.errors import MissingExtraError, OptionError, StorageError

Result = TypeVar("Result")

RETRIES = "LAYERCACHE_S3_RETRIES"
"""Environment variable: maximum number of retries of a request after a dropped connection, a
timeout
or a 5xx answer; default 10."""
RETRY_SECONDS = "LAYERCACHE_S3_RETRY_SECONDS"
"""Environment variable: seconds after its first try from which a request is not retried; default
180."""
STALL_SECONDS = "LAYERCACHE_S3_STALL_SECONDS"
"""Environment variable: seconds without a byte after which a read is retried; default 30."""
_UPLOAD_TIMEOUT_S = 900
"""Time limit for one object, which has at most 32 MiB."""
_CONNECT_TIMEOUT_S = 10


def client(bucket: str, *, uploads: bool = False) -> Any:
    """Return the obstore store of a bucket; one for each bucket and set of AWS variables.

    Args:
        bucket: Name of the bucket.
        uploads: The store is for puts, whose time depends on their size.

    Raises:
        MissingExtraError: The extra s3 is not installed.
        OptionError: An endpoint has credentials in it.
        StorageError: There are no credentials anywhere.
    """
    try:
        import boto3  # noqa: F401
        import obstore  # noqa: F401
    except ImportError as e:
        raise MissingExtraError(e.name or "obstore", "s3") from None
    relevant = tuple(
        sorted(
            (k, v)
            for k, v in os.environ.items()
            if k.startswith("AWS_") or k in (RETRIES, RETRY_SECONDS, STALL_SECONDS)
        )
    )
    return _client(bucket, uploads, relevant)


@lru_cache(maxsize=16)
def _client(bucket: str, uploads: bool, _environment: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    import botocore.exceptions
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    where = f"s3://{bucket}"
    try:
        session = boto3.Session()
        credentials = session.get_credentials()
        configured = session._session.get_scoped_config().get("endpoint_url")
    except botocore.exceptions.BotoCoreError as e:
        raise StorageError(
            f"{where}: the AWS configuration cannot be used ({type(e).__name__}): check "
            "AWS_PROFILE and the ~/.aws files"
        ) from None
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or configured
    )
    if endpoint and urlsplit(endpoint).username is not None:
        raise OptionError(
            "AWS_ENDPOINT_URL: an endpoint holds no credentials; give them as AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        )
    unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    if credentials is None and not unsigned:
        raise StorageError(
            f"{where}: no credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run `aws configure` "
            "(a public bucket needs AWS_SKIP_SIGNATURE=true)"
        )
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=_UPLOAD_TIMEOUT_S),
    }
    if (
        not uploads
    ):  # the clock of a read timeout starts with the request: it would cut off slow puts
        options["read_timeout"] = timedelta(seconds=_number(STALL_SECONDS, 30))
    if endpoint and endpoint.startswith("http://"):
        options["allow_http"] = True
    arguments: dict[str, Any] = {"skip_signature": True}
    if not unsigned:
        arguments = {"credential_provider": Boto3CredentialProvider(session)}
    if endpoint:
        arguments["endpoint"] = endpoint
    return S3Store(
        bucket,
        region=session.region_name or "us-east-1",
        **arguments,
        client_options=options,  # type: ignore[arg-type]
        retry_config={
            "max_retries": int(_number(RETRIES, 10)),
            "retry_timeout": timedelta(seconds=_number(RETRY_SECONDS, 180)),
        },
    )


os.register_at_fork(after_in_child=_client.cache_clear)


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if value < 0:
        raise OptionError(f"{variable}: expected a number of at least 0, got {text!r}")
    return value


def retry(call: Callable[[], Result]) -> Result:
    """Retry a request whose answer broke off, which obstore does not always retry by itself."""
    from obstore.exceptions import GenericError

    end = time.monotonic() + _number(RETRY_SECONDS, 180)
    for tries in range(int(_number(RETRIES, 10)) + 1):
        if tries:
            time.sleep(min(0.1 * 2**tries, 5) * random.uniform(0.5, 1))
        try:
            return call()
        except GenericError as e:
            text = str(e)
            if (
                "status code" in text
                or re.search(r"after \d+ retries", text)
                or time.monotonic() > end
            ):
                raise
            last_error = e
    raise last_error


_DENIED = ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId")
"""Codes of answers to wrong or insufficient credentials."""


class UnsupportedError(StorageError):
    """The endpoint does not support the operation."""


@contextmanager
def translate_errors(where: object) -> Iterator[None]:
    """Turn errors of obstore into StorageError or FileNotFoundError, without secrets in their text.

    AlreadyExistsError and PreconditionError pass unchanged.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as e:
        if "NoSuchBucket" in str(e):
            raise StorageError(_explain(where, e)) from None
        raise FileNotFoundError(str(where)) from None
    except BaseError as e:
        kind = UnsupportedError if "status code: 501" in str(e) else StorageError
        raise kind(_explain(where, e)) from None


def _explain(where: object, error: Exception) -> str:
    """Return what went wrong and what to do.

    Of the error's text only what cannot hold a secret is used: status, code, number of tries.
    """
    text = str(error)
    status = _first(r"status code: (\d{3})", text)
    code = _first(r"<Code>(\w+)</Code>", text)
    n_retries = _first(r"after ([1-9]\d*) retries", text)
    retried = ""
    if n_retries:
        retried = f" also after {n_retries} {'retry' if n_retries == '1' else 'retries'}"
    answer = f"the endpoint answers {status or code}"
    if status and code:
        answer += f" ({code})"
    if retried:
        answer += f",{retried}"
    if code == "NoSuchBucket":
        return (
            f"{where}: there is no such bucket: create it first (aws s3 mb), or check the name, "
            "AWS_REGION and AWS_ENDPOINT_URL"
        )
    if status in ("401", "403") or code in _DENIED:
        return (
            f"{where}: access denied: {answer}; check the credentials (AWS_PROFILE, "
            "AWS_ACCESS_KEY_ID) and their permissions for the bucket"
        )
    if status == "501":
        return (
            f"{where}: {answer}: it does not support the request, such as a conditional put "
            "(If-None-Match), which writing a cache needs"
        )
    if status in ("301", "307", "400"):
        return (
            f"{where}: {answer}: the region or address may be wrong; check AWS_REGION and "
            "AWS_ENDPOINT_URL"
        )
    kept = "What was committed is kept; run the same command again, it continues"
    if status:
        return f"{where}: {answer}. {kept}; {RETRIES} and {RETRY_SECONDS} set how long to retry"
    endpoint = _first(r"(https?://[^/\s@]+)/", text) or "the endpoint"
    failure = "timed out" if "kind: Timeout" in text else "broke off or could not be made"
    return (
        f"{where}: the connection to {endpoint} {failure}{retried}: check the network and "
        f"AWS_ENDPOINT_URL. {kept}"
    )


def _first(pattern: str, text: str) -> str:
    """Return the first match of a pattern, or ""."""
    match = re.search(pattern, text)
    return match.group(1) if match else ""
