import pytest

from c2am_dist import object_store, retries


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries of `storage` alone, and quickly."""
    monkeypatch.setattr(object_store, "SDK_ATTEMPTS", 1)
    monkeypatch.setattr(retries, "BACKOFF_S", 0.02)
    monkeypatch.setattr(retries, "PATIENCE_S", 10.0)
    monkeypatch.setattr(object_store, "REQUEST_TIMEOUT_S", 1.0)
