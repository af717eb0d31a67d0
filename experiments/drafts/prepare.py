"""Writes the chains of bundled:arithmetic as chats: `python -m experiments.drafts.prepare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from experiments.pages import exits
from seqdistill.assembly.data import Split, read_split
from seqdistill.recipe.loading import load_recipe
from seqdistill.records import atomic

DATA, FOLDER = "bundled:arithmetic", Path("runs/drafts/data")


def write_chats() -> None:
    """A file for each split, of the problems that are no stories."""
    settings = [f"data.{split}={DATA}" for split in get_args(Split)]
    recipe = load_recipe("seq_kd", [*settings, f"teacher.model={DATA}"], purpose="label")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split in get_args(Split):
        lines = []
        for row in read_split(recipe, split):
            if row.id.startswith("chain/"):
                turns = {"user": row.source, "assistant": row.target}
                messages = [{"role": role, "content": text} for role, text in turns.items()]
                lines.append(json.dumps({"id": row.id, "messages": messages}) + "\n")
        atomic.write_text(FOLDER / f"{split}.jsonl", "".join(lines))
        print(f"{len(lines):,} chats in {FOLDER / f'{split}.jsonl'}")


if __name__ == "__main__":
    exits(write_chats)
