"""Writes docs/cli.md: every flag of every job, from the code that defines it (make docs).

Types and defaults come from the dataclasses, their meaning from the docstring below each field,
which is what ``--help`` shows too; tests/test_docs.py compares the file with `render`.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from c2am_dist import assumptions, config
from c2am_dist.config import reproduce, reproduce_masks
from c2am_dist.sweep import spec

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# Command lines

Made by `make docs` from the code; do not edit. Each job's `--help` says the same.

Flags may be written with `-` or `_`. A flag that takes several values takes them separated by
blanks: `--input a b`. What is optional is unset by `None`. A dash as default means none: the usage
line says which flags must be given. `RAY_ADDRESS` names the cluster to run on (`ray job submit`
sets it); without it Ray starts on this machine. `C2AM_TRACEBACK=1` adds the traceback to an error.
"""


class Flag(NamedTuple):
    name: str
    """Dotted path as in the config, such as ``data.resize_px``."""
    kind: Any
    """Its type annotation, resolved."""
    default: Any
    """`inspect.Parameter.empty` where it must be given."""
    meaning: str


class Job(NamedTuple):
    script: str
    usage: str
    flags: list[Flag]
    folder: str = "jobs"
    title: str = ""
    """Of its section, where it is not the script's name."""


def jobs() -> list[Job]:
    """Every script of jobs/ and tune/ with its flags, in the order they are used."""
    names = (
        "Prepare",
        "Train",
        "Label",
        "Refine",
        "Classify",
        "Evaluate",
        "EvaluateMasks",
        "Export",
    )
    prepare, train, label, refine, classify, evaluate, evaluate_masks, export = (
        list(flags_of(getattr(config, f"{name}Config")())) for name in names
    )
    train, label = ([*flags, *flags_of(assumptions.DryRun())] for flags in (train, label))
    sweeps = list(flags_of(spec.SweepConfig()))
    quickstart, report = _module("quickstart"), _module("report")
    to_report = "--labels URI --images URI --output sheet.png|report.html|FOLDER"
    return [
        Job("prepare", "--input URI --output URI --format FORMAT", prepare),
        Job("train", "--data.train URI --model.weights WEIGHTS --run.name NAME", train),
        Job("label", "--checkpoint URI --input URI --output URI", label),
        Job("refine", "--maps URI --cues URI --images URI --output URI", refine),
        Job("classify", "--checkpoint URI --input URI --output URI", classify),
        Job("evaluate", "--labels URI --annotations URI --output metrics.json", evaluate),
        Job(
            "evaluate_masks",
            "--masks URI --annotations URI --output metrics.json",
            evaluate_masks,
        ),
        Job("export", "--labels URI --images URI --output URI --format FORMAT", export),
        Job("report", to_report, list(_flags_of_function(report.report))),
        Job("sweep", "--sweep SWEEP --annotations URI and what train takes", sweeps, "tune"),
        Job(
            "reproduce",
            "wsol --train URI --val URI --output URI --starts ENCODER:NAME=WEIGHTS",
            list(flags_of(reproduce.WsolConfig())),
        ),
        Job(
            "reproduce",
            "wsss --train URI --val URI --output URI --start ENCODER:NAME=WEIGHTS",
            list(flags_of(reproduce_masks.WsssConfig())),
            title="reproduce wsss",
        ),
        Job("quickstart", "", list(flags_of(quickstart.Quickstart()))),
    ]


def _module(name: str) -> types.ModuleType:
    """A script of jobs/, imported under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"_job_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def flags_of(defaults: Any, prefix: str = "") -> Iterator[Flag]:
    """The flags of a dataclass instance, nested ones by their dotted path."""
    kinds, meanings = typing.get_type_hints(type(defaults)), _meanings(type(defaults))
    for field in dataclasses.fields(defaults):
        value = getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags_of(value, f"{prefix}{field.name}.")
        else:
            yield Flag(prefix + field.name, kinds[field.name], value, meanings[field.name])


def _meanings(kind: type) -> dict[str, str]:
    """Field -> the docstring below it.

    Raises:
        ValueError: a field has none.
    """
    source = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(source, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, following in zip(source.body, [*source.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[statement.target.id] = " ".join(text.split())
    plain = {f.name for f in dataclasses.fields(kind) if not dataclasses.is_dataclass(f.default)}
    if plain - found.keys():
        raise ValueError(f"{kind.__name__}: no docstring below {', '.join(plain - found.keys())}")
    return found


def _flags_of_function(function: Any) -> Iterator[Flag]:
    """The flags of a function's keywords, with the meanings of its docstring's Args."""
    pattern = re.compile(r"^ {4}(\w+): (.+?)(?=^ {0,4}\w|\Z)", re.MULTILINE | re.DOTALL)
    meanings = dict(pattern.findall(inspect.getdoc(function) or ""))
    kinds = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        yield Flag(name, kinds[name], parameter.default, " ".join(meanings[name].split()))


def render() -> str:
    """The content of docs/cli.md."""
    return "\n".join([INTRODUCTION, *(_section(job) for job in jobs())])


def _section(job: Job) -> str:
    usage = f"python {job.folder}/{job.script}.py {job.usage}".rstrip()
    rows = [
        f"| {_spelling(flag)} | {_values(flag.kind)} | {_default(flag.default)} | "
        f"{_prose(flag.meaning)} |"
        for flag in job.flags
    ]
    table = ["| flag | takes | default | meaning |", "|---|---|---|---|", *rows]
    parts = [f"## {job.title or job.script}", "", f"```\n{usage}\n```", "", *table, ""]
    endings = {"train": [_presets()], "sweep": ["And every flag of [train](#train).", ""]}
    return "\n".join([*parts, *endings.get(job.script, [])])


def _spelling(flag: Flag) -> str:
    name = flag.name.replace("_", "-")
    if flag.kind is not bool:
        return f"`--{name}`"
    group, dot, last = name.rpartition(".")
    return f"`--{name}`, `--{group}{dot}no-{last}`"


def _values(kind: Any) -> str:
    """A type as a reader of the command line sees it."""
    plain = {str: "text", int: "whole number", float: "number", bool: "–", type(None): "`None`"}
    if kind in plain:
        return plain[kind]
    if kind == bool | None:  # tyro then makes no pair of switches of it
        return "`True`, `False` or `None`"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"{_values(arguments[0])}, several"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_values(argument) for argument in arguments)
    raise ValueError(f"{kind}: no words for this type yet")


def _default(value: Any) -> str:
    if value in ("", ()) or value is inspect.Parameter.empty:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value}`"


def _prose(text: str) -> str:
    """A docstring in Markdown's spelling, safe within a table."""
    return text.replace("``", "`").replace("|", "\\|")


def _presets() -> str:
    """What each preset sets, beside the defaults."""
    usual = {flag.name: flag.default for flag in flags_of(config.TrainConfig())}
    lines = ["`--preset` sets, beside the defaults above (which are ImageNet's):", ""]
    for name, preset in config.PRESETS.items():
        changed = [
            f"`--{flag.name.replace('_', '-')} {flag.default}`"
            for flag in flags_of(preset)
            if flag.default != usual[flag.name] and flag.name != "preset"
        ]
        lines.append(f"- `{name}`: {', '.join(changed) or 'nothing'}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(render())
