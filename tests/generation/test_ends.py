"""Where sequences end: every engine and sampler stops where transformers does, called directly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.generation.enumeration import listed
from tests.generation.families import END, VOCAB, Tiny, build_tiny
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqdistill.core.errors import ModelError
from seqdistill.generation.ctranslate2_engine import CTranslate2Sampler
from seqdistill.generation.model_facts import declare_ends, facts_of, writing_below
from seqdistill.generation.sampling import TeacherMixedSampler
from seqdistill.models.vocabulary import check_ends
from seqdistill.recipe.sequences_schema import Decoding

LONGEST = 10


EOS, TURN_END = "<|end_of_text|>", "<|eot_id|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|mid|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|mid|>\n\n{% endif %}"
)
FAMILIES: dict[str, tuple[str, str | None, bool]] = {
    "llama-3": ("llama", TEMPLATE, True),
    "llama-3 without a list": ("llama", TEMPLATE, False),
    "llama-3 without a template": ("llama", None, True),
    "qwen base with a template": ("qwen2", TEMPLATE, False),
    "t5 with two ends": ("t5", None, True),
    "marian with two ends": ("marian", None, True),
    "mbart with two ends": ("mbart", None, True),
}
"""The model, its chat template, and whether the generation config lists the turn end beside the eos
token."""
every_family = pytest.mark.parametrize("name", FAMILIES)


@dataclasses.dataclass(frozen=True)
class Talker(Tiny):
    """A model that closes its turn with the second of `ends` and goes on, unless it is stopped."""

    ends: list[int]


def directly(model: PreTrainedModel, source: list[int], ends: list[int] | None) -> list[int]:
    """What transformers writes greedily after one source: no start, no prompt."""
    ids = torch.tensor([source])
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=1,
        max_new_tokens=LONGEST,
        pad_token_id=0,
        **({} if ends is None else {"eos_token_id": ends}),
    )[0].tolist()
    skipped = len(source) if not model.config.is_encoder_decoder else 1
    rest: list[int] = written[skipped:]
    return rest


def talker(name: str) -> Talker:
    model_name, template, is_listed = FAMILIES[name]
    tiny = build_tiny(model_name)
    model = tiny.model
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    endless = [directly(model, source, [VOCAB + 5]) for source in tiny.sources]
    # The turn ends with what an answer happens to say first in a late place.
    places = {i: row.index(i) for row in endless for i in row[:7] if i not in (0, 1, END, 3)}
    ends = [END, max(places, key=lambda i: places[i])]
    model.generation_config.eos_token_id = ends if is_listed else END
    named = dict(zip(ends, (EOS, TURN_END), strict=True))
    words = {named.get(i, f"w{i}"): i for i in range(VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        eos_token=EOS,
        unk_token="w3",
        extra_special_tokens=[TURN_END],
    )
    tokenizer.chat_template = template
    closed = [(source, [4, 7, 8, ends[i % 2]]) for i, source in enumerate(tiny.sources)]
    return Talker(model, tokenizer, tiny.kind, tiny.sources, closed, ends)


@every_family
def test_every_engine_stops_where_transformers_stops(name: str) -> None:
    found = talker(name)
    facts = facts_of(found.model, found.tokenizer, kind=found.kind)
    assert facts.end_ids == tuple(found.ends)
    expected = [directly(found.model, source, found.ends) for source in found.sources]
    ended = [row for row in expected if row[-1] == found.ends[1]]
    assert ended and all(len(row) < LONGEST for row in ended), "nothing to stop at"
    decoding = Decoding(beam_size=1, max_new_tokens=LONGEST)
    fast = found.fast()
    for engine in (found.plain(), fast):
        best = [answers[0] for answers in engine.generate(found.sources, decoding)]
        assert [list(h.token_ids) for h in best] == expected
        assert [h.finished for h in best] == [row[-1] in found.ends for row in expected]
    samplers = (
        found.sampler("transformers", decoding),
        CTranslate2Sampler(found.model, fast, decoding),
    )
    for sampler in samplers:
        samples = listed(sampler.sample(found.sources, seed=1))
        assert [list(s.token_ids) for s in samples] == expected
        assert [s.finished for s in samples] == [row[-1] in found.ends for row in expected]


@every_family
def test_samples_and_beams_of_every_engine_end_with_any_of_the_set(name: str) -> None:
    found = talker(name)
    sampled = Decoding(mode="sample", n_best=4, max_new_tokens=LONGEST)
    searched = Decoding(beam_size=3, n_best=3, max_new_tokens=LONGEST)
    outputs = [
        hypothesis
        for engine in (found.plain(), found.fast())
        for decoding in (sampled, searched)
        for answers in engine.generate(found.sources, decoding, seed=3)
        for hypothesis in answers
    ]
    mixture = TeacherMixedSampler(
        found.model,
        found.tokenizer,
        teacher=found.model,
        kind=found.kind,
        decoding=sampled.model_copy(update={"n_best": 1}),
        vocab_size=VOCAB,
        teacher_fraction=0.5,
    )
    samples = listed(mixture.sample(found.sources * 4, seed=5))
    written = [(output.token_ids, output.finished) for output in outputs]
    for token_ids, finished in [*written, *((s.token_ids, s.finished) for s in samples)]:
        assert not set(token_ids[:-1]) & set(found.ends)
        assert finished == (token_ids[-1] in found.ends)
        assert finished or len(token_ids) == LONGEST
    assert found.ends[1] in {token_ids[-1] for token_ids, finished in written if finished}


@every_family
def test_a_student_that_declares_its_ends_stops_there_in_plain_transformers(name: str) -> None:
    found = talker(name)
    expected = [directly(found.model, source, found.ends) for source in found.sources]
    declare_ends(found.model, found.tokenizer, kind=found.kind)
    assert [directly(found.model, source, None) for source in found.sources] == expected


def test_ends_beyond_the_output_layer_are_no_ends() -> None:
    found = talker("llama-3")
    found.model.generation_config.eos_token_id = [END, VOCAB + 9, *found.ends]
    facts = facts_of(found.model, found.tokenizer, kind="causal")
    assert facts.end_ids == tuple(found.ends)
    assert writing_below(facts, found.ends[1]).end_ids == (END,)
    with pytest.raises(ModelError, match="must be one id below"):
        writing_below(facts, END)


def test_models_that_end_with_other_sets_are_refused_naming_both() -> None:
    found = talker("llama-3")
    same = {"student_end_ids": found.ends, "teacher_end_ids": found.ends[::-1]}
    check_ends(found.tokenizer, found.tokenizer, **same)
    for student, teacher in ((found.ends[:1], found.ends), (found.ends, found.ends[:1])):
        with pytest.raises(ModelError) as refused:
            check_ends(
                found.tokenizer,
                found.tokenizer,
                student_end_ids=student,
                teacher_end_ids=teacher,
            )
        assert all(repr(token) in str(refused.value) for token in (EOS, TURN_END))
        assert "generation_config.json" in str(refused.value)
