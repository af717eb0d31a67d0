"""One real update of every preset has the gradient that its paper's formula gives, naively taken.

Training is run as users run it. What it learned from is kept; the same gradient then comes from
both models' plain logits, one sequence at a time, with nothing padded, masked or shared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs import naive
from tests.jobs.runs import folder_for, recipe_in, texts, trained
from tests.tiny import character_tokenizer, tiny_model
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import PreTrainedModel

from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.sequences import build_source
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.origins import Origin
from seqdistill.data.encoding import EncodedExample
from seqdistill.jobs import training
from seqdistill.recipe.stages import stage_presets, stage_recipe
from seqdistill.sources.completions import Completion, PromptCompletions, SequenceSource
from seqdistill.sources.rollouts import OnCompletions
from seqdistill.sources.stored import PrefetchedSource

UPDATES = 3


def only(origin: str) -> dict[str, Any]:
    """The token weight that keeps sequences of one origin."""
    return {"kind": "origin", "origins": [origin]}


NLL: dict[str, Any] = {"divergence": "negative_log_likelihood"}
HALVES: list[dict[str, Any]] = [
    {"divergence": "negative_log_likelihood", "weight": 0.5},
    {"divergence": "cross_entropy", "weight": 0.5},
]
MINILLM: list[dict[str, Any]] = [
    {"divergence": "reverse_kl", "token_weights": ["importance", only("teacher_mixed")]},
    {
        "divergence": "negative_log_likelihood",
        "token_weights": [{"kind": "sequence_reverse_kl", "clip": 0.2}, only("teacher_mixed")],
    },
    {"divergence": "negative_log_likelihood", "token_weights": [only("reference")]},
]
DISTILLM_2: list[dict[str, Any]] = [
    {"divergence": "skew_forward_kl", "alpha": 0.1, "token_weights": [only("teacher")]},
    {"divergence": "skew_reverse_kl", "alpha": 0.1, "token_weights": [only("student")]},
]
GKD_RL: list[dict[str, Any]] = [
    {"divergence": "negative_log_likelihood", "token_weights": "advantages", "weight": 0.5},
    {"divergence": "reverse_kl", "weight": 0.5},
]
DISTIL_WHISPER: list[dict[str, Any]] = [
    {"divergence": "forward_kl", "weight": 0.8},
    {"divergence": "negative_log_likelihood", "weight": 1.0},
]
TIP: list[dict[str, Any]] = [{"divergence": "reverse_kl", "token_weights": "top_tokens"}]
PACED: list[tuple[list[dict[str, Any]], str, str]] = [
    ([{"divergence": "forward_kl", "token_weights": "pass_rate"}], "sequence", "teacher"),
    ([{"divergence": "reverse_kl", "token_weights": "pass_rate"}], "sequence", "student"),
]
"""The two stages of the preset of that name."""
# preset: the terms of its paper, how they are reduced, and who may have written at which update.
PAPERS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "baseline": ([NLL], "token", "reference"),
    "word_kd": (HALVES, "token", "reference"),
    "seq_kd": ([NLL], "token", "teacher"),
    "seq_kd_word_kd": (HALVES, "token", "teacher"),
    "distil_whisper": (DISTIL_WHISPER, "token", "teacher"),
    "seq_inter": ([NLL], "token", "teacher"),
    "prune": ([NLL], "token", "teacher"),
    "self_distill": (HALVES, "token", "reference"),
    "supervised_kd": ([{"divergence": "forward_kl"}], "sequence", "reference"),
    "akl": ([{"divergence": "adaptive_kl", "head_mass": 0.5}], "token", "reference"),
    "taid": ([{"divergence": "interpolated_forward_kl"}], "token", "reference"),
    "on_policy_kd": ([{"divergence": "forward_kl"}], "sequence", "student"),
    "gkd": ([{"divergence": "jensen_shannon", "beta": 0.5}], "sequence", "student or reference"),
    "adaptive_gkd": (
        *([{"divergence": "jensen_shannon", "beta": 0.5, "scale": "gradient"}], "sequence"),
        "student or reference",
    ),
    "imitkd": ([{"divergence": "forward_kl"}], "token", "student or reference"),
    "f_distill": ([{"divergence": "total_variation"}], "token", "student and teacher"),
    "distillm": ([{"divergence": "skew_reverse_kl", "alpha": 0.1}], "token", "student"),
    "distillm_2": (DISTILLM_2, "sequence", "student and teacher"),
    "minillm": (MINILLM, "sum", "teacher_mixed and reference"),
    "distill_spec": ([{"divergence": "neg_log_acceptance"}], "sequence", "student"),
    "gkd_rl": (GKD_RL, "sequence", "student"),
    "tip": (TIP, "token", "student"),
    "near_policy": ([{"divergence": "forward_kl"}], "token", "student"),
    "opsd": ([{"divergence": "jensen_shannon", "beta": 0.5}], "sequence", "student"),
    "paced_self": PACED[1],
    "context_distill": ([{"divergence": "forward_kl"}], "token", "reference"),
}
PAPERS |= {
    "uld": ([NLL, {"divergence": "uld", "weight": 1.5}], "token", "teacher"),
    "alm": ([{"divergence": "chunk_likelihood"}], "token", "reference"),
}
"""Of one tokenizer; see test_other_tokenizers.py."""
OF_LLMS = ("word_kd", "seq_kd", "seq_inter", "gkd", "minillm", "distillm_2", "gkd_rl", "opsd")
"""A preset of each way of getting sequences; who wrote what a decoder reads decides no formula."""
TAUGHT_BY_THEMSELVES = ("opsd", "paced_self", "context_distill")
OWN_SETTINGS: dict[str, dict[str, object]] = {
    # Of text, and from the student that the test has.
    "distil_whisper": {
        "student.init": "pretrained",
        "student.decoder_layers": None,
        "sequences.max_word_error_rate": None,
        "sequences.decoding.batch_tokens": 1000,
    },
    # As it becomes where dev keeps getting worse: the student writes all, later ones are kept ones.
    "distillm": {
        "sequences.mixture.student_fraction": 1.0,
        "training.eval_every": None,
    },
    "near_policy": {"sequences.near_policy.sync_every": 2},
    "uld": {"sequences.decoding.beam_size": 5},  # of which more come to an end
    "seq_inter": {"sequences.decoding.beam_size": 4, "sequences.decoding.n_best": 4},
    "gkd_rl": {"objective.reward.function": "tests.jobs.naive:letters_of_the_reference"},
}


@dataclasses.dataclass
class Update:
    """What an update learned from and what it was about to do to which weights."""

    written: list[Completion]
    weights: dict[str, Tensor]
    gradient: dict[str, Tensor]


class Spy:
    """Stands between training and its source, and before the optimizer."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self._written: list[Completion] = []
        self._stored: dict[str, Completion] = {}
        self._model: PreTrainedModel | None = None

    def build_source(
        self,
        prepared: Prepared,
        examples: Sequence[EncodedExample],
        *,
        on_completions: OnCompletions | None = None,
        **places: Any,
    ) -> SequenceSource:
        """The recipe's own source, which tells of its sequences."""
        self._model = prepared.student.model
        rolls_out = prepared.recipe.sequences.rolls_out

        def heard(update: int, found: PromptCompletions) -> None:
            self._written += found.listed()
            if on_completions is not None:
                on_completions(update, found)

        source = _BUILD_SOURCE(prepared, examples, on_completions=heard, **places)
        if not rolls_out:
            who: Origin = "teacher" if prepared.recipe.sequences.decoded_by_teacher else "reference"
            self._stored = {one.id: Completion(one, who) for one in examples}
        return source

    def handed_out(self, source: PrefetchedSource) -> SequenceBatch:
        """The next batch of stored sequences, as training gets it."""
        batch = _NEXT_BATCH(source)
        self._written += [self._stored[name] for name in batch.example_ids]
        return batch

    def before_step(self, *_: Any) -> None:
        """Keeps what the optimizer is about to see."""
        assert self._model is not None
        weights = self._model.state_dict()
        gradient = {name: value.grad for name, value in self._model.named_parameters()}
        self.updates.append(
            Update(
                self._written,
                {name: value.clone() for name, value in weights.items()},
                {name: value.clone() for name, value in gradient.items() if value is not None},
            )
        )
        self._written = []


_BUILD_SOURCE, _NEXT_BATCH = build_source, PrefetchedSource.next_batch


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    spying = Spy()
    monkeypatch.setattr(training, "build_source", spying.build_source)
    monkeypatch.setattr(PrefetchedSource, "next_batch", lambda source: spying.handed_out(source))
    handle = register_optimizer_step_pre_hook(spying.before_step)
    yield spying
    handle.remove()


def hint(source: str) -> str:
    """What a teacher reads in the place of a source that knows more."""
    return f"{source[::-1]}."


def scored(
    update: Update, student: PreTrainedModel, teacher: PreTrainedModel, kind: str, preset: str
) -> list[naive.Scored]:
    found = []
    tokenizer = character_tokenizer(closes=kind == "mbart")
    advantages = naive_advantages(update.written, kind)
    for one, advantage in zip(update.written, advantages, strict=True):
        (source, targets), sampled = (one.example.source_ids, one.example.target_ids), None
        own = naive.plain_logits(student, source, targets)
        if preset in TAUGHT_BY_THEMSELVES:
            text = str(tokenizer.decode(source, skip_special_tokens=True))
            source = tuple(tokenizer(hint(text)).input_ids)
        with torch.no_grad():
            others = naive.plain_logits(teacher, source, targets)
        if one.origin == "teacher_mixed":
            mixed = (0.2 * others.softmax(-1) + 0.8 * own.detach().softmax(-1)).log()
            sampled = naive.log_probs(mixed, targets)
        extras = one.example.extras
        found.append(naive.Scored(targets, own, others, one.origin, sampled, advantage, extras))
    return found


def naive_advantages(written: Sequence[Completion], kind: str) -> list[float]:
    """The reward less the mean of the prompt's other samples, where anything was rewarded."""
    if all(one.reward is None for one in written):
        return [0.0] * len(written)
    tokenizer = character_tokenizer(closes=kind == "mbart")

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    prompts = [text(one.example.source_ids) for one in written]
    rewards = naive.letters_of_the_reference(
        prompts,
        [text(one.example.target_ids) for one in written],
        [prompt[::-1] for prompt in prompts],  # the references of `save_pairs`
    )
    found = []
    asked = [one.example.id for one in written]
    for place, name in enumerate(asked):
        others = [r for at, r in enumerate(rewards) if asked[at] == name and at != place]
        found.append(rewards[place] - sum(others) / len(others))
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind a folder with data and models."""
    found = {kind: folder_for(tmp_path_factory.mktemp(kind), kind) for kind in ("mbart", "llama")}
    # Of these weights the outputs of a beam search come to an end more often than not.
    tiny_model("llama", seed=12).save_pretrained(found["llama"] / "teacher")
    for folder in found.values():
        header, *rows = (folder / "train.tsv").read_text("utf-8").splitlines()
        lines = [f"{header}\tpass_rate\thint"]
        lines += [f"{row}\t{n % 5 / 4}\t{hint(row.split(chr(9))[0])}" for n, row in enumerate(rows)]
        (folder / "more.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


@pytest.mark.parametrize(
    ("preset", "kind"), [*((p, "mbart") for p in PAPERS), *((p, "llama") for p in OF_LLMS)]
)
def test_the_gradient_of_each_update_is_the_papers(
    places: dict[str, Path], tmp_path: Path, spy: Spy, preset: str, kind: str
) -> None:
    given = {**few_updates(tmp_path), **OWN_SETTINGS.get(preset, {})}
    if preset in TAUGHT_BY_THEMSELVES:
        given |= {"teacher.model": "student", "teacher.prompt_column": "hint"}
        given["data.train"] = str(places[kind] / "more.tsv")
    trained(recipe_in(places[kind], preset, *texts(given)))
    assert_of_the_paper(PAPERS[preset], places[kind], spy, kind, preset)


@pytest.mark.parametrize("stage", range(len(PACED)))
def test_the_gradient_of_each_stage_of_paced_is_the_papers(
    places: dict[str, Path], tmp_path: Path, spy: Spy, stage: int
) -> None:
    kind = ("mbart", "llama")[stage]
    place = places[kind]
    given = {**few_updates(tmp_path), "data.train": str(place / "more.tsv")}
    length = "stages.1.settings.sequences.rollouts.max_new_tokens=8"
    chain = recipe_in(place, "paced", *texts(given), length)
    trained(stage_recipe(chain, stage, start_from=str(place / "student") if stage else None))
    assert_of_the_paper(PACED[stage], place, spy, kind, "paced")


def few_updates(folder: Path) -> dict[str, object]:
    return {
        "data.dev": None,
        "training.steps": UPDATES,
        "training.max_grad_norm": 1e9,
        "training.dropout": 0.0,
        "training.batch_tokens": 50,
        "training.gradient_accumulation_steps": 2,
        "output_dir": str(folder / "run"),
    }


def assert_of_the_paper(
    paper: tuple[list[dict[str, Any]], str, str], place: Path, spy: Spy, kind: str, preset: str
) -> None:
    terms, reduction, writers = paper
    assert len(spy.updates) == UPDATES
    assert_written_by(writers, spy.updates)
    taught_by = "student" if preset in TAUGHT_BY_THEMSELVES else "teacher"
    student, teacher = (naive.plain_model(place / who) for who in ("student", taught_by))
    for number, update in enumerate(spy.updates):
        if preset == "taid":  # from 0.4 to 1, never behind a straight line
            terms = [{**terms[0], "start_fraction": (0.4, 0.7, 1.0)[number]}]
        own = dict(student.named_parameters())
        student.load_state_dict(update.weights)
        sequences = scored(update, student, teacher, kind, preset)
        loss = naive.loss(sequences, terms, reduction=reduction)
        gradient = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        assert_same_gradient(update, dict(zip(own, gradient, strict=True)), preset)
        if preset == "adaptive_gkd":  # beta is the mean of what both models have in common
            beta = terms[0]["beta"]
            bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
            common = 1 - float(loss.detach()) * beta * (1 - beta) / bound
            terms = [{**terms[0], "beta": beta + (common - beta) / 20}]


def assert_written_by(writers: str, updates: Sequence[Update]) -> None:
    """`and`: both in every update. `or`: each in some."""
    each = [{one.origin for one in update.written} for update in updates]
    if " or " in writers:
        assert set().union(*each) == set(writers.split(" or "))
    else:
        assert all(found == set(writers.split(" and ")) for found in each)


def assert_same_gradient(update: Update, expected: dict[str, Tensor | None], preset: str) -> None:
    present = {name: value for name, value in expected.items() if value is not None}
    assert present.keys() == update.gradient.keys()
    if preset == "prune":  # what is zero has no gradient, and is to stay zero
        pruned = {
            name: value == 0 if value.ndim == 2 else torch.zeros_like(value, dtype=torch.bool)
            for name, value in update.weights.items()
        }
        assert sum(int(mask.sum()) for mask in pruned.values()) > 1000
        present = {name: value.masked_fill(pruned[name], 0.0) for name, value in present.items()}
    largest = max(float(value.abs().max()) for value in present.values())
    assert largest > 1e-3
    for name, value in present.items():
        torch.testing.assert_close(
            update.gradient[name].double(), value, rtol=1e-4, atol=1e-5 * largest, msg=name
        )


def test_every_preset_has_its_paper() -> None:
    of_layers = {"hidden_states", "minilm"}  # see test_features.py
    assert {*PAPERS} | of_layers == {*stage_presets()}
