"""What is counted of masks: pixels by true and predicted class, of cues by value, too."""

import dataclasses
from typing import Any, Self

import numpy as np

from c2am_dist.evaluation.mask_inputs import Encoded
from c2am_dist.method import cues
from c2am_dist.method.confusion import IGNORED, ConfusionMatrix, foreground
from c2am_dist.method.images import decode_mask, decode_png8
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.method.metrics import PixelPrecision

CUE_THRESHOLD = 0.5
"""Of 1 - cue, above which a pixel is foreground."""
AGREEMENT = 128
"""Of 255: grey levels from here on are what most annotators of CUB-200-2011 saw as the bird."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How masks are compared."""

    label_map: LabelMap
    """Of the annotations, in their own ids."""
    num_ids: int
    """Of the masks, the background's among them: 0 to ``num_ids`` - 1 are classes."""
    is_binary: bool
    """Background against all else."""
    is_agreement: bool
    """The annotations are CUB's grey levels."""

    @property
    def classes(self) -> tuple[str, ...]:
        return ("background", "foreground") if self.is_binary else self.label_map.names

    def truth(self, data: bytes) -> np.ndarray:
        """The annotated mask (uint8, h w) in ids 0 to K, 255 ignored.

        Raises:
            ValueError: it cannot be decoded, or holds an id that the label map does not know.
        """
        if self.is_agreement:
            return (decode_mask(data, keeps_levels=True) >= AGREEMENT).astype(np.uint8)
        mask = self.label_map.from_annotation(decode_mask(data))
        return foreground(mask) if self.is_binary else mask

    def prediction(self, data: bytes) -> np.ndarray:
        """A pseudo mask (uint8, h w) in ids 0 to K.

        Raises:
            ValueError: it cannot be decoded, or holds an id that is no class.
        """
        mask = decode_mask(data)
        if not self.is_binary:
            return mask  # the confusion matrix looks at its ids, where the truth is not ignored
        strays = mask[(mask >= self.num_ids) & (mask != IGNORED)]
        if len(strays):
            raise ValueError(
                f"prediction holds {strays[0]}, which is not of the label map (0 to "
                f"{self.num_ids - 1})"
            )
        return foreground(mask)


@dataclasses.dataclass(slots=True)
class MaskTally:
    """Counts over some images."""

    confusion: ConfusionMatrix
    pixels: PixelPrecision
    """Of cues, by 1 - cue."""
    num_images: int = 0
    num_errors: int = 0
    """Of these, images whose row has an error: all background."""
    num_without_mask: int = 0
    """Images left out, since they have no annotated mask."""

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        return cls(ConfusionMatrix.empty(num_classes), PixelPrecision.empty())

    def add(self, found: Encoded, note: Encoded, scoring: Scoring, *, is_cue: bool) -> None:
        """Counts one image.

        Raises:
            ValueError: mask, cue or annotation is absent, cannot be decoded, is in colour, of
                another size, or holds an id that is no class; the message names the file.
        """
        if note.data is None:
            self.num_without_mask += 1
            return
        truth = _from(note, scoring.truth)
        self.num_images += 1
        if found.error is not None:
            self.num_errors += 1
        elif found.data is None:
            raise ValueError(f"{found.uri}: has neither mask nor error")
        if is_cue:
            self._add_cue(found, truth)
        else:
            self._add_mask(found, truth, scoring)

    def _add_mask(self, found: Encoded, truth: np.ndarray, scoring: Scoring) -> None:
        is_error = found.error is not None
        mask = np.zeros_like(truth) if is_error else _from(found, scoring.prediction)
        self._count(found, mask, truth)

    def _add_cue(self, found: Encoded, truth: np.ndarray) -> None:
        activation = np.zeros(truth.shape, np.float32)
        if found.error is None:
            activation = 1 - _from(found, decode_png8)
            if activation.shape != truth.shape:
                activation = cues.enlarge(activation, truth.shape)
        self._count(found, activation > CUE_THRESHOLD, truth)
        self.pixels.add(activation, truth)

    def _count(self, found: Encoded, mask: np.ndarray, truth: np.ndarray) -> None:
        try:
            self.confusion.add(mask, truth)
        except ValueError as error:
            raise ValueError(f"{found.uri}: {error}") from error

    def merge(self, other: Self) -> Self:
        """The counts of both, which must not share images."""
        merged: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            merged[field.name] = mine + theirs if isinstance(mine, int) else mine.merge(theirs)
        return type(self)(**merged)


def _from(encoded: Encoded, decode: Any) -> np.ndarray:
    try:
        return decode(encoded.data)
    except ValueError as error:
        raise ValueError(f"{encoded.uri}: {error}") from error
