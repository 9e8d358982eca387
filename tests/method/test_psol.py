import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.psol import BoxRegressor, box_losses, relative_iou

torch.set_num_threads(1)


def random_boxes(n: int, seed: int) -> Tensor:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 5])
def test_mean_loss_is_fifty_times_the_mean_squared_error(n):
    predicted, target = random_boxes(n, 0), random_boxes(n, 1)
    plain = sum(
        (p - t) ** 2
        for one, other in zip(predicted.tolist(), target.tolist(), strict=True)
        for p, t in zip(one, other, strict=True)
    )
    losses = box_losses(predicted, target)
    assert losses.mean().item() == pytest.approx(50 * plain / (4 * n), abs=1e-12)
    assert losses.mean().item() == pytest.approx(50 * F.mse_loss(predicted, target).item())


def test_gradient_is_that_of_the_squared_error_and_none_where_no_box_is_visible():
    predicted, target = random_boxes(4, 0).requires_grad_(), random_boxes(4, 1)
    is_visible = torch.tensor([True, False, True, True])
    losses = box_losses(predicted, target, is_visible)
    assert losses[1].item() == 0
    losses.sum().backward()
    expected = 50 * 2 / 4 * (predicted.detach() - target)
    expected[1] = 0
    torch.testing.assert_close(predicted.grad, expected, atol=1e-12, rtol=0)


def test_regressor_is_the_published_head_on_the_pooled_last_stage():
    encoder = build_encoder("resnet18")
    model = BoxRegressor(encoder).eval()
    layers = [type(layer) for layer in model.head]
    assert layers == [nn.Linear, nn.ReLU, nn.Linear]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = encoder(images)[:, :512].mean(dim=(2, 3))
        hidden = (pooled @ model.head[0].weight.T + model.head[0].bias).clamp(min=0)
        logits = hidden @ model.head[2].weight.T + model.head[2].bias
        found = model(images)
    torch.testing.assert_close(found, 1 / (1 + torch.exp(-logits)))
    assert hidden.shape == (2, 512) and found.shape == (2, 4)


@pytest.mark.parametrize("name", ["resnet50", "densenet161", "vgg16"])
def test_published_regressors_are_torchvisions_networks_with_another_head(name):
    with torch.device("meta"):
        encoder = build_encoder(name, output_stride=32)
        model = BoxRegressor(encoder).to("meta")
        assert encoder(torch.empty(1, 3, 224, 224)).shape[2:] == (7, 7)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 4)
    num_features = {"resnet50": 2048, "densenet161": 2208, "vgg16": 512}[name]
    num_parameters = sum(p.numel() for p in model.head.parameters())
    assert num_parameters == (num_features + 1) * 512 + 513 * 4


def test_boxes_are_float32_under_autocast():
    model = BoxRegressor(build_encoder("resnet18")).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).dtype == torch.float32


def test_regressor_learns_the_box_of_a_bright_rectangle():
    """A few steps on one batch bring the loss down: gradients reach encoder and head."""
    torch.manual_seed(0)
    model = BoxRegressor(build_encoder("resnet18")).train()
    images, target = torch.zeros(4, 3, 32, 32), torch.zeros(4, 4)
    for i, (x, y) in enumerate([(0, 0), (16, 0), (0, 16), (16, 16)]):
        images[i, :, y : y + 16, x : x + 16] = 2.0
        target[i] = torch.tensor([x / 32, y / 32, 0.5, 0.5])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(6):
        loss = box_losses(model(images), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())


def test_overlap_of_relative_boxes_by_hand():
    target = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    predicted = torch.tensor([[0.25, 0.0, 0.5, 0.5], [0.5, 0.5, 0.9, 0.5], [0.1, 0.1, 0.2, 0.2]])
    found = relative_iou(predicted, target)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 1.0, 0.0]))
    assert relative_iou(target, target).tolist() == pytest.approx([1, 1, 0])
