"""A folder of label files: begun with a plan, filled file by file, sealed by ``_SUCCESS``.

``_plan.json``, written first, says which checkpoint and config label which shards, so that no
other job adds to the folder. ``_SUCCESS``, written last, lists the files with their rows and
digests; readers take a folder for a label set only with it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from c2am_dist import names, storage
from c2am_dist.storage import File

PLAN, SUCCESS = "_plan.json", "_SUCCESS"
FORMAT = 1
"""Raised whenever the content of either changes meaning; see CHANGELOG.md."""


@dataclasses.dataclass(frozen=True, slots=True)
class LabelFile:
    """A finished label file."""

    name: str
    """Its path below the folder."""
    num_rows: int
    num_errors: int
    """Rows of images that could not be labeled."""
    size_bytes: int
    sha256: str


def begin(folder: str, identity: Mapping[str, str]) -> None:
    """Writes the plan, or finds the same one there.

    Exports begin their folders alike. Jobs that begin within the time of a request or two may
    both find no plan; nothing here keeps these apart.

    Args:
        folder: URI of the label set.
        identity: what a job must share with another to continue its work, such as digests.

    Raises:
        ValueError: the folder was begun with another identity, or holds other files.
    """
    uri = storage.join(folder, PLAN)
    held = [f for f in storage.walk(folder) if f.uri != storage.absolute(uri)]
    begun = _read(uri) if storage.exists(uri) else None
    if held and begun is None:
        raise ValueError(
            f"{folder}: must not hold files yet, found {storage.name(held[0].uri)} "
            f"and no {PLAN} of such a job"
        )
    changed = [
        f"{name} was {begun.get(name)}, now {value}"
        for name, value in identity.items()
        if begun is not None and begun.get(name) != value
    ]
    if changed:  # with no file yet, too: that job may be at work
        what = "holds files of" if held else "was begun by"
        raise ValueError(
            f"{folder}: {what} another job: {'; '.join(changed)}. "
            "Choose another folder, or delete this one"
        )
    if begun is None:
        _write(uri, {"format": FORMAT, **identity})


def seal(folder: str, identity: Mapping[str, str], files: Sequence[LabelFile]) -> None:
    """Writes ``_SUCCESS``: from now on the folder is a label set."""
    _write(
        storage.join(folder, SUCCESS),
        {
            "format": FORMAT,
            **identity,
            "num_rows": sum(file.num_rows for file in files),
            "num_errors": sum(file.num_errors for file in files),
            "files": [dataclasses.asdict(file) for file in files],
        },
    )


def sealed(folder: str) -> list[LabelFile] | None:
    """The files of a finished label set; None without ``_SUCCESS``.

    Raises:
        ValueError: ``_SUCCESS`` cannot be read; names it.
    """
    uri = storage.join(folder, SUCCESS)
    if not storage.exists(uri):
        return None
    content = _read(uri)
    try:
        return [_listed(entry) for entry in content["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{uri}: not a list of label files ({error!r})") from error


def _listed(entry: dict[str, Any]) -> LabelFile:
    file = LabelFile(**entry)
    names.check(file.name, "name")
    numbers = (file.num_rows, file.num_errors, file.size_bytes)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{file.name}: {numbers}")
    return file


def expand(
    uris: Sequence[str], *, allow_incomplete: bool = False, flag: str = "--allow-incomplete"
) -> list[File]:
    """The label files that URIs name; they must be of finished label sets.

    A folder has to hold the names and sizes that ``_SUCCESS`` lists; digests are not compared,
    which would read every file once more. Files and globs are taken as they are, since a label
    file appears whole or not at all, but not out of a folder that was begun and is not finished.

    Args:
        uris: folders, files and globs.
        allow_incomplete: take folders that are not finished, too.
        flag: of the caller's for that, for errors; empty where it has none.

    Raises:
        FileNotFoundError: a URI names nothing, or a listed file is not there.
        ValueError: a folder is not finished and ``allow_incomplete`` is not set, its files are
            not those that ``_SUCCESS`` lists, or a file is named twice.
    """
    files = storage.expand(uris)
    if not allow_incomplete:
        whole = {storage.absolute(uri) for uri in uris}
        for folder in dict.fromkeys(storage.root(uri) for uri in uris):
            if folder in whole:
                _check_sealed(folder, flag)
            elif _is_begun(folder):
                _refuse_unfinished(folder, flag)
    return files


def _is_begun(folder: str) -> bool:
    """Whether a folder has a plan and is not finished."""
    plan, success = (storage.join(folder, name) for name in (PLAN, SUCCESS))
    return storage.exists(plan) and not storage.exists(success)


def _refuse_unfinished(folder: str, flag: str) -> NoReturn:
    way_out = f", or read what there is ({flag})" if flag else ""
    raise ValueError(
        f"{folder}: no {SUCCESS}, so labeling has not finished: run the same command again{way_out}"
    )


def _check_sealed(folder: str, flag: str) -> None:
    listed = sealed(folder)
    if listed is None:
        _refuse_unfinished(folder, flag)
    found = {file.uri: file.size_bytes for file in storage.expand([folder])}
    root = storage.absolute(folder)
    for file in listed:
        uri = storage.join(root, file.name)
        size_bytes = found.pop(uri, None)
        if size_bytes is None:
            raise FileNotFoundError(f"{uri}: listed in {SUCCESS}, but not there")
        if size_bytes != file.size_bytes:
            raise ValueError(
                f"{uri}: {size_bytes} bytes, but {SUCCESS} lists {file.size_bytes}: "
                "it was changed or cut off"
            )
    if found:
        raise ValueError(f"{next(iter(found))}: not listed in the {SUCCESS} of its folder")


def _read(uri: str) -> dict[str, Any]:
    content = storage.read_json(uri)
    if content.get("format") != FORMAT:
        raise ValueError(f"{uri}: not of format {FORMAT}, which this version reads")
    return content


def _write(uri: str, content: Mapping[str, Any]) -> None:
    storage.write_bytes(uri, (json.dumps(content, indent=1) + "\n").encode())
