"""What the methods whose loss is a mean over images owe the global batch."""

import contextlib
import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c2am_dist.config import Method, TrainConfig, override
from c2am_dist.data.plan import part_sizes
from c2am_dist.distributed import convert_sync_batchnorm
from c2am_dist.method.bridging_model import BridgingClassifier
from c2am_dist.method.encoders import freeze_norm
from c2am_dist.training import per_image
from c2am_dist.training.batch import Batch
from c2am_dist.training.methods import METHODS

torch.set_num_threads(1)
NUM_IMAGES, NUM_CLASSES, SIZE_PX = 8, 3, 32
ANY_ENCODER: tuple[Method, ...] = ("classifier", "cam", "bridging", "psol")
PER_IMAGE: tuple[Method, ...] = (*ANY_ENCODER, "sipe", "saliency")
STEP, TOTAL_STEPS = 4, 7
"""Right after a warm-up of 2 / 7 of the steps."""


def config_of(method: Method, **changes: Any) -> TrainConfig:
    values = {
        "method": method,
        "model.encoder": "resnet18",
        "model.output_stride": 16,
        "optim.batch_size": NUM_IMAGES,
        "bridging.drop_threshold": 0.3,
        "bridging.drop_rate": 0.5,
    }
    return override(TrainConfig(), values | changes)


def whole_batch(step: int = STEP, *, method: Method = "classifier") -> Batch:
    torch.manual_seed(1)
    corner = torch.rand(NUM_IMAGES, 2, dtype=torch.float64) / 2
    images = torch.randn(NUM_IMAGES, 3, SIZE_PX, SIZE_PX, dtype=torch.float64)
    numbers = torch.arange(NUM_IMAGES)
    several = (torch.rand(NUM_IMAGES, NUM_CLASSES) > 0.4).to(torch.int8)
    several[6:] = 0  # of three workers, all that the last one has
    return Batch(
        images=images,
        labels=several if method in ("cam", "sipe") else numbers % NUM_CLASSES,
        boxes=torch.cat([corner, corner / 2 + 0.2], dim=1),
        is_visible=numbers != 2,
        cues=torch.rand(NUM_IMAGES, SIZE_PX // 4, SIZE_PX // 4, dtype=torch.float64),
        is_known=numbers < 6,
        step=step,
        total_steps=TOTAL_STEPS,
    )


def model_of(config: TrainConfig, *, is_frozen: bool) -> nn.Module:
    torch.manual_seed(0)
    model = METHODS[config.method].build(config, num_classes=NUM_CLASSES).double().train()
    if is_frozen:
        with torch.no_grad():  # statistics as a checkpoint's would be
            for _ in range(2):
                model.encoder(torch.randn(4, 3, SIZE_PX, SIZE_PX, dtype=torch.float64))
        freeze_norm(model.encoder)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # the head's
                module.eval()
    return convert_sync_batchnorm(model)


def step_of(config: TrainConfig, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    method = METHODS[config.method]
    terms = method.backward(model, batch, config=config, autocast=contextlib.nullcontext)
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    gradients = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
    return {**{f"term {name}": value for name, value in terms.items()}, **gradients}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, rtol=rtol, atol=rtol * scale, msg=name)


@pytest.mark.parametrize("method", PER_IMAGE)
@pytest.mark.parametrize("num_workers", [2, 3])
def test_shares_of_simulated_workers_average_to_the_whole(
    method: Method, num_workers: int, monkeypatch: pytest.MonkeyPatch
):
    config = config_of(method)
    model = model_of(config, is_frozen=True)
    batch = whole_batch(method=method)
    expected = step_of(config, model, batch)
    monkeypatch.setattr(per_image, "num_workers", lambda: num_workers)
    model.zero_grad()
    sizes = part_sizes(NUM_IMAGES, num_workers)
    terms: dict[str, Tensor] = {}
    for rank in range(num_workers):
        part = part_of(batch, rank, sizes)
        found = step_of(config, model, part)  # gradients add up in the model
        for name in (name for name in found if name.startswith("term")):
            terms[name] = terms.get(name, torch.tensor(0.0)) + found[name] / num_workers
    mean = {n: p.grad / num_workers for n, p in model.named_parameters() if p.grad is not None}
    assert_close({**terms, **mean}, expected, 1e-9)


def part_of(batch: Batch, rank: int, sizes: list[int]) -> Batch:
    """What the loop would hand to a worker."""
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    names = ("images", "labels", "boxes", "is_visible", "cues", "is_known")
    cut = {name: getattr(batch, name)[own] for name in names}
    return dataclasses.replace(batch, row_offset=own.start, **cut)


@pytest.mark.parametrize("method", PER_IMAGE)
def test_micro_batches_add_up_to_the_whole(method: Method):
    whole, cut = config_of(method), config_of(method, **{"optim.accumulation": 3})
    one, other = (model_of(config, is_frozen=True) for config in (whole, cut))
    batch = whole_batch(method=method)
    assert_close(step_of(cut, other, batch), step_of(whole, one, batch), 1e-9)


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    try:
        results = {}
        for method in PER_IMAGE:
            config = config_of(method)
            model = DistributedDataParallel(model_of(config, is_frozen=False), bucket_cap_mb=4)
            part = part_of(whole_batch(method=method), rank, part_sizes(NUM_IMAGES, world))
            results[method] = step_of(config, model, part)
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_three_workers_with_synchronised_norms_agree_with_one(tmp_path: Path):
    """In processes: parts of 3, 3 and 2 images; Bridging's second pass is synchronised, too."""
    multiprocessing.set_forkserver_preload(["torch"])
    mp.start_processes(work, (3, str(tmp_path)), nprocs=3, start_method="forkserver")
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for method in PER_IMAGE:
        config = config_of(method)
        alone = step_of(config, model_of(config, is_frozen=False), whole_batch(method=method))
        for result in results:
            gradients = {n: g for n, g in result[method].items() if not n.startswith("term")}
            expected = {n: g for n, g in alone.items() if not n.startswith("term")}
            assert_close(gradients, expected, 1e-8)
        for name in (name for name in alone if name.startswith("term")):
            mean = torch.stack([result[method][name] for result in results]).mean()
            torch.testing.assert_close(mean, alone[name], rtol=1e-8, atol=1e-10, msg=name)


def test_dropout_follows_seed_step_and_place_alone():
    config = config_of("bridging")
    whole = per_image._dropout(whole_batch(), config)(2, 3)
    assert whole.shape == (NUM_IMAGES, 1, 2, 3) and len(whole.unique()) == whole.numel()
    part = per_image._dropout(part_of(whole_batch(), 1, [3, 3, 2]), config)(2, 3)
    assert torch.equal(part, whole[3:6])
    piece = whole_batch().split(3)[2]
    assert torch.equal(per_image._dropout(piece, config)(2, 3), whole[6:])
    assert not torch.equal(per_image._dropout(whole_batch(STEP + 1), config)(2, 3), whole)
    other = config_of("bridging", **{"run.seed": 1})
    assert not torch.equal(per_image._dropout(whole_batch(), other)(2, 3), whole)


@pytest.mark.parametrize(("step", "is_warmup"), [(0, True), (1, True), (2, False), (6, False)])
def test_alignment_begins_after_the_warm_up(step: int, is_warmup: bool):
    """2 of 7 steps, as 20 of 70 epochs."""
    config = config_of("bridging")
    model = model_of(config, is_frozen=True)
    terms = step_of(config, model, whole_batch(step))
    assert (terms["term similarity"] == 0) == (terms["term norm"] == 0) == is_warmup
    assert terms["term drop"] > 0
    parts = ("classification", "drop", "similarity", "norm")
    total = sum(terms[f"term {name}"] for name in parts)
    torch.testing.assert_close(terms["term loss"], total)


def test_the_loss_is_that_of_the_method_with_the_given_weights():
    torch.manual_seed(0)
    heavy = config_of("bridging", **{"bridging.drop_weight": 4.0})
    usual = config_of("bridging")
    found = [
        step_of(config, model_of(config, is_frozen=True), whole_batch())["term drop"]
        for config in (heavy, usual)
    ]
    torch.testing.assert_close(found[0], 2 * found[1])


def test_a_box_that_the_view_does_not_show_is_not_learned():
    config = config_of("psol")
    model = model_of(config, is_frozen=True)
    batch = whole_batch()
    assert batch.boxes is not None
    elsewhere = batch.boxes.clone()
    elsewhere[2] = torch.tensor([0.9, 0.9, 0.1, 0.1])  # image 2 is the one not visible
    losses = []
    for boxes in (batch.boxes, elsewhere):
        model.zero_grad()
        changed = Batch(images=batch.images, boxes=boxes, is_visible=batch.is_visible)
        losses.append(step_of(config, model, changed)["term loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("encoder", "stride"), [("resnet18", 32), ("vgg16", 8)])
def test_every_method_builds_at_its_stride(encoder: str, stride: int):
    for method in ANY_ENCODER:
        config = config_of(method, **{"model.encoder": encoder, "model.output_stride": stride})
        with torch.device("meta"):
            model = METHODS[method].build(config, num_classes=2).to("meta")
            features = model.encoder(torch.empty(1, 3, 64, 64, device="meta"))
        assert features.shape[-1] == 64 // stride
        assert isinstance(model, BridgingClassifier) == (method == "bridging")


def test_sipe_logs_what_its_loss_is_made_of():
    batch = whole_batch(method="sipe")
    terms = step_of(config_of("sipe"), model_of(config_of("sipe"), is_frozen=True), batch)
    total = terms["term classification"] + terms["term consistency"]
    torch.testing.assert_close(terms["term loss"], total)
    assert terms["term consistency"] > 0 and 0 <= terms["term f1"] <= 1


def test_an_image_without_a_cue_is_not_learned():
    config, batch = config_of("saliency"), whole_batch()
    assert batch.cues is not None
    model = model_of(config, is_frozen=True)
    other = batch.cues.clone()
    other[6:] = 0
    known = step_of(config, model, batch)["term loss"]
    assert step_of(config, model, dataclasses.replace(batch, cues=other))["term loss"] == known
    none = dataclasses.replace(batch, is_known=torch.zeros(NUM_IMAGES, dtype=torch.bool))
    assert step_of(config, model, none)["term loss"] == 0


def test_bright_cues_are_background():
    config, batch = config_of("saliency"), whole_batch()
    model = model_of(config, is_frozen=True)
    with torch.no_grad():
        model.predict.weight.zero_()
        model.predict.bias.fill_(-5.0)  # background everywhere
    cues = torch.ones(NUM_IMAGES, SIZE_PX // 4, SIZE_PX // 4, dtype=torch.float64)
    low, high = (
        step_of(config, model, dataclasses.replace(batch, cues=shown))["term loss"]
        for shown in (cues, 0 * cues)
    )
    assert low < 0.01 < 1 < high


@pytest.mark.parametrize("method", ["sipe", "saliency"])
def test_methods_that_read_stages_refuse_other_encoders(method: Method):
    with pytest.raises(ValueError, match=rf"model\.encoder must be a ResNet with {method}"):
        config_of(method, **{"model.encoder": "vgg16"})
    with pytest.raises(ValueError, match=rf"optim\.compile must be off with {method}"):
        config_of(method, **{"optim.compile": True})


def test_sipe_refuses_other_strides():
    with pytest.raises(ValueError, match=r"model\.output_stride must be 16 with sipe, got 32"):
        config_of("sipe", **{"model.output_stride": 32})
