"""How a training starts on a million rows: memory beyond the models, seconds to the first update.

    python benchmarks/million_rows.py docs/results/million_rows.json [--rows N]

Rows are generated, about 300 tokens each, as JSON lines of prompt and completion. `seqdistill
train` then runs twice for two updates, in processes of their own, on a tiny random model: the first
start reads, checks and tokenizes; the second one finds both in the cache. What a run on ten rows
takes is what models and libraries take. Seconds are those of the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

_WORDS_A_ROW = 270
_FEW = 10


def write_rows(path: Path, count: int) -> None:
    """So many rows of made-up words, of lengths that vary."""
    source = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            length = source.randint(_WORDS_A_ROW // 2, 3 * _WORDS_A_ROW // 2)
            text = source.choices(words, k=length)
            cut = source.randint(1, length - 1)
            row = {"prompt": " ".join(text[:cut]), "completion": " " + " ".join(text[cut:])}
            stream.write(json.dumps({"id": f"row-{number}", **row}) + "\n")


def make_student(folder: Path, rows: Path) -> None:
    """A tiny Llama with a byte-level tokenizer of 8,000 tokens, trained on the first rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with rows.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["prompt"] for line, _ in zip(stream, range(2000), strict=False)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
        bos_token_id=None,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start(rows: Path, student: Path, output: Path, cache: Path) -> dict[str, object]:
    """Two updates of `seqdistill train` in a process of its own: seconds and peaks of memory."""
    command = [
        *(sys.executable, __file__, "--child", "train", "baseline", f"data.train={rows}"),
        *(f"student.model={student}", "student.init=pretrained", f"output_dir={output}"),
        *("data.max_source_tokens=700", "data.max_target_tokens=700", "training.steps=2"),
        *("training.batch_tokens=4096", "training.device=cpu", "training.warmup_steps=0"),
    ]
    environment = {**os.environ, "SEQDISTILL_CACHE": str(cache)}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    facts: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": round(seconds, 1), **facts}


def child(arguments: list[str]) -> None:
    """Runs the command line in this process, then prints what memory it took at most, in MB."""
    from seqdistill.cli.main import run

    code = 0
    try:
        sys.argv = ["seqdistill", *arguments]
        run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"peak_rss_mb": round(own), "peak_rss_of_a_worker_mb": round(largest)}))
    raise SystemExit(code)


def main() -> None:
    """Measures, and writes what was found."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the rows lie; a temporary one if not")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        rows, few = folder / f"{given.rows}.jsonl", folder / "few.jsonl"
        student = folder / "student"
        if not rows.exists():
            write_rows(rows, given.rows)
        write_rows(few, _FEW)
        make_student(student, rows)
        runs = {}
        for name, file in (("few_rows", few), ("first_start", rows), ("second_start", rows)):
            with tempfile.TemporaryDirectory(dir=folder) as output:
                runs[name] = start(file, student, Path(output) / "run", folder / "cache")
            print(name, runs[name], flush=True)
        size = rows.stat().st_size
        cached = sum(path.stat().st_size for path in (folder / "cache").rglob("*.arrow"))
    base = int(str(runs["few_rows"]["peak_rss_mb"]))
    beyond = {name: int(str(run["peak_rss_mb"])) - base for name, run in runs.items()}
    write_json(
        given.output,
        {
            "rows": given.rows,
            "file_mb": round(size / 1e6),
            "cache_mb": round(cached / 1e6),
            "runs": runs,
            "peak_rss_beyond_models_mb": beyond,
            **environment_facts(),
        },
    )


if __name__ == "__main__":
    main()
