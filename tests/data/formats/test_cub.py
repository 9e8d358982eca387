"""CUB-200-2011 in miniature."""

from pathlib import Path

import pytest

from tests.data.formats import published
from tests.data.formats.layouts import JPEG, boxes_of, image_bytes, listing
from tests.files import lay_out


def test_cub_reads_its_tables(tmp_path: Path):
    laysan, parakeet = "002.Laysan_Albatross/L_1", "004.Groove_billed_Ani/G_2"
    root = lay_out(
        tmp_path,
        {
            "CUB_200_2011/images.txt": f"1 {laysan}.jpg\n2 {parakeet}.jpg\n",
            "CUB_200_2011/image_class_labels.txt": "1 2\n2 4\n",
            "CUB_200_2011/classes.txt": "2 002.Laysan_Albatross\n4 004.Groove_billed_Ani\n",
            "CUB_200_2011/train_test_split.txt": "1 1\n2 0\n",
            "CUB_200_2011/bounding_boxes.txt": "1 4.0 5.0 30.0 20.0\n2 0.0 0.0 40.0 30.0\n",
            f"CUB_200_2011/images/{laysan}.jpg": JPEG,
            f"CUB_200_2011/images/{parakeet}.jpg": JPEG,
            f"segmentations/{laysan}.png": image_bytes(kind="PNG", mode="L"),
            "CUB_200_2011/attributes/attributes.txt": "1 has_bill\n",
        },
    )
    items = listing(root, "cub")
    assert list(items) == [laysan, parakeet]
    assert boxes_of(items[laysan]) == ([[4, 5, 34, 25]], ["002.Laysan_Albatross"])
    assert items[laysan].label == "002.Laysan_Albatross"
    assert items[laysan].mask and items[laysan].is_agreement_mask
    assert [item.split for item in items.values()] == ["train", "test"]
    assert list(listing(root, "cub", split="test")) == [parakeet]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.txt", "1 a/b.jpg\n1 a/c.jpg\n", r"images\.txt: number 1 comes twice"),
        ("bounding_boxes.txt", "1 1 2 3\n", r"bounding_boxes\.txt: not x y width height"),
        ("image_class_labels.txt", "1 7\n", r"class 7 of image_class_labels\.txt is not in"),
        ("images.txt", "1\n", r"images\.txt: row 1 needs 2 fields"),
    ],
)
def test_tables_that_make_no_sense_are_named(tmp_path: Path, name: str, content: str, message: str):
    root = published.cub(tmp_path)
    (root / "CUB_200_2011" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        listing(root, "cub")
