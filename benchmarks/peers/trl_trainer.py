"""Trains with TRL: `python -m benchmarks.peers.trl_trainer SETTINGS`, in the peers' environment.

Knows nothing of this package. Settings that differ from TRL's defaults are those that the
comparison fixes (rate, batch, lengths, fp32, divergence, temperature) and those that make it faster
here: no gradient checkpointing, no files but the last model. Dropout is none in these models.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from benchmarks.peers.clock import UpdateClock
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """What both trainers are told alike."""
    return {
        "output_dir": given["output_dir"],
        "max_steps": given["updates"],
        "per_device_train_batch_size": given["batch"],
        "learning_rate": given["learning_rate"],
        "warmup_steps": given["warmup_updates"],
        "lr_scheduler_type": "linear",
        "optim": "adamw_torch_fused",
        "adam_beta2": given["adam_beta2"],
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "beta": given["beta"],
        "temperature": 1.0,
        "bf16": given["precision"] == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": given["seed"],
    }


def trainer(given: dict[str, Any], clock: UpdateClock) -> Any:
    """The trainer that the settings name, over the rows of their file."""
    rows = [json.loads(line) for line in Path(given["rows"]).read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(given["tokenizer"], padding_side="left")
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(
            given[who], dtype=torch.float32, attn_implementation=given["attention"]
        )
        for who in ("student", "teacher")
    )
    if given["trainer"] == "gkd":
        data = Dataset.from_list([_with_ids(row) for row in rows])
        config = GKDConfig(
            **arguments(given), lmbda=given["lmbda"], max_new_tokens=given["max_new_tokens"]
        )
        found = GKDTrainer(student, teacher, config, train_dataset=data, processing_class=tokenizer)
        name = "generate_on_policy_outputs"
    else:
        texts = [row["prompt"] for row in rows]
        read = [row["prompt_ids"] for row in rows]
        if tokenizer(texts)["input_ids"] != read:
            raise ValueError("prompts must have the tokens here that they have for seqdistill")
        config = DistillationConfig(
            **arguments(given), max_completion_length=given["max_new_tokens"]
        )
        found = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
        )
        name = "_generate"
    writes = getattr(found, name)

    def counted(*given_to: Any, **named: Any) -> Any:
        clock.count_rollout()
        return writes(*given_to, **named)

    setattr(found, name, counted)
    return found


def _with_ids(row: dict[str, Any]) -> dict[str, Any]:
    prompt, target = row["prompt_ids"], row["target_ids"]
    return {
        "prompt": row["prompt"],
        "input_ids": prompt + target,
        "attention_mask": [1] * len(prompt + target),
        "completion_mask": [0] * len(prompt) + [1] * len(target),
    }


def main() -> None:
    """Trains, saves the student where asked, writes what it cost."""
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(given["threads"])
    clock = UpdateClock()
    trains = trainer(given, clock)
    trains.train()
    if given["saves"]:
        trains.save_model(given["output_dir"])
    clock.report(given)


if __name__ == "__main__":
    main()
