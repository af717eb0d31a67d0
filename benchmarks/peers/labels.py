"""A whole labelling job, from the shell to the shell: `seqdistill label` beside a plain script.

Start-up, reading, writing, and this package's bookkeeping for a later resume are all in it. The
plain script gets the batch size that is fastest for it on a part of the rows.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
from benchmarks.peers.measuring import Bench
from benchmarks.peers.preparing import write_rows

from seqdistill.assembly.models import model_folder
from seqdistill.data.readers import read_examples

DATA = "bundled:en-de"
NUM_ROWS, NUM_TRIED = 600, 96
LONGEST_SOURCE = 300
"""Characters: nothing is cut or left out on either side."""
BATCH_SIZES = (8, 32, 96)
MODES = ("beam", "sample")


def measure(bench: Bench, rounds: int) -> None:
    """Both jobs in turns, in both modes."""
    place = bench.folder / "labels"
    rows = place / "rows.jsonl"
    if not rows.is_file():
        place.mkdir(parents=True, exist_ok=True)
        read = [e for e in read_examples(DATA, split="train") if len(e.source) < LONGEST_SOURCE]
        chosen = read[:: len(read) // NUM_ROWS][:NUM_ROWS]
        write_rows(rows, [{"source": e.source, "target": e.target} for e in chosen])
    for mode in MODES:
        tried = {
            size: _plain(bench, f"pilot-{size}", mode, size, NUM_TRIED)["process_cpu_s"]
            for size in BATCH_SIZES
        }
        size = min(tried, key=lambda one: tried[one])
        for number in range(1, rounds + 1):
            _ours(bench, f"round-{number}", mode)
            _plain(bench, f"round-{number}", mode, size, NUM_ROWS)


def _plain(bench: Bench, key: str, mode: str, size: int, num_rows: int) -> Any:
    place = bench.folder / "labels"
    output = place / f"plain-{mode}.jsonl"
    command = [str(bench.peer_python), "-m", "benchmarks.peers.plain_labels"]
    command += [str(model_folder(DATA)), str(place / "rows.jsonl"), str(output)]
    command += ["--mode", mode, "--batch-size", str(size), "--num-rows", str(num_rows)]
    facts = {"batch_size": size, "rows": num_rows}
    return bench.job(f"labels/{mode}/plain/{key}", command, "kept", lambda: facts)


def _ours(bench: Bench, key: str, mode: str) -> Any:
    place = bench.folder / "labels"
    corpus = place / f"ours-{mode}"
    settings = {
        "teacher.model": DATA,
        "data.train": place / "rows.jsonl",
        "sequences.decoding.mode": mode,
        "sequences.decoding.beam_size": 5,
        "sequences.decoding.max_new_tokens": 96,
        "sequences.decoding.threads": bench.threads,
        "output_dir": corpus,
    }
    command = [sys.executable, "-m", "seqdistill", "label", "seq_kd"]
    command += [f"{key}={value}" for key, value in settings.items()]
    name = f"labels/{mode}/ours/{key}"
    if not bench.has(name):
        shutil.rmtree(corpus, ignore_errors=True)
    return bench.job(name, command, "kept", lambda: {"rows": NUM_ROWS})


def agreement(folder: Path) -> float | None:
    """The share of beam labels that both wrote alike; None where one is missing."""
    plain, ours = folder / "labels" / "plain-beam.jsonl", folder / "labels" / "ours-beam"
    if not plain.is_file() or not ours.is_dir():
        return None
    theirs = [json.loads(line) for line in plain.read_text("utf-8").splitlines()]
    shards = sorted(ours.rglob("*.parquet"))
    rows = [row for shard in shards for row in pyarrow.parquet.read_table(shard).to_pylist()]
    own = {row["source"]: row["text"] for row in rows if row["rank"] == 0}
    same = sum(own.get(row["source"]) == row["text"] for row in theirs)
    return float(same / len(theirs))
