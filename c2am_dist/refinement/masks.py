"""One image's pseudo mask: its class maps and its background, brought to its size, compete.

Without torch, which tasks have no use for. What is wrong with one image is a ValueError that
becomes its row's error; what says that the inputs do not belong together is refused.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from c2am_dist.method import crf, cues, edge_aware, images
from c2am_dist.method.cam_files import read_cams
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.method.refine import refine, threshold_background
from c2am_dist.refinement.sources import Found, RefusedError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refinement:
    """How masks are made."""

    label_map: LabelMap
    threshold: float | None
    """The background where there are no cues."""
    kind: Literal["none", "crf", "guided"]
    guided_radius_px: int
    guided_epsilon: float
    max_pixels: float


_MAX_VALUES = 2**30
"""Of all maps of an image at its size, 4 GiB: what bounds memory where small maps are enlarged."""


class ClassMaps(NamedTuple):
    """The maps that compete, in the order of ids."""

    ids: list[int]
    activation: np.ndarray
    """float32, k h w, in [0, 1]; h and w are the image's."""


def class_maps(
    image_id: str,
    size: tuple[int, int],
    labels: Sequence[str] | None,
    found: Found,
    label_map: LabelMap,
) -> ClassMaps:
    """The maps of an image's classes, at its size.

    Args:
        image_id: of the image, for messages.
        size: of the image: height and width.
        labels: its classes, if they are known: other classes' maps are left out.
        found: its class maps.
        label_map: in which classes are looked up.

    Raises:
        ValueError: there are no maps or none that can be read, or a class has none.
        RefusedError: a class is not in the label map, or the maps are of another image.
    """
    if found.is_missing and labels is not None and not len(labels):
        return ClassMaps([], np.zeros((0, *size), np.float32))  # others write no file of such
    if found.error is not None:
        raise ValueError(f"no class maps: {found.error}")
    if found.value is None:
        raise ValueError(
            f"no class maps in {found.uri}: its classes are not known, or the set was labeled "
            "without --write-class-maps"
        )
    _refuse_other_size(image_id, size, found)
    by_id = (
        _from_file(image_id, size, found, label_map)
        if isinstance(found.value, bytes)
        else _from_labels(image_id, size, found, label_map)
    )
    if labels is not None:
        wanted = {id_of(name, f"image {image_id!r}", label_map): name for name in labels}
        if lacking := [name for i, name in wanted.items() if i not in by_id]:
            raise ValueError(f"{found.uri}: no class map of {', '.join(sorted(lacking))}")
        by_id = {i: by_id[i] for i in wanted}
    ids = sorted(by_id)
    maps = [by_id[i] for i in ids]
    return ClassMaps(ids, np.stack(maps) if maps else np.zeros((0, *size), np.float32))


def background_cue(image_id: str, size: tuple[int, int], found: Found) -> np.ndarray:
    """The cue of an image (float32, h w, 1 = background), at its size.

    Raises:
        ValueError: there is none, or none that can be read.
        RefusedError: it is of another image.
    """
    if found.error is not None:
        raise ValueError(f"no background cue: {found.error}")
    if found.value is None:
        raise ValueError(f"no background cue in {found.uri}: label with --write-cues")
    _refuse_other_size(image_id, size, found)
    try:
        cue = images.decode_png8(found.value)
    except ValueError as error:
        raise ValueError(f"{found.uri}: {error}") from error
    if found.size == (None, None):  # not of a label set, whose maps are of a squeezed image
        _refuse_other_aspect(image_id, size, cue.shape, f"{found.uri}: a cue")
    return _enlarged(cue, size)


def pseudo_mask(
    maps: ClassMaps, cue: np.ndarray | None, image: np.ndarray | None, how: Refinement
) -> np.ndarray:
    """The mask (uint8, h w) of an image's classes; all background where it has none.

    Args:
        maps: of its classes.
        cue: its background cue, or None for the threshold.
        image: its pixels (uint8, h w 3), which refinements need.
        how: the mask is made.

    Raises:
        ValueError: a value leaves [0, 1].
    """
    activation = maps.activation
    if not maps.ids:
        return np.zeros(activation.shape[1:], np.uint8)
    if how.kind == "guided":
        assert image is not None
        channels = activation if cue is None else np.concatenate([activation, cue[None]])
        channels = edge_aware.guided_filter(
            image, channels, radius_px=how.guided_radius_px, epsilon=how.guided_epsilon
        )
        activation = channels[: len(maps.ids)]
        cue = None if cue is None else channels[-1]
    channel = np.arange(len(maps.ids) + 1, dtype=np.uint8)
    if cue is not None:
        winners = refine(activation, cue, channel)
    else:
        assert how.threshold is not None
        winners = threshold_background(activation, how.threshold, channel)
    if how.kind == "crf":
        assert image is not None
        winners = crf.refine_labels(image, winners, len(channel))
    return np.array([0, *maps.ids], np.uint8)[winners]


def _from_labels(
    image_id: str, size: tuple[int, int], found: Found, label_map: LabelMap
) -> dict[int, np.ndarray]:
    _refuse_many(len(found.value), size, found.uri)
    by_id = dict[int, np.ndarray]()
    for entry in found.value:
        name = entry["class_name"]
        class_id = id_of(name, f"{found.uri}: image {image_id!r}", label_map)
        if class_id in by_id:
            raise ValueError(f"{found.uri}: two class maps of {name}")
        try:
            by_id[class_id] = _enlarged(images.decode_png16(entry["map"]), size)
        except ValueError as error:
            raise ValueError(f"{found.uri}: class map of {name}: {error}") from error
    return by_id


def _from_file(
    image_id: str, size: tuple[int, int], found: Found, label_map: LabelMap
) -> dict[int, np.ndarray]:
    try:
        cams = read_cams(found.value)
    except ValueError as error:
        raise ValueError(f"{found.uri}: {error}") from error
    _refuse_other_aspect(image_id, size, cams.class_activation.shape[1:], f"{found.uri}: maps")
    ids = cams.keys[1:].tolist()
    for class_id in ids:
        if class_id >= len(label_map):
            raise RefusedError(
                f"{found.uri}: holds a map of class {class_id}, but the label map ends at "
                f"{len(label_map) - 1} ({label_map.names[-1]})"
            )
    _refuse_many(len(ids), size, found.uri)
    maps = [_enlarged(one, size) for one in cams.class_activation]
    return dict(zip(ids, maps, strict=True))


def _refuse_many(num_maps: int, size: tuple[int, int], uri: str) -> None:
    if num_maps * size[0] * size[1] > _MAX_VALUES:
        raise ValueError(
            f"{uri}: {num_maps} class maps of {size[1]}x{size[0]} pixels take more than "
            f"{4 * _MAX_VALUES // 2**30} GiB"
        )


def id_of(name: str, where: str, label_map: LabelMap) -> int:
    """The id of a class, 1 to K.

    Raises:
        RefusedError: it is the background or not in the label map; begins with ``where``.
    """
    try:
        class_id = label_map.id_of(name)
    except ValueError as error:
        raise RefusedError(f"{where}: {error} (--label-map)") from error
    if class_id == 0:
        raise RefusedError(f"{where}: {name!r} is the background, not a class")
    return class_id


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return values if values.shape == size else cues.enlarge(values, size)


def _refuse_other_size(image_id: str, size: tuple[int, int], found: Found) -> None:
    if found.size != (None, None) and found.size != size:
        raise RefusedError(
            f"{found.uri}: image {image_id!r} has (height, width) = {found.size} there and "
            f"{size} in its shard: the labels are of other images"
        )


def _refuse_other_aspect(
    image_id: str, size: tuple[int, int], shape: tuple[int, ...], what: str
) -> None:
    """Raises RefusedError where no scale makes a shape of the image's size.

    Each side may be off by one cell, as rounding up or down makes it.
    """
    if shape != size and abs(shape[0] * size[1] - shape[1] * size[0]) > size[0] + size[1]:
        raise RefusedError(
            f"{what} of (height, width) = {tuple(shape)} for image {image_id!r} of {size}, which "
            "has another aspect: it is of another image"
        )
