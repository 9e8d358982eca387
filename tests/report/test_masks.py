"""What a report shows of pseudo masks, of class maps, and of the scores of masks."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from c2am_dist.config import EvaluateMasksConfig
from c2am_dist.evaluation import mask_figures as evaluation
from c2am_dist.evaluation.mask_inputs import Encoded
from c2am_dist.evaluation.mask_tally import MaskTally, Scoring
from c2am_dist.evaluation.masks import _write as write_scores
from c2am_dist.method import images, label_maps
from c2am_dist.method.label_maps import LabelMap, encode_mask
from c2am_dist.report import mask_figures
from tests.labeled import picture
from tests.masked import MAPS, Masked, masked, shape, write_masks
from tests.report import sets
from tests.report.pages import Parsed, make, shown

HOSTILE = "</script><img src=x onerror=pwned()>"
SIZE = (40, 60)


def of(made: dict[str, Any]) -> dict[str, Any]:
    return {"labels": list(made["labels"]), "images": list(made["images"])}


def _set(root: Path, **options: Any) -> dict[str, Any]:
    """A cat that is right, a dog half a width off, an empty mask, and an error."""
    cat, dog = (label_maps.VOC.id_of(name) for name in ("cat", "dog"))
    truth = shape(SIZE, cat)
    truth[0] = 255
    found = {
        "cat": masked(shape(SIZE, cat), truth),
        "dog": masked(shape(SIZE, dog, moved=15), shape(SIZE, dog)),
        "none": masked(np.zeros(SIZE, np.uint8)),
        "broken": Masked(picture(SIZE), np.zeros(SIZE, np.uint8), error="no map"),
    }
    return write_masks(root, found, **options)


def _pixels(folder: Path, url: str) -> tuple[np.ndarray, Image.Image]:
    with Image.open(folder / url) as image:
        image.load()
    return np.asarray(image), image


def test_the_gallery_shows_masks_and_what_is_known_of_them(tmp_path: Path):
    make(tmp_path / "report", **of(_set(tmp_path)))
    cat, dog, none, broken = shown(tmp_path / "report")
    assert cat["found"] == [["cat", 0.25]] and cat["foreground"] == 0.25
    ids, image = _pixels(tmp_path / "report", cat["mask"])
    np.testing.assert_array_equal(ids, shape(SIZE, 8))
    assert image.info["transparency"] == 0
    colours = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(colours[8], label_maps.palette()[8])
    known, _ = _pixels(tmp_path / "report", cat["truth"])
    assert (known[0] == 255).all() and (known[1:] == shape(SIZE, 8)[1:]).all()
    assert cat["iou"] == 1.0, "ignored pixels do not count"
    # Half of the dog's 600 pixels are hit, so 900 are of either dog and 300 of both.
    assert dog["iou"] == pytest.approx((300 / 900 + 1500 / 2100) / 2, abs=1e-4)
    assert (none["found"], none["truth"], none["iou"]) == ([], None, None)
    assert (broken["error"], broken["mask"], broken["found"]) == ("no map", None, [])
    assert broken["picture"] and broken["foreground"] is None


def test_the_page_names_the_classes_that_occur_and_who_made_the_masks(tmp_path: Path):
    page = make(tmp_path / "report", **of(_set(tmp_path)))
    parsed = Parsed(page)
    swatches = [a["fill"] for tag, a in parsed.tags if tag == "rect" and a.get("class") == "swatch"]
    # VOC's colours of cat and dog, and what it ignores.
    assert swatches == ["#400000", "#400080", "#e0e0c0"]
    legend = page[page.index('aria-label="Colours') :].partition("</ul>")[0]
    assert re.findall(r"</svg>(.*?)</li>", legend) == ["cat", "dog", "ignored"]
    assert re.search(r"images</th><td>4<", page) and re.search(r"with an error</th><td>1<", page)
    assert re.search(r"dog</th><td>1<", page) and MAPS in page
    assert "lowest mean IoU" in page and 'id="show-boxes"' not in page


def test_masks_are_told_in_one_file_too_and_without_images(tmp_path: Path):
    made = _set(tmp_path)
    page = make(tmp_path / "report.html", **of(made))
    assert page.count("data:image/png;base64,") == 5
    alone = make(tmp_path / "alone", labels=list(made["labels"]))
    assert 'id="gallery"' not in alone and "Where the masks come from" in alone


def test_a_large_mask_is_as_small_as_its_picture(tmp_path: Path):
    size = (300, 900)
    made = write_masks(tmp_path, {"x": masked(shape(size, 255 - 200), shape(size, 3))},
                       label_map=LabelMap(names=tuple(f"class {i}" for i in range(60)),
                                          published_ids=tuple(range(60))))  # fmt: skip
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    drawn = images.header((tmp_path / "report" / row["picture"]).read_bytes())
    assert drawn == _pixels(tmp_path / "report", row["mask"])[0].shape == (85, 256)


def test_known_masks_are_in_the_data_sets_own_ids(tmp_path: Path):
    """COCO's shards hold category ids, its pseudo masks 0 to 80."""
    coco = label_maps.COCO
    mask = shape(SIZE, coco.id_of("toothbrush"))
    truth = shape(SIZE, 90)
    truth[0] = 12  # a category without instances
    made = write_masks(tmp_path, {"x": masked(mask, truth)}, label_map=coco)
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    assert row["iou"] == 1.0 and row["found"] == [["toothbrush", 0.25]]


@pytest.mark.parametrize(
    ("mask", "truth", "message"),
    [(21, 1, "21 is none of 21 ids"), (1, 21, "annotation holds 21, which is no id")],
)
def test_a_mask_beyond_the_label_map_names_its_image(
    tmp_path: Path, mask: int, truth: int, message: str
):
    made = write_masks(tmp_path, {"x": masked(shape(SIZE, mask), shape(SIZE, truth))})
    with pytest.raises(ValueError, match=f"masks of image 'x': {message}"):
        make(tmp_path / "report", **of(made))


@pytest.mark.parametrize(
    ("options", "expected", "note"),
    [
        ({"select": "worst"}, "broken", "errors first, the others drawn at random"),
        ({"seed": 3}, None, "drawn at random"),
    ],
)
def test_some_of_many_are_chosen(
    tmp_path: Path, options: dict[str, Any], expected: str | None, note: str
):
    page = make(tmp_path / "report", **of(_set(tmp_path)), max_images=1, **options)
    (row,) = shown(tmp_path / "report")
    assert expected in (None, row["image_id"]) and f"1 of 4 images: {note}." in page


def test_masks_have_no_confidence_to_choose_by(tmp_path: Path):
    with pytest.raises(ValueError, match="select: pseudo masks have no confidence"):
        make(tmp_path / "report", **of(_set(tmp_path)), select="uncertain")


def test_names_of_classes_are_escaped(tmp_path: Path):
    odd = LabelMap(names=("background", HOSTILE), published_ids=(0, 1))
    made = write_masks(tmp_path, {HOSTILE: masked(shape(SIZE, 1), shape(SIZE, 1))}, label_map=odd)
    for name in ("report", "report.html"):
        page = make(tmp_path / name, **of(made))
        assert not [tag for tag, _ in Parsed(page).tags if tag == "img"]
        assert page.count("</script") == 2 and Parsed(page).text.count("pwned()") >= 2
    for path in (tmp_path / "report").glob("data-*/rows-*.js"):
        assert "<" not in path.read_text()


# Class maps of label sets


def test_class_maps_of_labels_are_handed_on_in_their_colours(tmp_path: Path):
    ramp = np.linspace(0, 0.5, 12, dtype=np.float32).reshape(3, 4)
    maps = [{"class_name": name, "map": images.encode_png16(ramp)} for name in ("dog", HOSTILE)]
    cue = images.encode_png8(np.ones((2, 2), np.float32))
    change = {"class_maps": maps, "activation_map": None, "background_cue": cue}
    made = sets.write_set(
        tmp_path,
        1,
        label=lambda row: row | change,
        shard=lambda row: row | {"label": None, "labels": ["cat", "dog"]},
    )
    page = make(tmp_path / "report", labels=[made.labels], images=[made.images])
    (row,) = shown(tmp_path / "report")
    dog, other = row["classes"]
    assert (dog["name"], dog["colour"]) == ("dog", "#400080") and other["name"] == HOSTILE
    cells = np.frombuffer(base64.b64decode(dog["grid"]["data"]), np.uint8)
    np.testing.assert_allclose(cells, np.linspace(0, 255, 12), atol=1)
    assert row["map"] is None and row["cue"] is not None and row["label"] == "cat, dog"
    assert "class maps" in page and page.count('class="swatch"') == 2
    assert not [tag for tag, _ in Parsed(page).tags if tag == "img"]


# Scores of masks


def _evaluated(root: Path, *, has_baseline: bool = False) -> Path:
    """What jobs/evaluate_masks.py writes of two images of class 1, of which half is found.

    The baseline finds one wholly and takes the other for class 2.
    """
    label_map = label_maps.from_names([HOSTILE, "other", "never"])
    truth = np.full((4, 6), 1, np.uint8)
    half = np.where(np.arange(6) < 3, truth, 0).astype(np.uint8)
    scoring = Scoring(label_map=label_map, num_ids=4, is_binary=False, is_agreement=False)
    tallies = []
    for masks in ((half, half), (truth, 2 * truth)):
        tally = MaskTally.empty(len(label_map))
        for mask in masks:
            note = Encoded("truth.png", encode_mask(truth))
            tally.add(Encoded("mask.png", encode_mask(mask)), note, scoring, is_cue=False)
        tallies.append(tally)
    found = [evaluation.summarise(each, is_binary=False, is_cue=False) for each in tallies]
    metrics = {"sipe+cue": found[0]} | ({"baseline": found[1]} if has_baseline else {})
    baseline = tallies[1] if has_baseline else None
    config = EvaluateMasksConfig(
        masks=("masks",),
        annotations=("shards",),
        output=str(root / "m.json"),
        baseline=("plain",) if has_baseline else (),
    )
    write_scores(config, metrics, evaluation.by_class(tallies[0], label_map.names, baseline))
    return root / "m.json"


def _cells(page: str) -> dict[str, list[str]]:
    """The cells of each row of the tables by its first one."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    return {name: re.findall(r"<td>(.*?)</td>", cells) for name, cells in rows}


def test_scores_of_masks_are_shown_the_worst_class_first(tmp_path: Path):
    page = make(tmp_path / "report", metrics=str(_evaluated(tmp_path)))
    assert "Scores of the masks" in page
    cells = _cells(page)
    assert cells["mIoU"] == ["12.5"] and cells["num images"] == ["2"]
    escaped = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    names = [escaped, "background", "other", "never"]
    assert cells[escaped] == ["48", "50.0", "0.0", "50.0"]
    assert cells["background"] == ["0", "0.0", "100.0", "0.0"]
    assert cells["never"] == ["0", "–", "–", "–"]
    order = [name for name in cells if name in names]
    assert order == ["background", escaped, "other", "never"]
    (command,) = re.findall(r"python jobs/evaluate_masks.py[^<]*", page)
    assert "--masks masks" in command and "--annotations shards" in command


def test_a_baseline_adds_what_each_class_gains(tmp_path: Path):
    page = make(tmp_path / "report", metrics=str(_evaluated(tmp_path, has_baseline=True)))
    cells = _cells(page)
    assert cells["mIoU"] == ["12.5", "12.5"]
    assert "sipe+cue</th>" in page and "baseline</th>" in page
    assert cells["num classes present"] == ["2", "2"]
    escaped = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    assert cells[escaped] == ["48", "50.0", "0.0", "50.0", "50.0", "+0.0"]
    assert cells["other"] == ["0", "–", "–", "–", "0.0", "+0.0"]
    assert "--baseline plain" in page


def test_scores_without_their_classes_are_a_table_of_figures(tmp_path: Path):
    metrics = _evaluated(tmp_path)
    (tmp_path / "m.classes.json").unlink()
    page = make(tmp_path / "report", metrics=str(metrics))
    assert _cells(page)["mIoU"] == ["12.5"] and "the worst first" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"m\.classes\.json: not of format 1"),
        ({"classes": 3}, r"m\.classes\.json: no list of classes"),
        ({"classes": [{"class": "a", "iou": "b"}]}, r"m\.classes\.json: 'iou' is no number"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    metrics = _evaluated(tmp_path)
    classes = tmp_path / "m.classes.json"
    classes.write_text(json.dumps(json.loads(classes.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "report", metrics=str(metrics))


def test_scores_of_masks_and_of_boxes_are_told_apart(tmp_path: Path):
    boxes = json.loads(Path(sets.write_evaluation(tmp_path)).read_text())
    masks = json.loads(_evaluated(tmp_path).read_text())
    assert not mask_figures.is_of_masks(boxes) and mask_figures.is_of_masks(masks)
    (tmp_path / "m.json").write_text(json.dumps(masks | {"baseline": {"miou": "high"}}))
    with pytest.raises(ValueError, match=r"m\.json: 'miou' is no number"):
        make(tmp_path / "report", metrics=str(tmp_path / "m.json"))
