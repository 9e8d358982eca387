"""What a checkpoint is worth: labeled and evaluated in memory, by the functions of both jobs.

Scorers are actors that live as long as the sweep, one a node: the images are decoded once, and
nothing starts anew for a trial.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import ray

from c2am_dist import checkpoint
from c2am_dist.config import LabelConfig
from c2am_dist.data.shards import RowGroup
from c2am_dist.evaluation import inputs
from c2am_dist.evaluation.figures import summarise
from c2am_dist.evaluation.inputs import Annotations
from c2am_dist.evaluation.tally import Tally
from c2am_dist.labeling.actors import ModelActor
from c2am_dist.labeling.decode import Decoding, decode_run
from c2am_dist.labeling.localizers import C2AMLocalizer
from c2am_dist.labeling.models import filled
from c2am_dist.labeling.rows import Provenance, label_rows
from c2am_dist.method.activation import Polarity
from c2am_dist.method.boxes import iou

SOME_CPU = 0.01
"""Reserved by a scorer: it computes between trainings, or beside them for seconds."""
FIGURES = ("gt_known_loc", "max_box_acc_v2", "oracle_gt_known_loc", "oracle_max_box_acc_v2")
CENTRE_FIGURES = ("gt_known_loc", "max_box_acc_v2")


@dataclasses.dataclass(slots=True)
class Scores:
    """Counts and sums over images; those of different images merge."""

    tally: Tally
    num_maps: int = 0
    confidence: float = 0.0
    """Sum over maps of mean |2P - 1|."""
    map_spread: float = 0.0
    """Sum over maps of the standard deviation of P over its cells."""
    flip_agreement: float = 0.0
    """Sum over maps of the IoU of Otsu's box with that of the mirrored image, mirrored back."""
    polarity_margin: float = 0.0
    """The checkpoint's, times the maps."""
    border_lock: float = 0.0
    """Likewise."""

    def merge(self, other: Self) -> Self:
        """Those of both, which must not share images."""
        return type(self)(
            self.tally.merge(other.tally),
            *(
                getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)[1:]
            ),
        )

    def figures(self) -> dict[str, float]:
        """The label-free figures, in [0, 1], and the metrics in percent where annotated.

        Raises:
            ValueError: no image could be labeled.
        """
        if not self.num_maps:
            raise ValueError("none of the images to score could be labeled")
        names = [field.name for field in dataclasses.fields(self)[2:]]
        found = {name: getattr(self, name) / self.num_maps for name in names}
        if self.tally.num_images:
            metrics = summarise(self.tally, "c2am")
            found |= {name: metrics["c2am"][name] for name in FIGURES}
            found |= {f"centre_{name}": metrics["centre"][name] for name in CENTRE_FIGURES}
        return found


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImagesToScore:
    """Where they lie, and what is known of them."""

    row_groups: Sequence[RowGroup]
    annotations: "ray.ObjectRef[Annotations | None]"
    """Of all row groups that are scored; who starts scorers keeps it, for one that starts anew."""
    max_megapixels: float
    """See ``DataConfig``."""


class Scorer:
    """Scores checkpoints on some images, which it decodes once."""

    def __init__(self, images: ImagesToScore) -> None:
        self._images = images
        self._annotations = ray.get(images.annotations)
        self._size_px, self._blocks = 0, list[dict[str, np.ndarray]]()

    def score(self, uri: str) -> Scores:
        """The scores of a checkpoint folder's model; raises as :func:`checkpoint.load`."""
        loaded, _ = checkpoint.load(uri)
        polarity = Polarity(loaded.polarity)
        config = LabelConfig(size_px=loaded.crop_px)
        num_threads = len(os.sched_getaffinity(0))
        localizer = C2AMLocalizer(filled(loaded, uri), polarity)
        forward = ModelActor(ray.put(localizer), config, num_threads)
        provenance = Provenance(
            method=loaded.method,
            threshold=None,
            threshold_source="otsu",
            polarity=polarity,
            polarity_margin=loaded.polarity_margin,
            checkpoint_sha256="",
            config_json="",
            config_sha256="",
        )
        scores = Scores(Tally.empty())
        for block in self._decoded(loaded.crop_px, config.batch_size):
            plain = forward(dict(block))
            mirrored = forward({**block, "pixels_0": np.ascontiguousarray(_mirror(block))})
            tables = [
                label_rows(maps, config=config, provenance=provenance) for maps in (plain, mirrored)
            ]
            self._add(scores, plain["activation"], *tables)
        scores.polarity_margin = loaded.polarity_margin * scores.num_maps
        scores.border_lock = loaded.border_lock * scores.num_maps
        return scores

    def _decoded(self, size_px: int, batch_size: int) -> list[dict[str, np.ndarray]]:
        if self._size_px != size_px:
            self._blocks = [
                block
                for group in self._images.row_groups
                for block in decode_run(
                    _run(group),
                    Decoding(
                        sizes_px=(size_px,),
                        batch_size=batch_size,
                        max_pixels=self._images.max_megapixels * 1e6,
                    ),
                )
            ]
            self._size_px = size_px
        return self._blocks

    def _add(
        self, scores: Scores, activations: np.ndarray, plain: pa.Table, mirrored: pa.Table
    ) -> None:
        if self._annotations is not None:
            for row in inputs.join(plain, self._annotations):
                scores.tally.add(row)
        columns = ["error", "confidence", "width", "pseudo_boxes"]
        rows = zip(
            plain.select(columns).to_pylist(), mirrored["pseudo_boxes"].to_pylist(), strict=True
        )
        for activation, (row, boxes) in zip(activations, rows, strict=True):
            if row["error"] is None:
                scores.num_maps += 1
                scores.confidence += row["confidence"]
                scores.map_spread += float(activation.std())
                scores.flip_agreement += _agreement(row["pseudo_boxes"], boxes, row["width"])


def _run(group: RowGroup) -> pa.Table:
    return pa.Table.from_pylist(
        [{"uri": group.uri, "indices": [group.index], "num_rows": group.num_rows}]
    )


def _mirror(block: Mapping[str, np.ndarray]) -> np.ndarray:
    return block["pixels_0"][:, :, ::-1]


def _agreement(
    boxes: Sequence[Mapping[str, Any]] | None,
    of_mirrored: Sequence[Mapping[str, Any]] | None,
    width: int,
) -> float:
    """IoU of the first boxes, the second mirrored back; 0 where either map has none."""
    if not boxes or not of_mirrored:
        return 0.0
    one, other = boxes[0], of_mirrored[0]
    back = [width - other["x1"], other["y0"], width - other["x0"], other["y1"]]
    return iou(np.array([[one[k] for k in ("x0", "y0", "x1", "y1")]]), np.array([back])).item()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scorers:
    """A scorer for each node with CPUs, if there are row groups for it; they share the images."""

    actors: Sequence[Any]
    annotations: "ray.ObjectRef[Annotations | None]"

    @classmethod
    def start(
        cls, row_groups: Sequence[RowGroup], annotations: Annotations | None, max_megapixels: float
    ) -> "Scorers":
        """Starts them; needs a connection to Ray."""
        nodes = sum("CPU" in node["Resources"] for node in ray.nodes() if node["Alive"])
        number = max(1, min(nodes, len(row_groups)))
        reference = ray.put(annotations)
        actor = ray.remote(
            num_cpus=SOME_CPU, scheduling_strategy="SPREAD", max_restarts=3, max_task_retries=3
        )(Scorer)
        actors = [
            actor.remote(
                ImagesToScore(
                    row_groups=row_groups[i::number],
                    annotations=reference,
                    max_megapixels=max_megapixels,
                )
            )
            for i in range(number)
        ]
        return cls(actors=actors, annotations=reference)

    def score(self, uri: str) -> dict[str, float]:
        """The figures of a checkpoint folder, from all of them together."""
        first, *others = ray.get([actor.score.remote(uri) for actor in self.actors])
        for each in others:
            first = first.merge(each)
        return first.figures()
