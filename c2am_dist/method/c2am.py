"""C2AM: the disentangler, and the contrastive loss with rank weights.

Xie et al., "C2AM: Contrastive learning of Class-agnostic Activation Map" (arXiv:2203.13505),
sections 3.1 to 3.3. Losses see matrices of representations: who gathers them from other
workers, and whether, is the caller's affair. docs/method.md lists every deviation.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from c2am_dist.method.encoders import Encoder

HeadInit = Literal["kaiming_normal", "kaiming_uniform", "normal", "uniform"]
RankScope = Literal["row", "all"]

# The published implementation's bounds (METHODS.md). They keep both logarithms finite, and
# a pair beyond them is left alone: clamping passes no gradient.
MIN_SIMILARITY = 0.0005
MAX_SIMILARITY = 0.9995


class Disentangler(nn.Module):
    """Splits feature maps into a foreground and a background representation, eq. (1).

    The activation head is a 3x3 convolution without bias to one channel, BatchNorm (weight 1,
    bias 0) and a sigmoid.

    Args:
        num_features: channels of the feature maps.
        head_init: initialization of the convolution (paper, Table 6), one of
            ``kaiming_normal`` N(0, 2 / (9 num_features)), ``kaiming_uniform`` of the same
            variance, ``normal`` N(0, 0.01^2) and ``uniform`` U(-0.01, 0.01).

    Raises:
        ValueError: head_init is none of these.
    """

    def __init__(self, num_features: int, head_init: HeadInit = "kaiming_normal") -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_features, 1, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(1)
        _init_head(self.conv.weight, head_init)

    def forward(
        self, features: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n 1 h w"]]:
        """Foreground and background representations, and the activation map P in [0, 1].

        v_f = P Z^T / (h w) and v_b = (1 - P) Z^T / (h w). All three are float32 (float64 for
        float64 features), also under autocast. P may light up the background: its polarity is
        not known here.
        """
        # Deviation: eq. (1) is a sum over cells; as in the published code it is the mean. No
        # effect on the loss, which sees directions only.
        logits = self.norm(self.conv(features))
        # In bfloat16, 1 - P would lose the small values of either side.
        activation = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        num_cells = features.shape[2] * features.shape[3]
        shares = torch.cat([activation, 1 - activation], dim=1).flatten(2)  # n 2 hw
        cells = features.flatten(2).transpose(1, 2)  # n hw c
        # One product, so that the features, by far the largest tensor, are read once.
        sums = torch.matmul(shares.to(features.dtype), cells)
        foreground, background = (sums.to(activation.dtype) / num_cells).unbind(1)
        return foreground, background, activation


def _init_head(weight: Tensor, head_init: str) -> None:
    if head_init == "kaiming_normal":
        nn.init.kaiming_normal_(weight)
    elif head_init == "kaiming_uniform":
        nn.init.kaiming_uniform_(weight)
    # Deviation: the paper names neither scale, and torch's defaults (deviation 1; 0 to 1) make
    # weights about 100 times larger than Kaiming's. BatchNorm hides the scale from the output
    # but not from training: the head would turn 10^4 times more slowly. These two are Kaiming's
    # size for a ResNet-50.
    elif head_init == "normal":
        nn.init.normal_(weight, std=0.01)
    elif head_init == "uniform":
        nn.init.uniform_(weight, -0.01, 0.01)
    else:
        raise ValueError(
            "head_init must be kaiming_normal, kaiming_uniform, normal or uniform, "
            f"got {head_init!r}"
        )


class C2AM(nn.Module):
    """Encoder and disentangler: images to representations and the activation map."""

    def __init__(self, encoder: Encoder, head_init: HeadInit = "kaiming_normal") -> None:
        super().__init__()
        self.encoder = encoder
        self.disentangler = Disentangler(encoder.num_features, head_init)

    def forward(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n 1 h w"]]:
        """Foreground, background and activation map of normalised images; see Disentangler."""
        return self.disentangler(self.encoder(images))


class C2AMLoss(NamedTuple):
    """The terms of eq. (9), scalars: this worker's share of each."""

    positive_foreground: Float[Tensor, ""]
    positive_background: Float[Tensor, ""]
    negative: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.positive_foreground + self.positive_background + self.negative


def c2am_loss(
    foreground_local: Float[Tensor, "m c"],
    background_local: Float[Tensor, "m c"],
    foreground_all: Float[Tensor, "n c"],
    background_all: Float[Tensor, "n c"],
    *,
    alpha: float,
    row_offset: int = 0,
    rank_scope: RankScope = "row",
) -> C2AMLoss:
    """One worker's share of the loss, eq. (9): its rows against the whole batch.

    The shares of all workers add up to the loss of the global batch. DistributedDataParallel
    averages gradients, so a loop under it multiplies the total by the number of workers. For
    contrast within one worker, pass its own representations twice; each worker's value is then
    a complete loss, to be averaged.

    Args:
        foreground_local: this worker's foreground representations.
        background_local: its background representations.
        foreground_all: those of the global batch, in worker order; gradients flow through
            them, too.
        background_all: likewise.
        alpha: decay of the rank weight, >= 0.
        row_offset: index in the global batch of this worker's first row.
        rank_scope: see :func:`positive_loss`.

    Raises:
        ValueError: alpha is negative, the rows do not lie in the batch, or the scope is unknown.
    """
    _check(foreground_local, foreground_all, alpha, row_offset, rank_scope)
    with torch.autocast(foreground_all.device.type, enabled=False):
        rows_f, rows_b = _unit(foreground_local), _unit(background_local)
        columns_f, columns_b = _unit(foreground_all), _unit(background_all)
        return C2AMLoss(
            _positive(rows_f, columns_f, alpha, row_offset, rank_scope),
            _positive(rows_b, columns_b, alpha, row_offset, rank_scope),
            _negative(rows_f, columns_b),
        )


def negative_loss(
    foreground_local: Float[Tensor, "m c"], background_all: Float[Tensor, "n c"]
) -> Float[Tensor, ""]:
    """This worker's share of L_NEG, eq. (2): the sum of -log(1 - s) over its rows, over n^2."""
    with torch.autocast(background_all.device.type, enabled=False):
        return _negative(_unit(foreground_local), _unit(background_all))


def positive_loss(
    local: Float[Tensor, "m c"],
    gathered: Float[Tensor, "n c"],
    *,
    alpha: float,
    row_offset: int = 0,
    rank_scope: RankScope = "row",
) -> Float[Tensor, ""]:
    """This worker's share of L_POS for foregrounds or backgrounds, eqs. (4) to (8).

    The sum of -w log(s) over its rows and i != j, over n (n - 1); zero for a batch of one.

    Args:
        local: this worker's representations.
        gathered: those of the global batch, in worker order.
        alpha: decay of the rank weight w = exp(-alpha rank), >= 0. Rank 0 is the most similar
            pair; equally similar ones rank in batch order.
        row_offset: index in the global batch of this worker's first row.
        rank_scope: ``row`` ranks a pair among those of its row (the published code),
            ``all`` among all n (n - 1) pairs of the batch (eq. 5).

    Raises:
        ValueError: alpha is negative, the rows do not lie in the batch, or the scope is unknown.
    """
    _check(local, gathered, alpha, row_offset, rank_scope)
    with torch.autocast(gathered.device.type, enabled=False):
        return _positive(_unit(local), _unit(gathered), alpha, row_offset, rank_scope)


def _check(local: Tensor, gathered: Tensor, alpha: float, row_offset: int, scope: str) -> None:
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    if scope not in ("row", "all"):
        raise ValueError(f"rank_scope must be 'row' or 'all', got {scope!r}")
    if row_offset < 0 or row_offset + len(local) > len(gathered):
        raise ValueError(
            f"rows {row_offset} to {row_offset + len(local) - 1} do not lie in a batch of "
            f"{len(gathered)}"
        )


def _unit(vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """The rows at length one, in float32 at least; a zero row stays zero."""
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return F.normalize(wide, dim=1)


def _negative(rows: Float[Tensor, "m c"], columns: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    similarity = (rows @ columns.T).clamp(MIN_SIMILARITY, MAX_SIMILARITY)  # eq. (3)
    return -torch.log(1 - similarity).sum() / len(columns) ** 2


def _positive(
    rows: Float[Tensor, "m c"],
    columns: Float[Tensor, "n c"],
    alpha: float,
    row_offset: int,
    rank_scope: RankScope,
) -> Float[Tensor, ""]:
    m, n = len(rows), len(columns)
    similarity = rows @ columns.T  # eq. (4)
    with torch.no_grad():
        if rank_scope == "row":
            rank_weight = _rank_weight_in_rows(similarity, alpha, row_offset)
        else:
            everything = similarity if m == n else columns @ columns.T
            rank_weight = _rank_weight_in_all(everything, alpha)[row_offset : row_offset + m]
    losses = -torch.log(similarity.clamp(MIN_SIMILARITY, MAX_SIMILARITY))
    # Deviation: the published code averages over n^2 pairs, adding a constant for i = j.
    return (rank_weight * losses).sum() / max(n * (n - 1), 1)


# Deviation: the published code ranks clamped similarities, among which those beyond the bounds
# tie at random. Here they are ranked before clamping; weights differ only in such ties.
def _rank_weight_in_rows(
    similarity: Float[Tensor, "m n"], alpha: float, row_offset: int
) -> Float[Tensor, "m n"]:
    """exp(-alpha rank) with ranks in each row; 0 for row i's own column row_offset + i."""
    itself = similarity.clone()
    itself.diagonal(row_offset).fill_(torch.inf)  # sorts first and counts for nothing
    return _decay_by_order(itself, num_first=1, alpha=alpha)


def _rank_weight_in_all(similarity: Float[Tensor, "n n"], alpha: float) -> Float[Tensor, "n n"]:
    """exp(-alpha rank) with ranks among all pairs; 0 on the diagonal.

    s_ij and s_ji are two members of the set in eq. (5), equal up to rounding: mirroring one
    of them keeps their ranks adjacent on every device.
    """
    n = len(similarity)
    upper = similarity.triu(1)
    mirrored = upper + upper.T
    mirrored.fill_diagonal_(torch.inf)
    return _decay_by_order(mirrored.reshape(1, -1), num_first=n, alpha=alpha).reshape(n, n)


def _decay_by_order(
    values: Float[Tensor, "a b"], *, num_first: int, alpha: float
) -> Float[Tensor, "a b"]:
    """Per row 0 for the num_first largest values, then 1, exp(-alpha), exp(-2 alpha), ...

    Weights are float32, whatever the values: so they are in the published code.
    """
    order = values.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(values.shape[1], device=values.device, dtype=torch.float32) - num_first
    decay = torch.exp(-rank.clamp(min=0) * alpha) * (rank >= 0)
    weight = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    return weight.scatter_(1, order, decay.expand_as(weight))
