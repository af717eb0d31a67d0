"""Trains the teacher of the g2p task again: `python -m experiments.kim_rush.g2p_teacher`.

Two cores take about half an hour. Replaces the model in `teachers/g2p` and its record; rows that
were measured with another teacher are then measured again by the experiment.
"""

from __future__ import annotations

from pathlib import Path

from experiments.kim_rush.tasks import G2P
from experiments.preparing import make_g2p_data, publish_model, recipe_of
from experiments.shapes import Size
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.models.loading import load_tokenizer
from seqdistill.models.scratch import configuration

_SIZE = Size(128, 3, 3)
_SHAPE = {"init_std": 0.02, "max_position_embeddings": 64}
_SETTINGS = {
    "method": "teacher",
    "training.steps": 6000,
    "training.batch_tokens": 2000,
    "training.learning_rate": 1.5e-3,
    "training.warmup_steps": 300,
    "training.eval_every": 1000,
    "training.eval_metric": "bleu",
    "training.keep_best": 3,
    "training.average_best": True,
    "training.checkpoint_every": 500,
    "training.precision": "bf16",
    "training.threads": 2,
    "evaluation.max_new_tokens": 48,
}


def main() -> None:
    """Trains, going on where it stopped, and publishes."""
    keep_freed_memory()
    data = G2P.folder / "data"
    make_g2p_data(data)
    shape = data / "teacher-shape"
    tokenizer = load_tokenizer(str(data / "tokenizer"))
    configuration({**_SIZE.architecture, **_SHAPE}, tokenizer).save_pretrained(shape)
    tokenizer.save_pretrained(shape)
    settings = {
        **{key: value for key, value in G2P.settings.items() if key.startswith("data.")},
        **_SETTINGS,
        "student.init": "scratch",
        "student.model": str(shape),
        "output_dir": str(G2P.folder / "teacher"),
    }
    run = train(recipe_of(settings), progress=NoProgress(), resume=True)
    folder = Path(G2P.teacher)
    publish_model(run, folder, record=folder.with_name(f"{folder.name}_record"))


if __name__ == "__main__":
    main()
