"""Sets of pseudo masks: told apart from other label sets, and what their ids mean."""

import json
from collections.abc import Mapping, Sequence

from c2am_dist import schema
from c2am_dist.data import shards
from c2am_dist.method.confusion import IGNORED
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.storage import File

NAMES, PUBLISHED_IDS = "c2am_dist.label_map", "c2am_dist.published_ids"
"""Metadata of a file of pseudo masks: names of ids 0 to K, and the data set's own ids."""


def holds_masks(files: Sequence[File]) -> bool:
    """Whether label files are of pseudo masks (schema.PSEUDO_MASKS): the first one tells."""
    return bool(files) and "pseudo_mask" in shards.read_schema(files[0].uri).names


def read_label_map(files: Sequence[File]) -> LabelMap:
    """What the ids of pseudo masks mean, as the metadata of their files say.

    Raises:
        ValueError: a file is not of pseudo masks, does not say it, or says something else than
            the first one; names it.
    """
    found = None
    for file in files:
        label_map = _of_file(file.uri)
        if found is not None and label_map != found:
            raise ValueError(f"{file.uri}: its ids mean something else than in {files[0].uri}")
        found = label_map
    if found is None:
        raise ValueError("there is no file of pseudo masks")
    return found


def _of_file(uri: str) -> LabelMap:
    arrow_schema = shards.read_schema(uri)
    shards.check_columns(uri, arrow_schema, ["pseudo_mask"], schema.PSEUDO_MASKS)
    return of_metadata(uri, arrow_schema.metadata or {})


def to_metadata(label_map: LabelMap) -> dict[str, str]:
    """What a file of pseudo masks says of its ids."""
    return {
        NAMES: json.dumps(label_map.names),
        PUBLISHED_IDS: json.dumps(label_map.published_ids),
    }


def of_metadata(uri: str, metadata: Mapping[bytes, bytes]) -> LabelMap:
    """What the ids of a file of pseudo masks mean; the URI is for messages.

    Raises:
        ValueError: the metadata do not say it, or not as :func:`to_metadata` does; names the file.
    """
    try:
        names = json.loads(metadata[NAMES.encode()])
        published_ids = json.loads(metadata[PUBLISHED_IDS.encode()])
        return _checked(names, published_ids)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: no label map in its metadata ({error})") from error


def _checked(names: object, published_ids: object) -> LabelMap:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no list of texts")
    if not all(name.strip() and name.isprintable() for name in names):
        raise ValueError("a name is empty or no printable text")
    if not isinstance(published_ids, list) or len(published_ids) != len(names):
        raise ValueError(f"it needs {len(names)} published ids")
    # JSON's true would pass for 1.
    if not all(type(each) is int and 0 <= each < IGNORED for each in published_ids):
        raise ValueError(f"published ids must be 0 to {IGNORED - 1}")
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise ValueError(f"it must name the background and up to {IGNORED - 1} classes, each once")
    if len(set(published_ids)) < len(published_ids):
        raise ValueError("a published id comes twice")
    return LabelMap(names=tuple(names), published_ids=tuple(published_ids))
