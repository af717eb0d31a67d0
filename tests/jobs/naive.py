"""What models say and objectives are, from their formulas alone: nothing of the package is used.

What recipes build is compared with this, one sequence and one position after another, in float64;
there is no batch, mask or padding. Terms are mappings with the keys of a recipe; a number that
changes while training goes on is given here as what it is at the update in question.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

LIKELIHOODS = ("negative_log_likelihood", "teacher_mode_likelihood")
POLICY_GRADIENTS = ("sequence_reverse_kl", "advantages")


def plain_model(folder: Path) -> PreTrainedModel:
    """As transformers reads it, in float64 and without dropout."""
    said = (folder / "config.json").read_text("utf-8")
    is_causal = "CausalLM" in said or "LMHeadModel" in said
    auto = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
    model: PreTrainedModel = auto.from_pretrained(folder).double().eval()
    return model


def plain_logits(model: PreTrainedModel, source: Sequence[int], targets: Sequence[int]) -> Tensor:
    """(time, vocab): what the model says before each target."""
    if model.config.is_encoder_decoder:
        inputs = torch.tensor([[model.config.decoder_start_token_id, *targets[:-1]]])
        logits: Tensor = model(torch.tensor([[*source]]), decoder_input_ids=inputs).logits
        return logits[0]
    whole: Tensor = model(torch.tensor([[*source, *targets]])).logits
    return whole[0, len(source) - 1 : -1]


@dataclasses.dataclass(frozen=True)
class Scored:
    """One sequence with both models' logits for each of its tokens, (time, vocab) in float64."""

    targets: Sequence[int]
    student: Tensor
    teacher: Tensor
    origin: str = "reference"
    sampled: Sequence[float] | None = None
    """Nats of each token under what it was drawn from."""
    advantage: float = 0.0
    extras: Mapping[str, float] = dataclasses.field(default_factory=dict)


def loss(
    sequences: Sequence[Scored],
    terms: Sequence[Mapping[str, Any]],
    *,
    reduction: str,
    loss_temperature: float = 1.0,
) -> Tensor:
    """sum_i weight_i D_i, reduced by name; differentiable in the student's logits."""
    soft = [term["divergence"] for term in terms if term["divergence"] not in LIKELIHOODS]
    mixed = soft and any(
        term["divergence"] in LIKELIHOODS and not _is_policy_gradient(term) for term in terms
    )
    selected = [[True] * len(one.targets) for one in sequences]
    if (settings := _weighings(terms[0]).get("top_tokens")) is not None:
        selected = _top_tokens(sequences, **settings)
    num_tokens, num_sequences = sum(map(sum, selected)), sum(map(any, selected))
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        factor = term.get("weight", 1.0)
        if mixed and term["divergence"] in soft:
            factor *= loss_temperature**2
        rated = _pass_rates(sequences, **_weighings(term).get("pass_rate", {}))
        for one, counted, rate in zip(sequences, selected, rated, strict=True):
            named = _weighings(term).get("origin")
            if named is not None and one.origin not in named["origins"]:
                continue
            share = 1.0 / num_sequences
            if not _is_policy_gradient(term):
                share = {
                    "token": 1.0 / num_tokens,
                    "sequence": 1.0 / num_sequences / max(1, sum(counted)),
                    "sum": 1.0 / num_sequences,
                }[reduction]
            weights = _weights(term, one)
            for time in (time for time, counts in enumerate(counted) if counts):
                target = one.targets[time]
                nats = _at(term, one.student[time], one.teacher[time], target, loss_temperature)
                total = total + factor * share * rate * weights[time] * nats
    return total


def _weights(term: Mapping[str, Any], one: Scored) -> list[float]:
    """What each position counts, without a gradient."""
    found, given = [1.0] * len(one.targets), _weighings(term)
    if "advantages" in given:
        found = [weight * one.advantage for weight in found]
    if "sequence_reverse_kl" in given:
        ahead = _weighted_returns(given["sequence_reverse_kl"], one)
        found = [weight * value for weight, value in zip(found, ahead, strict=True)]
    if "importance" in given:
        found = [weight * w for weight, w in zip(found, _importance(one), strict=True)]
    return found


def _pass_rates(
    sequences: Sequence[Scored],
    kind: str = "",
    column: str = "pass_rate",
    alpha: float = 1.0,
    beta: float = 1.0,
    within: tuple[float, float] = (-1.0, 2.0),
) -> list[float]:
    """PACED's weight of every sequence, whose sum is their number; 1 where there is none."""
    if not kind:
        return [1.0] * len(sequences)
    rates = [one.extras[column] for one in sequences]
    kernels = [
        math.pow(p, alpha) * math.pow(1 - p, beta) * (within[0] < p < within[1]) for p in rates
    ]
    return [len(sequences) * kernel / math.fsum(kernels) for kernel in kernels]


def _top_tokens(
    sequences: Sequence[Scored], *, kind: str, by: str = "soft_or", fraction: float = 0.5
) -> list[list[bool]]:
    """TIP's choice, sequence by sequence: of Python's numbers and lists alone."""
    entropies, reverse, forward = [], [], []
    for one in sequences:
        student, teacher = (
            logits.detach().log_softmax(-1).tolist() for logits in (one.student, one.teacher)
        )
        pairs = [list(zip(q, p, strict=True)) for q, p in zip(student, teacher, strict=True)]
        entropies += [-sum(math.exp(q) * q for q, _ in row) for row in pairs]
        reverse += [sum(math.exp(q) * (q - p) for q, p in row) for row in pairs]
        forward += [sum(math.exp(p) * (p - q) for q, p in row) for row in pairs]
    place = 0.98 * (len(entropies) - 1)
    below, above = sorted(entropies)[math.floor(place)], sorted(entropies)[math.ceil(place)]
    limit = below + (above - below) * (place - math.floor(place))
    h = _from_0_to_1([min(value, limit) for value in entropies])
    d = _from_0_to_1(reverse)
    scores = {
        "soft_or": [1 - (1 - one) * (1 - other) for one, other in zip(h, d, strict=True)],
        "entropy": h,
        "divergence": reverse,
        "third_quadrant": [kl * (1 - one) for kl, one in zip(forward, h, strict=True)],
    }[by]
    found = []
    for one in sequences:
        own, scores = scores[: len(one.targets)], scores[len(one.targets) :]
        best = sorted(range(len(own)), key=lambda time: -own[time])[: int(fraction * len(own))]
        found.append([time in best for time in range(len(own))])
    return found


def _from_0_to_1(values: list[float]) -> list[float]:
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


def _weighings(term: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The term's token weights by name, each with its settings."""
    given = term.get("token_weights", [])
    listed = [given] if isinstance(given, (str, dict)) else given
    named = [{"kind": one} if isinstance(one, str) else one for one in listed]
    return {one["kind"]: one for one in named}


def _is_policy_gradient(term: Mapping[str, Any]) -> bool:
    return any(name in POLICY_GRADIENTS for name in _weighings(term))


def log_probs(logits: Tensor, targets: Sequence[int]) -> list[float]:
    """log p of each token."""
    rows = logits.detach().log_softmax(dim=-1)
    return [float(row[target]) for row, target in zip(rows, targets, strict=True)]


def _importance(one: Scored) -> list[float]:
    if one.sampled is None:
        return [1.0] * len(one.targets)
    own = log_probs(one.student, one.targets)
    return [math.exp(q - drawn) for q, drawn in zip(own, one.sampled, strict=True)]


def _weighted_returns(term: Mapping[str, Any], one: Scored) -> list[float]:
    """w_t R_{t+1}, R the discounted log p / q of the later tokens over their number."""
    student, teacher = (log_probs(logits, one.targets) for logits in (one.student, one.teacher))
    found = []
    for time, importance in enumerate(_importance(one)):
        first = time if term.get("estimator", "paper") == "released" else time + 1
        later = [p - q for p, q in zip(teacher[first:], student[first:], strict=True)]
        value = sum(term.get("discount", 1.0) ** n * ratio for n, ratio in enumerate(later))
        if later and term.get("length_normalized", True):
            value /= len(later)
        clip = term.get("clip", math.inf)
        flat = importance > 1 + clip if value > 0 else importance < 1 - clip
        found.append(0.0 if flat else importance * value)
    return found


def _at(
    term: Mapping[str, Any], student: Tensor, teacher: Tensor, target: int, temperature: float
) -> Tensor:
    """The term at one position (nats), from two rows of logits."""
    name = term["divergence"]
    if name == "negative_log_likelihood":
        return -student.log_softmax(-1)[target]
    if name == "teacher_mode_likelihood":
        return -student.log_softmax(-1)[int(teacher.argmax())]
    log_q: Tensor = (student / temperature).log_softmax(-1)
    log_p: Tensor = (teacher / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    forward: Tensor = (p * (log_p - log_q)).sum()
    reverse: Tensor = (q * (log_q - log_p)).sum()
    if name == "cross_entropy":
        return torch.neg((p * log_q).sum())
    if name == "total_variation":
        found: Tensor = (p - q).abs().sum() / 2
    elif name == "uld":
        found = (q.sort().values - p.sort().values).abs().sum()
    elif name == "chunk_likelihood":  # of a token that is a chunk
        found = of_chunk(term, log_q[target], log_p[target])
    elif name == "neg_log_acceptance":
        found = -(1 - (p - q).abs().sum() / 2).log()
    elif name == "adaptive_jensen_shannon":  # before its first update
        middle_beta = sum(term.get("within", (0.1, 0.9))) / 2
        as_begun = {"divergence": "jensen_shannon", "beta": middle_beta, "scale": "gradient"}
        found = _at(as_begun, student, teacher, target, temperature)
    elif name == "jensen_shannon" and 0.0 < (beta := term["beta"]) < 1.0:
        middle = (beta * p + (1 - beta) * q).log()
        found = beta * (p * (log_p - middle)).sum() + (1 - beta) * (q * (log_q - middle)).sum()
        if term.get("scale") == "gradient":
            found = found / (beta * (1 - beta))
    elif name == "jensen_shannon":
        found = reverse if term["beta"] else forward
    elif name == "skew_forward_kl":
        found = (p * (log_p - (term["alpha"] * p + (1 - term["alpha"]) * q).log())).sum()
    elif name == "skew_reverse_kl":
        found = (q * (log_q - ((1 - term["alpha"]) * p + term["alpha"] * q).log())).sum()
    elif name == "adaptive_kl":
        head = _share_of_the_gap(p.tolist(), q.tolist(), term.get("head_mass", 0.5))
        found = head * forward + (1 - head) * reverse
    elif name == "interpolated_forward_kl":
        share = term.get("start_fraction", 0.4)
        target_logits = (1 - share) * student.detach() + share * teacher
        aim = (target_logits / temperature).softmax(-1)
        found = (aim * (aim.log() - log_q)).sum()
    else:
        found = {"forward_kl": forward, "reverse_kl": reverse}[name]
    return found


def of_chunk(term: Mapping[str, Any], log_q: Tensor, log_p: Tensor) -> Tensor:
    """ALM's binary divergence between two log-probabilities of one chunk."""
    q, p = (torch.exp(each / term.get("chunk_temperature", 100.0)) for each in (log_q, log_p))
    if (name := term.get("of", "forward_kl")) == "total_variation":
        return (q - p).abs()
    first, second = (p, q) if name == "forward_kl" else (q, p)
    return first * (first / second).log() + (1 - first) * ((1 - first) / (1 - second)).log()


def _share_of_the_gap(p: list[float], q: list[float], head_mass: float) -> float:
    """Of sum |p - q|, the share of the likeliest symbols that together reach the mass."""
    mass, head, whole = 0.0, 0.0, 0.0
    for symbol in sorted(range(len(p)), key=lambda symbol: -p[symbol]):
        gap = abs(p[symbol] - q[symbol])
        head, whole = head + (gap if mass < head_mass else 0.0), whole + gap
        mass += p[symbol]
    return head / whole


def letters_of_the_reference(
    prompts: Sequence[str], completions: Sequence[str], references: Sequence[str | None]
) -> list[float]:
    """A reward that random outputs differ in: what share of their letters the reference has, and
    a little for the prompt's last letter."""
    found = []
    for prompt, completion, reference in zip(prompts, completions, references, strict=True):
        known = sum(letter in (reference or "") for letter in completion)
        found.append((known + 0.5 * completion.count(prompt[-1])) / (1 + len(completion)))
    return found
