import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from c2am_dist.method.bridging import (
    RESNET50_CUB,
    RESNET50_IMAGENET,
    VGG16_CUB,
    VGG16_IMAGENET,
    BridgingConstants,
    BridgingOutput,
    attentive_dropout,
    bridging_loss,
    channel_norm,
    decompose,
    drop_loss,
    norm_loss,
    norm_map,
    similarity_loss,
    similarity_maps,
    target_similarity,
)
from c2am_dist.method.bridging_model import BridgingClassifier
from c2am_dist.method.cam import class_activation_of
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import Encoder, build_encoder, freeze_norm

torch.set_num_threads(1)
THRESHOLDS = {"foreground_threshold": 0.4, "background_threshold": 0.2}


@pytest.fixture(scope="module")
def published(golden):
    with np.load(golden / "bridging.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_similarity_matches_the_published_implementation(published):
    found = similarity_maps(published["feature"], published["weight"])
    torch.testing.assert_close(found, published["similarity"], atol=1e-14, rtol=0)
    rows = published["weight"][published["target"]]
    of_target = target_similarity(published["feature"], rows)[:, 0]
    expected = published["similarity"][torch.arange(4), published["target"]]
    torch.testing.assert_close(of_target, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("constants", "name"), [(RESNET50_IMAGENET, "ILSVRC"), (RESNET50_CUB, "CUB")]
)
def test_alignment_losses_match_the_published_implementation(published, constants, name):
    n, k = len(published["feature"]), len(published["weight"])
    logits = torch.zeros(n, k, dtype=torch.float64)
    output = BridgingOutput(logits, published["feature"], published["feature"])
    target = published["target"]
    assert constants.foreground_threshold == published["fg_threshold"].item()
    assert constants.background_threshold == published["bg_threshold"].item()
    loss = bridging_loss(output, published["weight"], target, constants=constants, is_warmup=False)
    similarity, norm = loss.similarity.mean() / 0.5, loss.norm.mean() / 0.05
    assert similarity.item() == pytest.approx(published[f"sim_loss_{name}"].item(), abs=1e-12)
    assert norm.item() == pytest.approx(published[f"norm_loss_{name}"].item(), abs=1e-12)
    assert loss.classification.mean().item() == pytest.approx(math.log(k))


def test_dropout_matches_the_published_implementation(published):
    erased = attentive_dropout(published["feature"], threshold=0.7, rate=1.0)
    assert torch.equal(erased, published["erased_thr07"])
    found = drop_loss(published["feature"], erased).mean().item()
    assert found == pytest.approx(published["drop_l1"].item(), abs=1e-12)


def random_case(n: int = 3, c: int = 5, k: int = 4, h: int = 4, w: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features, dropped = random(n, c, h, w).abs(), random(n, c, h, w).clamp(min=0)
    return random(n, k), features, dropped, random(k, c), torch.arange(n) % k


def plain_loss(logits, features, dropped, weight, target, constants) -> list[Tensor]:
    """The total from METHODS.md, image by image and cell by cell, with torch's scalars."""
    totals = []
    n, c, height, width = features.shape
    for i in range(n):
        cells = [features[i, :, y, x] for y in range(height) for x in range(width)]
        others = [dropped[i, :, y, x] for y in range(height) for x in range(width)]
        norms = [(cell * cell).sum().sqrt() for cell in cells]
        low, high = min(norms), max(norms)
        f_hat = [(norm - low) / (high - low) for norm in norms]

        def cosine(cell: Tensor, k: int) -> Tensor:
            row = weight[k]
            return (cell * row).sum() / ((cell * cell).sum().sqrt() * (row * row).sum().sqrt())

        s = [cosine(cell, int(target[i])) for cell in cells]
        best = [max(cosine(cell, k) for k in range(len(weight))) for cell in cells]

        def mean(values: list[Tensor]) -> Tensor:
            return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)

        similarity = mean(
            [v for v, f in zip(s, f_hat, strict=True) if f < constants.background_threshold]
        ) - mean([v for v, f in zip(s, f_hat, strict=True) if f > constants.foreground_threshold])
        judge = s if constants.norm_class == "target" else best
        norm = mean([f for f, v in zip(f_hat, judge, strict=True) if v < 0]) - mean(
            [f for f, v in zip(f_hat, judge, strict=True) if v > 0]
        )
        pairs = zip(cells, others, strict=True)
        drop = sum((a - b).abs().sum() for a, b in pairs) / (c * height * width)
        entropy = torch.logsumexp(logits[i], 0) - logits[i, target[i]]
        totals.append(
            entropy
            + constants.drop_weight * drop
            + constants.similarity_weight * similarity
            + constants.norm_weight * norm
        )
    return totals


@pytest.mark.parametrize("constants", [RESNET50_CUB, RESNET50_IMAGENET, VGG16_CUB, VGG16_IMAGENET])
@pytest.mark.parametrize("n", [1, 3])
def test_total_and_gradients_are_those_of_the_equations(constants, n):
    logits, features, dropped, weight, target = random_case(n, seed=n)
    inputs = [logits, features, dropped, weight]
    gradients = []
    for is_plain in (True, False):
        leaves = [value.clone().requires_grad_() for value in inputs]
        if is_plain:
            losses = torch.stack(plain_loss(*leaves, target, constants))
        else:
            output = BridgingOutput(leaves[0], leaves[1], leaves[2])
            losses = bridging_loss(
                output, leaves[3], target, constants=constants, is_warmup=False
            ).total
        gradients.append((losses.detach(), *torch.autograd.grad(losses.mean(), leaves)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
        assert expected.abs().sum() > 0


def test_warmup_leaves_the_alignment_out():
    logits, features, dropped, weight, target = random_case()
    output = BridgingOutput(logits, features, dropped)
    warm, full = (
        bridging_loss(output, weight, target, constants=VGG16_CUB, is_warmup=is_warmup)
        for is_warmup in (True, False)
    )
    assert warm.similarity.eq(0).all() and warm.norm.eq(0).all()
    assert torch.equal(warm.drop, full.drop)
    expected = F.cross_entropy(logits, target, reduction="none") + 3.0 * drop_loss(
        features, dropped
    )
    torch.testing.assert_close(warm.total, expected)
    assert full.similarity.abs().sum() > 0 and full.norm.abs().sum() > 0


def test_map_is_the_product_of_its_factors():
    _, features, _, weight, target = random_case()
    parts = decompose(features, weight, target)
    torch.testing.assert_close(
        parts.class_activation, class_activation_of(features, weight, target), atol=1e-12, rtol=0
    )
    assert parts.norm.shape == parts.similarity.shape == (3, 1, 4, 3)
    assert torch.equal(parts.norm, channel_norm(features))
    with pytest.raises(ValueError, match="class 4 is not one of 4"):
        decompose(features, weight, torch.tensor([0, 4, 1]))


def test_norm_map_spans_zero_to_one_in_each_image():
    _, features, _, _, _ = random_case()
    features[2] *= 50
    norms = norm_map(features)
    assert norms.amin(dim=(1, 2, 3)).tolist() == [0.0] * 3
    assert norms.amax(dim=(1, 2, 3)).tolist() == [1.0] * 3


@pytest.mark.parametrize("shape", [(1, 5, 4, 1, 1), (2, 5, 4, 1, 1), (1, 5, 4, 2, 2)])
@pytest.mark.parametrize("level", [0.0, 2.0])
@pytest.mark.parametrize("constants", [RESNET50_CUB, VGG16_IMAGENET])
def test_constant_features_have_finite_losses_and_gradients(shape, level, constants):
    logits, features, dropped, weight, target = random_case(*shape)
    features = torch.full_like(features, level).requires_grad_()
    weight[0] = 0  # no direction either
    weight.requires_grad_()
    output = BridgingOutput(logits, features, dropped)
    loss = bridging_loss(output, weight, target, constants=constants, is_warmup=False)
    assert loss.total.isfinite().all()
    loss.total.sum().backward()
    for leaf in (features, weight):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() < 100


def test_zero_features_have_similarity_zero_and_nan_shows():
    _, features, _, weight, target = random_case()
    features[0, :, 0, 0] = 0
    features[1, 0, 0, 0] = math.nan
    similarity = similarity_maps(features, weight)
    assert similarity[0, :, 0, 0].eq(0).all()
    assert similarity[1, :, 0, 0].isnan().all()
    logits = torch.zeros(3, 4, dtype=torch.float64)
    loss = bridging_loss(
        BridgingOutput(logits, features, features),
        weight,
        target,
        constants=RESNET50_CUB,
        is_warmup=False,
    )
    assert loss.total[1].isnan() and loss.total[::2].isfinite().all()


def test_empty_regions_count_as_nothing():
    ones = torch.ones(1, 1, 2, 2)
    assert norm_loss(ones, ones).tolist() == [-1.0]
    assert norm_loss(ones, -ones).tolist() == [1.0]
    assert norm_loss(ones, 0 * ones).tolist() == [0.0]
    assert similarity_loss(ones, 0 * ones, **THRESHOLDS).tolist() == [1.0]
    assert similarity_loss(ones, ones, **THRESHOLDS).tolist() == [-1.0]
    assert similarity_loss(ones, 0.3 * ones, **THRESHOLDS).tolist() == [0.0]
    at_threshold = torch.tensor([[0.4, 0.2]], dtype=torch.float64).view(1, 1, 1, 2)
    assert similarity_loss(at_threshold, at_threshold, **THRESHOLDS).tolist() == [0.0]


def test_dropout_takes_bright_cells_alone_and_at_its_rate():
    generator = torch.Generator().manual_seed(0)
    features = torch.zeros(2, 3, 100, 100)
    features[0] = 1.0
    features[0, :, :50] = 10.0
    erased = attentive_dropout(features, threshold=0.8, rate=0.25, generator=generator)
    is_dropped = (erased != features).all(dim=1)
    assert not is_dropped[0, 50:].any() and not is_dropped[1].any()
    assert is_dropped[0, :50].float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert erased[0][:, is_dropped[0]].eq(0).all()
    none = attentive_dropout(features, threshold=0.8, rate=0.0)
    assert torch.equal(none, features)
    strict = attentive_dropout(features, threshold=1.0, rate=1.0)
    assert torch.equal(strict, features)  # the maximum does not exceed itself


def test_published_constants():
    values = [dataclasses.astuple(c)[:7] for c in (RESNET50_CUB, VGG16_CUB)]
    assert values == [(2.0, 0.5, 0.05, 0.4, 0.2, 0.8, 0.25), (3.0, 0.5, 0.15, 0.6, 0.1, 0.8, 0.5)]
    assert RESNET50_CUB.norm_class == VGG16_CUB.norm_class == "best"
    assert dataclasses.replace(RESNET50_IMAGENET, norm_class="best") == RESNET50_CUB
    assert dataclasses.replace(VGG16_IMAGENET, norm_class="best") == VGG16_CUB
    assert RESNET50_CUB.warmup_share * 70 == pytest.approx(20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"background_threshold": 0.5}, r"ordered in \[0, 1\], got 0.5 and 0.4"),
        ({"drop_rate": 1.5}, r"drop_rate must be in \[0, 1\], got 1.5"),
        ({"norm_weight": -1.0}, "norm_weight must be >= 0, got -1.0"),
    ],
)
def test_constants_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        BridgingConstants(**change)


@pytest.mark.parametrize(("name", "num_last"), [("resnet18", 512), ("resnet34", 512)])
def test_model_gives_what_the_losses_need(name, num_last):
    model = BridgingClassifier(build_encoder(name, output_stride=8), 4, RESNET50_CUB).train()
    images = torch.randn(2, 3, 32, 48)
    output = model(images)
    assert output.features.shape == output.dropped.shape == (2, num_last, 4, 6)
    assert not torch.equal(output.features, output.dropped)
    loss = bridging_loss(
        output, model.fc.weight, torch.tensor([0, 3]), constants=RESNET50_CUB, is_warmup=False
    )
    loss.total.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
def test_published_encoders_have_28_by_28_cells(name):
    with torch.device("meta"):
        encoder = build_encoder(name, output_stride=8)
        model = BridgingClassifier(encoder, 4, VGG16_CUB).to("meta").eval()
        output = model(torch.empty(1, 3, 224, 224, device="meta"))
    assert output.features.shape == (1, encoder.num_last_features, 28, 28)
    assert output.logits.shape == (1, 4)


@pytest.mark.parametrize(("name", "output_stride"), [("resnet18", 16), ("vgg16", 8), ("vgg16", 32)])
def test_without_dropout_it_is_the_plain_classifier(name, output_stride):
    encoder = build_encoder(name, output_stride=output_stride)
    model = BridgingClassifier(encoder, 3, RESNET50_CUB).eval()
    plain = Classifier(encoder, 3).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(images)
        torch.testing.assert_close(output.logits, plain(images))
        torch.testing.assert_close(output.features, encoder.last_stage(encoder(images)))
    assert output.dropped is output.features
    still = BridgingClassifier(encoder, 3, dataclasses.replace(RESNET50_CUB, drop_rate=0.0)).train()
    freeze_norm(encoder)
    output = still(images)
    assert torch.equal(output.dropped, output.features)


def test_dropout_comes_right_behind_the_first_block_of_the_last_stage():
    encoder = build_encoder("resnet18")
    model = BridgingClassifier(
        encoder, 3, dataclasses.replace(RESNET50_CUB, drop_threshold=0.5, drop_rate=1.0)
    ).train()
    freeze_norm(encoder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = images
        for stage in list(encoder.children())[:-1]:
            x = stage(x)
        x = encoder.layer4[0](x)
        erased = attentive_dropout(x, threshold=0.5, rate=1.0)
        output = model(images)
        assert not torch.equal(erased, x)
        torch.testing.assert_close(output.dropped, encoder.layer4[1](erased))
        torch.testing.assert_close(output.features, encoder.layer4[1](x))


def test_of_vgg16_the_first_block_is_the_last_stages_first_convolution():
    torch.manual_seed(0)
    encoder = build_encoder("vgg16", output_stride=8)
    constants = dataclasses.replace(RESNET50_CUB, drop_threshold=0.9, drop_rate=1.0)
    model = BridgingClassifier(encoder, 3, constants).train()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        middle = encoder.features[:26](images)  # features.24 is conv5_1
        erased = attentive_dropout(middle, threshold=0.9, rate=1.0)
        assert 0 < erased.any(dim=1).sum() < middle.any(dim=1).sum()  # some cells, not all
        torch.testing.assert_close(model(images).dropped, encoder.features[26:](erased))


@pytest.mark.parametrize("is_synced", [False, True])
def test_erased_features_leave_no_trace_in_running_statistics(is_synced):
    torch.manual_seed(0)
    encoder = build_encoder("resnet18")
    constants = dataclasses.replace(RESNET50_CUB, drop_threshold=0.5, drop_rate=1.0)
    model = BridgingClassifier(encoder, 3, constants).train()
    if is_synced:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    plain = Classifier(build_encoder("resnet18"), 3).train()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 64, 64)
    model(images)
    plain(images)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=key)
    assert encoder.layer4[1].bn1.momentum == 0.1
    assert encoder.layer4[1].bn1.num_batches_tracked.item() == 1


def test_encoders_without_a_first_block_and_no_classes_are_refused():
    with torch.device("meta"):
        densenet = build_encoder("densenet161")
    for encoder in (densenet, Encoder({"features": torch.nn.Sequential()}, {"features": 1})):
        with pytest.raises(ValueError, match=r"needs a ResNet or VGG-16"):
            BridgingClassifier(encoder, 3, RESNET50_CUB)
    with pytest.raises(ValueError, match=r"num_classes must be >= 1, got 0"):
        BridgingClassifier(build_encoder("resnet18"), 0, RESNET50_CUB)
