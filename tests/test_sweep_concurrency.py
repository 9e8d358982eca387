"""How many trials run beside each other; every case computed by hand. No Ray."""

from typing import Any

import pytest

from c2am_dist.config import TrainConfig, override
from c2am_dist.sweep.concurrency import Cluster, num_concurrent, with_share


def config(**scaling: Any) -> TrainConfig:
    return override(TrainConfig(), {f"scaling.{name}": value for name, value in scaling.items()})


def gpus(num_gpus: float, *node_cpus: float) -> Cluster:
    return Cluster(node_cpus=node_cpus, num_gpus=num_gpus)


def cpus(*node_cpus: float) -> Cluster:
    return Cluster(node_cpus=node_cpus)


@pytest.mark.parametrize(
    ("cluster", "scaling", "expected"),
    [
        # On GPUs, one a worker; a CPU a worker, half a one to decode for it, 0.1 to read.
        (gpus(8, 96), {}, 8),
        (gpus(8, 12.8), {}, 8),  # 8 x 1.6
        (gpus(8, 12.7), {}, 7),
        (gpus(8, 8), {}, 5),
        (gpus(8, 4, 4), {}, 5),
        (gpus(8, 96), {"num_workers": 2}, 4),
        (gpus(8, 8), {"num_workers": 2}, 2),  # 2 x 3.1
        (gpus(8, 96), {"num_workers": (1, 4)}, 2),
        (gpus(8, 96), {"num_workers": 3}, 2),
        (gpus(8, 8), {"num_workers": 8}, 1),  # as a run by itself would
        (gpus(8, 28.8), {"cpus_per_worker": 3.0}, 8),  # 8 x 3.6
        (gpus(8, 28.7), {"cpus_per_worker": 3.0}, 7),
        (gpus(8, 96), {"use_gpu": False}, 1),
        # On CPUs: a node a worker.
        (cpus(2), {}, 1),
        (cpus(64), {}, 1),
        (cpus(8, 8, 8, 8), {}, 4),
        (cpus(8, 8, 8, 8), {"num_workers": 2}, 2),
        (cpus(8, 8, 8, 8), {"num_workers": 3}, 1),
        (cpus(8, 8, 8, 8), {"num_workers": 8}, 1),
        (cpus(2, 16, 16, 16), {}, 3),  # the head node trains nothing
        # Scaled to zero.
        (cpus(), {}, 1),
        (cpus(4), {"use_gpu": True}, 1),
    ],
)
def test_as_many_trials_as_there_is_room_for(
    cluster: Cluster, scaling: dict[str, Any], expected: int
):
    assert num_concurrent([config(**scaling)], cluster) == expected


def test_the_trial_that_needs_most_says_how_many():
    swept = [config(num_workers=number) for number in (1, 4, 2)]
    assert num_concurrent(swept, gpus(8, 96)) == 2
    assert num_concurrent([config(), config(use_gpu=False)], gpus(8, 96)) == 1
    assert num_concurrent(swept, gpus(8, 96), wanted=6) == 6


@pytest.mark.parametrize(
    ("cluster", "scaling", "number", "is_wanted", "expected"),
    [
        (cpus(8), {}, 2, True, 2.0),  # 8 / 2 / 2
        (cpus(8), {"num_workers": 2}, 2, True, 1.0),
        (cpus(2), {}, 3, True, 0.33),
        (gpus(8, 96), {"use_gpu": False}, 2, True, 24.0),
        (gpus(8, 96), {}, 8, True, None),  # fit gives one beside a GPU
        (cpus(8, 8), {}, 2, False, 4.01),
        (cpus(2, 16, 32), {}, 2, False, 8.01),
        (cpus(8), {}, 1, False, None),  # fit gives half of all
        (cpus(8), {"cpus_per_worker": 0.5}, 2, True, 0.5),
        (cpus(), {}, 4, True, None),
    ],
)
def test_trials_on_cpus_share_them(
    cluster: Cluster, scaling: dict[str, Any], number: int, is_wanted: bool, expected: float | None
):
    found = with_share(config(**scaling), cluster, number, is_wanted=is_wanted)
    assert found.scaling.cpus_per_worker == expected


def test_what_leaves_nothing_to_decode_with_is_refused():
    two = config(cpus_per_worker=2.0, num_workers=2)
    # Three trials of 4 CPUs and 0.6 to read and decode: 13.8.
    assert num_concurrent([two], cpus(13.8), wanted=3) == 3
    expected = r"3 trials at a time x 2 workers x 2 CPUs, and 0\.6 a trial.*are 13\.8 CPUs.*has 13$"
    with pytest.raises(ValueError, match=expected):
        num_concurrent([config(), two], cpus(13), wanted=3)
    with pytest.raises(ValueError, match=r"1 trials at a time x 1 workers x 8 CPUs"):
        num_concurrent([config(cpus_per_worker=8.0)], cpus(8))
    elastic = config(cpus_per_worker=2.0, num_workers=(1, 8))
    assert num_concurrent([elastic], cpus(8), wanted=3) == 3  # of one worker each: 7.8
    assert num_concurrent([two], cpus(), wanted=9) == 9  # scaled to zero
