"""Writes docs/report.png: python docs/make_screenshot.py runs/quickstart/report.

What the README shows of a report: its gallery, the worst first, in Chromium. Needs Debian's
chromium and, to make the PNG small, Pillow.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

OUTPUT = Path(__file__).with_name("report.png")
NUM_COLOURS = 192


def main(report: str, browser: str = "/usr/bin/chromium") -> None:
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser).new_page(
            viewport={"width": 1180, "height": 900}
        )
        page.goto((Path(report).absolute() / "index.html").as_uri())
        page.get_by_role("combobox", name="Order").select_option("worst")
        page.evaluate("Promise.all([...document.images].slice(0, 20).map((i) => i.decode()))")
        png = page.screenshot()
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(NUM_COLOURS)
    picture.save(OUTPUT, optimize=True)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
