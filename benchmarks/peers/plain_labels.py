"""Labels sources with plain transformers, as a user's own script would.

    python -m benchmarks.peers.plain_labels TEACHER ROWS OUTPUT --mode beam --batch-size 32

ROWS is a .jsonl with `source`; OUTPUT gets a line of JSON a row, in order. Sources are sorted by
length, so that batches have little padding.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer


def main() -> None:
    """Reads, generates, writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("rows", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mode", choices=["beam", "sample"], required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--num-rows", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    lines = given.rows.read_text("utf-8").splitlines()[: given.num_rows]
    sources = [json.loads(line)["source"] for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(given.teacher)
    teacher = AutoModelForSeq2SeqLM.from_pretrained(given.teacher, dtype=torch.float32).eval()
    how = {
        "beam": {"num_beams": 5, "do_sample": False, "length_penalty": 1.0},
        "sample": {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
    }[given.mode]
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    texts = [""] * len(sources)
    for start in range(0, len(order), given.batch_size):
        places = order[start : start + given.batch_size]
        batch = tokenizer([sources[place] for place in places], padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            found = teacher.generate(**batch, **how, max_new_tokens=given.max_new_tokens)
        written = tokenizer.batch_decode(found, skip_special_tokens=True)
        for place, text in zip(places, written, strict=True):
            texts[place] = text.strip()
    rows = [
        json.dumps({"source": source, "text": text}, ensure_ascii=False)
        for source, text in zip(sources, texts, strict=True)
    ]
    given.output.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
