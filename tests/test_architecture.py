"""What import-linter cannot see."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "c2am_dist"


def test_the_papers_name_no_collective():
    for path in (PACKAGE / "method").glob("*.py"):
        assert "torch.distributed" not in path.read_text(), path


def test_every_checkpoint_is_loaded_as_weights_only():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True)"), path
