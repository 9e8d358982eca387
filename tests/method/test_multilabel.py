import math

import pytest
import torch
import torch.nn.functional as F

from c2am_dist.method.multilabel import f1_scores, soft_margin_loss, valid_channels

LABELS = torch.tensor([[1, 0, -1], [0, 1, 1], [-1, 1, -1]])


def test_channels_are_the_background_and_what_is_present():
    expected = [[1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 0]]
    assert valid_channels(LABELS).tolist() == torch.tensor(expected).bool().tolist()
    assert valid_channels(LABELS.to(torch.int8)).dtype == torch.bool


def test_loss_of_known_labels_is_torchs():
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = (logits.flip(1) > 0).long()
    found = soft_margin_loss(logits, labels)
    expected = F.multilabel_soft_margin_loss(logits, labels.double(), reduction="none")
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)
    published = F.multilabel_soft_margin_loss(logits, labels.double())
    assert found.mean().item() == pytest.approx(published.item(), abs=1e-14)


def test_unknown_labels_take_no_part():
    rows = [[0.3, -1.2, 2.0], [0.1, 0.2, 0.3], [5.0, -0.7, math.inf]]
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss = soft_margin_loss(logits, LABELS)

    def term(x: float, y: int) -> float:
        return math.log1p(math.exp(-x if y else x))

    by_hand = [
        (term(0.3, 1) + term(-1.2, 0)) / 2,
        (term(0.1, 0) + term(0.2, 1) + term(0.3, 1)) / 3,
        term(-0.7, 1),
    ]
    assert loss.tolist() == pytest.approx(by_hand, abs=1e-14)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient == 0).tolist() == (LABELS == -1).tolist()


def test_large_logits_and_half_precision_stay_finite():
    logits = torch.tensor([[1e4, -1e4]], dtype=torch.bfloat16)
    loss = soft_margin_loss(logits, torch.tensor([[0, 1]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e4, rel=0.01)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0, 2], [1, 0, 0]], r"labels must be 1, 0 or -1, got 2"),
        ([[1, 0, -2], [1, 0, 0]], r"labels must be 1, 0 or -1, got -2"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        valid_channels(torch.tensor(labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0, 0]], r"labels must be of shape \(2, 3\), got \(1, 3\)"),
        ([[1, 0], [1, 0]], r"labels must be of shape \(2, 3\), got \(2, 2\)"),
        ([[0, 0, 0], [-1, -1, -1]], r"images 1 of the batch have no known label"),
        ([[0, 0, 0], [0, 9, 0]], r"labels must be 1, 0 or -1, got 9"),
    ],
)
def test_labels_without_a_loss_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        soft_margin_loss(torch.zeros(2, 3), torch.tensor(labels))


def test_an_image_without_classes_has_a_loss():
    loss = soft_margin_loss(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(2))


def test_an_image_without_classes_has_the_background_alone():
    found = valid_channels(torch.tensor([[0, 0], [0, -1], [1, 0]]))
    assert found.tolist() == [[True, False, False]] * 2 + [[True, True, False]]


def test_f1_counts_known_classes_image_by_image():
    logits = torch.tensor(
        [[1.0, 2.0, -1.0], [-1.0, -1.0, 3.0], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]]
    )
    labels = torch.tensor([[1, 0, 1], [0, 0, -1], [1, 0, 0], [1, 1, 0]])
    # One of two predicted and of two present; nothing known, so nothing wrong; missed; all right.
    assert f1_scores(logits, labels).tolist() == pytest.approx([0.5, 1, 0, 1])


def test_the_loss_is_the_same_unchecked():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        soft_margin_loss(logits, LABELS), soft_margin_loss(logits, LABELS, check=False)
    )
