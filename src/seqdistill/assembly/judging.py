"""From a recipe and the targets that outputs are held against to the metrics that judge them.

What the recipe leaves open (`auto`) is decided here, once and by rules that `recipe.schema` states.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.evaluation.settings import described
from seqdistill.metrics.answers import MARK
from seqdistill.metrics.corpus_metrics import LOSS, corpus_metrics
from seqdistill.metrics.scripts import NUM_READ, Units, units_of
from seqdistill.metrics.translation import bleu_tokens
from seqdistill.recipe.schema import Recipe

_LOG = logging.getLogger(__name__)
_BLEU_ORDER = 4
_TAKES_A_SENTENCE_FOR_A_WORD = ("13a", "intl", "none")


@dataclasses.dataclass(frozen=True)
class Judging:
    """How a run's outputs are judged."""

    eval_metric: str
    """What chooses checkpoints: a metric's name, or `loss`."""
    metrics: tuple[str, ...]
    """What is measured; the first is the main one."""
    units: Units
    """What they count in."""
    automatic: bool
    """Whether the data decided what the metrics are, and not the recipe."""
    has_dev: bool
    """Whether there is a dev set to choose on."""

    @property
    def dev_score(self) -> str:
        """The key of the dev score that chooses checkpoints."""
        return LOSS if self.eval_metric == "loss" else self.eval_metric

    @property
    def dev_metrics(self) -> tuple[str, ...]:
        """The metrics that dev is scored by."""
        chosen = () if self.eval_metric == "loss" else (self.eval_metric,)
        return tuple(dict.fromkeys((*self.metrics, *chosen)))

    def facts(self) -> dict[str, object]:
        """For the manifest; `dev_metrics` is what a report needs to show dev scores."""
        known = corpus_metrics(self.units)
        dev_metrics = [described(known[name]).model_dump() for name in self.dev_metrics]
        judging = {**dataclasses.asdict(self), "dev_metrics": dev_metrics, "in_words": str(self)}
        return {"judging": judging}

    def __str__(self) -> str:
        """`loss chooses checkpoints; outputs by rouge_l, exact_match (automatic)`."""
        names = [
            f"bleu (tok:{self.units.bleu_tokenizer})" if name == "bleu" else name
            for name in self.metrics
        ]
        origin = "automatic" if self.automatic else "named by the recipe"
        chooses = (
            f"{self.eval_metric} chooses checkpoints" if self.has_dev else "no dev to choose on"
        )
        return f"{chooses}; outputs by {', '.join(names)} ({origin})"


def text_units(recipe: Recipe, examples: Sequence[Example]) -> Units:
    """What metrics of these examples' targets count in."""
    return units_of(
        (example.target for example in examples if example.target),
        tokenizer=recipe.evaluation.bleu_tokenizer,
        language=recipe.data.target_language,
    )


def judging_of(recipe: Recipe, examples: Sequence[Example], kind: Kind) -> Judging:
    """How outputs for these examples are judged, by a model of that kind.

    Raises RecipeError for a tokenizer of BLEU that cannot be loaded.
    """
    units, section = text_units(recipe, examples), recipe.evaluation
    automatic = "auto" in section.metrics
    metrics = _automatic_metrics(recipe, examples, kind, units) if automatic else section.metrics
    chosen: str = recipe.training.eval_metric
    if chosen == "auto":
        if _mark_answers(examples):
            chosen = "answer_accuracy"
        else:
            chosen = "loss" if _is_free_text(examples, kind) else metrics[0]
    has_dev = recipe.data.dev is not None
    judging = Judging(chosen, tuple(metrics), units, automatic, has_dev)
    if "bleu" in judging.dev_metrics:
        bleu_tokens(units.bleu_tokenizer)  # it may have to be installed or downloaded
    return judging


def _automatic_metrics(
    recipe: Recipe, examples: Sequence[Example], kind: Kind, units: Units
) -> tuple[str, ...]:
    if ExampleTable.of(examples).has_audio:
        return ("word_error_rate", "sequence_error_rate")
    if _mark_answers(examples):
        return ("answer_accuracy",)
    if _is_free_text(examples, kind) and recipe.data.target_language is None:
        return ("rouge_l", "exact_match")
    if units.unspaced or _are_too_short(examples, units):
        return ("chrf", "bleu")
    return ("bleu", "chrf")


def _mark_answers(examples: Sequence[Example]) -> bool:
    if not examples or MARK not in (examples[0].target or ""):  # without a look at them all
        return False
    return bool(ExampleTable.of(examples).targets_hold(MARK).all())


def _is_free_text(examples: Sequence[Example], kind: Kind) -> bool:
    """Chats, and whatever decoder-only models answer."""
    return kind == "causal" or ExampleTable.of(examples).has_chats


def _are_too_short(examples: Sequence[Example], units: Units) -> bool:
    """Whether most targets hold no run of four words, without which their BLEU is 0."""
    tokens, read = bleu_tokens(units.bleu_tokenizer), examples[:NUM_READ]
    short = sum(len(tokens(example.target or "")) < _BLEU_ORDER for example in read)
    return 2 * short > len(read)


def check_judging(judging: Judging, examples: Sequence[Example], split: str) -> None:
    """Raises DataError for targets that a metric cannot compare with; warns of unfit settings."""
    metrics = corpus_metrics(judging.units)
    for name in judging.dev_metrics if split == "dev" else judging.metrics:
        lacking = next(
            (e for e in examples if not metrics[name].compares_with(e.target or "")), None
        )
        if lacking is not None:
            raise DataError(
                f"{name} must find what it compares in every target of data.{split}, but example "
                f"{lacking.id!r} has no answer in {(lacking.target or '')[:80]!r}; name another "
                "metric in evaluation.metrics and training.eval_metric"
            )
    if (
        judging.units.unspaced
        and "bleu" in judging.dev_metrics
        and judging.units.bleu_tokenizer in _TAKES_A_SENTENCE_FOR_A_WORD
    ):
        _LOG.warning(
            "evaluation.bleu_tokenizer=%s takes whole sentences for words in the targets of "
            "data.%s, which are written without spaces, so BLEU will be near 0; leave it out, or "
            "use char",
            judging.units.bleu_tokenizer,
            split,
        )
    if judging.dev_metrics[0] == "bleu" and ExampleTable.of(examples).has_chats:
        _LOG.warning(
            "evaluation.metrics names bleu first for the chats of data.%s, where it says little; "
            "leave it out for rouge_l and exact_match",
            split,
        )


def warn_of_cut_outputs(examples: Sequence[EncodedExample], most: int, split: str) -> None:
    """Says how many targets no output can equal, since outputs are cut before."""
    num_longer = int((EncodedDataset.of(examples).lengths.target > most).sum())
    if num_longer:
        _LOG.warning(
            "%d of %d targets of data.%s are longer than evaluation.max_new_tokens=%d, where "
            "outputs are cut; raise it to judge them whole",
            num_longer,
            len(examples),
            split,
            most,
        )
