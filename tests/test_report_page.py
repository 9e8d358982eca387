"""What a report says and where it goes; how it looks and behaves: test_report_browser.py."""

import base64
import hashlib
import json
import re
import weakref
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from c2am_dist import checkpoint, schema, storage
from c2am_dist.evaluation import curves
from c2am_dist.evaluation.job import summarise
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method import images
from c2am_dist.report import figures, gallery, publish, rows, write_report
from c2am_dist.report.overview import Overview
from jobs import report as job
from tests import bombs, report_set
from tests.report_set import LabelSet, iou_of, write_set
from tests.test_untrusted_files import content

HOSTILE = "</script><img src=x onerror=pwned()>\" onfocus='pwned()' <!-- \u2028 \u202e &amp; `"


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page, as a browser takes them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def make(output: Path, **inputs: Any) -> str:
    write_report(str(output), **inputs)
    page = output if output.suffix else output / "index.html"
    return page.read_text()


def shown(output: Path) -> list[dict[str, Any]]:
    """The rows that the gallery of a report is given."""
    texts = [path.read_text() for path in sorted(output.glob("data-*/rows-*.js"))]
    return [row for text in texts for row in json.loads(text[len("c2amRows(") : -len(");")])]


def of(made: LabelSet) -> dict[str, Any]:
    return {"labels": [made.labels], "images": [made.images]}


# The gallery


def test_the_gallery_is_given_what_labels_and_shards_say(tmp_path: Path):
    made = write_set(tmp_path, 7, shard_images=3)
    make(tmp_path / "report", **of(made))
    found = shown(tmp_path / "report")
    assert [row["image_id"] for row in found] == [f"image-{i:05d}" for i in range(7)]
    row = found[5]
    assert row["boxes"] == [[5, 0, 45, 40]] and row["truths"] == [list(report_set.TRUTH)]
    assert row["iou"] == round(iou_of(5), 4) == pytest.approx(35 / 45, abs=1e-4)
    assert (row["confidence"], row["foreground"], row["threshold"]) == (0.595, 0.5, 0.5)
    assert (row["height"], row["width"], row["label"]) == (60, 80, "class 2")
    picture = (tmp_path / "report" / row["picture"]).read_bytes()
    assert images.header(picture) == (60, 80)
    assert np.abs(images.decode(picture)[20, 20].astype(int) - (250, 240, 30)).max() < 25
    cells = np.frombuffer(base64.b64decode(row["map"]["data"]), np.uint8)
    assert cells.reshape(15, 20)[5].tolist() == [0] + [255] * 10 + [0] * 9
    assert row["peak"] == pytest.approx(0.8, abs=1e-4) and row["cue"] is None


def test_a_stored_cue_is_handed_on_and_large_maps_become_small(tmp_path: Path):
    cue = images.encode_png8(np.tile(np.float32([1, 0]), (64, 32)))
    tall = images.encode_png16(np.ones((90, 4), np.float32))
    made = write_set(
        tmp_path, 1, label=lambda r: r | {"background_cue": cue, "activation_map": tall}
    )
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    assert (row["map"]["height"], row["map"]["width"]) == (32, 4)
    assert (row["cue"]["height"], row["cue"]["width"]) == (32, 32)
    assert set(base64.b64decode(row["cue"]["data"])) == {128}  # each cell is two of both


def test_pictures_are_small_upright_and_without_metadata(tmp_path: Path):
    exif = (
        b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    pixels = np.zeros((300, 900, 3), np.uint8)

    def turned(row: dict[str, Any]) -> dict[str, Any]:
        jpeg = simplejpeg.encode_jpeg(pixels)
        return row | {"image": jpeg[:2] + exif + jpeg[2:], "height": 900, "width": 300}

    made = write_set(tmp_path, 1, shard=turned)
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    assert (row["height"], row["width"]) == (900, 300)
    picture = (tmp_path / "report" / row["picture"]).read_bytes()
    assert images.header(picture) == (256, 85)
    assert b"Exif" not in picture


def test_images_that_failed_are_shown_as_such(tmp_path: Path):
    blank = {"pseudo_boxes": None, "activation_map": None, "confidence": None}
    blank |= {"foreground_fraction": None, "threshold": None, "width": None, "height": None}

    def label(row: dict[str, Any]) -> dict[str, Any]:
        failed = {"image-00001": {**blank, "error": "truncated"}}
        boxless = {"image-00002": {"pseudo_boxes": []}}
        return row | {**failed, **boxless}.get(row["image_id"], {})

    def shard(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"image": b"no"} if row["image_id"] in ("image-00001", "image-00003") else {})

    made = write_set(tmp_path, 4, label=label, shard=shard)
    page = make(tmp_path / "report", **of(made))
    found = shown(tmp_path / "report")
    assert [row["iou"] for row in found] == [1, 0, 0, round(iou_of(3), 4)]
    assert found[1]["error"] == "truncated" and found[1]["picture"] is None
    assert found[3]["error"].startswith("not an image") and found[3]["map"] is not None
    assert re.search(r"with an error</th><td>1<", page)
    assert re.search(r"without a box</th><td>1<", page)


def test_unknown_boxes_and_maps_that_were_not_stored_are_no_error(tmp_path: Path):
    made = write_set(
        tmp_path,
        2,
        label=lambda row: row | {"activation_map": None},
        shard=lambda row: row | {"boxes": None, "label": None},
    )
    make(tmp_path / "report", **of(made))
    row = shown(tmp_path / "report")[0]
    assert (row["iou"], row["truths"], row["label"], row["map"]) == (None, None, None, None)


def test_an_image_that_the_shards_lack_is_named(tmp_path: Path):
    made = write_set(tmp_path, 3, label=lambda row: row | {"image_id": row["image_id"] + "x"})
    with pytest.raises(ValueError, match="lack the labeled image 'image-00000x'"):
        make(tmp_path / "report", **of(made))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("worst", [f"image-{i:05d}" for i in (36, 37, 38, 39)] + ["image-00002"]),
        ("uncertain", ["image-00000"]),
    ],
)
def test_the_worst_and_the_least_confident_are_chosen(
    tmp_path: Path, select: str, expected: list[str]
):
    made = write_set(
        tmp_path,
        40,
        shard_images=15,
        label=lambda r: r | ({"pseudo_boxes": []} if r["image_id"] == "image-00002" else {}),
    )
    make(tmp_path / "report", **of(made), max_images=len(expected), select=select)
    assert {row["image_id"] for row in shown(tmp_path / "report")} == set(expected)


def test_a_sample_does_not_depend_on_how_labels_are_split(tmp_path: Path):
    found = []
    for size in (7, 40):
        made = write_set(tmp_path / str(size), 40, shard_images=size)
        page = make(tmp_path / f"report-{size}", **of(made), max_images=9)
        found.append([row["image_id"] for row in shown(tmp_path / f"report-{size}")])
        assert "9 of 40 images: drawn at random." in page
    assert found[0] == found[1] and len(set(found[0])) == 9
    assert found[0] != [f"image-{i:05d}" for i in range(9)]


def test_choosing_holds_no_more_rows_than_it_returns(tmp_path: Path):
    """A row that was passed over is gone, or a set of millions would fill the memory."""

    class Watched(rows.Row):  # slots of a dataclass take no weak references
        __slots__ = ("__weakref__",)

    refs, most = list[weakref.ref[Watched]](), 0

    def stream() -> Iterator[rows.Row]:
        nonlocal most
        for place in range(1000):
            row = Watched(place, "uri", report_set.label_row(place, "s"), None, None)
            refs.append(weakref.ref(row))
            most = max(most, sum(ref() is not None for ref in refs))
            yield row
            del row

    assert len(gallery.choose(stream(), 50, "uncertain", 0)) == 50
    assert most <= 53


# Texts from outside


def test_every_text_from_outside_is_escaped(tmp_path: Path):
    def label(row: dict[str, Any]) -> dict[str, Any]:
        error = HOSTILE if row["image_id"] == "image-00001" else None
        return row | {"image_id": HOSTILE + row["image_id"], "polarity": HOSTILE, "error": error}

    def shard(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"image_id": HOSTILE + row["image_id"], "label": HOSTILE}

    made = write_set(tmp_path, 2, label=label, shard=shard)
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({HOSTILE: {HOSTILE: 1.0}, "c2am": {HOSTILE: 2}}))
    run = Path(report_set.write_run(tmp_path / "run"))
    (run / "config.json").write_text(json.dumps({HOSTILE: [HOSTILE], "loss": {HOSTILE: HOSTILE}}))
    trial = dict.fromkeys(("trial", "loss.alpha", "objective", "command", HOSTILE), HOSTILE)
    trials = [trial | {"value": 1.0}, trial | {"loss.alpha": HOSTILE * 2, "value": 2.0}]
    sweep = report_set.write_sweep(tmp_path / "sweep", trials)
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    inputs = {**of(made), "metrics": str(metrics), "run": str(run), "sweep": sweep}
    for name in ("report", "report.html"):
        page = make(tmp_path / name, **inputs, command=HOSTILE)
        parsed = Parsed(page)
        assert not [tag for tag, _ in parsed.tags if tag == "img"]
        assert not [names for _, names in parsed.tags if any(key.startswith("on") for key in names)]
        num_scripts = sum(tag == "script" for tag, _ in parsed.tags)
        assert num_scripts == page.count("</script") == 2
        assert page.count("<!--") == 0 and "\u202e" not in page and "\u2028" not in page
        assert parsed.text.count("pwned()") > 10, "shown, as text"
    for path in (tmp_path / "report").glob("data-*/rows-*.js"):
        assert path.read_text().isascii() and "<" not in path.read_text()
    row = shown(tmp_path / "report")[0]
    assert row["label"] == HOSTILE.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")


def test_an_endless_id_is_cut(tmp_path: Path):
    long = "x" * 100_000
    rename = {"label": lambda row: row | {"image_id": long}}
    made = write_set(tmp_path, 1, **rename, shard=rename["label"])
    assert len(make(tmp_path / "report.html", **of(made))) < 100_000


def test_pickles_in_a_sweep_are_not_opened(tmp_path: Path):
    path = Path(report_set.write_sweep(tmp_path / "sweep")) / "results.parquet"
    table, code = pq.read_table(path), tmp_path / "code-has-run"
    pq.write_table(table.append_column("more", bombs.pickled_column(table.num_rows, code)), path)
    assert "trials over loss.alpha" in make(tmp_path / "report", sweep=str(path.parent))
    assert not code.exists()


def test_json_that_is_nested_without_end_is_no_bug(tmp_path: Path):
    run = Path(report_set.write_run(tmp_path / "run"))
    deep = "[" * 900 + "]" * 900
    (run / "config.json").write_text('{"a": ' + deep + "}")
    assert "Train config" in make(tmp_path / "report", run=str(run))


# Where it goes


def test_a_report_is_one_page_and_one_folder_of_its_files(tmp_path: Path):
    made = write_set(tmp_path, 3)
    make(tmp_path / "report", **of(made))
    first = sorted(path.name for path in (tmp_path / "report").iterdir())
    make(tmp_path / "report", **of(made))
    second = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert len(first) == len(second) == 2 and first[1] == second[1] == "index.html"
    assert first[0] != second[0], "a new report has files of its own"
    assert second[0] in (tmp_path / "report" / "index.html").read_text()


def test_a_report_that_fails_leaves_the_one_before_whole(tmp_path: Path):
    made = write_set(tmp_path, 3)
    make(tmp_path / "report", **of(made))
    before = {
        path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()
    }
    bad = write_set(tmp_path / "bad", 3, label=lambda row: row | {"activation_map": b"no"})
    with pytest.raises(ValueError, match="label of image 'image-00000': not a 16-bit"):
        make(tmp_path / "report", **of(bad))
    after = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert before == after
    with pytest.raises(ValueError):
        make(tmp_path / "new", **of(bad))
    assert not (tmp_path / "new" / "index.html").exists()


def test_what_a_killed_report_left_is_swept_away_by_the_next(tmp_path: Path):
    stale = tmp_path / "report" / "data-0123456789ab" / "images" / "0000"
    stale.mkdir(parents=True)
    (stale / "0000000.jpg").write_bytes(b"")
    make(tmp_path / "report", **of(write_set(tmp_path, 1)))
    assert not stale.exists()


@pytest.mark.parametrize("name", ["notes.txt", "data-x/notes.txt", "data/notes.txt"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str):
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("keep")
    with pytest.raises(ValueError, match=f"holds {name}, which is no part of a report"):
        make(tmp_path / "mine", **of(write_set(tmp_path, 1)))
    assert (tmp_path / "mine" / name).read_text() == "keep"


def test_a_single_file_holds_everything(tmp_path: Path):
    page = make(tmp_path / "report.html", **of(write_set(tmp_path, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "report.html", "shards"]
    assert page.count("data:image/jpeg;base64,") == 3
    tags = Parsed(page).tags
    found = [names.get("src") or names.get("href") for _, names in tags]
    assert not [url for url in found if url and not url.startswith(("#", "data:"))]


def test_the_policy_names_what_the_page_brings_and_nothing_else(tmp_path: Path):
    made = write_set(tmp_path, 3)
    for name in ("report", "report.html"):
        page = make(tmp_path / name, **of(made))
        policy = next(names["content"] for _, names in Parsed(page).tags if "http-equiv" in names)
        assert policy is not None and policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy and "http" not in policy
        for kind in ("script", "style"):
            for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy
    assert "file:" not in policy  # type: ignore


def test_a_report_goes_to_an_object_store(tmp_path: Path, bucket: str):
    made = write_set(tmp_path, 3)
    for _ in range(2):
        write_report(f"{bucket}/report", **of(made))
    names = sorted(file.uri.split("/report/")[1] for file in storage.walk(f"{bucket}/report"))
    assert len(names) == 5 and names[-1] == "index.html"
    page = storage.read_bytes(f"{bucket}/report/index.html").decode()
    assert names[0].partition("/")[0] in page


def test_labels_that_are_not_finished_are_refused(tmp_path: Path):
    made = write_set(tmp_path, 3)
    (tmp_path / "labels" / "_SUCCESS").unlink()
    with pytest.raises(ValueError, match="labeling has not finished"):
        make(tmp_path / "report", **of(made))
    assert "All 3 images" in make(tmp_path / "report", **of(made), allow_incomplete=True)


def test_something_must_be_given(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing to report on"):
        make(tmp_path / "report")
    with pytest.raises(ValueError, match="give labels, too"):
        make(tmp_path / "report", images=["x"], run="y")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(tmp_path / "report", run=str(tmp_path / "nowhere"))


def test_the_name_of_the_output_tells_what_is_written(tmp_path: Path):
    made = write_set(tmp_path, 2)
    inputs: Any = {"labels": (made.labels,), "images": (made.images,)}
    for name in ("sheet.png", "one.html", "folder"):
        job.report(**inputs, output=str(tmp_path / name))
    assert images.header((tmp_path / "sheet.png").read_bytes())[0] > 300
    assert (tmp_path / "one.html").is_file() and (tmp_path / "folder" / "index.html").is_file()
    with pytest.raises(ValueError, match="a contact sheet shows labels alone"):
        job.report(**inputs, run="runs/a", output=str(tmp_path / "sheet.png"))
    with pytest.raises(ValueError, match="images must be given"):
        job.report(labels=(made.labels,), output=str(tmp_path / "sheet.png"))


# Counts


def test_labels_without_images_are_counted(tmp_path: Path):
    made = write_set(tmp_path, 30, shard_images=12)
    page = make(tmp_path / "report", labels=[made.labels])
    assert re.search(r"images</th><td>30<", page) and 'id="gallery"' not in page
    assert "Score of the boxes" in page and "<script" not in page
    assert "IoU of the first box" not in page, "no box is known"


def test_histograms_count_every_label_once(tmp_path: Path):
    made = write_set(tmp_path, 40, shard_images=15)
    overview = Overview()
    files = storage.expand([made.labels])
    for row in rows.scan(files, rows.files_by_name([made.images])):
        overview.add(row)
    counts = {name: histogram.counts for name, histogram in overview.histograms.items()}
    assert all(each.sum() == 40 for each in counts.values())
    assert counts["score"][15] == 40  # 0.75
    assert counts["size"][int(20 * 1600 / 4800)] == 40
    bins = [min((40 - i) * 20 // (40 + i), 19) for i in range(40)]
    assert counts["iou"].tolist() == [bins.count(each) for each in range(20)]
    assert overview.num_hits == sum(iou_of(i) >= 0.5 for i in range(40))


# Scores, training, sweeps


def tally_of(num_images: int) -> Tally:
    rng = np.random.default_rng(0)
    tally = Tally.empty()
    for index in range(num_images):
        x0, y0 = (int(value) for value in rng.integers(0, 20, 2))
        activation = np.zeros((15, 20), np.float32)
        activation[y0 // 4 : y0 // 4 + 8, x0 // 4 : x0 // 4 + 8] = rng.uniform(0.2, 1, (8, 8))
        mask = np.zeros(report_set.SIZE, np.uint8)
        mask[y0 : y0 + 30, x0 : x0 + 30] = 1
        tally.add(
            {
                "image_id": str(index),
                "error": None,
                "pseudo_boxes": [],
                "activation_map": images.encode_png16(activation),
                "label_size": report_set.SIZE,
                "size": report_set.SIZE,
                "boxes": [[x0, y0, x0 + 30, y0 + 30]],
                "split": "val",
                "mask": cv2.imencode(".png", mask)[1].tobytes(),
            }
        )
    return tally


def test_the_curves_are_those_of_the_figures():
    tally = tally_of(12)
    found, metrics = curves.curves(tally), summarise(tally)
    for method, setting in (("c2am", "threshold"), ("centre", "side")):
        accuracy = found[method]["max_box_acc"]["50"]
        assert max(accuracy) == metrics[method]["oracle_gt_known_loc"]
        at = found[method][setting].index(round(metrics[method][f"oracle_{setting}"], 4))
        assert accuracy[at] == max(accuracy)
        recall, precision = (np.array(found[method][name]) for name in ("recall", "precision"))
        area = (precision * np.diff(recall, prepend=0)).sum() / 100
        assert area == pytest.approx(metrics[method]["pxap"], abs=1e-9)
    any_contour = [max(found["c2am"]["max_box_acc_v2"][level]) for level in ("30", "50", "70")]
    assert np.mean(any_contour) == pytest.approx(metrics["c2am"]["oracle_max_box_acc_v2"])


def test_the_report_finds_the_curves_of_an_evaluation(tmp_path: Path):
    uri = report_set.write_evaluation(tmp_path)
    assert Path(curves.uri_beside(uri)).exists()
    page = make(tmp_path / "report", metrics=uri)
    assert "chosen 0.31" in page and "PxAP 71.5" in page and "centred box 56.9" in page
    assert "python jobs/evaluate.py --labels labels --annotations shards" in page
    assert re.search(r"num_images</th><td>12,000</td><td>12,000<", page)
    assert figures._FORMAT == curves.FORMAT


def test_metrics_without_curves_say_so(tmp_path: Path):
    uri = report_set.write_evaluation(tmp_path)
    (tmp_path / "metrics.curves.json").unlink()
    page = make(tmp_path / "report", metrics=uri)
    assert "metrics.curves.json is not there" in page and "<svg" not in page


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "[1]", r"metrics\.json: corrupt: not a JSON object"),
        ("metrics.json", '{"c2am": 3}', r"metrics\.json: 'c2am' is no object of numbers"),
        ("metrics.curves.json", '{"format": 9}', r"curves\.json: not of format 1"),
        ("metrics.curves.json", '{"format": 1, "c2am": {"threshold": ["a"]}}', "no list of num"),
    ],
)
def test_files_that_are_no_evaluation_are_refused(
    tmp_path: Path, name: str, text: str, message: str
):
    uri = report_set.write_evaluation(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "report", metrics=uri)


def test_a_run_shows_its_curves_and_where_it_comes_from(tmp_path: Path):
    run = report_set.write_run(tmp_path / "run")
    saved = checkpoint.Checkpoint(**content(config='{"loss": {"alpha": 0.25}}', border_lock=0.95))
    sha256 = checkpoint.save(f"{run}/checkpoint", saved)
    made = write_set(tmp_path, 2, label=lambda row: row | {"checkpoint_sha256": sha256})
    page = make(tmp_path / "report", run=run, **of(made))
    for text in (sha256, "0.95", "Loss and its terms", "Waiting for data", "by this checkpoint"):
        assert text in page
    assert "--data.train s3://bucket/train" in page and "--loss.alpha 0.25" in page
    assert "1 images could not be decoded" in page
    other = make(tmp_path / "other", run=run, **of(write_set(tmp_path / "other-labels", 2)))
    assert "by another checkpoint" in other


def test_a_cut_off_last_row_is_no_error_and_a_corrupt_one_is_named(tmp_path: Path):
    run = Path(report_set.write_run(tmp_path / "run"))
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + '{"step": 51, "lo')
    assert "Loss and its terms" in make(tmp_path / "report", run=str(run))
    (run / "metrics.jsonl").write_text("{\n" + text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1 is not JSON"):
        make(tmp_path / "report", run=str(run))


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path):
    run = Path(report_set.write_run(tmp_path / "run"))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 600, "loss": NaN}\n{"step": 610, "loss": Infinity}\n')
    page = make(tmp_path / "report", run=str(run))
    assert not re.search(r" d=\"[^\"]*(nan|inf)", page) and "Infinity" not in page


def test_a_sweep_shows_means_and_spread_and_what_failed(tmp_path: Path):
    page = make(tmp_path / "report", sweep=report_set.write_sweep(tmp_path / "sweep"))
    text = Parsed(page).text
    assert "6 trials over loss.alpha." in text and "1 of them came to no value" in text
    assert "51 ± 1.4" in text and "61 ± 1.4" in text  # two seeds, 2 apart
    assert "loss is nan" in text and "python jobs/train.py --loss.alpha 3" in text
    assert "GT-known Loc over loss.alpha" in text and "MaxBoxAccV2 over loss.alpha" in text


def test_a_sweep_of_names_and_a_second_field_has_a_line_for_each(tmp_path: Path):
    trials = [
        {"trial": f"{init}{alpha}", "model.head_init": init, "loss.alpha": alpha,
         "objective": "map_agreement", "value": alpha + len(init)}
        for init in ("kaiming_normal", "uniform")
        for alpha in (0.001, 0.1)
    ]  # fmt: skip
    page = make(tmp_path / "report", sweep=report_set.write_sweep(tmp_path / "sweep", trials))
    text = Parsed(page).text
    assert "map_agreement over model.head_init" in text
    assert "model.head_init kaiming_normal" in text and "loss.alpha 0.001" in text


def test_a_sweep_without_results_is_named(tmp_path: Path):
    (tmp_path / "sweep").mkdir()
    with pytest.raises(FileNotFoundError, match=r"sweep/results\.parquet"):
        make(tmp_path / "report", sweep=str(tmp_path / "sweep"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "sweep" / "results.parquet")
    with pytest.raises(ValueError, match="column 'trial' is missing"):
        make(tmp_path / "report", sweep=str(tmp_path / "sweep"))


def test_the_label_command_is_what_differs_from_the_defaults(tmp_path: Path):
    made = write_set(tmp_path, 1)
    page = make(tmp_path / "report", labels=[made.labels])
    command = f"python jobs/label.py --checkpoint runs/a --input shards --output {made.labels}"
    assert all(part in page for part in (command.rpartition(" --output")[0], "--max-boxes 2"))


# What each needs of schema is what schema has


def test_the_columns_of_a_row_are_those_of_the_labels():
    assert set(report_set.label_row(0, "s")) == set(schema.LABELS.names)
    assert set(rows._COLUMNS) < set(schema.LABELS.names)
    assert publish.is_single("a/B.HTML") and not publish.is_single("s3://bucket/report")
