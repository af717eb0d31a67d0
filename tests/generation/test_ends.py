"""Where sequences end: every engine and sampler stops where transformers does, called directly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.generation.conftest import END, build_tiny
from tests.generation.enumeration import listed
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seqdistill.core.batch import Kind
from seqdistill.core.errors import ModelError
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import declare_ends, facts_of, writing_below
from seqdistill.generation.sampling import TeacherMixedSampler, TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models.vocabulary import check_ends

LONGEST = 10
VOCAB = 24


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family of models says where its sequences end."""

    model: str
    eos: str
    turn_end: str
    template: str | None
    listed: bool
    """Whether the generation config lists the turn end beside the eos token."""


LLAMA_3 = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|mid|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|mid|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)
FAMILIES = {
    "llama-3": Family("llama", "<|end_of_text|>", "<|eot_id|>", LLAMA_3, listed=True),
    "llama-3 without a list": Family("llama", "<|end_of_text|>", "<|eot_id|>", LLAMA_3, False),
    "llama-3 without a template": Family("llama", "<|end_of_text|>", "<|eot_id|>", None, True),
    "qwen base with a template": Family("qwen2", "<|endoftext|>", "<|im_end|>", CHATML, False),
    "qwen": Family("qwen2", "<|endoftext|>", "<|im_end|>", CHATML, listed=True),
    "gemma": Family("gemma", "<eos>", "<end_of_turn>", GEMMA, listed=True),
    "phi": Family("mistral", "<|endoftext|>", "<|end|>", PHI, listed=False),
    "t5 with two ends": Family("t5", "</s>", "<extra>", None, listed=True),
    "marian with two ends": Family("marian", "</s>", "<extra>", None, listed=True),
    "mbart with two ends": Family("mbart", "</s>", "<extra>", None, listed=True),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@dataclasses.dataclass(frozen=True)
class Talker:
    """A model that closes its turn with `turn_end` and goes on, unless it is stopped."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    sources: list[list[int]]
    ends: list[int]
    endless: list[list[int]]
    """What it writes when nothing stops it."""
    verify_on: list[tuple[list[int], list[int]]]


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


def tokenizer_with(
    names: dict[int, str], eos: str, template: str | None
) -> PreTrainedTokenizerFast:
    words = [names.get(i, f"w{i}") for i in range(VOCAB)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(
            models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[3])
        ),
        eos_token=eos,
        unk_token=words[3],
        extra_special_tokens=[names[i] for i in names if i != END],
    )
    tokenizer.chat_template = template
    return tokenizer


def talker(name: str) -> Talker:
    family, tiny = FAMILIES[name], build_tiny(FAMILIES[name].model)
    model = tiny.model
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    endless = [directly(model, source, [VOCAB + 5]) for source in tiny.sources]
    # The turn ends with what an answer happens to say first in a late place.
    places = {i: row.index(i) for row in endless for i in row[:7] if i not in (0, 1, END, 3)}
    turn_end = max(places, key=lambda i: places[i])
    names = {END: family.eos, turn_end: family.turn_end}
    model.generation_config.eos_token_id = [END, turn_end] if family.listed else END
    tokenizer = tokenizer_with(names, family.eos, family.template)
    ends = [END, turn_end]
    closed = [(source, [4, 7, 8, ends[i % 2]]) for i, source in enumerate(tiny.sources)]
    return Talker(model, tokenizer, tiny.kind, tiny.sources, ends, endless, closed)


@every_family
def test_every_engine_stops_where_transformers_stops(name: str) -> None:
    found = talker(name)
    facts = facts_of(found.model, found.tokenizer, kind=found.kind)
    assert facts.end_ids == tuple(found.ends)
    expected = [directly(found.model, source, found.ends) for source in found.sources]
    ended = [row for row in expected if row[-1] == found.ends[1]]
    assert ended and all(len(row) < LONGEST for row in ended), "nothing to stop at"
    decoding = Decoding(beam_size=1, max_new_tokens=LONGEST)
    model, tokenizer, kind = found.model, found.tokenizer, found.kind
    fast = CTranslate2Generator(model, tokenizer, kind=kind, verify_on=found.verify_on, threads=1)
    for engine in (TransformersGenerator(model, tokenizer, kind=kind), fast):
        best = [answers[0] for answers in engine.generate(found.sources, decoding)]
        assert [list(h.token_ids) for h in best] == expected
        assert [h.finished for h in best] == [row[-1] in found.ends for row in expected]
    samplers = (
        TransformersSampler(model, tokenizer, kind=kind, decoding=decoding),
        CTranslate2Sampler(model, fast, decoding),
    )
    for sampler in samplers:
        samples = listed(sampler.sample(found.sources, seed=1))
        assert [list(s.token_ids) for s in samples] == expected
        assert [s.finished for s in samples] == [row[-1] in found.ends for row in expected]


@every_family
def test_samples_and_beams_of_every_engine_end_with_any_of_the_set(name: str) -> None:
    found = talker(name)
    model, tokenizer, kind = found.model, found.tokenizer, found.kind
    sampled = Decoding(mode="sample", n_best=4, max_new_tokens=LONGEST)
    searched = Decoding(beam_size=3, n_best=3, max_new_tokens=LONGEST)
    engines = (
        TransformersGenerator(model, tokenizer, kind=kind),
        CTranslate2Generator(model, tokenizer, kind=kind, verify_on=found.verify_on, threads=1),
    )
    outputs = [
        hypothesis
        for engine in engines
        for decoding in (sampled, searched)
        for answers in engine.generate(found.sources, decoding, seed=3)
        for hypothesis in answers
    ]
    mixture = TeacherMixedSampler(
        model,
        model,
        tokenizer,
        kind=kind,
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
    named = tuple(found.tokenizer.convert_ids_to_tokens(found.ends))
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
        assert named == ("<|end_of_text|>", "<|eot_id|>")
        assert all(repr(token) in str(refused.value) for token in named)
        assert "generation_config.json" in str(refused.value)
