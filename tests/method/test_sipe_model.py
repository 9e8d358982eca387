import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from c2am_dist.method.activation import merge_scales
from c2am_dist.method.encoders import build_encoder, freeze_norm
from c2am_dist.method.multilabel import valid_channels
from c2am_dist.method.optim import parameter_groups
from c2am_dist.method.sipe import (
    general_activation,
    image_prototypes,
    locate_seeds,
    sipe_loss,
    specific_activation,
    structure_scores,
)
from c2am_dist.method.sipe_model import SCALES, SIDE_CHANNELS, SipeClassifier, merged_maps

torch.set_num_threads(1)
LABELS = torch.tensor([[1, 0, 1], [0, 1, -1]])


def random_model(name: str = "resnet18", num_classes: int = 3, **options) -> SipeClassifier:
    torch.manual_seed(0)
    encoder = build_encoder(name)
    freeze_norm(encoder)
    return SipeClassifier(encoder, num_classes, **options)


def random_images(n: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_model_gives_what_the_losses_need(name):
    model = random_model(name).train()
    output = model(random_images(), LABELS)
    assert output.logits.shape == (2, 3)
    shapes = {m.shape for m in (output.activation, output.specific, output.seeds)}
    assert shapes == {(2, 4, 4, 6)}
    is_valid = valid_channels(LABELS)
    for maps in (output.activation, output.specific):
        assert maps.min() >= 0 and maps.max() <= 1 + 1e-6
        assert maps[~is_valid].eq(0).all()
    loss = sipe_loss(output, LABELS).total
    assert loss.shape == (2,) and loss.isfinite().all()
    sides = {stage: side.out_channels for stage, side in model.sides.items()}
    assert sides == SIDE_CHANNELS == {"layer1": 128, "layer2": 128, "layer3": 256, "layer4": 256}
    assert not any(key.endswith("bias") for key in dict(model.sides.named_parameters()))
    assert model.classifier.bias is None


def test_forward_is_the_steps_of_the_method():
    model = random_model().double().eval()
    images = random_images().double()
    with torch.no_grad():
        output = model(images, LABELS)
        stages, x = {}, images
        for name, stage in model.encoder.named_children():
            x = stages[name] = stage(x)
        maps = model.classifier(stages["layer4"])
        parts = []
        for name, side in model.sides.items():
            part = side(stages[name])
            part = part / part.norm(dim=1, keepdim=True)
            size = stages["layer3"].shape[2:]
            parts.append(F.interpolate(part, size, mode="bilinear", align_corners=False))
        features = torch.cat(parts, dim=1)
        is_valid = valid_channels(LABELS)
        activation = general_activation(maps, is_valid)
        seeds = locate_seeds(structure_scores(stages["layer4"], activation), is_valid)
        specific = specific_activation(features, image_prototypes(features, seeds))
    assert features.shape[1] == 768
    assert seeds[0].any(dim=(1, 2)).sum() > 1  # not all cells are of one channel
    torch.testing.assert_close(output.logits, maps.mean(dim=(2, 3)), atol=1e-12, rtol=0)
    torch.testing.assert_close(output.activation, activation, atol=1e-12, rtol=0)
    torch.testing.assert_close(output.specific, specific, atol=1e-12, rtol=0)
    assert torch.equal(output.seeds, seeds)


def test_everything_that_is_trained_has_a_gradient_and_nothing_else():
    model = random_model().train()
    loss = sipe_loss(model(random_images(), LABELS), LABELS)
    loss.total.mean().backward()
    for name, parameter in model.named_parameters():
        is_trained = not name.startswith(
            ("encoder.conv1", "encoder.bn1", "encoder.layer1", "encoder.layer2")
        )
        assert parameter.requires_grad == is_trained, name
        assert (parameter.grad is not None and parameter.grad.any().item()) == is_trained, name


def test_image_specific_maps_train_the_side_convolutions_alone():
    model = random_model().train()
    model(random_images(), LABELS).specific.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {f"sides.{stage}.weight" for stage in SIDE_CHANNELS}


def test_general_maps_train_the_last_two_stages_and_the_classifier():
    model = random_model().train()
    model(random_images(), LABELS).activation.sum().backward()
    reached = {
        ".".join(n.split(".")[:2]) for n, p in model.named_parameters() if p.grad is not None
    }
    assert reached == {"encoder.layer3", "encoder.layer4", "classifier.weight"}


def test_new_layers_are_the_head_and_frozen_ones_are_in_no_group():
    model = random_model()
    encoder, head = parameter_groups(
        model, lr=0.1, head_lr_factor=10.0, weight_decay=1e-4, train_norm_affine=True
    )
    assert {id(p) for p in head["params"]} == {
        id(p) for p in (*model.classifier.parameters(), *model.sides.parameters())
    }
    trained = [*model.encoder.layer3.parameters(), *model.encoder.layer4.parameters()]
    assert {id(p) for p in encoder["params"]} == {id(p) for p in trained}


@pytest.mark.parametrize("is_synced", [False, True])
def test_what_is_not_trained_keeps_its_statistics(is_synced):
    torch.manual_seed(0)
    model = SipeClassifier(build_encoder("resnet18"), 3)
    if is_synced:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train()
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    model(random_images(), LABELS)
    changed = {
        key.split(".")[0]
        for key, value in model.encoder.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == {"layer3", "layer4"}


def test_chunks_do_not_change_the_output():
    images = random_images()
    whole, cells = (
        random_model(chunk_bytes=num_bytes).double().eval()(images.double(), LABELS)
        for num_bytes in (2**26, 1)
    )
    assert torch.equal(whole.seeds, cells.seeds)
    torch.testing.assert_close(whole.specific, cells.specific, atol=1e-12, rtol=0)


def test_autocast_leaves_maps_in_float32():
    model = random_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(random_images(), LABELS)
    assert output.logits.dtype == output.activation.dtype == output.specific.dtype == torch.float32
    loss = sipe_loss(output, LABELS).total.mean()
    loss.backward()
    assert loss.isfinite()


def test_training_lowers_the_loss():
    """Two classes: a red square on the left, a blue one on the right."""
    torch.manual_seed(0)
    n = 4
    labels = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0]])
    images = 0.1 * torch.randn(n, 3, 64, 64)
    for i in range(n):
        for k, x0 in ((0, 4), (1, 36)):
            if labels[i, k] == 1:
                images[i, 2 * k, 16:44, x0 : x0 + 24] += 2.0
    model = random_model(num_classes=2).train()
    groups = parameter_groups(
        model, lr=0.03, head_lr_factor=10.0, weight_decay=1e-4, train_norm_affine=True
    )
    optimizer = torch.optim.SGD(groups)
    losses = []
    for _ in range(30):
        loss = sipe_loss(model(images, labels), labels)
        optimizer.zero_grad()
        loss.total.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        losses.append([term.mean().item() for term in (loss.total, *loss)])
    first, last = torch.tensor(losses[:3]).mean(0), torch.tensor(losses[-3:]).mean(0)
    assert (last < 0.8 * first).all(), (first.tolist(), last.tolist())


def test_scales_and_mirror_images_are_summed_and_divided_by_the_maximum():
    model = random_model().eval()
    scaled = [random_images(height=int(64 * s), width=int(96 * s)) for s in (1.0, 0.5)]
    found = merged_maps(model, iter(scaled), LABELS, size=(8, 12))
    with torch.no_grad():
        outputs = [(model(x, LABELS), model(x.flip(3), LABELS)) for x in scaled]
    for name in ("activation", "specific"):
        merged = getattr(found, name)
        assert merged.shape == (2, 4, 8, 12) and not merged.requires_grad
        for channel in range(4):
            views = [
                maps[:, channel : channel + 1]
                for plain, mirrored in outputs
                for maps in (getattr(plain, name), getattr(mirrored, name).flip(3))
            ]
            expected = merge_scales(views, (8, 12))
            torch.testing.assert_close(merged[:, channel : channel + 1], expected)
        assert merged[~valid_channels(LABELS)].eq(0).all()
        # A channel without seeds has no image-specific map.
        assert set(merged.amax(dim=(2, 3)).unique().tolist()) == {0.0, 1.0}
    assert SCALES == (1.0, 0.5, 1.5, 2.0)


def test_maps_of_mirror_images_are_mirrored_maps():
    model = random_model().eval()
    images = random_images()
    plain, mirrored = (
        merged_maps(model, [x], LABELS, size=(8, 12)) for x in (images, images.flip(3))
    )
    for maps, others in zip(plain, mirrored, strict=True):
        torch.testing.assert_close(maps, others.flip(3), atol=1e-5, rtol=0)
    alone = merged_maps(model, [images], LABELS, size=(8, 12), flip=False)
    assert not torch.allclose(alone.specific, plain.specific, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("vgg16", 16, r"SIPE needs a ResNet, got an encoder of features"),
        ("densenet161", 16, r"SIPE needs a ResNet, got an encoder of features, relu"),
        ("resnet18", 32, r"SIPE needs a ResNet at output stride 16 or 8, got 32"),
    ],
)
def test_encoders_without_such_stages_are_refused(name, output_stride, message):
    with torch.device("meta"):
        encoder = build_encoder(name, output_stride=output_stride)
    with pytest.raises(ValueError, match=message):
        SipeClassifier(encoder, 3)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_layer3_and_layer4_have_as_many_cells(output_stride):
    model = SipeClassifier(build_encoder("resnet18", output_stride=output_stride), 3).eval()
    cells = 64 // output_stride
    assert model(random_images(2, 64, 64), LABELS).seeds.shape == (2, 4, cells, cells)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0], [0, 1]], r"labels must be of shape \(2, 3\), got \(2, 2\)"),
        ([[1, 0, 0]], r"labels must be of shape \(2, 3\), got \(1, 3\)"),
        ([[1, 0, 0], [0, 2, 0]], r"labels must be 1, 0 or -1, got 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        random_model()(random_images(), torch.tensor(labels))


def test_bad_images_scales_and_counts_are_refused():
    model = random_model().eval()
    images = random_images()
    images[1, 0, 5, 5] = math.nan
    with pytest.raises(ValueError, match=r"hold NaN or infinity in images 1 of the batch"):
        model(images, LABELS)
    with pytest.raises(ValueError, match="needs at least one map"):
        merged_maps(model, [], LABELS, size=(4, 4))
    with pytest.raises(ValueError, match=r"chunk_bytes must be >= 1, got 0"):
        random_model(chunk_bytes=0).eval()(random_images(), LABELS)
    with pytest.raises(ValueError, match=r"num_classes must be >= 1, got 0"):
        SipeClassifier(build_encoder("resnet18"), 0)


def test_an_image_without_classes_learns_its_classification_alone():
    labels = torch.tensor([[1, 0, 1], [0, 0, -1]])
    model = random_model().double().train()
    images = random_images().double()
    losses = sipe_loss(model(images, labels), labels)
    assert losses.consistency[1] == 0 and (losses.classification > 0).all()
    losses.total.sum().backward()
    both = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sipe_loss(model(images[:1], labels[:1]), labels[:1]).total.sum().backward()
    for stage, side in model.sides.items():  # which the consistency alone trains
        torch.testing.assert_close(both[f"sides.{stage}.weight"], side.weight.grad)
    classifier = model.classifier.weight.grad
    assert classifier is not None
    assert not torch.allclose(both["classifier.weight"], classifier)
    assert model(images, labels).seeds[1, 1:].sum() == 0


def test_an_unchecked_step_never_waits_for_the_device():
    """On the meta device there is nothing to wait for: it would raise."""
    with torch.device("meta"):
        model = random_model(num_classes=3).to("meta").train()
        labels = torch.empty(2, 3, dtype=torch.int8)
        output = model(torch.empty(2, 3, 64, 64), labels, check=False)
        sipe_loss(output, labels, check=False).total.sum().backward()
        with pytest.raises(RuntimeError, match="meta"):
            model(torch.empty(2, 3, 64, 64), labels)


def test_unchecked_values_are_the_same():
    model = random_model().eval()
    checked, unchecked = (model(random_images(), LABELS, check=check) for check in (True, False))
    for found, expected in zip(unchecked, checked, strict=True):
        assert torch.equal(found, expected)
