import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from c2am_dist import schema, storage
from c2am_dist.data import synthetic
from c2am_dist.method import images
from c2am_dist.report import contact_sheet

ORANGE = (255, 150, 0)


def write_set(root, *, num_images: int, shard_images: int = 4, known: bool = True) -> None:
    """Shards of generated images, and labels that are their masks at a sixteenth of the size."""
    rows, labels = [], []
    for index in range(num_images):
        sample = synthetic.draw_sample(0, index, size_px=64)
        height, width = sample.mask.shape
        x0, y0, x1, y1 = synthetic.box_of(sample.mask)
        jpeg = simplejpeg.encode_jpeg(sample.image)
        row = {"image_id": f"i{index}", "image": jpeg, "width": width, "height": height}
        rows.append(row | {"boxes": [[x0, y0, x1, y1]] if known else None})
        small = cv2.resize(sample.mask.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
        labels.append(
            {
                "image_id": f"i{index}",
                "shard": f"{index // shard_images}.parquet",
                "pseudo_boxes": [{"x0": x0, "y0": y0, "x1": x1, "y1": y1, "score": 0.9}],
                "activation_map": images.encode_png16(small),
                **dict.fromkeys(("checkpoint_sha256", "config_sha256", "package_version"), ""),
            }
        )
    for start in range(0, num_images, shard_images):
        chunk, name = slice(start, start + shard_images), f"{start // shard_images}.parquet"
        write(root / "shards" / name, rows[chunk], schema.SHARD)
        write(root / "labels" / name, labels[chunk], schema.LABELS)


def write(path, rows: list[dict], arrow_schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema), path, row_group_size=2)


def rewrite_labels(root, change) -> None:
    """Passes every label row through ``change``."""
    for path in (root / "labels").iterdir():
        write(path, [change(row) for row in pq.read_table(path).to_pylist()], schema.LABELS)


def draw(root, **options) -> np.ndarray:
    """The sheet's pixels, red green blue."""
    output = root / "sheet.png"
    contact_sheet([str(root / "labels" / "*")], [str(root / "shards")], str(output), **options)
    return images.decode(output.read_bytes())


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_a_row_shows_image_map_box_and_cue_side_by_side(tmp_path):
    write_set(tmp_path, num_images=1)
    sheet = draw(tmp_path)
    sample = synthetic.draw_sample(0, 0, size_px=64)
    panels = np.split(sheet[:, :-12], 4, axis=1)
    assert len({panel.shape for panel in panels}) == 1
    image, overlay, boxed, cue = (panel.astype(int) for panel in panels)
    assert all((panel[:44] < 100).any() for panel in panels), "each panel has a caption"
    height, width = sample.mask.shape
    scale = min(192 / height, 256 / width)
    body = np.s_[44 + round(height * scale / 2), 12 + round(width * scale / 2)]  # the middle
    expected = sample.image[height // 2, width // 2].astype(int)
    assert np.abs(image[body] - expected).max() < 60
    assert (boxed != image).any() and (overlay != image).any()
    assert count(boxed, ORANGE) > 100 and count(image, ORANGE) == 0
    assert (cue[..., 0] == cue[..., 2]).all(), "the cue is grey"


def test_cue_is_dark_on_the_object(tmp_path):
    write_set(tmp_path, num_images=1)
    cue = np.split(draw(tmp_path)[:, :-12], 4, axis=1)[3][44 : 44 + 192, 12:]
    mask = synthetic.draw_sample(0, 0, size_px=64).mask
    scale = min(192 / mask.shape[0], 256 / mask.shape[1])
    size = round(mask.shape[0] * scale), round(mask.shape[1] * scale)
    inner = cue[: size[0], : size[1], 0]
    grown = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    assert inner[grown == 0].mean() - inner[grown == 1].mean() > 120


def test_stored_cue_is_shown_as_it_is(tmp_path):
    write_set(tmp_path, num_images=1)
    grey = images.encode_png8(np.full((4, 4), 100 / 255, np.float32))
    rewrite_labels(tmp_path, lambda row: row | {"background_cue": grey})
    assert count(draw(tmp_path), (100, 100, 100)) > 10_000


def test_rows_do_not_depend_on_how_labels_are_split(tmp_path):
    write_set(tmp_path / "a", num_images=9, shard_images=4)
    write_set(tmp_path / "b", num_images=9, shard_images=9)
    for seed in (0, 1):
        a, b = (draw(tmp_path / name, num_rows=3, seed=seed) for name in "ab")
        np.testing.assert_array_equal(a, b)
    assert (draw(tmp_path / "a", num_rows=3, seed=0) != a).any()


def test_sheet_has_as_many_rows_as_asked_or_as_there_are(tmp_path):
    write_set(tmp_path, num_images=5)
    heights = [len(draw(tmp_path, num_rows=num_rows)) for num_rows in (1, 2, 5, 99)]
    assert heights[0] < heights[1] - 150 and heights[1] < heights[2] - 450
    assert heights[3] == heights[2]


def test_error_rows_are_left_out(tmp_path):
    write_set(tmp_path, num_images=5)
    whole = draw(tmp_path)
    blank = {"pseudo_boxes": None, "activation_map": None, "error": "truncated"}
    rewrite_labels(tmp_path, lambda row: row | (blank if row["image_id"] == "i2" else {}))
    assert len(whole) - len(draw(tmp_path)) > 150


def test_unknown_ground_truth_and_missing_box_are_no_error(tmp_path):
    write_set(tmp_path, num_images=2, known=False)
    rewrite_labels(tmp_path, lambda row: row | {"pseudo_boxes": []})
    assert count(draw(tmp_path), ORANGE) == 0


def test_shards_without_a_boxes_column_will_do(tmp_path):
    write_set(tmp_path, num_images=2)
    path = tmp_path / "shards/0.parquet"
    pq.write_table(pq.read_table(path, columns=["image_id", "image"]), path)
    assert count(draw(tmp_path), ORANGE) > 100


def test_missing_image_is_named(tmp_path):
    write_set(tmp_path, num_images=2)
    rewrite_labels(
        tmp_path, lambda row: row | ({"image_id": "gone"} if row["image_id"] == "i1" else {})
    )
    with pytest.raises(ValueError, match="'gone'"):
        draw(tmp_path)


def test_labels_without_maps_are_refused(tmp_path):
    write_set(tmp_path, num_images=2)
    rewrite_labels(tmp_path, lambda row: row | {"activation_map": None})
    with pytest.raises(ValueError, match="no activation map"):
        draw(tmp_path)


def test_only_shards_that_are_shown_are_opened(tmp_path):
    write_set(tmp_path, num_images=2)
    storage.write_bytes(str(tmp_path / "shards/other.parquet"), b"not a Parquet file")
    assert len(draw(tmp_path)) > 300
