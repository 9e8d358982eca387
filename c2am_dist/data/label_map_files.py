"""Label maps by name or from a file, as flags name them."""

import pyarrow.fs as pafs

from c2am_dist import storage
from c2am_dist.method.label_maps import COCO, VOC, LabelMap, from_names

_PUBLISHED = {"voc": VOC, "coco": COCO}
_MAX_BYTES = 2**20
"""More than 254 names need."""


def read(spec: str) -> LabelMap:
    """The label map called ``voc`` or ``coco``, or that of a text file.

    Args:
        spec: The name, or URI of a text file (UTF-8): a class a line, line n the class of id n.
            ``./voc`` is a file of that name.

    Raises:
        FileNotFoundError: there is no such file; the message names it, and the names there are.
        ValueError: not a list of classes; the message names the file and the line.
    """
    if spec in _PUBLISHED:
        return _PUBLISHED[spec]
    found = storage.info(spec)
    if found.type != pafs.FileType.File:
        raise FileNotFoundError(f"{spec}: no such file, and no label map (voc, coco) of that name")
    if (found.size or 0) > _MAX_BYTES:
        raise ValueError(f"{spec}: {found.size} bytes, too many for a list of classes")
    try:
        return from_names(storage.read_bytes(spec).decode("utf-8-sig").splitlines())
    except ValueError as error:  # a line of it, or not UTF-8
        raise ValueError(f"{spec}: not a label map: {error}") from error
