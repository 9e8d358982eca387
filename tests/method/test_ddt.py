import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from c2am_dist.method.components import component_box, largest_component
from c2am_dist.method.ddt import (
    DescriptorStats,
    add_by_class,
    heat_maps,
    positive_part,
    principal_component,
    transform_of,
)

torch.set_num_threads(1)


def random_features(n: int, c: int = 6, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Descriptors with one direction of much variance; any mean."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(n, c, 3, 4, generator=generator, dtype=torch.float64)
    strength = torch.rand(n, 1, 3, 4, generator=generator, dtype=torch.float64)
    return mean + features + 3 * strength * torch.linspace(0.1, 1, c).double().view(-1, 1, 1)


def stats_of(*batches: Tensor) -> DescriptorStats:
    stats = DescriptorStats.empty(batches[0].shape[1])
    for batch in batches:
        stats.add(batch)
    return stats


def batch_pca(features: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, first component (of any sign) and its share of variance, by numpy's SVD."""
    descriptors = features.numpy().transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    mean = descriptors.mean(axis=0)
    _, values, vectors = np.linalg.svd(descriptors - mean, full_matrices=False)
    return mean, vectors[0], values[0] ** 2 / (values**2).sum()


def assert_equal_up_to_sign(found: np.ndarray, expected: np.ndarray, atol: float) -> None:
    sign = np.sign((found * expected).sum())
    np.testing.assert_allclose(found * sign, expected, atol=atol, rtol=0)


def test_heat_matches_the_published_implementation_up_to_sign(golden):
    with np.load(golden / "ddt.npz") as file:
        values = {name: file[name] for name in file.files}
    features = torch.from_numpy(values["features_nhwc"]).permute(0, 3, 1, 2)
    transform = principal_component(stats_of(*features.split(4)))
    np.testing.assert_allclose(transform.mean, values["mean"], atol=1e-12, rtol=0)
    assert_equal_up_to_sign(transform.component.numpy(), values["component"], 1e-12)
    heat = heat_maps(features, transform)
    assert_equal_up_to_sign(heat[:, 0].numpy(), values["heat"], 1e-11)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_one_pass_in_batches_is_pca_of_everything(size):
    features = random_features(9)
    transform = principal_component(stats_of(*features.split(size)))
    mean, component, explained = batch_pca(features)
    np.testing.assert_allclose(transform.mean, mean, atol=1e-13, rtol=0)
    assert_equal_up_to_sign(transform.component.numpy(), component, 1e-12)
    assert transform.explained == pytest.approx(explained, abs=1e-12)
    assert transform.component.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("channels", [127, 128, 300])
def test_scatter_is_whole_however_many_blocks_it_takes(channels: int):
    features = torch.randn(5, channels, 3, 4, dtype=torch.float64)
    descriptors = features.transpose(1, 3).reshape(-1, channels).numpy()
    expected = np.cov(descriptors, rowvar=False, bias=True) * len(descriptors)
    scatter = stats_of(*features.split(2)).scatter
    np.testing.assert_allclose(scatter.numpy(), expected, atol=1e-11, rtol=0)


def test_parts_merge_in_any_order_and_empty_ones_count_nothing():
    features = random_features(9)
    sizes = [1, 3, 0, 5]
    parts = [stats_of(part) for part in features.split(sizes)]
    whole = stats_of(features)
    for order in itertools.permutations(parts):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        torch.testing.assert_close(merged.mean, whole.mean, atol=1e-13, rtol=0)
        torch.testing.assert_close(merged.scatter, whole.scatter, atol=1e-11, rtol=0)
        assert (merged.num_positions, merged.num_images) == (9 * 12, 9)
    assert parts[0].num_images == 1  # merging left them alone
    torch.testing.assert_close(parts[0].scatter, stats_of(features[:1]).scatter)


def test_large_mean_does_not_cost_the_digits_of_the_scatter():
    """Sums of squares about zero would lose 16 of float64's 16 digits here."""
    features = random_features(6)
    far = features + 1e8
    merged = stats_of(far[:2]).merge(stats_of(far[2:5], far[5:]))
    exact = stats_of(far - 1e8)
    torch.testing.assert_close(merged.scatter, exact.scatter, atol=0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_statistics_are_float64_whatever_the_features(dtype):
    features = random_features(4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        stats = stats_of(features)
        heat = heat_maps(features, principal_component(stats))
    exact = stats_of(features.double())
    assert torch.equal(stats.scatter, exact.scatter)
    assert heat.dtype == torch.float32
    expected = heat_maps(features.double(), principal_component(exact))
    torch.testing.assert_close(heat.double(), expected, atol=1e-5, rtol=0)


def test_classes_are_kept_apart():
    features, classes = random_features(7), torch.tensor([3, 0, 3, 3, 0, 9, 3])
    stats: dict[int, DescriptorStats] = {}
    for start, stop in ((0, 2), (2, 7)):
        add_by_class(stats, features[start:stop], classes[start:stop])
    assert {index: s.num_images for index, s in stats.items()} == {0: 2, 3: 4, 9: 1}
    for index, found in stats.items():
        expected = stats_of(features[classes == index])
        torch.testing.assert_close(found.scatter, expected.scatter)
        torch.testing.assert_close(found.mean, expected.mean)


def test_class_with_a_single_image_and_one_never_seen_are_refused():
    stats: dict[int, DescriptorStats] = {}
    add_by_class(stats, random_features(3), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"at least 2 images .* got 1"):
        principal_component(stats[1])
    assert principal_component(stats[1], min_images=1).explained > 0
    transforms = {0: principal_component(stats[0])}
    assert transform_of(transforms, 0) is transforms[0]
    with pytest.raises(ValueError, match="class 2 was never seen; DDT knows 1 classes"):
        transform_of(transforms, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_features_are_refused_and_not_counted(value):
    stats = stats_of(random_features(2))
    before = stats.scatter.clone()
    broken = random_features(2, seed=1)
    broken[1, 2, 0, 0] = value
    with pytest.raises(ValueError, match="features of 2 images hold NaN or infinity"):
        stats.add(broken)
    assert torch.equal(stats.scatter, before) and stats.num_images == 2
    by_class = {0: stats}
    with pytest.raises(ValueError, match="hold NaN"):
        add_by_class(by_class, broken, torch.tensor([0, 1]))
    assert list(by_class) == [0] and stats.num_images == 2


@pytest.mark.parametrize("level", [0.0, 3.0, 0.1])  # 0.1 has no exact mean
def test_descriptors_without_variance_are_refused(level):
    with pytest.raises(ValueError, match="all descriptors of 3 images are the same"):
        principal_component(stats_of(torch.full((3, 5, 3, 7), level, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"at least 2 images .* got 0"):
        principal_component(DescriptorStats.empty(5))


def test_largest_entry_of_the_component_is_positive_whatever_eigh_returns():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(3, 6, 4, 4, generator=generator, dtype=torch.float64)
        component = principal_component(stats_of(features)).component
        mirrored = principal_component(stats_of(-features)).component  # the same scatter
        assert component[component.abs().argmax()] > 0
        torch.testing.assert_close(mirrored, component)


def test_heat_is_zero_at_the_mean_and_nan_where_features_are():
    features = random_features(3)
    transform = principal_component(stats_of(features))
    assert heat_maps(features, transform).mean().item() == pytest.approx(0, abs=1e-12)
    features[1, 0, 0, 0] = math.nan
    heat = heat_maps(features, transform)
    assert heat[1].isnan().any() and heat[::2].isfinite().all()


def test_positive_part_is_an_activation_map():
    heat = torch.tensor([[-2.0, 1.0, 4.0], [-1.0, -3.0, 0.0], [math.nan, 1.0, 2.0]])
    activation = positive_part(heat.view(3, 1, 1, 3))[:, 0, 0]
    assert activation[:2].tolist() == [[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]]
    assert activation[2].isnan().any()


def plain_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected component by flood fill; the first in reading order of equals."""
    best: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        found, todo = [], [start]
        seen.add(start)
        while todo:
            y, x = todo.pop()
            found.append((y, x))
            for cell in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                inside = 0 <= cell[0] < mask.shape[0] and 0 <= cell[1] < mask.shape[1]
                if inside and mask[cell] and cell not in seen:
                    seen.add(cell)
                    todo.append(cell)
        if len(found) > len(best):
            best = found
    component = np.zeros_like(mask)
    for cell in best:
        component[cell] = True
    return component


def plain_box(heat: np.ndarray, image_size: tuple[int, int]) -> list[list[int]]:
    """Upsampled to nearest neighbours, then the tight rectangle, pixel by pixel."""
    component = plain_component(heat > 0)
    (height, width), (rows, columns) = image_size, heat.shape
    ys, xs = np.arange(height) * rows // height, np.arange(width) * columns // width
    large = component[np.ix_(ys, xs)]
    if not large.any():
        return []
    y, x = np.nonzero(large)
    return [[x.min(), y.min(), x.max() + 1, y.max() + 1]]


@pytest.mark.parametrize("seed", range(60))
def test_box_is_the_tight_one_of_the_enlarged_component(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 8, 2))
    heat = rng.normal(size=shape) + rng.uniform(-1, 0.5)
    size = (int(rng.integers(shape[0], 60)), int(rng.integers(shape[1], 60)))
    np.testing.assert_array_equal(largest_component(heat > 0), plain_component(heat > 0))
    assert component_box(heat, size).tolist() == plain_box(heat, size)


def test_box_is_opencvs_at_whole_multiples():
    heat = np.random.default_rng(3).normal(size=(14, 14))
    component = largest_component(heat > 0).astype(np.uint8)
    large = cv2.resize(component, (448, 448), interpolation=cv2.INTER_NEAREST)
    x, y, w, h = cv2.boundingRect(large)
    assert component_box(heat, (448, 448)).tolist() == [[x, y, x + w, y + h]]


def test_heat_without_positive_cells_has_no_box():
    for heat in (np.zeros((3, 3)), -np.ones((2, 5)), np.full((1, 1), -0.0)):
        assert component_box(heat, (10, 10)).shape == (0, 4)
        assert not largest_component(heat > 0).any()


def test_one_cell_covers_the_image_and_small_images_keep_a_pixel():
    assert component_box(np.ones((1, 1)), (7, 9)).tolist() == [[0, 0, 9, 7]]
    heat = -np.ones((14, 14))
    heat[13, 1] = 1.0
    assert component_box(heat, (5, 5)).tolist() == [[1, 4, 2, 5]]


def test_corners_touch_and_equals_go_in_reading_order():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    heat = np.where(mask, 1.0, -1.0)
    assert component_box(heat, (3, 4)).tolist() == [[0, 0, 2, 2]]
    assert component_box(heat[:, ::-1], (3, 4)).tolist() == [[0, 0, 1, 2]]


@pytest.mark.parametrize("heat", [np.full((2, 2), np.nan), np.array([[np.inf]]), np.zeros((0, 3))])
def test_broken_heat_is_refused(heat):
    with pytest.raises(ValueError, match="must be finite"):
        component_box(heat, (10, 10))
