import pytest
import torch
from torch import nn

from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.optim import clipped_step, parameter_groups, polynomial_lr, stepped_lr


@pytest.mark.parametrize("build", [C2AM, lambda encoder: Classifier(encoder, 5)])
def test_encoder_and_head_learn_at_their_own_rates(build):
    model = build(build_encoder("resnet18"))
    encoder, head = parameter_groups(
        model, lr=0.1, head_lr_factor=10.0, weight_decay=1e-4, train_norm_affine=True
    )
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(encoder["params"]) + len(head["params"]) == len(list(model.parameters()))
    assert (encoder["lr"], head["lr"]) == (0.1, 1.0)
    assert encoder["weight_decay"] == head["weight_decay"] == 1e-4


def test_norm_affine_left_out_neither_trains_nor_requires_gradients():
    model = C2AM(build_encoder("resnet18"))
    groups = parameter_groups(
        model, lr=0.1, head_lr_factor=10.0, weight_decay=0.0, train_norm_affine=False
    )
    trained = {id(p) for group in groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in trained}
    # ResNet-18 has 20 convolutions, all without bias; the head one more.
    assert len(names) == 21
    assert all("conv" in name or "downsample.0" in name for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names


def test_convolution_biases_of_vgg_train_without_norm_affine():
    model = C2AM(build_encoder("vgg16"))
    encoder, head = parameter_groups(
        model, lr=0.1, head_lr_factor=1.0, weight_decay=0.0, train_norm_affine=False
    )
    assert len(encoder["params"]) == 26  # 13 convolutions with bias
    assert [tuple(p.shape) for p in head["params"]] == [(1, 512, 3, 3)]


def test_groups_suit_torch_optimizers():
    model = Classifier(build_encoder("resnet18"), 2)
    groups = parameter_groups(
        model, lr=0.5, head_lr_factor=2.0, weight_decay=0.0, train_norm_affine=True
    )
    before = model.fc.bias.detach().clone()
    optimizer = torch.optim.SGD(groups)
    model.fc.bias.grad = torch.ones_like(model.fc.bias)
    optimizer.step()
    assert torch.equal(model.fc.bias, before - 1.0)


def test_schedule_decays_polynomially_to_zero():
    assert [polynomial_lr(step, 4, 1.0) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert polynomial_lr(36, 100, 0.5) == pytest.approx(0.8)
    assert polynomial_lr(50, 100, 0.9) == pytest.approx(0.5**0.9)
    assert [polynomial_lr(step, 2, 0.0) for step in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("step", "steps"), [(-1, 10), (0, 0)])
def test_step_off_the_schedule_is_refused(step, steps):
    with pytest.raises(ValueError, match=f"step {step} of {steps}"):
        polynomial_lr(step, steps, 0.9)


def test_stepped_decay_by_hand():
    factors = [stepped_lr(epoch, (1.5, 3.0), 0.1) for epoch in (0.0, 1.49, 1.5, 2.9, 3.0, 9.0)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert stepped_lr(5.0, (), 0.1) == 1


@pytest.mark.parametrize(("max_norm", "factor"), [(None, 1.0), (2.5, 0.5), (7.0, 1.0)])
def test_the_step_is_clipped_by_the_norm_over_all_parameters(max_norm, factor):
    """Gradients of norm 3 and 4, so 5 together, in groups of their own."""
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    first.grad, second.grad = torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0])
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 10.0}]
    clipped_step(torch.optim.SGD(groups), max_norm=max_norm)
    assert first.tolist() == pytest.approx([0, -3 * factor])
    assert second.tolist() == pytest.approx([-40 * factor, 0], rel=1e-5)
    assert first.grad is None and second.grad is None
