"""Checkpoints: one folder with ``checkpoint.pt`` and, written last, ``manifest.json``.

A folder without its manifest, or whose digest differs, is never taken for a checkpoint, so a
write cut short by a crash is invisible. Tensors and plain values only, and a file is believed
in neither: `read_state_dict` runs no code of it, and every field is checked.
"""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import platform
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from c2am_dist import __version__, storage
from c2am_dist.config import Method
from c2am_dist.method.weights import read_state_dict

FORMAT = 1
"""Raised whenever the content changes meaning; see CHANGELOG.md."""
METHODS: tuple[str, ...] = get_args(Method)
WITH_CLASSES = ("classifier", "cam", "bridging", "sipe")
"""Methods whose checkpoints name the classes of their outputs."""
_STEP = re.compile(r"/step-(\d{8,12})/manifest\.json$")
_MAX_CROP_PX = 10_000  # of 100 megapixels, as large as images may be


class CheckpointError(ValueError):
    """A checkpoint is absent, incomplete, corrupt or of another kind; names the URI."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a run needs to go on, and labeling to use its model."""

    method: str
    """How it was trained: config.Method, or ``encoder`` of weights from elsewhere."""
    encoder: str
    """Encoder architecture, such as ``resnet18``."""
    model: dict[str, Tensor]
    """Weights; the encoder's keys begin with ``encoder.``."""
    optimizer: dict[str, Any]
    step: int
    """Optimizer steps done, which is also the position in the plan of epochs."""
    total_steps: int
    """Length of the schedule."""
    classes: list[str]
    """A classifier's classes in order of its outputs; empty for methods that know none."""
    polarity: str
    """What raw P highlights: ``foreground`` or ``background``; empty but for C2AM."""
    polarity_margin: float
    """Share of the votes beyond one half, in [0, 0.5]."""
    border_lock: float
    """How far the maps share one frame-like pattern, in [0, 1]."""
    crop_px: int
    """Side of the images the model was trained on."""
    weights_sha256: str
    """Digest of the file the encoder started from; empty when it started at random."""
    config: str
    """The resolved TrainConfig as JSON; with Bridging the Gap, its constants are in there."""
    output_stride: int = 16
    """Pixels a cell of the feature map spans. Checkpoints that lack it have 16."""
    boxes_sha256: str = ""
    """Digest of the pseudo boxes PSOL was trained on (pseudo_boxes.PseudoBoxes)."""
    cues_sha256: str = ""
    """Digest of the label files whose background cues it was trained on (cue_sets.CueSets)."""
    package_version: str = __version__


def save(uri: str, checkpoint: Checkpoint) -> str:
    """Writes a checkpoint folder and returns the SHA-256 of its file."""
    buffer = io.BytesIO()
    fields = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    torch.save(fields, buffer)
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write_bytes(storage.join(uri, "checkpoint.pt"), data)
    described = ("method", "encoder", "output_stride", "step", "total_steps")
    described += ("polarity", "polarity_margin", "boxes_sha256", "cues_sha256")
    manifest = {
        "format": FORMAT,
        "sha256": sha256,
        "package_version": checkpoint.package_version,
        "versions": versions(),
        **{name: fields[name] for name in described},
    }
    text = json.dumps(manifest, indent=2) + "\n"
    storage.write_bytes(storage.join(uri, "manifest.json"), text.encode())
    return sha256


def versions() -> dict[str, str]:
    """Of what computes: with other ones, a run need not give the same bits."""
    names = ("torchvision", "ray", "numpy")
    others = {name: importlib.metadata.version(name) for name in names}
    return {"torch": torch.__version__, **others, "python": platform.python_version()}


def copy(source: str, target: str) -> None:
    """Copies a checkpoint folder, the manifest last."""
    for name in ("checkpoint.pt", "manifest.json"):
        data = storage.read_bytes(storage.join(source, name))
        storage.write_bytes(storage.join(target, name), data)


def load(uri: str) -> tuple[Checkpoint, str]:
    """The checkpoint in a folder, or a run's final, else latest one; and its SHA-256.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: the checkpoint is incomplete, corrupt or of another format.
    """
    folder = find(uri)
    manifest = read_manifest(folder)
    data = storage.read_bytes(storage.join(folder, "checkpoint.pt"))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != manifest.get("sha256"):
        raise CheckpointError(
            f"{folder}: corrupt: checkpoint.pt has SHA-256 {sha256}, "
            f"its manifest says {manifest.get('sha256')}"
        )
    try:
        return _checked(read_state_dict(data, "checkpoint.pt")), sha256
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint of this package ({error})") from error


def _checked(fields: Mapping[str, Any]) -> Checkpoint:
    found = Checkpoint(**fields)
    for field in dataclasses.fields(found):
        kind, value = get_origin(field.type) or field.type, getattr(found, field.name)
        if not isinstance(value, (int, float) if kind is float else kind):  # type: ignore
            raise TypeError(f"{field.name} is a {type(value).__name__}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.model.items()):
        raise TypeError("model holds more than named tensors")
    if found.method not in METHODS:
        raise ValueError(f"method is {found.method!r:.100}, not one of {', '.join(METHODS)}")
    if found.method in WITH_CLASSES and not found.classes:
        raise ValueError(f"a {found.method} without classes")
    if not all(isinstance(name, str) for name in found.classes):
        raise TypeError("classes holds more than names")
    if found.output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {found.output_stride}")
    if found.polarity not in ("foreground", "background", ""):
        raise ValueError(f"polarity is {found.polarity!r:.100}")
    if not 0 < found.crop_px <= _MAX_CROP_PX:
        raise ValueError(f"crop_px is {found.crop_px}, beyond {_MAX_CROP_PX}")
    return found


def find(uri: str) -> str:
    """The checkpoint folder that a URI means: itself, or a run's final or latest one.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: there is one that was never finished.
    """
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri}: no such checkpoint or run")
    for folder in (uri, storage.join(uri, "checkpoint")):
        if storage.exists(storage.join(folder, "manifest.json")):
            return folder
    latest = latest_step(uri)
    if latest is not None:
        return step_folder(uri, latest)
    if storage.exists(storage.join(uri, "checkpoint.pt")):
        raise CheckpointError(f"{uri}: incomplete: manifest.json is missing")
    raise FileNotFoundError(f"{uri}: holds no checkpoint (checkpoint.pt and manifest.json)")


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a checkpoint folder.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it cannot be read, or is of another format; names the file.
    """
    uri = storage.join(folder, "manifest.json")
    try:
        manifest = storage.read_json(uri)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{uri}: format {manifest.get('format')!r}, this version reads {FORMAT}"
        )
    return manifest


def step_folder(run: str, step: int) -> str:
    """Where a run keeps its intermediate checkpoint of a step."""
    return storage.join(run, "checkpoints", f"step-{step:08d}")


def steps(run: str) -> list[int]:
    """The steps of a run's complete intermediate checkpoints, in order."""
    root = storage.join(run, "checkpoints")
    if not storage.exists(root):
        return []
    return sorted(int(found[1]) for f in storage.walk(root) if (found := _STEP.search(f.uri)))


def latest_step(run: str) -> int | None:
    """The step of a run's latest complete checkpoint, or None before the first."""
    found = steps(run)
    return found[-1] if found else None


def prune(run: str, keep: int) -> None:
    """Deletes all but the latest ``keep`` intermediate checkpoints of a run."""
    for step in steps(run)[:-keep]:
        storage.delete_folder(step_folder(run, step))
