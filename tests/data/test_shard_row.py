"""One image, its boxes and its mask, as the row of a shard."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from c2am_dist.data.formats import Blob, Boxes, Item
from c2am_dist.data.prepare import make_row
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
        (encoded(noise((40, 30)), "PNG"), "mask: a mask has one 8-bit channel"),
        (encoded(noise((30, 40), "L"), "PNG"), "mask: 30x40, but the image is 40x30"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(mask: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        make(encoded(noise((40, 30))), mask)
