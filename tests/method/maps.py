"""Generated activation maps: smooth ones as a network gives, and noise as the worst case."""

import cv2
import numpy as np


def smooth_map(rng: np.random.Generator, size: int, *, noise: float = 0.02) -> np.ndarray:
    """One to four blobs on a 14 x 14 grid with a little noise, resized (cubic), in [0, 1]."""
    y, x = (np.mgrid[0:14, 0:14] + 0.5) / 14
    coarse = noise * rng.random((14, 14))
    for _ in range(rng.integers(1, 5)):
        (cx, cy), spread = rng.uniform(0.2, 0.8, 2), rng.uniform(0.06, 0.25)
        height = rng.uniform(0.3, 1)
        coarse += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    resized = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return stretch(resized)


def noise_map(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.random((size, size), np.float32)


def stretch(activation: np.ndarray) -> np.ndarray:
    activation = activation - activation.min()
    return activation / activation.max()
