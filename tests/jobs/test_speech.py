"""Speech: recordings through a tiny Whisper, against what transformers itself makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.sounds import (
    RATE,
    extractor,
    samples_of,
    save_table,
    tiny_whisper,
)
from tests.tiny import EOS, character_tokenizer
from torch import Tensor

from seqdistill.assembly.data import collator_for, encode_for
from seqdistill.core.source import SourceInputs
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.readers import read_examples
from seqdistill.evaluation.likelihood import reference_predictions
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding

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
    pair = whisper(seed=6, prompt=prompt)
    sources = [row.prompt for row in heard(tmp_path, pair)]
    engine = TransformersGenerator(pair.model, TOKENIZER, kind="seq2seq")
    decoding = Decoding(beam_size=beam, max_new_tokens=9)
    found = [best.token_ids for best, *_ in engine.generate(sources, decoding)]
    for word, ids in zip(WORDS, found, strict=True):
        said = pair.model.generate(
            features(word), num_beams=beam, max_new_tokens=9, early_stopping=beam > 1
        )[0].tolist()
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == TOKENIZER.decode(
            [i for i in said if i not in {30, 31, 32, 33, 34}] if prompt else said,
            skip_special_tokens=True,
        )
    assert len(set(found)) > 3, "the recordings are heard"
    if beam == 1:
        sampler = TransformersSampler(pair.model, TOKENIZER, kind="seq2seq", decoding=decoding)
        assert sampler.sample(sources, seed=0).rows() == found
