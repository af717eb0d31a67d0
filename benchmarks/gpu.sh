#!/usr/bin/env bash
# What needs a GPU, on one card in less than 8 minutes, into one JSON file:
#
#     benchmarks/gpu.sh [FILE]          # FILE: docs/results/gpu.json
#
# 1. the tests marked `gpu`
# 2. `seqdistill bench` on the bundled encoder-decoder and decoder-only pairs
# 3. a small on-policy recipe, trained, measured and reported on the card; its profile is kept
#
# Each part has a time limit; one that fails or runs out of it is noted, and the others go on. Exits
# with 0 when all parts did, with 1 when one did not, with 2 on a machine without CUDA. PYTHON names
# the interpreter. DEVICE=cpu tries this script itself where there is no card: without the tests, on
# less data and with more time.
set -u
cd "$(dirname "$0")/.." || exit 1
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
FILE=${1:-docs/results/gpu.json}
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}"

if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "benchmarks/gpu.sh needs a CUDA device that torch can use, found none; run it on a machine with one" >&2
    exit 2
fi

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

part() { # NAME SECONDS COMMAND...: runs it, shows it, and keeps its exit code, seconds and last line
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name"
    timeout $((limit * PATIENCE)) "$@" 2>&1 | tee "$WORK/$name.log"
    printf '%s %s\n' "${PIPESTATUS[0]}" $((SECONDS - began)) >"$WORK/$name.part"
}

seqdistill() { echo "$PYTHON" -m seqdistill "$@"; }

small="teacher.model=bundled:en-de data.train=bundled:en-de data.max_train_examples=2000"
halved="student.init=teacher_layers student.encoder_layers=3 student.decoder_layers=2"
on_card="training.device=$DEVICE" PATIENCE=1
if [ "$DEVICE" = cpu ]; then
    PATIENCE=6
    on_card="$on_card data.max_train_examples=200 training.batch_tokens=200"
    on_card="$on_card sequences.rollouts.max_new_tokens=16 sequences.decoding.max_new_tokens=16"
fi

[ "$DEVICE" = cuda ] && part tests 150 "$PYTHON" -m pytest -q -m gpu tests
part bench-en-de 90 $(seqdistill bench gkd $small $halved $on_card -o "$WORK/bench-en-de.json")
part bench-arithmetic 60 $(seqdistill bench gkd teacher.model=bundled:arithmetic \
    data.train=bundled:arithmetic data.max_train_examples=2000 student.init=teacher_layers \
    student.decoder_layers=2 $on_card -o "$WORK/bench-arithmetic.json")
part train 90 $(seqdistill train on_policy_kd $small $halved $on_card data.dev=bundled:en-de \
    data.test=bundled:en-de data.max_dev_examples=100 data.max_test_examples=100 training.steps=60 \
    training.log_every=10 training.trackers=[] output_dir="$WORK/run")
part evaluate 60 $(seqdistill evaluate "$WORK/run")
part report 20 $(seqdistill report "$WORK/run")

"$PYTHON" - "$WORK" "$FILE" <<'END'
import json
import sys
from pathlib import Path

import torch

from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts

work, file = map(Path, sys.argv[1:])
parts = {}
for ended in sorted(work.glob("*.part"), key=lambda path: path.stat().st_mtime_ns):
    code, seconds = map(int, ended.read_text().split())
    said = [line for line in ended.with_suffix(".log").read_text().splitlines() if line.strip()]
    parts[ended.stem] = {"exit": code, "seconds": seconds, "last_line": said[-1] if said else ""}
    if (found := ended.with_suffix(".json")).is_file():
        parts[ended.stem]["found"] = json.loads(found.read_text("utf-8"))
if (log := work / "run" / "metrics.jsonl").is_file():
    parts["train"]["metrics"] = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
if (results := work / "run" / "results.json").is_file():
    parts["evaluate"]["found"] = json.loads(results.read_text("utf-8"))
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
file.parent.mkdir(parents=True, exist_ok=True)
write_json(file, {"card": card, "cuda": torch.version.cuda, **environment_facts(), "parts": parts})
failed = [name for name, part in parts.items() if part["exit"]]
print(f"numbers  {file}" + (f"  (failed: {', '.join(failed)})" if failed else ""))
sys.exit(bool(failed))
END
