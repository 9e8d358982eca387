"""URIs to bytes: local paths, ``file://``, ``s3://`` and ``gs://`` alike, through pyarrow.

The one place that turns a URI into a filesystem. Files appear whole or not at all: local
ones are renamed into place; those of an object store are collected in an unnamed temporary
file and uploaded when they are complete. What a store refuses for the moment is tried again,
and every error begins with the URI it is about. Credentials come from the environment, a
profile or the machine's role, never from a URI.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from c2am_dist import addresses, object_file, object_store
from c2am_dist.addresses import absolute as absolute
from c2am_dist.addresses import join as join
from c2am_dist.addresses import name as name
from c2am_dist.names import printable
from c2am_dist.retries import MissingError as MissingError
from c2am_dist.retries import StorageError as StorageError
from c2am_dist.retries import TruncatedError
from c2am_dist.retries import named as named
from c2am_dist.retries import retrying as retrying

_GLOB = re.compile(r"[*?\[]")
_PARTIAL = ".partial"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class File:
    """A file that was listed: its absolute URI and its size."""

    uri: str
    size_bytes: int


@retrying
def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path in it; a path without scheme is a local one.

    Object keys are taken as they are, spaces, ``#`` and ``%`` included. Files are to be read by
    `open_input` and the like: a filesystem of S3's takes a short answer for whole.

    Raises:
        ValueError: nothing like a URI, one with credentials in it, or of an unknown scheme.
    """
    scheme, path = addresses.split(uri)
    if not scheme:
        return pafs.LocalFileSystem(), path
    return _filesystem(scheme + path.partition("/")[0]), path


@functools.cache
def _filesystem(bucket_uri: str) -> pafs.FileSystem:
    if bucket_uri.startswith("s3://"):
        return object_store.open_filesystem(bucket_uri.removeprefix("s3://"))
    bounded_uri = bucket_uri
    if bucket_uri.startswith("gs://"):
        bounded_uri += f"?retry_limit_seconds={object_store.REQUEST_TIMEOUT_S:g}"
    try:
        return pafs.FileSystem.from_uri(bounded_uri)[0]
    except (OSError, ValueError) as error:  # pyarrow names neither the URI nor the flag
        raise ValueError(f"{bucket_uri}: not a usable URI ({error})") from error


def root(uri: str) -> str:
    """The folder that the names of a URI's files are relative to, absolute.

    A folder itself, the parent of a file, the fixed part of a glob.
    """
    path, kind = addresses.split(uri)[1], info(uri).type
    if kind != pafs.FileType.Directory:
        glob = _GLOB.search(path) if kind == pafs.FileType.NotFound else None
        path = path[: glob.start() if glob else None].rpartition("/")[0] or "/"
    return addresses.with_path(uri, path)


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


def _has_bucket(uri: str) -> bool:
    """Whether a URI's bucket is there; true where one may not ask, and for local files."""
    scheme, path = addresses.split(uri)
    bucket = path.partition("/")[0]
    with contextlib.suppress(OSError):
        return not scheme or (
            _filesystem(scheme + bucket).get_file_info(bucket).type != pafs.FileType.NotFound
        )
    return True


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
    path, there = addresses.split(uri)[1], info(uri)
    if there.type == pafs.FileType.File:
        return [File(addresses.with_path(uri, path), there.size)]
    is_parquet = suffixes == (".parquet",)
    if there.type == pafs.FileType.Directory:
        found = [file for file in walk(uri) if file.uri.lower().endswith(suffixes)]
        what = f"no {' or '.join(suffixes)} file in the folder"
    elif _GLOB.search(path):
        found = [file for file in walk(root(uri)) if addresses.matches(file.uri, path)]
        what = "the glob matches no file"
    else:
        raise MissingError(f"{uri}: no such file or folder")
    if is_parquet:
        skip = len(root(uri))
        found = [f for f in found if "/_" not in f.uri[skip:] and name(f.uri) != "errors.parquet"]
    if not found:
        raise MissingError(f"{uri}: {what}")
    return found


@retrying
def walk(uri: str) -> list[File]:
    """All files below a folder, in no particular order, without hidden ones; [] if none.

    Raises:
        ValueError: a file's name is not UTF-8.
    """
    filesystem, root = resolve(uri)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found = filesystem.get_file_info(selector)
    if not found and not _has_bucket(uri):
        raise MissingError(f"{uri}: no such bucket")
    try:
        return [
            File(addresses.with_path(uri, each.path), each.size)
            for each in found
            if each.type == pafs.FileType.File and "/." not in each.path[len(root.rstrip("/")) :]
        ]
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: a name in it is not UTF-8: {error.object!r}") from error


@retrying
def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: nothing is there; the message names the URI.
        StorageError: it has more than `object_store.MAX_BYTES`.
    """
    data, size_bytes = _read(uri, 0, None)
    if len(data) != size_bytes:
        raise TruncatedError(f"{len(data)} of {size_bytes} bytes came")
    return data


@retrying
def read_range(uri: str, *, offset: int, size_bytes: int) -> bytes:
    """Part of a file; raises FileNotFoundError as `read_bytes`, EOFError where it ends early."""
    data, file_bytes = _read(uri, offset, size_bytes) if size_bytes else (b"", offset)
    if offset + size_bytes > file_bytes:
        raise EOFError(f"{uri}: ends within the {size_bytes} bytes at {offset}")
    if len(data) != size_bytes:
        raise TruncatedError(f"{len(data)} of {size_bytes} bytes at {offset} came")
    return data


@retrying
def open_input(uri: str) -> pa.NativeFile:
    """A file to read from any place, such as Parquet's reader does; to be closed.

    What it reads of an S3 object is what `read_range` gives: pyarrow's own file fills up a short
    answer with zeros, and a column of images would take them. Opening asks for the object's size
    and its tail at once.

    Raises:
        FileNotFoundError: nothing is there; the message names the URI.
    """
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.S3FileSystem):
        return filesystem.open_input_file(path)
    tail, size_bytes = _read(uri, -object_file.TAIL_BYTES, None)
    if len(tail) != min(size_bytes, object_file.TAIL_BYTES):
        raise TruncatedError(f"{len(tail)} of the last {object_file.TAIL_BYTES} bytes came")

    def read(offset: int, size_bytes: int) -> bytes:
        return read_range(uri, offset=offset, size_bytes=size_bytes)

    return pa.PythonFile(object_file.ObjectFile(size_bytes, tail, read), mode="r")


def read_json(uri: str) -> dict[str, Any]:
    """The JSON object that a file holds; raises as `read_bytes`, ValueError where it holds none."""
    try:
        content = json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: corrupt: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{uri}: corrupt: not a JSON object")
    return content


def _read(uri: str, offset: int, size_bytes: int | None) -> tuple[bytes, int]:
    """What came of part of a file, or of all from an offset on, and how long the file is."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.S3FileSystem):
        return object_store.read(*_bucket_and_key(path), offset, size_bytes)
    with filesystem.open_input_file(path) as file:
        file_bytes = file.size()
        wanted = object_store.bounded(file_bytes if size_bytes is None else size_bytes)
        return file.read_at(wanted, offset), file_bytes


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
            raise named(uri, error) from error
        raise


@contextlib.contextmanager
def _create_local(path: str) -> Iterator[pa.NativeFile]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = _partial(path)
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
    filesystem, path = resolve(uri)
    file.seek(0)
    if isinstance(filesystem, pafs.S3FileSystem):
        object_store.upload(*_bucket_and_key(path), file)
        return
    # A stream of pyarrow's publishes what it has when it is given up: so under a hidden name.
    partial = _partial(path)
    try:
        with filesystem.open_output_stream(partial) as stream:
            shutil.copyfileobj(file, stream, 2**20)
        filesystem.move(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(partial)
        raise


def _partial(path: str) -> str:
    """A name beside a path, hidden until the file is whole."""
    return f"{path.rpartition('/')[0]}/.{uuid.uuid4().hex}{_PARTIAL}"


def _bucket_and_key(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def sweep(folder: str) -> None:
    """Deletes what writers that were killed left below a folder, and nobody sees.

    Hidden files, parts of S3's uploads. Only for folders in which nobody writes now:
    what is written there at this moment has to be written again.
    """
    filesystem, path = resolve(folder)
    if isinstance(filesystem, pafs.LocalFileSystem):
        for parent, _, names in os.walk(path):
            for each in fnmatch.filter(names, f".*{_PARTIAL}"):
                os.unlink(os.path.join(parent, each))
        return
    try:
        _sweep_store(folder)
    except StorageError as error:  # a store that knows no uploads, or does not let us look
        _log.warning("parts of uploads may stay: %s", printable(str(error)))


@retrying
def _sweep_store(folder: str) -> None:
    filesystem, path = resolve(folder)
    if isinstance(filesystem, pafs.S3FileSystem):
        bucket, key = _bucket_and_key(path)
        object_store.abort_uploads(bucket, f"{key}/" if key else "")
        return
    for file in filesystem.get_file_info(
        pafs.FileSelector(path, recursive=True, allow_not_found=True)
    ):
        if fnmatch.fnmatch(file.base_name, f".*{_PARTIAL}"):
            filesystem.delete_file(file.path)


def delete_folder(uri: str) -> None:
    """Deletes a folder and all in it; raises OSError where there is none."""
    scheme, path = addresses.split(uri)
    if scheme and "/" not in path:
        raise StorageError(f"{uri}: is a whole bucket")
    if info(uri).type != pafs.FileType.Directory:
        raise MissingError(f"{uri}: no such folder")
    _delete_folder(uri)


@retrying
def _delete_folder(uri: str) -> None:
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.S3FileSystem):
        bucket, key = _bucket_and_key(path)
        object_store.delete(bucket, f"{key}/")
    else:
        filesystem.delete_dir(path)
