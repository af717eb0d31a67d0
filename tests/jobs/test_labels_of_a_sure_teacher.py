"""Labels are never less likely than what the teacher writes greedily."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in
from tests.tiny import EOS
from transformers import LlamaConfig, LlamaForCausalLM

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.label import label_data
from seqdistill.models.loading import load_tokenizer
from seqdistill.sources.teacher_corpus import TeacherCorpus

LETTERS = "abcdefgh"


def save_sure_teacher(folder: Path) -> None:
    """Of no layers: the last letter alone decides. Nine times in ten the next letter follows, the
    end after the last and never surely before; after all else `a`, or the end."""
    tokenizer = load_tokenizer(str(folder))
    size = len(tokenizer)
    width = size + size % 2
    config = LlamaConfig(
        **{
            "vocab_size": size,
            "hidden_size": width,
            "intermediate_size": 8,
            "num_hidden_layers": 0,
        },
        **{"num_attention_heads": 1, "eos_token_id": EOS, "tie_word_embeddings": False},
        **{"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id},
    )
    model = LlamaForCausalLM(config)
    letters = tokenizer.convert_tokens_to_ids([*LETTERS])
    probs = torch.full((size, size), 1e-6)
    probs[:, letters[0]], probs[:, EOS] = 0.9, 0.1
    for this, following in zip(letters, [*letters[1:], EOS], strict=True):
        probs[this, letters[0]] = 1e-6
        probs[this, EOS], probs[this, following] = 0.1, 0.9
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        # The norm before the head makes a unit vector as long as the root of its width.
        model.lm_head.weight[:, :size].copy_(probs.log().T / width**0.5)
    model.save_pretrained(folder)


@pytest.mark.parametrize("n_best", [1, 3])
def test_the_greedy_output_is_among_the_labels_where_the_search_stops_before_it(
    tmp_path: Path, n_best: int
) -> None:
    place = folder_for(tmp_path, "llama")
    save_sure_teacher(place / "teacher")
    recipe = recipe_in(
        place,
        "seq_kd",
        *("sequences.decoding.beam_size=3", f"sequences.decoding.n_best={n_best}"),
    )
    corpus = TeacherCorpus.open(label_data(recipe, progress=NoProgress()), expected=None)
    for _, outputs in corpus.by_example():
        texts = [output.text for output in outputs]
        assert texts[0] == LETTERS
        assert len(texts) == len(set(texts)) == n_best
