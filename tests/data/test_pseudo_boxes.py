"""Label sets joined to shards, and boxes carried to what the network sees."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from c2am_dist.config import DataConfig
from c2am_dist.data import decode, plan, pseudo_boxes, shards
from c2am_dist.data.decode import StoredBoxes
from tests.labeled import Labeled, picture, write_set

BOX = (2, 4, 30, 20, 0.5)
OTHER = (0, 0, 10, 10, 0.9)


def labeled(*boxes: Any, error: str | None = None) -> Labeled:
    return Labeled(picture(), boxes, error)


def join(root: Path, shown: dict[str, Labeled], *sets: dict[str, Labeled]) -> pseudo_boxes.Joined:
    """Shards of the images shown, joined to label sets of their own."""
    write_set(root / "set", shown)
    uris = []
    for number, each in enumerate(sets):
        write_set(root / f"labels-{number}", each, per_file=5)
        uris.append(str(root / f"labels-{number}" / "labels"))
    groups = shards.index([str(root / "set" / "shards")])
    return pseudo_boxes.join(groups, uris)


def boxes_by_id(joined: pseudo_boxes.Joined) -> dict[str, tuple[list[int], list[int]]]:
    found = {}
    for group in joined.row_groups:
        for row in joined.boxes.read(group, ["image_id"]).to_pylist():
            found[row["image_id"]] = (row["box"], row["size"])
    return found


def test_the_first_box_of_each_image_is_joined_by_id(tmp_path: Path):
    shown = {f"i{n}": labeled() for n in range(9)}
    boxes = {f"i{n}": labeled((n, 1, n + 5, 9, 0.1), OTHER) for n in reversed(range(9))}
    joined = join(tmp_path, shown, boxes)
    expected = {f"i{n}": ([n, 1, n + 5, 9], [30, 40]) for n in range(9)}
    assert boxes_by_id(joined) == expected
    assert (joined.num_extra, set(joined.left_out.values())) == (0, {0})
    assert str(joined) == "data.boxes: 9 images have a box"


def test_several_label_sets_make_one(tmp_path: Path):
    shown = {name: labeled() for name in "abcdef"}
    joined = join(
        tmp_path,
        shown,
        {name: labeled(BOX) for name in "fab"},
        {name: labeled(OTHER) for name in "ecd"},
    )
    assert {name: box[0] for name, (box, _) in boxes_by_id(joined).items()} == {
        **dict.fromkeys("abf", 2),
        **dict.fromkeys("cde", 0),
    }


def test_images_without_a_usable_box_are_left_out_and_counted(tmp_path: Path):
    shown = {name: labeled() for name in "abcdefgh"}
    boxes = {
        "a": labeled(BOX),
        "b": labeled(),
        "c": labeled(error="unreadable"),
        "d": labeled((5, 5, 5, 9, 0.5), BOX),  # the first counts
        "e": labeled((50, 5, 60, 9, 0.5)),  # beyond the 40 columns
        "f": labeled((30, 20, 60, 90, 0.5)),  # reaches out
        "x": labeled(BOX),
        "y": labeled(BOX),
    }
    joined = join(tmp_path, shown, boxes)
    assert boxes_by_id(joined) == {
        "a": ([2, 4, 30, 20], [30, 40]),
        "f": ([30, 20, 40, 30], [30, 40]),
    }
    assert str(joined) == (
        "data.boxes: 2 images have a box; left out: 2 with no label row, 1 with an error instead "
        "of labels, 1 with no box, 2 with a box without area; 2 label rows are of images not in "
        "data.train"
    )
    assert sum(group.num_rows for group in joined.row_groups) == 2


def test_a_limit_takes_images_with_a_box_alone(tmp_path: Path):
    shown = {f"i{n:02d}": labeled() for n in range(16)}
    boxes = {f"i{n:02d}": labeled((n, 0, n + 1, 5, 0.5)) for n in range(1, 16, 2)}
    joined = join(tmp_path, shown, boxes)
    limited = plan.limit(joined.row_groups, 4)
    assert sum(group.num_rows for group in limited) == 4
    rows = [row for group in limited for row in joined.boxes.read(group, ["image_id"]).to_pylist()]
    assert all(row["image_id"] == f"i{row['box'][0]:02d}" for row in rows)


def test_the_digest_follows_boxes_and_images(tmp_path: Path):
    shown = {name: labeled() for name in "abc"}
    one = {name: labeled(BOX) for name in "abc"}
    variants = [
        one,
        dict(reversed(one.items())),
        one | {"b": labeled(OTHER)},
        one | {"b": labeled()},
    ]
    digests = [
        join(tmp_path / str(i), shown, boxes).boxes.sha256() for i, boxes in enumerate(variants)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([{"x": labeled(BOX)}], r"labels-0/labels: none of its 1 images are in data\.train"),
        (
            [{"a": labeled(BOX)}, {"x": labeled(BOX), "y": labeled()}],
            r"labels-1/labels: none of its 2 images are in data\.train",
        ),
        ([{"a": labeled(BOX)}, {"a": labeled(OTHER)}], r"image_id 'a' comes more than once"),
        (
            [{"a": labeled(), "b": labeled(error="no")}],
            r"labels-0/labels: no image has a usable box \(1 with no label row, 1 with an error",
        ),
        (
            [{"b": Labeled(picture((20, 40)), [BOX], None, (20, 40))}],
            r"labels-0/labels: 'b' has height 20 there and 30 in data\.train",
        ),
    ],
)
def test_label_sets_of_different_images_are_refused_by_name(
    tmp_path: Path, sets: list[dict[str, Labeled]], message: str
):
    with pytest.raises(ValueError, match=message):
        join(tmp_path, {name: labeled() for name in "abc"}, *sets)


def test_an_unfinished_or_foreign_label_set_is_refused_by_name(tmp_path: Path):
    write_set(tmp_path, {"a": labeled(BOX)})
    groups = shards.index([str(tmp_path / "shards")])
    (tmp_path / "labels" / "_SUCCESS").unlink()
    with pytest.raises(ValueError, match="labels: no _SUCCESS") as unfinished:
        pseudo_boxes.join(groups, [str(tmp_path / "labels")])
    assert "--" not in str(unfinished.value)  # training has no flag that would take such a set
    with pytest.raises(ValueError, match="column 'pseudo_boxes' is missing"):
        pseudo_boxes.join(groups, [str(tmp_path / "shards" / "*.parquet")])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pseudo_boxes.join(groups, [str(tmp_path / "nowhere")])


def test_shards_without_sizes_take_the_labels_word(tmp_path: Path):
    write_set(tmp_path, {name: labeled(BOX) for name in "abc"})
    for path in (tmp_path / "shards").iterdir():
        pq.write_table(pq.read_table(path, columns=["image_id", "image"]), path)
    groups = shards.index([str(tmp_path / "shards")])
    joined = pseudo_boxes.join(groups, [str(tmp_path / "labels")])
    assert boxes_by_id(joined)["b"] == ([2, 4, 30, 20], [30, 40])


def marked(box: tuple[int, int, int, int], size: tuple[int, int]) -> bytes:
    """A PNG that is red inside the box and black outside."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2], 0] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("seed", range(12))
def test_the_pixels_inside_the_delivered_box_are_those_of_the_stored_one(seed: int):
    """Squeezed by 4 and 2 and cropped at whole pixels, so that the view's edges are sharp."""
    data = DataConfig(resize_px=40, crop_px=32)
    rng = np.random.default_rng(seed)
    x0, y0 = rng.integers(0, 30) * 4, rng.integers(0, 30) * 2
    x1, y1 = x0 + 4 * rng.integers(1, 11), y0 + 2 * rng.integers(1, 11)
    encoded = pa.array([b"broken", marked((x0, y0, x1, y1), (80, 160))])
    edges = np.array([[0, 0, 1, 1], [x0, y0, x1, y1]], np.int32)
    sizes = np.array([[80, 160]] * 2, np.int32)
    found = decode.views_of(
        ["a", "b"], encoded, 0, data=data, seed=seed, boxes=StoredBoxes(edges, sizes)
    )
    assert found.boxes is not None and found.is_visible is not None
    assert found.donors.tolist() == [1, 1]  # the box comes with the image that stands in
    for pixels, relative, is_visible in zip(
        found.pixels, found.boxes, found.is_visible, strict=True
    ):
        left, top, width, height = relative * 32
        expected = np.zeros((32, 32), np.uint8)
        columns, rows = (
            slice(round(left), round(left + width)),
            slice(round(top), round(top + height)),
        )
        expected[rows, columns] = 255
        np.testing.assert_array_equal(pixels[..., 0], expected)
        assert is_visible == bool(pixels.any())


def test_without_boxes_views_are_the_same_pixels():
    data = DataConfig(resize_px=40, crop_px=32)
    encoded = pa.array([picture()])
    boxes = StoredBoxes(np.array([[0, 0, 9, 9]], np.int32), np.array([[30, 40]], np.int32))
    plain = decode.views_of(["a"], encoded, 3, data=data, seed=1)
    with_box = decode.views_of(["a"], encoded, 3, data=data, seed=1, boxes=boxes)
    np.testing.assert_array_equal(plain.pixels, with_box.pixels)
    assert plain.boxes is None and plain.is_visible is None
