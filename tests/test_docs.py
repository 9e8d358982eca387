"""The documents against the code and the files they speak of."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where inspect looks for sources
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_cli() -> types.ModuleType:
    return load(ROOT / "docs" / "make_cli.py")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_the_command_lines_are_documented_as_they_are(make_cli: types.ModuleType):
    assert (ROOT / "docs" / "cli.md").read_text() == make_cli.render(), "run make docs"


def test_the_plans_on_paper_are_what_a_dry_run_prints():
    make_forecast = load(ROOT / "docs" / "make_forecast.py")
    text = (ROOT / "docs" / "performance.md").read_text()
    assert make_forecast.render(text) == text, "run make docs"


def test_a_field_without_a_docstring_is_refused(make_cli: types.ModuleType, tmp_path: Path):
    code = "import dataclasses\n@dataclasses.dataclass\nclass Silent:\n    value: int = 0\n"
    (tmp_path / "silent.py").write_text(code)
    silent = load(tmp_path / "silent.py")
    with pytest.raises(ValueError, match="Silent: no docstring below value"):
        list(make_cli.flags_of(silent.Silent()))


def commands() -> Iterator[tuple[str, str, str]]:
    """Document, job and arguments of each command line in a code block."""
    for path in DOCUMENTS:
        for block in FENCE.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for job, arguments in re.findall(r"(?:jobs|tune)/(\w+)\.py([^&]*)", line):
                    yield path.name, job, arguments


def test_documented_commands_use_flags_that_exist(make_cli: types.ModuleType):
    known = {
        job.title or job.script: {f"--{flag.name.replace('_', '-')}" for flag in job.flags}
        for job in make_cli.jobs()
    }
    known["sweep"] |= known["train"]
    checked = 0
    for document, script, arguments in commands():
        words = arguments.split()
        job = f"{script} {words[0]}" if words and f"{script} {words[0]}" in known else script
        for flag in re.findall(r"(?<=\s)--[\w.-]+", arguments):
            positive = re.sub(r"(--|\.)no-", r"\1", flag)
            assert {flag, positive} & known[job], f"{document}: {job}.py has no {flag}"
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_link_leads_to_a_file_and_heading(document: Path):
    text = FENCE.sub("", document.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), f"{document.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{document.name}: no heading for {link}"


def anchors(document: Path) -> set[str]:
    """What the headings are called in links, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_file_of_this_project_that_is_named_exists(document: Path):
    bases = (ROOT, ROOT / "c2am_dist", ROOT / "c2am_dist" / "data", document.parent)
    for span in re.findall(r"`([\w./-]+)`", FENCE.sub("", document.read_text())):
        is_ours = re.match(r"(c2am_dist|jobs|tune|tests|docs|\.ci)/", span)
        if is_ours or span.endswith((".py", ".md", ".toml")):
            found = [base for base in bases if (base / span).exists()] or [
                path for path in (ROOT / "c2am_dist").rglob(span) if "/" not in span
            ]
            assert found, f"{document.name}: {span} does not exist"


def test_every_direct_dependency_is_explained_with_its_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    )
    rows = dict(
        re.findall(
            r"^\| ([\w-]+) (\| [\d.]+ \| [\d.–]+) \|",
            (ROOT / "docs" / "dependencies.md").read_text(),
            re.MULTILINE,
        )
    )
    extras = project["optional-dependencies"].values()
    direct = {*project["dependencies"], *(name for extra in extras for name in extra)}
    assert len(rows) == len(direct)
    for requirement in direct:
        name, at_least = re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement).groups()  # type: ignore
        assert rows[name] == f"| {at_least} | {pins.get(name, '–')}"


def committed() -> Iterator[tuple[str, str]]:
    """Path and text of every file under version control that is text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield name, data.decode()


# Written so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.}$~/])/(?:work|root|home|Users|tmp)/[\w.-]")
PACKAGE_INDEX = re.compile(
    r"py[p]i\.org|python[h]osted|download\.py[t]orch|index[-_]url|/sim[p]le\b"
)


def test_no_committed_file_names_a_place_of_one_machine_or_a_package_index():
    found = [
        f"{name}: {match.group()}"
        for name, text in committed()
        for pattern in (MACHINE_PATH, PACKAGE_INDEX)
        for match in pattern.finditer(text)
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("text", "is_bad"),
    [
        ("see /" + "work/main/x", True),
        ('"/' + 'home/me"', True),
        ("s3://bucket/" + "work/x", False),
        ("--index" + "-url x", True),
        ("tests/" + "tmp/x", False),
    ],
)
def test_what_counts_as_such_a_place(text: str, is_bad: bool):
    assert bool(MACHINE_PATH.search(text) or PACKAGE_INDEX.search(text)) == is_bad
