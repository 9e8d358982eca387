"""The first pseudo box of each training image: label sets joined to shards by image_id.

The driver joins before training. It holds ids, boxes and Arrow's tables of hashes, some 600 bytes
an image at most (docs/architecture.md), and keeps 28 bytes for each image that is trained on.
Neither encoded images nor maps are read.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c2am_dist import schema
from c2am_dist.data import label_set, shards
from c2am_dist.data.shards import RowGroup

_LABEL_COLUMNS = ("image_id", "width", "height", "pseudo_boxes", "error")
_READERS = 16
"""Files read at once: mostly latency, over a network."""
REASONS = ("no label row", "an error instead of labels", "no box", "a box without area")
"""Why images are left out."""
_MISSING, _ERROR, _NO_BOX, _NO_AREA, _USABLE = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PseudoBoxes:
    """Of every image that has one, in the order of the row groups they lie in."""

    rows: np.ndarray
    """int32, n: its row in its row group."""
    boxes: np.ndarray
    """int32, n 4: half-open x0 y0 x1 y1 in pixels of the stored image, clipped to it."""
    sizes: np.ndarray
    """int32, n 2: height and width of the stored image."""

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """The group's rows that have a box, with columns ``box`` and ``size`` beside."""
        assert group.first_box is not None
        own = slice(group.first_box, group.first_box + group.num_rows)
        table = shards.read(group, columns, rows=self.rows[own])
        for name, values in (("box", self.boxes[own]), ("size", self.sizes[own])):
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            table = table.append_column(name, column)
        return table

    def sha256(self) -> str:
        """Changes with any box, and with which images have one."""
        digest = hashlib.sha256()
        for array in (self.rows, self.boxes, self.sizes):
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """The row groups of images with a box, and the boxes."""

    row_groups: list[RowGroup]
    boxes: PseudoBoxes
    left_out: dict[str, int]
    """Reason -> images of the shards without a usable box."""
    num_extra: int
    """Label rows of images that the shards do not hold."""

    def __str__(self) -> str:
        reasons = [f"{number} with {reason}" for reason, number in self.left_out.items() if number]
        text = f"data.boxes: {len(self.boxes.rows)} images have a box"
        if reasons:
            text += f"; left out: {', '.join(reasons)}"
        if self.num_extra:
            text += f"; {self.num_extra} label rows are of images not in data.train"
        return text


def join(row_groups: Sequence[RowGroup], uris: Sequence[str]) -> Joined:
    """The first pseudo box of every image; which images are left out depends on nothing else.

    Args:
        row_groups: whole ones, of all shards.
        uris: label sets: folders, files and globs.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a label set is unfinished, has no boxes, is of other images, or labels an
            image twice or at another size; or no image has a usable box. Names the URI.
    """
    labels, ends = _read_labels(uris)
    images = _read_images(row_groups)
    places = pc.index_in(images["image_id"], value_set=labels["image_id"])  # type: ignore
    is_known = places.is_valid().to_numpy()
    known = places.drop_null().to_numpy()
    _refuse_others(known, ends)
    _refuse_other_sizes(images.filter(pa.array(is_known)), labels, known, ends)
    status = np.full(len(images), _MISSING, np.int8)
    status[is_known] = labels["status"].to_numpy()[known]
    left_out = {REASONS[i]: int((status == i).sum()) for i in range(_USABLE)}
    if not (status == _USABLE).any():
        found = ", ".join(f"{number} with {reason}" for reason, number in left_out.items())
        raise ValueError(f"data.boxes: {', '.join(uris)}: no image has a usable box ({found})")
    columns = [labels[name].to_numpy()[known] for name in (*_EDGES, *_SIZE)]
    numbers = np.stack(columns, axis=1)[status[is_known] == _USABLE]
    groups, rows = _restrict(row_groups, status == _USABLE)
    boxes = PseudoBoxes(rows=rows, boxes=numbers[:, :4].copy(), sizes=numbers[:, 4:].copy())
    num_extra = len(labels) - len(np.unique(known))
    return Joined(row_groups=groups, boxes=boxes, left_out=left_out, num_extra=num_extra)


_EDGES, _SIZE = ("x0", "y0", "x1", "y1"), ("height", "width")


def _read_labels(uris: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
    """One row a label: its id, first box, size and status; and where each URI's rows end."""
    tables, ends, num_rows = [], dict[str, int](), 0
    for uri in uris:
        files = [file.uri for file in label_set.expand([uri], flag="")]
        groups = shards.index(files, columns=_LABEL_COLUMNS, expected=schema.LABELS)
        with ThreadPoolExecutor(_READERS) as pool:
            tables += list(pool.map(_first_boxes, groups))
        num_rows += sum(group.num_rows for group in groups)
        ends[uri] = num_rows
    labels = pa.concat_tables(tables)
    shards.refuse_duplicates(labels["image_id"], f"data.boxes: {', '.join(uris)}")
    return labels, ends


def _first_boxes(group: RowGroup) -> pa.Table:
    table = shards.read(group, _LABEL_COLUMNS, schema.LABELS).combine_chunks()
    lists = table["pseudo_boxes"].combine_chunks()
    num_boxes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()  # type: ignore
    has_box = num_boxes > 0
    first = lists.offsets.to_numpy()[:-1][has_box] if len(lists) else np.empty(0, np.int32)
    size = {name: pc.fill_null(table[name], 0).to_numpy() for name in _SIZE}
    box = {name: np.zeros(len(table), np.int32) for name in _EDGES}
    for name, limit in (("x0", "width"), ("y0", "height"), ("x1", "width"), ("y1", "height")):
        edges = lists.values.field(name).to_numpy()[first]
        box[name][has_box] = np.clip(edges, 0, size[limit][has_box])
    has_area = (box["x1"] > box["x0"]) & (box["y1"] > box["y0"])
    status = np.where(has_area, _USABLE, _NO_AREA)
    status = np.where(has_box, status, _NO_BOX)
    status = np.where(table["error"].is_valid().to_numpy(), _ERROR, status).astype(np.int8)
    return pa.table({"image_id": table["image_id"], **box, **size, "status": status})


def _read_images(row_groups: Sequence[RowGroup]) -> pa.Table:
    """The ids of all images of the shards, in order, and their sizes, null where unknown."""
    with ThreadPoolExecutor(_READERS) as pool:
        return pa.concat_tables(pool.map(_read_ids, dict.fromkeys(g.uri for g in row_groups)))


def _read_ids(uri: str) -> pa.Table:
    names = shards.read_schema(uri).names
    columns = ["image_id", *(name for name in _SIZE if name in names)]
    table = shards.read_whole(uri, columns)
    for name in _SIZE:
        if name not in columns:
            table = table.append_column(name, pa.nulls(len(table), pa.int32()))
    return table.cast(_IDS)


_IDS = pa.schema([("image_id", pa.string()), ("height", pa.int32()), ("width", pa.int32())])


def _refuse_others(known: np.ndarray, ends: dict[str, int]) -> None:
    """Raises ValueError naming a label set none of whose images are in the shards."""
    numbers = np.bincount(_uri_of(known, ends), minlength=len(ends))
    start = 0
    for (uri, end), number in zip(ends.items(), numbers, strict=True):
        if not number:
            raise ValueError(
                f"data.boxes: {uri}: none of its {end - start} images are in data.train"
            )
        start = end


def _refuse_other_sizes(
    images: pa.Table, labels: pa.Table, known: np.ndarray, ends: dict[str, int]
) -> None:
    for name in _SIZE:
        ours, theirs = images[name], labels[name].take(pa.array(known))
        differs = pc.fill_null(pc.and_(pc.not_equal(ours, theirs), pc.greater(theirs, 0)), False)  # type: ignore
        at = pc.index(differs, True).as_py()  # type: ignore
        if at >= 0:
            uri = list(ends)[_uri_of(known[at : at + 1], ends)[0]]
            raise ValueError(
                f"data.boxes: {uri}: {images['image_id'][at].as_py()!r} has {name} "
                f"{theirs[at].as_py()} there and {ours[at].as_py()} in data.train"
            )


def _uri_of(places: np.ndarray, ends: dict[str, int]) -> np.ndarray:
    """Which URI each label row came from."""
    return np.searchsorted(np.array(list(ends.values())), places, side="right")


def _restrict(
    row_groups: Sequence[RowGroup], is_usable: np.ndarray
) -> tuple[list[RowGroup], np.ndarray]:
    """The row groups that hold usable rows, and those rows' places in them."""
    restricted, rows, start, num_before = [], [], 0, 0
    for group in row_groups:
        own = np.flatnonzero(is_usable[start : start + group.num_rows]).astype(np.int32)
        start += group.num_rows
        if len(own):
            changes = {"num_rows": len(own), "first_box": num_before}
            restricted.append(dataclasses.replace(group, **changes))
            rows.append(own)
            num_before += len(own)
    return restricted, np.concatenate(rows)
