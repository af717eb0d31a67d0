"""The main measurements of this package on a user's own models, briefly.

    steps     forward, loss and backward of the same batches: supervised and distilled, against
              plain transformers; on-policy against learning what it wrote, once more, without
              writing it. No form has the optimizer's step.
    writing   the student's samples and the teacher's beams against `generate` of transformers, on
              prompts sorted by length, in that of a few batch sizes which was fastest
    loss      of as many positions as a batch has, fused against materialized: time and memory

Forms take turns (`measuring.in_turns`); a ratio is of two that stood side by side in a round. Plain
transformers has the same weights and arithmetic, and its own choice of attention. Nothing is
trained and nothing is written.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from seqdistill.assembly.comparing import check_vocabularies
from seqdistill.assembly.data import collator_for
from seqdistill.assembly.decoding import build_generator, labelling_engine
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_sampler, with_rollout_engine
from seqdistill.compression.layers import parameter_count
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import UserError, is_out_of_memory
from seqdistill.core.progress import Progress
from seqdistill.core.scores import NoScores, TeacherScores
from seqdistill.core.source import Source
from seqdistill.core.terms import Term
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.sampling import Sampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.label import spread
from seqdistill.jobs.loss_forms import Form, LossProblem, Shape, peak_bytes
from seqdistill.jobs.measuring import Spread, in_turns
from seqdistill.jobs.rollout_engine import RolloutEngine, rollout_engine_for
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel
from seqdistill.models.modalities import modality_of
from seqdistill.models.placement import device_of, use_fast_attention
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.recipe.systems import trainings
from seqdistill.records.environment import environment_facts
from seqdistill.sources.rollouts import RolloutBatches, RolloutSampler
from seqdistill.sources.stored import StoredSequences
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.training.optimization import StudentLoss

_NUM_BATCHES = 3
"""Different ones, which the rounds go through."""
_BATCH_SIZES = (8, 32, 128)
"""That `generate` is tried with."""
_SECONDS = {"steps": 30.0, "writing": 12.0, "loss": 8.0}
"""Of all rounds, where the least number of rounds does not take longer."""
_ROUND_SECONDS = 4.0
"""Of `generate`'s part of a round: so many prompts are taken, within limits."""
_FEWEST, _MOST = 16, 128

Unit = Literal["s", "tokens/s", "sentences/s", "bytes"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One thing, measured beside another; `ratio` is ours over the other's, round by round."""

    name: str
    against: str
    unit: Unit
    ours: Spread
    theirs: Spread
    ratio: Spread
    rounds: int
    facts: Mapping[str, object]

    @classmethod
    def of(
        cls,
        name: str,
        against: str,
        unit: Unit,
        facts: Mapping[str, object],
        ours: Sequence[float],
        theirs: Sequence[float],
    ) -> Comparison:
        """Of values that belong together one by one."""
        ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
        spreads = {"ours": ours, "theirs": theirs, "ratio": ratios}
        found = {key: Spread.of(values) for key, values in spreads.items()}
        return cls(name, against, unit, **found, rounds=len(ratios), facts=facts)


@dataclasses.dataclass(frozen=True)
class Measured:
    """All comparisons, and why some are missing."""

    facts: Mapping[str, object]
    comparisons: tuple[Comparison, ...]
    not_measured: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """For a file: versions, machine, models, and a row a comparison."""
        rows = [dataclasses.asdict(each) for each in self.comparisons]
        return {**self.facts, "rows": rows, "not_measured": dict(self.not_measured)}


def bench(recipe: Recipe, *, progress: Progress) -> Measured:
    """Measures the recipe's models on its data. Raises UserError for what `prepare` refuses.

    Of a comparison the first method that asks the teacher is taken, of a chain its first stage.
    """
    bench = _Bench(prepare(_one_of(recipe)))
    parts: dict[str, Callable[[], Iterator[Comparison]]] = {
        "steps": bench.steps,
        "sampling": bench.sampling,
        "labelling": bench.labelling,
        "loss": bench.loss,
    }
    found, missing = list[Comparison](), dict[str, str]()
    progress.start("measuring", len(parts))
    for name, measure in parts.items():
        try:
            found += measure()
        except UserError as error:
            missing[name] = str(error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            missing[name] = "memory ran out; lower training.batch_tokens"
        progress.advance(1, f"{name} done")
    progress.finish()
    if bench.rollout_engine is not None and bench.rollout_engine.seconds:
        progress.echo(f"rollouts by {bench.rollout_engine}")
    return Measured(bench.facts(), tuple(found), bench.missing | missing)


def _one_of(recipe: Recipe) -> Recipe:
    members = trainings(recipe)[: 1 if recipe.stages else None]
    chosen = next((member for member in members if member.objective.asks_teacher), members[0])
    # The teacher itself is measured, not what was kept of it.
    live = chosen.teacher.model_copy(update={"kept_scores": None})
    chosen = chosen.model_copy(update={"teacher": live})
    sequences = chosen.sequences
    if sequences.rolls_out:
        return chosen
    # Its student samples here alone: sequences as long as those that it learns from.
    longest = {"max_new_tokens": sequences.decoding.max_new_tokens}
    rollouts = sequences.rollouts.model_copy(update=longest)
    return chosen.model_copy(
        update={"sequences": sequences.model_copy(update={"rollouts": rollouts})}
    )


class _Bench:
    """The models of a recipe, and the batches that all forms have."""

    def __init__(self, prepared: Prepared) -> None:
        recipe = prepared.recipe
        self._recipe, self._device = recipe, device_of(recipe.training.device)
        if recipe.training.threads is not None:
            torch.set_num_threads(recipe.training.threads)
        longest = recipe.sequences.rollouts.max_new_tokens
        train = with_placeholder_targets(prepared.train, max_tokens=longest)
        asked = prepared.asks_teacher and bool(prepared.teachers)
        self._prepared = dataclasses.replace(prepared, train=train, asks_teacher=asked)
        self._student = prepared.student.model.to(self._device)
        self._attention = self._student.config._attn_implementation
        use_fast_attention(self._student, self._device)
        self._fast_attention = self._student.config._attn_implementation
        self.missing: dict[str, str] = {}
        self.rollout_engine: RolloutEngine | None = None
        """Known when something was sampled."""
        self._vocab_size: int | None = None
        teacher = prepared.teacher
        if teacher is None:
            self.missing["distillation"] = "the recipe names no teacher.model"
        else:
            if recipe.teacher.members:
                self.missing["other teachers"] = f"of several the first, {teacher.name}, is taken"
            teacher.model.to(self._device).requires_grad_(False).eval()
            try:
                self._vocab_size = check_vocabularies(prepared.student, teacher)
            except UserError as error:
                self.missing["distillation"] = str(error)
        collator, tokens = collator_for(prepared.student), recipe.training.batch_tokens
        self._places = functools.partial(
            EpochBatches, train, collator.kind, batch_tokens=tokens, seed=recipe.seed
        )
        source = StoredSequences(train, collator, self._places())
        self._batches = [source.next_batch().to(self._device) for _ in range(_NUM_BATCHES)]
        compared = (
            term.divergence
            for term in recipe.objective.built_terms()
            if term.compares_all
            and term.divergence.member.state is None
            and not term.divergence.member.of_chunks
        )
        self._divergence = next(compared, Term.of("forward_kl").divergence)

    def facts(self) -> dict[str, object]:
        """What was measured, and on what."""
        models = {"student": self._prepared.student, "teacher": self._prepared.teacher}
        gpu = self._device.type == "cuda"
        return {
            "method": self._recipe.method,
            "models": {who: _about(pair) for who, pair in models.items() if pair is not None},
            "device": torch.cuda.get_device_name(self._device) if gpu else "cpu",
            "precision": self._prepared.precision,
            "threads": torch.get_num_threads(),
            "divergence": self._divergence.member.name,
            "batch_tokens": self._recipe.training.batch_tokens,
            "rollout_engine": self.rollout_engine and dataclasses.asdict(self.rollout_engine),
            **environment_facts(),
        }

    def steps(self) -> Iterator[Comparison]:
        """Forward, loss and backward."""
        nll = self._loss(Term.of("negative_log_likelihood"))
        forms: dict[str, Callable[[int], Tensor]] = {
            "supervised": lambda n: nll(self._batch(n), NoScores()),
            "plain": lambda n: self._plain_nll(self._batch(n)),
        }
        teacher = self._prepared.teacher
        if teacher is not None and self._vocab_size is not None:
            distilled = self._loss(Term(self._divergence))
            scorer = InProcessTeacher(SequenceModel(teacher.model), vocab_size=self._vocab_size)

            def learned(batch: SequenceBatch) -> Tensor:
                return distilled(batch, scorer.score(batch))

            rollouts, written = self._rollouts(), list[SequenceBatch]()

            def on_policy(number: int) -> Tensor:
                rollouts.begin_update(number + 1, number + 1)
                written[:] = [rollouts.next_batch().to(self._device)]
                return learned(written[0])

            forms |= {
                "distilled": lambda n: learned(self._batch(n)),
                "plain distilled": lambda n: self._plain_divergence(self._batch(n), teacher.model),
                "on-policy": on_policy,
                "of what was written": lambda _n: learned(written[0]),
            }
        self._student.train()
        taken = in_turns(
            {form: self._with_backward(call) for form, call in forms.items()},
            before=self._before,
            seconds=_SECONDS["steps"],
            device=self._device,
        )
        self._use(self._fast_attention)
        targets = round(sum(batch.num_targets for batch in self._batches) / len(self._batches))
        pairs = (
            ("supervised step", "transformers", "supervised", "plain"),
            ("distillation step", "transformers", "distilled", "plain distilled"),
            ("on-policy step", "the same without writing", "on-policy", "of what was written"),
        )
        for name, against, own, other in pairs:
            if own in taken:
                walls = ([one.wall_s for one in taken[form]] for form in (own, other))
                facts = {} if own == "on-policy" else {"targets_per_batch": targets}
                yield Comparison.of(name, against, "s", facts, *walls)

    def sampling(self) -> Iterator[Comparison]:
        """The student's rollouts, in tokens: no two samplers write the same."""
        pair, sampler = self._prepared.student, self._sampler()
        decoding: Decoding = sampler.decoding  # type: ignore[attr-defined]

        def own(prompts: Sequence[Source], number: int) -> int:
            return int(sampler.sample(prompts, seed=number).lengths.sum())

        yield self._written("student sampling", "tokens/s", pair, decoding, own)

    def labelling(self) -> Iterator[Comparison]:
        """The teacher's beams of five, in sentences."""
        if (pair := self._prepared.teacher) is None:
            return
        section = self._recipe.sequences.decoding
        settings = {name: getattr(section, name) for name in Decoding.model_fields}
        decoding = Decoding(**{**settings, "mode": "beam", "beam_size": 5, "n_best": 1})
        generator: SequenceGenerator = build_generator(
            pair,
            labelling_engine(self._recipe),
            examples=self._prepared.train,
            max_new_tokens=decoding.max_new_tokens,
        )

        def own(prompts: Sequence[Source], _number: int) -> int:
            return len(generator.generate(prompts, decoding))

        yield self._written("teacher beam 5", "sentences/s", pair, decoding, own)

    def loss(self) -> Iterator[Comparison]:
        """Of random states in fp32, as wide as the models'."""
        teacher = self._prepared.teacher
        if teacher is None or self._vocab_size is None:
            return
        widths = (
            int(model.get_output_embeddings().weight.shape[1])
            for model in (self._student, teacher.model)
        )
        positions = sum(batch.num_targets for batch in self._batches) // len(self._batches)
        shape = Shape(positions, self._vocab_size, *widths)
        name, parameters = self._divergence.member.name, self._divergence.arguments()
        problem = LossProblem(shape, self._device)

        def form(which: Form) -> Callable[[int], None]:
            return lambda _number: problem.run(which, name, parameters)

        taken = in_turns(
            {"fused": form("fused"), "materialized": form("materialized")},
            before=lambda _form: problem.clear(),
            seconds=_SECONDS["loss"],
            device=self._device,
        )
        walls = ([one.wall_s for one in rounds] for rounds in taken.values())
        facts = {"divergence": name, **dataclasses.asdict(shape)}
        yield Comparison.of("loss", "materialized logits", "s", facts, *walls)
        if self._device.type == "cuda" or sys.platform == "linux":
            both: tuple[Form, Form] = ("fused", "materialized")
            peaks = ([float(peak_bytes(shape, w, name, parameters, self._device))] for w in both)
            yield Comparison.of("loss: peak memory", "materialized logits", "bytes", facts, *peaks)

    def _written(
        self,
        name: str,
        unit: Unit,
        pair: LoadedModel,
        decoding: Decoding,
        own: Callable[[Sequence[Source], int], int],
    ) -> Comparison:
        """`own` gives how many tokens or sentences it wrote for the prompts of a round."""
        plain = TransformersGenerator(pair.model, pair.tokenizer, kind=pair.kind)
        every = [example.prompt for example in spread(self._prepared.train, _MOST)]

        def generated(prompts: Sequence[Source], number: int, size: int) -> int:
            found = plain.token_ids(prompts, decoding, batch_size=size, seed=number)
            return len(found) if unit == "sentences/s" else sum(len(rows[0]) for rows in found)

        few = every[: _BATCH_SIZES[0]]
        generated(few, 0, len(few))
        a_sentence = _seconds(lambda: generated(few, 0, len(few))) / len(few)
        count = min(len(every), max(_FEWEST, int(_ROUND_SECONDS / a_sentence)))
        prompts = sorted(spread(every, count), key=len, reverse=True)
        sizes = [size for size in _BATCH_SIZES if size < count] + [count]
        best = min(sizes, key=lambda size: _seconds(lambda: generated(prompts, 0, size)))
        taken = in_turns(
            {
                "ours": lambda number: own(prompts, number),
                "generate": lambda number: generated(prompts, number, best),
            },
            seconds=_SECONDS["writing"],
            most=5,
            device=self._device,
        )
        rates = ([one.result / one.wall_s for one in rounds] for rounds in taken.values())
        facts = {"prompts": count, "batch_size_of_generate": best}
        return Comparison.of(name, f"generate, {best} at once", unit, facts, *rates)

    def _loss(self, term: Term) -> Callable[[SequenceBatch, TeacherScores], Tensor]:
        objective = WeightedObjective([term], reduction="token")
        loss = StudentLoss(self._prepared.adapted, objective).to(self._device)
        return lambda batch, scores: loss(batch, scores)[0]

    def _rollouts(self) -> RolloutBatches:
        """Rollouts of the training prompts."""
        recipe, prepared = self._recipe, self._prepared
        return RolloutBatches(
            prepared.train,
            RolloutSampler(self._sampler(), seed=recipe.seed),
            collator_for(prepared.student),
            self._places(),
        )

    def _sampler(self) -> Sampler:
        """What a run of the recipe would write with."""
        if self.rollout_engine is None:
            self.rollout_engine = rollout_engine_for(self._prepared, self._device)
            if self.rollout_engine is not None:
                self._prepared = with_rollout_engine(self._prepared, self.rollout_engine.name)
        return build_sampler(self._prepared, self._prepared.train)

    def _batch(self, number: int) -> SequenceBatch:
        return self._batches[number % len(self._batches)]

    def _with_backward(self, form: Callable[[int], Tensor]) -> Callable[[int], None]:
        enabled = self._prepared.precision == "bf16"

        def called(number: int) -> None:
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled):
                total = form(number)
            torch.autograd.backward(total)

        return called

    def _before(self, form: str) -> None:
        """Gradients are forgotten, and each form has its attention."""
        self._student.zero_grad(set_to_none=True)
        self._use(self._attention if form.startswith("plain") else self._fast_attention)

    def _use(self, attention: str) -> None:
        if self._student.config._attn_implementation != attention:
            self._student.set_attn_implementation(attention)

    def _plain_nll(self, batch: SequenceBatch) -> Tensor:
        """As transformers computes it from labels: the whole logits in fp32, -100 left out."""
        logits = _logits(self._student, batch).float()
        targets = batch.target_ids.masked_fill(~batch.target_mask, -100)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _plain_divergence(self, batch: SequenceBatch, teacher: PreTrainedModel) -> Tensor:
        """This package's plain function of the divergence, of whole logits where they count."""
        with torch.no_grad():
            taught = _logits(teacher, batch.for_teacher)[batch.for_teacher.target_mask]
        own = _logits(self._student, batch)[batch.target_mask]
        both = (each[:, : self._vocab_size].float().log_softmax(dim=-1) for each in (own, taught))
        divergence = self._divergence
        values: Tensor = divergence.member.function(*both, **divergence.arguments())
        return values.mean()


def _logits(model: PreTrainedModel, batch: SequenceBatch) -> Tensor:
    """The model's own forward pass, as anyone calls it."""
    named = {"input_ids": batch.decoder_input_ids, "attention_mask": batch.decoder_mask.long()}
    if batch.source is not None:
        named = {f"decoder_{name}": tensor for name, tensor in named.items()}
        named |= modality_of(model).arguments(batch.source)
    logits: Tensor = model(**named, use_cache=False).logits
    return logits


def _about(pair: LoadedModel) -> dict[str, object]:
    return {
        "name": pair.name,
        "architecture": type(pair.model).__name__,
        "parameters": parameter_count(pair.model),
        "vocab_size": int(pair.model.get_output_embeddings().weight.shape[0]),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
