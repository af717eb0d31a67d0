"""Students on their own outputs: against loops over sentences in fp64, and identities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.evaluation.test_analyses import ends
from tests.evaluation.test_systems import (
    BAD,
    EXAMPLES,
    GOOD,
    REFERENCES,
    SETTINGS,
    TOKENIZER,
    FixedGenerator,
    system,
)
from tests.generation.families import build_tiny
from tests.tiny import EOS, VOCAB, collator, random_examples, tiny_adapter, tiny_model
from transformers import PreTrainedModel

from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation import on_policy
from seqdistill.evaluation.on_policy import (
    compared_on_own_samples,
    compared_with_teacher,
    forced,
    texts_after_wrong_token,
)
from seqdistill.evaluation.systems import evaluate_system
from seqdistill.generation.decoding import Hypothesis
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.overlap import TOP_K
from seqdistill.recipe.schema import EvaluationSection
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Value

SHARED = VOCAB - 3
SAMPLES = random_examples(12, vocab_size=SHARED)


@torch.no_grad()
def naive_log_probs(model: PreTrainedModel, example: EncodedExample) -> np.ndarray:
    """(positions, SHARED) by the model's own logits, of one sentence, in fp64."""
    target = list(example.target_ids)
    if model.config.is_encoder_decoder:
        read = torch.tensor([[EOS, *target[:-1]]])
        source = torch.tensor([example.source_ids])
        logits = model(input_ids=source, decoder_input_ids=read).logits[0]
    else:
        whole = torch.tensor([[*example.source_ids, *target[:-1]]])
        logits = model(input_ids=whole).logits[0, len(example.source_ids) - 1 :]
    log_probs: np.ndarray = logits[:, :SHARED].log_softmax(-1).numpy()
    return log_probs


@pytest.mark.parametrize(
    ("name", "batch_tokens"),
    [("mbart", 30), ("marian", 4096), ("t5", 1), ("llama", 1), ("llama", 30), ("gemma2", 4096)],
)
def test_kl_and_overlap_equal_full_softmaxes_of_one_sentence_at_a_time(
    name: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_policy, "CHUNK_LOGITS", 5 * SHARED)  # several chunks in a batch
    student, teacher = (SequenceModel(tiny_model(name, seed=seed).double()) for seed in (0, 5))
    found = compared_with_teacher(
        student,
        teacher,
        SAMPLES,
        collator(student.kind),
        vocab_size=SHARED,
        batch_tokens=batch_tokens,
    )
    for place, sample in enumerate(SAMPLES):
        own, its = (naive_log_probs(adapted.module, sample) for adapted in (student, teacher))
        q, p = np.exp(own), np.exp(its)
        shared = [
            sum(
                q[t, i] for i in set((-own[t]).argsort()[:TOP_K]) & set((-its[t]).argsort()[:TOP_K])
            )
            for t in range(len(sample.target_ids))
        ]
        reverse, forward = (q * (own - its)).sum(axis=1), (p * (its - own)).sum(axis=1)
        assert found.kl_student_teacher[place] == pytest.approx(reverse, rel=1e-6)
        assert found.kl_teacher_student[place] == pytest.approx(forward, rel=1e-6)
        assert found.topk_overlap[place] == pytest.approx(shared, rel=1e-6, abs=1e-12)
        assert found.acceptance[place] == pytest.approx(np.minimum(q, p).sum(axis=1), rel=1e-6)


@pytest.mark.parametrize("name", ["mbart", "llama"])
def test_a_model_is_at_no_distance_from_itself_and_shares_all_but_its_tail(name: str) -> None:
    model = SequenceModel(tiny_model(name).double())
    found = compared_with_teacher(model, model, SAMPLES, collator(model.kind), vocab_size=SHARED)
    for place, sample in enumerate(SAMPLES):
        probs = np.exp(naive_log_probs(model.module, sample))
        tail = np.sort(probs, axis=1)[:, :-TOP_K].sum(axis=1)
        assert found.topk_overlap[place] == pytest.approx(1.0 - tail, rel=1e-9)
        assert not found.kl_student_teacher[place].any()
        assert not found.kl_teacher_student[place].any()
        assert (found.acceptance[place] == 1.0).all()


def written(*rows: tuple[int, ...]) -> FixedGenerator:
    """The rows as samples of the first sources, and of the others a lone end."""
    ids = [*rows, *[(EOS,)] * (len(EXAMPLES) - len(rows))]
    return FixedGenerator(
        {
            example.source_ids: [Hypothesis(row, -1.0, row[-1:] == (EOS,))]
            for example, row in zip(EXAMPLES, ids, strict=True)
        }
    )


def test_every_token_of_the_samples_weighs_alike_and_ids_of_one_model_alone_end_them() -> None:
    student, teacher = tiny_adapter("mbart"), tiny_adapter("mbart", seed=5)
    generator = written((5, 6, 7, EOS), (8, VOCAB - 1, 9, EOS), ())
    given = (generator, student, teacher, EXAMPLES, collator("seq2seq"), SETTINGS)
    found = compared_on_own_samples(*given, vocab_size=VOCAB - 1)
    assert generator.asked[0][1] == Decoding(mode="sample", max_new_tokens=12)
    samples = [
        example.answered(ids)
        for example, ids in zip(EXAMPLES, [(5, 6, 7, EOS), (8,), (), (EOS,)], strict=True)
        if ids
    ]
    values = compared_with_teacher(
        student, teacher, samples, collator("seq2seq"), vocab_size=VOCAB - 1
    )
    for name, own in (
        ("kl_student_teacher", values.kl_student_teacher),
        ("kl_teacher_student", values.kl_teacher_student),
        ("topk_overlap", values.topk_overlap),
        ("acceptance", values.acceptance),
    ):
        value: Value = found[f"{name}_own"]  # type: ignore[literal-required]
        assert ends(value)[1] == pytest.approx(np.concatenate(own).mean())
    nothing = FixedGenerator({e.source_ids: [Hypothesis((), 0.0, False)] for e in EXAMPLES})
    assert compared_on_own_samples(nothing, *given[1:], vocab_size=VOCAB) == {}


def naive_variants(name: str, source: tuple[int, ...], length: int) -> dict[str, int]:
    """The greedy text with another token at each of the first `length` places, and the place."""
    model, longest = tiny_model(name, vocab_size=len(TOKENIZER)), SETTINGS.section.max_new_tokens
    variants = {}
    for place in range(length):
        ids: list[int] = []
        while len(ids) < longest and ids[-1:] != [EOS]:
            named = {"input_ids": torch.tensor([[*source, *ids]])}
            if model.config.is_encoder_decoder:
                read = torch.tensor([[EOS, *ids]])
                named = {"input_ids": torch.tensor([source]), "decoder_input_ids": read}
            with torch.no_grad():
                order = model(**named).logits[0, -1].argsort(descending=True).tolist()
            second = next(token for token in order[1:] if token != EOS)
            ids.append(second if len(ids) == place else order[0])
        variants[TOKENIZER.decode(ids, skip_special_tokens=True).strip()] = place
    return variants


@pytest.mark.parametrize("name", ["mbart", "llama"])
def test_one_token_of_the_systems_own_output_is_another_and_the_rest_is_greedy(name: str) -> None:
    adapter = SequenceModel(tiny_model(name, vocab_size=len(TOKENIZER)))
    generator = TransformersGenerator(adapter.module, TOKENIZER, kind=adapter.kind)
    sources = [example.source_ids for example in EXAMPLES]
    greedy = [best for (best,) in generator.generate(sources, SETTINGS.greedy)]
    shown = TOKENIZER.batch_decode([g.content_ids for g in greedy], skip_special_tokens=True)
    plain = tuple(text.strip() for text in shown)
    variants = [
        naive_variants(name, source, len(best.content_ids))
        for source, best in zip(sources, greedy, strict=True)
    ]

    def after(seed: int, best: list[Hypothesis]) -> tuple[str, ...] | None:
        settings = dataclasses.replace(SETTINGS, seed=seed)
        return texts_after_wrong_token(adapter, TOKENIZER, EXAMPLES, best, settings)

    places = set()
    for seed in range(1, 5):
        found = after(seed, greedy)
        assert found is not None and found == after(seed, greedy)
        for text, of_source in zip(found, variants, strict=True):
            places.add(of_source[text])
    assert len(places) > 5, "places must differ between sources and seeds"
    empty = [Hypothesis((EOS,), 0.0, True)] * len(EXAMPLES)
    assert after(1, empty) == plain, "where there is no token none is forced"


def test_the_score_after_a_wrong_token_stands_beside_what_it_keeps() -> None:
    metrics = corpus_metrics()
    before = metrics["bleu"].statistics(GOOD, REFERENCES)
    found = forced(BAD, before, REFERENCES, SETTINGS)
    after = metrics["bleu"].statistics(BAD, REFERENCES).score().value
    assert list(found.scores) == ["bleu", "chrf"]
    assert found.scores["bleu"].value == pytest.approx(after)
    assert found.kept == pytest.approx(after / before.score().value)
    errors = dataclasses.replace(SETTINGS, metrics=("sequence_error_rate",))
    half = [*REFERENCES[:2], *BAD[2:]]
    whole = metrics["sequence_error_rate"].statistics(REFERENCES, REFERENCES)
    assert forced(half, whole, REFERENCES, errors).kept == 0.5


def test_a_model_that_cannot_write_token_by_token_goes_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny = build_tiny("rwkv")
    examples = [EncodedExample("1", tuple(tiny.sources[0]), ())]
    hypotheses = [Hypothesis((4, 5), -1.0, False)]
    found = texts_after_wrong_token(
        SequenceModel(tiny.model), tiny.tokenizer, examples, hypotheses, SETTINGS
    )
    assert found is None
    assert "no token is forced into the outputs" in caplog.text


def test_nothing_is_forced_unless_the_settings_ask_for_it() -> None:
    answers = {e.source_ids: [Hypothesis((5, EOS), -1.0, True)] for e in EXAMPLES}
    tested = system(FixedGenerator(answers))
    plain = evaluate_system(tested, REFERENCES, SETTINGS, teacher=None)
    assert plain.row.forced is None and plain.forced_texts is None
    section = EvaluationSection.model_validate({**SETTINGS.section.model_dump(), "on_policy": True})
    asked = dataclasses.replace(SETTINGS, section=section)
    found = evaluate_system(tested, REFERENCES, asked, teacher=None)
    assert found.row.forced is not None and len(found.forced_texts or ()) == len(EXAMPLES)
    more = found.row.columns().keys() - plain.row.columns().keys()
    assert {"bleu_forced", "bleu_forced_low", "chrf_forced"} <= more
