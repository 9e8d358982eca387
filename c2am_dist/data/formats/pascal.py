"""The XML of PASCAL VOC, which ImageNet uses too."""

import xml.etree.ElementTree as ElementTree

from c2am_dist.data.formats.items import Boxes, Edges


def parse_xml(data: bytes, *, first_pixel: int) -> Boxes:
    """The boxes of an annotation, in the frame of the size it states.

    Corners in the wrong order, which some of ImageNet's are, are put right. Objects marked
    difficult, truncated or occluded count like others; boxes of an object's parts do not.

    Args:
        data: The file.
        first_pixel: What the annotation calls the first column and row, its boxes including
            the last ones: 1 for VOC and labelImg. With 0 xmin to xmax are taken as edges.

    Raises:
        ValueError: not XML, or an object without box or with one that is not numbers.
    """
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    objects = root.findall("object")
    edges = tuple(_edges(element, first_pixel) for element in objects)
    labels = tuple((element.findtext("name") or "").strip() or None for element in objects)
    size = [float(root.findtext(f"size/{side}") or 0) for side in ("width", "height")]
    return Boxes(edges, labels, (size[0], size[1]) if min(size) > 0 else None)


def _edges(element: ElementTree.Element, first_pixel: int) -> Edges:
    try:
        x0, y0, x1, y1 = (
            float(element.findtext(f"bndbox/{name}") or "")
            for name in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        name = element.findtext("name")
        raise ValueError(f"object {name!r} has no box of four numbers") from error
    return (
        min(x0, x1) - first_pixel,
        min(y0, y1) - first_pixel,
        max(x0, x1),
        max(y0, y1),
    )
