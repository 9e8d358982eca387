"""The published figures of pseudo masks: Tables 4 and 5 of the C²AM paper.

Xie et al., CVPR 2022 (arXiv:2203.13505), section 5.3: class activation maps of five methods before
and after they are refined, on the training images of PASCAL VOC 2012; in percent, as printed there.
C²AM starts from MoCo. What the dense CRF gives is what those methods' own papers say, as the
paper notes.
"""

import dataclasses

CLASSES = tuple("background aeroplane bicycle bird boat bottle bus car cat chair cow".split())
"""The 11 classes of Table 4, as VOC's development kit spells them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refined:
    """A row of Table 5: mIoU over all 21 classes."""

    method: str
    """Whose class activation maps."""
    cam: float
    """The initial maps."""
    crf: float | None
    """Refined by a dense CRF; None where the table has a dash."""
    fssd: float
    """By the background cues of a fully supervised saliency detector."""
    c2am: float
    """By those of C²AM."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClassIou:
    """Two rows of Table 4: IoU of each of CLASSES."""

    method: str
    cam: tuple[float, ...]
    c2am: tuple[float, ...]


TABLE_5 = (
    Refined("psa", 48.0, None, 62.0, 65.5),
    Refined("sc-cam", 50.9, 55.3, 62.1, 66.0),
    Refined("seam", 55.4, 56.8, 61.5, 63.9),
    Refined("puzzlecam", 51.5, None, 62.1, 65.5),
    Refined("advcam", 55.6, 62.1, 62.3, 65.4),
)

TABLE_4 = (
    ClassIou(
        "psa",
        (78.0, 41.0, 27.5, 42.0, 34.4, 44.5, 63.3, 53.3, 43.2, 30.9, 49.3),
        (88.0, 75.4, 45.1, 79.5, 52.6, 64.8, 78.0, 73.5, 81.4, 27.0, 78.2),
    ),
    ClassIou(
        "sc-cam",
        (78.6, 42.1, 29.2, 44.5, 37.0, 56.1, 69.9, 58.2, 59.8, 27.8, 52.5),
        (88.0, 74.8, 46.6, 80.5, 52.8, 68.5, 79.0, 74.6, 84.7, 26.1, 78.3),
    ),
    ClassIou(
        "seam",
        (82.8, 51.0, 35.4, 57.4, 31.6, 50.0, 57.9, 63.2, 62.4, 27.3, 63.0),
        (87.1, 71.9, 44.2, 77.9, 45.6, 61.9, 75.5, 70.4, 82.5, 22.5, 78.0),
    ),
    ClassIou(
        "puzzlecam",
        (78.5, 43.2, 32.3, 36.7, 23.1, 51.7, 67.6, 61.4, 76.7, 16.7, 60.4),
        (87.6, 71.5, 48.4, 78.0, 44.6, 66.7, 77.3, 74.3, 85.7, 21.3, 80.2),
    ),
    ClassIou(
        "advcam",
        (81.3, 50.6, 33.5, 57.5, 37.0, 53.3, 67.8, 54.8, 64.7, 35.0, 68.4),
        (87.5, 72.9, 46.4, 78.9, 50.7, 60.5, 77.8, 71.2, 84.5, 26.8, 79.5),
    ),
)
