"""PASCAL VOC: an XML file an image, the images, and the list of both."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Box, Sample


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``Annotations``, ``JPEGImages`` and ``ImageSets/Main/SPLIT.txt``.

    VOC counts pixels from 1 and includes the last: a half-open box x0 y0 x1 y1 becomes x0 + 1,
    y0 + 1, x1, y1, exactly. An image without boxes has an XML without objects.
    """
    with folder.create(f"ImageSets/Main/{config.split}.txt") as names:
        for sample in samples:
            if sample.picture is not None:
                folder.put(f"JPEGImages/{sample.file_name}", sample.picture.data)
            folder.put(f"Annotations/{sample.name}.xml", _xml(sample, config.category_name))
            names.write(f"{sample.name}\n".encode())


def _xml(sample: Sample, category: str) -> bytes:
    root = ElementTree.Element("annotation")
    _texts(root, {"folder": "JPEGImages", "filename": sample.file_name})
    source = ElementTree.SubElement(root, "source")
    origin = f"pseudo boxes of c2am-dist {__version__}"
    _texts(source, {"database": origin, "annotation": f"checkpoint {sample.checkpoint_sha256}"})
    size = ElementTree.SubElement(root, "size")
    _texts(size, {"width": sample.size[1], "height": sample.size[0], "depth": 3})
    _texts(root, {"segmented": 0})
    for box in sample.boxes:
        found = ElementTree.SubElement(root, "object")
        fields = {"name": category, "pose": "Unspecified", "truncated": 0, "difficult": 0}
        _texts(found, fields)
        _texts(ElementTree.SubElement(found, "bndbox"), _inclusive(box))
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _texts(parent: ElementTree.Element, texts: Mapping[str, str | int]) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def _inclusive(box: Box) -> dict[str, int]:
    return {"xmin": box.x0 + 1, "ymin": box.y0 + 1, "xmax": box.x1, "ymax": box.y1}
