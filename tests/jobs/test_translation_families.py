"""What decoders start with, held against transformers called as its users call it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch
from tests.generation.enumeration import listed
from tests.translation_families import FAMILIES, MULTILINGUAL, TEXTS

from seqdistill.assembly.data import collator_for, encode_for
from seqdistill.core.errors import RecipeError
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.scoring import token_log_probs
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models.adapters import adapt
from seqdistill.models.languages import with_languages
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.saving import save_pair

EXAMPLES = [Example(str(i), source, target) for i, (source, target) in enumerate(TEXTS)]
SOURCES, TARGETS = [source for source, _ in TEXTS], [target for _, target in TEXTS]
LONGEST = 12
multilingual = pytest.mark.parametrize("name", MULTILINGUAL)


def told(name: str) -> LoadedModel:
    languages = FAMILIES[name].languages or (None, None)
    return with_languages(FAMILIES[name].pair(), *languages)


def directly(name: str, **settings: object) -> list[list[int]]:
    """What transformers writes, start, prefix and padding included."""
    model, tokenizer, given = FAMILIES[name].oracle()
    written = []
    for source in SOURCES:
        read = tokenizer(source, return_tensors="pt")
        output = model.generate(
            input_ids=read.input_ids, attention_mask=read.attention_mask, **given, **settings
        )
        written.append(output[0].tolist())
    return written


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> tuple[str, LoadedModel, Sequence[EncodedExample]]:
    found = told(request.param)
    return request.param, found, encode_for(found, EXAMPLES, PLAIN_CHAT)


def test_sources_and_targets_are_what_the_tokenizer_makes_of_them(
    pair: tuple[str, LoadedModel, Sequence[EncodedExample]],
) -> None:
    name, found, encoded = pair
    _, tokenizer, _ = FAMILIES[name].oracle()
    facts = facts_of(found.model, found.tokenizer, kind="seq2seq")
    assert [list(e.source_ids) for e in encoded] == tokenizer(SOURCES).input_ids
    whole = [[*facts.prefix_ids, *e.target_ids] for e in encoded]
    assert whole == tokenizer(text_target=TARGETS).input_ids


def test_log_probabilities_are_those_of_labels(
    pair: tuple[str, LoadedModel, Sequence[EncodedExample]],
) -> None:
    name, found, encoded = pair
    model, tokenizer, _ = FAMILIES[name].oracle()
    facts = facts_of(found.model, found.tokenizer, kind="seq2seq")
    scored = token_log_probs(
        found.model, [(e.source_ids, e.target_ids) for e in encoded], facts=facts
    )
    batch, adapted = collator_for(found)(encoded), adapt(found.model)
    hidden = adapted.states(batch).hidden
    predicted = adapted.head.logits(hidden).log_softmax(-1)
    chosen = predicted.gather(-1, batch.target_ids[..., None])[..., 0]
    for row, (example, own) in enumerate(zip(encoded, scored, strict=True)):
        read = tokenizer(SOURCES[row], text_target=TARGETS[row], return_tensors="pt", padding=False)
        with torch.no_grad():
            logits = model(**read).logits
        counted = chosen[row][batch.target_mask[row]]
        for ours, suppressed in ((counted, []), (torch.tensor(own), [*facts.suppressed_ids])):
            logits[..., suppressed] = -torch.inf  # Marian's pad, for what decodes
            expected = logits.log_softmax(-1).gather(-1, read.labels[..., None])[0, :, 0]
            expected = expected[len(facts.prefix_ids) :]
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        assert batch.target_ids[row][batch.target_mask[row]].tolist() == list(example.target_ids)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_every_engine_writes_what_transformers_writes(
    pair: tuple[str, LoadedModel, Sequence[EncodedExample]], beam_size: int
) -> None:
    name, found, encoded = pair
    facts = facts_of(found.model, found.tokenizer, kind="seq2seq")
    num_given = 1 + len(facts.prefix_ids)
    asked = {"early_stopping": True} if beam_size > 1 else {}
    longest = LONGEST + len(facts.prefix_ids)
    written = directly(name, num_beams=beam_size, do_sample=False, max_new_tokens=longest, **asked)
    texts = FAMILIES[name].oracle()[1].batch_decode(written, skip_special_tokens=True)
    decoding = Decoding(beam_size=beam_size, max_new_tokens=LONGEST)
    sources = [e.source_ids for e in encoded]
    given: Any = (found.model, found.tokenizer)
    converted: dict[str, Any] = {
        "kind": "seq2seq",
        "verify_on": [(e.source_ids, e.target_ids) for e in encoded],
        "threads": 1,
    }
    engines = (
        TransformersGenerator(*given, kind="seq2seq"),
        CTranslate2Generator(*given, **converted),
    )
    for engine in engines:
        best = [h[0] for h in engine.generate(sources, decoding)]
        ids = [h.token_ids for h in best]
        assert found.tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
        for hypothesis, whole in zip(best, written, strict=True):
            assert list(hypothesis.token_ids) == whole[num_given:]
            assert hypothesis.finished == (whole[-1] in facts.end_ids)
        scored = token_log_probs(found.model, [*zip(sources, ids, strict=True)], facts=facts)
        assert [h.log_prob for h in best] == pytest.approx([sum(s) for s in scored], abs=1e-4)
    if beam_size == 1:
        samplers = (
            TransformersSampler(*given, kind="seq2seq", decoding=decoding),
            CTranslate2Sampler(found.model, engines[1], decoding),
        )
        for sampler in samplers:
            samples = listed(sampler.sample(sources, seed=0))
            assert [list(s.token_ids) for s in samples] == [whole[num_given:] for whole in written]


@pytest.mark.parametrize("name", ["nllb", "mbart", "t5"])
def test_a_saved_copy_says_what_ctranslate2_is_to_be_given(name: str, tmp_path: Path) -> None:
    found = told(name)
    encoded = encode_for(found, EXAMPLES, PLAIN_CHAT)
    generator = CTranslate2Generator(
        found.model,
        found.tokenizer,
        kind="seq2seq",
        verify_on=[(e.source_ids, e.target_ids) for e in encoded],
        threads=1,
    )
    generator.save(tmp_path / "copy")
    asked = json.loads((tmp_path / "copy" / "seqdistill.json").read_text("utf-8"))
    prefix: list[str] = asked["target_prefix"]
    answers = ctranslate2.Translator(str(tmp_path / "copy")).translate_batch(
        [found.tokenizer.convert_ids_to_tokens(list(e.source_ids)) for e in encoded],
        target_prefix=[prefix] * len(encoded) if prefix else None,
        end_token=asked["end_token"],
        beam_size=1,
        max_decoding_length=LONGEST + len(prefix),
        return_end_token=True,
    )
    expected = generator.generate(
        [e.source_ids for e in encoded], Decoding(beam_size=1, max_new_tokens=LONGEST)
    )
    for answer, (best,) in zip(answers, expected, strict=True):
        written = found.tokenizer.convert_tokens_to_ids(answer.hypotheses[0][len(prefix) :])
        assert tuple(written) == best.token_ids


@multilingual
def test_a_saved_student_writes_the_same_in_plain_transformers(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    save_pair(told(name), folder)
    loaded = load_pair(str(folder))
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": LONGEST}
    expected = directly(name, **settings)
    for source, whole in zip(SOURCES, expected, strict=True):
        read = loaded.tokenizer(source, return_tensors="pt")
        ids = {key: read[key] for key in ("input_ids", "attention_mask")}
        assert loaded.model.generate(**ids, **settings)[0].tolist() == whole
    again = with_languages(loaded, None, None)
    assert (again.tokenizer.src_lang, again.tokenizer.tgt_lang) == FAMILIES[name].languages


@multilingual
def test_languages_that_nobody_says_are_refused(name: str) -> None:
    pair = FAMILIES[name].pair()
    with pytest.raises(RecipeError, match=r"data.source_language must be given for tiny"):
        with_languages(pair, None, None)
    source, _ = FAMILIES[name].languages or ("", "")
    with pytest.raises(RecipeError, match=r"data.target_language must be given for tiny"):
        with_languages(pair, source, None)
