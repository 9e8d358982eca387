"""What the driver checks before anything is written: ids, and that classes are in the label map.

Tasks check classes again, image by image. Those of ``.npy`` files are known there alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import storage
from c2am_dist.data import shards
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.refinement.masks import id_of
from c2am_dist.storage import File

_FILES_AT_ONCE = 16
_T = TypeVar("_T")
Classes = Mapping[str, set[Any]]
"""File -> the classes that it names."""


class _Named(NamedTuple):
    """What a shard says without its pixels."""

    ids: pa.ChunkedArray
    classes: set[Any]


def shard_classes(images: Sequence[File], uris: Sequence[str]) -> Classes:
    """The classes in the shards' column ``labels``, by shard; of none where there is no column.

    Args:
        images: the shards.
        uris: that name them, for messages.

    Raises:
        ValueError: they hold no image, or two of one id, whose masks would be one file.
    """
    found = _of_each(_named, [file.uri for file in images])
    ids = pa.chunked_array(
        [chunk for each in found.values() for chunk in each.ids.chunks], "string"
    )
    if not len(ids):
        raise ValueError(f"{', '.join(uris)}: the shards hold no image")
    shards.refuse_duplicates(ids, ", ".join(uris))
    return {uri: each.classes for uri, each in found.items()}


def map_classes(label_files: Iterable[str]) -> Classes:
    """The classes that label files have maps of, by file; the maps are not read."""
    return _of_each(_mapped, sorted(set(label_files)))


def check_classes(classes: Classes, label_map: LabelMap) -> None:
    """Raises RefusedError naming a file and a class of it that is not in the label map."""
    for uri, own in classes.items():
        for name in sorted(own, key=str):
            id_of(name, uri, label_map)


def _of_each(read: Callable[[str], _T], uris: Sequence[str]) -> dict[str, _T]:
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # mostly latency, over a network
        return dict(zip(uris, pool.map(read, uris), strict=True))


def _named(uri: str) -> _Named:
    arrow_schema = shards.read_schema(uri)
    columns = ["image_id", *(name for name in ("labels",) if name in arrow_schema.names)]
    shards.check_columns(uri, arrow_schema, columns)
    table = shards.read_whole(uri, columns)
    classes = set[Any]()
    if len(columns) > 1:
        classes.update(table["labels"].combine_chunks().flatten().unique().to_pylist())
    return _Named(table["image_id"], classes)


@storage.retrying
def _mapped(uri: str) -> set[Any]:
    """Reads the names alone, beside which the maps are in columns of their own."""
    names = set[Any]()
    with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
        paths = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
        wanted = [p for p in paths if p.startswith("class_maps.") and p.endswith(".class_name")]
        for group in range(file.num_row_groups):
            entries = file.read_row_group(group, columns=wanted, use_threads=False)["class_maps"]
            found = entries.combine_chunks().flatten().field("class_name")
            names.update(_as_strings(uri, found.unique()))
    return names


def _as_strings(uri: str, found: pa.Array) -> list[Any]:
    """Nothing else may become Python objects: see `shards.conform`."""
    try:
        texts = found.cast(pa.string())
        texts.validate(full=True)
    except ValueError as error:
        raise ValueError(f"{uri}: class_maps: {error}") from error
    return texts.to_pylist()
