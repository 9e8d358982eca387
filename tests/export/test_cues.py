"""Background cues as a folder of PNG files, and what reads it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c2am_dist import names
from c2am_dist.data import named_files
from c2am_dist.export import CueExportReport
from c2am_dist.method import cues, images
from c2am_dist.refinement.masks import background_cue
from c2am_dist.refinement.sources import NamedReader, ShardSource
from tests.export.sets import SET, files, run
from tests.files import ROOT
from tests.labeled import write_set
from tests.refinement import sets
from tests.refinement.sets import SIZE, Scene, flat, ramp

SMALL = ramp(size=(SIZE[0] // 2, SIZE[1] // 2))
SCENES = {
    "a b/whole": Scene(cue=ramp()),
    "small": Scene(cue=SMALL),
    "none": Scene(),
    "broken": Scene(changes={"error": "cut off"}),
}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    shards = sets.write_shards(tmp_path, {"0.parquet": SCENES})
    labels = sets.write_labels(tmp_path, {"0.parquet": SCENES}, "background_cue")
    return {"labels": (labels,), "images": (shards,), "format": "cues"}


@pytest.mark.parametrize("with_images", [True, False])
def test_cues_are_read_back_by_refinement(
    inputs: dict[str, Any], tmp_path: Path, with_images: bool
):
    report = run(inputs, tmp_path / "out", with_images=with_images)
    assert report == CueExportReport(
        num_images=2, num_enlarged=1, num_left_out=1, num_errors=1, num_rewritten=0
    )
    assert run(inputs, tmp_path / "out", with_images=with_images) == report
    there = {path for path in files(tmp_path / "out") if not path.startswith("_")}
    stems = [names.file_path(image_id) for image_id in ("a b/whole", "small")]
    assert {path for path in there if path.startswith("cues/")} == {f"cues/{s}.png" for s in stems}
    assert len(there) == (4 if with_images else 2)

    folder = str(tmp_path / "out/cues")
    assert named_files.read(folder, "a b/whole", [".png"])[1] == images.encode_png8(ramp())
    reader = NamedReader(ShardSource(folder, "background_cue", (".png",)))
    whole, small = reader.read(["a b/whole", "small"])
    np.testing.assert_allclose(background_cue("a b/whole", SIZE, whole), ramp(), atol=1 / 255)
    expected = cues.enlarge(SMALL, SIZE)
    np.testing.assert_allclose(background_cue("small", SIZE, small), expected, atol=1 / 255)


def test_a_label_set_without_cues_is_refused_by_name(inputs: dict[str, Any], tmp_path: Path):
    without = write_set(tmp_path / "boxes", SET)
    labels = inputs["labels"] + without["labels"]
    with pytest.raises(ValueError, match=r"boxes/labels: no image has .* label with --write-cues"):
        run(inputs, tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [{"min_score": 0.5}, {"max_boxes": 1}, {"quantile": 0.5}, {"category_name": "cat"},
     {"keep_empty": "all"}],
)  # fmt: skip
def test_what_means_nothing_for_cues_is_refused(
    inputs: dict[str, Any], tmp_path: Path, option: dict[str, Any]
):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be unset with cues"):
        run(inputs, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_a_cue_that_cannot_be_read_is_named(inputs: dict[str, Any], tmp_path: Path):
    scene = Scene(cue=flat(0.5), changes={"background_cue": b"no PNG"})
    labels = sets.write_labels(tmp_path / "x", {"0.parquet": {"im": scene}}, "background_cue")
    with pytest.raises(ValueError, match=r"0.parquet: 'im': "):
        run(inputs, tmp_path / "out", labels=(labels,), with_images=False)
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_the_job_prints_what_it_did_with_cues(inputs: dict[str, Any], tmp_path: Path):
    arguments = ["--labels", *inputs["labels"], "--images", *inputs["images"], "--format", "cues"]
    command = [sys.executable, "jobs/export.py", *arguments, "--output", f"{tmp_path}/out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "cues: 2 images; 1 cues enlarged, 0 images written anew" in done.stdout
    assert "1 images without a cue, 1 with errors" in done.stdout
