"""Charts as geometry, and the page's colours against what eyes need."""

import itertools
import math
import re
from pathlib import Path

import pytest

from c2am_dist.report import charts
from c2am_dist.report.charts import Chart, Mark, Series

CSS = (Path(charts.__file__).parent / "page" / "report.css").read_text()
LEFT, RIGHT, TOP, BOTTOM = 68, 624, 14, 286  # of the plot within the SVG


def chart(*series: Series, **options) -> Chart:
    texts = {"title": "t", "description": "d", "x_label": "x", "y_label": "y"}
    return Chart(**texts, series=series, **options)


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_line_runs_from_corner_to_corner_of_its_range():
    drawn = charts.draw(
        chart(Series(name="a", points=[(0, 0), (5, 50), (10, 100)]), y_range=(0, 100))
    )
    assert places(drawn["series"][0]["path"]) == [
        (LEFT, BOTTOM),
        ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2),
        (RIGHT, TOP),
    ]
    assert [text for _, text in drawn["y_ticks"]] == ["0", "20", "40", "60", "80", "100"]
    assert [text for _, text in drawn["x_ticks"]] == ["0", "2", "4", "6", "8", "10"]


@pytest.mark.parametrize("low", [-3e9, -1.0, 0.0, 1e-9, 7.0])
@pytest.mark.parametrize("span", [1e-6, 0.3, 1.0, 12345.0, 9e12])
def test_ticks_are_few_even_and_within_the_axis(low: float, span: float):
    ticks = charts._Axis(low, low + span, 0, 100).ticks()
    if abs(low) * 1e-9 > span:
        return  # nothing lies between, in floating point
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-2)


def test_a_logarithmic_axis_gives_decades_the_same_room():
    points = [(10.0**e, 1.0) for e in (-4, -3, -2)]
    drawn = charts.draw(chart(Series(name="a", points=points), is_x_log=True))
    xs = [x for x, _ in places(drawn["series"][0]["path"])]
    assert xs == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert [text for _, text in drawn["x_ticks"]] == ["0.0001", "0.001", "0.01"]


def test_what_is_not_finite_breaks_the_line_and_is_in_no_table():
    points = [(0, 1), (1, math.nan), (2, 3), (3, math.inf), (4, 2)]
    drawn = charts.draw(chart(Series(name="a", points=points)))
    assert drawn["series"][0]["path"].count("M") == 3
    assert len(drawn["series"][0]["dots"]) == len(drawn["table"]["rows"]) == 3
    with pytest.raises(ValueError, match="no finite point"):
        charts.draw(chart(Series(name="a", points=[(0, math.nan)])))


@pytest.mark.parametrize("value", [0.0, -2.0, 5e-7])
def test_a_single_point_and_a_flat_line_can_be_drawn(value: float):
    for points in ([(3, value)], [(3, value), (4, value)]):
        drawn = charts.draw(chart(Series(name="a", points=points)))
        assert all(LEFT <= x <= RIGHT and TOP < y <= BOTTOM for x, y in drawn["series"][0]["dots"])


def test_error_bars_and_marks_lie_within_the_chart():
    series = Series(name="a", points=[(0, 10), (1, 20)], spread=[5, 0])
    marks = (Mark(value=3, label="far"), Mark(value=40, label="high", is_vertical=False))
    drawn = charts.draw(chart(series, marks=marks))
    ((_, low, high),) = drawn["series"][0]["bars"]
    assert TOP < high < drawn["series"][0]["dots"][0][1] < low < BOTTOM
    assert next(mark["at"] for mark in drawn["marks"]) == RIGHT
    assert TOP < drawn["marks"][1]["at"] < BOTTOM
    assert drawn["table"]["rows"][0] == ["0", "10 ± 5"]


def test_a_histogram_is_a_bar_a_bin():
    series = Series(name="a", points=[(0, 2), (0.5, 4)], kind="steps")
    drawn = charts.draw(chart(series, y_range=(0, 4)))
    middle = (LEFT + RIGHT) / 2
    assert drawn["series"][0]["path"] == (
        f"M{LEFT}.0 {BOTTOM}.0V150.0H{middle}V{TOP}.0H{RIGHT}.0V{BOTTOM}.0"
    )


def test_categories_stand_apart_under_their_names():
    series = Series(name="a", points=[(0, 1), (1, 2), (1, 3)], kind="dots")
    drawn = charts.draw(chart(series, categories=("kaiming", "uniform")))
    assert [text for _, text in drawn["x_ticks"]] == ["kaiming", "uniform"]
    assert drawn["table"]["rows"] == [["kaiming", "1"], ["uniform", "2, 3"]]


def test_a_long_line_is_thinned_and_its_table_says_so():
    series = Series(name="a", points=[(i, i) for i in range(50_000)])
    drawn = charts.draw(chart(series))
    assert len(places(drawn["series"][0]["path"])) == 1000
    assert len(drawn["table"]["rows"]) == 40 and drawn["table"]["every"] == 1250
    assert not drawn["series"][0]["dots"]


def colours(theme: str) -> dict[str, tuple[float, float, float]]:
    return {
        name: (int(value[:2], 16) / 255, int(value[2:4], 16) / 255, int(value[4:], 16) / 255)
        for name, value in re.findall(r"--(\w+): #([0-9a-f]{6});", theme)
    }


def contrast(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """WCAG 2's contrast ratio."""

    def luminance(colour: tuple[float, float, float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read_in_either_theme(theme: str):
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = colours(light if theme == "light" else dark)
    assert len(found) == 14
    for text in ("text", "faint", "link"):
        for ground in ("paper", "raised"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for drawn in ("edge", "focus", *(f"s{i}" for i in range(charts.NUM_STYLES))):
        assert contrast(found[drawn], found["paper"]) >= 3, drawn
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
