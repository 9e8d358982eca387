"""Label maps by name or from a file (stand-in)."""

from c2am_dist import storage
from c2am_dist.method.label_maps import COCO, VOC, LabelMap


def read(spec: str) -> LabelMap:
    """The label map that a flag names: ``voc``, ``coco``, or URI of a text file."""
    if spec in ("voc", "coco"):
        return {"voc": VOC, "coco": COCO}[spec]
    names = storage.read_bytes(spec).decode().split("\n")
    names = ["background", *[name.strip() for name in names if name.strip()]]
    return LabelMap(names=tuple(names), published_ids=tuple(range(len(names))))
