"""The whole job: label sets and folders to files of masks and PNGs; what it goes on with."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.config import override
from c2am_dist.data import label_set
from c2am_dist.method import cues
from c2am_dist.method.images import decode_mask, decode_png8, encode_png8
from c2am_dist.method.label_maps import VOC, palette
from c2am_dist.method.refine import refine as compete
from c2am_dist.refinement import refine
from tests.refinement.sets import (
    CHECKPOINT,
    SIZE,
    Scene,
    flat,
    ramp,
    rows_of,
    write_npy,
    write_set,
    write_shards,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = (5, 7)
FILES = {
    "one/0.parquet": {
        "two classes": Scene(
            labels=["person", "dog"],
            maps={"person": ramp(), "dog": ramp(flip=True)},
            cue=flat(0.6),
        ),
        "small maps": Scene(
            labels=["cat"], maps={"cat": ramp(size=SMALL)}, cue=ramp(size=(9, 9), flip=True)
        ),
        "no object": Scene(labels=[], maps={}, cue=flat(0.0)),
    },
    "two/0.parquet": {
        "unknown": Scene(maps=None, cue=flat(0.5)),
        "classes of a guess": Scene(maps={"cow": flat(0.7)}, cue=flat(0.5)),
        "no map of one": Scene(labels=["bird", "cow", "sofa"], maps={"cow": ramp()}, cue=flat(0.5)),
        "no cue": Scene(labels=["cow"], maps={"cow": ramp()}, cue=None),
        "of fewer classes": Scene(
            labels=["cow"], maps={"cow": flat(0.7), "bird": flat(0.9)}, cue=flat(0.5)
        ),
        "broken": Scene(
            labels=["cow"],
            cue=flat(0.5),
            changes={"error": "cut off", "width": None, "height": None},
        ),
    },
    "two/empty.parquet": {},
}


@pytest.fixture(scope="module")
def refined(ray_cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refined")
    report = refine(write_set(root, FILES))
    assert (report.num_images, report.num_errors, report.num_files) == (9, 4, 3)
    assert report.num_new == 9
    return root / "masks"


def test_each_pixel_goes_to_the_brightest_channel_at_the_images_size(refined: Path):
    row = rows_of(refined)["two classes"]
    mask = decode_mask(row["pseudo_mask"])
    dog, person = VOC.id_of("dog"), VOC.id_of("person")
    expected = np.where(ramp() > 0.6, person, np.where(ramp(flip=True) > 0.6, dog, 0))
    np.testing.assert_array_equal(mask, expected)
    assert row["classes"] == ["dog", "person"]  # in the order of ids
    assert (row["background"], row["threshold"], row["refinement"]) == ("cue", None, "none")
    assert (row["maps_sha256"], row["cues_sha256"]) == tuple(CHECKPOINT.values())
    assert (row["height"], row["width"], row["shard"]) == (*SIZE, "0.parquet")


def test_small_maps_and_cues_are_enlarged(refined: Path):
    row = rows_of(refined)["small maps"]
    scene = FILES["one/0.parquet"]["small maps"]
    cue = cues.enlarge(decode_png8(encode_png8(scene.cue)), SIZE)
    cat = VOC.id_of("cat")
    expected = compete(cues.enlarge(scene.maps["cat"], SIZE)[None], cue, np.array([0, cat]))
    differing = (decode_mask(row["pseudo_mask"]) != expected).mean()
    assert differing < 0.02  # ties, which 16 bits decide
    assert set(np.unique(expected)) == {0, cat}


def test_image_without_classes_is_all_background(refined: Path):
    row = rows_of(refined)["no object"]
    assert row["error"] is None and row["classes"] == []
    mask = decode_mask(row["pseudo_mask"])
    assert mask.shape == SIZE and not mask.any()


def test_of_known_classes_no_others_compete(refined: Path):
    rows = rows_of(refined)
    assert rows["of fewer classes"]["classes"] == ["cow"]
    assert rows["classes of a guess"]["classes"] == ["cow"]
    for name in ("of fewer classes", "classes of a guess"):
        assert (decode_mask(rows[name]["pseudo_mask"]) == VOC.id_of("cow")).all()


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        ("unknown", "its classes are not known"),
        ("no map of one", "no class map of bird, sofa"),
        ("no cue", "label with --write-cues"),
        ("broken", "no class maps: cut off"),
    ],
)
def test_image_that_gets_no_mask_is_a_row_with_the_reason(
    refined: Path, image_id: str, message: str
):
    row = rows_of(refined)[image_id]
    assert message in row["error"]
    assert row["pseudo_mask"] is None and row["classes"] is None
    assert row["width"] == SIZE[1]


def test_files_say_what_ids_mean_and_keep_the_shards_rows(refined: Path):
    for name, scenes in FILES.items():
        with pq.ParquetFile(refined / name) as file:
            assert file.schema_arrow.remove_metadata() == schema.PSEUDO_MASKS
            assert file.read()["image_id"].to_pylist() == list(scenes)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            assert sizes == {6: [2, 2, 2], 3: [2, 1], 0: [0]}[len(scenes)]
            metadata = file.schema_arrow.metadata
        assert metadata[b"c2am_dist.method"] == b"sipe+cue"
        assert json.loads(metadata[b"c2am_dist.label_map"]) == list(VOC.names)
        assert json.loads(metadata[b"c2am_dist.published_ids"]) == list(range(21))


def test_png_files_are_the_masks_in_vocs_colours(refined: Path):
    from PIL import Image

    rows = rows_of(refined)
    made = {name: row for name, row in rows.items() if row["error"] is None}
    assert len(list((refined / "png").rglob("*"))) == len(made)
    data = (refined / "png" / "two~20classes.png").read_bytes()
    assert data == rows["two classes"]["pseudo_mask"]
    with Image.open(refined / "png" / "two~20classes.png") as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(colours, palette()[decode_mask(data)])


def test_same_command_goes_on_and_makes_the_same_bytes(refined: Path, tmp_path: Path, capsys):
    config = write_set(tmp_path, FILES)
    refine(config)
    root = tmp_path / "masks"
    whole = {path: path.read_bytes() for path in root.rglob("*.parquet")}
    for name in ("_SUCCESS", "two/0.parquet"):
        (root / name).unlink()
    assert refine(override(config, {"num_tasks": 1})).num_new == 6
    assert "2 of 3 files are there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in root.rglob("*.parquet")} == whole
    assert refine(config).num_new == 0
    assert "already finished" in capsys.readouterr().out
    assert len(label_set.expand([str(root)])) == 3
    for name in ("one/0.parquet", "two/empty.parquet"):  # digests of URIs differ, masks do not
        masks = [pq.read_table(folder / name)["pseudo_mask"] for folder in (root, refined)]
        assert masks[0] == masks[1]


@pytest.mark.parametrize("changes", [{"refinement": "guided"}, {"write_png": False}])
def test_another_job_is_refused(refined: Path, changes: dict):
    root = refined.parent
    config = write_set_again(root)
    with pytest.raises(ValueError, match="another job: config_sha256 was"):
        refine(override(config, changes))


def write_set_again(root: Path):
    from c2am_dist.config import RefineConfig

    return RefineConfig(
        images=(str(root / "shards"),),
        maps=(str(root / "class_maps"),),
        cues=(str(root / "background_cue"),),
        output=str(root / "masks"),
    )


def test_changed_maps_are_another_job(tmp_path: Path):
    scenes = {"0.parquet": {"a": Scene(maps={"cow": ramp()}, cue=flat(0.5))}}
    config = write_set(tmp_path, scenes)
    refine(config)
    (tmp_path / "class_maps/0.parquet").unlink()
    (tmp_path / "class_maps/_SUCCESS").unlink()
    scenes["0.parquet"]["a"].maps["dog"] = ramp()
    from tests.refinement.sets import write_labels

    write_labels(tmp_path, scenes, "class_maps")
    with pytest.raises(ValueError, match="another job: maps_listing_sha256 was"):
        refine(config)


def test_golden_mask_comes_from_npy_files_and_a_threshold(golden: Path, tmp_path: Path):
    data = np.load(golden / "wsss.npz")
    size = data["ground_truth"].shape
    ids = data["keys"][1:].tolist()
    files = {"0.parquet": {"a/golden": Scene(), "lacks": Scene()}}
    images = write_shards(tmp_path, files, height=size[0], width=size[1])
    write_npy(
        tmp_path / "npy", "a/golden", {i - 1: one for i, one in zip(ids, data["cams"], strict=True)}
    )
    from c2am_dist.config import RefineConfig

    output = tmp_path / "masks"
    config = RefineConfig(
        images=(images,), maps=(str(tmp_path / "npy"),), output=str(output), threshold=0.3
    )
    report = refine(config)
    assert report.num_errors == 1
    rows = rows_of(output)
    mask = decode_mask(rows["a/golden"]["pseudo_mask"])
    np.testing.assert_array_equal(mask, data["thresholded_03"])
    assert rows["a/golden"]["threshold"] == pytest.approx(0.3)
    assert rows["a/golden"]["background"] == "threshold"
    assert rows["a/golden"]["cues_sha256"] is None
    assert "lacks.npy: no such file" in rows["lacks"]["error"]
    assert (output / "png/a/golden.png").is_file()
    metadata = pq.read_schema(output / "0.parquet").metadata
    assert metadata[b"c2am_dist.method"] == b"cam+threshold"
