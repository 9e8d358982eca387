"""What only a CUDA device can show: python -m pytest -m gpu."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import checkpoint
from c2am_dist.config import LabelConfig, TrainConfig, override
from c2am_dist.labeling.job import label
from c2am_dist.method.c2am import C2AM, c2am_loss
from c2am_dist.method.encoders import build_encoder
from c2am_dist.training import fit
from tests.conftest import BASE
from tests.images import write_shards

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("rank_scope", ["row", "all"])
def test_the_loss_and_its_gradients_agree_with_the_cpu(rank_scope: str):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(48, 96, generator=generator, dtype=torch.float64) for _ in range(2)]

    def gradients(device: str) -> tuple[float, list[torch.Tensor]]:
        foreground, background = (r.detach().to(device).requires_grad_() for r in rows)
        loss = c2am_loss(
            foreground, background, foreground, background, alpha=0.25, rank_scope=rank_scope
        ).total
        return loss.item(), [g.cpu() for g in torch.autograd.grad(loss, [foreground, background])]

    loss, found = gradients("cuda")
    expected_loss, expected = gradients("cpu")
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_bf16_stays_near_float32():
    torch.manual_seed(0)
    model = C2AM(build_encoder("resnet50")).cuda().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 128, 128, device="cuda").contiguous(
        memory_format=torch.channels_last
    )

    def loss(is_bf16: bool) -> float:
        with torch.autocast("cuda", torch.bfloat16, enabled=is_bf16):
            foreground, background, activation = model(images)
        assert activation.dtype == torch.float32
        foreground, background = foreground.float(), background.float()
        return c2am_loss(foreground, background, foreground, background, alpha=0.05).total.item()

    assert loss(is_bf16=True) == pytest.approx(loss(is_bf16=False), rel=0.05)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_run_trains_on_the_gpu_and_its_model_labels_there(
    ray_cluster, tmp_path: Path, is_compiled: bool
):
    image_set = write_shards(tmp_path / "shards", 24)
    values = {
        **BASE,
        "data.train": (image_set,),
        "optim.precision": "auto",
        "optim.compile": is_compiled,
        "scaling.num_workers": 1,
        "scaling.use_gpu": True,
        "run.storage": str(tmp_path),
        "run.name": "gpu",
    }
    trained = fit(override(TrainConfig(), values))
    content, _ = checkpoint.load(trained.checkpoint)
    assert content.step == 6
    assert all(torch.isfinite(tensor).all() for tensor in content.model.values())
    report = label(
        LabelConfig(
            checkpoint=trained.checkpoint,
            input=(image_set,),
            output=str(tmp_path / "labels"),
            precision="bf16",
            batch_size=8,
        )
    )
    assert (report.num_images, report.num_errors) == (24, 0)
    assert sum(pq.read_table(f).num_rows for f in (tmp_path / "labels").glob("*.parquet")) == 24
