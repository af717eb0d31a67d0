"""The copies of a student that other programs run: CTranslate2 int8."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from seqdistill.build.data import encode_for_evaluation, read_split
from seqdistill.build.decoding import verification_pairs
from seqdistill.data.examples import Example
from seqdistill.evaluation.dev import best_texts
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding
from seqdistill.metrics.translation import corpus_bleu
from seqdistill.models.loading import load_pair
from seqdistill.recipe.schema import Recipe


def export_int8(recipe: Recipe, student: Path, folder: Path) -> dict[str, object]:
    """Writes an int8 CTranslate2 copy of a student folder and measures it on the test set.

    The copy is compared with the student on test sentences before it is written. Returns its row:
    `format`, `bytes`, `bleu_greedy`, `words_per_second_greedy`.
    """
    pair = load_pair(str(student))
    examples: list[Example] = read_split(recipe, "test")
    encoded = encode_for_evaluation(examples, pair.tokenizer, pair.kind, recipe.data).examples
    generator = CTranslate2Generator(
        pair.model,
        pair.tokenizer,
        kind=pair.kind,
        compute_type="int8",
        threads=recipe.training.threads,
        verify_on=verification_pairs(encoded),
    )
    if folder.exists():
        shutil.rmtree(folder)
    generator.save(folder)
    decoding = Decoding(beam_size=1, max_new_tokens=recipe.evaluation.max_new_tokens)
    started = time.perf_counter()
    texts = best_texts(generator, encoded, pair.tokenizer, decoding)
    seconds = time.perf_counter() - started
    return {
        "format": "ctranslate2 int8",
        "folder": folder.name,
        "bytes": sum(f.stat().st_size for f in folder.glob("model.bin")),
        "bleu_greedy": corpus_bleu(texts, [e.target or "" for e in examples]).value,
        "words_per_second_greedy": sum(len(text.split()) for text in texts) / seconds,
    }
