import pytest
import torch
import torch.nn.functional as F

from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.saliency import SaliencyNet, saliency_loss

torch.set_num_threads(1)


def random_model(name: str = "resnet18", *, output_stride: int = 32) -> SaliencyNet:
    torch.manual_seed(0)
    return SaliencyNet(build_encoder(name, output_stride=output_stride))


@pytest.mark.parametrize(("name", "output_stride"), [("resnet18", 8), ("resnet34", 32)])
def test_logits_are_at_a_quarter_of_the_size_whatever_the_stride(name: str, output_stride: int):
    model = random_model(name, output_stride=output_stride).train()
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 1, 16, 24)
    assert model(torch.randn(2, 3, 50, 70)).shape == (2, 1, 13, 18)  # rounded up


def test_wide_resnets_fit_the_decoder():
    with torch.device("meta"):
        model = random_model("resnet50", output_stride=16).to("meta")
        assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1, 16, 16)


def test_every_parameter_gets_a_gradient():
    model = random_model().double().train()
    target = (torch.rand(2, 1, 64, 64, dtype=torch.float64) > 0.5).double()
    logits = model(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    saliency_loss(logits, target, torch.ones(2, 1, 1, 1, dtype=torch.bool)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_training_finds_the_square_in_each_image():
    """From random weights, on the images it is asked about."""
    model = random_model().train()
    images = torch.full((2, 3, 64, 64), -1.0)
    images[0, :, 8:40, 16:48] = 1.0
    images[1, :, 24:56, 8:40] = 1.0
    target = (images[:, :1] > 0).float()
    is_known = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = saliency_loss(model(images), target, is_known).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    logits = F.interpolate(model(images), (64, 64), mode="bilinear", align_corners=False)
    assert ((logits > 0) == (target > 0)).float().mean() > 0.95


def test_the_loss_is_the_mean_cross_entropy_of_known_pixels():
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    target = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    is_known = torch.rand(3, 1, 8, 8) > 0.4
    is_known[2] = False
    large = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
    foreground = large.sigmoid()
    entropy = -target * foreground.log() - (1 - target) * (1 - foreground).log()
    expected = [entropy[i][is_known[i]].mean() for i in range(2)]
    found = saliency_loss(logits, target, is_known)
    torch.testing.assert_close(found[:2], torch.stack(expected), rtol=1e-12, atol=0)
    assert found[2] == 0


def test_what_is_not_known_teaches_nothing():
    logits = torch.zeros(2, 1, 4, 4, requires_grad=True)
    with torch.no_grad():
        logits[1, 0, 0, 0] = torch.inf
    is_known = torch.tensor([True, False]).view(2, 1, 1, 1)
    losses = saliency_loss(logits, torch.ones(2, 1, 4, 4), is_known)
    losses.sum().backward()
    assert losses[1] == 0 and losses.isfinite().all()
    assert logits.grad is not None and logits.grad[0].all() and not logits.grad[1].any()


def test_the_loss_of_bfloat16_logits_is_float32():
    known = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    loss = saliency_loss(
        torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), torch.ones(1, 1, 2, 2), known
    )
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("name", ["vgg16", "densenet161"])
def test_other_encoders_are_refused_by_name(name: str):
    with pytest.raises(ValueError, match="saliency needs a ResNet, got an encoder of features"):
        SaliencyNet(build_encoder(name))
