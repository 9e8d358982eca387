"""Where class maps and background cues lie: label sets, or folders of files called by image_id.

The driver finds which label file goes with which shard. A task reads that file in step with the
shard, or an image's own file, and holds what belongs to one row group of images.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema, storage
from c2am_dist.data import label_set, named_files, row_files, shards
from c2am_dist.storage import File

_FILES_AT_ONCE = 16
_BATCH_ROWS = 32
_LABEL_COLUMNS = ("image_id", "width", "height", "error")


class RefusedError(ValueError):
    """What is wrong with the whole input, and not with one image."""


class ShardSource(NamedTuple):
    """What a task reads for the images of one shard."""

    uri: str
    """Of a label file, or of the folder of files."""
    column: str
    suffixes: tuple[str, ...]
    """Of the files in the folder; none for a label file."""


class Source(NamedTuple):
    """Class maps or cues of all images."""

    column: str
    """Of label files: ``class_maps`` or ``background_cue``."""
    suffixes: tuple[str, ...]
    """Of files called by image_id; none for label sets."""
    folder: str
    """Where these are; empty for label sets."""
    label_files: Mapping[str, str]
    """Shard -> label file; empty for other files."""
    method: str
    """What made them."""
    sha256: str
    """Of the checkpoint behind them; of other files that of the listing."""
    listing_sha256: str
    """Of names and sizes."""

    def of_shard(self, shard: str) -> ShardSource:
        return ShardSource(self.label_files.get(shard, self.folder), self.column, self.suffixes)


def find(
    uris: Sequence[str],
    images: Sequence[File],
    *,
    column: str,
    suffix: str,
    allow_incomplete: bool,
) -> Source:
    """What URIs name: a folder of files called by image_id, or label sets of these shards.

    Args:
        uris: a value of --maps or --cues.
        images: the shards.
        column: that label files must have.
        suffix: of files called by image_id.
        allow_incomplete: as of :func:`label_set.expand`.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a label set is unfinished, lacks the column, is of two checkpoints, or has no
            file for a shard; the message names it.
    """
    named = named_files.find(uris, suffix)
    if named is not None:
        listing = _digest(named.files)
        return Source(column, named.suffixes, named.folder, {}, "cam", listing, listing)
    files = label_set.expand(uris, allow_incomplete=allow_incomplete)
    matched = _match(images, files, uris)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # mostly latency, over a network
        origins = list(pool.map(lambda file: _origin(file.uri, column), files))
    for file, origin in zip(files, origins, strict=True):
        if origin != origins[0]:
            raise ValueError(
                f"{file.uri}: labels of {' '.join(origin)}, but {files[0].uri} is of "
                f"{' '.join(origins[0])}: refine one after the other"
            )
    method, sha256 = origins[0]
    return Source(column, (), "", matched, method, sha256, _digest(files))


def _digest(files: Sequence[File]) -> str:
    listing = "".join(f"{file.uri} {file.size_bytes}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _origin(uri: str, column: str) -> tuple[str, str]:
    """Method and checkpoint that a label file's metadata name."""
    arrow_schema = shards.read_schema(uri)
    shards.check_columns(uri, arrow_schema, [*_LABEL_COLUMNS, column], schema.LABELS)
    metadata = arrow_schema.metadata or {}
    method, sha256 = (
        metadata.get(f"c2am_dist.{name}".encode(), b"unknown").decode(errors="replace")
        for name in ("method", "checkpoint_sha256")
    )
    return method, sha256


def _match(images: Sequence[File], labels: Sequence[File], uris: Sequence[str]) -> dict[str, str]:
    """The label file of each shard: that with its path below the common folder, or its name.

    Of several with its name it is the one whose folders are called like the shard's the furthest
    up. Whether it is of these images, the task sees that reads both.
    """
    by_path = {each.name: each.shard for each in row_files.plan(labels, "labels")}
    by_name = defaultdict[str, list[str]](list)
    for file in labels:
        by_name[storage.name(file.uri)].append(file.uri)
    matched = {}
    for planned in row_files.plan(images, "labels"):
        alike = by_name[storage.name(planned.name)]
        found = by_path.get(planned.name) or _most_alike(planned.shard, alike)
        if found is None:
            what = f"{len(alike)} label files are" if alike else "no label file is"
            raise ValueError(f"{planned.shard}: {what} called like it in {', '.join(uris)}")
        matched[planned.shard] = found
    return matched


def _most_alike(shard: str, label_files: Sequence[str]) -> str | None:
    """The one whose path ends most like the shard's; None if there is no one."""

    def num_common(uri: str) -> int:
        folders = zip(reversed(uri.split("/")[:-1]), reversed(shard.split("/")[:-1]), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], folders))

    ranked = sorted(label_files, key=num_common, reverse=True)
    is_one = len(ranked) == 1 or (len(ranked) > 1 and num_common(ranked[0]) > num_common(ranked[1]))
    return ranked[0] if is_one else None


class Found(NamedTuple):
    """What there is for an image."""

    uri: str
    """Where."""
    value: Any
    """Encoded: bytes, or of label files a list of CLASS_MAP; None where there is nothing."""
    error: str | None = None
    """Why there is nothing."""
    size: tuple[int | None, int | None] = (None, None)
    """Height and width of the labeled image, as far as they are known."""
    is_missing: bool = False
    """Whether the error is that an image has no file of its own."""


class NamedReader:
    """Reads an image's own file."""

    def __init__(self, source: ShardSource) -> None:
        self._source = source

    def read(self, image_ids: Sequence[str]) -> Iterator[Found]:
        """Yields what there is for each image, one at a time."""
        for image_id in image_ids:
            try:
                yield Found(*named_files.read(self._source.uri, image_id, self._source.suffixes))
            except (FileNotFoundError, ValueError) as error:
                is_missing = isinstance(error, FileNotFoundError)
                yield Found(self._source.uri, None, str(error), is_missing=is_missing)

    def end(self) -> None:
        """Nothing is left over."""


class LabelReader:
    """Reads a label file in step with its shard, whose images it must have in the same order."""

    def __init__(self, source: ShardSource, shard: str) -> None:
        self._source, self._shard = source, shard
        self._columns = [*_LABEL_COLUMNS, source.column]
        self._batches = self._read()
        self._pending = pa.table({})

    def read(self, image_ids: Sequence[str]) -> Iterator[Found]:
        """Yields what there is for each image.

        Raises:
            RefusedError: the file's next rows are of other images; the message names one.
        """
        uri = self._source.uri
        while len(self._pending) < len(image_ids):
            following = next(self._batches, None)
            if following is None:
                missing = image_ids[len(self._pending)]
                raise RefusedError(f"{uri}: ends before image {missing!r} of {self._shard}")
            self._pending = (
                pa.concat_tables([self._pending, following]) if len(self._pending) else following
            )
        table, self._pending = (
            self._pending.slice(0, len(image_ids)),
            self._pending.slice(len(image_ids)),
        )
        for i, image_id in enumerate(image_ids):
            (row,) = table.slice(i, 1).to_pylist()
            if row["image_id"] != image_id:
                raise RefusedError(
                    f"{uri}: has image {row['image_id']!r} where {self._shard} has {image_id!r}: "
                    "it is of other images, or in another order"
                )
            size = (row["height"], row["width"])
            yield Found(uri, row[self._source.column], row["error"], size)

    def end(self) -> None:
        """Raises RefusedError where the file has more rows than the shard."""
        if len(self._pending) or next(self._batches, None) is not None:
            raise RefusedError(f"{self._source.uri}: has more rows than {self._shard}")

    def _read(self) -> Iterator[pa.Table]:
        uri = self._source.uri
        with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=self._columns, use_threads=False):
                table = pa.Table.from_batches([batch])
                yield shards.conform(uri, table, self._columns, schema.LABELS)


def reader(source: ShardSource, shard: str) -> NamedReader | LabelReader:
    """What reads a source for the images of a shard, in their order."""
    return NamedReader(source) if source.suffixes else LabelReader(source, shard)
