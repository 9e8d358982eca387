"""URIs to bytes: local paths, ``file://``, ``s3://`` and ``gs://`` alike, through pyarrow.

The one place that turns a URI into a filesystem. Files appear whole or not at all: local
ones are renamed into place, object stores publish an upload when it completes.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import os
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class File:
    """A file that was listed: its absolute URI and its size."""

    uri: str
    size_bytes: int


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path in it; a path without scheme is a local one.

    Object keys are taken as they are, spaces, ``#`` and ``%`` included.

    Raises:
        ValueError: nothing like a URI, or of a scheme that pyarrow does not know.
    """
    if not uri:
        raise ValueError("empty URI")
    if uri.lower().startswith("file://"):
        return pafs.LocalFileSystem(), urllib.parse.unquote(urllib.parse.urlparse(uri).path)
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    path = uri[scheme.end() :]
    bucket = path.partition("/")[0]
    return _filesystem(scheme.group() + bucket), path.rstrip("/")


@functools.cache  # opening a bucket asks the network where it is
def _filesystem(bucket_uri: str) -> pafs.FileSystem:
    try:
        return pafs.FileSystem.from_uri(bucket_uri)[0]
    except (OSError, ValueError) as error:  # pyarrow names neither the URI nor the flag
        raise ValueError(f"{bucket_uri}: not a usable URI ({error})") from error


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI: ``s3://bucket/a/b.parquet`` -> ``b.parquet``."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that it means the same on every worker."""
    return _uri(uri, resolve(uri)[1])


def root(uri: str) -> str:
    """The folder that the names of a URI's files are relative to, absolute.

    A folder itself, the parent of a file, the fixed part of a glob.
    """
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    if kind != pafs.FileType.Directory:
        glob = _GLOB.search(path) if kind == pafs.FileType.NotFound else None
        path = path[: glob.start() if glob else None].rpartition("/")[0] or "/"
    return _uri(uri, path)


def _uri(uri: str, path: str) -> str:
    """The URI of another path on the same filesystem; local files become absolute paths."""
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme.group().lower() == "file://":
        return path
    return scheme.group() + path


def exists(uri: str) -> bool:
    """Whether a file or folder is there; an object store has folders only around objects."""
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


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
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [File(_uri(uri, path), info.size)]
    is_parquet = suffixes == (".parquet",)
    if info.type == pafs.FileType.Directory:
        found = [file for file in walk(uri) if file.uri.lower().endswith(suffixes)]
        what = f"no {' or '.join(suffixes)} file in the folder"
    elif _GLOB.search(path):
        pattern = path.split("/")
        found = [file for file in walk(root(uri)) if _matches(_parts(file.uri), pattern)]
        what = "the glob matches no file"
    else:
        raise FileNotFoundError(f"{uri}: no such file or folder")
    if is_parquet:
        skip = len(root(uri))
        found = [f for f in found if "/_" not in f.uri[skip:] and name(f.uri) != "errors.parquet"]
    if not found:
        raise FileNotFoundError(f"{uri}: {what}")
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


def walk(uri: str) -> list[File]:
    """All files below a folder, in no particular order, without hidden ones; [] if none."""
    filesystem, root = resolve(uri)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    return [
        File(_uri(uri, info.path), info.size)
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.File and "/." not in info.path[len(root.rstrip("/")) :]
    ]


def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: nothing is there; the message names the URI.
    """
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{uri}: no such file") from error


def read_range(uri: str, *, offset: int, size_bytes: int) -> bytes:
    """Part of a file; raises FileNotFoundError as `read_bytes`, EOFError where it ends early."""
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:
            data = file.read_at(size_bytes, offset)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{uri}: no such file") from error
    if len(data) < size_bytes:
        raise EOFError(f"{uri}: ends within the {size_bytes} bytes at {offset}")
    return data


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is seen whole or not at all; an existing one is replaced."""
    with create(uri) as stream:
        stream.write(data)


@contextlib.contextmanager
def create(uri: str) -> Iterator[pa.NativeFile]:
    """A stream into a file that appears when the block ends, and not at all when it raises."""
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with _create_object(filesystem, path) as stream:
            yield stream
        return
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
def _create_object(filesystem: pafs.FileSystem, path: str) -> Iterator[pa.NativeFile]:
    """An object appears when its upload completes, which a killed process never does."""
    stream = filesystem.open_output_stream(path)
    try:
        yield stream
    except BaseException:
        stream.close()  # pyarrow offers no abort: this publishes what was written so far
        filesystem.delete_file(path)
        raise
    stream.close()


def delete_folder(uri: str) -> None:
    """Deletes a folder and all in it; raises OSError where there is none."""
    filesystem, path = resolve(uri)
    filesystem.delete_dir(path)
