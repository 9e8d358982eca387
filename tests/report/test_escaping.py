"""Texts from outside stay texts."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from c2am_dist import checkpoint
from tests import bombs
from tests.report import sets
from tests.report.pages import Parsed, make, of, shown
from tests.report.sets import write_set
from tests.test_untrusted_files import content

HOSTILE = "</script><img src=x onerror=pwned()>\" onfocus='pwned()' <!-- \u2028 \u202e &amp; `"


def test_every_text_from_outside_is_escaped(tmp_path: Path):
    def label(row: dict[str, Any]) -> dict[str, Any]:
        error = HOSTILE if row["image_id"] == "image-00001" else None
        return row | {"image_id": HOSTILE + row["image_id"], "polarity": HOSTILE, "error": error}

    def shard(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"image_id": HOSTILE + row["image_id"], "label": HOSTILE}

    made = write_set(tmp_path, 2, label=label, shard=shard)
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({HOSTILE: {HOSTILE: 1.0}, "c2am": {HOSTILE: 2}}))
    run = Path(sets.write_run(tmp_path / "run"))
    (run / "config.json").write_text(json.dumps({HOSTILE: [HOSTILE], "loss": {HOSTILE: HOSTILE}}))
    trial = dict.fromkeys(("trial", "loss.alpha", "objective", "command", HOSTILE), HOSTILE)
    trial["status"] = "finished"
    trials = [trial | {"value": 1.0}, trial | {"loss.alpha": HOSTILE * 2, "value": 2.0}]
    sweep = sets.store_sweep(tmp_path / "sweep", trials)
    about = {HOSTILE: HOSTILE, "command": ["python", HOSTILE]}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(about))
    saved = checkpoint.Checkpoint(**content(config="{}"))
    checkpoint.save(str(run / "checkpoint"), saved)
    manifest = json.loads((run / "checkpoint" / "manifest.json").read_text())
    manifest["versions"] = {HOSTILE: HOSTILE}
    (run / "checkpoint" / "manifest.json").write_text(json.dumps(manifest))
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
    path = Path(sets.write_sweep(tmp_path / "sweep")) / "results.parquet"
    table, code = pq.read_table(path), tmp_path / "code-has-run"
    pq.write_table(table.append_column("more", bombs.pickled_column(table.num_rows, code)), path)
    assert "trials over loss.alpha" in make(tmp_path / "report", sweep=str(path.parent))
    assert not code.exists()


def test_json_that_is_nested_without_end_is_no_bug(tmp_path: Path):
    run = Path(sets.write_run(tmp_path / "run"))
    deep = "[" * 900 + "]" * 900
    (run / "config.json").write_text('{"a": ' + deep + "}")
    assert "Train config" in make(tmp_path / "report", run=str(run))
