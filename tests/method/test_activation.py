import math

import numpy as np
import pytest
import torch

from c2am_dist.method.activation import (
    Polarity,
    border_lock,
    border_votes,
    is_collapsed,
    merge_scales,
    normalise,
    orient,
    shift_half,
    vote,
)


def test_border_votes_match_the_published_rule(golden):
    with np.load(golden / "polarity.npz") as file:
        maps, expected = torch.from_numpy(file["maps"]), file["is_background"]
    assert border_votes(maps).tolist() == expected.tolist()
    for one, is_background in zip(maps.split(1), expected, strict=True):
        assert border_votes(one).tolist() == [is_background]


def frame(size: int) -> torch.Tensor:
    activation = torch.ones(1, 1, size, size)
    activation[:, :, 1:-1, 1:-1] = 0
    return activation


def test_lit_frame_votes_background_and_lit_middle_foreground():
    assert border_votes(frame(5)).item() is True
    assert border_votes(1 - frame(5)).item() is False


def test_exactly_half_a_border_is_no_vote_for_background():
    activation = torch.zeros(2, 1, 4, 4)
    activation[:, :, :, :2] = 0.6  # left side whole, right none, top and bottom half
    activation[1, 0, 0, 2] = 0.6
    assert border_votes(activation).tolist() == [False, True]


def test_binarisation_is_strict_at_one_half():
    assert border_votes(torch.full((1, 1, 3, 3), 0.5)).item() is False
    assert border_votes(torch.full((1, 1, 3, 3), 0.5001)).item() is True


def test_one_cell_is_all_border():
    assert border_votes(torch.tensor([0.9, 0.1]).view(2, 1, 1, 1)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("num_background", "num_total", "polarity", "margin"),
    [
        (0, 4, Polarity.FOREGROUND, 0.5),
        (1, 4, Polarity.FOREGROUND, 0.25),
        (2, 4, Polarity.FOREGROUND, 0.0),
        (3, 4, Polarity.BACKGROUND, 0.25),
        (1, 1, Polarity.BACKGROUND, 0.5),
    ],
)
def test_majority_decides_polarity(num_background, num_total, polarity, margin):
    assert vote(num_background, num_total) == (polarity, margin)


@pytest.mark.parametrize(("num_background", "num_total"), [(0, 0), (5, 4), (-1, 4)])
def test_impossible_votes_are_refused(num_background, num_total):
    with pytest.raises(ValueError, match=f"{num_background} of {num_total}"):
        vote(num_background, num_total)


def test_polarity_is_stored_as_its_word():
    assert [str(p) for p in Polarity] == ["foreground", "background"]
    assert Polarity("background") is Polarity.BACKGROUND


def test_oriented_map_means_foreground():
    activation = torch.tensor([0.0, 0.25, 1.0])
    assert orient(activation, Polarity.FOREGROUND).tolist() == [0.0, 0.25, 1.0]
    assert orient(activation, Polarity.BACKGROUND).tolist() == [1.0, 0.75, 0.0]


def test_each_map_is_stretched_alone_and_constant_ones_are_zero():
    activation = torch.tensor([[2.0, 4.0, 3.0, 2.0], [0.0, 0.5, 0.25, 0.0], [7.0, 7.0, 7.0, 7.0]])
    expected = [[0.0, 1.0, 0.5, 0.0], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert normalise(activation.view(3, 1, 2, 2)).view(3, 4).tolist() == expected


def test_map_with_nan_is_not_stretched_to_one_that_shows_nothing():
    activation = torch.tensor([[2.0, math.nan], [2.0, math.inf], [0.0, 4.0]]).view(3, 1, 1, 2)
    stretched = normalise(activation)
    assert stretched[:2].isnan().flatten(1).any(dim=1).all()
    assert stretched[2].flatten().tolist() == [0.0, 1.0]


def test_constant_map_passes_a_gradient_of_zero():
    activation = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
    normalise(activation)[0, 0, 0, 0].backward()
    assert activation.grad is not None and activation.grad.eq(0).all()


def test_merged_scales_are_summed_and_divided_by_their_maximum():
    first = torch.tensor([[0.0, 0.25], [0.5, 0.75]]).view(1, 1, 2, 2)
    second = torch.tensor([[0.25, 0.25], [0.0, 0.25]]).view(1, 1, 2, 2)
    merged = merge_scales([first, second], size=(2, 2))
    assert merged.flatten().tolist() == [0.25, 0.5, 0.5, 1.0]


def test_maps_of_any_size_are_merged_at_the_given_one():
    merged = merge_scales([torch.full((3, 1, 2, 5), 0.2), torch.full((3, 1, 4, 1), 0.6)], (6, 4))
    torch.testing.assert_close(merged, torch.ones(3, 1, 6, 4))


def test_enlarged_maps_interpolate_between_cell_centres():
    merged = merge_scales([torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)], size=(1, 4))
    assert merged.flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_empty_maps_merge_to_zeros_and_no_map_is_refused():
    assert not merge_scales([torch.zeros(2, 1, 3, 3)], size=(5, 5)).any()
    with pytest.raises(ValueError, match="at least one map"):
        merge_scales([], size=(2, 2))


def test_mirrored_pair_merges_to_a_symmetric_map():
    activation = torch.rand(2, 1, 4, 5)
    merged = merge_scales([activation, activation.flip(-1)], size=(8, 10))
    torch.testing.assert_close(merged, merged.flip(-1))


def test_constant_maps_are_collapsed_at_any_level():
    levels = torch.rand(4, 1, 1, 1)
    assert is_collapsed(levels.expand(4, 1, 6, 6))  # even though images differ
    assert is_collapsed(levels + 0.005 * torch.rand(4, 1, 6, 6))
    assert is_collapsed(levels)  # one cell says nothing
    assert not is_collapsed(levels + 0.1 * torch.rand(4, 1, 6, 6))
    assert not is_collapsed(torch.full((2, 1, 3, 3), torch.nan))


def test_shift_moves_whole_cells():
    cells = torch.arange(4 * 5).view(1, 1, 4, 5).float()
    pixels = cells.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    moved = shift_half(pixels, cell_px=16)
    assert torch.equal(moved[:, :, ::16, ::16], shift_half(cells, cell_px=1))
    assert shift_half(cells, cell_px=1)[0, 0, 2, 2] == 0  # the first cell, 4 // 2 and 5 // 2 on


def test_maps_that_stay_in_place_are_locked_and_those_that_follow_are_not():
    torch.manual_seed(0)
    activation = torch.rand(16, 1, 8, 8)
    moved = shift_half(activation, cell_px=1)
    assert border_lock(activation, activation) == pytest.approx(1)
    assert border_lock(activation, moved) == pytest.approx(0, abs=1e-12)
    mixed = 0.75 * activation + 0.25 * moved
    assert border_lock(activation, mixed) == pytest.approx(0.75)
    assert border_lock(1 - activation, 1 - mixed) == pytest.approx(0.75)


def test_frame_around_every_image_is_locked_and_a_centred_object_is_not():
    torch.manual_seed(0)
    locked = frame(8) + 0.1 * torch.rand(2, 16, 1, 8, 8)
    assert border_lock(locked[0], locked[1]) > 0.95
    centred = 1 - frame(8).expand(16, 1, 8, 8)  # alike in all images, but it moves with them
    assert border_lock(centred, shift_half(centred, cell_px=1)) == pytest.approx(0, abs=1e-12)


def test_maps_that_explain_nothing_are_not_locked():
    constant = torch.full((2, 1, 4, 4), 0.3)
    assert border_lock(constant, constant) == 0
    assert border_lock(constant[:1, :, :1, :1], constant[:1, :, :1, :1]) == 0
