"""Where the repository lies, and folders of files for tests."""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""


def lay_out(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes files, by their paths below a folder; returns the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
