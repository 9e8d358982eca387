"""The page: sections of texts, tables and charts, and the template that puts them together."""

import base64
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from c2am_dist import __version__, names
from c2am_dist.report import charts
from c2am_dist.report.charts import Chart

GENERATOR = f"c2am-dist {__version__}"
MAX_ID, MAX_LINE = 300, 20_000
"""Longer ids and lines are cut: their writers may have had no end."""


class Table(NamedTuple):
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Text(NamedTuple):
    """Lines that are shown when asked for."""

    title: str
    lines: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    id: str
    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    texts: Sequence[Text] = ()


Legend = Sequence[tuple[str, str]]
"""Names of classes and their colours, ``#rrggbb``."""


class Gallery(NamedTuple):
    num_rows: int
    note: str
    order: str
    """One of the orders of ``page/gallery.js``."""
    has_truth: bool
    """Whether a box or mask of any image is known; else the worst cannot be told by IoU."""
    has_masks: bool = False
    """Whether it shows pseudo masks, which are no labels with boxes and maps."""
    legend: Legend = ()


def shown(text: str, limit: int = MAX_ID) -> str:
    """A text from outside on one line, without what steers a terminal or turns its direction."""
    return names.printable(text[:limit]) + ("…" if len(text) > limit else "")


def json_lines(content: object) -> list[str]:
    """JSON as the lines of a text, keys in order."""
    try:
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).split("\n")
    except RecursionError:  # nested to confuse: what could be read cannot always be written
        return ["nested too deeply to be shown"]


def script(rows: Sequence[Mapping[str, Any]]) -> str:
    """The statement that hands rows to the gallery, safe in a file and between script tags."""
    text = json.dumps(rows, separators=(",", ":"), allow_nan=False)  # ASCII throughout
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"c2amRows({text});"


def _finalize(value: Any) -> Any:
    """What every expression of a template passes through before it is escaped."""
    is_plain = isinstance(value, str) and not isinstance(value, Markup)
    return shown(value, MAX_LINE) if is_plain else value


_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("c2am_dist.report", "page"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(
    title: str,
    sections: Sequence[Section],
    *,
    gallery: Gallery | None = None,
    row_files: Sequence[str] = (),
    row_scripts: Sequence[str] = (),
) -> bytes:
    """The page as UTF-8.

    Its policy allows what it brings along and nothing else: scripts and styles by digest,
    files beside the page where there are any, no connection anywhere.

    Args:
        title: of the page.
        sections: in order; the gallery stands before them.
        gallery: what its heading says; None leaves it out.
        row_files: URLs of scripts (`script`) relative to the page.
        row_scripts: the same, to be put into the page.
    """
    css, code = (_asset(name) for name in ("report.css", "gallery.js"))
    scripts = [code, *row_scripts] if gallery else []
    beside = "'self' file: " if row_files else ""
    allowed = {
        "default-src": "'none'",
        "script-src": beside + (" ".join(map(_digest, scripts)) or "'none'"),
        "style-src": _digest(css),
        "img-src": beside + "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    text = _PAGES.get_template("index.html").render(
        title=title,
        generator=GENERATOR,
        made=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        policy=Markup("; ".join(f"{name} {value}" for name, value in allowed.items())),
        style=Markup(css),
        script=Markup(code),
        row_files=row_files,
        row_scripts=[Markup(each) for each in row_scripts],
        gallery=gallery,
        sections=[
            {
                **{f.name: getattr(section, f.name) for f in dataclasses.fields(section)},
                "charts": [charts.draw(chart) for chart in section.charts],
            }
            for section in sections
        ],
    )
    return text.encode()


def _asset(name: str) -> str:
    loader = _PAGES.loader
    assert loader is not None
    return loader.get_source(_PAGES, name)[0]


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
