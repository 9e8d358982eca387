"""The images' classes, as the shards say them, before the first image is decoded.

A method that needs them is refused here, file and image named, so that nothing is written first.
Reading one small column of every shard takes a second for a million images on a disk.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.storage import File

_COLUMNS = ("image_id", "label")
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
    for _, found in _count_each(files, needed_by):
        counts.update(found)
    return counts


def refuse_unknown(files: Sequence[File], known: Iterable[str], *, needed_by: str) -> None:
    """Raises ValueError naming a shard with a class that is not known; and as :func:`count`."""
    classes = set(known)
    for file, found in _count_each(files, needed_by):
        if strays := sorted(found.keys() - classes):
            raise ValueError(
                f"{file.uri}: {found[strays[0]]} images are labeled {strays[0]!r}, and the "
                f"classifier knows no such class among its {len(classes)} "
                f"(such as {min(classes)!r}); {needed_by} needs it to"
            )


def _count_each(files: Sequence[File], needed_by: str) -> list[tuple[File, Counter[str]]]:
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # mostly latency, over a network
        counts = pool.map(lambda file: _count(file.uri, needed_by), files)
        return list(zip(files, counts, strict=True))


def _count(uri: str, needed_by: str) -> Counter[str]:
    if "label" not in shards.read_schema(uri).names:
        raise ValueError(f"{uri}: column 'label' is missing, which {needed_by} needs")
    counts = Counter[str]()
    for group in shards.index([uri], columns=_COLUMNS, allow_empty=True):
        table = shards.read(group, _COLUMNS)
        _refuse_null(group, table, needed_by)
        counts.update(table["label"].to_pylist())
    return counts


def _refuse_null(group: RowGroup, table: pa.Table, needed_by: str) -> None:
    is_null = table["label"].is_null()
    if table["label"].null_count:
        image_id = table.filter(is_null)["image_id"][0].as_py()
        raise ValueError(
            f"{group.uri}: image {image_id!r} has no label, as have {table['label'].null_count} "
            f"of its row group; {needed_by} needs it"
        )
