"""The straightforward boxes and evaluator: one OpenCV pass per threshold, one IoU per image.

Written from METHODS.md ("Boxes", "Metrics"), checked against golden/ in the tests, and what
the benchmarks measure against.
"""

import cv2
import numpy as np

THRESHOLDS = np.arange(0, 1, 0.01)
IOU_LEVELS = (0.3, 0.5, 0.7)


def boxes_at(grey: np.ndarray, threshold: float, *, is_any: bool) -> np.ndarray:
    height, width = grey.shape
    level = int(threshold * np.max(grey))
    _, binary = cv2.threshold(grey, level, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) == 0:
        return np.array([[0, 0, 0, 0]])
    if not is_any:
        contours = [max(contours, key=cv2.contourArea)]
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
    return np.array(boxes)


def boxes(activation: np.ndarray, thresholds: np.ndarray, *, is_any: bool) -> list[np.ndarray]:
    grey = (activation * 255).astype(np.uint8)
    return [boxes_at(grey, threshold, is_any=is_any) for threshold in thresholds]


def iou_inclusive(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = np.maximum(high - low + 1, 0).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    area_others = (others[:, 2:] - others[:, :2] + 1).prod(axis=1)
    return intersection / (area[:, None] + area_others[None] - intersection)


def max_box_acc(maps: list[np.ndarray], gt: list[np.ndarray], *, is_any: bool) -> np.ndarray:
    """Percentage localized: 3 IoU levels x 100 thresholds."""
    hits = np.zeros((len(IOU_LEVELS), len(THRESHOLDS)))
    for activation, gt_boxes in zip(maps, gt, strict=True):
        for t, found in enumerate(boxes(activation, THRESHOLDS, is_any=is_any)):
            best = iou_inclusive(found, gt_boxes).max()
            for i, level in enumerate(IOU_LEVELS):
                hits[i, t] += best >= level
    return hits * 100 / len(maps)
