"""Masks of what is foreground, as PNG files beside the images."""

from collections.abc import Iterable

import cv2
import numpy as np

from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Sample
from c2am_dist.method import boxes, cues, images


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``masks`` (8-bit grayscale PNG of class ids, 0 and 1) and ``images``.

    Raises:
        ValueError: a label has no activation map.
    """
    for sample in samples:
        if sample.picture is not None:
            folder.put(f"images/{sample.file_name}", sample.picture.data)
        folder.put(f"masks/{sample.name}.png", cv2.imencode(".png", mask(sample))[1].tobytes())


def mask(sample: Sample) -> np.ndarray:
    """1 where the map is above the threshold and inside a kept box, else 0; uint8, h w.

    The map is stretched as for boxes, then enlarged to the image's size.

    Raises:
        ValueError: the label has no activation map, or none that can be read.
    """
    if sample.activation_map is None or sample.threshold is None:
        raise ValueError(
            f"{sample.image_id!r}: no activation map is stored in the labels: label with "
            "--write-maps map"
        )
    inside = np.zeros(sample.size, np.uint8)
    if not sample.boxes:
        return inside
    try:
        stretched = boxes.to_protocol(images.decode_png16(sample.activation_map))
    except ValueError as error:
        raise ValueError(f"{sample.image_id!r}: {error}") from error
    for box in sample.boxes:
        inside[box.y0 : box.y1, box.x0 : box.x1] = 1
    return inside & (cues.enlarge(stretched, sample.size) > sample.threshold).astype(np.uint8)
