import cv2
import numpy as np
import pytest

from c2am_dist.method.edge_aware import guided_filter


def reference(image: np.ndarray, one: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al., equations 19 to 21, window by window in float64."""
    colours, values = image.astype(np.float64) / 255, one.astype(np.float64)
    height, width = one.shape

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)

    slope, offset = np.zeros((height, width, 3)), np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        inside = colours[window(y, x)].reshape(-1, 3)
        target = values[window(y, x)].ravel()
        centred = inside - inside.mean(axis=0)
        covariance = centred.T @ centred / len(inside) + epsilon * np.eye(3)
        cross = centred.T @ (target - target.mean()) / len(inside)
        slope[y, x] = np.linalg.solve(covariance, cross)
        offset[y, x] = target.mean() - slope[y, x] @ inside.mean(axis=0)
    followed = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        mean_slope = slope[window(y, x)].reshape(-1, 3).mean(axis=0)
        followed[y, x] = mean_slope @ colours[y, x] + offset[window(y, x)].mean()
    return np.clip(followed, 0, 1)


def scene(*, is_grey: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random picture and a smooth random map of 18 x 23 pixels."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (18, 23, 3)).astype(np.uint8), (0, 0), 1.5)
    one = cv2.GaussianBlur(rng.random((18, 23)), (0, 0), 2)
    one = (one - one.min()) / (one.max() - one.min())
    return image[..., [0, 0, 0]] if is_grey else image, one.astype(np.float32)


@pytest.mark.parametrize("is_grey", [False, True])
@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-2), (4, 1e-4), (40, 1e-2), (4, 1e-6)])
def test_filter_equals_its_equations(radius: int, epsilon: float, is_grey: bool):
    image, one = scene(is_grey=is_grey)
    found = guided_filter(image, one[None], radius_px=radius, epsilon=epsilon)[0]
    # In a grey picture of epsilon 1e-6 two of three directions of colour are flat.
    tolerance = 1e-4 if is_grey and epsilon < 1e-4 else 2e-6
    np.testing.assert_allclose(found, reference(image, one, radius, epsilon), atol=tolerance)


def test_each_map_is_filtered_by_itself():
    image, one = scene()
    both = guided_filter(image, np.stack([one, 1 - one]), radius_px=3, epsilon=1e-3)
    assert both.dtype == np.float32
    alone = guided_filter(image, 1 - one[None], radius_px=3, epsilon=1e-3)
    np.testing.assert_array_equal(both[1], alone[0])


def test_blurred_edge_moves_to_that_of_the_picture():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = (200, 120, 40)
    blurred = cv2.GaussianBlur((image[..., 0] > 0).astype(np.float32), (0, 0), 4)
    found = guided_filter(image, blurred[None], radius_px=6, epsilon=1e-4)[0]
    step, step_before = found[:, 16] - found[:, 15], blurred[:, 16] - blurred[:, 15]
    assert step.min() > 0.4 > 0.15 > step_before.max()


def test_flat_picture_leaves_a_plain_average():
    _, one = scene()
    image = np.full((18, 23, 3), 77, np.uint8)
    found = guided_filter(image, one[None], radius_px=2, epsilon=1e-6)[0]
    np.testing.assert_allclose(found, reference(image, one, 2, 1e-6), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_map_stays(value: float):
    image, one = scene()
    found = guided_filter(image, np.full_like(one, value)[None], radius_px=3, epsilon=1e-3)
    np.testing.assert_allclose(found, value, atol=1e-6)
    assert found.min() >= 0 and found.max() <= 1


def test_one_pixel():
    found = guided_filter(
        np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 1), 0.25), radius_px=5, epsilon=1e-3
    )
    assert found.item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.zeros((1, 18, 22))}, r"image \(18, 23\) and maps \(18, 22\) differ"),
        ({"maps": np.zeros((0, 18, 23))}, "at least one pixel"),
        ({"maps": np.full((1, 18, 23), np.nan)}, "nan"),
        ({"maps": np.full((1, 18, 23), 2.0)}, "got 2.0"),
        ({"radius_px": 0}, "radius_px must be at least 1"),
        ({"epsilon": 0.0}, "epsilon must be above 0"),
        ({"epsilon": float("nan")}, "epsilon must be above 0"),
    ],
)
def test_what_cannot_be_filtered_is_refused(change: dict, message: str):
    image, one = scene()
    arguments = {"image": image, "maps": one[None], "radius_px": 3, "epsilon": 1e-3} | change
    with pytest.raises(ValueError, match=message):
        guided_filter(**arguments)
