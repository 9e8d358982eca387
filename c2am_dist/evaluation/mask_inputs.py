"""Masks and annotated masks: listed and joined by image_id on the driver, read in tasks.

Of either side the driver holds ids and where each mask lies; nothing is decoded here.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c2am_dist import names, schema, storage
from c2am_dist.data import label_set, mask_sets, named_files, shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.evaluation import inputs

UNIT_IMAGES = 256
"""Images scored by one task: some seconds' work."""
_AT_ONCE = 16
NO_METHOD = "masks"
"""What masks are called whose files do not say which method made them."""

_KINDS = {"pseudo_mask": schema.PSEUDO_MASKS, "background_cue": schema.LABELS}
"""What can be scored -> what files with this column are."""


class Place(NamedTuple):
    """Where an encoded mask lies."""

    uri: str
    row_group: int
    """Of a Parquet file; -1 for a PNG file."""
    row: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MaskSet:
    """The masks of some images before they are read."""

    uris: tuple[str, ...]
    """As they were given."""
    ids: pa.ChunkedArray
    """image_id; of PNG files their paths without extension."""
    files: list[str]
    """Parquet files, or a PNG file for each id."""
    index: np.ndarray
    """int32, n 3: file, row group and row of each id; row groups of PNG files are -1."""
    column: str
    """Of Parquet files; empty for PNG files."""
    method: str = NO_METHOD
    label_names: tuple[str, ...] | None = None
    """What the ids mean, where the files say so."""

    @property
    def is_cue(self) -> bool:
        return self.column == "background_cue"

    def place(self, number: int) -> Place:
        """Where the mask of the ``number``-th id lies."""
        file, row_group, row = self.index[number].tolist()
        return Place(self.files[file], row_group, row)


def read_masks(uris: Sequence[str], *, allow_incomplete: bool) -> MaskSet:
    """Pseudo masks, background cues of label sets, or PNG files.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a set is unfinished, a file has neither masks nor cues, files are of several
            methods or label maps, or an id comes twice; the message names it.
    """
    named = named_files.find(uris, ".png")
    if named is not None:
        return _of_files(uris, named)
    files = [f.uri for f in label_set.expand(uris, allow_incomplete=allow_incomplete)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # mostly latency, over a network
        origins = list(pool.map(_origin, files))
    for uri, origin in zip(files, origins, strict=True):
        if origin != origins[0]:
            raise ValueError(
                f"{uri}: {origin.what()}, but {files[0]} is of {origins[0].what()}: evaluate one "
                "after the other"
            )
    column, method, label_names = origins[0]
    ids, index = _index(files, column, _KINDS[column])
    return _checked(
        MaskSet(
            uris=tuple(uris),
            ids=ids,
            files=files,
            index=index,
            column=column,
            method=method,
            label_names=label_names,
        )
    )


def read_annotations(uris: Sequence[str]) -> MaskSet:
    """Annotated masks: of shards, or PNG files; raises as :func:`read_masks`."""
    named = named_files.find(uris, ".png")
    if named is not None:
        return _of_files(uris, named)
    files = [file.uri for file in storage.expand(uris)]
    ids, index = _index(files, "mask", schema.SHARD)
    return _checked(MaskSet(uris=tuple(uris), ids=ids, files=files, index=index, column="mask"))


class _Origin(NamedTuple):
    """What a file of masks or cues says of itself."""

    column: str
    method: str
    label_names: tuple[str, ...] | None

    def what(self) -> str:
        count = "" if self.label_names is None else f" with {len(self.label_names)} classes"
        return f"{self.column} of method {names.printable(self.method)}{count}"


def _origin(uri: str) -> _Origin:
    arrow_schema = shards.read_schema(uri)
    column = next((name for name in _KINDS if name in arrow_schema.names), None)
    if column is None:
        raise ValueError(f"{uri}: has neither a column 'pseudo_mask' nor 'background_cue'")
    shards.check_columns(uri, arrow_schema, ["image_id", column, "error"], _KINDS[column])
    metadata = arrow_schema.metadata or {}
    method = metadata.get(b"c2am_dist.method", NO_METHOD.encode()).decode(errors="replace")[:64]
    if column == "background_cue":
        return _Origin(column, method, None)
    if mask_sets.NAMES.encode() not in metadata:
        return _Origin(column, method, None)
    return _Origin(column, method, mask_sets.of_metadata(uri, metadata).names)


def _index(
    files: Sequence[str], column: str, expected: pa.Schema
) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The ids of all rows, and the file, row group and row of each."""
    groups = shards.index(files, columns=["image_id", column], expected=expected)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tables = list(pool.map(lambda group: shards.read(group, ["image_id"], expected), groups))
    numbers = {uri: i for i, uri in enumerate(files)}
    index = [
        np.stack(
            np.broadcast_arrays(numbers[group.uri], group.index, np.arange(group.num_rows)), axis=1
        ).astype(np.int32)
        for group in groups
    ]
    ids = pa.chunked_array([c for t in tables for c in t["image_id"].chunks], pa.string())
    return ids, np.concatenate(index)


def _of_files(uris: Sequence[str], named: named_files.NamedFiles) -> MaskSet:
    files = [file.uri for file in named.files]
    index = np.zeros((len(files), 3), np.int32)
    index[:, 0], index[:, 1] = np.arange(len(files)), -1
    ids = pa.chunked_array([pa.array(named.stems, pa.string())])
    return _checked(MaskSet(uris=tuple(uris), ids=ids, files=files, index=index, column=""))


def _checked(found: MaskSet) -> MaskSet:
    inputs.refuse_duplicates(found.ids, found.uris)
    return found


class Joined(NamedTuple):
    """Which masks are of annotated images."""

    masks: np.ndarray
    """int64: their places in the mask set, in its order or, of PNG files, the annotations',"""
    annotations: np.ndarray
    """and those of the same images in the annotations."""
    num_missing: int
    """Annotated images without a mask."""
    num_extra: int
    """Masks of images without annotation."""


def join(masks: MaskSet, annotations: MaskSet) -> Joined:
    """Joins by image_id; PNG files are called by it, or by what makes a file's name of it.

    Raises:
        ValueError: no image is in both.
    """
    ours, theirs = masks.ids, annotations.ids
    if not masks.column:
        theirs = _as_stems(theirs, ours)
    elif not annotations.column:
        ours = _as_stems(ours, theirs)
    found = inputs.places(ours, theirs)
    is_known = found.is_valid().to_numpy()
    if not is_known.any():
        raise ValueError(
            f"{', '.join(masks.uris)}: no mask, such as of {masks.ids[0].as_py()!r}, is of an "
            f"image of {', '.join(annotations.uris)}, such as {annotations.ids[0].as_py()!r}"
        )
    places, notes = np.flatnonzero(is_known), found.drop_null().to_numpy()
    if not masks.column:
        # Files are read one by one in any order, row groups of shuffled shards once each in theirs.
        order = np.lexsort(annotations.index[notes].T[::-1])
        places, notes = places[order], notes[order]
    return Joined(
        places,
        notes,
        num_missing=len(theirs) - len(places),
        num_extra=len(ours) - len(places),
    )


def _as_stems(ids: pa.ChunkedArray, stems: pa.ChunkedArray) -> pa.ChunkedArray:
    """The ids as files are called: those that are no stem, as this package would call them."""
    is_stem = pc.is_in(ids, value_set=stems).to_pylist()  # type: ignore
    return pa.chunked_array(
        [
            pa.array(
                [
                    image_id if is_there else names.file_path(image_id)
                    for image_id, is_there in zip(ids.to_pylist(), is_stem, strict=True)
                ],
                pa.string(),
            )
        ]
    )


class Encoded(NamedTuple):
    """A mask or cue before it is decoded."""

    uri: str
    data: bytes | None
    error: str | None = None
    """Of a row that has neither."""


def read_encoded(places: Sequence[Place], column: str) -> list[Encoded]:
    """What lies at each place; files are read at once, and of each row group its rows together."""
    if not column:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            data = pool.map(lambda place: storage.read_bytes(place.uri), places)
            return [Encoded(place.uri, each) for place, each in zip(places, data, strict=True)]
    columns = [column, *(["error"] if column in _KINDS else [])]
    numbers = defaultdict[tuple[str, int], list[int]](list)
    for number, place in enumerate(places):
        numbers[place.uri, place.row_group].append(number)
    found = dict[int, Encoded]()
    for (uri, index), own in numbers.items():
        rows = np.array([places[number].row for number in own])
        expected = _KINDS.get(column, schema.SHARD)
        table = shards.read(RowGroup(uri, index, 0), columns, expected, rows=rows)
        for number, row in zip(own, table.to_pylist(), strict=True):
            found[number] = Encoded(uri, row[column], row.get("error"))
    return [found[number] for number in range(len(places))]
