import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from c2am_dist import checkpoint
from c2am_dist.checkpoint import Checkpoint, CheckpointError


def _checkpoint(**changes: object) -> Checkpoint:
    content = Checkpoint(
        method="c2am",
        encoder="resnet18",
        model={"encoder.conv1.weight": torch.arange(6.0).reshape(2, 3)},
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        step=7,
        total_steps=10,
        classes=["a", "b"],
        polarity="background",
        polarity_margin=0.25,
        border_lock=0.1,
        crop_px=96,
        weights_sha256="0" * 64,
        config="{}",
    )
    return dataclasses.replace(content, **changes)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path):
    saved = _checkpoint()
    sha256 = checkpoint.save(str(tmp_path), saved)
    loaded, found = checkpoint.load(str(tmp_path))
    assert found == sha256
    assert torch.equal(loaded.model["encoder.conv1.weight"], saved.model["encoder.conv1.weight"])
    plain = [f.name for f in dataclasses.fields(Checkpoint) if f.name not in ("model", "optimizer")]
    assert all(getattr(loaded, name) == getattr(saved, name) for name in plain)


def test_a_run_means_its_final_else_its_latest_checkpoint(tmp_path: Path):
    run = str(tmp_path)
    for step in (5, 20, 10):
        checkpoint.save(checkpoint.step_folder(run, step), _checkpoint(step=step))
    assert checkpoint.steps(run) == [5, 10, 20]
    assert checkpoint.load(run)[0].step == 20
    checkpoint.save(f"{run}/checkpoint", _checkpoint(step=15))
    assert checkpoint.load(run)[0].step == 15


def test_a_checkpoint_without_its_manifest_does_not_count(tmp_path: Path):
    run = str(tmp_path)
    checkpoint.save(checkpoint.step_folder(run, 5), _checkpoint(step=5))
    checkpoint.save(checkpoint.step_folder(run, 9), _checkpoint(step=9))
    (Path(checkpoint.step_folder(run, 9)) / "manifest.json").unlink()
    assert checkpoint.latest_step(run) == 5
    with pytest.raises(CheckpointError, match="step-00000009: incomplete"):
        checkpoint.load(checkpoint.step_folder(run, 9))


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path):
    checkpoint.save(str(tmp_path), _checkpoint())
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=f"{tmp_path}: corrupt"):
        checkpoint.load(str(tmp_path))


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path):
    checkpoint.save(str(tmp_path), _checkpoint())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(str(tmp_path))


def test_a_path_without_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoint.load(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.load(str(tmp_path))


def test_pruning_keeps_the_latest(tmp_path: Path):
    run = str(tmp_path)
    for step in (1, 2, 3, 4):
        checkpoint.save(checkpoint.step_folder(run, step), _checkpoint(step=step))
    checkpoint.prune(run, keep=2)
    assert checkpoint.steps(run) == [3, 4]


def _save_raw(folder: Path, fields: dict[str, object]) -> str:
    """A checkpoint folder with any fields, as another version would have written it."""
    checkpoint.save(str(folder), _checkpoint())
    torch.save(fields, folder / "checkpoint.pt")
    sha256 = hashlib.sha256((folder / "checkpoint.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "sha256": sha256}))
    return str(folder)


def test_an_older_checkpoint_has_the_stride_there_was(tmp_path: Path):
    saved = _checkpoint()
    fields = {f.name: getattr(saved, f.name) for f in dataclasses.fields(saved)}
    del fields["output_stride"], fields["boxes_sha256"], fields["cues_sha256"]
    loaded, _ = checkpoint.load(_save_raw(tmp_path, fields))
    assert (loaded.output_stride, loaded.boxes_sha256) == (16, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dream"}, "method is 'dream', not one of c2am, classifier, cam, bridging"),
        ({"method": "sipe", "classes": []}, "a sipe without classes"),
        ({"method": "bridging", "classes": []}, "a bridging without classes"),
        ({"method": "classifier", "classes": [1, 2]}, "classes holds more than names"),
        ({"output_stride": 7}, "output_stride is 7"),
        ({"output_stride": "16"}, "output_stride is a str"),
    ],
)
def test_a_checkpoint_that_fits_no_method_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
):
    checkpoint.save(str(tmp_path), _checkpoint(**changes))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(str(tmp_path))


def test_the_manifest_says_what_labeling_asks_first(tmp_path: Path):
    psol = _checkpoint(method="psol", output_stride=32, boxes_sha256="b" * 64, polarity="")
    checkpoint.save(str(tmp_path), psol)
    manifest = checkpoint.read_manifest(str(tmp_path))
    assert (manifest["method"], manifest["output_stride"]) == ("psol", 32)
    assert manifest["boxes_sha256"] == "b" * 64
