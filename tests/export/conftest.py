"""A label set and its images."""

from pathlib import Path
from typing import Any

import pytest

from tests.export.sets import SET
from tests.labeled import write_set


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return write_set(tmp_path, SET)
