"""Students as drafts for their teacher, against the teacher alone: acceptance and speed.

    python -m benchmarks.drafts PAIR TEACHER DATA NAME=DRAFT [NAME=DRAFT ...]
        [--rows 40] [--max-new-tokens 128] [--threads 1] [--result docs/results/drafts.json]

DATA has prompts (a bundled corpus: its test split), of which the first rows are written one at a
time, greedily and at temperature 1, by the teacher with every draft and by the teacher alone, in
turn and twice each; both step with the same cache. The draft length is what `generate` chooses.
Ratios are of summed seconds, intervals the middle 95 % of resampled prompts; what a draft accepts
more than the first one is of the same prompts. Results are kept by PAIR.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from seqdistill.assembly.data import encode_for_evaluation, read_split
from seqdistill.assembly.models import model_folder
from seqdistill.core.source import Source
from seqdistill.generation.draft_costs import measured_costs
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.speculative import SpeculativeGenerator
from seqdistill.metrics.bootstrap import percentile_interval, resampled_sums
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

_ROUNDS, _TRIED, _NUM_RESAMPLES = 2, 5, 2000

Acceptances = tuple[float, Float[np.ndarray, " resamples"]]
"""Of all prompts, and of the resampled."""


def prompts_of(data: str, teacher: LoadedModel, rows: int) -> list[Source]:
    """As the teacher reads them."""
    settings = ["data.train=bundled:en-de", f"data.test={data}", "teacher.model=bundled:en-de"]
    recipe = load_recipe("seq_kd", settings, purpose="label")
    examples = read_split(recipe, "test").select(np.arange(rows))
    encoded = encode_for_evaluation(examples, teacher, recipe.data)
    return [one.source_ids for one in encoded.examples]


def seconds_of(write: Callable[[], object]) -> float:
    """Of one output."""
    started = time.perf_counter()
    write()
    return time.perf_counter() - started


def measured(
    teacher: LoadedModel,
    draft: LoadedModel,
    prompts: Sequence[Source],
    decoding: Decoding,
    first: list[Acceptances],
) -> dict[str, object]:
    """What the draft brings, and the figures that this is made of. `first` keeps what the first
    draft accepted."""
    # The median of what `generate` would choose for each.
    chosen = [measured_costs(teacher, draft, [p], decoding).draft_tokens for p in prompts[:_TRIED]]
    length = sorted(chosen)[len(chosen) // 2]
    both = SpeculativeGenerator(teacher, draft, draft_tokens=length)
    alone = TransformersSampler(
        teacher.model, teacher.tokenizer, kind=teacher.kind, decoding=decoding
    )
    rows, same = [], 0
    for place, prompt in enumerate(prompts):
        seconds = np.zeros(2)
        before = (both.counts.accepted, both.counts.tested, both.counts.overlap)
        for _ in range(_ROUNDS):
            seconds += (
                seconds_of(functools.partial(both.generate, [prompt], decoding, seed=place)),
                seconds_of(functools.partial(alone.sample, [prompt], seed=place)),
            )
        after = (both.counts.accepted, both.counts.tested, both.counts.overlap)
        rows.append([*seconds, *(b - a for a, b in zip(before, after, strict=True))])
        if decoding.mode == "beam":
            ((own,),) = both.generate([prompt], decoding)
            same += tuple(own.token_ids) == alone.sample([prompt], seed=0).rows()[0]
    table = np.asarray(rows)
    sums = resampled_sums(table, num_resamples=_NUM_RESAMPLES, generator=np.random.default_rng(1))
    speeds, accepted = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 3]
    whole = table.sum(axis=0)
    first.append((whole[2] / whole[3], accepted))
    (gain, gains), (base, bases) = first[-1], first[0]
    found: dict[str, object] = {
        "draft_tokens": length,
        "acceptance": [whole[2] / whole[3], *percentile_interval(accepted, confidence=0.95)],
        "acceptance_gain": [gain - base, *percentile_interval(gains - bases, confidence=0.95)],
        "mean_overlap": whole[4] / whole[3],
        "tokens_per_pass": both.counts.tokens_per_pass,
        "speed_up": [whole[1] / whole[0], *percentile_interval(speeds, confidence=0.95)],
        "draft_ms": 1e3 * both.counts.draft_seconds / max(1, both.counts.draft_steps),
        "pass_ms": 1e3 * both.counts.teacher_seconds / max(1, both.counts.teacher_passes),
        "teacher_alone_s": whole[1] / _ROUNDS,
    }
    return found | ({"num_same_texts": same} if decoding.mode == "beam" else {})


def main() -> None:
    """Measures every draft and keeps what was found by the pair's name."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("pair", "teacher", "data"):
        parser.add_argument(name)
    parser.add_argument("drafts", nargs="+", metavar="NAME=DRAFT")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    teacher = load_pair(model_folder(given.teacher))
    prompts = prompts_of(given.data, teacher, given.rows)
    most = given.max_new_tokens
    modes = {
        "greedy": Decoding(beam_size=1, max_new_tokens=most),
        "temperature 1": Decoding(mode="sample", max_new_tokens=most),
    }
    drafts: dict[str, object] = {}
    first: dict[str, list[Acceptances]] = {mode: [] for mode in modes}
    for text in given.drafts:
        name, _, folder = text.partition("=")
        draft = load_pair(model_folder(folder))
        drafts[name] = {
            "parameters": draft.model.num_parameters(),
            **{
                mode: measured(teacher, draft, prompts, way, first[mode])
                for mode, way in modes.items()
            },
        }
        print(name, json.dumps(drafts[name]), flush=True)
    result = {
        "data": given.data,
        "rows": given.rows,
        "threads": given.threads,
        "teacher_parameters": teacher.model.num_parameters(),
        "drafts": drafts,
        **environment_facts(),
    }
    if given.result is not None:
        known = json.loads(given.result.read_text("utf-8")) if given.result.is_file() else {}
        write_json(given.result, {**known, given.pair: result})


if __name__ == "__main__":
    main()
