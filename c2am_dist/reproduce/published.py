"""The published figures of weakly supervised localization: Tables 1 to 3 of the C²AM paper.

Xie et al., CVPR 2022 (arXiv:2203.13505). Rows of methods that this package has; in percent, as
printed there. Bridging the Gap's own figures are in no table of it.
"""

import dataclasses

IMAGENET, CUB = "imagenet", "cub"


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A row of a table, of one data set."""

    table: int
    method: str
    dataset: str
    encoder: str
    """What localizes; of ``c2am+psol`` the regressor."""
    initialization: str
    """``supervised``, ``moco`` or ``detco``; empty where the table does not say."""
    classifier: str = ""
    top1_loc: float | None = None
    top5_loc: float | None = None
    gt_known_loc: float | None = None
    max_box_acc_v2: float | None = None


def _table_1(
    method: str,
    encoder: str,
    initialization: str,
    classifier: str,
    cub: tuple[float | None, ...],
    imagenet: tuple[float | None, ...],
) -> list[Published]:
    return [
        Published(1, method, dataset, encoder, initialization, classifier, *figures)
        for dataset, figures in ((CUB, cub), (IMAGENET, imagenet))
    ]


def _table_2(
    method: str, encoder: str, initialization: str, cub: float, imagenet: float
) -> list[Published]:
    return [
        Published(2, method, dataset, encoder, initialization, gt_known_loc=figure)
        for dataset, figure in ((CUB, cub), (IMAGENET, imagenet))
    ]


TABLES: list[Published] = [
    *_table_1("cam", "vgg16", "supervised", "vgg16", (36.13, None, None), (42.80, 54.86, 59.00)),
    *_table_1(
        "cam", "densenet161", "supervised", "densenet161",
        (29.81, 39.85, None), (39.61, 50.40, 52.54),
    ),
    *_table_1(
        "ddt+psol", "resnet50", "supervised", "resnet50",
        (70.68, 86.64, 90.00), (53.98, 63.08, 65.44),
    ),
    *_table_1(
        "ddt+psol", "densenet161", "supervised", "efficientnet_b7",
        (80.89, 89.97, 91.78), (58.00, 65.02, 66.28),
    ),
    *_table_1(
        "c2am+psol", "densenet161", "supervised", "efficientnet_b7",
        (83.28, 92.74, 94.46), (59.28, 66.72, 68.20),
    ),
    *_table_1(
        "c2am+psol", "densenet161", "moco", "efficientnet_b7",
        (81.76, 91.11, 92.88), (59.56, 67.05, 68.53),
    ),
    *_table_2("ddt", "vgg16", "supervised", 84.55, 61.41),
    *_table_2("c2am", "vgg16", "supervised", 75.34, 63.41),
    *_table_2("ddt", "resnet50", "supervised", 72.39, 59.92),
    *_table_2("c2am", "resnet50", "supervised", 89.99, 65.89),
    *_table_2("ddt", "resnet50", "moco", 34.95, 40.52),
    *_table_2("c2am", "resnet50", "moco", 89.90, 66.51),
    *_table_2("ddt", "resnet50", "detco", 35.86, 41.23),
    *_table_2("c2am", "resnet50", "detco", 88.21, 65.48),
    # Table 3 does not name the initialization.
    Published(3, "c2am", IMAGENET, "vgg16", "", max_box_acc_v2=66.3),
    Published(3, "c2am", IMAGENET, "resnet50", "", max_box_acc_v2=66.8),
    Published(3, "c2am", CUB, "vgg16", "", max_box_acc_v2=81.4),
    Published(3, "c2am", CUB, "resnet50", "", max_box_acc_v2=83.8),
]  # fmt: skip


def nearest(method: str, dataset: str, encoder: str, initialization: str) -> list[Published]:
    """The rows to hold against ours: of the method, and as near in the rest as there are any.

    Of the same encoder and initialization where there are any; else of another encoder, a
    ResNet-50 first, of the same initialization, or of the paper's usual one, MoCo; else any.
    """
    rows = [row for row in TABLES if row.method == method and row.dataset == dataset]
    for wanted, start in (
        (encoder, initialization), ("resnet50", initialization), ("vgg16", initialization),
        ("densenet161", initialization), ("resnet50", "moco"), ("densenet161", "moco"),
    ):  # fmt: skip
        found = [r for r in rows if r.encoder == wanted and r.initialization in (start, "")]
        if any(row.initialization for row in found):
            return found
    return rows[:1]
