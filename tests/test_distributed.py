"""What training on one worker and on several must agree on, with gloo processes on the CPU."""

import copy
import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c2am_dist.data.plan import part_sizes
from c2am_dist.distributed import all_gather, convert_sync_batchnorm
from c2am_dist.method.c2am import C2AM, RankScope, c2am_loss
from c2am_dist.method.encoders import build_encoder, freeze_norm

torch.set_num_threads(1)
NUM_IMAGES = 8  # three workers get 3, 3 and 2
CASES: list[tuple[str, RankScope]] = [
    (norm, scope) for norm, scope in itertools.product(("sync", "frozen"), ("row", "all"))
]  # type: ignore


def build_model(norm: str) -> nn.Module:
    torch.manual_seed(0)
    model = C2AM(build_encoder("resnet18")).double()
    if norm == "frozen":
        # Statistics as a checkpoint's would be, from images instead of (0, 1).
        with torch.no_grad():
            model.train()(torch.randn(4, 3, 32, 32, dtype=torch.float64))
        freeze_norm(model.encoder)
    return convert_sync_batchnorm(model)  # the head's BatchNorm is never frozen


def step(norm: str, rank_scope: RankScope, rank: int, world: int) -> dict[str, Any]:
    """One step's loss, gradients and buffers, as the training loop computes them."""
    model: nn.Module = build_model(norm).train()
    if world > 1:
        model = DistributedDataParallel(model, bucket_cap_mb=4)
    torch.manual_seed(1)
    sizes = part_sizes(NUM_IMAGES, world)
    images = torch.randn(NUM_IMAGES, 3, 32, 32, dtype=torch.float64).split(sizes)[rank]
    foreground, background, _ = model(images)
    loss = c2am_loss(
        foreground,
        background,
        all_gather(foreground, sizes),
        all_gather(background, sizes),
        alpha=0.25,
        row_offset=sum(sizes[:rank]),
        rank_scope=rank_scope,
    ).total
    (loss * world).backward()
    total = loss.detach().clone()
    if world > 1:
        dist.all_reduce(total)
        model = model.module
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {"loss": total, "gradients": gradients, "buffers": dict(model.named_buffers())}


def gather_and_differentiate(rank: int, world: int) -> dict[str, Tensor]:
    """Worker r gathers one row more than worker r + 1, and weighs what it gathered by r + 1."""
    rows = numbered_rows(rank, world).requires_grad_()
    gathered = all_gather(rows, [world - r for r in range(world)])
    weight = torch.arange(gathered.numel()).view_as(gathered) * (rank + 1)
    (gathered * weight).sum().backward()
    assert rows.grad is not None
    return {"gathered": gathered.detach(), "grad": rows.grad}


def numbered_rows(rank: int, world: int) -> Tensor:
    return torch.arange(2.0 * (world - rank)).view(-1, 2) + 100 * rank


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    try:
        results: dict[Any, Any] = {case: step(*case, rank, world) for case in CASES}
        results["gather"] = gather_and_differentiate(rank, world)
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[Any, dict[str, Any]]:
    """The same steps in this process, without a process group."""
    return {case: step(*case, rank=0, world=1) for case in CASES}


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda world: f"{world} workers")
def workers(request, tmp_path_factory) -> list[dict[Any, dict[str, Any]]]:
    world: int = request.param
    folder: Path = tmp_path_factory.mktemp(f"gloo{world}")
    multiprocessing.set_forkserver_preload(["torch"])  # once, not in each of ten processes
    mp.start_processes(work, (world, str(folder)), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("case", CASES, ids=" ranks ".join)
def test_workers_agree_with_one_process_on_loss_and_gradients(alone, workers, case):
    for result in workers:
        assert relative_difference(result[case]["loss"], alone[case]["loss"]) < 1e-9
        for name, expected in alone[case]["gradients"].items():
            actual = result[case]["gradients"][name]
            assert relative_difference(actual, expected) < 1e-9, name
            assert expected.norm() > 0, name  # a gradient that is never there agrees, too


@pytest.mark.parametrize("case", CASES, ids=" ranks ".join)
def test_workers_agree_with_one_process_on_running_statistics(alone, workers, case):
    for result in workers:
        for name, expected in alone[case]["buffers"].items():
            torch.testing.assert_close(
                result[case]["buffers"][name], expected, rtol=1e-9, atol=1e-12, msg=name
            )


def test_gather_orders_rows_by_rank_and_sums_gradients_over_workers(workers):
    world = len(workers)
    expected = torch.cat([numbered_rows(rank, world) for rank in range(world)])
    weight = torch.arange(expected.numel()).view_as(expected) * (world * (world + 1) // 2)
    gradients = weight.float().split([world - rank for rank in range(world)])
    for result, gradient in zip(workers, gradients, strict=True):
        assert torch.equal(result["gather"]["gathered"], expected)
        assert torch.equal(result["gather"]["grad"], gradient)


def test_without_a_process_group_rows_are_their_own_gathering():
    rows = torch.ones(2, 3)
    assert all_gather(rows, [2]) is rows


def test_conversion_keeps_parameters_names_and_values():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm2d(4))
    before = copy.deepcopy(model)
    parameters = list(model.parameters())
    model[2].eval()
    converted = convert_sync_batchnorm(model)
    assert all(a is b for a, b in zip(converted.parameters(), parameters, strict=True))
    assert converted.state_dict().keys() == before.state_dict().keys()
    assert nn.BatchNorm2d not in {type(m) for m in converted.modules()}
    assert (converted[1][0].training, converted[2].training) == (True, False)  # type: ignore
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(converted.eval()(images), before.eval()(images))


def test_converted_norm_alone_trains_as_before():
    norm, images = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)
    converted = convert_sync_batchnorm(copy.deepcopy(norm))
    assert torch.equal(converted(images), norm(images))
    assert torch.equal(converted.running_var, norm.running_var)  # type: ignore
