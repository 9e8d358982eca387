"""What import-linter cannot see."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "c2am_dist"


def test_the_papers_name_no_collective():
    for path in (PACKAGE / "method").glob("*.py"):
        assert "torch.distributed" not in path.read_text(), path


def test_every_checkpoint_is_loaded_as_weights_only():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True)"), path


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("data.stream, c2am_dist.data.prepare", ("torch", "ray.train")),
        ("labeling.decode, c2am_dist.labeling.rows", ("torch", "ray.train")),
        ("data.row_files", ("torch", "ray.train", "numba")),
        ("evaluation.tally, c2am_dist.evaluation.masks", ("torch", "ray.train")),
        ("refinement.rows", ("torch", "ray.train", "numba", "pydensecrf")),
        ("method.cam_files, c2am_dist.method.confusion", ("torch", "numba")),
        ("method.refine, c2am_dist.method.crf", ("torch", "numba", "pydensecrf")),
    ],
)
def test_tasks_load_only_what_they_need(modules: str, absent: tuple[str, ...]):
    """Each of their processes would take seconds for the rest, and a job's start as much."""
    script = f"import sys, c2am_dist.{modules}; print([n for n in {absent} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stdout + result.stderr
