"""How a job ends: its exit status, and one line for what the caller can mend."""

import pytest

from c2am_dist import cli


def status_of(main) -> int | None:
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    return ended.value.code  # type: ignore


def fail(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_the_status_is_what_the_job_returns():
    assert status_of(lambda: None) in (None, 0)
    assert status_of(lambda: 3) == 3


@pytest.mark.parametrize("error", [ValueError("alpha is -1"), FileNotFoundError("no such file")])
def test_a_mistake_is_one_line_and_status_1(error: Exception, capsys: pytest.CaptureFixture[str]):
    assert status_of(fail(error)) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_what_others_named_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]):
    name = "a\x1b[2J\x9b31m\u202e\udcff\nerror: none\r.jpg"
    assert status_of(fail(ValueError(f"{name}: not an image"))) == 1
    shown = "error: a\\x1b[2J\\x9b31m\\u202e\\udcff error: none\\r.jpg: not an image\n"
    assert capsys.readouterr().err == shown


def test_the_traceback_is_there_for_those_who_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("C2AM_TRACEBACK", "1")
    assert status_of(fail(ValueError("alpha is -1"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_found_on_a_worker_reads_the_same(
    ray_cluster: None, capsys: pytest.CaptureFixture[str]
):
    import ray

    def main() -> None:
        ray.get(ray.remote(fail(ValueError("alpha is -1"))).remote())

    assert status_of(main) == 1
    assert capsys.readouterr().err == "error: alpha is -1\n"


def test_a_bug_is_not_hidden():
    with pytest.raises(KeyError):
        cli.run(fail(KeyError("oops")))


def test_an_interrupt_ends_with_status_130():
    assert status_of(fail(KeyboardInterrupt())) == 130
