"""Pictures in rows and columns with texts: what contact sheets are drawn on."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from c2am_dist import names

Pixels = np.ndarray  # uint8, h w 3, RGB

PANEL_PX = (192, 256)  # height, width; an image is fitted inside
GAP_PX = 12
LINE_PX = 22  # a line of text
PAPER, TEXT, FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)


def fit(size: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """How an image of a size (height, width) becomes a panel: scale, and height and width."""
    scale = min(PANEL_PX[0] / size[0], PANEL_PX[1] / size[1])
    return scale, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def captions(texts: Sequence[str]) -> Pixels:
    """The band of columns' titles."""
    return write(blank(2 * LINE_PX, len(texts)), texts, y=LINE_PX // 2, font_px=16, colour=TEXT)


def band(panels: Sequence[Pixels | None], notes: Sequence[str]) -> Pixels:
    """A row: panels of one height, None leaves a gap, and a line of text below each."""
    height = next(panel.shape[0] for panel in panels if panel is not None)
    made = blank(height + LINE_PX + GAP_PX, len(panels))
    for column, panel in enumerate(panels):
        if panel is not None:
            x, width = left(column), panel.shape[1]
            made[:height, x : x + width] = panel
            cv2.rectangle(made, (x, 0), (x + width - 1, height - 1), FAINT)  # white ends here
    return write(made, notes, y=height, font_px=13, colour=FAINT)


def left(column: int) -> int:
    """Where a column begins."""
    return GAP_PX + column * (PANEL_PX[1] + GAP_PX)


def blank(height: int, num_columns: int) -> Pixels:
    return np.full((height, left(num_columns), 3), PAPER, np.uint8)


def write(
    onto: Pixels, texts: Sequence[str], *, y: int, font_px: int, colour: tuple[int, int, int]
) -> Pixels:
    """The band with a text at the left of each panel, cut to the panel's width."""
    page = Image.fromarray(onto)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(font_px)
    for column, text in enumerate(texts):
        text = names.printable(text)[: PANEL_PX[1]]
        while draw.textlength(text, font) > PANEL_PX[1]:
            text = text[:-2].rstrip("…") + "…"
        draw.text((left(column), y + 2), text, fill=colour, font=font)
    return np.asarray(page)
