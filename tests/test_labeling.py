import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import checkpoint, schema
from c2am_dist.assumptions import PlanConfig
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import LabelConfig, digest
from c2am_dist.data import label_set
from c2am_dist.forecast import Cluster
from c2am_dist.labeling import dry_run, label
from c2am_dist.labeling.pipeline import _block_bytes, _resources
from c2am_dist.labeling.stages import ModelActor, decode_run
from c2am_dist.method.activation import Polarity
from c2am_dist.method.boxes import to_protocol
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.images import decode_png8, decode_png16

PX = 64
BAD = {"cut": "unreadable JPEG", "text": "not an image", "empty": "empty file"}


def _photo(seed: int, size: tuple[int, int] = (48, 80), extension: str = ".jpg") -> bytes:
    """A smooth random pattern with one bright blob, height and width as given."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 120, (6, 8, 3), np.uint8), size[::-1])
    centre = (int(rng.integers(15, size[1] - 15)), int(rng.integers(15, size[0] - 15)))
    cv2.circle(image, centre, 10, (250, 230, 60), -1)
    return cv2.imencode(extension, image)[1].tobytes()


def _write_shard(path: Path, images: dict[str, bytes], row_group_size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"image_id": list(images), "image": pa.array(images.values(), pa.binary())},
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def _model(encoder: str = "resnet18") -> C2AM:
    """Random weights whose BatchNorm has seen some images, so that maps vary."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = C2AM(build_encoder(encoder))
    with torch.no_grad():
        for _ in range(8):
            model.train()(torch.rand(8, 3, PX, PX) * 4 - 2)
    return model.eval()


def _save(uri: Path, model: C2AM, **changes: object) -> str:
    saved = Checkpoint(
        method="c2am",
        encoder="resnet18",
        model=model.state_dict(),
        optimizer={},
        step=10,
        total_steps=10,
        classes=[],
        polarity="foreground",
        polarity_margin=0.4,
        border_lock=0.0,
        crop_px=PX,
        weights_sha256="",
        config="{}",
    )
    return checkpoint.save(str(uri), dataclasses.replace(saved, **changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    _save(folder, _model())
    return folder


@pytest.fixture(scope="module")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 11 and 7 images in different folders; three images are broken."""
    folder = tmp_path_factory.mktemp("shards")
    first = {f"a{i:02d}": _photo(i) for i in range(11)}
    second = {f"b{i}": _photo(100 + i, (70, 50)) for i in range(4)}
    second |= {"cut": _photo(0)[:700], "text": b"no picture", "empty": b""}
    _write_shard(folder / "one" / "0.parquet", first)
    _write_shard(folder / "two" / "0.parquet", second)
    return folder


def _config(trained: Path, image_set: Path, output: Path, **changes: object) -> LabelConfig:
    config = LabelConfig(
        checkpoint=str(trained),
        input=(str(image_set),),
        output=str(output),
        batch_size=4,
        num_actors=1,
    )
    return dataclasses.replace(config, **changes)


def _read(output: Path) -> pa.Table:
    files = sorted(output.rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])


@pytest.fixture(scope="module")
def labeled(
    ray_cluster: None, trained: Path, image_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("labels")
    report = label(_config(trained, image_set, output, write_cues="image", max_boxes=2))
    assert (report.num_images, report.num_errors, report.num_files) == (18, 3, 2)
    return output


def test_every_image_has_one_row_in_the_order_of_its_shard(labeled: Path, image_set: Path):
    for name, height, width in (("one/0.parquet", 48, 80), ("two/0.parquet", 70, 50)):
        rows = pq.read_table(labeled / name, partitioning=None)
        assert rows.schema.equals(schema.LABELS)
        shard = pq.read_table(image_set / name, partitioning=None)
        assert rows["image_id"].to_pylist() == shard["image_id"].to_pylist()
        assert set(rows["shard"].to_pylist()) == {"0.parquet"}
        good = rows.filter(pa.compute.is_null(rows["error"])).to_pylist()
        assert {(row["height"], row["width"]) for row in good} == {(height, width)}


def test_a_dry_run_counts_the_images_still_to_label_and_writes_nothing(
    labeled: Path, trained: Path, image_set: Path, tmp_path: Path
):
    def planned(output: Path) -> int:
        config = _config(trained, image_set, output)
        return dry_run(config, PlanConfig(), Cluster(num_machines=1, num_cpus=4)).num_images

    shutil.copytree(labeled, tmp_path / "cut-off")
    (tmp_path / "cut-off" / "one" / "0.parquet").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert planned(tmp_path / "new") == len(_read(labeled)) == 18
    assert planned(tmp_path / "cut-off") == 11
    assert planned(labeled) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_images_become_rows_that_say_why(labeled: Path):
    rows = {row["image_id"]: row for row in _read(labeled).to_pylist()}
    for image_id, reason in BAD.items():
        assert reason in rows[image_id]["error"]
        assert rows[image_id]["pseudo_boxes"] is rows[image_id]["activation_map"] is None
    assert {name for name, row in rows.items() if row["error"]} == set(BAD)


def test_labels_describe_the_map_that_is_stored(labeled: Path):
    rows = [row for row in _read(labeled).to_pylist() if row["error"] is None]
    for row in rows:
        activation = decode_png16(row["activation_map"])
        assert activation.shape == (PX // 16, PX // 16)
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
    stored = json.loads(metadata[b"c2am_dist.config"])
    assert stored["size_px"] == PX and stored["max_boxes"] == 2
    stored = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
    assert digest(LabelConfig(**stored)) == row["config_sha256"]
    sha256 = checkpoint.read_manifest(str(trained))["sha256"]
    assert row["checkpoint_sha256"] == sha256 == metadata[b"c2am_dist.checkpoint_sha256"].decode()
    assert (row["polarity"], row["polarity_margin"]) == ("foreground", pytest.approx(0.4))


def test_labeling_again_with_more_actors_gives_identical_rows(
    labeled: Path, trained: Path, image_set: Path, tmp_path: Path
):
    again = _config(
        trained, image_set, tmp_path / "out", write_cues="image", max_boxes=2, num_actors=2
    )
    label(again)
    assert _read(tmp_path / "out").equals(_read(labeled))


def test_inverted_p_with_opposite_polarity_gives_the_same_boxes_and_cues(
    labeled: Path, image_set: Path, tmp_path: Path
):
    model = _model()
    with torch.no_grad():  # sigmoid(-x) = 1 - sigmoid(x)
        model.disentangler.norm.weight.neg_()
        model.disentangler.norm.bias.neg_()
    _save(tmp_path / "inverted", model, polarity="background")
    label(
        _config(tmp_path / "inverted", image_set, tmp_path / "out", write_cues="image", max_boxes=2)
    )
    columns = ["image_id", "pseudo_boxes", "background_cue", "activation_map"]
    same, other = (_read(folder).select(columns) for folder in (labeled, tmp_path / "out"))
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
    ray_cluster: None, image_set: Path, tmp_path: Path
):
    _save(tmp_path / "run" / "checkpoint", _model())
    stored = tmp_path / "run" / "checkpoint" / "threshold.json"
    stored.write_text(json.dumps({"threshold": 0.25}))
    config = _config(
        tmp_path / "run", image_set / "one", tmp_path / "out", scales=(0.5, 1.0), flip=True
    )
    label(config)
    rows = _read(tmp_path / "out")
    assert set(rows["threshold"].to_pylist()) == {0.25}
    assert set(rows["threshold_source"].to_pylist()) == {"evaluation"}
    peaks = [decode_png16(data).max() for data in rows["activation_map"].to_pylist()]
    assert peaks == [1.0] * 11  # merged maps are divided by their maximum


def test_with_flip_a_mirrored_image_has_the_mirrored_map(ray_cluster: None):
    import ray

    config = LabelConfig(scales=(1.0, 1.5), flip=True, batch_size=4)
    actor = ModelActor(ray.put(_model()), config, Polarity.FOREGROUND, 1)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (3, px, px, 3), np.uint8) for px in (PX, PX * 3 // 2)]
    maps, mirrored = (
        actor({"pixels_0": a, "pixels_1": b})["activation"]
        for a, b in (pixels, [p[:, :, ::-1].copy() for p in pixels])
    )
    assert maps.shape == (3, 6, 6)
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], atol=1e-5)
    assert np.abs(maps - maps[:, :, ::-1]).max() > 0.01


def test_runs_are_decoded_in_whole_batches_across_row_groups(tmp_path: Path):
    images = {f"{i}": _photo(i) for i in range(19)}
    shard = _write_shard(tmp_path / "s.parquet", images, row_group_size=3)
    run = pa.table({"uri": [str(shard)], "indices": [list(range(7))], "num_rows": [19]})
    batches = list(decode_run(run, sizes_px=[32, 64], batch_size=8, max_pixels=1e6))
    assert [len(batch["image_id"]) for batch in batches] == [8, 8, 3]
    assert np.concatenate([b["image_id"] for b in batches]).tolist() == list(images)
    assert batches[2]["pixels_1"].shape == (3, 64, 64, 3)


@pytest.mark.parametrize(
    ("sizes_px", "batch_size"), [([224], 32), ([448], 16), ([112, 224, 448], 64), ([64], 4)]
)
def test_blocks_hold_whole_batches(ray_cluster: None, sizes_px: Sequence[int], batch_size: int):
    from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

    target = _block_bytes(sizes_px, batch_size, at_most=16 * 2**20)
    buffer = BlockOutputBuffer(OutputBlockSizeOption(target_max_block_size=target))
    batch = {
        f"pixels_{k}": np.zeros((batch_size, px, px, 3), np.uint8) for k, px in enumerate(sizes_px)
    }
    batch["image_id"] = np.array([f"n01498041/some-{i}" for i in range(batch_size)])
    rows = []
    for _ in range(5):
        buffer.add_batch(batch)
        rows += [block.num_rows for block in buffer.iter_ready_blocks()]
    assert all(num_rows % batch_size == 0 for num_rows in rows)


def test_the_same_command_again_finds_the_labels_finished(
    labeled: Path, trained: Path, image_set: Path
):
    before = {file: file.stat().st_mtime_ns for file in labeled.rglob("*.parquet")}
    report = label(_config(trained, image_set, labeled, write_cues="image", max_boxes=2))
    assert (report.num_images, report.num_new, report.num_errors) == (18, 0, 3)
    assert before == {file: file.stat().st_mtime_ns for file in labeled.rglob("*.parquet")}


def test_success_lists_every_file_with_its_rows_and_digest(labeled: Path):
    files = label_set.sealed(str(labeled))
    assert files is not None
    assert [(f.name, f.num_rows, f.num_errors) for f in files] == [
        ("one/0.parquet", 11, 0),
        ("two/0.parquet", 7, 3),
    ]
    for file in files:
        assert hashlib.sha256((labeled / file.name).read_bytes()).hexdigest() == file.sha256


def test_only_shards_without_a_label_file_are_labeled_again(
    labeled: Path, trained: Path, image_set: Path, tmp_path: Path
):
    out = shutil.copytree(labeled, tmp_path / "out")
    (out / "_SUCCESS").unlink()
    (out / "two" / "0.parquet").unlink()
    kept = (out / "one" / "0.parquet").stat().st_mtime_ns
    report = label(_config(trained, image_set, out, write_cues="image", max_boxes=2))
    assert (report.num_images, report.num_new, report.num_errors) == (18, 7, 3)
    assert (out / "one" / "0.parquet").stat().st_mtime_ns == kept
    for name in ("one/0.parquet", "two/0.parquet", "_SUCCESS"):
        assert (out / name).read_bytes() == (labeled / name).read_bytes()


def test_another_config_into_the_same_folder_is_refused_with_both_digests(
    labeled: Path, trained: Path, image_set: Path
):
    begun = json.loads((labeled / "_plan.json").read_text())
    with pytest.raises(ValueError, match="holds files of another job") as caught:
        label(_config(trained, image_set, labeled, threshold=0.3))
    digests = re.findall("config_sha256 was ([0-9a-f]{64}), now ([0-9a-f]{64})", str(caught.value))
    assert digests[0][0] == begun["config_sha256"] != digests[0][1]


def test_a_foreign_file_under_a_label_files_name_is_refused(
    ray_cluster: None, labeled: Path, trained: Path, image_set: Path, tmp_path: Path
):
    out = shutil.copytree(labeled, tmp_path / "out")
    (out / "_SUCCESS").unlink()
    table = pq.read_table(out / "two" / "0.parquet", partitioning=None)
    pq.write_table(table.replace_schema_metadata({}), out / "two" / "0.parquet")
    with pytest.raises(ValueError, match=r"two/0\.parquet: its checkpoint_sha256 is absent"):
        label(_config(trained, image_set, out, write_cues="image", max_boxes=2))


def test_a_shard_without_images_gets_a_label_file_without_rows(
    ray_cluster: None, trained: Path, tmp_path: Path
):
    _write_shard(tmp_path / "in" / "0.parquet", {"a": _photo(0)})
    pq.write_table(schema.SHARD.empty_table(), tmp_path / "in" / "1.parquet")
    report = label(_config(trained, tmp_path / "in", tmp_path / "out"))
    assert (report.num_images, report.num_files) == (1, 2)
    assert pq.read_table(tmp_path / "out" / "1.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("num_actors", "use_gpu", "cpus", "gpus", "expected"),
    [
        (None, None, 8, 0, (8, 0.0)),
        (None, None, 32, 4, (4, 1.0)),
        (8, None, 32, 4, (8, 0.5)),
        (None, False, 32, 4, (32, 0.0)),
        (6, True, 0, 0, (6, 1.0)),
    ],
)
def test_actors_follow_from_the_cluster_unless_told_otherwise(
    num_actors, use_gpu, cpus, gpus, expected
):
    shares = _resources(num_actors, use_gpu, cpus=cpus, gpus=gpus)
    assert (shares.num_actors, shares.actor_gpus) == expected


@pytest.mark.parametrize(("use_gpu", "field"), [(None, "use_gpu"), (True, "num_actors")])
def test_a_cluster_scaled_to_zero_must_be_told_what_to_ask_for(use_gpu, field: str):
    with pytest.raises(ValueError, match=f"{field} must be given: the cluster has no"):
        _resources(None, use_gpu, cpus=0, gpus=0)


def test_a_used_output_folder_is_refused(trained: Path, image_set: Path, tmp_path: Path):
    (tmp_path / "labels.parquet").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"must not hold files yet, found labels\.parquet"):
        label(_config(trained, image_set, tmp_path))


def test_what_was_not_given_is_named():
    with pytest.raises(ValueError, match="input must be given"):
        label(LabelConfig(checkpoint="somewhere", output="elsewhere"))


def test_missing_paths_are_named(trained: Path, image_set: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        label(_config(tmp_path / "nowhere", image_set, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="nothing"):
        label(_config(trained, tmp_path / "nothing", tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"threshold\.json: no evaluation"):
        label(_config(trained, image_set, tmp_path / "out", threshold="evaluation"))


def test_a_corrupt_checkpoint_is_named(image_set: Path, tmp_path: Path):
    _save(tmp_path / "corrupt", _model())
    file = tmp_path / "corrupt" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"corrupt: checkpoint\.pt has SHA-256"):
        label(_config(tmp_path / "corrupt", image_set, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet34"}, "other: the weights are not those of a C2AM with resnet34"),
        ({"encoder": "alexnet"}, "other: .*'alexnet'"),
        ({"method": "classifier"}, "other: method 'classifier' has no activation map"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    changes: dict[str, str], message: str, image_set: Path, tmp_path: Path
):
    _save(tmp_path / "other", _model(), **changes)
    with pytest.raises(CheckpointError, match=message):
        label(_config(tmp_path / "other", image_set, tmp_path / "out"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"image_id": ["a"]}), r"bad\.parquet: column 'image' is missing"),
        (
            pa.table({"image_id": [1], "image": [b""]}),
            r"bad\.parquet: column 'image_id' is int64, expected string",
        ),
        (schema.SHARD.empty_table(), "the shards hold no image"),
    ],
)
def test_unusable_shards_are_named(table: pa.Table, message: str, trained: Path, tmp_path: Path):
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=message):
        label(_config(trained, tmp_path / "bad.parquet", tmp_path / "out"))


def test_too_many_errors_end_the_job_with_status_1(
    ray_cluster: None, trained: Path, image_set: Path, tmp_path: Path
):
    import ray

    job = Path(__file__).resolve().parents[1] / "jobs" / "label.py"
    flags = f"--checkpoint {trained} --input {image_set / 'two'} --output {tmp_path / 'out'}"
    done = subprocess.run(
        [sys.executable, str(job), *flags.split(), "--max-error-fraction", "0.3"],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        cwd=job.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert "7 images in 1 files, 3 with errors" in done.stdout
    assert "42.9% of the images could not be labeled" in done.stderr
    assert len(_read(tmp_path / "out")) == 7
