"""What is exported of pseudo masks: their rows and the images they are of, a sample at a time."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from c2am_dist import schema
from c2am_dist.config import ExportConfig
from c2am_dist.data.shards import RowGroup
from c2am_dist.export.pictures import Picture, Pictures
from c2am_dist.export.samples import batches, find_picture, name_of
from c2am_dist.method import images

COLUMNS = (
    "image_id",
    "shard",
    "width",
    "height",
    "pseudo_mask",
    "maps_sha256",
    "cues_sha256",
    "error",
)
FORMATS = ("voc", "coco", "masks")
_OF_BOXES = ("min_score", "max_boxes", "quantile", "category_name")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MaskSample:
    """An image with its pseudo mask, as it is exported."""

    image_id: str
    name: str
    """Path of its files, without extension."""
    mask: np.ndarray
    """Ids 0 to K, uint8, h w."""
    maps_sha256: str
    cues_sha256: str | None
    picture: Picture | None
    """None where images are not exported."""
    image_suffix: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def file_name(self) -> str:
        return self.name + self.image_suffix


def check(config: ExportConfig) -> None:
    """Raises ValueError naming a field that means nothing with masks, or the format."""
    if config.format not in FORMATS:
        raise ValueError(
            f"format: {config.format} has no pseudo masks; they are exported as "
            f"{', '.join(FORMATS)}"
        )
    usual = ExportConfig()
    for name in _OF_BOXES:
        if getattr(config, name) != getattr(usual, name):
            raise ValueError(f"{name} must be unset with pseudo masks, which have no boxes")


def stream(
    groups: Sequence[RowGroup],
    config: ExportConfig,
    num_classes: int,
    pictures: Pictures | None,
    counts: Counter[str],
) -> Iterator[MaskSample]:
    """The samples in the order of the masks; what happens to each image is counted.

    ``counts`` gets ``images`` exported, of these those ``empty`` of classes and ``rewritten``;
    and those not exported: ``errors`` and ``left_out``.

    Args:
        groups: row groups of pseudo masks.
        config: of the export.
        num_classes: of the label map, the background among them.
        pictures: the images; None where they are not exported.
        counts: see above.

    Raises:
        ValueError: a mask cannot be read, has another size than its image or an id that is not of
            the label map, the shards lack an image or have it in another size, or nothing is
            left; the message names the file and the image.
    """
    for group in groups:
        for rows in batches(group, COLUMNS, schema.PSEUDO_MASKS):
            for row in rows:
                try:
                    sample = _sample(row, config, num_classes, pictures, counts)
                except ValueError as error:
                    raise ValueError(f"{group.uri}: {row['image_id']!r}: {error}") from error
                if sample is not None:
                    counts["images"] += 1
                    counts["empty"] += not sample.mask.any()
                    yield sample
    if not counts["images"]:
        raise ValueError(f"no image is left to export ({dict(counts)})")


def _sample(
    row: dict[str, Any],
    config: ExportConfig,
    num_classes: int,
    pictures: Pictures | None,
    counts: Counter[str],
) -> MaskSample | None:
    if row["error"] is not None:
        counts["errors"] += 1
        return None
    mask = _mask(row, num_classes)
    if config.keep_empty == "none" and not mask.any():
        counts["left_out"] += 1
        return None
    picture = None
    if pictures is not None:
        picture = find_picture(row, pictures, counts)
        if picture is None:
            return None
    return MaskSample(
        image_id=row["image_id"],
        name=name_of(row["image_id"], config),
        mask=mask,
        maps_sha256=row["maps_sha256"],
        cues_sha256=row["cues_sha256"],
        picture=picture,
        image_suffix=config.image_suffix if picture is None else picture.suffix,
    )


def _mask(row: dict[str, Any], num_classes: int) -> np.ndarray:
    if row["pseudo_mask"] is None:
        raise ValueError("a row without error must have a pseudo_mask")
    mask = images.decode_mask(row["pseudo_mask"])
    size = (row["height"], row["width"])
    if mask.shape != size:
        raise ValueError(f"its mask is {mask.shape[1]}x{mask.shape[0]} px, not {size[1]}x{size[0]}")
    if mask.max() >= num_classes:
        raise ValueError(f"its mask holds {mask.max()}, which is none of {num_classes} ids")
    return mask
