"""The background cues of training images: label sets joined to shards, file by file.

A label file holds one row for each row of its shard, in the same order, so the driver pairs files
and reads footers alone. Cues are read with their images, window by window, and each row's image_id
is compared then. Images without a cue, such as those with an error, are trained on and teach
nothing.
"""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from c2am_dist import schema, storage
from c2am_dist.data import label_set, shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.shards import RowGroup

_COLUMNS = ("image_id", "background_cue")
_READERS = 16
"""Footers read at once: mostly latency, over a network."""


class CueFile(NamedTuple):
    """The label file of a shard."""

    groups: tuple[RowGroup, ...]
    """Its row groups; they need not be the shard's."""
    starts: Mapping[int, int]
    """Index of each of the shard's row groups -> its first row in the shard."""

    @property
    def uri(self) -> str:
        return self.groups[0].uri

    def read(self, start: int, end: int) -> pa.Table:
        """Ids and cues of rows ``start`` to ``end`` - 1, of the row groups that hold them."""
        tables, first = [], 0
        for group in self.groups:
            own = np.arange(max(start - first, 0), min(end - first, group.num_rows))
            if len(own):
                tables.append(shards.read(group, _COLUMNS, schema.LABELS, rows=own))
            first += group.num_rows
        return pa.concat_tables(tables)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CueSets:
    """Where the cue of every image lies."""

    files: Mapping[str, CueFile]
    """By URI of the shard."""
    sha256: str
    """Of the label files' own digests."""
    num_images: int
    """Images of the shards that have a cue."""
    num_missing: int
    """Those that have none."""

    def __str__(self) -> str:
        text = f"data.cues: {self.num_images} images have a cue"
        if self.num_missing:
            text += f"; {self.num_missing} have none and teach nothing"
        return text

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """The rows of a shard's row group, with a column ``background_cue`` beside.

        Args:
            group: of one of the shards.
            columns: of the shard, ``image_id`` among them.

        Raises:
            ValueError: the label file's rows are of other images; names both files.
        """
        table, file = shards.read(group, columns), self.files[group.uri]
        start = file.starts[group.index]
        labels = file.read(start, start + len(table))
        ours, theirs = table["image_id"].to_pylist(), labels["image_id"].to_pylist()
        for row, (our, their) in enumerate(zip(ours, theirs, strict=True), start):
            if our != their:
                raise ValueError(
                    f"data.cues: {file.uri}: row {row} is of image {their!r}, "
                    f"in {group.uri} it is {our!r}"
                )
        return table.append_column("background_cue", labels["background_cue"])


class _Candidate(NamedTuple):
    """A label file and what it says of itself."""

    listed: LabelFile
    groups: tuple[RowGroup, ...]

    @property
    def uri(self) -> str:
        return self.groups[0].uri


def join(row_groups: Sequence[RowGroup], uris: Sequence[str]) -> CueSets:
    """Finds the label file of every shard: reads lists of files, footers, and each file's first id.

    A label file is a shard's when its name below its folder ends the shard's path, the longest
    name first, and both begin with the same image.

    Args:
        row_groups: whole ones, of all shards.
        uris: folders of label sets with cues.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a URI is not the folder of a finished label set, or one without cues or of
            other shards; or a shard has no label file of as many rows, or two. Names the URI.
    """
    own = defaultdict[str, list[RowGroup]](list)
    for group in row_groups:
        own[group.uri].append(group)
    by_set = {uri: _candidates(uri) for uri in uris}
    num_nulls: dict[str, int] = {}
    for uri, found in by_set.items():
        num_nulls |= _count_nulls(uri, found)
    by_name = defaultdict[str, list[_Candidate]](list)
    for found in by_set.values():
        for candidate in found:
            by_name[storage.name(candidate.uri)].append(candidate)
    with ThreadPoolExecutor(_READERS) as pool:
        paired = list(pool.map(lambda groups: _find(groups, by_name, uris), own.values()))
    _refuse_others(by_set, paired)
    num_missing = sum(num_nulls[candidate.uri] for candidate in paired)
    digests = "".join(f"{candidate.listed.sha256}\n" for candidate in paired)
    return CueSets(
        files={
            uri: CueFile(candidate.groups, _starts(groups))
            for (uri, groups), candidate in zip(own.items(), paired, strict=True)
        },
        sha256=hashlib.sha256(digests.encode()).hexdigest(),
        num_images=sum(group.num_rows for group in row_groups) - num_missing,
        num_missing=num_missing,
    )


def _candidates(uri: str) -> list[_Candidate]:
    """The label files of a set that hold rows."""
    files = label_set.expand([uri], flag="")
    listed = label_set.sealed(uri)
    if listed is None:
        raise ValueError(f"data.cues: {uri}: not the folder of a label set, which has a _SUCCESS")
    groups = defaultdict[str, list[RowGroup]](list)
    for group in shards.index(
        [file.uri for file in files], columns=_COLUMNS, expected=schema.LABELS
    ):
        groups[group.uri].append(group)
    root = storage.absolute(uri)
    by_uri = {storage.join(root, file.name): file for file in listed}
    return [_Candidate(by_uri[file], tuple(found)) for file, found in groups.items()]


def _count_nulls(uri: str, candidates: Sequence[_Candidate]) -> dict[str, int]:
    """Rows without a cue, by file; raises ValueError naming the set where all are."""
    files = [candidate.uri for candidate in candidates]
    with ThreadPoolExecutor(_READERS) as pool:
        numbers = list(
            pool.map(lambda file: shards.count_nulls(file, _COLUMNS[1], schema.LABELS), files)
        )
    if sum(numbers) == sum(candidate.listed.num_rows for candidate in candidates):
        raise ValueError(
            f"data.cues: {uri}: no image has a background cue; label them with --write-cues"
        )
    return dict(zip(files, numbers, strict=True))


def _find(
    groups: Sequence[RowGroup], by_name: Mapping[str, Sequence[_Candidate]], uris: Sequence[str]
) -> _Candidate:
    """The one label file of a shard; raises ValueError naming it where there is no such.

    Args:
        groups: of the shard.
        by_name: file name -> the label files so called: looking at all would be quadratic.
        uris: of the label sets, for messages.
    """
    shard = groups[0].uri
    path = f"/{shard}" if shard.endswith(".parquet") else f"/{shard}.parquet"
    named = [c for c in by_name.get(storage.name(path), ()) if path.endswith(f"/{c.listed.name}")]
    if not named:
        raise ValueError(f"data.cues: {shard}: no label file of that name in {', '.join(uris)}")
    first = _first_id(groups[0])
    found = [c for c in named if _first_id(c.groups[0], schema.LABELS) == first]
    longest = max((len(c.listed.name) for c in found), default=0)
    found = [c for c in found if len(c.listed.name) == longest]
    if not found:
        raise ValueError(
            f"data.cues: {named[0].uri}: does not begin with image {first!r}, as {shard}"
        )
    if len(found) > 1:
        both = " and ".join(c.uri for c in found[:2])
        raise ValueError(f"data.cues: {both}: both label {shard}")
    num_ours, num_theirs = (sum(g.num_rows for g in each) for each in (groups, found[0].groups))
    if num_ours != num_theirs:
        raise ValueError(
            f"data.cues: {found[0].uri}: {num_theirs} rows, and {shard} has {num_ours}"
        )
    return found[0]


def _first_id(group: RowGroup, expected: pa.Schema = schema.SHARD) -> str:
    return shards.read(group, ["image_id"], expected)["image_id"][0].as_py()


def _refuse_others(by_set: Mapping[str, Sequence[_Candidate]], paired: list[_Candidate]) -> None:
    """Raises ValueError naming a label set none of whose files are of a shard."""
    used = {candidate.uri for candidate in paired}
    for uri, candidates in by_set.items():
        if not any(candidate.uri in used for candidate in candidates):
            raise ValueError(f"data.cues: {uri}: none of its files are of shards in data.train")


def _starts(groups: Sequence[RowGroup]) -> dict[int, int]:
    ends = np.cumsum([group.num_rows for group in groups]).tolist()
    return {group.index: end - group.num_rows for group, end in zip(groups, ends, strict=True)}
