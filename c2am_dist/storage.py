"""URIs to bytes: local paths, ``file://``, ``s3://`` and ``gs://`` alike, through pyarrow.

The one place that turns a URI into a filesystem. Files appear whole or not at all: local
ones are renamed into place; those of an object store are collected in an unnamed temporary
file and uploaded when they are complete. What a store refuses for the moment is tried again,
and every error begins with the URI it is about. Credentials come from the environment, a
profile or the machine's role, never from a URI.
"""

import contextlib
import dataclasses
import errno
import fnmatch
import functools
import logging
import os
import re
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import tenacity

PATIENCE_S = float(os.environ.get("C2AM_STORAGE_PATIENCE_S", "120"))
"""For how long an operation is tried again before its error counts."""
BACKOFF_S = 0.5
"""Upper bound of the first wait; it doubles each time, up to 20 s, and the wait is random."""
SDK_ATTEMPTS = 3
"""How often the SDKs send each request before the operation as a whole is tried again."""
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 20.0
MULTIPART_BYTES = 256 * 2**20
"""Up to this size an upload is one request: a process killed during it leaves no parts."""

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"^(s3|gs|file|https?):(?!//)", re.IGNORECASE)
_SECRET = re.compile(
    r"^[^/]*[@:]|[?&](access_key|secret_key|session_token|aws\w*|x-amz-\w+)=", re.IGNORECASE
)
_GLOB = re.compile(r"[*?\[]")
_CODE = re.compile(r"(?:ExceptionName: |AWS Error (?!UNKNOWN)|::Status\()(\w+)")
_HTTP_STATUS = re.compile(r"HTTP status (\d{3})")
# Codes as S3, the two SDKs and Google's library spell them, in lower case without underscores.
_TRANSIENT = frozenset(
    "slowdown serviceunavailable internalfailure internalerror throttling throttlingexception "
    "requesttimeout operationaborted networkconnection endpointconnectionerror connectionerror "
    "connectionclosederror connecttimeouterror readtimeouterror httpclienterror "
    "unavailable deadlineexceeded resourceexhausted internal aborted".split()
)
_REASONS = {
    "accessdenied": "access denied",
    "invalidaccesskeyid": "the credentials are refused",
    "signaturedoesnotmatch": "the credentials are refused",
    "expiredtoken": "the credentials have expired",
    "unauthenticated": "the credentials are refused",
    "nocredentialserror": "no AWS credentials found",
    "nosuchbucket": "no such bucket",
    "permanentredirect": "the bucket is in another region than AWS_REGION or the profile says",
}
_log = logging.getLogger(__name__)
_P, _T = ParamSpec("_P"), TypeVar("_T")


class StorageError(OSError):
    """Names the URI; raised at once where trying again is no use, else after the last try."""


class MissingError(StorageError, FileNotFoundError):
    """Nothing is there."""


class _Truncated(OSError):
    """Fewer bytes came than the object has."""


def retrying(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """A whole operation, safe to repeat, that survives what is transient in an object store.

    Throttling, 5xx, lost connections, timeouts and short answers are tried again, with random
    waits that grow, for `PATIENCE_S`. For functions that read or write through `resolve`; the
    first argument is the URI, or has it as ``.uri``. Local files are tried once.

    Raises:
        StorageError: the last error, or one that trying again would not mend, with the URI.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        first: Any = next(iter((*args, *kwargs.values())))
        uri = getattr(first, "uri", first)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_S, max=20),
            stop=tenacity.stop_before_delay(PATIENCE_S),
            before_sleep=lambda state: _log_retry(uri, state),
            reraise=True,
        )
        try:
            return again(function, *args, **kwargs)
        except OSError as error:
            tries = again.statistics["attempt_number"]
            raise _named(uri, error, tries) from error

    return call


def _log_retry(uri: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0.0
    _log.warning("%s: %s; trying again in %.1f s", uri, error, wait_s)


def _code(error: BaseException) -> str:
    """What the store calls the error, in lower case; an HTTP status where it says no more."""
    text = str(error)
    found = _CODE.search(text) or _HTTP_STATUS.search(text)
    return found.group(1).replace("_", "").lower() if found else ""


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, _Truncated):
        return True
    if not isinstance(error, OSError) or isinstance(error, StorageError) or "SSL" in str(error):
        return False
    status = _HTTP_STATUS.search(str(error))
    is_busy = status is not None and (status.group(1)[0] == "5" or status.group(1) in "408 429")
    return is_busy or _code(error) in _TRANSIENT


def _named(uri: str, error: OSError, tries: int = 1) -> StorageError:
    """The error with its URI, in plain words where it is a common one."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{uri}: {'no such file' if _has_bucket(uri) else 'no such bucket'}")
    if error.errno:
        return StorageError(error.errno, f"{uri}: {os.strerror(error.errno)}")
    reason = _REASONS.get(_code(error), "")
    if _code(error) == "nosuchbucket":
        return MissingError(f"{uri}: {reason}")
    if reason == "access denied" and not _has_credentials():
        reason = _REASONS["nocredentialserror"]
    if _is_transient(error):
        reason = f"gave up after {tries} tries"
    return StorageError(f"{uri}: {reason} ({error})" if reason else f"{uri}: {error}")


def _has_credentials() -> bool:
    import boto3

    return boto3.Session().get_credentials() is not None


def _has_bucket(uri: str) -> bool:
    """Whether a URI's bucket is there; true where one may not ask, and for local files."""
    scheme, path = _split(uri)
    bucket = path.partition("/")[0]
    with contextlib.suppress(OSError):
        return not scheme or (
            _filesystem(scheme + bucket).get_file_info(bucket).type != pafs.FileType.NotFound
        )
    return True


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


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class File:
    """A file that was listed: its absolute URI and its size."""

    uri: str
    size_bytes: int


@retrying
def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path in it; a path without scheme is a local one.

    Object keys are taken as they are, spaces, ``#`` and ``%`` included. The filesystem sends
    single requests again, but reads that have to succeed belong in a `retrying` function.

    Raises:
        ValueError: nothing like a URI, one with credentials in it, or of an unknown scheme.
    """
    scheme, path = _split(uri)
    if not scheme:
        return pafs.LocalFileSystem(), path
    return _filesystem(scheme + path.partition("/")[0]), path


def _split(uri: str) -> tuple[str, str]:
    """The scheme with its slashes, empty for local files, and the path; asks no network."""
    if not uri:
        raise ValueError("empty URI")
    if _ONE_SLASH.match(uri):
        raise ValueError(f"{uri}: a URI has two slashes after its scheme, as in s3://bucket")
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return "", os.path.abspath(os.path.expanduser(uri))
    rest = uri[scheme.end() :]
    if scheme.group().lower() == "file://":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{uri}: a file:// URI has three slashes, as in file:///data")
        return "", os.path.abspath("/" + urllib.parse.unquote(path))
    if _SECRET.search(rest):  # which would end up in configs, logs and metadata
        raise ValueError(
            f"a URI that begins with {scheme.group()} has credentials in it: put them into the "
            "environment or a profile"
        )
    if not rest.partition("/")[0]:
        raise ValueError(f"{uri}: names no bucket")
    return scheme.group().lower(), rest.rstrip("/")


@functools.cache
def _filesystem(bucket_uri: str) -> pafs.FileSystem:
    if bucket_uri.startswith("s3://"):
        return _open_s3(bucket_uri)
    limit = f"?retry_limit_seconds={REQUEST_TIMEOUT_S:g}" if bucket_uri.startswith("gs://") else ""
    try:
        return pafs.FileSystem.from_uri(bucket_uri + limit)[0]
    except (OSError, ValueError) as error:  # pyarrow names neither the URI nor the flag
        raise ValueError(f"{bucket_uri}: not a usable URI ({error})") from error


def _open_s3(bucket_uri: str) -> pafs.S3FileSystem:
    """What `pafs.FileSystem.from_uri` does, and bounds, and the profile's endpoint and region."""
    endpoint, region = _endpoint_and_region()
    if not endpoint and not region:  # only AWS itself can be asked
        region = pafs.resolve_s3_region(bucket_uri.removeprefix("s3://"))
    scheme, _, host = endpoint.rpartition("://")
    return pafs.S3FileSystem(
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        region=region or None,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=SDK_ATTEMPTS),
    )


def _endpoint_and_region() -> tuple[str, str]:
    """What the environment says, else its profile; empty where neither does."""
    import botocore.session

    with _boto_errors():  # a profile that does not exist
        profile = botocore.session.Session().get_scoped_config()
    env = os.environ.get
    endpoint = env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    region = env("AWS_REGION") or env("AWS_DEFAULT_REGION") or profile.get("region")
    return endpoint or "", region or ""


@functools.cache
def _s3_client(bucket_uri: str) -> Any:
    """boto3's client, for what pyarrow cannot do.

    pyarrow publishes what was written when an upload is given up, and puts a marker object in
    place of a deleted folder's parent.
    """
    import boto3
    from botocore.config import Config

    endpoint, region = _endpoint_and_region()
    if not region:
        region = _filesystem(bucket_uri).region  # type: ignore
    return boto3.Session().client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": SDK_ATTEMPTS},
        ),
    )


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI: ``s3://bucket/a/b.parquet`` -> ``b.parquet``."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that it means the same on every worker."""
    return "".join(_split(uri))


def root(uri: str) -> str:
    """The folder that the names of a URI's files are relative to, absolute.

    A folder itself, the parent of a file, the fixed part of a glob.
    """
    path, kind = _split(uri)[1], info(uri).type
    if kind != pafs.FileType.Directory:
        glob = _GLOB.search(path) if kind == pafs.FileType.NotFound else None
        path = path[: glob.start() if glob else None].rpartition("/")[0] or "/"
    return _uri(uri, path)


def _uri(uri: str, path: str) -> str:
    """The URI of another path on the same filesystem; local files become absolute paths."""
    return _split(uri)[0] + path


@retrying
def info(uri: str) -> pafs.FileInfo:
    """What is there: its type, ``NotFound`` for nothing, and its size.

    Raises:
        MissingError: not even the bucket is there.
    """
    filesystem, path = resolve(uri)
    found = filesystem.get_file_info(path)
    if found.type == pafs.FileType.NotFound and not _has_bucket(uri):
        raise MissingError(f"{uri}: no such bucket")
    return found


def exists(uri: str) -> bool:
    """Whether a file or folder is there; an object store has folders only around objects."""
    return info(uri).type != pafs.FileType.NotFound


def expand(uris: Sequence[str], *, suffix: str | Sequence[str] = ".parquet") -> list[File]:
    """The files that URIs name, sorted within each: a file, a folder (recursively), a glob.

    In a glob ``*`` and ``?`` stay within a folder and ``**`` spans folders. Folders give the
    files that end in ``suffix``, whatever its case. Hidden files are left out of folders and
    globs, and of Parquet files also what begins with ``_`` (other tools' metadata) and
    ``errors.parquet``, which prepare writes beside its shards.

    Raises:
        FileNotFoundError: a URI names nothing; the message names it.
        ValueError: the same file is named twice (Ray Data would silently drop one).
    """
    suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    files = [file for uri in uris for file in sorted(_expand_one(uri, suffixes))]
    seen: set[str] = set()
    for file in files:
        if file.uri in seen:
            raise ValueError(f"{file.uri}: named twice in the input")
        seen.add(file.uri)
    return files


def _expand_one(uri: str, suffixes: tuple[str, ...]) -> list[File]:
    path, there = _split(uri)[1], info(uri)
    if there.type == pafs.FileType.File:
        return [File(_uri(uri, path), there.size)]
    is_parquet = suffixes == (".parquet",)
    if there.type == pafs.FileType.Directory:
        found = [file for file in walk(uri) if file.uri.lower().endswith(suffixes)]
        what = f"no {' or '.join(suffixes)} file in the folder"
    elif _GLOB.search(path):
        pattern = path.split("/")
        found = [file for file in walk(root(uri)) if _matches(_parts(file.uri), pattern)]
        what = "the glob matches no file"
    else:
        raise MissingError(f"{uri}: no such file or folder")
    if is_parquet:
        skip = len(root(uri))
        found = [f for f in found if "/_" not in f.uri[skip:] and name(f.uri) != "errors.parquet"]
    if not found:
        raise MissingError(f"{uri}: {what}")
    return found


def _parts(uri: str) -> list[str]:
    return _SCHEME.sub("", uri).split("/")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    is_match = bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0])
    return is_match and _matches(parts[1:], pattern[1:])


@retrying
def walk(uri: str) -> list[File]:
    """All files below a folder, in no particular order, without hidden ones; [] if none."""
    filesystem, root = resolve(uri)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found = filesystem.get_file_info(selector)
    if not found and not _has_bucket(uri):
        raise MissingError(f"{uri}: no such bucket")
    return [
        File(_uri(uri, info.path), info.size)
        for info in found
        if info.type == pafs.FileType.File and "/." not in info.path[len(root.rstrip("/")) :]
    ]


@retrying
def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: nothing is there; the message names the URI.
    """
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as file:
        size_bytes = file.size()
        data = file.read_at(size_bytes, 0)  # one request; a stream makes one each 256 KiB
    if len(data) != size_bytes:
        raise _Truncated(f"{len(data)} of {size_bytes} bytes came")
    return data


@retrying
def read_range(uri: str, *, offset: int, size_bytes: int) -> bytes:
    """Part of a file; raises FileNotFoundError as `read_bytes`, EOFError where it ends early."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as file:
        if offset + size_bytes > file.size():
            raise EOFError(f"{uri}: ends within the {size_bytes} bytes at {offset}")
        data = file.read_at(size_bytes, offset)
    if len(data) != size_bytes:
        raise _Truncated(f"{len(data)} of {size_bytes} bytes at {offset} came")
    return data


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is seen whole or not at all; an existing one is replaced."""
    with create(uri) as stream:
        stream.write(data)


@contextlib.contextmanager
def create(uri: str) -> Iterator[pa.NativeFile]:
    """A stream into a file that appears when the block ends, and not at all when it raises.

    What goes to an object store lies in the temporary folder (``TMPDIR``) until then.
    """
    filesystem, path = resolve(uri)
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    try:
        with _create_local(path) if is_local else _create_object(uri) as stream:
            yield stream
    except OSError as error:
        if error.errno and error.filename is None:  # of the stream: a full disk, say
            raise _named(uri, error) from error
        raise


@contextlib.contextmanager
def _create_local(path: str) -> Iterator[pa.NativeFile]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.partial")
    try:
        with pa.OSFile(partial, "wb") as stream:
            yield stream
            stream.flush()
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


@contextlib.contextmanager
def _create_object(uri: str) -> Iterator[pa.NativeFile]:
    with tempfile.TemporaryFile() as file:  # has no name, so a killed process leaves none
        stream = pa.PythonFile(file, mode="w")
        yield stream
        stream.flush()
        _upload(uri, file)


@retrying
def _upload(uri: str, file: IO[bytes]) -> None:
    """One request, or several of which none counts until the last; given up, they are undone."""
    filesystem, path = resolve(uri)
    file.seek(0)
    if not isinstance(filesystem, pafs.S3FileSystem):
        with filesystem.open_output_stream(path) as stream:
            shutil.copyfileobj(file, stream, 2**20)
        return
    from boto3.s3.transfer import TransferConfig

    client, bucket, key = _s3_place(uri)
    sizes = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=64 * 2**20)
    # boto3 closes what it has sent, and the next try needs it.
    with _boto_errors(), open(os.dup(file.fileno()), "rb") as body:
        client.upload_fileobj(body, bucket, key, Config=sizes)


def _s3_place(uri: str) -> tuple[Any, str, str]:
    scheme, path = _split(uri)
    bucket, _, key = path.partition("/")
    return _s3_client(scheme + bucket), bucket, key


def delete_folder(uri: str) -> None:
    """Deletes a folder and all in it; raises OSError where there is none."""
    if info(uri).type != pafs.FileType.Directory:
        raise MissingError(f"{uri}: no such folder")
    _delete_folder(uri)


@retrying
def _delete_folder(uri: str) -> None:
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.S3FileSystem):
        filesystem.delete_dir(path)
        return
    client, bucket, key = _s3_place(uri)
    if not key:
        raise StorageError(f"{uri}: is a whole bucket")
    with _boto_errors():
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/")
        for keys in [[found["Key"] for found in page.get("Contents", ())] for page in pages]:
            if keys:
                objects = [{"Key": key} for key in keys]
                answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects})
                for refused in answer.get("Errors", ()):
                    raise OSError(f"AWS Error {refused['Code']} ({refused['Key']})")
