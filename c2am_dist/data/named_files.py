"""A folder of files called by image_id, such as masks, or maps that other projects wrote."""

from collections.abc import Sequence
from typing import NamedTuple

from c2am_dist import names, storage
from c2am_dist.storage import File


class NamedFiles(NamedTuple):
    """What lies in such a folder."""

    folder: str
    """Its absolute URI."""
    files: list[File]
    """In order of their URIs."""
    stems: list[str]
    """Of each file its path below the folder, without extension."""
    suffixes: tuple[str, ...]
    """As these files have them: ``.png``, say, and ``.PNG``."""


def find(uris: Sequence[str], suffix: str) -> NamedFiles | None:
    """The files of a folder; None if the URIs are to be read as Parquet files.

    A folder that holds any Parquet file is one of those, whatever else lies in it.

    Args:
        uris: the folder alone, or anything else.
        suffix: of the files, with its dot; in any case.

    Raises:
        FileNotFoundError: a folder holds neither Parquet files nor these.
        ValueError: there is a folder of such files and another URI.
    """
    for uri in uris:
        if not storage.exists(uri) or storage.root(uri) != storage.absolute(uri):
            continue  # no folder
        found = storage.walk(uri)
        if any(file.uri.endswith(".parquet") for file in found):
            continue
        if len(uris) > 1:
            raise ValueError(f"{uri}: a folder of {suffix} files must be the only URI")
        files = sorted(file for file in found if file.uri.lower().endswith(suffix))
        if not files:
            raise storage.MissingError(f"{uri}: no .parquet and no {suffix} file in the folder")
        root = storage.root(uri)
        start = len(root.rstrip("/")) + 1
        stems = [file.uri[start : -len(suffix)] for file in files]
        suffixes = sorted({file.uri[-len(suffix) :] for file in files})
        return NamedFiles(root, files, stems, tuple(suffixes))
    return None


def read(folder: str, image_id: str, suffixes: Sequence[str]) -> tuple[str, bytes]:
    """The URI and the content of an image's file.

    It is called by the image's id, or by what :func:`names.file_path` makes of it, as files are
    that this package writes.

    Args:
        folder: where.
        image_id: of the image.
        suffixes: that the folder's files have.

    Raises:
        FileNotFoundError: there is none; names what it should be called.
        ValueError: the id could lead out of the folder.
    """
    names.check(image_id, "image_id")
    candidates = dict.fromkeys([names.file_path(image_id), image_id])
    uris = [storage.join(folder, name + suffix) for suffix in suffixes for name in candidates]
    for uri in uris:
        try:
            return uri, storage.read_bytes(uri)
        except FileNotFoundError:
            continue
    raise storage.MissingError(f"{uris[-1]}: no such file")
