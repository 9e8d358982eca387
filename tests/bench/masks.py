"""mIoU's counting against np.bincount; and what decoding costs beside it."""

from typing import Any

import cv2
import numpy as np

from c2am_dist.method.confusion import ConfusionMatrix
from c2am_dist.method.images import decode_mask
from c2am_dist.method.label_maps import encode_mask
from tests.bench.timing import ratio

NUM_PAIRS, SIZE = 20, (375, 500)
CLASSES = {"voc": 21, "coco": 81}
Pair = tuple[np.ndarray, np.ndarray]


def run() -> list[dict[str, Any]]:
    return [_row(name, num_classes) for name, num_classes in CLASSES.items()]


def _pairs(num_classes: int) -> list[Pair]:
    """Masks of VOC's size with some objects and 5% ignored pixels; predictions are a bit off."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(NUM_PAIRS):
        truth = np.zeros(SIZE, np.uint8)
        for _ in range(3):
            centre = (int(rng.integers(SIZE[1])), int(rng.integers(SIZE[0])))
            cv2.circle(
                truth, centre, int(rng.integers(30, 120)), int(rng.integers(num_classes)), -1
            )
        prediction = np.roll(truth, (7, -9), axis=(0, 1))
        truth[: SIZE[0] // 20] = 255
        pairs.append((prediction, truth))
    return pairs


def _row(name: str, num_classes: int) -> dict[str, Any]:
    pairs = _pairs(num_classes)

    def straightforward(pair: Pair) -> np.ndarray:
        return count(index_of(pair))

    def index_of(pair: Pair) -> np.ndarray:
        prediction, truth = pair
        is_valid = truth != 255
        return truth[is_valid].astype(np.int64) * num_classes + prediction[is_valid]

    def count(index: np.ndarray) -> np.ndarray:
        return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)

    def fast(pair: Pair) -> np.ndarray:
        confusion = ConfusionMatrix.empty(num_classes)
        confusion.add(*pair)
        return confusion.counts

    for pair in pairs:
        np.testing.assert_array_equal(fast(pair), straightforward(pair))
    ready = [(pair, index_of(pair)) for pair in pairs]
    times, count_s, fast_s = ratio(
        lambda item: count(item[1]), lambda item: fast(item[0]), ready, repeats=5
    )
    whole, _, _ = ratio(straightforward, fast, pairs, repeats=5)
    encoded = [tuple(encode_mask(mask) for mask in pair) for pair in pairs]
    both = list(zip(pairs, encoded, strict=True))
    _, _, decode_s = ratio(
        lambda item: fast(item[0]), lambda item: [decode_mask(d) for d in item[1]], both, repeats=5
    )
    megapixels, pair_s = SIZE[0] * SIZE[1] / 1e6, decode_s + fast_s
    return {
        "name": f"mIoU's counts of {num_classes} classes, against np.bincount of a ready index",
        "measured": times,
        "target": 0.9,
        "detail": f"{name}: {megapixels / count_s:.0f} -> {megapixels / fast_s:.0f} megapixels/s "
        f"({whole:.1f} times np.bincount with its index), identical counts; decoding both PNGs "
        f"is {decode_s / pair_s:.0%} of a pair's {pair_s * 1e3:.2f} ms",
    }


if __name__ == "__main__":
    for row in run():
        print(f"{row['measured']:5.2f}x (target {row['target']})  {row['name']}: {row['detail']}")
