"""The images' classes, as the shards say them, before the first image is decoded.

A method that needs them is refused here, file and image named, so that nothing is written first.
Reading one small column of every shard takes a second for a million images on a disk.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.storage import File

Column = Literal["label", "labels"]
_FILES_AT_ONCE = 16


def count(files: Sequence[File], *, needed_by: str) -> Counter[str]:
    """How many images each class has, in the order in which classes first come.

    Args:
        files: shards.
        needed_by: the flag, for errors.

    Raises:
        ValueError: a shard has no column ``label``, or an image no label; names the file.
    """
    counts = Counter[str]()
    for _, found in _count_each(files, "label", needed_by):
        counts.update(found)
    return counts


def refuse_unknown(
    files: Sequence[File], known: Iterable[str], *, column: Column = "label", needed_by: str
) -> None:
    """Raises ValueError naming a shard with a class that is not known; and as :func:`count`.

    Args:
        files: shards.
        known: the classes.
        column: what says them: an image's one, or its list, which may be empty.
        needed_by: the flag, for errors.
    """
    classes = set(known)
    for file, found in _count_each(files, column, needed_by):
        if strays := sorted(found.keys() - classes):
            raise ValueError(
                f"{file.uri}: {found[strays[0]]} images are labeled {strays[0]!r}, and the "
                f"classifier knows no such class among its {len(classes)} "
                f"(such as {min(classes)!r}); {needed_by} needs it to"
            )


def _count_each(
    files: Sequence[File], column: Column, needed_by: str
) -> list[tuple[File, Counter[str]]]:
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # mostly latency, over a network
        counts = pool.map(lambda file: _count(file.uri, column, needed_by), files)
        return list(zip(files, counts, strict=True))


def _count(uri: str, column: Column, needed_by: str) -> Counter[str]:
    if column not in shards.read_schema(uri).names:
        raise ValueError(f"{uri}: column {column!r} is missing, which {needed_by} needs")
    counts = Counter[str]()
    for group in shards.index([uri], columns=("image_id", column), allow_empty=True):
        table = shards.read(group, ("image_id", column))
        _refuse_null(group, table, column, needed_by)
        found = table[column] if column == "label" else pc.list_flatten(table[column])  # type: ignore
        if found.null_count:
            raise ValueError(f"{uri}: column 'labels' holds a list with a null in it")
        counts.update(found.to_pylist())
    return counts


def _refuse_null(group: RowGroup, table: pa.Table, column: Column, needed_by: str) -> None:
    num_null = table[column].null_count
    if num_null:
        image_id = table.filter(table[column].is_null())["image_id"][0].as_py()
        what = {"label": "label", "labels": "list of labels"}[column]
        raise ValueError(
            f"{group.uri}: image {image_id!r} has no {what}, as have {num_null} "
            f"of its row group; {needed_by} needs it"
        )
