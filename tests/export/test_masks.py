"""Pseudo masks in other tools' formats, through their readers, and back: the same masks."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from c2am_dist import names
from c2am_dist.data import label_map_files
from c2am_dist.export import ExportReport, MaskExportReport, run_length
from c2am_dist.method import images, label_maps
from c2am_dist.method.label_maps import LabelMap
from tests.export.sets import SET, files, run
from tests.export.test_formats import prepared
from tests.files import ROOT
from tests.labeled import picture, write_set
from tests.masked import CUES, MAPS, Masked, blobs, masked, write_masks

RARE = LabelMap(names=("background", "mug", "Löwe & <b>", "cup"), published_ids=(0, 47, 9, 90))
"""Of ids that a data set of its own would have."""


def _random_set() -> dict[str, Masked]:
    """Images of odd sizes with masks of all kinds: noise, stripes, nothing, everything."""
    rng = np.random.default_rng(0)
    found = {}
    for index in range(12):
        height, width = (int(side) for side in rng.integers(3, 90, 2))
        ids = tuple(int(i) for i in rng.integers(1, 4, index % 4))
        found[f"{'ab'[index % 2]}/image {index // 2}"] = masked(blobs((height, width), ids, index))
    found["noise"] = masked(rng.integers(0, 4, (17, 23)).astype(np.uint8))
    found["whole"] = masked(np.full((7, 9), 2, np.uint8))
    found["pixel"] = masked(np.array([[3]], np.uint8))
    found["broken"] = Masked(picture(), np.zeros((30, 40), np.uint8), error="no map")
    return found


IMAGES = _random_set()
EXPECTED = {image_id: each.mask for image_id, each in IMAGES.items() if each.error is None}
NUM_EMPTY = sum(not mask.any() for mask in EXPECTED.values())


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return write_masks(tmp_path, IMAGES, label_map=RARE, per_file=5)


@pytest.fixture
def exported(inputs: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    def made(kind: str, **options: Any) -> Path:
        report = run(inputs, tmp_path / "out" / kind, format=kind, **options)
        assert report == MaskExportReport(
            num_images=len(EXPECTED),
            num_empty=NUM_EMPTY,
            num_left_out=0,
            num_errors=1,
            num_rewritten=0,
        )
        return tmp_path / "out" / kind

    return made


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        colours = np.array(image.getpalette()).reshape(-1, 3)
        assert (colours == label_maps.palette()[: len(colours)]).all()
        return np.asarray(image)


def test_voc_holds_the_same_masks_in_its_colours(exported: Callable[..., Path]):
    out = exported("voc", split="pseudo")
    listed = (out / "ImageSets/Segmentation/pseudo.txt").read_text().split()
    assert listed == [names.file_path(image_id) for image_id in EXPECTED]
    assert (out / "classes.txt").read_text() == "mug\nLöwe & <b>\ncup\n"
    for image_id, mask in EXPECTED.items():
        name = names.file_path(image_id)
        np.testing.assert_array_equal(_read_png(out / f"SegmentationClass/{name}.png"), mask)
        assert (out / f"JPEGImages/{name}.jpg").read_bytes() == IMAGES[image_id].image
    assert not list(out.rglob("broken*"))


def test_prepare_reads_the_masks_of_a_voc_export_back(tmp_path: Path):
    flat = {f"image-{i}": each for i, each in enumerate(IMAGES.values())}
    run(write_masks(tmp_path, flat, label_map=RARE), tmp_path / "voc", format="voc")
    _, rows = prepared(tmp_path / "voc", "voc")
    assert {row["image_id"] for row in rows} == {i for i, m in flat.items() if m.error is None}
    for row in rows:
        mask = flat[row["image_id"]].mask
        np.testing.assert_array_equal(images.decode_mask(row["mask"]), mask)
        assert row["labels"] == sorted(RARE.name_of(i) for i in set(mask[mask > 0].tolist()))


def test_a_folder_of_masks_reads_back(exported: Callable[..., Path]):
    out = exported("masks", with_images=False, images=())
    for image_id, mask in EXPECTED.items():
        np.testing.assert_array_equal(_read_png(out / f"masks/{image_id}.png"), mask)
    there = files(out).keys()
    assert there == {f"masks/{i}.png" for i in EXPECTED} | {
        "label_map.txt",
        "_plan.json",
        "_SUCCESS",
    }


def test_the_written_label_map_is_one_that_flags_take(exported: Callable[..., Path]):
    read = label_map_files.read(str(exported("masks") / "label_map.txt"))
    assert read.names == RARE.names and read.published_ids == (0, 1, 2, 3)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of its own
def test_pycocotools_decodes_the_same_masks(exported: Callable[..., Path]):
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    read = coco.COCO(str(exported("coco") / "annotations/instances_train.json"))
    named = {c["id"]: c["name"] for c in read.loadCats(read.getCatIds())}
    assert named == {47: "mug", 9: "Löwe & <b>", 90: "cup"}
    ids = {47: 1, 9: 2, 90: 3}
    for image in read.loadImgs(read.getImgIds()):
        expected = EXPECTED[image["image_id"]]
        found = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=[image["id"]])):
            part = read.annToMask(annotation).astype(bool)
            assert not found[part].any(), "a pixel is in two parts"
            found[part] = ids[annotation["category_id"]]
            rows, columns = np.nonzero(part)
            x, y = int(columns.min()), int(rows.min())
            size = [int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
            assert annotation["bbox"] == [x, y, *size] and annotation["area"] == part.sum()
            num_parts, _ = cv2.connectedComponents(part.astype(np.uint8), connectivity=8)
            assert num_parts == 2, "the background and one part"
        np.testing.assert_array_equal(found, expected)
    assert {i["image_id"] for i in read.loadImgs(read.getImgIds())} == EXPECTED.keys()
    assert read.dataset["info"]["maps_sha256"] == [MAPS]
    assert read.dataset["info"]["cues_sha256"] == [CUES]


def test_run_lengths_are_those_of_pycocotools():
    tools = pytest.importorskip("pycocotools.mask", reason="pip install pycocotools")
    rng = np.random.default_rng(1)
    cases = [rng.random((h, w)) < share for h, w in ((1, 1), (1, 9), (9, 1), (40, 31), (700, 900))
             for share in (0.02, 0.5, 1.0)]  # fmt: skip
    for mask in cases:
        mask[0, 0] |= not mask.any()
        expected = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert run_length.encode(mask, 0, 0, mask.shape) == expected
        inside = np.zeros((mask.shape[0] + 5, mask.shape[1] + 7), np.uint8)
        inside[2 : 2 + mask.shape[0], 3 : 3 + mask.shape[1]] = mask
        expected = tools.encode(np.asfortranarray(inside))["counts"].decode()
        assert run_length.encode(mask, 2, 3, inside.shape) == expected


@pytest.mark.parametrize("kind", ["voc", "coco", "masks"])
def test_the_same_masks_give_the_same_bytes(inputs: dict[str, Any], tmp_path: Path, kind: str):
    run(inputs, tmp_path / "first", format=kind)
    run(inputs, tmp_path / "second", format=kind)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert run(inputs, tmp_path / "second", format=kind).num_images == len(EXPECTED)


def test_images_that_are_all_background_can_be_left_out(inputs: dict[str, Any], tmp_path: Path):
    report = run(inputs, tmp_path / "out", format="masks", keep_empty="none")
    assert isinstance(report, MaskExportReport) and NUM_EMPTY > 0
    assert (report.num_images, report.num_left_out) == (len(EXPECTED) - NUM_EMPTY, NUM_EMPTY)
    there = {path for path in files(tmp_path / "out") if path.startswith("masks/")}
    assert there == {f"masks/{names.file_path(i)}.png" for i, m in EXPECTED.items() if m.any()}


@pytest.mark.parametrize("kind", ["yolo", "label-studio", "fiftyone", "webdataset"])
def test_other_formats_refuse_masks_by_name(inputs: dict[str, Any], tmp_path: Path, kind: str):
    with pytest.raises(ValueError, match=f"format: {kind} has no pseudo masks"):
        run(inputs, tmp_path / "out", format=kind)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [{"min_score": 0.5}, {"max_boxes": 1}, {"quantile": 0.5}, {"category_name": "cat"}]
)
def test_what_means_nothing_for_masks_is_refused(
    inputs: dict[str, Any], tmp_path: Path, option: dict[str, Any]
):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be unset with pseudo masks"):
        run(inputs, tmp_path / "out", **option)


def _one(tmp_path: Path, mask: np.ndarray, **options: Any) -> dict[str, Any]:
    return write_masks(tmp_path, {"x": Masked(picture(), mask)}, label_map=RARE, **options)


def test_a_mask_that_cannot_be_right_is_named(tmp_path: Path):
    stray = np.full((30, 40), 4, np.uint8)
    for part, mask, message in (
        ("a", stray, "'x': its mask holds 4, which is none of 4 ids"),
        ("b", np.zeros((20, 40), np.uint8), r"'x': labeled at 40x20 px, but in .* it is 40x30"),
    ):
        inputs = _one(tmp_path / part, mask)
        with pytest.raises(ValueError, match=message):
            run(inputs, tmp_path / part / "out", format="masks")
        assert not (tmp_path / part / "out/_SUCCESS").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"c2am_dist.label_map": "["}, "no label map in its metadata"),
        ({"c2am_dist.label_map": "[1, 2]"}, "its names are no list of texts"),
        ({"c2am_dist.label_map": '["background", "a\\nb", "c", "d"]'}, "no printable text"),
        ({"c2am_dist.label_map": '["background", "a", "a", "d"]'}, "each once"),
        ({"c2am_dist.published_ids": "[0, 1]"}, "needs 4 published ids"),
        ({"c2am_dist.published_ids": "[0, 1, true, 3]"}, "published ids must be 0 to 254"),
        ({"c2am_dist.published_ids": "[0, 1, 2, 2]"}, "a published id comes twice"),
    ],
)
def test_a_label_map_that_is_none_is_refused(
    tmp_path: Path, metadata: dict[str, str], message: str
):
    inputs = _one(tmp_path, np.ones((30, 40), np.uint8), metadata=metadata)
    with pytest.raises(ValueError, match=rf"shard-00000\.parquet: .*{message}"):
        run(inputs, tmp_path / "out", format="masks")


def test_sets_whose_ids_differ_are_refused_together(tmp_path: Path):
    one = write_masks(tmp_path / "a", {"x": masked(np.ones((3, 4), np.uint8))})
    other = write_masks(tmp_path / "b", {"y": masked(np.ones((3, 4), np.uint8))}, label_map=RARE)
    both = {name: one[name] + other[name] for name in one}
    with pytest.raises(ValueError, match=r"b/masks/.* mean something else than in .*a/masks/"):
        run(both, tmp_path / "out", format="masks")


def test_masks_and_boxes_are_refused_together(inputs: dict[str, Any], tmp_path: Path):
    boxes = write_set(tmp_path / "boxes", SET)
    for first, second in ((inputs, boxes), (boxes, inputs)):
        both = {name: first[name] + second[name] for name in inputs}
        with pytest.raises(ValueError, match=r"column '(pseudo_mask|pseudo_boxes)' is missing"):
            run(both, tmp_path / "out", allow_incomplete=True)
        assert not (tmp_path / "out/_SUCCESS").exists()
        (tmp_path / "out/_plan.json").unlink()


def test_boxes_are_still_told_from_masks(tmp_path: Path):
    report = run(write_set(tmp_path, SET), tmp_path / "out", format="masks")
    assert isinstance(report, ExportReport) and report.num_boxes == 6


def test_the_job_prints_what_it_did_with_masks(inputs: dict[str, Any], tmp_path: Path):
    arguments = ["--labels", *inputs["labels"], "--images", *inputs["images"]]
    command = [sys.executable, "jobs/export.py", *arguments, "--output", f"{tmp_path}/out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = f"coco: {len(EXPECTED)} images with masks; {NUM_EMPTY} all background, 0 written anew"
    assert told in done.stdout and "1 with errors" in done.stdout
    content = json.loads((tmp_path / "out/_SUCCESS").read_text())
    counted = Counter({k: v for k, v in content.items() if k.startswith("num_")})
    assert counted["num_images"] == len(EXPECTED) and "num_boxes" not in content
