"""CUB-200-2011 in miniature."""

from pathlib import Path

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
