"""What import-linter cannot see."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "c2am_dist"


def test_the_papers_name_no_collective():
    for path in (PACKAGE / "method").glob("*.py"):
        assert "torch.distributed" not in path.read_text(), path


def test_every_checkpoint_is_loaded_as_weights_only():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True)"), path


def test_tasks_that_decode_do_not_load_torch():
    """It would cost each of their processes three seconds, and the first batch as much."""
    script = (
        "import sys, c2am_dist.data.stream, c2am_dist.data.prepare; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
