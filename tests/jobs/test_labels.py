"""Labels of a teacher: where they go, what is reused, what is said of it, what people read."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.jobs.runs import folder_for
from tests.tiny import EOS, tiny_model

from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.jobs.label import label_data, plan_labels
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe


class Said(NoProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, description: str, total: int) -> None:
        """A job is a line, too."""
        self.lines.append(description)

    def echo(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


@pytest.fixture(scope="module", params=["mbart", "llama"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_for(tmp_path_factory.mktemp("labels"), request.param)
    if request.param == "mbart":  # its outputs are to end, and not at once
        model = tiny_model("mbart", seed=3)
        model.final_logits_bias[0, EOS] += 5.0
        model.save_pretrained(folder / "teacher")
    return folder


def recipe(place: Path, *overrides: str) -> Recipe:
    given = [
        f"data.train={place / 'train.tsv'}",
        f"teacher.model={place / 'teacher'}",
        f"output_dir={place / 'runs' / 'x'}",
        "sequences.decoding={engine: transformers, max_new_tokens: 20, beam_size: 2}",
    ]
    return load_recipe("seq_kd", [*given, *overrides], purpose="label")


def labelled(place: Path, *overrides: str) -> tuple[Path, list[str]]:
    said = Said()
    return label_data(recipe(place, *overrides), progress=said), said.lines


def test_labels_are_planned_made_and_reused_and_all_of_it_is_said(place: Path) -> None:
    planned = dict(plan_labels(recipe(place)))
    assert not Path(planned["would write to"]).exists()
    assert "minutes, from 24 that were timed" in planned["teacher's labels"]
    folder, lines = labelled(place)
    assert (str(folder), lines) == (
        planned["would write to"],
        [f"labelling into {folder}", "labelling with the teacher"],
    )
    again, lines = labelled(place)
    assert again == folder and len(lines) == 1
    assert lines[0].startswith("reusing ") and f"of 24 examples in {folder}, made 2" in lines[0]
    assert dict(plan_labels(recipe(place)))["teacher's labels"] == lines[0]
    other, lines = labelled(place, "sequences.decoding.beam_size=3")
    assert other != folder and lines[0] == f"labelling into {other}"


def test_labels_go_where_they_are_to_go_and_hold_the_sources(place: Path) -> None:
    folder, _ = labelled(place, f"sequences.corpus={place / 'mine'}")
    assert folder == place / "mine"
    table = pq.read_table(folder / "shard-00000.parquet")
    names = ["id", "source", "rank", "token_ids", "text", "log_prob", "finished"]
    assert table.column_names == names
    sources = {row["id"]: row["source"] for row in table.to_pylist()}
    examples = read_examples(str(place / "train.tsv"))
    assert sources == {example.id: example.source for example in examples}
