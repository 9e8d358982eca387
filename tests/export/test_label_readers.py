"""The lines of docs/data.md that open a label set in other tools, run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.files import ROOT
from tests.labeled import Labeled, picture, write_set

SECTION = (ROOT / "docs/data.md").read_text().split("### In other tools\n")[1].split("\n#")[0]
LINES = dict(re.findall(r"^\| (\w+) \| `(.+?)` \|", SECTION, re.MULTILINE))
SCORES = {"a": [0.5], "b": [], "c": [0.75, 0.25], "bad": None, "d": [1.0]}


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished set in the folder ``labels``, in two files, one of them in a folder below."""
    some = {
        image_id: Labeled(b"", error="empty file")
        if scores is None
        else Labeled(picture(), [(0, 0, 9, 9, score) for score in scores])
        for image_id, scores in SCORES.items()
    }
    write_set(tmp_path, some, per_file=3)
    (tmp_path / "labels/below").mkdir()
    (tmp_path / "labels/shard-00001.parquet").rename(tmp_path / "labels/below/shard-00001.parquet")
    assert {path.name for path in tmp_path.glob("labels/_*")} == {"_SUCCESS", "_plan.json"}
    monkeypatch.chdir(tmp_path)


def run(tool: str, **modules: Any) -> Any:
    return eval(LINES[tool], modules)


def check(rows: list[dict[str, Any]]) -> None:
    def scores(boxes: Any) -> list[float] | None:
        return None if boxes is None else [box["score"] for box in boxes]

    assert {row["image_id"]: scores(row["pseudo_boxes"]) for row in rows} == SCORES
    assert {row["image_id"]: row["error"] for row in rows}["bad"] == "empty file"


def test_the_document_shows_a_line_for_each_tool():
    assert list(LINES) == ["pandas", "polars", "duckdb", "datasets"]


def test_pandas_opens_a_label_set(labels: None):
    import pandas as pd

    frame = run("pandas", pd=pd)
    check(frame.astype(object).where(frame.notna(), None).to_dict("records"))


def test_polars_opens_a_label_set(labels: None):
    polars = pytest.importorskip("polars", reason="pip install polars")
    check(run("polars", pl=polars).to_dicts())


def test_duckdb_opens_a_label_set(labels: None):
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    relation = run("duckdb", duckdb=duckdb)
    check([dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()])


def test_hugging_face_datasets_opens_a_label_set(
    labels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets (Hugging Face)")
    check(list(run("datasets", load_dataset=datasets.load_dataset)))
