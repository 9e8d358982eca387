"""One image, its boxes and its mask, as the row of a shard."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from c2am_dist.data.formats import Blob, Boxes, Item
from c2am_dist.data.formats.regions import pack
from c2am_dist.data.prepare import make_row
from c2am_dist.method import images
from c2am_dist.method.label_maps import VOC, encode_mask, from_names, palette
from tests.images import encoded, noise


def make(image: bytes, mask: bytes | None = None, **options: object) -> dict:
    return make_row(Item("x", Blob("x.jpg", len(image)), **options), image, mask)  # type: ignore


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(noise((40, 30))), (40, 30)),
        (encoded(noise((40, 30), "L")), (40, 30)),
        (encoded(noise((40, 30), "CMYK")), (40, 30)),
        (encoded(noise((1, 1))), (1, 1)),
        (encoded(noise((40, 30), "RGBA"), "PNG"), (40, 30)),
        (encoded(noise((40, 30)).quantize(16), "PNG"), (40, 30)),
        (
            encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG"),
            (40, 30),
        ),
        (encoded(noise((40, 30)), "GIF"), (40, 30)),
        (encoded(noise((40, 30)), "WEBP"), (40, 30)),
    ],
    ids=["rgb", "gray", "cmyk", "1x1", "alpha", "palette", "16-bit", "gif", "webp"],
)
def test_any_kind_of_image_is_kept_untouched(data: bytes, size: tuple[int, int]):
    row = make(data)
    assert (row["image"], row["width"], row["height"]) == (data, *size)


def test_sizes_and_boxes_are_those_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 40x30, shown 30x40
    data = encoded(noise((40, 30)), exif=exif)
    row = make(data, boxes=Boxes(((5, 10, 30, 40),), ("cat",)))
    assert (row["width"], row["height"], row["boxes"]) == (30, 40, [[5, 10, 30, 40]])
    assert row["image"] == data
    with pytest.raises(ValueError, match="annotation: annotated at 40x30"):
        make(data, boxes=Boxes(((5, 10, 30, 30),), ("cat",), (40, 30)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just some text", "not an image"),
        (encoded(noise((200, 200)))[:-9000], "JPEG"),
        (encoded(noise((200, 200)), progressive=True)[:-9000], "JPEG"),
        (encoded(noise((200, 200)), "PNG")[:-9000], "PNG"),
    ],
    ids=["empty", "text", "cut JPEG", "cut progressive JPEG", "cut PNG"],
)
def test_what_is_no_whole_image_is_refused_with_a_reason(data: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        make(data)


def test_a_png_of_200_megapixels_is_refused_before_it_is_decoded():
    data = bytearray(encoded(noise((40, 30)), "PNG"))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="20000x10000 is 200 megapixels"):
        make(bytes(data))


def test_masks_of_ids_are_kept_as_they_are():
    for mode in ("L", "P"):
        mask = Image.new(mode, (40, 30), 7)
        if mode == "P":
            mask.putpalette(range(48))
        data = encoded(mask, "PNG")
        assert make(encoded(noise((40, 30))), data)["mask"] == data


def test_other_masks_become_png_of_ids():
    image = encoded(noise((40, 30)))
    stored = make(image, encoded(Image.new("L", (40, 30), 7), "BMP"))["mask"]
    assert stored.startswith(b"\x89PNG")
    assert np.unique(np.asarray(Image.open(io.BytesIO(stored)))).tolist() == [7]
    shares = np.repeat(np.array([0, 51, 102, 153, 204, 255], np.uint8), 200).reshape(30, 40)
    drawn = encoded(Image.fromarray(shares), "PNG")
    stored = make(image, drawn, is_agreement_mask=True)["mask"]
    ids = np.asarray(Image.open(io.BytesIO(stored))).ravel()
    assert ids.tolist() == [0] * 600 + [1] * 600


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (b"", "mask: empty file"),
        (
            encoded(noise((40, 30)), "PNG"),
            "mask: a mask has one 8-bit channel, this is PNG RGB: co",
        ),
        (
            encoded(Image.new("RGB", (40, 30), (1, 1, 1)), "PNG"),
            r"colour \(1, 1, 1\) is none of VOC",
        ),
        (encoded(noise((40, 30), "RGBA"), "PNG"), "this is PNG RGBA"),
        (encoded(noise((40, 30))), "this is JPEG RGB"),
        (encoded(noise((30, 40), "L"), "PNG"), "mask: 30x40, but the image is 40x30"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(mask: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        make(encoded(noise((40, 30))), mask)


JPEG = encoded(noise((40, 30)))
DOG_AND_CAT = Boxes(((1, 1, 9, 9), (3, 3, 9, 9), (5, 5, 20, 20)), ("dog", "cat", "dog"))


def ids(*class_ids: int) -> np.ndarray:
    """A mask of 40x30 that holds these in equal parts."""
    return np.repeat(np.array(class_ids, np.uint8), 1200 // len(class_ids)).reshape(30, 40)


@pytest.mark.parametrize(
    ("known", "labels", "label"),
    [
        ({}, None, None),
        ({"boxes": Boxes((), ())}, [], None),  # known to hold none
        ({"boxes": DOG_AND_CAT}, ["cat", "dog"], None),
        ({"boxes": Boxes(((1, 1, 9, 9),), ("dog",))}, ["dog"], "dog"),
        ({"boxes": Boxes(((1, 1, 9, 9), (2, 2, 9, 9)), ("dog", None))}, None, "dog"),
        ({"label": "cat"}, ["cat"], "cat"),
        ({"label": "cat", "boxes": Boxes(((1, 1, 9, 9),), (None,))}, ["cat"], "cat"),
        ({"label": "cat", "boxes": Boxes(((1, 1, 9, 9),), ("dog",))}, ["cat", "dog"], "cat"),
        (
            {"boxes": DOG_AND_CAT, "classes": ("person", "dog", "cat")},
            ["cat", "dog", "person"],
            None,
        ),
        ({"boxes": Boxes((), ()), "classes": ("person",)}, ["person"], "person"),  # a crowd
    ],
)
def test_labels_are_all_classes_that_are_known(known: dict, labels: list | None, label: str | None):
    row = make(JPEG, **known)
    assert (row["labels"], row["label"]) == (labels, label)


@pytest.mark.parametrize(
    ("mask", "label_map", "labels"),
    [
        (ids(0, 15, 255, 12), VOC, ["dog", "person"]),
        (ids(0, 8, 8, 8), VOC, ["cat"]),
        (ids(0, 255), VOC, []),
        (ids(0, 21), VOC, None),  # not VOC's after all
        (ids(2, 0), from_names(["cat", "polar bear"]), ["polar bear"]),
        (ids(1, 2), None, None),
    ],
)
def test_a_mask_tells_the_classes_where_no_boxes_do(mask: np.ndarray, label_map, labels):
    row = make(JPEG, encode_mask(mask), mask_labels=label_map)
    assert row["labels"] == labels
    assert row["label"] == (labels[0] if labels and len(labels) == 1 else None)
    boxed = make(JPEG, encode_mask(mask), mask_labels=label_map, boxes=DOG_AND_CAT)
    assert boxed["labels"] == ["cat", "dog"]


def test_a_mask_in_voc_s_colours_becomes_ids():
    mask = ids(0, 1, 15, 20, 255, 0)
    coloured = encoded(Image.fromarray(palette()[mask]), "PNG")
    stored = make(JPEG, coloured)["mask"]
    assert stored != coloured
    np.testing.assert_array_equal(images.decode_mask(stored), mask)
    np.testing.assert_array_equal(images.decode_mask(coloured), mask)
    beyond = encoded(Image.fromarray(palette()[ids(0, 21)]), "PNG")
    with pytest.raises(ValueError, match=r"mask: .* is none of VOC's; save ids as a grayscale PNG"):
        make(JPEG, beyond)


def test_a_drawn_mask_is_a_png_of_category_ids_at_the_image_s_size():
    polygon = [[10, 5, 20, 5, 20, 15, 10, 15]]
    annotation = {"id": 3, "category_id": 90, "bbox": [10, 5, 10, 10], "segmentation": polygon}
    item = Item("x", Blob("x.jpg", 1), mask=pack([annotation], (40.0, 30.0)))
    drawn = images.decode_mask(make_row(item, JPEG)["mask"])
    assert drawn.shape == (30, 40) and set(np.unique(drawn)) == {0, 90}
    assert (drawn[6:15, 11:20] == 90).all()
    broken = Item("x", Blob("x.jpg", 1), mask=pack([{**annotation, "segmentation": [[1]]}], None))
    with pytest.raises(ValueError, match="mask: annotation 3: a polygon has"):
        make_row(broken, JPEG)
