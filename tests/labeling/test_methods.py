"""Each method end to end on two shards: the rows against the method by hand on decoded images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import schema
from c2am_dist.config import LabelConfig
from c2am_dist.labeling.job import label
from c2am_dist.method import bridging, cam, components, ddt, views
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.images import decode_png16
from tests.checkpoints import CROP_PX
from tests.labeling.methods import (
    CLASSES,
    network_input,
    random_classifier,
    random_regressor,
    save,
    write_labeled,
)
from tests.labeling.sets import make_config, photo

ROWS = [(f"{i:02d}", photo(i), CLASSES[i % 2]) for i in range(13)]
"""Birds and cats; no method needs to see a dog."""
BROKEN = ("broken", b"no picture", "cat")


@pytest.fixture(scope="module")
def labeled_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labeled-shards")
    write_labeled(folder / "a.parquet", [*ROWS[:7], BROKEN])
    write_labeled(folder / "b.parquet", ROWS[7:])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and a plain classifier's file, in a folder."""
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "classifier", random_classifier(), "classifier")
    save(folder / "bridging", random_classifier(8), "bridging", output_stride=8)
    save(folder / "psol", random_regressor(), "psol", output_stride=32)
    model = random_classifier()
    linear = {f"fc.{name}": value for name, value in model.fc.state_dict().items()}
    torch.save(model.encoder.state_dict() | linear, folder / "plain.pth")
    return folder


def labels_of(config: LabelConfig) -> dict[str, dict[str, Any]]:
    """The rows of a job by image id, the broken image's checked and left out."""
    files = sorted(Path(config.output).rglob("*.parquet"))
    tables = [pq.read_table(file, partitioning=None) for file in files]
    assert all(table.schema.equals(schema.LABELS) for table in tables)
    rows = {row["image_id"]: row for table in tables for row in table.to_pylist()}
    assert "not an image" in rows.pop("broken")["error"]
    assert list(rows) == [image_id for image_id, _, _ in ROWS]
    return rows


@pytest.fixture(scope="module")
def ddt_config(ray_cluster: None, runs: Path, labeled_shards: Path) -> LabelConfig:
    """A finished DDT job on the classifier's encoder, by class."""
    config = make_config(
        runs / "classifier", labeled_shards, runs / "ddt", method="ddt", max_error_fraction=0.1
    )
    label(config)
    return config


def test_cam_shows_the_images_own_class_and_its_factors(
    ray_cluster: None, runs: Path, labeled_shards: Path
):
    config = make_config(
        runs / "classifier", labeled_shards, runs / "cam", write_decomposition=True, size_px=96
    )
    label(config)
    rows, model = labels_of(config), random_classifier()
    with torch.no_grad():
        seen = network_input([data for _, data, _ in ROWS], 96)
        features = model.encoder.last_stage(model.encoder(seen))
        index = torch.tensor([CLASSES.index(name) for _, _, name in ROWS])
        expected = cam.class_activation_maps(features, model.fc, index).activation
        similarity = bridging.decompose(features, model.fc.weight, index).similarity
        norms = bridging.norm_map(features)
    for i, (row, (_, _, name)) in enumerate(zip(rows.values(), ROWS, strict=True)):
        assert (row["class_name"], row["polarity"], row["polarity_margin"]) == (name, None, None)
        for column, values in (
            ("activation_map", expected),
            ("norm_map", norms),
            ("similarity_map", (similarity + 1) / 2),
        ):
            np.testing.assert_allclose(decode_png16(row[column]), values[i, 0], atol=1e-4)
        assert len(row["pseudo_boxes"]) == 1 and row["threshold_source"] == "otsu"
    metadata = pq.read_schema(Path(config.output) / "a.parquet").metadata
    assert metadata[b"c2am_dist.method"] == b"cam"
    assert b'"method":"cam"' in metadata[b"c2am_dist.config"]


def test_bridging_runs_at_its_stride_and_shows_the_class_predicted_at_full_scale(
    ray_cluster: None, runs: Path, labeled_shards: Path
):
    config = make_config(
        runs / "bridging",
        labeled_shards,
        runs / "bridged",
        classes="predicted",
        scales=(0.5, 1.0),
        flip=True,
    )
    label(config)
    model = random_classifier(8)
    with torch.no_grad():
        predicted = model(network_input([data for _, data, _ in ROWS])).argmax(dim=1)
    for row, index in zip(labels_of(config).values(), predicted, strict=True):
        assert row["class_name"] == CLASSES[index]
        activation = decode_png16(row["activation_map"])
        assert activation.shape == (CROP_PX // 8, CROP_PX // 8) and activation.max() == 1


def _transform(data: list[bytes]) -> ddt.DescriptorTransform:
    """By NumPy, of all features at once."""
    model = random_classifier()
    with torch.no_grad():
        features = model.encoder.last_stage(model.encoder(network_input(data))).double()
    descriptors = features.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    mean = descriptors.mean(axis=0)
    component = np.linalg.svd(descriptors - mean, full_matrices=False)[2][0]
    component *= np.sign(component[np.abs(component).argmax()])
    return ddt.DescriptorTransform(torch.tensor(mean), torch.tensor(component), 1.0)


def _assert_heat(rows: dict[str, dict[str, Any]], by_class: dict[str, list[bytes]]) -> None:
    model = random_classifier()
    transforms = {name: _transform(data) for name, data in by_class.items()}
    for image_id, data, name in ROWS:
        with torch.no_grad():
            features = model.encoder.last_stage(model.encoder(network_input([data])))
        heat = ddt.heat_maps(features, transforms.get(name) or transforms[""])
        expected = ddt.positive_part(heat)[0, 0].numpy()
        row = rows[image_id]
        np.testing.assert_allclose(decode_png16(row["activation_map"]), expected, atol=1e-3)
        size = (row["height"], row["width"])
        boxes = [[box[k] for k in ("x0", "y0", "x1", "y1")] for box in row["pseudo_boxes"]]
        assert boxes == components.component_box(heat[0, 0].numpy(), size).tolist()
        assert (row["threshold"], row["threshold_source"]) == (0.0, "ddt")


def test_ddt_finds_what_all_features_at_once_say_by_class(ddt_config: LabelConfig):
    rows = labels_of(ddt_config)
    by_class = {c: [d for _, d, name in ROWS if name == c] for c in CLASSES[:2]}
    _assert_heat(rows, by_class)
    assert [row["class_name"] for row in rows.values()] == [name for _, _, name in ROWS]


def test_ddt_over_the_set_takes_a_plain_classifiers_encoder_and_no_labels(
    ray_cluster: None, runs: Path, labeled_shards: Path
):
    config = make_config(
        runs / "plain.pth",
        labeled_shards,
        runs / "ddt-set",
        method="ddt",
        encoder="resnet18",
        ddt_scope="set",
        size_px=CROP_PX,
    )
    label(config)
    rows = labels_of(config)
    _assert_heat(rows, {"": [data for _, data, _ in ROWS]})
    assert {row["class_name"] for row in rows.values()} == {None}


def test_a_ddt_job_cut_off_in_pass_two_goes_on_with_pass_ones_result(
    ddt_config: LabelConfig, monkeypatch: pytest.MonkeyPatch
):
    whole = Path(ddt_config.output)
    output = shutil.copytree(whole, whole.with_name("ddt-cut-off"))
    for name in ("_SUCCESS", "b.parquet"):
        (output / name).unlink()
    there = (output / "_ddt.npz").stat().st_mtime_ns
    config = make_config(
        Path(ddt_config.checkpoint), Path(ddt_config.input[0]), output, method="ddt", num_actors=2
    )
    assert label(config).num_new == 6
    assert (output / "_ddt.npz").stat().st_mtime_ns == there
    for path in whole.rglob("*"):
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name


def test_ddts_first_pass_is_the_same_for_any_number_of_actors(
    ddt_config: LabelConfig, monkeypatch: pytest.MonkeyPatch
):
    whole = Path(ddt_config.output)
    output = shutil.copytree(whole, whole.with_name("ddt-begun"))
    for name in ("_SUCCESS", "_ddt.npz", "b.parquet"):
        (output / name).unlink()
    config = make_config(
        Path(ddt_config.checkpoint), Path(ddt_config.input[0]), output, method="ddt", num_actors=2
    )
    from c2am_dist.labeling import descriptors

    monkeypatch.setattr(descriptors, "HELD_BYTES", 1)
    label(config)
    assert (output / "_ddt.npz").read_bytes() == (whole / "_ddt.npz").read_bytes()


def test_psols_boxes_are_those_of_the_regressor_in_pixels_of_the_image(
    ray_cluster: None, runs: Path, labeled_shards: Path
):
    config = make_config(runs / "psol", labeled_shards, runs / "boxes")
    label(config)
    with torch.no_grad():
        relative = random_regressor()(network_input([data for _, data, _ in ROWS])).numpy()
    view = views.centre_view(resize_px=CROP_PX, crop_px=CROP_PX)
    for row, each in zip(labels_of(config).values(), relative, strict=True):
        (box,) = row["pseudo_boxes"]
        expected = views.image_boxes(each[None], (row["height"], row["width"]), view)[0]
        found = [box[k] for k in ("x0", "y0", "x1", "y1")]
        np.testing.assert_allclose(found, expected, atol=0.51)
        assert box["score"] == 1 and row["activation_map"] is row["threshold"] is None
        assert row["threshold_source"] is row["confidence"] is row["polarity"] is None
    assert build_encoder("resnet18", output_stride=32).num_features == 512
