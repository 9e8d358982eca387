"""The report in a real browser: Debian's ``chromium``, or any other, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from c2am_dist.method import images
from c2am_dist.report import write_report
from tests.labeled import picture
from tests.masked import Masked, masked, shape, write_masks
from tests.report import sets
from tests.report.sets import write_set

sync_api = pytest.importorskip("playwright.sync_api", reason="no browser tests: no playwright")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

NUM_IMAGES = 2200
HOSTILE = "</script><img src=x onerror=\"pwned=1\"> ' onfocus='pwned=1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser: install Debian's chromium, or set CHROMIUM to one")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything, whose gallery has 37 pages."""
    root = tmp_path_factory.mktemp("report")
    blank = {"pseudo_boxes": None, "activation_map": None, "confidence": None}
    blank |= {"foreground_fraction": None, "threshold": None, "error": HOSTILE}

    def label(row: dict) -> dict:
        changes = {"image-00777": blank, "image-00888": {"pseudo_boxes": []}}
        return row | changes.get(row["image_id"], {})

    made = write_set(root, NUM_IMAGES, label=label)
    write_report(
        str(root / "report"),
        labels=[made.labels],
        images=[made.images],
        metrics=sets.write_evaluation(root / "evaluation"),
        run=sets.write_run(root / "run"),
        sweep=sets.write_sweep(root / "sweep"),
        command="python jobs/report.py",
    )
    return root / "report"


class Seen:
    """What happened on a page that should not have, and what it loaded."""

    def __init__(self, page: Page) -> None:
        self.wrong: list[str] = []
        self.urls: list[str] = []
        page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.urls.append(request.url))


@pytest.fixture
def seen(page: Page) -> Seen:
    return Seen(page)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        yield context.new_page()


@pytest.fixture
def report(page: Page, folder: Path, seen: Seen) -> Iterator[Page]:
    """The report as it opens; a test fails where the console says anything at the end."""
    page.goto((folder / "index.html").as_uri())
    yield page
    assert not seen.wrong
    assert all(url.startswith(folder.as_uri()) for url in seen.urls), "something from outside"


def ids(page: Page) -> list[str]:
    return page.locator("#cards b").all_inner_texts()


def image(index: int) -> str:
    return f"image-{index:05d}"


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.querySelector?.('b')?.textContent")


def test_it_opens_with_a_page_of_cards_and_all_sections(report: Page, seen: Seen):
    assert ids(report) == [image(i) for i in range(60)]
    expect(report.get_by_role("status")).to_have_text(f"Images 1 to 60 of {NUM_IMAGES}")
    first = report.locator("#cards img").first
    assert first.evaluate("async (i) => { await i.decode(); return i.naturalWidth }") == 80
    titles = report.locator("h2").all_inner_texts()
    assert titles[:5] == ["Gallery", "Scores", "Training", "Sweep", "Labels"]
    pictures = [url for url in seen.urls if url.endswith(".jpg")]
    assert 1 <= len(pictures) <= 60, "no picture of another page is loaded"


def test_layers_are_drawn_where_they_belong(report: Page):
    card = report.locator("#cards .card").nth(20)
    card.scroll_into_view_if_needed()
    stack = card.locator(".stack").bounding_box()
    for part in ("img", "canvas.map", "svg"):
        assert card.locator(part).bounding_box() == stack
    pseudo, truth = (card.locator(f"rect.{kind}").bounding_box() for kind in ("pseudo", "truth"))
    assert stack and pseudo and truth
    scale = stack["width"] / 80
    assert pseudo["x"] - stack["x"] == pytest.approx(20 * scale, abs=3)
    assert truth["x"] - stack["x"] == pytest.approx(0, abs=3)
    colour = "c => [...c.getContext('2d').getImageData(7, 2, 1, 1).data]"
    assert card.locator("canvas.map").evaluate(colour) == [253, 231, 37, 255]  # viridis' end


def test_layers_can_be_switched(report: Page):
    report.get_by_label("pseudo boxes").uncheck()
    report.get_by_label("ground truth").uncheck()
    report.get_by_label("activation map").uncheck()
    assert report.locator("#cards :is(rect, canvas)").count() == 0
    report.get_by_label("background cue").check()
    cue = report.locator("#cards canvas.cue")
    assert cue.count() == 60
    column = cue.first.evaluate("c => [...c.getContext('2d').getImageData(2, 0, 1, 15).data]")
    assert column[3::4] == [0] * 10 + [230] * 5, "the background is covered, the object is not"


def test_pages_turn_and_hold_sixty_cards_each(report: Page):
    report.get_by_role("button", name="Next page").click()
    assert ids(report) == [image(i) for i in range(60, 120)]
    report.get_by_label("Page", exact=True).fill("37")
    report.get_by_label("Page", exact=True).press("Enter")
    assert ids(report) == [image(i) for i in range(2160, 2200)]
    assert report.get_by_role("button", name="Next page").is_disabled()
    report.get_by_label("Page", exact=True).fill("999")
    report.get_by_label("Page", exact=True).press("Enter")
    assert report.get_by_label("Page", exact=True).input_value() == "37"
    report.get_by_role("button", name="Previous page").click()
    assert ids(report)[0] == image(2100)


def test_the_worst_and_the_most_uncertain_come_first_when_asked(report: Page):
    report.get_by_role("combobox", name="Order").select_option("worst")
    worst = ids(report)
    assert worst[:2] == [image(777), image(888)]
    assert worst[2:5] == [image(39), image(79), image(119)]  # the lowest IoU, in their order
    report.get_by_role("combobox", name="Order").select_option("best")
    assert ids(report)[:2] == [image(0), image(40)]
    report.get_by_role("combobox", name="Order").select_option("uncertain")
    confidence = [i * 7919 % 1000 for i in range(NUM_IMAGES)]
    expected = sorted((i for i in range(NUM_IMAGES) if i != 777), key=lambda i: (confidence[i], i))
    assert ids(report) == [image(i) for i in expected[:60]]
    report.get_by_role("combobox", name="Order").select_option("certain")
    assert ids(report)[0] == image(max(expected, key=lambda i: (confidence[i], -i)))
    report.get_by_role("combobox", name="Order").select_option("largest")
    assert ids(report)[0] == image(9)


def test_filters_keep_what_they_say(report: Page):
    status = report.get_by_role("status")
    report.get_by_label("Show").select_option("miss")
    wrong = [i for i in range(NUM_IMAGES) if i in (777, 888) or sets.iou_of(i) < 0.5]
    expect(status).to_have_text(f"Images 1 to 60 of {len(wrong)} that match, of {NUM_IMAGES}")
    report.get_by_label("Show").select_option("error")
    assert ids(report) == [image(777)]
    report.get_by_label("Show").select_option("boxless")
    assert ids(report) == [image(888)]
    report.get_by_role("button", name="Reset").click()
    expect(status).to_have_text(f"Images 1 to 60 of {NUM_IMAGES}")
    report.get_by_role("group", name="Foreground").get_by_label("from").fill("0.85")
    assert ids(report)[:3] == [image(9), image(19), image(29)]
    report.get_by_role("group", name="IoU").get_by_label("to").fill("0.1")
    assert ids(report)[:2] == [image(39), image(79)]
    report.get_by_label("Name or class").fill("IMAGE-0003")
    assert ids(report) == [image(39)]
    report.get_by_label("Name or class").fill("nothing like it")
    expect(status).to_have_text(f"No image of {NUM_IMAGES} matches")


def test_the_gallery_works_by_keyboard_alone(report: Page):
    report.keyboard.press("Tab")
    assert report.evaluate("document.activeElement.className") == "skip"
    report.keyboard.press("Enter")
    for _ in range(40):
        report.keyboard.press("Tab")
        if focused(report):
            break
    assert focused(report) == image(0), "one stop for all cards"
    columns = report.evaluate(
        "getComputedStyle(document.getElementById('cards')).gridTemplateColumns.split(' ').length"
    )
    moves = [("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowUp", 1), ("ArrowLeft", 0)]
    moves += [("ArrowLeft", 0), ("End", 59), ("ArrowRight", 60), ("ArrowLeft", 59), ("Home", 0)]
    moves += [("PageDown", 60), ("PageUp", 0)]
    for key, at in moves:
        report.keyboard.press(key)
        assert focused(report) == image(at), key
    report.keyboard.press("Enter")
    expect(report.get_by_role("dialog")).to_be_visible()
    expect(report.get_by_role("heading", level=3)).to_have_text(image(0))
    report.keyboard.press("ArrowRight")
    expect(report.get_by_role("heading", level=3)).to_have_text(image(1))
    report.keyboard.press("Escape")
    expect(report.get_by_role("dialog")).to_be_hidden()
    report.wait_for_function(  # the focus is where the dialog left off
        "document.activeElement.querySelector?.('b')?.textContent === 'image-00001'"
    )
    report.keyboard.press("Tab")
    assert not focused(report), "and leaves the cards with one more stop"


def test_an_image_opens_with_its_four_panels_and_facts(report: Page):
    report.locator("#cards .card").nth(3).click()
    dialog = report.get_by_role("dialog")
    assert dialog.locator("figure").count() == 4
    facts = dialog.locator("dl").inner_text()
    for text in ("class 0", "80 × 60 px", "0.86", "shard-00000.parquet", "0.75"):
        assert text in facts
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_a_failed_image_says_why_and_its_text_stays_text(report: Page):
    report.get_by_label("Show").select_option("error")
    report.locator("#cards .card").click()
    assert HOSTILE in report.get_by_role("dialog").inner_text()
    assert report.evaluate("typeof pwned") == "undefined"


def test_charts_have_names_descriptions_axes_and_tables(report: Page):
    charts = report.locator("figure.chart")
    assert charts.count() >= 12
    for index in range(charts.count()):
        chart = charts.nth(index)
        picture = chart.get_by_role("img")
        assert picture.locator("title").text_content() and picture.locator("desc").text_content()
        assert chart.locator(".ticks text").count() > 6
        assert chart.locator(".series :is(path, circle, rect)").count() > 0
        chart.locator("summary").click()
        assert chart.locator("tbody tr").count() > 0 and chart.get_by_role("table").is_visible()


def test_landmarks_and_names_are_there_for_a_screen_reader(report: Page):
    for role in ("banner", "navigation", "main", "contentinfo", "status"):
        assert report.get_by_role(role).count() == 1, role
    links = report.get_by_role("navigation").get_by_role("link")
    for index in range(links.count()):
        target = links.nth(index).get_attribute("href")
        assert target and report.locator(f"section{target}").get_attribute("aria-labelledby")
    assert report.locator("main").evaluate(
        """(main) => [...main.querySelectorAll('input, select')].every((e) => e.labels.length)"""
    )
    card = report.get_by_role("button", name="image-00003 class 0 · IoU 0.86 · confidence 0.76")
    assert card.count() == 1
    assert (
        report.evaluate(
            "() => new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size"
        )
        == report.locator("[id]").count()
    ), "an id comes twice"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_applied(report: Page, theme: str):
    report.emulate_media(color_scheme=theme)
    style = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
    expected = {
        "light": ["rgb(255, 255, 255)", "rgb(27, 29, 33)"],
        "dark": ["rgb(22, 24, 28)", "rgb(236, 238, 241)"],
    }
    assert report.locator("body").evaluate(style) == expected[theme]


def test_nothing_scrolls_sideways_on_a_phone(report: Page):
    report.set_viewport_size({"width": 360, "height": 740})
    assert report.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_policy_stops_what_escaping_would_have_missed(page: Page, folder: Path, seen: Seen):
    page.goto((folder / "index.html").as_uri())
    page.evaluate("""() => {
        document.body.insertAdjacentHTML('beforeend', '<img src="x" onerror="pwned = 1">');
        const made = document.createElement('script');
        made.textContent = 'pwned = 1';
        document.body.append(made);
    }""")
    page.wait_for_function("document.images[document.images.length - 1].complete")
    assert page.evaluate("typeof pwned") == "undefined"
    assert any("Content Security Policy" in text for text in seen.wrong)


@pytest.mark.parametrize("name", ["report.html", "report"])
def test_hostile_names_stay_names(page: Page, tmp_path: Path, seen: Seen, name: str):
    rename = lambda row: row | {"image_id": HOSTILE + row["image_id"]}  # noqa: E731
    made = write_set(tmp_path, 3, label=rename, shard=lambda row: rename(row) | {"label": HOSTILE})
    write_report(str(tmp_path / name), labels=[made.labels], images=[made.images], command=HOSTILE)
    target = tmp_path / name if name.endswith(".html") else tmp_path / name / "index.html"
    page.goto(target.as_uri())
    assert ids(page) == [HOSTILE + image(i) for i in range(3)]
    page.locator("#cards .card").first.click()
    assert page.evaluate("typeof pwned") == "undefined" and not seen.wrong
    assert page.locator("#cards img").first.evaluate("(i) => i.decode().then(() => i.width)") > 0


def test_a_missing_file_of_the_report_is_told(page: Page, folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    next((tmp_path / "copy").glob("data-*/rows-0001.js")).unlink()
    page.goto((tmp_path / "copy" / "index.html").as_uri())
    expect(page.get_by_role("status")).to_contain_text("500 could not be loaded")


def test_a_report_of_images_without_known_boxes_has_no_order_by_iou(
    page: Page, tmp_path: Path, seen: Seen
):
    made = write_set(tmp_path, 3, shard=lambda row: row | {"boxes": None})
    write_report(str(tmp_path / "report.html"), labels=[made.labels], images=[made.images])
    page.goto((tmp_path / "report.html").as_uri())
    assert len(ids(page)) == 3 and not seen.wrong
    assert page.locator("option[value=best]").is_disabled()
    worst = page.locator("option[value=worst]")
    assert worst.is_enabled() and worst.text_content() == "errors and images without a box first"
    assert page.get_by_role("group", name="IoU").is_hidden()


def test_it_works_over_http_too(page: Page, folder: Path, seen: Seen):
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        assert ids(page)[0] == image(0)
        server.shutdown()
    assert not seen.wrong


# Pseudo masks and class maps

SIZE = (40, 60)
CAT, DOG = 8, 12


@pytest.fixture
def of_masks(page: Page, tmp_path: Path, seen: Seen) -> Iterator[Page]:
    """A report of four pseudo masks, three of them beside a known one."""
    found = {
        "right": masked(shape(SIZE, CAT), shape(SIZE, CAT)),
        "moved": masked(shape(SIZE, DOG, moved=15), shape(SIZE, DOG)),
        "empty": masked(np.zeros(SIZE, np.uint8), shape(SIZE, CAT)),
        "broken": Masked(picture(SIZE), np.zeros(SIZE, np.uint8), error="no map"),
    }
    made = write_masks(tmp_path, found)
    inputs = {"labels": list(made["labels"]), "images": list(made["images"])}
    write_report(str(tmp_path / "report"), **inputs)
    page.goto((tmp_path / "report" / "index.html").as_uri())
    yield page
    assert not seen.wrong


def test_masks_lie_over_their_image_and_known_ones_beside_it(of_masks: Page):
    card = of_masks.locator("#cards .card").first
    over, beside = card.locator(".stack").all()
    for stack in (over, beside):
        assert stack.locator("img.mask").bounding_box() == stack.bounding_box()
    first, second = over.bounding_box(), beside.bounding_box()
    assert first and second and second["x"] > first["x"] + first["width"]
    size = "async (i) => { await i.decode(); return [i.naturalHeight, i.naturalWidth] }"
    assert over.locator("img.mask").evaluate(size) == list(SIZE)
    assert ids(of_masks) == ["right", "moved", "empty", "broken"]
    expect(card).to_contain_text("mean IoU 1.00 · cat")
    expect(of_masks.locator("#cards .card").nth(2)).to_contain_text("all background")
    boxes = [each.bounding_box() for each in of_masks.locator("#cards .frame").all()]
    widths = [box["width"] for box in boxes if box]
    assert len(widths) == 8, "a card without known mask is as the others"
    assert max(widths) - min(widths) < 1


def test_masks_can_be_switched_ordered_and_filtered(of_masks: Page):
    of_masks.get_by_label("annotated mask").uncheck()
    assert of_masks.locator("#cards .frame").count() == 4
    of_masks.get_by_role("checkbox", name="pseudo mask").uncheck()
    assert of_masks.locator("#cards img.mask").count() == 0
    of_masks.get_by_role("combobox", name="Order").select_option("worst")
    assert ids(of_masks) == ["broken", "empty", "moved", "right"]
    of_masks.get_by_label("Name or class").fill("dog")
    assert ids(of_masks) == ["moved"]
    of_masks.get_by_role("button", name="Reset").click()
    of_masks.get_by_label("Show").select_option("boxless")
    assert ids(of_masks) == ["empty"]
    assert of_masks.locator("option[value=uncertain]").is_disabled()
    assert of_masks.get_by_role("group", name="Confidence").is_hidden()


def test_an_image_with_a_mask_opens_by_keyboard(of_masks: Page):
    of_masks.locator("#cards .card").first.focus()
    of_masks.keyboard.press("Enter")
    dialog = of_masks.get_by_role("dialog")
    captions = dialog.locator("figcaption").all_inner_texts()
    assert captions == ["image", "pseudo mask over the image", "pseudo mask", "annotated mask"]
    assert "cat 25.0 %" in dialog.locator("dl").inner_text()
    of_masks.keyboard.press("ArrowRight")
    expect(of_masks.get_by_role("heading", level=3)).to_have_text("moved")
    for _ in range(2):
        of_masks.keyboard.press("ArrowRight")
    assert "no map" in dialog.inner_text() and dialog.locator("figure").count() == 1
    of_masks.keyboard.press("Escape")
    legend = of_masks.get_by_role("list", name="Colours of the classes")
    assert legend.get_by_role("listitem").all_inner_texts() == ["cat", "dog"]


@pytest.mark.parametrize("width", [360, 1200])
def test_masks_fit_the_page(of_masks: Page, width: int):
    of_masks.set_viewport_size({"width": width, "height": 740})
    assert of_masks.evaluate("document.documentElement.scrollWidth") <= width


def test_class_maps_are_painted_in_the_colour_of_their_class(
    page: Page, tmp_path: Path, seen: Seen
):
    maps = [{"class_name": "dog", "map": images.encode_png16(np.ones((4, 4), np.float32))}]
    change = {"class_maps": maps, "activation_map": None}
    made = write_set(tmp_path, 2, label=lambda row: row | change)
    write_report(str(tmp_path / "report.html"), labels=[made.labels], images=[made.images])
    page.goto((tmp_path / "report.html").as_uri())
    painted = page.locator("#cards canvas.classmap")
    assert painted.count() == 2 and page.get_by_label("class maps").is_checked()
    colour = "c => [...c.getContext('2d').getImageData(1, 1, 1, 1).data]"
    assert painted.first.evaluate(colour) == [64, 0, 128, 255]
    page.locator("#cards .card").first.click()
    assert "map of dog" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    page.get_by_label("class maps").uncheck()
    assert painted.count() == 0 and not seen.wrong
