"""The image files of an export: found in the shards, and such that all readers see the same."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import pyarrow as pa
import simplejpeg

from c2am_dist import storage
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import images

_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
_JPEG_QUALITY = 95


class Picture(NamedTuple):
    """An image file."""

    data: bytes
    suffix: str
    """``.jpg`` or ``.png``."""
    is_rewritten: bool
    """Whether its bytes are other ones than the shard's."""


def upright(data: bytes) -> Picture:
    """The file as it is where it is an upright JPEG or PNG; else written anew as one.

    Many tools that read images do not turn them as EXIF says, and boxes are those of the
    upright image. A turned JPEG stays a JPEG (quality 95, no chroma subsampling); everything
    else becomes a PNG of the same pixels, since not all tools read WebP, TIFF or GIF.

    Raises:
        ImageError: it has to be written anew and cannot be decoded.
    """
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), None)
    if suffix is not None and not images.is_turned(data):
        return Picture(data, suffix, False)
    pixels = images.decode(data)
    if suffix == ".jpg":
        jpeg = simplejpeg.encode_jpeg(pixels, quality=_JPEG_QUALITY, colorsubsampling="444")
        return Picture(jpeg, ".jpg", True)
    return Picture(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes(), ".png", True)


class Pictures:
    """The images of shards, by what label rows say; holds one shard's ids and one row group."""

    def __init__(self, uris: Sequence[str]) -> None:
        self.uris = ", ".join(uris)
        self.groups: defaultdict[str, list[RowGroup]] = defaultdict(list)
        for group in shards.index(uris):
            self.groups[storage.name(group.uri)].append(group)
        self.shard = ""
        self.places: dict[str, tuple[RowGroup, int]] = {}
        self.group: RowGroup | None = None
        self.column = pa.chunked_array([], pa.binary())

    def find(self, shard: str, image_id: str, size: tuple[int, int]) -> Picture:
        """The image of a label row, of a size (height, width).

        Raises:
            ValueError: the shards do not hold it, or hold it in another size.
            ImageError: it has to be written anew and cannot be decoded.
        """
        if shard != self.shard:
            self.places, self.shard = self._places(shard), shard
        if image_id not in self.places:
            raise ValueError(f"{self.uris}: no such image in a shard {shard!r}")
        group, row = self.places[image_id]
        if group != self.group:
            self.column, self.group = shards.read(group, ["image"])["image"], group
        data = self.column[row].as_py()
        found = images.header(data)
        if found != size:
            raise ValueError(
                f"labeled at {size[1]}x{size[0]} px, but in {group.uri} it is "
                f"{found[1]}x{found[0]}: not the images that were labeled"
            )
        return upright(data)

    def _places(self, shard: str) -> dict[str, tuple[RowGroup, int]]:
        """Where the images of all shards of one file name lie."""
        places: dict[str, tuple[RowGroup, int]] = {}
        for group in self.groups[shard]:
            ids = shards.read(group, ["image_id"])["image_id"].to_pylist()
            for row, image_id in enumerate(ids):
                if image_id in places:
                    raise ValueError(f"{group.uri}: image_id {image_id!r} is in the shards twice")
                places[image_id] = (group, row)
        return places
