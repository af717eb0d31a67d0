"""What only a GPU can show of training: bf16 products, fused AdamW, pinned batches, NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.tiny import tiny_adapter
from tests.training.small import SETTINGS, Recorder, make_loop, stored, student, weights

import seqdistill
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import Precision
from seqdistill.sources.stored import PrefetchedSource
from seqdistill.training.optimization import make_optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def on_gpu(folder: Path, precision: Precision) -> tuple[SequenceModel, Recorder]:
    model, metrics = student(), Recorder()
    make_loop(
        folder,
        model,
        metrics=metrics,
        source=PrefetchedSource(stored(), CUDA),
        accelerator=Accelerator(),
        precision=precision,
    ).run(resume=False)
    return model, metrics


@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_a_gpu_trains_as_the_cpu_does(tmp_path: Path, precision: Precision, close: float) -> None:
    on_cpu = Recorder()
    make_loop(tmp_path / "cpu", student(), metrics=on_cpu).run(resume=False)
    model, metrics = on_gpu(tmp_path / "gpu", precision)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    for row, expected in zip(metrics.rows, on_cpu.rows, strict=True):
        assert row["loss_nats"] == pytest.approx(expected["loss_nats"], rel=close)


def test_adamw_is_fused_and_batches_are_pinned() -> None:
    model = tiny_adapter("llama").to(CUDA)
    assert make_optimizer(model, SETTINGS).defaults["fused"]
    batch = PrefetchedSource(stored(), CUDA).next_batch()
    assert batch.target_ids.is_pinned() and batch.target_mask.is_pinned()


_SHARDED = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from tests.training.small import make_loop, student, weights
from seqdistill.training.processes import make_accelerator
accelerator, model = make_accelerator("fsdp2", on_cpu=False), student()
assert accelerator.is_fsdp2
folder = Path(sys.argv[1])
make_loop(folder, model, accelerator=accelerator, optimizer="sgd").run(resume=False)
save_file({name: tensor.cpu() for name, tensor in weights(model).items()}, folder / "w.safetensors")
accelerator.end_training()
"""


def test_one_gpu_in_shards_over_nccl_equals_the_cpu(tmp_path: Path) -> None:
    source, root = Path(seqdistill.__file__).parents[1], Path(__file__).parents[2]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **alone, "MASTER_PORT": "29555", "PYTHONPATH": f"{root}:{source}"}
    words = [sys.executable, "-c", _SHARDED, str(tmp_path)]
    subprocess.run(words, env=environment, check=True, timeout=300)
    expected = student()
    make_loop(tmp_path / "cpu", expected, optimizer="sgd").run(resume=False)
    found = load_file(tmp_path / "w.safetensors")
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
