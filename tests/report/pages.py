"""Reports made in tests, and what is on their pages."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from c2am_dist.report import write_report
from tests.report.sets import LabelSet


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page, as a browser takes them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def make(output: Path, **inputs: Any) -> str:
    write_report(str(output), **inputs)
    page = output if output.suffix else output / "index.html"
    return page.read_text()


def shown(output: Path) -> list[dict[str, Any]]:
    """The rows that the gallery of a report is given."""
    texts = [path.read_text() for path in sorted(output.glob("data-*/rows-*.js"))]
    return [row for text in texts for row in json.loads(text[len("c2amRows(") : -len(");")])]


def of(made: LabelSet) -> dict[str, Any]:
    return {"labels": [made.labels], "images": [made.images]}
