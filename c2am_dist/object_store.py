"""S3 through pyarrow where it is enough, and through boto3 where it is not."""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import IO, Any

import pyarrow.fs as pafs

SDK_ATTEMPTS = 3
"""How often the SDKs send each request before the operation as a whole is tried again."""
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 20.0
MULTIPART_BYTES = 256 * 2**20
"""Up to this size an upload is one request: a process killed during it leaves no parts."""
PART_BYTES = 64 * 2**20
MAX_BYTES = 4 * 2**30
"""Most to read at once, from any store: an annotation, a checkpoint, a label file has less."""

_LOCK = threading.Lock()


@contextlib.contextmanager
def _boto_errors() -> Iterator[None]:
    """boto3's errors as the OSError that pyarrow would raise."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        found: Any = error.response
        status, content = found["ResponseMetadata"]["HTTPStatusCode"], found["Error"]
        raise OSError(
            f"AWS Error {content['Code']} (HTTP status {status}) during {error.operation_name}: "
            f"{content.get('Message')}"
        ) from error
    except exceptions.BotoCoreError as error:
        raise OSError(f"AWS Error {type(error).__name__}: {error}") from error


def open_filesystem(bucket: str) -> pafs.S3FileSystem:
    """As `pafs.FileSystem.from_uri`, with bounds, and with the profile's endpoint and region."""
    endpoint, region = _endpoint_and_region()
    if not endpoint and not region:  # only AWS itself can be asked
        region = pafs.resolve_s3_region(bucket)
    scheme, _, host = endpoint.rpartition("://")
    return pafs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=region or None,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=SDK_ATTEMPTS),
    )


def _endpoint_and_region() -> tuple[str, str]:
    """What the environment says, else its profile; empty where neither does."""
    env, profile = os.environ.get, _profile()
    endpoint = env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    region = env("AWS_REGION") or env("AWS_DEFAULT_REGION") or profile.get("region")
    if endpoint and not re.match(r"https?://[^/@]+/?$", endpoint):
        raise ValueError("AWS_ENDPOINT_URL has to be http(s)://host:port, without credentials")
    return (endpoint or "").rstrip("/"), region or ""


@functools.cache
def _profile() -> dict[str, Any]:
    import botocore.session

    with _boto_errors():  # a profile that does not exist
        return botocore.session.Session().get_scoped_config()


@functools.cache
def _session() -> Any:
    import boto3

    return boto3.Session()


def _client(bucket: str) -> Any:
    with _LOCK:  # making one takes a while, and threads must not all do it
        return _new_client(bucket)


@functools.cache
def _new_client(bucket: str) -> Any:
    """boto3's client, for where pyarrow falls short.

    It publishes what was written when an upload is given up, leaves a marker object in place of
    a deleted folder's parent, and fills up a short answer with zeros.
    """
    from botocore.config import Config

    endpoint, region = _endpoint_and_region()
    return _session().client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region or open_filesystem(bucket).region,
        config=Config(
            max_pool_connections=64,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": SDK_ATTEMPTS},
        ),
    )


def bounded(size_bytes: int) -> int:
    """The size itself; raises OSError where it is more than `MAX_BYTES`."""
    if size_bytes > MAX_BYTES:
        raise OSError(f"{size_bytes} bytes, at most {MAX_BYTES} are read at once")
    return size_bytes


def read(bucket: str, key: str, offset: int, size_bytes: int | None) -> tuple[bytes, int]:
    """One request: what really came, and how long the object is.

    A negative offset asks for that many last bytes, or for all where there are fewer.
    """
    client = _client(bucket)
    last = "" if size_bytes is None else offset + size_bytes - 1
    span = f"bytes={offset}-{last}" if offset >= 0 else f"bytes={offset}"
    with _boto_errors():
        try:
            answer = client.get_object(Bucket=bucket, Key=key, Range=span)
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "InvalidRange":
                raise
            # The object ends before the offset; an empty one does so at once.
            return b"", client.head_object(Bucket=bucket, Key=key)["ContentLength"]
        bounded(answer["ContentLength"])
        return answer["Body"].read(), int(answer["ContentRange"].rpartition("/")[2])


def upload(bucket: str, key: str, file: IO[bytes]) -> None:
    """One request, or several of which none counts until the last; given up, they are undone."""
    from boto3.s3.transfer import TransferConfig

    client = _client(bucket)
    sizes = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=PART_BYTES)
    # boto3 closes what it has sent, and the next try needs it.
    with _boto_errors(), open(os.dup(file.fileno()), "rb") as body:
        client.upload_fileobj(body, bucket, key, Config=sizes)


def delete(bucket: str, prefix: str) -> None:
    client = _client(bucket)
    with _boto_errors():
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": keys}) if keys else {}
            for refused in answer.get("Errors", ()):
                raise OSError(f"AWS Error {refused['Code']} ({refused['Key']})")


def abort_uploads(bucket: str, prefix: str) -> None:
    """Deletes the parts of uploads that were never finished, of all keys with a prefix."""
    client = _client(bucket)
    with _boto_errors():
        pages = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Prefix=prefix
        )
        for found in [upload for page in pages for upload in page.get("Uploads", ())]:
            with contextlib.suppress(client.exceptions.NoSuchUpload):  # it has ended meanwhile
                client.abort_multipart_upload(
                    Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"]
                )
