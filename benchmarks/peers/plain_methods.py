"""MiniLLM and DistiLLM as their papers write them, in plain transformers, with whole logits.

    python -m benchmarks.peers.plain_methods SETTINGS

One update: a batch of prompts is answered with transformers' own caches, both models read all
sequences, the loss is taken of (batch, time, vocab) logits. No part of this package is used, so
that it can also be held against it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers.clock import UpdateClock
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


class TeacherMixed(LogitsProcessor):
    """Log-probabilities of `share` p + (1 - share) q: MiniLLM, eq. 9, token by token."""

    def __init__(self, teacher: Any, share: float, mask: Tensor) -> None:
        self._teacher, self._share, self._mask = teacher, share, mask
        self._cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids if self._cache is None else input_ids[:, -1:]
        ones = self._mask.new_ones(len(input_ids), input_ids.shape[1] - self._mask.shape[1])
        mask = torch.cat([self._mask, ones], dim=1)
        places = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new.shape[1] :]
        found = self._teacher(
            new, attention_mask=mask, position_ids=places, past_key_values=self._cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self._cache = found.past_key_values
        p, q = found.logits[:, -1].softmax(-1), scores.softmax(-1)
        mixed: Tensor = self._share * p + (1.0 - self._share) * q
        return mixed.log()


def minillm_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, counts: Tensor, sampled: Tensor
) -> Tensor:
    """Gu et al. 2024, eq. 7 to 10: single-step part, long part and language-model loss, summed over
    tokens and divided by the number of sequences.

    Logits are (batch, time, vocab); `counts` masks tokens, `sampled` (batch,) says which sequences
    come from the mixture with a share of 0.2 of the teacher; the others are data.
    """
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    own = log_q.gather(-1, targets[..., None])[..., 0]
    others = log_p.gather(-1, targets[..., None])[..., 0]
    drawn = (0.2 * others.exp() + 0.8 * own.detach().exp()).log()
    importance = (own.detach() - drawn).exp()
    on_samples, on_data = counts & sampled[:, None], counts & ~sampled[:, None]
    single = importance * (log_q.exp() * (log_q - log_p)).sum(-1)
    # R_{t+1}: the mean of log p / q over the later tokens of the sequence.
    ratio = torch.where(counts, others - own.detach(), 0.0)
    later = ratio.flip(1).cumsum(1).flip(1) - ratio
    number = counts.flip(1).cumsum(1).flip(1) - counts.long()
    returns = later / number.clamp_min(1)
    flat = torch.where(returns > 0, importance > 1.2, importance < 0.8)
    long = -torch.where(flat, 0.0, importance * returns) * own
    total = torch.where(on_samples, single + long, 0.0).sum()
    return (total - torch.where(on_data, own, 0.0).sum()) / len(targets)


def distillm_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, counts: Tensor, sampled: Tensor
) -> Tensor:
    """Ko et al. 2024, eq. 4: KL(q || 0.9 p + 0.1 q), the mean over tokens."""
    del targets, sampled
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = (0.9 * log_p.exp() + 0.1 * log_q.exp()).log()
    values = (log_q.exp() * (log_q - mixture)).sum(-1)
    return torch.where(counts, values, 0.0).sum() / counts.sum()


LOSSES = {"minillm": minillm_loss, "distillm": distillm_loss}


def left_padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (batch, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def answers(
    method: str, student: Any, teacher: Any, prompts: list[list[int]], given: dict[str, Any]
) -> list[list[int]]:
    """What the student, or MiniLLM's mixture, writes for each prompt, the end token included."""
    pad, end = student.config.pad_token_id, student.config.eos_token_id
    ids, mask = left_padded(prompts, pad)
    mixed = [TeacherMixed(teacher, 0.2, mask)] if method == "minillm" else []
    with torch.no_grad():
        found = student.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=given["max_new_tokens"], pad_token_id=pad, eos_token_id=end,
            logits_processor=LogitsProcessorList(mixed),
        )  # fmt: skip
    written = [row[ids.shape[1] :].tolist() for row in found]
    return [row[: row.index(end) + 1] if end in row else row for row in written]


def update_loss(
    method: str, student: Any, teacher: Any, batch: list[dict[str, Any]], given: dict[str, Any]
) -> Tensor:
    """The loss of one update on these rows."""
    prompts = [row["prompt_ids"] for row in batch]
    written = answers(method, student, teacher, prompts, given)
    sampled = [True] * len(batch)
    if method == "minillm":
        prompts, sampled = prompts * 2, sampled + [False] * len(batch)
        written = written + [row["target_ids"] for row in batch]
    wholes = [prompt + target for prompt, target in zip(prompts, written, strict=True)]
    ids, mask = left_padded(wholes, student.config.pad_token_id)
    width = max(map(len, written))
    counts = torch.tensor([[False] * (width - len(one)) + [True] * len(one) for one in written])
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    inputs = {"attention_mask": mask, "position_ids": places, "logits_to_keep": width + 1}
    own = student(ids, **inputs).logits[:, :-1]
    with torch.no_grad():
        others = teacher(ids, **inputs).logits[:, :-1]
    return LOSSES[method](own, others, ids[:, -width:], counts, torch.tensor(sampled))


def main() -> None:
    """Trains and writes what it cost."""
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    clock = UpdateClock()
    rows = [json.loads(line) for line in Path(given["rows"]).read_text("utf-8").splitlines()]
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(
            given[who], dtype=torch.float32, attn_implementation=given["attention"]
        )
        for who in ("student", "teacher")
    )
    optimizer = torch.optim.AdamW(
        student.parameters(),
        lr=given["learning_rate"],
        betas=(0.9, given["adam_beta2"]),
        weight_decay=0.0,
        fused=True,
    )
    order = random.Random(given["seed"])
    for _ in range(given["updates"]):
        clock.count_rollout()
        batch = order.sample(rows, given["batch"])
        loss = update_loss(given["method"], student, teacher, batch, given)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    clock.report(given)


if __name__ == "__main__":
    main()
