import math
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from c2am_dist.method.multilabel import valid_channels
from c2am_dist.method.sipe import (
    CHUNK_BYTES,
    SipeOutput,
    consistency_loss,
    general_activation,
    image_prototypes,
    locate_seeds,
    sipe_loss,
    specific_activation,
    structure_scores,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def published(golden):
    with np.load(golden / "sipe.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def pipeline(maps: Tensor, semantic: Tensor, features: Tensor, labels: Tensor) -> SipeOutput:
    is_valid = valid_channels(labels)
    activation = general_activation(maps, is_valid)
    seeds = locate_seeds(structure_scores(semantic, activation), is_valid)
    specific = specific_activation(features, image_prototypes(features, seeds))
    return SipeOutput(maps.mean(dim=(2, 3)), activation, specific, seeds)


def test_every_step_matches_the_published_implementation(published):
    is_valid = published["labels_with_bg"].bool()
    assert torch.equal(valid_channels(published["labels_with_bg"][:, 1:].long()), is_valid)
    activation = general_activation(published["cam_logits"], is_valid)
    seeds = locate_seeds(structure_scores(published["semantic_feature"], activation), is_valid)
    features = published["hierarchical_feature"]
    centres = image_prototypes(features, seeds)
    specific = specific_activation(features, centres)
    found = {
        "norm_cam": activation,
        "seeds": seeds.double(),
        "prototypes": centres,
        "is_cam": specific,
        "gsc": consistency_loss(activation, specific).mean(),
    }
    inputs = {"cam_logits", "semantic_feature", "hierarchical_feature", "labels_with_bg"}
    assert found.keys() | inputs == published.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, published[name], atol=1e-12, rtol=0, msg=name)


def random_case(n: int = 3, k: int = 3, h: int = 4, w: int = 3, seed: int = 0):
    """Maps, semantic and hierarchical features, labels; seeds of several channels in each."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Rows of cells are alike, so that structure matches the maps of some channel.
    semantic = random(n, 5, h, 1) + 0.2 * random(n, 5, h, w)
    maps = random(n, k, h, 1) + 0.2 * random(n, k, h, w)
    labels = torch.tensor([[1, 0, 1], [1, 1, -1], [0, 1, 0]])[:n, :k]
    return maps, semantic, random(n, 4, h, w), labels


def plain_sipe(maps: Tensor, semantic: Tensor, features: Tensor, labels: Tensor):
    """METHODS.md, "SIPE", image by image and cell by cell, with torch's scalars."""
    totals, seeds_of = [], []
    n, k, height, width = maps.shape
    places = [(y, x) for y in range(height) for x in range(width)]

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())

    zero = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        rows = []
        for j in range(k):
            cells = [torch.maximum(maps[i, j, y, x], zero) for y, x in places]
            rows.append([cell / (max(cells) + 1e-5) for cell in cells])
        background = [1 - max(row[p] for row in rows) for p in range(len(places))]
        is_valid = [True, *(label == 1 for label in labels[i].tolist())]
        cam = [
            row if valid else [zero] * len(places)
            for row, valid in zip([background, *rows], is_valid, strict=True)
        ]

        seeds = []
        for q in places:
            structure = [max(cosine(semantic[i, :, *q], semantic[i, :, *p]), zero) for p in places]
            scores = []
            for j, row in enumerate(cam):
                overlap = sum(s * c for s, c in zip(structure, row, strict=True))
                iou = (overlap / (sum(structure) + sum(row) - overlap)).detach()
                scores.append((0.5 if j == 0 else 1.0) * iou.item())
            best = scores.index(max(scores))
            seeds.append(best if is_valid[best] else None)
        seeds_of.append(seeds)

        differences = zero
        for j, row in enumerate(cam):
            own = [features[i, :, *p] for p, seed in zip(places, seeds, strict=True) if seed == j]
            specific = [zero] * len(places)
            if own:
                prototype = sum(own) / len(places)
                specific = [max(cosine(features[i, :, *p], prototype), zero) for p in places]
            peak = max(specific) + 1e-5
            pairs = zip(row, specific, strict=True)
            differences = differences + sum((a - b / peak).abs() for a, b in pairs)
        logits = [sum(maps[i, j, y, x] for y, x in places) / len(places) for j in range(k)]
        known = [(x, y) for x, y in zip(logits, labels[i].tolist(), strict=True) if y >= 0]
        margins = [torch.log1p(torch.exp(-x if y else x)) for x, y in known]
        totals.append(
            sum(margins) / len(margins) + differences / (len(cam) * len(places)),
        )
    return torch.stack(totals), seeds_of


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 3])
def test_total_and_gradients_are_those_of_the_text(n, seed):
    maps, semantic, features, labels = random_case(n, seed=seed)
    gradients = []
    for is_plain in (True, False):
        leaves = [maps.clone().requires_grad_(), features.clone().requires_grad_()]
        if is_plain:
            total, expected_seeds = plain_sipe(leaves[0], semantic, leaves[1], labels)
        else:
            output = pipeline(leaves[0], semantic, leaves[1], labels)
            total = sipe_loss(output, labels).total
            found_seeds = output.seeds
        gradients.append((total.detach(), *torch.autograd.grad(total.mean(), leaves)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
        assert expected.abs().sum() > 0
    for image, expected in zip(found_seeds, expected_seeds, strict=True):
        cells = image.flatten(1).T
        found = [row.nonzero().flatten().tolist() for row in cells]
        assert found == [[] if best is None else [best] for best in expected]
    assert len({best for seeds in expected_seeds for best in seeds}) >= 2


def test_gradients_are_those_of_finite_differences():
    maps, semantic, features, labels = random_case()
    output = pipeline(maps, semantic, features, labels)
    is_valid = valid_channels(labels)

    def of_maps(x: Tensor) -> Tensor:
        return consistency_loss(general_activation(x, is_valid), output.specific)

    def of_features(x: Tensor) -> Tensor:
        specific = specific_activation(x, image_prototypes(x, output.seeds))
        return consistency_loss(output.activation, specific)

    torch.autograd.gradcheck(of_maps, maps.requires_grad_())
    torch.autograd.gradcheck(of_features, features.requires_grad_())


def test_seeds_and_scores_have_no_gradient():
    maps, semantic, features, labels = random_case()
    output = pipeline(maps, semantic.requires_grad_(), features.requires_grad_(), labels)
    scores = structure_scores(semantic, output.activation)
    assert not scores.requires_grad and output.seeds.dtype == torch.bool
    (gradient,) = torch.autograd.grad(output.specific.sum(), semantic, allow_unused=True)
    assert gradient is None


def plain_scores(semantic: Tensor, activation: Tensor) -> Tensor:
    """All structure maps at once."""
    cells = semantic.flatten(2) / semantic.flatten(2).norm(dim=1, keepdim=True)
    structure = (cells.transpose(1, 2) @ cells).clamp(min=0)[:, None]
    maps = activation.flatten(2)[:, :, None]
    overlap = (structure * maps).sum(-1)
    scores = overlap / (structure.sum(-1) + maps.sum(-1) - overlap)
    scores[:, 0] /= 2
    return scores.view_as(activation)


@pytest.mark.parametrize("num_queries", [1, 2, 5, 35, 36, 10**6])
def test_chunks_do_not_change_the_scores(num_queries):
    maps, semantic, _, labels = random_case(h=6, w=6)
    is_valid = valid_channels(labels)
    activation = general_activation(maps, is_valid)
    row_bytes = 3 * 36 * 8
    found = structure_scores(semantic, activation, chunk_bytes=num_queries * row_bytes)
    expected = plain_scores(semantic, activation)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
    assert torch.equal(locate_seeds(found, is_valid), locate_seeds(expected, is_valid))


class PeakMemory(TorchDispatchMode):
    """Inside, counts the bytes of tensors that operations returned and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self._sizes: dict[int, int] = {}
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._sizes[storage.data_ptr()] = storage.nbytes()
                self._holders[storage.data_ptr()] += 1
                weakref.finalize(leaf, self._release, storage.data_ptr())
        self.num_bytes = max(self.num_bytes, sum(self._sizes.values()))
        return result

    def _release(self, address: int) -> None:
        self._holders[address] -= 1
        if self._holders[address] == 0:
            del self._sizes[address]


def test_memory_is_bounded_on_maps_of_64_by_64():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 8, 64, 64, generator=generator)
    activation = torch.rand(2, 3, 64, 64, generator=generator)
    whole = 2 * 4096**2 * 4
    assert CHUNK_BYTES == whole / 2
    found = {}
    for chunk_bytes in (2**22, CHUNK_BYTES, whole):
        with PeakMemory() as peak:
            found[chunk_bytes] = structure_scores(features, activation, chunk_bytes=chunk_bytes)
        # One chunk at a time, and besides it what does not grow with the square of the cells.
        assert chunk_bytes <= peak.num_bytes <= chunk_bytes + 2**20
    for scores in found.values():
        torch.testing.assert_close(scores, found[whole], atol=1e-6, rtol=0)


def test_background_is_what_no_class_claims_labeled_or_not():
    maps = torch.tensor([[[[1.0, 0.0, -3.0]], [[0.0, 2.0, -1.0]]]], dtype=torch.float64)
    only_first = torch.tensor([[True, True, False]])
    found = general_activation(maps, only_first)[0, :, 0]
    low = 1e-5 / (1 + 1e-5)
    assert found[0].tolist() == pytest.approx([low, 1 - 2 / (2 + 1e-5), 1.0])
    assert found[1].tolist() == pytest.approx([1 / (1 + 1e-5), 0, 0])
    assert found[2].tolist() == [0, 0, 0]


def test_a_cell_whose_best_channel_is_not_valid_is_no_seed():
    scores = torch.tensor([[[[0.1, 0.1]], [[0.3, 0.4]], [[0.9, 0.2]]]])
    seeds = locate_seeds(scores, torch.tensor([[True, True, False]]))
    assert seeds[0, :, 0].int().tolist() == [[0, 0], [0, 1], [0, 0]]


def test_ties_go_to_the_background():
    seeds = locate_seeds(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, dtype=torch.bool))
    assert seeds[0, 0].all() and not seeds[0, 1:].any()


@pytest.mark.parametrize("level", [0.0, 2.0])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_constant_features_and_maps_have_finite_losses_and_gradients(level, size):
    maps = torch.full((1, 2, *size), -level, requires_grad=True)
    features = torch.full((1, 4, *size), level, requires_grad=True)
    labels = torch.tensor([[1, 0]])
    loss = sipe_loss(pipeline(maps, features.detach(), features, labels), labels)
    loss.total.sum().backward()
    assert loss.total.isfinite().all()
    for leaf in (maps, features):
        assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_a_channel_without_seeds_is_dark_and_passes_no_gradient():
    _, _, features, _ = random_case(1)
    features[0, :, 0, 0] = 0  # no direction either
    features.requires_grad_()
    seeds = torch.zeros(1, 3, 4, 3, dtype=torch.bool)
    seeds[0, 0] = True
    specific = specific_activation(features, image_prototypes(features, seeds))
    assert specific[0, 1:].eq(0).all() and specific[0, :, 0, 0].eq(0).all()
    assert specific[0, 0].max() <= 1
    (gradient,) = torch.autograd.grad(specific[:, 1:].sum(), features)
    assert gradient.eq(0).all()


def test_half_precision_is_widened():
    maps, semantic, features, labels = (
        value.bfloat16() if value.is_floating_point() else value for value in random_case()
    )
    output = pipeline(maps, semantic, features, labels)
    assert output.activation.dtype == output.specific.dtype == torch.float32
    assert sipe_loss(output, labels).total.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        again = pipeline(maps.float(), semantic.float(), features.float(), labels)
    torch.testing.assert_close(again.specific, output.specific)


ONES = torch.ones(2, 3, 4, 4)
ALL = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: general_activation(ONES, ALL),
            r"validity must be of shape \(2, 4\), the background and 3 classes of 2 images, "
            r"got \(2, 3\)",
        ),
        (
            lambda: structure_scores(ONES, ONES[:, :, 1:]),
            r"activation maps must be of 2 images and 4 x 4 cells like the features, "
            r"got 2 and 3 x 4",
        ),
        (lambda: structure_scores(ONES, ONES[1:]), r"got 1 and 4 x 4"),
        (lambda: structure_scores(ONES, ONES, chunk_bytes=0), r"chunk_bytes must be >= 1, got 0"),
        (lambda: locate_seeds(ONES, ALL[:, :2]), r"validity must be of shape \(2, 3\), got"),
        (
            lambda: image_prototypes(ONES, ONES[..., :2].bool()),
            r"seeds must be of 2 images and 4 x 4 cells like the features, got 2 and 4 x 2",
        ),
        (
            lambda: specific_activation(ONES, torch.ones(2, 5, 4)),
            r"prototypes must be of 2 images and 3 channels, got \(2, 5, 4\)",
        ),
        (
            lambda: consistency_loss(ONES, ONES[:, :2]),
            r"image-specific maps must be of shape \(2, 3, 4, 4\), got \(2, 2, 4, 4\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_images_with_nan_or_infinity_are_named(value):
    broken = ONES.clone()
    broken[1, 0, 2, 3] = value
    valid = torch.ones(2, 4, dtype=torch.bool)
    where = "hold NaN or infinity in images 1 of the batch"
    with pytest.raises(ValueError, match=f"class activation maps {where}"):
        general_activation(broken, valid)
    with pytest.raises(ValueError, match=f"semantic features {where}"):
        structure_scores(broken, ONES)
    with pytest.raises(ValueError, match=f"hierarchical features {where}"):
        image_prototypes(broken, ONES.bool())
