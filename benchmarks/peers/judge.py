"""Measures one model on the test set: `python -m benchmarks.peers.judge SETTINGS`.

Accuracy of greedy answers, and how far the model is from its teacher on samples of its own, with
this package's evaluation, whoever trained the model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from seqdistill.assembly.data import read_split
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.evaluation.on_policy import compared_on_own_samples
from seqdistill.evaluation.settings import measured
from seqdistill.jobs.evaluate import evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.recipe.loading import load_recipe


def main() -> None:
    """Writes the values with their intervals."""
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(given["threads"])
    recipe = load_recipe("supervised_kd", given["overrides"])
    examples = read_split(recipe, "test")
    settings = evaluation_settings(recipe, examples, "causal")
    system, teacher = (
        system_under_test(who, given[who], "pretrained", recipe, examples)
        for who in ("model", "teacher")
    )
    found = system.generator.generate([e.prompt for e in system.examples], settings.greedy)
    decoded = TextDecoder(system.tokenizer).texts([best.content_ids for (best,) in found])
    references = [example.target or "" for example in examples]
    name = settings.metrics[0]
    statistics = settings.metric(name).statistics([t.strip() for t in decoded], references)
    own = compared_on_own_samples(
        system.generator,
        system.model,
        teacher.model,
        system.examples,
        system.collator,
        settings,
        vocab_size=len(teacher.tokenizer),
    )
    values = {name: measured(statistics, settings), **own}
    texts = {key: value.model_dump() for key, value in values.items()}  # type: ignore[attr-defined]
    Path(given["result"]).write_text(json.dumps({"values": texts}), encoding="utf-8")


if __name__ == "__main__":
    main()
