"""The same command again, and other commands, into a folder that holds labels."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import LabelConfig
from c2am_dist.data import label_set
from c2am_dist.forecast import Cluster
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.folder import LabelReport
from c2am_dist.labeling.job import dry_run, label
from tests.labeling.sets import read_labels


def test_a_dry_run_counts_the_images_still_to_label_and_writes_nothing(
    labeled: Path, cut_off: Path, labeled_config: LabelConfig
):
    def planned(output: Path) -> int:
        config = dataclasses.replace(labeled_config, output=str(output))
        return dry_run(config, PlanConfig(), Cluster(num_machines=1, num_cpus=4)).num_images

    before = sorted(labeled.parent.rglob("*"))
    assert planned(labeled.with_name("new")) == len(read_labels(labeled)) == 20
    assert planned(cut_off) == 18
    assert planned(labeled) == 0
    assert sorted(labeled.parent.rglob("*")) == before


def test_the_same_command_again_finds_the_labels_finished(
    labeled: Path, labeled_config: LabelConfig
):
    before = {file: file.stat().st_mtime_ns for file in labeled.rglob("*.parquet")}
    report = label(labeled_config)
    assert (report.num_images, report.num_new, report.num_errors) == (20, 0, 3)
    assert before == {file: file.stat().st_mtime_ns for file in labeled.rglob("*.parquet")}


def test_success_lists_every_file_with_its_rows_and_digest(labeled: Path):
    files = label_set.sealed(str(labeled))
    assert files is not None
    assert [(f.name, f.num_rows, f.num_errors) for f in files] == [
        ("one/0.parquet", 11, 0),
        ("two/0.parquet", 7, 3),
        ("two/1.parquet", 2, 0),
        ("two/2.parquet", 0, 0),
    ]
    for file in files:
        assert hashlib.sha256((labeled / file.name).read_bytes()).hexdigest() == file.sha256


def test_only_shards_without_a_label_file_are_labeled_again(
    cut_off: Path, gone_on: tuple[Path, LabelReport]
):
    output, report = gone_on
    assert (report.num_images, report.num_new, report.num_errors) == (20, 18, 3)
    for name in ("two/1.parquet", "two/2.parquet"):
        kept, found = (folder / name for folder in (cut_off, output))
        assert found.stat().st_mtime_ns == kept.stat().st_mtime_ns


def test_labeling_again_with_more_actors_gives_identical_rows(
    labeled: Path, gone_on: tuple[Path, LabelReport]
):
    assert read_labels(gone_on[0]).equals(read_labels(labeled))


def test_a_half_written_file_of_a_killed_job_is_swept_away(
    labeled: Path, cut_off: Path, gone_on: tuple[Path, LabelReport]
):
    assert b"half" in _content(cut_off).values()
    assert _content(gone_on[0]) == _content(labeled)


def test_labels_made_in_several_lots_are_the_same(
    labeled: Path, labeled_config: LabelConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "LOT_SHARDS", 2)
    monkeypatch.setattr(pipeline, "LOT_SHARDS_AN_ACTOR", 2)
    assert pipeline.lot_shards(num_actors=1) == 2  # of 4: two lots, the second with an empty shard
    output = labeled.with_name("lots")
    assert label(dataclasses.replace(labeled_config, output=str(output))).num_new == 20
    assert _content(output) == _content(labeled)


def _content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_another_config_into_the_same_folder_is_refused_with_both_digests(
    labeled: Path, labeled_config: LabelConfig
):
    begun = json.loads((labeled / "_plan.json").read_text())
    with pytest.raises(ValueError, match="holds files of another job") as caught:
        label(dataclasses.replace(labeled_config, max_boxes=1))
    digests = re.findall("config_sha256 was ([0-9a-f]{64}), now ([0-9a-f]{64})", str(caught.value))
    assert digests[0][0] == begun["config_sha256"] != digests[0][1]


def test_another_threshold_into_the_same_folder_is_refused_by_name(
    labeled: Path, labeled_config: LabelConfig
):
    with pytest.raises(ValueError, match=r"; threshold was otsu None, now given 0\.3\. Choose"):
        label(dataclasses.replace(labeled_config, threshold=0.3))


def test_a_threshold_that_was_stored_since_is_refused_by_name(
    labeled_by_a_stored_threshold: LabelConfig,
):
    """The command is the same, and its config: the threshold is the checkpoint's."""
    stored = Path(labeled_by_a_stored_threshold.checkpoint, "checkpoint", "threshold.json")
    before = stored.read_text()
    stored.write_text(json.dumps({"threshold": 0.5}))
    try:
        changed = r"another job: threshold was evaluation 0\.25, now evaluation 0\.5\. Choose"
        with pytest.raises(ValueError, match=changed):
            label(labeled_by_a_stored_threshold)
    finally:
        stored.write_text(before)


def test_a_foreign_file_under_a_label_files_name_is_refused(
    labeled: Path, labeled_config: LabelConfig, tmp_path: Path
):
    out = shutil.copytree(labeled, tmp_path / "out")
    (out / "_SUCCESS").unlink()
    table = pq.read_table(out / "two" / "0.parquet", partitioning=None)
    pq.write_table(table.replace_schema_metadata({}), out / "two" / "0.parquet")
    with pytest.raises(ValueError, match=r"two/0\.parquet: its checkpoint_sha256 is absent"):
        label(dataclasses.replace(labeled_config, output=str(out)))
