"""URIs to bytes: local paths, ``file://``, ``s3://`` and ``gs://`` alike, through pyarrow.

The one place that turns a URI into a filesystem. Files appear whole or not at all: local
ones are renamed into place, object stores publish an upload when it completes.
"""

import dataclasses
import fnmatch
import os
import re
import uuid
from collections.abc import Iterable, Sequence

import pyarrow.fs as pafs

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class File:
    uri: str
    size_bytes: int


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path in it; a path without scheme is a local one."""
    if not uri:
        raise ValueError("empty URI")
    if not _SCHEME.match(uri):
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        return pafs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # pyarrow names neither the URI nor the flag
        raise ValueError(f"{uri}: not a usable URI ({error})") from error


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a URI: ``s3://bucket/a/b.parquet`` -> ``b.parquet``."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that it means the same on every worker."""
    return uri if _SCHEME.match(uri) else resolve(uri)[1]


def _with_scheme(uri: str, path: str) -> str:
    """The URI of another path on the same filesystem."""
    match = _SCHEME.match(uri)
    return path if match is None else match.group() + path


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


def expand(uris: Sequence[str], *, suffix: str | Sequence[str] = ".parquet") -> list[File]:
    """The files that URIs name, sorted within each: a file, a folder (recursively), a glob.

    Hidden files and those that begin with ``_`` are left out of folders and globs, and so is
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


def _expand_one(uri: str, suffixes: tuple[str, ...]) -> Iterable[File]:
    if _GLOB.search(_SCHEME.sub("", uri)):
        root = uri[: _GLOB.search(uri).start()].rpartition("/")[0] or "."  # type: ignore
        pattern = uri if _SCHEME.match(uri) else os.path.abspath(uri)
        found = [f for f in walk(root) if fnmatch.fnmatchcase(f.uri, pattern)]
        what = "the glob matches no file"
    else:
        filesystem, path = resolve(uri)
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"{uri}: no such file or folder")
        if info.type == pafs.FileType.File:
            return [File(_with_scheme(uri, path), info.size)]
        found = [f for f in walk(uri) if f.uri.endswith(suffixes)]
        what = f"no {' or '.join(suffixes)} file in the folder"
    if not found:
        raise FileNotFoundError(f"{uri}: {what}")
    return found


def walk(uri: str) -> list[File]:
    """The files below a folder, hidden ones, ``_…`` and errors.parquet left out."""
    filesystem, root = resolve(uri)
    infos = filesystem.get_file_info(
        pafs.FileSelector(root, recursive=True, allow_not_found=True)
    )
    return [
        File(_with_scheme(uri, info.path), info.size)
        for info in infos
        if info.type == pafs.FileType.File
        and info.base_name != "errors.parquet"
        and not any(
            part.startswith((".", "_")) for part in info.path[len(root) :].split("/")
        )
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


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file that is seen whole or not at all; an existing one is replaced."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
    else:  # an object appears when its upload completes
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)


def delete_folder(uri: str) -> None:
    filesystem, path = resolve(uri)
    filesystem.delete_dir(path)
