"""Measures what each way keeps of a teacher whose tokens the student does not have.

    python -m benchmarks.other_tokenizers    # writes docs/results/other_tokenizers.json

The bundled translator is the teacher. The student is its network with another vocabulary: a Unigram
one that is trained here on the bundled corpus, every new token's embedding the mean of those of the
teacher's tokens that spell it. What is lost by that is learned again in a few updates, with the
same rows, updates and learning rate for all: from references, from the teacher's outputs, or from
what the teacher says of chunks of either. `dev_bleu` and `dev_chrf` are of the last update.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from seqdistill.assembly.comparing import agreement
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import model_folder
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.saving import save_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

OUTPUT = Path("docs/results/other_tokenizers.json")
TEACHER = "bundled:en-de"
DATA = ("data.train=bundled:en-de", "data.dev=bundled:en-de")
VOCABULARY, VOCABULARY_ROWS, SEED = 2000, 3000, 0
MARKS = ("<s>", "<pad>", "</s>", "<unk>")
"""With the ids that the teacher's vocabulary gives them."""
CHUNKS = "{divergence: chunk_likelihood}"
LABELS = ("sequences.decoding.beam_size=5", "sequences.decoding.compute_type=int8")
NOTHING = (
    *("training.steps=2", "training.eval_every=2", "training.warmup_steps=0"),
    "training.learning_rate=1.0e-12",
)
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nothing yet": ("baseline", NOTHING),
    "references": ("baseline", ()),
    "teacher's outputs (seq_kd)": ("seq_kd", LABELS),
    "chunk_likelihood on references (alm)": ("alm", ()),
    "chunk_likelihood on the teacher's outputs": (
        "seq_kd",
        (*LABELS, "teacher.scores=dense", f"objective.terms=[{CHUNKS}]"),
    ),
    "likelihood and uld on the teacher's outputs (uld)": ("uld", LABELS),
}


def vocabulary(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of these texts, in the form of SentencePiece's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=[*MARKS], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    start, pad, end_name, unknown = MARKS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        pad_token=pad,
        eos_token=end_name,
        unk_token=unknown,
    )


@torch.no_grad()
def with_vocabulary(teacher: LoadedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """The teacher's network with that vocabulary, its embeddings means of the teacher's."""
    model, old = teacher.model, teacher.tokenizer
    source = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(tokenizer))
    model.final_logits_bias = torch.zeros(1, len(tokenizer))
    target = model.get_input_embeddings().weight
    for token_id in range(len(MARKS), len(tokenizer)):
        text = str(tokenizer.convert_ids_to_tokens(token_id)).replace("▁", " ")
        ids = old(text, add_special_tokens=False).input_ids
        target[token_id] = source[ids].mean(dim=0)
    target[: len(MARKS)] = source[: len(MARKS)]
    return LoadedModel(model, tokenizer, "student")


def measured(way: str, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The last dev scores of a student that learned in that way."""
    preset, own = WAYS[way]
    name = f"output_dir={folder / str(list(WAYS).index(way))}"
    run = train(load_recipe(preset, [*settings, *own, name]), progress=NoProgress())
    last = [row for row in run.read_metrics() if "dev_bleu" in row][-1]
    told = {key: last[key] for key in ("dev_bleu", "dev_chrf")}
    print(way, told, flush=True)
    return {"way": way, **told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--dev", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    given = parser.parse_args()
    teacher = load_pair(model_folder(TEACHER))
    whole = load_recipe(
        "baseline",
        [*DATA, f"student.model={TEACHER}", f"data.max_train_examples={VOCABULARY_ROWS}"],
    )
    texts = [text for e in read_split(whole, "train") for text in (e.source, e.target or "")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        student = with_vocabulary(load_pair(model_folder(TEACHER)), vocabulary(texts))
        save_pair(student, folder / "student")
        cut = dataclasses.asdict(agreement(student, teacher, texts[1::2]))
        print(cut, flush=True)
        settings: list[str] = [
            *DATA,
            *(f"data.max_train_examples={given.rows}", f"data.max_dev_examples={given.dev}"),
            *(f"teacher.model={TEACHER}", f"student.model={folder / 'student'}", f"seed={SEED}"),
            *(f"training.steps={given.steps}", f"training.batch_tokens={given.batch_tokens}"),
            *("training.learning_rate=5.0e-4", "training.warmup_steps=10", "training.dropout=0"),
            *(f"training.eval_every={given.steps}", "training.threads=1"),
            "training.trackers=[]",
        ]
        found = [measured(way, folder, settings) for way in WAYS]
    told: dict[str, Any] = {
        "what": (__doc__ or "").splitlines()[0],
        "settings": {**vars(given), "vocabulary": VOCABULARY, "learning_rate": 5e-4},
        "alignment": cut,
        "ways": found,
        "environment": environment_facts(),
    }
    write_json(OUTPUT, told)


if __name__ == "__main__":
    main()
