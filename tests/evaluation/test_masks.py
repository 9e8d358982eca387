"""Pseudo masks against annotated masks: the whole job on files, golden figures, what is refused."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.config import EvaluateMasksConfig
from c2am_dist.data import label_set, mask_sets
from c2am_dist.evaluation.masks import evaluate_masks
from c2am_dist.method import cues
from c2am_dist.method.images import encode_png8
from c2am_dist.method.label_maps import COCO, VOC, LabelMap, encode_mask
from c2am_dist.method.metrics import PixelPrecision
from tests.images import encoded, noise

pytestmark = pytest.mark.usefixtures("ray_cluster")

SIZE = (12, 16)
Masks = Mapping[str, np.ndarray | None]


def left(class_id: int, *, columns: int = 8) -> np.ndarray:
    """A mask whose left columns are a class."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :columns] = class_id
    return mask


def write_pngs(folder: Path, masks: Masks) -> str:
    for name, mask in masks.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mask(mask))
    return str(folder)


def write_shard(path: Path, masks: Masks) -> str:
    rows = [
        {
            "image_id": name,
            "image": b"",
            "height": SIZE[0],
            "width": SIZE[1],
            "mask": None if mask is None else encode_mask(mask),
        }
        for name, mask in masks.items()
    ]
    return _write(path, pa.Table.from_pylist(rows, schema.SHARD))


def write_masks(path: Path, masks: Masks, label_map: LabelMap = VOC) -> str:
    """A file of pseudo masks; None is a row with an error."""
    rows = [
        row(name, schema.PSEUDO_MASKS, maps_sha256="0")
        | ({"error": "no map"} if mask is None else {"pseudo_mask": encode_mask(mask)})
        for name, mask in masks.items()
    ]
    table = pa.Table.from_pylist(rows, schema.PSEUDO_MASKS)
    metadata = {"c2am_dist.method": "sipe+cue"} | mask_sets.to_metadata(label_map)
    return _write(path, table.replace_schema_metadata(metadata))


def row(name: str, kind: pa.Schema, **values: Any) -> dict[str, Any]:
    common = {"image_id": name, "shard": "0.parquet", "config_sha256": "0"}
    return dict.fromkeys(kind.names) | common | {"package_version": "0"} | values


def write_cues(path: Path, found: Masks) -> str:
    rows = [
        row(name, schema.LABELS, checkpoint_sha256="0")
        | ({"error": "cut off"} if cue is None else {"background_cue": encode_png8(cue)})
        for name, cue in found.items()
    ]
    return _write(path, pa.Table.from_pylist(rows, schema.LABELS))


def _write(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return str(path)


def evaluate(root: Path, masks: str, annotations: str, **changes: Any) -> dict[str, Any]:
    output = str(root / "out/metrics.json")
    config = EvaluateMasksConfig(
        **{"masks": (masks,), "annotations": (annotations,), "output": output} | changes
    )
    metrics = evaluate_masks(config)
    assert json.loads(Path(output).read_text()) == metrics
    return metrics


def classes_of(root: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((root / "out/metrics.classes.json").read_text())
    assert content["format"] == 1 and content["config"]["output"]
    return {each["class"]: each for each in content["classes"]}


def test_golden_iou_is_reproduced_from_png_folders(golden: Path, tmp_path: Path):
    data = np.load(golden / "wsss.npz")
    truth = write_pngs(tmp_path / "truth", {"a/im": data["ground_truth"]})
    (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(1, 9)))
    for mask, iou in (("refined", "iou_refined"), ("thresholded_03", "iou_thresholded")):
        masks = write_pngs(tmp_path / mask, {"a/im": data[mask]})
        metrics = evaluate(tmp_path, masks, truth, label_map=str(tmp_path / "classes.txt"))
        rows = classes_of(tmp_path)
        assert list(rows) == ["background", *(f"class {i}" for i in range(1, 9))]
        for expected, each in zip(data[iou], rows.values(), strict=True):
            assert (each["iou"] or 0) == 100 * expected
        assert metrics["masks"]["miou"] == pytest.approx(100 * data[iou].mean(), abs=1e-12)
        assert metrics["masks"]["num_images"] == 1


def test_pseudo_masks_against_shards(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    truth = {f"im{i}": left(1 + i % 2) for i in range(5)} | {"unknown": None, "alone": left(3)}
    truth["im4"][:, 8:] = 255
    masks = {f"im{i}": left(1 + i % 2) for i in range(3)}
    masks |= {"im4": left(1, columns=4), "im3": None, "unknown": left(1), "extra": left(7)}
    write_shard(tmp_path / "shards/0.parquet", truth)
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(
            tmp_path,
            write_masks(tmp_path / "masks/0.parquet", masks),
            str(tmp_path / "shards"),
        )
    (found,) = metrics.values()
    assert list(metrics) == ["sipe+cue"]
    counts = {name: value for name, value in found.items() if name.startswith("num_")}
    assert counts == {
        "num_classes": 21,
        "num_classes_present": 3,
        "num_images": 5,
        "num_errors": 1,
        "num_without_mask": 1,
        "num_missing": 1,
        "num_extra": 1,
    }
    # In columns of 8 images halves: im3's error is all background, im4 is half found.
    iou = [32 / (32 + 8 + 4), 20 / 24, 8 / 16]
    expected = dict(zip(VOC.names, iou, strict=False))
    rows = classes_of(tmp_path)
    for name, each in rows.items():
        assert each["iou"] == (pytest.approx(100 * expected[name]) if name in expected else None)
    assert rows["aeroplane"]["missed_activation"] == pytest.approx(100 * 4 / 24)
    assert found["miou"] == pytest.approx(100 * sum(iou) / 21)
    assert found["miou_present"] == pytest.approx(100 * sum(iou) / 3)
    parts = ("miou_present", "false_activation", "missed_activation")
    assert sum(found[name] for name in parts) == pytest.approx(100)
    assert found["pixel_accuracy"] == pytest.approx(100 * 60 / 72)
    text = "sipe+cue: 1 of 7 annotated images have no mask, and 1 of 7 masks no annotation"
    assert text in caplog.text
    assert f"| miou | {found['miou']:.1f} |" in (tmp_path / "out/metrics.md").read_text()
    assert "| aeroplane | 288 | 83.3 |" in (tmp_path / "out/metrics.classes.md").read_text()


def test_pngs_are_found_by_what_ids_become_as_file_names(tmp_path: Path):
    truth = {"two words": left(1), "a/b": left(2)}
    write_shard(tmp_path / "shards/0.parquet", truth)
    pngs = write_pngs(tmp_path / "png", {"two~20words": left(1), "a/b": left(2)})
    for masks, notes in ((pngs, str(tmp_path / "shards")), (str(tmp_path / "shards"), pngs)):
        if masks == pngs:
            metrics = evaluate(tmp_path, masks, notes)["masks"]
        else:
            parquet = write_masks(tmp_path / "masks/0.parquet", truth)
            metrics = evaluate(tmp_path, parquet, notes)["sipe+cue"]
        assert metrics["miou_present"] == pytest.approx(100)
        assert metrics["num_images"] == 2


def test_cocos_category_ids_become_the_masks_ids(tmp_path: Path):
    truth = left(90)  # toothbrush
    truth[:, 12:] = 200  # stuff
    write_shard(tmp_path / "shards/0.parquet", {"im": truth})
    masks = write_masks(tmp_path / "masks/0.parquet", {"im": left(80)}, COCO)
    metrics = evaluate(tmp_path, masks, str(tmp_path / "shards"), label_map="coco")
    assert metrics["sipe+cue"]["miou_present"] == pytest.approx(100)
    assert classes_of(tmp_path)["toothbrush"]["iou"] == pytest.approx(100)


def test_foreground_alone_and_cubs_grey_levels(tmp_path: Path):
    grey = np.zeros(SIZE, np.uint8)
    grey[:, :8], grey[:, 8:12] = 255, 127  # what all, and what two of five annotators saw
    shards = write_shard(tmp_path / "shards/0.parquet", {"im": grey})
    masks = write_pngs(tmp_path / "png", {"im": left(7, columns=6)})
    found = evaluate(tmp_path, masks, shards, agreement_masks=True)["masks"]
    assert found["foreground_iou"] == pytest.approx(100 * 6 / 8)
    assert list(classes_of(tmp_path)) == ["background", "foreground"]
    plain = write_shard(tmp_path / "plain/0.parquet", {"im": left(3)})
    found = evaluate(tmp_path, masks, plain, foreground_only=True)["masks"]
    assert found["foreground_iou"] == pytest.approx(100 * 6 / 8)


def test_cues_are_scored_as_foreground_and_the_oracle_says_so(tmp_path: Path):
    truth = {"a": left(1), "b": left(9), "c": left(1)}
    truth["b"][0, :] = 255
    cue = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (12, 1))
    small = np.tile(np.linspace(0.3, 0.9, 4, dtype=np.float32), (3, 1))
    shards = write_shard(tmp_path / "shards/0.parquet", truth)
    labels = write_cues(tmp_path / "labels/0.parquet", {"a": cue, "b": small, "c": None})
    found = evaluate(tmp_path, labels, shards)["masks"]

    maps = {
        name: 1 - np.rint(one * 255) / np.float32(255) for name, one in (("a", cue), ("b", small))
    }
    maps = {"a": maps["a"], "b": cues.enlarge(maps["b"], SIZE), "c": np.zeros(SIZE, np.float32)}
    pixels, inter, union = PixelPrecision.empty(), np.zeros(101), np.zeros(101)
    for name, one in maps.items():
        pixels.add(one.astype(np.float32), truth[name])
        valid, is_object = truth[name] != 255, truth[name] > 0
        for i, threshold in enumerate([*np.arange(100) / 100, 0.5]):
            found_at = (one > threshold if i == 100 else one >= threshold) & valid
            inter[i] += (found_at & is_object).sum()
            union[i] += (found_at | (is_object & valid)).sum()
    assert found["foreground_iou"] == pytest.approx(100 * inter[100] / union[100])
    best = (inter / union)[:100].max()
    assert found["oracle_foreground_iou"] == pytest.approx(100 * best)
    at = round(100 * found["oracle_threshold"])
    assert inter[at] / union[at] == pytest.approx(best)
    assert found["pxap"] == pytest.approx(pixels.average_precision())
    assert (found["num_images"], found["num_errors"]) == (3, 1)


def test_golden_pxap_is_reproduced_from_cues(golden: Path, tmp_path: Path):
    data = np.load(golden / "pxap.npz")
    maps, masks = data["maps"], data["masks"]
    names = [f"im{i}" for i in range(len(maps))]
    labels = write_cues(
        tmp_path / "labels/0.parquet",
        {n: 1 - one for n, one in zip(names, maps, strict=True)},
    )
    shards = write_shard(tmp_path / "shards/0.parquet", dict(zip(names, masks, strict=True)))
    assert evaluate(tmp_path, labels, shards)["masks"]["pxap"] == pytest.approx(
        float(data["pxap"]), abs=0.1
    )


def test_baseline_shows_which_classes_gain_and_lose(tmp_path: Path):
    truth = {"a": left(1), "b": left(2), "c": left(3)}
    ours = {"a": left(1), "b": left(2, columns=4), "c": left(3)}
    theirs = {"a": left(1, columns=4), "b": left(2), "c": left(3)}
    shards = write_shard(tmp_path / "shards/0.parquet", truth)
    masks = write_masks(tmp_path / "masks/0.parquet", ours)
    other = write_masks(tmp_path / "other/0.parquet", theirs)
    metrics = evaluate(tmp_path, masks, shards, baseline=(other,))
    assert list(metrics) == ["sipe+cue", "baseline"]
    found = metrics["sipe+cue"]
    assert (found["num_classes_gaining"], found["num_classes_losing"]) == (1, 1)
    rows = list(classes_of(tmp_path).values())
    assert [row["class"] for row in rows[:4]] == ["aeroplane", "background", "bird", "bicycle"]
    assert [row["gain"] for row in rows[:4]] == pytest.approx([50, 0, 0, -50])
    assert rows[0]["baseline_iou"] == pytest.approx(50)
    assert all(row["gain"] is None for row in rows[4:])
    table = (tmp_path / "out/metrics.classes.md").read_text()
    assert "Classes that gain: 1 (aeroplane)." in table
    assert "Classes that lose: 1 (bicycle)." in table
    picture = ElementTree.parse(tmp_path / "out/metrics.classes.svg").getroot()
    bars = [each for each in picture.iter() if each.get("class") in ("gain", "loss")]
    assert [bar.get("class") for bar in bars] == ["gain", "gain", "gain", "loss"]
    assert float(bars[0].get("width", 0)) > 0 and float(bars[1].get("width", 1)) == 0
    with pytest.raises(
        ValueError, match=r"the baseline must be of the same images; 1, such as 'c'"
    ):
        write_masks(tmp_path / "other/0.parquet", {"a": left(1), "b": left(2)})
        evaluate(tmp_path, masks, shards, baseline=(other,))


@pytest.mark.parametrize(
    ("masks", "truth", "message"),
    [
        ({"im": left(77)}, {"im": left(1)}, r"image 'im': .*masks/im.png: prediction holds 77"),
        ({"im": left(1)}, {"im": left(99)}, r"image 'im': .*truth/im.png: annotation holds 99"),
        ({"im": left(1)[:6]}, {"im": left(1)}, r"masks/im.png: prediction \(6, 16\) and truth"),
        ({"im": left(1)}, {"other": left(1)}, r"no mask, such as of 'im', is of an image of"),
        ({"im": left(1)}, {"im": np.full(SIZE, 255)}, "no pixel of a scored image is annotated"),
    ],
)
def test_masks_that_cannot_be_scored_are_refused(
    tmp_path: Path, masks: dict, truth: dict, message: str
):
    folders = [write_pngs(tmp_path / n, m) for n, m in (("masks", masks), ("truth", truth))]
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path, *folders)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("found", "annotated", "message"),
    [
        (200, 20, r"masks/im.png: prediction holds 200, which is not of the label map"),
        (20, 21, r"truth/im.png: annotation holds 21, which is no id of the label map"),
    ],
)
def test_ids_outside_the_label_map_are_no_foreground(
    tmp_path: Path, found: int, annotated: int, message: str
):
    folders = [
        write_pngs(tmp_path / n, {"im": left(i)})
        for n, i in (("masks", found), ("truth", annotated))
    ]
    with pytest.raises(ValueError, match=f"image 'im': .*{message}"):
        evaluate(tmp_path, *folders, foreground_only=True)


@pytest.mark.parametrize("side", ["masks", "truth"])
def test_picture_in_colour_is_refused_by_name(tmp_path: Path, side: str):
    folders = [write_pngs(tmp_path / name, {"im": left(1)}) for name in ("masks", "truth")]
    (tmp_path / side / "im.png").write_bytes(encoded(noise(SIZE[::-1]), "PNG"))
    with pytest.raises(ValueError, match=rf"{side}/im.png: a mask has one 8-bit channel, .* RGB"):
        evaluate(tmp_path, *folders)


def test_ids_of_other_classes_are_refused(tmp_path: Path):
    shards = write_shard(tmp_path / "shards/0.parquet", {"im": left(1)})
    masks = write_masks(tmp_path / "masks/0.parquet", {"im": left(1)}, COCO)
    with pytest.raises(ValueError, match="1 is 'person' there and 'aeroplane' here"):
        evaluate(tmp_path, masks, shards)
    assert evaluate(tmp_path, masks, shards, foreground_only=True)
    far = write_masks(tmp_path / "far/0.parquet", {"im": left(80)}, COCO)
    assert evaluate(tmp_path, far, shards, foreground_only=True)["sipe+cue"]["miou"] > 99
    write_shard(tmp_path / "shards/0.parquet", {"im": left(201)})
    with pytest.raises(ValueError, match="annotation holds 201"):
        evaluate(tmp_path, far, shards, label_map="coco")


def test_unfinished_and_doubled_masks_are_refused(tmp_path: Path):
    shards = write_shard(tmp_path / "shards/0.parquet", {"im": left(1)})
    for name in "ab":
        write_masks(tmp_path / f"masks/{name}.parquet", {"im": left(1)})
    label_set.begin(str(tmp_path / "begun"), {})
    write_masks(tmp_path / "begun/a.parquet", {"im": left(1)})
    with pytest.raises(ValueError, match=r"begun: no _SUCCESS"):
        evaluate(tmp_path, str(tmp_path / "begun"), shards)
    assert evaluate(tmp_path, str(tmp_path / "begun"), shards, allow_incomplete=True)
    with pytest.raises(ValueError, match="image_id 'im' comes more than once"):
        evaluate(tmp_path, str(tmp_path / "masks/*"), shards)
    with pytest.raises(ValueError, match="has neither a column 'pseudo_mask' nor"):
        evaluate(tmp_path, str(tmp_path / "shards/*"), shards)
