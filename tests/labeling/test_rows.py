"""What a label row says, and that it is the same however it was made."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import checkpoint, schema
from c2am_dist.config import LabelConfig, digest
from c2am_dist.labeling.job import label
from c2am_dist.method.boxes import to_protocol
from c2am_dist.method.images import decode_png8, decode_png16
from tests.checkpoints import CROP_PX, random_c2am, save_c2am
from tests.labeling.sets import BAD, read_labels


def test_every_image_has_one_row_in_the_order_of_its_shard(labeled: Path, image_set: Path):
    for name, height, width in (("one/0.parquet", 48, 80), ("two/0.parquet", 70, 50)):
        rows = pq.read_table(labeled / name, partitioning=None)
        assert rows.schema.equals(schema.LABELS)
        shard = pq.read_table(image_set / name, partitioning=None)
        assert rows["image_id"].to_pylist() == shard["image_id"].to_pylist()
        assert set(rows["shard"].to_pylist()) == {"0.parquet"}
        good = rows.filter(pa.compute.is_null(rows["error"])).to_pylist()
        assert {(row["height"], row["width"]) for row in good} == {(height, width)}


def test_bad_images_become_rows_that_say_why(labeled: Path):
    rows = {row["image_id"]: row for row in read_labels(labeled).to_pylist()}
    for image_id, reason in BAD.items():
        assert reason in rows[image_id]["error"]
        assert rows[image_id]["pseudo_boxes"] is rows[image_id]["activation_map"] is None
    assert {name for name, row in rows.items() if row["error"]} == set(BAD)


def test_labels_describe_the_map_that_is_stored(labeled: Path):
    rows = [row for row in read_labels(labeled).to_pylist() if row["error"] is None]
    for row in rows:
        activation = decode_png16(row["activation_map"])
        assert activation.shape == (CROP_PX // 16, CROP_PX // 16)
        assert row["confidence"] == pytest.approx(np.abs(2 * activation - 1).mean(), abs=1e-4)
        lit = to_protocol(activation) > row["threshold"]
        assert row["foreground_fraction"] == pytest.approx(lit.mean(), abs=1e-3)
        cue = decode_png8(row["background_cue"])
        assert cue.shape == (row["height"], row["width"])
        assert cue.min() < 0.05
        assert 1 <= len(row["pseudo_boxes"]) <= 2
        for box in row["pseudo_boxes"]:
            assert 0 <= box["x0"] < box["x1"] <= row["width"]
            assert 0 <= box["y0"] < box["y1"] <= row["height"]
            assert 0 <= box["score"] <= 1
    assert {row["threshold_source"] for row in rows} == {"otsu"}
    assert len({row["threshold"] for row in rows}) > 1


def test_rows_and_file_name_their_checkpoint_and_config(labeled: Path, trained: Path):
    file = labeled / "one" / "0.parquet"
    metadata = pq.read_schema(file).metadata
    row = pq.read_table(file, partitioning=None).to_pylist()[0]
    assert metadata[b"c2am_dist.method"] == b"c2am"
    stored = json.loads(metadata[b"c2am_dist.config"])
    assert stored["size_px"] == CROP_PX and stored["max_boxes"] == 2
    stored = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
    assert digest(LabelConfig(**stored)) == row["config_sha256"]
    sha256 = checkpoint.read_manifest(str(trained))["sha256"]
    assert row["checkpoint_sha256"] == sha256 == metadata[b"c2am_dist.checkpoint_sha256"].decode()
    assert (row["polarity"], row["polarity_margin"]) == ("foreground", pytest.approx(0.4))


def test_inverted_p_with_opposite_polarity_gives_the_same_boxes_and_cues(
    labeled: Path, labeled_config: LabelConfig, tmp_path: Path
):
    model = random_c2am()
    with torch.no_grad():  # sigmoid(-x) = 1 - sigmoid(x)
        model.disentangler.norm.weight.neg_()
        model.disentangler.norm.bias.neg_()
    save_c2am(tmp_path / "inverted", model, polarity="background")
    inverted = str(tmp_path / "inverted")
    label(dataclasses.replace(labeled_config, checkpoint=inverted, output=str(tmp_path / "out")))
    columns = ["image_id", "pseudo_boxes", "background_cue", "activation_map"]
    same, other = (read_labels(folder).select(columns) for folder in (labeled, tmp_path / "out"))
    for ours, theirs in zip(same.to_pylist(), other.to_pylist(), strict=True):
        assert _corners(ours) == _corners(theirs)
        if ours["activation_map"]:
            a, b = (decode_png16(row["activation_map"]) for row in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=2e-5)
            a, b = (decode_png8(row["background_cue"]) for row in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=1.01 / 255)


def _corners(row: dict) -> list[tuple]:
    return [tuple(box[k] for k in ("x0", "y0", "x1", "y1")) for box in row["pseudo_boxes"] or []]


def test_the_threshold_an_evaluation_stored_is_used_and_named(
    labeled_by_a_stored_threshold: LabelConfig,
):
    rows = read_labels(Path(labeled_by_a_stored_threshold.output))
    assert set(rows["threshold"].to_pylist()) == {0.25}
    assert set(rows["threshold_source"].to_pylist()) == {"evaluation"}
    peaks = [decode_png16(data).max() for data in rows["activation_map"].to_pylist()]
    assert peaks == [1.0] * 11  # merged maps are divided by their maximum


def test_a_shard_without_images_gets_a_label_file_without_rows(labeled: Path):
    rows = pq.read_table(labeled / "two" / "2.parquet", partitioning=None)
    assert rows.num_rows == 0 and rows.schema.equals(schema.LABELS)
