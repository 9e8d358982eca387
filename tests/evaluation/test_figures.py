"""Figures of classes, intervals and tables against hand-computed values and a plain loop."""

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from c2am_dist.evaluation import markdown
from c2am_dist.evaluation.classes import by_class
from c2am_dist.evaluation.classes import markdown as class_table
from c2am_dist.evaluation.figures import SEED, composed, intervals, summarise
from c2am_dist.evaluation.hits import class_hits, image_hits
from c2am_dist.evaluation.outcomes import hits_at, pack
from c2am_dist.evaluation.tally import half_of
from c2am_dist.method.boxes import gt_to_protocol, to_protocol
from c2am_dist.method.images import decode_png16
from c2am_dist.method.intervals import percentile_interval, resampled_shares
from c2am_dist.method.metrics import THRESHOLDS
from tests.evaluation.sets import Scored, prediction_row, score, tally_of
from tests.method import reference
from tests.method.maps import smooth_map
from tests.test_evaluation import label_row, note_row, object_map

RIGHT, OFF = (20, 12, 60, 48), (0, 0, 20, 12)
"""A box that the map of RIGHT finds, and one that it does not."""
OTHERS = ["b", "c", "d", "e", "f"]


def boxes_at(*found: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    names = ("x0", "y0", "x1", "y1", "score")
    return [dict(zip(names, (*box, 1.0), strict=True)) for box in found]


def hand_made(root: Path, **changes: Any) -> Scored:
    """Ten images of class a: localized and class first, second, sixth, ..., as the names say."""
    kinds = {
        "hit-first": (RIGHT, ["a", *OTHERS[:4]]),
        "hit-first-too": (RIGHT, ["a", *OTHERS[:4]]),
        "hit-fifth": (RIGHT, [*OTHERS[:4], "a"]),
        "hit-sixth": (RIGHT, [*OTHERS, "a"]),
        "hit-never": (RIGHT, OTHERS),
        "miss-first": (OFF, ["a", *OTHERS[:4]]),
        "miss-fifth": (OFF, [*OTHERS[:4], "a"]),
        "hit-failed": (RIGHT, None),
        "hit-unpredicted": (RIGHT, ()),
        "error-first": (None, ["a", *OTHERS[:4]]),
    }
    labels, found = [], []
    for name, (box, classes) in kinds.items():
        row = label_row(name, object_map(RIGHT), activation_map=None)
        row |= {"pseudo_boxes": boxes_at(box)} if box else {"pseudo_boxes": None, "error": "bad"}
        labels.append(row)
        if classes is None:
            found.append(prediction_row(name, error="cannot be decoded"))
        elif classes:
            found.append(prediction_row(name, *classes))
    notes = [note_row(name, RIGHT, label="a") for name in kinds]
    return score(root, labels, notes, found, **changes)


def test_top_k_loc_and_accuracy_by_hand(tmp_path: Path):
    scored = hand_made(tmp_path, method="psol")
    metrics = summarise(scored.tally, scored.method)
    assert list(metrics) == ["psol", "centre", "predictions"]
    psol, centre, predicted = metrics.values()
    # Nine have a prediction, of which one failed and counts as wrong.
    assert predicted["num_images"] == 9 and predicted["num_errors"] == 1
    assert predicted["top1_accuracy"] == pytest.approx(100 * 4 / 9)
    assert predicted["top5_accuracy"] == pytest.approx(100 * 6 / 9)
    assert psol["stored_top1_loc"] == pytest.approx(100 * 2 / 9)
    assert psol["stored_top5_loc"] == pytest.approx(100 * 3 / 9)
    assert psol["stored_gt_known_loc"] == 70 and psol["num_images"] == 10
    # No map, so nothing that a threshold was chosen for; every centred box of a good side hits.
    assert not any(name.startswith(("gt_", "oracle_", "top", "max_box")) for name in psol)
    assert centre["oracle_gt_known_loc"] == 100
    assert centre["oracle_top1_loc"] == pytest.approx(100 * 4 / 9)


def test_a_stored_box_at_the_level_exactly_is_right_and_any_box_counts_for_v2(tmp_path: Path):
    half, wrong = (20, 12, 40, 48), (0, 0, 4, 4)  # half of RIGHT: IoU exactly 0.5
    labels = [
        label_row("a", object_map(RIGHT), activation_map=None, pseudo_boxes=boxes_at(half, wrong)),
        label_row("b", object_map(RIGHT), activation_map=None, pseudo_boxes=boxes_at(wrong, RIGHT)),
        label_row("c", object_map(RIGHT), activation_map=None, pseudo_boxes=[]),
    ]
    scored = score(tmp_path, labels, [note_row(name, RIGHT) for name in "abc"])
    figures = summarise(scored.tally, scored.method)["c2am"]
    assert figures["stored_gt_known_loc"] == pytest.approx(100 / 3)
    assert [figures[f"stored_max_box_acc_v2_{level}"] for level in (30, 50, 70)] == pytest.approx(
        [200 / 3, 200 / 3, 100 / 3]
    )
    assert figures["stored_max_box_acc_v2"] == pytest.approx(500 / 9)


def test_training_images_have_cor_loc_of_stored_boxes(tmp_path: Path):
    labels = [label_row("a", object_map(RIGHT), activation_map=None)]
    scored = score(tmp_path, labels, [note_row("a", RIGHT, split="train")])
    figures = summarise(scored.tally, scored.method)["c2am"]
    assert figures["stored_cor_loc"] == figures["stored_gt_known_loc"] == 100
    assert "cor_loc" not in figures
    assert intervals(scored.tally, "c2am", num_resamples=9)["c2am"]["stored_cor_loc"] == (100, 100)


def random_set(root: Path, num_images: int = 36, num_classes: int = 4) -> Scored:
    """Smooth maps, random boxes, classes and predictions; some rows and predictions fail."""
    rng = np.random.default_rng(0)
    labels, notes, found = [], [], []
    names = [f"class {i}" for i in range(num_classes)]
    for i in range(num_images):
        low = rng.integers(0, (30, 20))
        box = (*low.tolist(), *(low + rng.integers(20, (50, 40))).tolist())
        noise = cv2.resize(smooth_map(rng, 24), (20, 15))
        activation = 0.5 * object_map(box) + 0.5 * noise
        if i % 4 == 2:  # something larger beside it, which any contour looks past
            activation[:, 14:], activation[:, 13] = 1, 0
        own = int(rng.integers(num_classes))
        labels.append(label_row(f"image-{i}", activation))
        if i % 9 == 4:
            labels[-1] = label_row(f"image-{i}", None, error="bad", width=None, height=None)
        notes.append(note_row(f"image-{i}", box, label=names[own]))
        order = [names[j] for j in rng.permutation(num_classes)]
        if i % 2:
            order = [names[own]] + [name for name in order if name != names[own]]
        if i % 7 != 6:
            found.append(prediction_row(f"image-{i}", *order[:3]))
    found[5] = prediction_row(found[5]["image_id"], error="cannot be decoded")
    return score(root, labels, notes, found)


def plain_hits(row: dict[str, Any], *, is_any: bool) -> list[list[bool]]:
    """Hits (3 levels x 100 thresholds) of a row's map, one OpenCV pass a threshold."""
    if row["error"] is not None:
        return [[False] * 100] * 3
    activation = to_protocol(decode_png16(row["activation_map"]))
    gt = gt_to_protocol(np.array(row["boxes"]), row["size"])
    best = [
        float(reference.iou_inclusive(boxes, gt).max())
        for boxes in reference.boxes(activation, THRESHOLDS, is_any=is_any)
    ]
    return [[iou >= level for iou in best] for level in (0.3, 0.5, 0.7)]


def middle_best(hits: list[list[bool]]) -> int:
    """The threshold with most hits, of equals the middle one."""
    sums = [sum(column) for column in zip(*hits, strict=True)]
    best = [i for i, value in enumerate(sums) if value == max(sums)]
    return best[len(best) // 2]


def test_figures_are_those_of_a_plain_loop(tmp_path: Path):
    scored = random_set(tmp_path)
    metrics = summarise(scored.tally, scored.method)
    assert 0 < metrics["c2am"]["top1_loc"] < metrics["c2am"]["top5_loc"]
    halves = [half_of(row["image_id"]) for row in scored.rows]
    assert 0 < sum(halves) < len(halves)
    at_half = [plain_hits(row, is_any=False)[1] for row in scored.rows]
    chosen = [
        middle_best([hit for hit, half in zip(at_half, halves, strict=True) if half != mine])
        for mine in (0, 1)
    ]
    oracle = middle_best(at_half)
    for prefix, thresholds in (("", chosen), ("oracle_", [oracle, oracle])):
        known, tops, by = [], {1: [], 5: []}, {}
        for row, half, hits in zip(scored.rows, halves, at_half, strict=True):
            hit, rank = hits[thresholds[half]], row["class_rank"]
            known.append(hit)
            by.setdefault(row["class_index"], []).append(hit)
            for k in (1, 5):
                if rank is not None:
                    tops[k].append(hit and 0 <= rank < k)
        c2am = metrics["c2am"]
        assert c2am[f"{prefix}gt_known_loc"] == pytest.approx(100 * np.mean(known))
        for k in (1, 5):
            assert c2am[f"{prefix}top{k}_loc"] == pytest.approx(100 * np.mean(tops[k]))
        table = by_class(scored.tally, "c2am", scored.classes)
        for index, hits in by.items():
            assert table[index]["num_images"] == len(hits)
            assert table[index][f"{prefix}gt_known_loc"] == pytest.approx(100 * np.mean(hits))
    ranks = [row["class_rank"] for row in scored.rows if row["class_rank"] is not None]
    assert metrics["predictions"]["top1_accuracy"] == pytest.approx(
        100 * np.mean([rank == 0 for rank in ranks])
    )


def test_any_contour_and_every_level_are_those_of_a_plain_loop(tmp_path: Path):
    scored = random_set(tmp_path, num_images=12)
    figures = summarise(scored.tally, scored.method)["c2am"]
    every = [plain_hits(row, is_any=True) for row in scored.rows]
    best = []
    for i, level in enumerate((30, 50, 70)):
        sums = [sum(hits[i][t] for hits in every) for t in range(100)]
        best.append(100 * max(sums) / len(every))
        assert figures[f"oracle_max_box_acc_v2_{level}"] == pytest.approx(best[-1])
    assert figures["oracle_max_box_acc_v2"] == pytest.approx(np.mean(best))


def test_hits_of_images_add_up_to_the_figures(tmp_path: Path):
    scored = random_set(tmp_path)
    metrics = summarise(scored.tally, scored.method)
    assert metrics["c2am"]["max_box_acc_v2_30"] > metrics["c2am"]["max_box_acc_30"]
    checked = 0
    for hits in (image_hits(scored.tally, "c2am"), class_hits(scored.tally, "c2am")[0]):
        for method, columns in hits.items():
            shares = {name: 100 * column.mean() for name, column in columns.items()}
            for name, share in composed(shares).items():
                assert metrics[method][name] == pytest.approx(share), name
                checked += 1
    assert checked > 40


def test_figures_tables_and_intervals_do_not_depend_on_how_counts_are_merged(tmp_path: Path):
    scored = random_set(tmp_path)
    parts = [tally_of(scored.rows[start::3]) for start in range(3)]

    def everything(tally) -> str:
        return json.dumps(
            [
                summarise(tally, "c2am"),
                intervals(tally, "c2am", num_resamples=40),
                by_class(tally, "c2am", scored.classes),
            ]
        )

    at_once = everything(scored.tally)
    for one, two, three in itertools.permutations(parts):
        assert everything(one.merge(two).merge(three)) == at_once
        assert everything(one.merge(two.merge(three))) == at_once


def test_intervals_hold_their_figures_and_come_from_the_images(tmp_path: Path):
    scored = random_set(tmp_path)
    metrics = summarise(scored.tally, "c2am")
    found = intervals(scored.tally, "c2am", num_resamples=500)
    for method, ends in found.items():
        for name, (low, high) in ends.items():
            assert low <= metrics[method][name] <= high, name
    assert found["predictions"].keys() == {"top1_accuracy", "top5_accuracy"}
    shares = {name for name in metrics["c2am"] if not name.startswith("num_")}
    assert found["c2am"].keys() == shares - {"threshold", "oracle_threshold"}
    columns = class_hits(scored.tally, "c2am")[0]["predictions"]
    hits = np.stack([columns["top1_accuracy"], columns["top5_accuracy"]], axis=1)
    again = 100 * resampled_shares(hits, num_resamples=500, seed=SEED)
    for i, ends in enumerate(found["predictions"].values()):
        assert ends == percentile_interval(again[:, i], confidence=0.95)
        assert 10 < ends[1] - ends[0] < 60  # of 31 images


def test_table_shows_intervals_in_brackets(tmp_path: Path):
    scored = random_set(tmp_path)
    metrics = summarise(scored.tally, "c2am")
    found = intervals(scored.tally, "c2am", num_resamples=100)
    lines = markdown(metrics, found).splitlines()
    assert lines[0] == "| metric | c2am | centre | predictions |"
    low, high = found["c2am"]["top1_loc"]
    (line,) = (line for line in lines if line.startswith("| top1_loc |"))
    assert f"| {metrics['c2am']['top1_loc']:.1f} [{low:.1f}, {high:.1f}] |" in line
    assert line.endswith("| – |")


def test_class_table_by_hand(tmp_path: Path):
    labels = [
        label_row(str(i), object_map(RIGHT), activation_map=None, pseudo_boxes=boxes_at(box))
        for i, box in enumerate([RIGHT, OFF, RIGHT, RIGHT])
    ]
    notes = [note_row(str(i), RIGHT, label=name) for i, name in enumerate("aabb")]
    notes.append(note_row("unlabeled", RIGHT, label="c|d"))
    found = [prediction_row("0", "a", "b"), prediction_row("1", "b", "a")]
    found.append(prediction_row("2", "a", "b"))
    scored = score(tmp_path, labels, notes, found)
    rows = by_class(scored.tally, scored.method, scored.classes)
    shown = ("num_images", "num_predicted", "stored_gt_known_loc", "stored_top1_loc")
    shown += ("stored_top5_loc", "top1_accuracy", "top5_accuracy")
    assert {row["class"]: [row[name] for name in shown] for row in rows} == {
        "a": [2, 2, 50, 50, 50, 50, 100],
        "b": [2, 1, 100, 0, 100, 0, 100],
        "c|d": [0, 0, None, None, None, None, None],  # none of its images is scored
    }
    assert all(row["centre_gt_known_loc"] == 100 for row in rows[:2])
    lines = class_table(rows).splitlines()
    assert lines[0].startswith("| class | num_images | ") and len(lines) == 5
    assert lines[2].startswith("| a | 2 | 50.0 | ") and lines[4].startswith("| c\\|d | 0 | – | ")


def test_without_predictions_there_are_no_figures_of_classes(tmp_path: Path):
    labels = [label_row("a", object_map(RIGHT))]
    scored = score(tmp_path, labels, [note_row("a", RIGHT, label="x")])
    metrics = summarise(scored.tally, "c2am")
    assert list(metrics) == ["c2am", "centre"] and "top1_loc" not in metrics["c2am"]
    (row,) = by_class(scored.tally, "c2am", scored.classes)
    assert row["gt_known_loc"] == 100 and row.keys() & {"num_predicted", "top1_loc"} == set()


def test_one_image_and_nothing_but_errors_have_figures_and_intervals(tmp_path: Path):
    one = score(
        tmp_path / "one",
        [label_row("a", object_map(RIGHT))],
        [note_row("a", RIGHT, label="x")],
        [prediction_row("a", "x")],
    )
    metrics = summarise(one.tally, "c2am")
    assert metrics["c2am"]["top1_loc"] == metrics["predictions"]["top1_accuracy"] == 100
    assert intervals(one.tally, "c2am", num_resamples=9)["c2am"]["top1_loc"] == (100, 100)
    errors = score(
        tmp_path / "errors",
        [label_row(name, None, error="bad", width=None, height=None) for name in "ab"],
        [note_row(name, RIGHT, label="x") for name in "ab"],
        [prediction_row(name, error="bad") for name in "ab"],
    )
    metrics = summarise(errors.tally, "c2am")
    assert metrics["c2am"]["stored_top5_loc"] == metrics["predictions"]["top5_accuracy"] == 0
    assert metrics["predictions"]["num_errors"] == metrics["c2am"]["num_errors"] == 2
    assert intervals(errors.tally, "c2am", num_resamples=9)["c2am"]["stored_top1_loc"] == (0, 0)


def test_packed_hits_are_read_at_any_setting():
    rng = np.random.default_rng(0)
    best = rng.random((5, 50))
    packed = np.stack([pack(row) for row in best])
    for settings in (np.array([0, 49, 7]), rng.integers(0, 50, (5, 3))):
        found = hits_at(packed, settings)
        for n, (low, middle, high) in enumerate(np.broadcast_to(settings, (5, 3))):
            expected = [best[n, low] >= 0.3, best[n, middle] >= 0.5, best[n, high] >= 0.7]
            assert found[n].tolist() == expected
