"""Each export through the format's own reader, and back through prepare: the same boxes."""

import io
import json
import tarfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from c2am_dist import names
from c2am_dist.config import ExportConfig, PrepareConfig
from c2am_dist.data.prepare import write_shard
from c2am_dist.data.shard_plan import plan
from c2am_dist.export import export
from tests.labeled import CHECKPOINT, Box, Labeled, picture, write_set

Boxes = dict[str, list[list[int]]]


def _random_set(seed: int = 0, num_images: int = 60) -> dict[str, Labeled]:
    """Images of odd sizes with up to three boxes, edges at the border among them."""
    rng = np.random.default_rng(seed)
    labeled = {}
    for index in range(num_images):
        height, width = (int(side) for side in rng.integers(3, 400, 2))
        boxes: list[Box] = []
        for _ in range(rng.integers(0, 4)):
            x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
            x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
            boxes.append((x0, y0, x1, y1, float(np.float32(rng.random()))))
        kind = "PNG" if index % 5 == 0 else "JPEG"
        # Files of one name in two folders, and names that want changing.
        image_id = f"{'ab'[index % 2]}/image {index // 2}"
        size = (height, width)
        labeled[image_id] = Labeled(picture(size, kind), boxes, size=size)
    labeled["broken"] = Labeled(b"", error="empty file")
    labeled["whole"] = Labeled(picture((7, 9)), [(0, 0, 9, 7, 1.0)], size=(7, 9))
    return labeled


LABELED = _random_set()
EXPECTED: Boxes = {
    image_id: [list(box[:4]) for box in each.boxes]
    for image_id, each in LABELED.items()
    if each.error is None
}
SIZES = {image_id: each.size for image_id, each in LABELED.items()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_set(tmp_path_factory.mktemp("set"), LABELED, per_file=25)


@pytest.fixture
def exported(inputs: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    def run(kind: str, **options: Any) -> Path:
        out = tmp_path / kind
        report = export(ExportConfig(**(inputs | {"output": str(out), "format": kind} | options)))
        assert (report.num_images, report.num_errors) == (len(EXPECTED), 1)
        return out

    return run


def prepared(root: Path, kind: Any, **options: Any) -> tuple[Boxes, list[dict[str, Any]]]:
    """What an export becomes when it is prepared: boxes by image_id, and the rows."""
    output = root.parent / "prepared"
    config = PrepareConfig(input=(str(root),), output=str(output), format=kind, **options)
    (shard,) = plan(config).shards
    assert write_shard(shard).errors == ()
    rows = pq.read_table(output / "shard-00000-of-00001.parquet").to_pylist()
    return {row["image_id"]: row["boxes"] for row in rows}, rows


def _of_coco(read: Any) -> tuple[Boxes, dict[str, list[float]]]:
    """The boxes and scores of each image, as pycocotools has them."""
    boxes, scores = Boxes(), dict[str, list[float]]()
    for image in read.loadImgs(read.getImgIds()):
        found = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        edges = (annotation["bbox"] for annotation in found)
        boxes[image["image_id"]] = [[x, y, x + w, y + h] for x, y, w, h in edges]
        scores[image["image_id"]] = [annotation["score"] for annotation in found]
    return boxes, scores


def test_pycocotools_reads_coco(exported: Callable[..., Path]):
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    out = exported("coco", category_name="thing")
    read = coco.COCO(str(out / "annotations/instances_train.json"))
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == ["thing"]
    boxes, scores = _of_coco(read)
    assert boxes == EXPECTED
    assert scores == {i: [box[4] for box in LABELED[i].boxes] for i in EXPECTED}
    for image in read.loadImgs(read.getImgIds()):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in annotations)
        assert (image["height"], image["width"]) == SIZES[image["image_id"]]
        with Image.open(out / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert read.dataset["info"]["checkpoint_sha256"] == [CHECKPOINT]


def test_pycocotools_scores_the_boxes_of_an_export_against_themselves(
    exported: Callable[..., Path],
):
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    cocoeval = pytest.importorskip("pycocotools.cocoeval", reason="pip install pycocotools")
    path = exported("coco") / "annotations/instances_train.json"
    truth = coco.COCO(str(path))
    kept = ("image_id", "category_id", "bbox", "score")
    found = [{k: a[k] for k in kept} for a in json.loads(path.read_bytes())["annotations"]]
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "webdataset"])
def test_prepare_reads_the_same_boxes_back(exported: Callable[..., Path], kind: str):
    out = exported(kind)
    boxes, rows = prepared(out, kind)
    keep_dots = kind != "webdataset"
    prefix = "train/" if kind == "yolo" else ""
    expected = {
        prefix + names.file_path(image_id, keep_dots=keep_dots): boxes
        for image_id, boxes in EXPECTED.items()
    }
    assert boxes == expected
    images = {
        prefix + names.file_path(image_id, keep_dots=keep_dots): each.image
        for image_id, each in LABELED.items()
        if each.error is None
    }
    assert {row["image_id"]: row["image"] for row in rows} == images
    labels = {label for row in rows for label in row["box_labels"]}
    assert labels == {"object"}


def test_voc_follows_its_schema(exported: Callable[..., Path]):
    etree = pytest.importorskip("lxml.etree", reason="pip install lxml")
    schema = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("voc.xsd"))))
    out = exported("voc", category_name="Ding & <Ding>")
    listed = (out / "ImageSets/Main/train.txt").read_text().split()
    assert listed == [names.file_path(image_id) for image_id in EXPECTED]
    for image_id, boxes in EXPECTED.items():
        tree = etree.parse(str(out / "Annotations" / f"{names.file_path(image_id)}.xml"))
        schema.assertValid(tree)
        size = tuple(int(tree.findtext(f"size/{side}")) for side in ("height", "width"))
        assert size == SIZES[image_id]
        assert (out / "JPEGImages" / tree.findtext("filename")).is_file()
        found = [
            [int(entry.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            for entry in tree.findall("object")
        ]
        # Pixels counted from 1, the last included.
        assert found == [[x0 + 1, y0 + 1, x1, y1] for x0, y0, x1, y1 in boxes]
        assert {e.findtext("name") for e in tree.findall("object")} <= {"Ding & <Ding>"}


def test_the_schema_refuses_what_voc_is_not(exported: Callable[..., Path]):
    etree = pytest.importorskip("lxml.etree", reason="pip install lxml")
    schema = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("voc.xsd"))))
    text = (exported("voc") / "Annotations/whole.xml").read_text()
    assert schema.validate(etree.fromstring(text))
    for old, new in (("<xmin>1<", "<xmin>0<"), ("<pose>Unspecified</pose>", ""), ("size>", "s>")):
        assert old in text
        assert not schema.validate(etree.fromstring(text.replace(old, new)))


def test_yolo_follows_the_rules_of_its_readers(exported: Callable[..., Path]):
    """Those that ultralytics checks (its parser read this set, too: docs/export.md)."""
    out = exported("yolo", category_name="no: thing", split="pseudo")
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data == {"train": "images/pseudo", "val": "images/pseudo", "names": {0: "no: thing"}}
    assert {p.relative_to(out / "labels/pseudo").with_suffix("") for p in out.rglob("*.txt")} == {
        p.relative_to(out / "images/pseudo").with_suffix("") for p in (out / "images").rglob("*.*g")
    }
    for image_id, boxes in EXPECTED.items():
        path = out / "labels/pseudo" / f"{names.file_path(image_id)}.txt"
        rows = [line.split(" ") for line in path.read_text().splitlines()]
        assert all(len(row) == 5 and row[0] == "0" for row in rows)
        values = np.array([row[1:] for row in rows], float).reshape(-1, 4)
        assert ((values >= 0) & (values <= 1)).all() and (values[:, 2:] > 0).all()
        height, width = SIZES[image_id]
        centre, half = values[:, :2], values[:, 2:] / 2
        found = np.hstack([centre - half, centre + half]) * [width, height, width, height]
        np.testing.assert_allclose(found, np.array(boxes).reshape(-1, 4), atol=1e-5)


def test_yolo_edges_of_the_largest_images_are_off_by_less_than_a_thousandth_of_a_pixel():
    from c2am_dist.export.samples import Box as SampleBox
    from c2am_dist.export.yolo import _line

    rng = np.random.default_rng(0)
    for _ in range(2000):
        width, height = (int(side) for side in rng.integers(1, 65536, 2))
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
        line = _line(SampleBox(x0, y0, x1, y1, 1.0), height, width)
        x, y, w, h = (float(field) for field in line.split()[1:])
        edges = [
            (x - w / 2) * width,
            (y - h / 2) * height,
            (x + w / 2) * width,
            (y + h / 2) * height,
        ]
        np.testing.assert_allclose(edges, [x0, y0, x1, y1], atol=1e-3)


def test_yolo_keeps_images_from_folders_called_images(tmp_path: Path):
    """Readers find a label file by the last part ``images`` of the image's path."""
    one = Labeled(picture(), [(1, 2, 3, 4, 0.5)])
    inputs = write_set(tmp_path, {"images/x/images/1": one, "images": one, "xximages/y": one})
    out = tmp_path / "out"
    export(ExportConfig(**inputs, output=str(out), format="yolo"))
    found = list((out / "images").rglob("*.jpg"))
    assert len(found) == 3
    for path in found:
        before, after = str(path).rsplit("/images/", 1)
        assert Path(f"{before}/labels/{after}").with_suffix(".txt").is_file()


def test_label_studio_shows_the_same_boxes(exported: Callable[..., Path]):
    """A strict model of its basic JSON (its own SDK accepted this set, too: docs/export.md)."""
    etree = pytest.importorskip("lxml.etree", reason="pip install lxml")
    out = exported("label-studio", category_name="a<b")
    config = etree.fromstring((out / "label_config.xml").read_bytes())
    image, labels = config.find("Image"), config.find("RectangleLabels")
    tasks = json.loads((out / "tasks.json").read_bytes())
    assert [task["data"]["image_id"] for task in tasks] == list(EXPECTED)
    for task in tasks:
        assert task.keys() == {"data", "predictions"}
        url = urllib.parse.urlsplit(task["data"][image.get("value").removeprefix("$")])
        (path,) = urllib.parse.parse_qs(url.query)["d"]
        assert url.path == "/data/local-files/" and (out / path).is_file()
        image_id = task["data"]["image_id"]
        height, width = SIZES[image_id]
        assert bool(task["predictions"]) == bool(EXPECTED[image_id])
        found, scores = [], []
        for prediction in task["predictions"]:
            assert prediction.keys() == {"model_version", "score", "result"}
            assert len({region["id"] for region in prediction["result"]}) == len(
                prediction["result"]
            )
            for region in prediction["result"]:
                assert region["type"] == "rectanglelabels"
                assert region["from_name"] == labels.get("name")
                assert region["to_name"] == labels.get("toName") == image.get("name")
                assert (region["original_height"], region["original_width"]) == (height, width)
                value = region["value"]
                assert value["rectanglelabels"] == [labels.find("Label").get("value")] == ["a<b"]
                assert value["rotation"] == region["image_rotation"] == 0
                x0, y0 = value["x"] * width / 100, value["y"] * height / 100
                x1 = (value["x"] + value["width"]) * width / 100
                y1 = (value["y"] + value["height"]) * height / 100
                np.testing.assert_allclose([x0, y0, x1, y1], np.rint([x0, y0, x1, y1]), atol=1e-9)
                found.append([round(edge) for edge in (x0, y0, x1, y1)])
                scores.append(region["score"])
            assert prediction["score"] == max(scores)
        assert found == EXPECTED[image_id]


def test_label_studio_takes_a_prefix_of_ones_own(exported: Callable[..., Path]):
    out = exported(
        "label-studio",
        with_images=False,
        images=(),
        image_prefix="https://example.org/",
        image_suffix=".png",
    )
    first = json.loads((out / "tasks.json").read_bytes())[0]
    assert first["data"]["image"] == "https://example.org/a/image%200.png"


def test_label_studio_finds_images_in_a_bucket(tmp_path: Path, bucket: str):
    inputs = write_set(tmp_path, {"a b": Labeled(picture(), [(1, 2, 3, 4, 0.5)])})
    export(ExportConfig(**inputs, output=f"{bucket}/ls", format="label-studio"))
    from c2am_dist import storage

    (task,) = json.loads(storage.read_bytes(f"{bucket}/ls/tasks.json"))
    assert task["data"]["image"] == f"{bucket}/ls/images/a~20b.jpg"
    assert storage.read_bytes(task["data"]["image"]) == picture()


def test_fiftyone_finds_its_coco_layout(exported: Callable[..., Path]):
    """The layout of COCODetectionDataset; its own importer, too large for here, read it by hand."""
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    out = exported("fiftyone", category_name="thing")
    read = coco.COCO(str(out / "labels.json"))
    boxes, scores = _of_coco(read)
    assert boxes == EXPECTED
    assert scores == {i: [box[4] for box in LABELED[i].boxes] for i in EXPECTED}
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == ["thing"]
    listed = {image["file_name"] for image in read.loadImgs(read.getImgIds())}
    there = {p.relative_to(out / "data").as_posix() for p in (out / "data").rglob("*.*g")}
    assert listed == there and len(listed) == len(EXPECTED)
    assert {p.name for p in out.iterdir()} == {"labels.json", "data", "_SUCCESS", "_plan.json"}


def test_webdataset_reads_its_tars(exported: Callable[..., Path]):
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    out = exported("webdataset", tar_mib=0.02)
    tars = sorted(str(path) for path in out.glob("*.tar"))
    assert len(tars) > 2
    read = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode("pil")
    found: Boxes = {}
    for sample in read:
        content = sample["json"]
        image = sample.get("jpg") or sample.get("png")
        assert image.size == (content["width"], content["height"])
        image_id = content["image_id"]
        assert sample["__key__"] == names.file_path(image_id, keep_dots=False)
        assert content["scores"] == [box[4] for box in LABELED[image_id].boxes]
        assert len(content["box_labels"]) == len(content["boxes"])
        found[image_id] = content["boxes"]
    assert found == EXPECTED
    assert list(found) == list(EXPECTED), "in the labels' order"


def test_tars_end_where_they_should(exported: Callable[..., Path]):
    out = exported("webdataset", tar_mib=0.02)
    *full, last = sorted(out.glob("*.tar"))
    sizes = [_payload(path) for path in full]
    largest = max(len(each.image) for each in LABELED.values())
    assert all(0.02 * 2**20 <= size <= 0.02 * 2**20 + largest + 2000 for size in sizes)
    assert 0 < _payload(last)


def _payload(path: Path) -> int:
    with tarfile.open(path, "r:") as tar:
        return sum(member.size for member in tar)


@pytest.mark.parametrize("reader", ["opencv", "pillow"])
def test_masks_are_the_foreground_inside_the_boxes(exported: Callable[..., Path], reader: str):
    out = exported("masks")
    for image_id, boxes in EXPECTED.items():
        path = out / "masks" / f"{names.file_path(image_id)}.png"
        if reader == "opencv":
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        else:
            mask = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
        assert mask.shape == SIZES[image_id] and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        inside = np.zeros(mask.shape, bool)
        for x0, y0, x1, y1 in boxes:
            inside[y0:y1, x0:x1] = True
        assert not mask[~inside].any()
    assert len(list(out.rglob("images/**/*.*g"))) == len(EXPECTED)


def test_a_mask_fills_its_box_where_the_map_is_bright(tmp_path: Path):
    size = (200, 300)
    boxes: list[Box] = [(30, 20, 150, 120, 0.9), (200, 150, 280, 190, 0.2)]
    inputs = write_set(tmp_path, {"x": Labeled(picture(size), boxes, size=size)})
    out = tmp_path / "out"
    export(ExportConfig(**inputs, output=str(out), format="masks", min_score=0.5))
    mask = cv2.imread(str(out / "masks/x.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask[25:115, 40:140].all(), "the object"
    assert not mask[140:].any(), "an object whose box was not kept"
    assert not mask[:, :25].any() and not mask[:10].any(), "background"


def test_masks_without_maps_are_refused(tmp_path: Path):
    import pyarrow as pa

    from c2am_dist import schema

    inputs = write_set(tmp_path, {"x": Labeled(picture(), [(1, 2, 3, 4, 0.5)])})
    path = tmp_path / "labels/shard-00000.parquet"
    (row,) = pq.read_table(path).to_pylist()
    row["activation_map"] = None
    pq.write_table(pa.Table.from_pylist([row], schema.LABELS), path)
    config = ExportConfig(
        labels=(f"{tmp_path}/labels/*",),
        images=inputs["images"],
        output=f"{tmp_path}/out",
        format="masks",
    )
    with pytest.raises(ValueError, match="'x': no activation map is stored"):
        export(config)
