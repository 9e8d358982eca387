import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from c2am_dist.method.c2am import (
    C2AM,
    Disentangler,
    c2am_loss,
    negative_loss,
    positive_loss,
)
from c2am_dist.method.encoders import build_encoder

torch.set_num_threads(1)


def random_representations(n: int, c: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, c, generator=generator, dtype=torch.float64) ** 3


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def clamped(similarity: float) -> float:
    return min(max(similarity, 0.0005), 0.9995)


def plain_negative(foreground: Tensor, background: Tensor) -> float:
    """Equations (2) and (3), pair by pair."""
    pairs = itertools.product(foreground.tolist(), background.tolist())
    return sum(-math.log(1 - clamped(cosine(f, b))) for f, b in pairs) / len(foreground) ** 2


def plain_positive(vectors: Tensor, alpha: float, rank_scope: str) -> float:
    """Equations (4) to (8), pair by pair."""
    rows, n = vectors.tolist(), len(vectors)
    similarity = {
        (i, j): cosine(rows[min(i, j)], rows[max(i, j)])
        for i, j in itertools.product(range(n), repeat=2)
        if i != j
    }
    total = 0.0
    for (i, j), s in similarity.items():
        rivals = [p for p in similarity if rank_scope == "all" or p[0] == i]
        rank = sorted(rivals, key=lambda p: -similarity[p]).index((i, j))  # sorted() is stable
        total -= math.exp(-alpha * rank) * math.log(clamped(s))
    return total / (n * (n - 1))


@pytest.fixture(scope="module")
def golden_cases(golden):
    with np.load(golden / "c2am_loss.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("case", range(12))
def test_loss_and_gradients_match_the_published_implementation(golden_cases, case):
    values = {
        key[3:]: value for key, value in golden_cases.items() if key.startswith(f"{case:02d}_")
    }
    alpha = float(values["alpha"])
    foreground = torch.from_numpy(values["fg"]).requires_grad_()
    background = torch.from_numpy(values["bg"]).requires_grad_()
    loss = c2am_loss(foreground, background, foreground, background, alpha=alpha)

    # The published mean runs over n^2 pairs and includes the diagonal: rank -1, s clamped.
    n = len(foreground)
    diagonal = -math.log(0.9995) * math.exp(alpha) / n
    share = (n - 1) / n  # n (n - 1) / n^2
    assert loss.positive_foreground.item() * share + diagonal == pytest.approx(
        values["pos_fg"].item(), abs=1e-9
    )
    assert loss.positive_background.item() * share + diagonal == pytest.approx(
        values["pos_bg"].item(), abs=1e-9
    )
    assert loss.negative.item() == pytest.approx(values["neg"].item(), abs=1e-9)

    published = share * (loss.positive_foreground + loss.positive_background) + loss.negative
    published.backward()
    np.testing.assert_allclose(foreground.grad, values["grad_fg"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(background.grad, values["grad_bg"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank_scope", ["row", "all"])
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.75])
def test_loss_equals_the_equations_written_as_loops(rank_scope, alpha):
    foreground = random_representations(7, 5, seed=1)
    background = random_representations(7, 5, seed=2)
    loss = c2am_loss(
        foreground, background, foreground, background, alpha=alpha, rank_scope=rank_scope
    )
    expected = (
        plain_positive(foreground, alpha, rank_scope),
        plain_positive(background, alpha, rank_scope),
        plain_negative(foreground, background),
    )
    # 1e-7 and not 1e-12: the rank weights are float32.
    assert [term.item() for term in loss] == pytest.approx(expected, rel=1e-7)
    assert loss.total.item() == pytest.approx(sum(expected), rel=1e-7)


def test_hand_computed_pair():
    # Foregrounds at 60 degrees (s = 1/2), backgrounds at 45 (s = sqrt(1/2)).
    foreground = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    background = torch.tensor([[1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    loss = c2am_loss(foreground, background, foreground, background, alpha=0.3)
    assert loss.positive_foreground.item() == pytest.approx(math.log(2), abs=1e-12)
    assert loss.positive_background.item() == pytest.approx(math.log(2) / 2, abs=1e-12)
    angles = (45, 90, 15, 30)  # between each foreground and each background
    expected = sum(-math.log(1 - clamped(math.cos(math.radians(a)))) for a in angles) / 4
    assert loss.negative.item() == pytest.approx(expected, abs=1e-12)


def test_rows_of_workers_add_up_to_the_global_loss_and_gradient():
    for rank_scope in ("row", "all"):
        foreground = random_representations(8, 6, seed=3).requires_grad_()
        background = random_representations(8, 6, seed=4).requires_grad_()
        whole = c2am_loss(
            foreground, background, foreground, background, alpha=0.2, rank_scope=rank_scope
        ).total
        expected = torch.autograd.grad(whole, [foreground, background])
        parts = sum(
            c2am_loss(
                foreground[start:end],
                background[start:end],
                foreground,
                background,
                alpha=0.2,
                row_offset=start,
                rank_scope=rank_scope,
            ).total
            for start, end in ((0, 1), (1, 3), (3, 8))
        )
        assert isinstance(parts, Tensor)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
        actual = torch.autograd.grad(parts, [foreground, background])
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


def test_single_terms_equal_those_of_the_whole_loss():
    foreground = random_representations(5, 4, seed=5)
    background = random_representations(5, 4, seed=6)
    whole = c2am_loss(
        foreground[2:4], background[2:4], foreground, background, alpha=0.1, row_offset=2
    )
    alone = positive_loss(background[2:4], background, alpha=0.1, row_offset=2)
    assert alone.item() == whole.positive_background.item()
    assert negative_loss(foreground[2:4], background).item() == whole.negative.item()


def test_order_of_the_batch_does_not_matter_without_ties():
    vectors = random_representations(9, 6, seed=7)
    shuffled = vectors[torch.tensor([3, 1, 4, 0, 8, 5, 2, 6, 7])]
    for rank_scope in ("row", "all"):
        torch.testing.assert_close(
            positive_loss(vectors, vectors, alpha=0.5, rank_scope=rank_scope),
            positive_loss(shuffled, shuffled, alpha=0.5, rank_scope=rank_scope),
            rtol=1e-12,
            atol=0,
        )


def test_ties_rank_in_batch_order():
    # Row 0 sees three equally similar others; rows 1 to 3 see equal ones first, then row 0.
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    near, far = -math.log(0.9995), -math.log(0.6)
    w = [math.exp(-0.5 * rank) for rank in range(12)]
    by_row = (far * (w[0] + w[1] + w[2]) + 3 * (near * (w[0] + w[1]) + far * w[2])) / 12
    actual = positive_loss(vectors, vectors, alpha=0.5)
    assert actual.item() == pytest.approx(by_row, rel=1e-7)
    in_all = (near * sum(w[:6]) + far * sum(w[6:])) / 12
    actual = positive_loss(vectors, vectors, alpha=0.5, rank_scope="all")
    assert actual.item() == pytest.approx(in_all, rel=1e-7)


def test_batch_of_one_has_no_positive_pair_and_one_negative():
    foreground = torch.tensor([[1.0, 0.0]], requires_grad=True)
    background = torch.tensor([[3.0, 4.0]])
    for rank_scope in ("row", "all"):
        loss = c2am_loss(
            foreground, background, foreground, background, alpha=0.05, rank_scope=rank_scope
        )
        assert loss.positive_foreground.item() == loss.positive_background.item() == 0
        assert loss.negative.item() == pytest.approx(-math.log(0.4), rel=1e-6)
        loss.total.backward()
        assert foreground.grad is not None and foreground.grad.isfinite().all()


def test_zero_and_identical_representations_stay_at_the_clamp_without_gradient():
    zeros = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    loss = c2am_loss(zeros, ones, zeros, ones, alpha=0.0)
    assert loss.positive_foreground.item() == pytest.approx(-math.log(0.0005), abs=1e-12)
    assert loss.positive_background.item() == pytest.approx(-math.log(0.9995), abs=1e-12)
    assert loss.negative.item() == pytest.approx(-math.log(0.9995), abs=1e-12)
    loss.total.backward()
    assert zeros.grad is not None and not zeros.grad.any()
    assert ones.grad is not None and not ones.grad.any()


def test_large_alpha_keeps_only_the_nearest_pair():
    vectors = random_representations(6, 4, seed=8)
    nearest = [max(cosine(a, b) for b in vectors.tolist() if b != a) for a in vectors.tolist()]
    expected = sum(-math.log(clamped(s)) for s in nearest) / 30
    assert positive_loss(vectors, vectors, alpha=1e4).item() == pytest.approx(expected, abs=1e-12)


def test_loss_is_float32_under_bf16_autocast():
    foreground = random_representations(16, 64, seed=9).to(torch.bfloat16)
    background = random_representations(16, 64, seed=10).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = c2am_loss(foreground, background, foreground, background, alpha=0.05)
    wide = foreground.double(), background.double()
    expected = c2am_loss(*wide, *wide, alpha=0.05)
    assert {term.dtype for term in loss} == {torch.float32}
    assert [t.item() for t in loss] == pytest.approx([t.item() for t in expected], rel=1e-5)


def test_bad_arguments_are_named():
    vectors = random_representations(4, 3, seed=11)
    with pytest.raises(ValueError, match="alpha must be >= 0, got -1"):
        positive_loss(vectors, vectors, alpha=-1.0)
    with pytest.raises(ValueError, match="rows 2 to 5 do not lie in a batch of 4"):
        positive_loss(vectors, vectors, alpha=0.1, row_offset=2)
    with pytest.raises((ValueError, TypeError), match="columns"):  # the shape checker is first
        c2am_loss(vectors, vectors, vectors, vectors, alpha=0.1, rank_scope="columns")  # type: ignore


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_disentangler_matches_the_published_implementation(golden, is_training, memory_format):
    with np.load(golden / "disentangler.npz") as file:
        values = {key: torch.from_numpy(file[key]) for key in file.files}
    weight, bias, running_mean, running_var, eps = values["bn"]
    head = Disentangler(24).double().train(is_training)
    head.norm.eps = float(eps)
    state = head.state_dict() | {
        "conv.weight": values["weight"],
        "norm.weight": weight.view(1),
        "norm.bias": bias.view(1),
        "norm.running_mean": running_mean.view(1),
        "norm.running_var": running_var.view(1),
    }
    head.load_state_dict(state)
    foreground, background, activation = head(values["x"].to(memory_format=memory_format))
    mode = "train" if is_training else "eval"
    for name, actual in (("fg", foreground), ("bg", background), ("map", activation)):
        torch.testing.assert_close(actual, values[f"{mode}_{name}"], rtol=0, atol=1e-9)


def test_disentangler_of_one_cell_splits_the_feature_by_its_activation():
    head = Disentangler(3).double().eval()
    torch.nn.init.zeros_(head.conv.weight)  # P = sigmoid(0) = 1/2
    features = torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64).view(1, 3, 1, 1)
    foreground, background, activation = head(features)
    assert activation.item() == 0.5
    assert foreground.tolist() == background.tolist() == [[2.0, 0.0, 1.0]]


def test_disentangler_under_autocast_returns_float32_that_adds_up_to_the_pooled_features():
    head = Disentangler(32).eval()
    features = torch.rand(2, 32, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        foreground, background, activation = head(features.to(torch.bfloat16))
    assert foreground.dtype == background.dtype == activation.dtype == torch.float32
    pooled = features.to(torch.bfloat16).float().mean(dim=(2, 3))
    torch.testing.assert_close(foreground + background, pooled, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("head_init", "std", "bound"),
    [
        ("kaiming_normal", math.sqrt(2 / (9 * 768)), math.inf),
        ("kaiming_uniform", math.sqrt(2 / (9 * 768)), math.sqrt(6 / (9 * 768))),
        ("normal", 0.01, math.inf),
        ("uniform", 0.01 / math.sqrt(3), 0.01),
    ],
)
def test_head_starts_with_the_documented_spread(head_init, std, bound):
    torch.manual_seed(0)
    head = Disentangler(768, head_init)
    assert head.conv.weight.std().item() == pytest.approx(std, rel=0.05)
    assert abs(head.conv.weight.mean().item()) < 0.05 * std
    assert head.conv.weight.abs().max().item() <= bound
    assert head.conv.bias is None
    assert (head.norm.weight.item(), head.norm.bias.item()) == (1, 0)


def test_unknown_head_init_is_named():
    with pytest.raises((ValueError, TypeError), match="xavier"):  # the shape checker is first
        Disentangler(8, "xavier")  # type: ignore


def test_model_gives_representations_and_maps_of_stride_16():
    model = C2AM(build_encoder("resnet18")).eval()
    with torch.no_grad():
        foreground, background, activation = model(torch.randn(2, 3, 64, 96))
    assert foreground.shape == background.shape == (2, 768)
    assert activation.shape == (2, 1, 4, 6)
    assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "disentangler"}
