"""What the ids in a mask mean: VOC's and COCO's classes, colours, and masks as files.

In every mask here 0 is the background, 1 to K are classes, and 255 is ignored.
"""

import dataclasses
import functools
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image as PilImage

from c2am_dist.method.confusion import IGNORED

_BACKGROUND = "background"
_MAX_CLASSES = IGNORED - 1  # ids 1 to 254
# Of COCO's 91 categories these have no annotated instances, so 80 are left.
_COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_COCO_NO_THING = (*_COCO_UNUSED, *range(92, 201))
"""Ids that masks of COCO may hold without being a class here: unused ones, and stuff's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelMap:
    """Names of contiguous ids, and the ids that a data set's own files use for them."""

    names: tuple[str, ...]
    """``names[i]`` is what id i means; the background's first."""
    published_ids: tuple[int, ...]
    """``published_ids[i]`` is what the data set's files say for id i."""

    def __len__(self) -> int:
        """How many classes there are, the background among them: K + 1."""
        return len(self.names)

    def id_of(self, name: str) -> int:
        """The id, 0 to K, of a class.

        Raises:
            ValueError: there is no class of this name.
        """
        if name not in self.names:
            raise ValueError(f"no class is called {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def name_of(self, class_id: int) -> str:
        """The name of an id, 0 to K.

        Raises:
            ValueError: it is not of this label map.
        """
        if not 0 <= class_id < len(self.names):
            raise ValueError(f"{class_id} is none of {len(self.names)} class ids")
        return self.names[class_id]

    def from_annotation(self, mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """An annotated mask, of the data set's own ids, in ids 0 to K.

        0 is background, and of COCO also ids without instances and stuff (92 to 200); 255 stays
        ignored.

        Raises:
            ValueError: it holds another id; it is named.
        """
        is_stray = np.ones(256, bool)
        is_stray[[0, IGNORED, *self.published_ids]] = False
        if self.published_ids == COCO.published_ids:
            is_stray[list(_COCO_NO_THING)] = False
        strays = mask[is_stray[mask]]
        if len(strays):
            raise ValueError(
                f"annotation holds {strays[0]}, which is no id of the label map "
                f"({self.names[1]} to {self.names[-1]})"
            )
        table = np.zeros(256, np.uint8)
        table[list(self.published_ids)] = np.arange(len(self.names))
        table[IGNORED] = IGNORED
        return table[mask]

    def to_published(self, mask: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """A mask of ids 0 to K in the data set's own; 255 stays.

        Raises:
            ValueError: an id is not of this label map; it is named.
        """
        strays = mask[((mask < 0) | (mask >= len(self.names))) & (mask != IGNORED)]
        if len(strays):
            raise ValueError(f"mask holds {strays[0]}, which is none of {len(self.names)} ids")
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.names)] = self.published_ids
        return table[mask]


def from_names(lines: Sequence[str]) -> LabelMap:
    """The label map of classes of one's own, a line each, from id 1 on; id 0 is the background.

    Raises:
        ValueError: there is no class or there are more than 254; a line is blank, comes twice or
            is ``background``, which is not listed. The message names the line.
    """
    names = [line.strip() for line in lines]
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise ValueError(
            f"a label map has 1 to {_MAX_CLASSES} classes, a line each, not {len(names)}"
        )
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"line {number} is blank; line n is the class of id n")
        if name == _BACKGROUND:
            raise ValueError(f"line {number} is {name!r}, which is id 0 and not listed")
        if name in names[: number - 1]:
            raise ValueError(f"line {number}: class {name!r} comes twice")
    return LabelMap(names=(_BACKGROUND, *names), published_ids=tuple(range(len(names) + 1)))


VOC = LabelMap(
    names=tuple(
        (
            "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog "
            "horse motorbike person pottedplant sheep sofa train tvmonitor"
        ).split()
    ),
    published_ids=tuple(range(21)),
)
"""The 20 classes of PASCAL VOC and the background, as its development kit spells them."""

COCO = LabelMap(
    names=tuple(
        (
            "background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, "
            "traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, "
            "sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, "
            "suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
            "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, "
            "bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, "
            "chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, "
            "keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, "
            "vase, scissors, teddy bear, hair drier, toothbrush"
        ).split(", ")
    ),
    published_ids=tuple(i for i in range(91) if i not in _COCO_UNUSED),
)
"""The 80 things of COCO and the background; published ids are category ids, 1 to 90."""


@functools.cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """The RGB colour of each id in VOC's masks: 0 is black, 255 cream.

    Bit j of a channel, from the highest, is a bit of the id: red takes the ids' bits 0, 3, 6,
    green 1, 4, 7, blue 2 and 5. Source: the VOC development kit's colour map.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for step in range(3):
        for channel in range(3):
            bit = (ids >> (3 * step + channel)) & 1
            colours[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    colours.flags.writeable = False  # it is handed out again
    return colours


def ids_of_colours(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The ids of a mask that was saved in VOC's colours (RGB): 0 to 20, and 255.

    Raises:
        ValueError: there is another colour; it is named.
    """
    table = {tuple(palette()[i].tolist()): i for i in (*range(len(VOC)), IGNORED)}
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, places = np.unique(packed, return_inverse=True)
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
    for colour in colours:
        if colour not in table:
            raise ValueError(
                f"colour {colour} is none of VOC's; save ids as a grayscale PNG or as indices of "
                "a palette"
            )
    ids = np.array([table[colour] for colour in colours], np.uint8)
    return ids[places.reshape(pixels.shape[:2])]


def encode_mask(mask: Integer[np.ndarray, "h w"]) -> bytes:
    """A mask as PNG whose indices are the ids and whose colours are VOC's.

    ``images.decode_mask`` reads it back.

    Raises:
        ValueError: there is no pixel, or an id leaves 0 to 255.
    """
    if mask.size == 0:
        raise ValueError(f"a mask needs at least one pixel, got shape {mask.shape}")
    low, high = mask.min(), mask.max()
    if low < 0 or high > 255:
        raise ValueError(f"a mask's ids must be 0 to 255, got {low if low < 0 else high}")
    image = PilImage.fromarray(mask.astype(np.uint8))
    image.putpalette(palette().tobytes())
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
