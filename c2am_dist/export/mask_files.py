"""Pseudo masks as PNG files beside the images: VOC's layout, and a plain folder."""

from collections.abc import Iterable

from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.mask_samples import MaskSample
from c2am_dist.method.label_maps import LabelMap, encode_mask


def write_voc(
    samples: Iterable[MaskSample], folder: Folder, config: ExportConfig, label_map: LabelMap
) -> None:
    """Writes VOC's layout, and ``classes.txt``, a class a line from id 1 on, as prepare reads it.

    That is ``SegmentationClass`` (PNG of ids in VOC's colours), ``JPEGImages`` and
    ``ImageSets/Segmentation/SPLIT.txt``.
    """
    with folder.create(f"ImageSets/Segmentation/{config.split}.txt") as names:
        for sample in samples:
            _put(sample, folder, "JPEGImages", "SegmentationClass")
            names.write(f"{sample.name}\n".encode())
    _put_label_map(folder, "classes.txt", label_map)


def write_folder(
    samples: Iterable[MaskSample], folder: Folder, config: ExportConfig, label_map: LabelMap
) -> None:
    """Writes ``masks`` (PNG of ids in VOC's colours), ``images`` and ``label_map.txt``."""
    for sample in samples:
        _put(sample, folder, "images", "masks")
    _put_label_map(folder, "label_map.txt", label_map)


def _put(sample: MaskSample, folder: Folder, image_folder: str, mask_folder: str) -> None:
    if sample.picture is not None:
        folder.put(f"{image_folder}/{sample.file_name}", sample.picture.data)
    folder.put(f"{mask_folder}/{sample.name}.png", encode_mask(sample.mask))


def _put_label_map(folder: Folder, path: str, label_map: LabelMap) -> None:
    folder.put(path, "".join(f"{name}\n" for name in label_map.names[1:]).encode())
