"""What translation models start and end with: against transformers, and through whole jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch
from tests.generation.enumeration import listed
from tests.jobs.runs import settings_in, student_of, texts, trained
from tests.translation_families import FAMILIES, MULTILINGUAL, TEXTS

from seqdistill.assembly.data import collator_for, encode_for
from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.scoring import token_log_probs
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.generate import generate_texts
from seqdistill.jobs.label import check_labels, label_data
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.languages import language_code, with_languages
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.teacher_corpus import TeacherCorpus

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
    batch, adapted = collator_for(found)(encoded), SequenceModel(found.model)
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


@pytest.mark.parametrize("name", ["nllb", "t5"])
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
def test_languages_that_nobody_says_are_refused(name: str) -> None:
    pair = FAMILIES[name].pair()
    with pytest.raises(RecipeError, match=r"data.source_language must be given for tiny"):
        with_languages(pair, None, None)
    source, _ = FAMILIES[name].languages or ("", "")
    with pytest.raises(RecipeError, match=r"data.target_language must be given for tiny"):
        with_languages(pair, source, None)


SOURCES = [source for source, _ in TEXTS]


def folder_for(folder: Path, name: str, *, ends: bool = True) -> Path:
    """A teacher and a student of a family as published folders are, and rows of a translation."""
    for role, seed in (("teacher", 3), ("student", 8)):
        pair = FAMILIES[name].pair()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            for parameter in pair.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        if ends and "final_logits_bias" in dict(pair.model.named_buffers()):
            pair.model.final_logits_bias[0, pair.tokenizer.eos_token_id] += 3.0
        save_pair(pair, folder / role)
    rows = [{"translation": {"en": source, "de": target}} for source, target in TEXTS * 3]
    for split in ("train", "test"):
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def recipe_in(folder: Path, method: str, name: str, *more: str) -> Recipe:
    data = {f"data.{split}": str(folder / f"{split}.jsonl") for split in ("train", "test")}
    return load_recipe(method, [*texts({**settings_in(folder, name), **data}), *more])


def saying(source: str, target: str) -> list[str]:
    return [f"data.source_language={source}", f"data.target_language={target}"]


@pytest.mark.parametrize(
    ("name", "languages"),
    [("nllb", ("en:eng_Latn", "de:deu_Latn")), ("mbart", ("en", "de"))],
)
def test_a_student_keeps_the_languages_that_it_was_trained_for(
    tmp_path: Path, name: str, languages: tuple[str, str]
) -> None:
    folder = folder_for(tmp_path, name)
    run = trained(recipe_in(folder, "word_kd", "one", *saying(*languages)))
    student = load_pair(str(run.student_path))
    assert (student.tokenizer.src_lang, student.tokenizer.tgt_lang) == FAMILIES[name].languages
    given = FAMILIES[name].forced(student.tokenizer)
    settings = {key: getattr(student.model.generation_config, key) for key in given}
    assert settings == given
    plain = []
    for source in SOURCES:
        read = student.tokenizer(source, return_tensors="pt")
        written = student.model.generate(**read, num_beams=1, do_sample=False, max_new_tokens=9)
        plain += student.tokenizer.batch_decode(written, skip_special_tokens=True)
    for engine in ("transformers", "ctranslate2"):
        settings = {"engine": engine, "beam_size": 1, "max_new_tokens": 9 - (name != "mbart")}
        own = generate_texts(
            str(run.student_path), SOURCES, threads=1, progress=NoProgress(), **settings
        )
        assert own == [text.strip() for text in plain]


def test_states_that_are_kept_train_as_live_ones_do_with_a_prefix(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "mbart50")
    more = [*saying("en", "de"), "training.precision=fp32"]
    live = trained(recipe_in(folder, "word_kd", "live", *more))
    kept = trained(recipe_in(folder, "word_kd", "kept", *more, "teacher.cache_hidden_states=fp32"))
    for weight, tensor in student_of(live).items():
        # Adam makes much of roundings: 1.1e-5 on some processors.
        torch.testing.assert_close(student_of(kept)[weight], tensor, rtol=1.3e-6, atol=5e-5)


def test_no_job_begins_without_a_target_language(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "nllb")
    text = "\n".join(f"{source}\t{target}" for source, target in [("source", "target"), *TEXTS])
    for split in ("train", "test"):
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    files = [f"data.{split}={folder / split}.tsv" for split in ("train", "test")]
    recipe = recipe_in(folder, "seq_kd", "none", *files)
    for job in (
        lambda: prepare(recipe),
        lambda: label_data(recipe, progress=NoProgress()),
        lambda: generate_texts(str(folder / "teacher"), SOURCES, progress=NoProgress()),
    ):
        with pytest.raises(RecipeError, match="language must be given for"):
            job()
    assert not (folder / "runs").exists()


def test_corpora_of_two_languages_are_two(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "mbart50")
    found = []
    for target in ("de", "ro_RO"):
        keys = saying("en:en_XX", f"de:{target}" if target != "de" else "de")
        corpus = label_data(recipe_in(folder, "seq_kd", "one", *keys), progress=NoProgress())
        by_example = TeacherCorpus.open(corpus, expected=None).by_example()
        found.append([output.log_prob for _, outputs in by_example for output in outputs])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("bias", "words"), [(-50.0, r"must end its outputs with '</s>'"), (50.0, "must write texts")]
)
def test_a_teacher_that_never_or_only_ends_labels_nothing(
    tmp_path: Path, bias: float, words: str
) -> None:
    folder = folder_for(tmp_path, "mbart50", ends=False)
    pair = load_pair(str(folder / "teacher"))
    pair.model.final_logits_bias[0, pair.tokenizer.eos_token_id] = bias
    save_pair(pair, folder / "teacher")
    recipe = recipe_in(folder, "seq_kd", "one", *saying("en", "de"))
    with pytest.raises(ModelError, match=words):
        check_labels(label_data(recipe, progress=NoProgress()))


@pytest.mark.parametrize(
    ("wanted", "codes", "meant"),
    [
        ("en", ["__java__", "__python__", "__en_XX__"], "__en_XX__"),
        ("java", ["__java__", "__javascript__"], "__java__"),
        ("ja", ["ja_XX", "jv_ID"], "ja_XX"),
        ("zh", ["zh", "zu"], "zh"),
        ("zho", ["zho_Hans", "zho_Hant", "zul_Latn"], None),
        ("english", ["eng_Latn", "deu_Latn"], None),
    ],
)
def test_a_language_means_the_one_code_that_has_its_name(
    wanted: str, codes: list[str], meant: str | None
) -> None:
    known = {code: place for place, code in enumerate(codes)}
    if meant is not None:
        assert language_code(wanted, known, key="x") == meant
        return
    with pytest.raises(RecipeError, match=f"such as {codes[0]}.*got '{wanted}'"):
        language_code(wanted, known, key="x")
