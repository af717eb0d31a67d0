"""How a training starts on a million rows: memory beyond the models, seconds to the first update.

    python benchmarks/million_rows.py docs/results/million_rows.json [--rows N] [--cold]

Rows are generated, about 300 tokens each, as JSON lines of prompt and completion. `seqdistill
train` then runs twice for two updates, in processes of their own, on a tiny random model: the first
start reads, checks and tokenizes; the second one finds both in the cache. What a run on ten rows
takes is what models and libraries take. Seconds are those of the whole command and those to the
first update, when its line stands in metrics.jsonl; CPU-seconds, of the command and its workers,
hardly depend on what else the machine does. With --cold the system forgets before each start
what it has read of the rows and of the cache, as after a reboot.
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
from collections.abc import Iterable
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
    metrics = output / "metrics.jsonl"
    command = [
        *(sys.executable, __file__, "--child", "train", "baseline", f"data.train={rows}"),
        *(f"student.model={student}", "student.init=pretrained", f"output_dir={output}"),
        *("data.max_source_tokens=700", "data.max_target_tokens=700", "training.steps=2"),
        *("training.batch_tokens=4096", "training.device=cpu", "training.warmup_steps=0"),
        "training.log_every=1",
    ]
    environment = {**os.environ, "SEQDISTILL_CACHE": str(cache)}
    began = time.perf_counter()
    to_first_update = 0.0
    with tempfile.TemporaryFile("w+") as said:
        running = subprocess.Popen(command, env=environment, stdout=said, stderr=said, text=True)
        while running.poll() is None:
            time.sleep(0.05)
            if not to_first_update and metrics.is_file() and metrics.stat().st_size:
                to_first_update = time.perf_counter() - began
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = said.read().splitlines()
    if running.returncode:
        raise SystemExit("\n".join(lines))
    facts: dict[str, object] = json.loads(lines[-1])
    times = {"seconds_to_first_update": to_first_update, "seconds": seconds}
    return {**{name: round(value, 1) for name, value in times.items()}, **facts}


def forget(files: Iterable[Path]) -> None:
    """Takes the files out of the system's memory."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(arguments: list[str]) -> None:
    """Runs the command line in this process, then prints what memory it took at most, in MB."""
    from seqdistill.cli.main import run

    code = 0
    try:
        sys.argv = ["seqdistill", *arguments]
        run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    own, workers = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(used.ru_utime + used.ru_stime for used in (own, workers))
    facts = {
        "cpu_seconds": round(cpu, 1),
        "peak_rss_mb": round(own.ru_maxrss / 1024),
        "peak_rss_of_a_worker_mb": round(workers.ru_maxrss / 1024),
    }
    sys.stderr.flush()
    print(json.dumps(facts), flush=True)
    raise SystemExit(code)


def main() -> None:
    """Measures, and writes what was found."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the rows lie; a temporary one if not")
    parser.add_argument("--cold", action="store_true", help="files are read from the disk anew")
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
            if given.cold:
                forget([rows, *(folder / "cache").rglob("*.arrow")])
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
            "cold": given.cold,
            "file_mb": round(size / 1e6),
            "cache_mb": round(cached / 1e6),
            "runs": runs,
            "peak_rss_beyond_models_mb": beyond,
            **environment_facts(),
        },
    )


if __name__ == "__main__":
    main()
