"""`generate --draft`: the teacher's own outputs, what drafts brought, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import character_tokenizer, save_unlisted, tiny_model

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.jobs.generate import generate_texts

TEXTS = ["rot", "", "a longer text"]


class Told(Progress):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def echo(self, line: str) -> None:
        self.lines.append(line)


def generate(progress: Progress | None = None, **settings: Any) -> list[str]:
    given = {"model": "teacher", "threads": 1, "max_new_tokens": 9, **settings}
    return generate_texts(prompts=TEXTS, progress=progress or NoProgress(), **given)


@pytest.fixture(params=["bart", "llama"])
def folders(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    tokenizer = character_tokenizer(closes=request.param == "bart")
    for seed, name in enumerate(("teacher", "student")):
        save_unlisted(tiny_model(request.param, seed=seed), tokenizer, tmp_path / name)
    return str(request.param)


@pytest.mark.usefixtures("folders")
def test_a_draft_changes_no_greedy_text_and_its_use_is_told() -> None:
    told = Told()
    found = generate(told, draft="student")
    assert found == generate(engine="transformers", beam_size=1)
    chosen, accepted, tokens, speed = told.lines
    assert chosen.startswith("--draft-tokens ") and "is chosen" in chosen
    assert "accepted" in accepted and "TVD" not in accepted, "greedy: it is the same"
    assert "tokens a forward pass" in tokens
    assert "by the teacher alone" in speed and ("no gain" in speed or "times as fast" in speed)


@pytest.mark.usefixtures("folders")
def test_samples_depend_on_the_seed_and_are_told_of_beside_the_tvd() -> None:
    told = Told()
    settings: dict[str, Any] = {"draft": "student", "draft_tokens": 2, "sampling_temperature": 1.0}
    first = generate(told, seed=1, **settings)
    assert generate(seed=1, **settings) == first != generate(seed=2, **settings)
    assert [("TVD" in line) for line in told.lines] == [True, False, False]
    alone: dict[str, Any] = {"sampling_temperature": 1.0, "top_k": 3, "engine": "transformers"}
    assert generate(seed=1, **alone) == generate(seed=1, **alone) != generate(seed=2, **alone)


def test_what_a_draft_does_not_go_with_is_refused_in_a_sentence(folders: str) -> None:
    other = {"bart": "llama", "llama": "bart"}[folders]
    save_unlisted(tiny_model(other), character_tokenizer(), Path("kind"))
    save_unlisted(tiny_model(folders), character_tokenizer(pad="<fill>"), Path("names"))
    Path("int8").mkdir()
    for file in ("model.bin", "seqdistill.json"):
        Path("int8", file).write_text("{}", encoding="utf-8")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"draft": "kind"}, "must be of the teacher's kind"),
        ({"draft": "names"}, "must have the teacher's vocabulary"),
        ({"draft": "int8"}, "--draft must be a transformers model .* got the CTranslate2 folder"),
        ({"draft": "student", "model": "int8"}, "MODEL must be a transformers model"),
        ({"draft": "student", "beam_size": 4}, "greedy or sampled, got a beam of 4"),
        ({"draft": "student", "engine": "ctranslate2"}, "transformers engine"),
        ({"draft": "student", "compute_type": "int8"}, "transformers engine"),
        ({"draft_tokens": 2}, "--draft is not given"),
        ({"top_k": 2}, "give --sampling-temperature"),
        ({"sampling_temperature": 1.0, "beam_size": 2}, "leave one of them out"),
    ]
    for settings, said in refused:
        with pytest.raises(UserError, match=said):
            generate(**settings)
