"""Jobs that segmentation starts from, end to end: several classes an image, refined cues."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import schema
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.job import label
from c2am_dist.method import cues, images
from c2am_dist.method.activation import merge_scales
from c2am_dist.method.crf import refine_labels
from c2am_dist.method.sipe_model import merged_maps
from tests.checkpoints import CROP_PX
from tests.labeling.methods import (
    CLASSES,
    network_input,
    random_saliency,
    random_sipe,
    save,
    write_listed,
)
from tests.labeling.sets import make_config, photo

LISTS = [["cat"], ["bird", "dog"], [], ["bird", "cat", "dog"], ["dog"]]
ROWS = [(f"{i:02d}", photo(i, (48, 80)), LISTS[i % 5]) for i in range(11)]
SIZE = (48, 80)


@pytest.fixture(scope="module")
def listed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listed-shards")
    write_listed(folder / "a.parquet", [*ROWS[:6], ("broken", b"no picture", ["cat"])])
    write_listed(folder / "b.parquet", ROWS[6:])
    return folder


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The rows of a job in order; the broken image's is checked and left out."""
    tables = [pq.read_table(file, partitioning=None) for file in sorted(output.glob("*.parquet"))]
    assert all(table.schema.equals(schema.LABELS) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    broken = rows.pop(6)
    assert "not an image" in broken["error"] and broken["class_maps"] is None
    assert [row["image_id"] for row in rows] == [image_id for image_id, _, _ in ROWS]
    return rows


def test_sipe_labels_classes_at_the_images_size_and_a_crf_refines_its_cues(
    ray_cluster: None, listed_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("pydensecrf", reason="dense CRF is optional: pip install pydensecrf2")
    monkeypatch.setattr(pipeline, "SLOW_BLOCK_BYTES", 2000)  # a block an image
    save(tmp_path / "sipe", random_sipe(), "sipe")
    config = make_config(
        tmp_path / "sipe",
        listed_shards,
        tmp_path / "out",
        scales=(1.0, 1.5),
        flip=True,
        write_cues="image",
        refine_cues="crf",
        write_class_maps="image",
        max_error_fraction=0.1,
        num_actors=2,
    )
    assert label(config).num_errors == 1
    present = torch.tensor([[int(name in names) for name in CLASSES] for _, _, names in ROWS])
    seen = [network_input([data for _, data, _ in ROWS], px) for px in (CROP_PX, 96)]
    expected = merged_maps(random_sipe(), seen, present, size=SIZE).specific[:, 1:].numpy()
    for row, (_, data, names), maps in zip(rows_of(tmp_path / "out"), ROWS, expected, strict=True):
        found = {each["class_name"]: images.decode_png16(each["map"]) for each in row["class_maps"]}
        assert list(found) == names
        for name, one in found.items():
            np.testing.assert_allclose(one, maps[CLASSES.index(name)], atol=1e-3)
        foreground = np.max([*found.values(), np.zeros(SIZE)], axis=0)
        refined = refine_labels(images.decode(data), (foreground > 0.3).astype(int), 2)
        np.testing.assert_array_equal(images.decode_png8(row["background_cue"]), refined == 0)
        assert bool(row["pseudo_boxes"]) == bool(names)


def test_saliency_labels_and_the_filter_refines_its_cues(
    ray_cluster: None, listed_shards: Path, tmp_path: Path
):
    save(tmp_path / "saliency", random_saliency(), "saliency")
    config = make_config(
        tmp_path / "saliency",
        listed_shards,
        tmp_path / "out",
        scales=(0.5, 1.0),
        write_cues="image",
        refine_cues="guided",
        max_error_fraction=0.1,
    )
    label(config)
    seen = network_input([data for _, data, _ in ROWS])
    small = network_input([data for _, data, _ in ROWS], CROP_PX // 2)
    model = random_saliency()
    with torch.no_grad():
        maps = [model(each).sigmoid() for each in (small, seen)]
    own, large = (merge_scales(maps, size)[:, 0].numpy() for size in ((16, 16), SIZE))
    for row, (_, data, _), one, merged in zip(
        rows_of(tmp_path / "out"), ROWS, own, large, strict=True
    ):
        np.testing.assert_allclose(images.decode_png16(row["activation_map"]), one, atol=1e-3)
        refined = cues.refine_by_filter(images.decode(data), 1 - merged)
        np.testing.assert_allclose(images.decode_png8(row["background_cue"]), refined, atol=0.01)
        assert row["class_maps"] is None and row["class_name"] is None
