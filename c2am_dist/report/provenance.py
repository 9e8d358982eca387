"""Who made what: runs and checkpoints, and the command lines that do the same again."""

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from c2am_dist import __version__, storage
from c2am_dist.config import TrainConfig, to_json
from c2am_dist.report.page import Section, Table, Text, json_lines


def command(script: str, config: Mapping[str, Any], default: Any, **further: str) -> str:
    """The command line of a config as it was stored: what differs from this version's defaults.

    Args:
        script: of jobs/.
        config: the config's JSON object; not trusted.
        default: a config with every field at its default.
        further: fields that are not stored.
    """
    usual = _flat(json.loads(to_json(default)))
    parts = ["python", f"jobs/{script}"]
    for name, value in {**_flat(config), **further}.items():
        if name not in usual or value != usual[name]:
            parts += _flag(name.replace("_", "-"), value)
    return shlex.join(parts)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted path, as deep as configs are."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        is_group = isinstance(value, dict) and prefix.count(".") < 3
        found |= _flat(value, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": value}
    return found


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        group, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{group}{dot}no-{last}"]
    values = value if isinstance(value, list) else [value]
    # No config holds more structure than that; a forged one may, without end.
    return [f"--{name}", *("…" if isinstance(v, dict | list) else str(v) for v in values)]


def run_section(uri: str, labeled_by: set[str]) -> Section:
    """What a run's folder says of itself.

    Args:
        uri: of a run, or of a checkpoint.
        labeled_by: digests of the checkpoints that made the labels of this report.

    Raises:
        FileNotFoundError: there is neither a config nor a checkpoint.
        CheckpointError: the checkpoint is incomplete or corrupt.
        ValueError: ``config.json`` is no JSON object.
    """
    from c2am_dist import checkpoint  # and with it torch: seconds, which only runs are worth

    notes, rows, texts = [], [("run", storage.absolute(uri))], []
    content, has_checkpoint = _config(uri), _has_checkpoint(uri)
    if not (content or has_checkpoint):
        raise FileNotFoundError(f"{uri}: holds neither config.json nor a checkpoint of a run")
    if has_checkpoint:
        loaded, sha256 = checkpoint.load(uri)
        names = [f.name for f in dataclasses.fields(loaded)]
        skip = ("model", "optimizer", "config", "classes")
        rows.append(("checkpoint", checkpoint.find(uri)))
        rows.append(("checkpoint sha256", sha256))
        rows += [
            (name.replace("_", " "), _text(getattr(loaded, name)))
            for name in names
            if name not in skip
        ]
        rows += _versions(checkpoint.read_manifest(checkpoint.find(uri)))
        content = content or _object(loaded.config)
        if labeled_by:
            same = "this checkpoint" if sha256 in labeled_by else "another checkpoint"
            notes.append(f"The labels of this report were made by {same}.")
    else:
        notes.append("The run has no complete checkpoint yet.")
    if content:
        line = command("train.py", content, TrainConfig())
        texts = [Text("Train config: command", [line]), Text("Train config", json_lines(content))]
    return Section(
        id="run",
        title="Where the model comes from",
        notes=notes,
        tables=[Table("Run and checkpoint", ("what", "value"), rows)],
        texts=texts,
    )


def _versions(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was computed with, where its manifest says so."""
    found = manifest.get("versions")
    known = found.items() if isinstance(found, dict) else ()
    return [(f"{name} of the run", str(version)) for name, version in known]


def _config(uri: str) -> dict[str, Any]:
    path = storage.join(uri, "config.json")
    return storage.read_json(path) if storage.exists(path) else {}


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_checkpoint(uri: str) -> bool:
    from c2am_dist import checkpoint

    try:
        return bool(checkpoint.find(uri))
    except FileNotFoundError:
        return False


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "–"


def report_section(inputs: Mapping[str, str], command_line: str) -> Section:
    """What this report was made from, and by what."""
    rows = [(name, uri) for name, uri in inputs.items() if uri]
    rows += [
        ("c2am-dist", __version__),
        ("Python", platform.python_version()),
        ("pyarrow", pa.__version__),
    ]
    texts = [Text("Command of this report", [command_line])] if command_line else []
    table = Table("Inputs and versions", ("what", "value"), rows)
    return Section(id="report", title="Where this report comes from", tables=[table], texts=texts)
