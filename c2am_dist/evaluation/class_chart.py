"""A picture of what classes gain and lose over a baseline: bars from a middle line, as SVG."""

from collections.abc import Sequence
from html import escape

from c2am_dist import names

_WIDTH, _ROW, _TOP, _NAMES, _VALUES = 640, 20, 44, 150, 56
# It brings its own page, since what shows it may be dark where the reader's system is not. Who sees
# no red and green can tell these two colours apart.
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.page { fill: #ffffff; } .title { font-weight: 600; }
.gain { fill: #0072b2; } .loss { fill: #d55e00; } .zero { stroke: #8b949e; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } text { fill: #e6edf3; } .gain { fill: #56b4e9; } .loss { fill: #e69f00; }
}
</style>"""


def draw(gains: Sequence[tuple[str, float]], title: str) -> str:
    """The SVG of classes with what each gains, in points; a bar to the left is a loss.

    Args:
        gains: from the first line to the last, at least one.
        title: above them.
    """
    height = _TOP + _ROW * len(gains) + 10
    furthest = max(abs(value) for _, value in gains) or 1.0
    half = (_WIDTH - _NAMES - 2 * _VALUES) / 2
    middle = _NAMES + _VALUES + half
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">',
        f"<title>{_text(title)}</title>",
        _STYLE,
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="8" y="22">{_text(title)}</text>',
    ]
    for i, (name, value) in enumerate(gains):
        top, length = _TOP + _ROW * i, round(abs(value) / furthest * half, 1)
        left = middle if value >= 0 else round(middle - length, 1)
        at, anchor = (middle + length + 4, "start") if value >= 0 else (left - 4, "end")
        kind = "gain" if value >= 0 else "loss"
        parts += [
            f'<text x="{_NAMES - 8}" y="{top + 13}" text-anchor="end">{_text(name, 22)}</text>',
            f'<rect class="{kind}" x="{left}" y="{top + 2}" width="{length}" height="{_ROW - 6}"/>',
            f'<text x="{at:.1f}" y="{top + 13}" text-anchor="{anchor}">{value:+.1f}</text>',
        ]
    parts.append(
        f'<line class="zero" x1="{middle}" x2="{middle}" y1="{_TOP - 4}" y2="{height - 6}"/>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(text: str, at_most: int = 200) -> str:
    """A text that somebody else chose, cut off and escaped."""
    shown = names.printable(text)
    return escape(shown if len(shown) <= at_most else shown[: at_most - 1] + "…")
