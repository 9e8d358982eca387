"""Predictions of a classifier: checked and joined to annotations on the driver.

Of each image it keeps only where its class stands among those predicted, a byte.
"""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from c2am_dist import schema, storage
from c2am_dist.data import label_set, shards
from c2am_dist.evaluation import inputs
from c2am_dist.evaluation.hits import TOP
from c2am_dist.evaluation.inputs import Annotations
from c2am_dist.evaluation.outcomes import FAILED, WRONG

_COLUMNS = ("image_id", "classes", "error")
_MAX_RANK = 127
"""Of an int8; further down the list it is all the same."""

logger = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """Rows of predictions with classes as places among the annotated ones, -1 if not there."""

    ids: pa.ChunkedArray
    num_classes: np.ndarray
    class_indices: np.ndarray
    """Of all rows, one after the other."""
    is_failed: np.ndarray


def join(
    uris: Sequence[str], annotations: Annotations, *, allow_incomplete: bool
) -> tuple[Annotations, pa.ChunkedArray]:
    """The annotations with the class ranks that predictions give them; and the predictions' ids.

    ``class_rank`` is how many classes were predicted before an image's own, or
    `outcomes.WRONG` where it is not among them, or `outcomes.FAILED` where the row has an
    error; null where there is no row.

    Args:
        uris: prediction files.
        annotations: read with classes.
        allow_incomplete: as of :func:`label_set.expand`.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a column is missing or of another type, an id comes twice, a row has
            neither classes nor error, no row is of an annotated image, or no class is an
            annotated one; the message names the file, and the column or the id.
    """
    names = ", ".join(uris)
    files = [file.uri for file in label_set.expand(uris, allow_incomplete=allow_incomplete)]
    with ThreadPoolExecutor(16) as pool:  # mostly latency, over a network
        read = list(pool.map(lambda uri: _read(uri, annotations.classes), files))
    ids = pa.chunked_array([chunk for rows in read for chunk in rows.ids.chunks], pa.string())
    if len(ids) == 0:
        raise ValueError(f"{names}: the prediction files hold no row")
    inputs.refuse_duplicates(ids, uris)
    found = inputs.places(ids, annotations.table["image_id"])
    if found.null_count == len(found):
        raise ValueError(
            f"{names}: none of {len(ids)} predictions, such as of {ids[0].as_py()!r}, is of an "
            "annotated image: they are of another set"
        )
    class_indices = np.concatenate([rows.class_indices for rows in read])
    if len(class_indices) and (class_indices < 0).all():
        raise ValueError(
            f"{names}: column 'classes' holds no label of the annotations, such as "
            f"{annotations.classes[:1]}: their classes are called otherwise"
        )
    _warn_of_short_lists(names, read, len(annotations.classes))
    ranks = _ranks(read, class_indices, found, annotations)
    index = annotations.table.column_names.index("class_rank")
    table = annotations.table.set_column(index, "class_rank", ranks)
    return dataclasses.replace(annotations, table=table), ids


def _warn_of_short_lists(names: str, read: Sequence[_Rows], num_classes: int) -> None:
    listed = np.concatenate([rows.num_classes[~rows.is_failed] for rows in read])
    if len(listed) and listed.min() < min(TOP[-1], num_classes):
        logger.warning(
            "%s: some rows list %d of at least %d classes, so Top-%d is what they list",
            *(names, listed.min(), num_classes, TOP[-1]),
        )


@storage.retrying
def _read(uri: str, known: Sequence[str]) -> _Rows:
    shards.check_columns(uri, shards.read_schema(uri), _COLUMNS, schema.PREDICTIONS)
    with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
        table = file.read(columns=list(_COLUMNS))
    table = shards.conform(uri, table, _COLUMNS, schema.PREDICTIONS).combine_chunks()
    is_failed = table["error"].is_valid()
    lacks = pc.and_not(table["classes"].is_null(), is_failed)  # type: ignore
    if pc.any(lacks).as_py():  # type: ignore
        image_id = table.filter(lacks)["image_id"][0].as_py()
        raise ValueError(f"{uri}: image {image_id!r} has neither classes nor error")
    lists = table["classes"].combine_chunks()
    indices = pc.index_in(lists.flatten(), value_set=pa.array(known, pa.string()))  # type: ignore
    return _Rows(
        ids=table["image_id"],
        num_classes=pc.list_value_length(lists).fill_null(0).to_numpy(),  # type: ignore
        class_indices=indices.fill_null(-1).to_numpy(),
        is_failed=is_failed.to_numpy(),
    )


def _ranks(
    read: Sequence[_Rows],
    class_indices: np.ndarray,
    found: pa.ChunkedArray,
    annotations: Annotations,
) -> pa.Array:
    """``class_rank`` of the annotations, whose places the predictions' ids have been found at."""
    num_classes = np.concatenate([rows.num_classes for rows in read])
    row_of = np.repeat(np.arange(len(num_classes)), num_classes)
    rank_of = np.arange(len(row_of)) - np.repeat(np.cumsum(num_classes) - num_classes, num_classes)
    places = found.fill_null(-1).to_numpy()
    own = annotations.table["class_index"].fill_null(-2).to_numpy()[places]
    right = np.flatnonzero(class_indices == own[row_of])[::-1]  # of several the first is kept
    ranks = np.full(len(places), WRONG, np.int8)
    ranks[row_of[right]] = np.minimum(rank_of[right], _MAX_RANK)
    ranks[np.concatenate([rows.is_failed for rows in read])] = FAILED
    of_images = np.zeros(len(annotations.table), np.int8)
    is_unknown = np.ones(len(of_images), bool)
    of_images[places[places >= 0]] = ranks[places >= 0]
    is_unknown[places[places >= 0]] = False
    return pa.array(of_images, mask=is_unknown)
