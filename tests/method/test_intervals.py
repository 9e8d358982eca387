import numpy as np
import pytest

from c2am_dist.method.intervals import percentile_interval, resampled_shares


def draw_hits(num_images: int, shares: tuple[float, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((num_images, len(shares))) < np.array(shares)


def test_resamples_are_those_of_a_plain_loop_over_the_same_indices():
    hits = draw_hits(40, (0.3, 0.7, 0.5))
    shares = resampled_shares(hits, num_resamples=300, seed=7)
    # The same draws, spelled out: which images each resample holds, one index a draw.
    kinds = sorted({tuple(row) for row in hits.tolist()})
    of_kind = [[i for i in range(40) if tuple(hits[i].tolist()) == kind] for kind in kinds]
    rng = np.random.default_rng(7)
    draws = [rng.multinomial(40, [len(some) / 40 for some in of_kind], 256)]
    draws.append(rng.multinomial(40, [len(some) / 40 for some in of_kind], 44))
    for r, counts in enumerate(np.concatenate(draws)):
        indices = [of_kind[k][0] for k, count in enumerate(counts) for _ in range(count)]
        assert len(indices) == 40
        for m in range(3):
            expected = 0.0
            for index in indices:
                expected += float(hits[index, m])
            assert shares[r, m] == pytest.approx(expected / 40, abs=1e-12)
    assert shares.shape == (300, 3) and shares.dtype == np.float64


def test_resamples_are_distributed_like_images_drawn_one_by_one():
    hits = draw_hits(60, (0.2, 0.6))
    hits[:, 1] |= hits[:, 0]  # dependent columns, as Top-1 and GT-known Loc are
    ours = resampled_shares(hits, num_resamples=20_000, seed=0)
    rng = np.random.default_rng(1)
    plain = np.stack([hits[rng.integers(0, 60, 60)].mean(axis=0) for _ in range(20_000)])
    for found, expected in ((ours, plain), (ours[:, 1] - ours[:, 0], plain[:, 1] - plain[:, 0])):
        np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.002)
        np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), rtol=0.03)
        ends = [np.quantile(values, [0.025, 0.975], axis=0) for values in (found, expected)]
        np.testing.assert_allclose(*ends, atol=1.01 / 60)


def test_the_order_of_images_changes_nothing():
    hits = draw_hits(200, (0.1, 0.5, 0.9))
    shuffled = np.random.default_rng(3).permutation(hits)
    assert not np.array_equal(hits, shuffled)
    np.testing.assert_array_equal(
        *(resampled_shares(some, num_resamples=50, seed=0) for some in (hits, shuffled))
    )


def test_an_interval_holds_the_true_share_about_as_often_as_it_says():
    num_held, num_sets = 0, 400
    for seed in range(num_sets):
        hits = draw_hits(150, (0.6,), seed)
        shares = resampled_shares(hits, num_resamples=400, seed=0)
        low, high = percentile_interval(shares[:, 0], confidence=0.95)
        assert low <= hits.mean() <= high
        num_held += low <= 0.6 <= high
    assert 0.92 <= num_held / num_sets <= 0.98


def test_interval_by_hand():
    values = np.random.default_rng(0).permutation(101).astype(np.float64)
    assert percentile_interval(values, confidence=0.9) == pytest.approx((5, 95))
    assert percentile_interval(values[:1], confidence=0.9) == (values[0], values[0])


@pytest.mark.parametrize("hits", [[[True]], [[False]], [[True]] * 9, [[False]] * 9])
def test_one_image_or_images_that_are_alike_leave_no_interval(hits: list[list[bool]]):
    shares = resampled_shares(np.array(hits), num_resamples=20, seed=0)
    assert percentile_interval(shares[:, 0], confidence=0.95) == (hits[0][0], hits[0][0])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        resampled_shares(np.zeros((0, 2), bool), num_resamples=3, seed=0)
