"""Speech: recordings through a tiny Whisper, against what transformers itself makes of them."""

from __future__ import annotations

import base64
import html
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import QUICK, assert_equal_students, losses, texts, trained
from tests.sounds import (
    RATE,
    SHAPE,
    extractor,
    samples_of,
    save_table,
    save_wav,
    save_whisper,
    tiny_whisper,
)
from tests.tiny import EOS, character_tokenizer, tiny_model
from torch import Tensor
from transformers import (
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from seqdistill.assembly.data import (
    collator_for,
    encode_for,
    encode_for_evaluation,
    within_limits,
)
from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import DataError, ModelError, RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.core.source import SourceInputs
from seqdistill.data import cache
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.evaluation.likelihood import reference_predictions
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.train import train
from seqdistill.models.adapters import SequenceModel, begin_like, decoder_prefix_ids
from seqdistill.models.languages import with_languages
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import DataSection, Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.report.page import write_report

pytest.importorskip("soundfile")
WORDS = ["ab", "cabe", "b", "eca", "dd", "acebd", "be", "dcba"]
TOKENIZER = character_tokenizer()
# Where a multilingual Whisper's decoder begins: ids of letters, which stand for its marks.
PROMPT: dict[str, Any] = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 30, "<|de|>": 31},
    "task_to_id": {"transcribe": 32, "translate": 33},
    "no_timestamps_token_id": 34,
}


def whisper(*, seed: int = 1, prompt: bool = False) -> LoadedModel:
    model = tiny_whisper(seed=seed)
    if prompt:
        for name, value in {**PROMPT, "language": "<|de|>", "task": "transcribe"}.items():
            setattr(model.generation_config, name, value)
    return LoadedModel(model, TOKENIZER, "whisper", extractor=extractor())


def heard(folder: Path, pair: LoadedModel, words: Sequence[str] = WORDS) -> EncodedDataset:
    examples = read_examples(str(save_table(folder / "heard.jsonl", words)))
    return encode_for(pair, examples, PLAIN_CHAT)


def features(word: str) -> Tensor:
    """(1, mel bins, frames): what transformers makes of the file's 16-bit samples."""
    samples = (samples_of(word) * 32767).round() / 32768
    made = extractor()(samples, sampling_rate=RATE, return_tensors="pt")
    found: Tensor = made.input_features
    return found


def test_features_and_targets_are_those_of_the_models_own_processor(tmp_path: Path) -> None:
    for word, row in zip(WORDS, heard(tmp_path, whisper()), strict=True):
        assert row.source is not None and row.num_source == 100 and not row.source_ids
        assert torch.equal(row.source.tensors["input_features"].T, features(word)[0])
        assert row.target_ids == tuple(TOKENIZER(word).input_ids)
        stored = row.source.to_bytes()
        assert len(stored) < 70 * 8 * 4, "the silence after a recording is not kept"
        again = SourceInputs.from_bytes(stored)
        assert torch.equal(again.tensors["input_features"], row.source.tensors["input_features"])


def test_a_model_in_16_bits_is_given_what_it_computes_with() -> None:
    SequenceModel(tiny_whisper().to(torch.bfloat16))  # tries it on a source


def test_targets_of_whispers_tokenizer_have_no_prompt(tmp_path: Path) -> None:
    names = ["Ġ", *"abcde"]
    tokenizer = WhisperTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    marks = ("startoftranscript", "en", "transcribe", "translate", "notimestamps")
    tokenizer.add_tokens([f"<|{mark}|>" for mark in marks], special_tokens=True)
    tokenizer.set_prefix_tokens(language="en", task="transcribe")
    end = tokenizer.eos_token_id
    assert len(tokenizer("ab").input_ids) == 7
    pair = LoadedModel(tiny_whisper(), tokenizer, "whisper", extractor=extractor())
    rows = heard(tmp_path, pair, ["ab", "ce"])
    assert [row.target_ids for row in rows] == [(1, 2, end), (3, 5, end)]
    assert TextDecoder(tokenizer).text(tokenizer("ab").input_ids) == "ab"


@pytest.mark.parametrize("prompt", [False, True])
def test_a_batch_says_what_the_model_says_of_each_recording_alone(
    tmp_path: Path, prompt: bool
) -> None:
    pair = whisper(prompt=prompt)
    examples, prefix = heard(tmp_path, pair), [31, 32, 34] if prompt else []
    found = reference_predictions(SequenceModel(pair.model), examples, collator_for(pair))
    for word, row, nats in zip(WORDS, examples, found.nats, strict=True):
        read = torch.tensor([[EOS, *prefix, *row.target_ids[:-1]]])
        with torch.no_grad():
            logits = pair.model(input_features=features(word), decoder_input_ids=read).logits
        plain = logits.log_softmax(-1)[0, len(prefix) :].gather(
            1, torch.tensor(row.target_ids)[:, None]
        )
        assert (-nats).tolist() == pytest.approx(plain[:, 0].tolist(), abs=1e-4)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("beam", [1, 3])
def test_outputs_are_those_of_transformers_own_generate(
    tmp_path: Path, prompt: bool, beam: int
) -> None:
    pair = whisper(seed=9, prompt=prompt)
    sources = [row.prompt for row in heard(tmp_path, pair)]
    engine = TransformersGenerator(pair.model, TOKENIZER, kind="seq2seq")
    decoding = Decoding(beam_size=beam, max_new_tokens=9)
    found = [best.token_ids for best, *_ in engine.generate(sources, decoding)]
    for word, ids in zip(WORDS, found, strict=True):
        said = pair.model.generate(
            features(word), num_beams=beam, max_new_tokens=9, early_stopping=beam > 1
        )[0].tolist()
        marks = {30, 31, 32, 33, 34} if prompt else set()
        ours, theirs = ([i for i in row if i not in marks] for row in (ids, said))
        assert TOKENIZER.decode(ours, skip_special_tokens=True) == TOKENIZER.decode(
            theirs, skip_special_tokens=True
        )
    assert len(set(found)) > 3, "the recordings are heard"
    if beam == 1:
        sampler = TransformersSampler(pair.model, TOKENIZER, kind="seq2seq", decoding=decoding)
        assert sampler.sample(sources, seed=0).rows() == found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tables, a teacher, and a student of other weights."""
    draw = random.Random(2)
    for name, size in (("train", 40), ("dev", 4), ("test", 6)):
        words = ["".join(draw.choices("abcde", k=draw.randint(1, 6))) for _ in range(size)]
        save_table(tmp_path / f"{name}.jsonl", words, id=[f"{name}{i}" for i in range(size)])
    save_whisper(tmp_path / "teacher", seed=9)
    save_whisper(tmp_path / "student", seed=7)
    return tmp_path


def recipe_in(folder: Path, method: str, *overrides: str, name: str = "run") -> Recipe:
    given = {
        **QUICK,
        "training.batch_tokens": 800,
        "training.checkpoint_every": 2,
        "training.log_every": 1,
        "training.learning_rate": 1e-3,
        "student.decoder_layers": None,
        **{f"data.{split}": str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")},
        "teacher.model": str(folder / "teacher"),
        "student.model": str(folder / "student"),
        "student.init": "pretrained",
        "output_dir": str(folder / "runs" / name),
    }
    if method == "baseline":
        del given["teacher.model"], given["sequences.decoding.max_new_tokens"]
    if method == "on_policy_kd":
        del given["sequences.decoding.max_new_tokens"]
        given |= {"sequences.rollouts.max_new_tokens": 8, "sequences.rollouts.samples_every": 2}
    return load_recipe(method, [*texts(given), *overrides])


def test_a_student_from_scratch_loads_into_plain_transformers(folder: Path) -> None:
    architecture = json.dumps({"model_type": "whisper", **SHAPE})
    scratch = f"student.architecture={architecture}"
    run = trained(
        recipe_in(
            folder,
            "baseline",
            *("student.init=scratch", "student.model=null", scratch, "student.vocab_size=280"),
        )
    )
    model = WhisperForConditionalGeneration.from_pretrained(run.student_path)
    tokenizer = AutoTokenizer.from_pretrained(run.student_path)
    listens = WhisperFeatureExtractor.from_pretrained(run.student_path)
    assert (listens.nb_max_frames, listens.feature_size) == (100, 8)
    made = listens(samples_of("abc"), sampling_rate=RATE, return_tensors="pt")
    said = model.generate(made.input_features, max_new_tokens=8)
    pair = load_pair(str(run.student_path))
    ours = TransformersGenerator(pair.model, pair.tokenizer, kind="seq2seq").generate(
        [SourceInputs.of(input_features=made.input_features[0].T)],
        Decoding(beam_size=1, max_new_tokens=8),
    )
    assert tokenizer.decode(said[0], skip_special_tokens=True) == tokenizer.decode(
        ours[0][0].token_ids, skip_special_tokens=True
    )


def test_whole_encoder_and_the_decoders_first_and_last_layer(folder: Path) -> None:
    recipe = recipe_in(
        folder,
        "word_kd",
        *("student.init=teacher_layers", "student.model=null", "student.decoder_layers=2"),
    )
    prepared = prepare(recipe)
    teacher, student = (
        pair.model.state_dict() for pair in (prepared.teacher, prepared.student) if pair
    )
    for name, tensor in student.items():
        assert torch.equal(tensor, teacher[name.replace("decoder.layers.1.", "decoder.layers.2.")])
    assert prepared.student.extractor is not None


def test_a_resumed_run_is_the_uninterrupted_one(folder: Path) -> None:
    whole = trained(recipe_in(folder, "on_policy_kd", name="whole"))
    assert train(recipe_in(folder, "on_policy_kd"), progress=NoProgress(), until=2)
    again = trained(recipe_in(folder, "on_policy_kd"), resume=True)
    assert_equal_students(whole, again)
    assert losses(whole)[0] > 0.0


def test_transcripts_are_learned_within_the_word_error_rate(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The references are made the teacher's transcripts, but for some that are made wrong."""
    pair = load_pair(str(folder / "teacher"))
    read = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    examples = encode_for(pair, read_examples(str(folder / "train.jsonl")), PLAIN_CHAT)
    engine = TransformersGenerator(
        pair.model, pair.tokenizer, kind="seq2seq", vocab_size=len(TOKENIZER)
    )
    greedy = Decoding(beam_size=1, max_new_tokens=12)
    found = engine.generate([row.prompt for row in examples], greedy)
    rows = []
    for number, (row, (best, *_)) in enumerate(zip(read, found, strict=True)):
        text = TextDecoder(pair.tokenizer).text(best.token_ids).strip()
        if best.finished and text:
            rows.append({**row, "text": text.upper() + "!" if number % 3 else f"{text} z z"})
    assert len(rows) > 5
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    recipe = recipe_in(folder, "distil_whisper", "training.batch_tokens=400", "training.steps=2")
    run = trained(recipe)
    wrong = sum(row["text"].endswith(" z z") for row in rows)
    facts: Any = run.read_manifest()
    assert facts["error_filter"]["num_outputs"] == len(rows)
    assert facts["error_filter"]["num_left_out"] == wrong
    assert facts["error_filter"]["kept_word_error_rate"] == 0.0
    assert f"left out {wrong} of {len(rows)} outputs of the teacher" in caplog.text


def test_the_report_plays_what_the_systems_heard(folder: Path) -> None:
    run = trained(recipe_in(folder, "baseline"))
    results = evaluate_run(run, progress=NoProgress())
    assert [metric.name for metric in results.metrics] == [
        "word_error_rate",
        "sequence_error_rate",
    ]
    page = write_report(run.path).read_text(encoding="utf-8")
    content = base64.b64encode((folder / "test-clips" / "0.wav").read_bytes()).decode()
    assert "base64," + content in html.unescape(page) and "media-src data:" in page


def test_what_is_longer_than_the_model_hears_is_left_out_and_cut(tmp_path: Path) -> None:
    pair, words = whisper(), ["ab", "abcdeabcdea", "dd"]
    rows = heard(tmp_path, pair, words)
    assert [row.num_source for row in rows] == [100, 101, 100]
    kept = within_limits(rows, pair, DataSection())
    assert [row.id for row in kept.examples] == ["1", "3"] and kept.num_too_long == 1
    examples = read_examples(str(tmp_path / "heard.jsonl"))
    _, cut, _ = encode_for_evaluation(examples, pair, DataSection()).examples
    assert cut.source is not None
    assert torch.equal(cut.source.tensors["input_features"].T, features(words[1])[0])


def test_features_are_kept_by_the_content_of_the_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 1)
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    pair, kept = whisper(), tmp_path / "cache" / "tokenized"
    first = heard(tmp_path, pair)
    assert heard(tmp_path, pair).fingerprint == first.fingerprint
    assert len([*kept.glob("*.arrow")]) == 1
    save_wav(tmp_path / "heard-clips" / "0.wav", samples_of("ee"))
    examples = read_examples(str(tmp_path / "heard.jsonl"))
    other = encode_for(pair, examples, PLAIN_CHAT)
    assert len([*kept.glob("*.arrow")]) == 2 and other.fingerprint != first.fingerprint


def test_recordings_that_cannot_be_used_are_named_with_their_rows(tmp_path: Path) -> None:
    heard(tmp_path, whisper())
    clips = tmp_path / "heard-clips"
    (clips / "0.wav").unlink()
    save_wav(clips / "1.wav", samples_of("a"), rate=8000)
    save_wav(clips / "2.wav", samples_of("ab"), channels=2)
    (clips / "3.wav").write_bytes(b"RIFF and then nothing")
    save_wav(clips / "4.wav", [])
    examples = read_examples(str(tmp_path / "heard.jsonl"))
    with pytest.raises(DataError) as told:
        encode_for(whisper(), examples, PLAIN_CHAT)
    for number, found in enumerate(
        ["found none", "found 8,000 and 1", "found 16,000 and 2", "cannot be read", "no samples"]
    ):
        assert f"example '{number + 1}'" in str(told.value) and found in str(told.value)
    table = tmp_path / "other.jsonl"
    table.write_text('{"audio": {"bytes": "x"}, "text": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"other.jsonl:1: audio must be the path"):
        read_examples(str(table))


def test_a_model_of_several_languages_is_told_which_one_is_spoken() -> None:
    pair = whisper()
    for name, value in PROMPT.items():
        setattr(pair.model.generation_config, name, value)
    with pytest.raises(RecipeError, match=r"data.target_language must be given.*de, en"):
        with_languages(pair, None, None)
    with pytest.raises(RecipeError, match=r"one of the tokenizer's 2 language codes.*'fr'"):
        with_languages(pair, None, "fr")
    with pytest.raises(RecipeError, match=r"data.source_language must be left out"):
        with_languages(pair, "de", "de")
    for spelled in ("de", "German", "<|de|>"):
        told = with_languages(pair, None, spelled)
        assert pair_facts(told).prefix_ids == (31, 32, 34)
        pair.model.generation_config.language = None
    student = tiny_whisper(seed=2)
    begin_like(student, with_languages(pair, None, "en").model)
    assert decoder_prefix_ids(student) == (30, 32, 34)


def test_data_and_models_of_different_kinds_are_told_apart(tmp_path: Path) -> None:
    examples = read_examples(str(save_table(tmp_path / "heard.jsonl", WORDS)))
    text = LoadedModel(tiny_model("bart"), TOKENIZER, "bart")
    with pytest.raises(DataError, match="given text and the rows have a column audio"):
        encode_for(text, examples, PLAIN_CHAT)
    with pytest.raises(DataError, match="given audio and the rows have texts"):
        encode_for(whisper(), [Example("e", "a", "b")], PLAIN_CHAT)
    save_whisper(tmp_path / "model")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"100 frames of 8 mel bins.*makes 3000 of 80"):
        load_pair(str(tmp_path / "model"))
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="feature extractor must load"):
        load_pair(str(tmp_path / "model"))
