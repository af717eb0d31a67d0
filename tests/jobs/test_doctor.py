"""`doctor` names what would go wrong, says nothing of what would not, and does nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import FEASIBLE, WORDS, folder_for, save_chat_model, save_pairs
from tests.sounds import save_table, save_whisper
from tests.tiny import character_tokenizer, save_unlisted, tiny_model
from transformers import LlamaConfig, PreTrainedTokenizerFast

from seqdistill.assembly.memory import memory_need, sketched
from seqdistill.jobs import machine_findings
from seqdistill.jobs.doctor import Examination, examine
from seqdistill.jobs.findings import Finding
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe

CARD = "---\nlicense: apache-2.0\n---\n"
MODELS = ("teacher.model=teacher", "student.model=student", "output_dir=run")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sound data and models, with licences."""
    folder_for(tmp_path, "mbart")
    for name in ("test", "dev"):  # none of the rows of train
        save_pairs(tmp_path / f"{name}.tsv", 5, seed=1)
        text = (tmp_path / f"{name}.tsv").read_text("utf-8")
        for word in WORDS:
            text = text.replace(word, word + name[:1]).replace(word[::-1], name[:1] + word[::-1])
        (tmp_path / f"{name}.tsv").write_text(text, "utf-8")
    for folder in (tmp_path, tmp_path / "teacher", tmp_path / "student"):
        (folder / "README.md").write_text(CARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examined(*overrides: str, method: str = "word_kd", data: str = "train.tsv") -> Examination:
    given = [*MODELS, f"data.train={data}", *FEASIBLE, *overrides]
    return examine(load_recipe(method, given, purpose="train"))


def faults(found: Examination) -> list[Finding]:
    """Warnings and errors, but for what is said of random weights."""
    return [
        finding
        for finding in found.findings
        if finding.level in ("warning", "error") and "less likely than chance" not in finding.found
    ]


def told(found: Examination, level: str, *words: str) -> Finding:
    """The one finding of that level that has all the words."""
    named = [
        finding
        for finding in found.findings
        if finding.level == level and all(word in finding.found for word in words)
    ]
    assert len(named) == 1, found.findings
    return named[0]


def test_sound_recipes_have_no_fault_and_nothing_is_written(place: Path) -> None:
    before = sorted(place.rglob("*"))
    found = examined("data.dev=dev.tsv", "data.test=test.tsv")
    assert not faults(found) and not found.would_fail
    assert {finding.subject for finding in found.findings} == {
        *("tokenizers", "vocabularies", "ends", "lengths", "splits"),
        *("dtype", "memory", "engines", "licences", "training"),
    }
    assert sorted(place.rglob("*")) == before


def test_recordings_are_decoded_by_transformers_and_it_says_so(place: Path) -> None:
    pytest.importorskip("soundfile")
    save_whisper(place / "hears")
    for split, words in {"train": ["ab", "cab"], "dev": ["eca"], "test": ["dab"]}.items():
        save_table(place / f"{split}.jsonl", words)
    (place / "hears" / "README.md").write_text(CARD)
    given = ["teacher.model=hears", "output_dir=run", "evaluation.max_new_tokens=30"]
    given += ["sequences.decoding.max_new_tokens=30"]
    given += [f"data.{split}={split}.jsonl" for split in ("train", "dev", "test")]
    found = examine(load_recipe("distil_whisper", given, purpose="train"))
    assert not faults(found) and not found.would_fail
    told(found, "note", "dev and test: transformers, since")
    told(found, "note", "labels: transformers, since")


def other_vocabulary() -> None:
    tokenizer = character_tokenizer(extra=["ß"])
    tiny_model("mbart", vocab_size=len(tokenizer)).save_pretrained("student")
    tokenizer.save_pretrained("student")


def edit_json(path: str, **values: object) -> None:
    content = json.loads(Path(path).read_text("utf-8"))
    Path(path).write_text(json.dumps({**content, **values}), "utf-8")


def no_declared_end() -> None:
    edit_json("teacher/generation_config.json", eos_token_id=None)


def messages() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    Path("train.tsv").unlink()
    Path("train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")


def chats_without_a_template() -> None:
    messages()
    for name in ("teacher", "student"):
        tiny_model("llama").save_pretrained(name)
        character_tokenizer(closes=False).save_pretrained(name)


def chat_models(family: str) -> PreTrainedTokenizerFast:
    messages()
    save_chat_model(Path("teacher"), family)
    return save_chat_model(Path("student"), family)


def no_declared_turn_end() -> None:
    tokenizer = chat_models("llama-3")
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    edit_json("student/generation_config.json", eos_token_id=ends)


def another_template() -> None:
    chat_models("qwen")
    template = Path("student/chat_template.jinja")
    template.write_text("Chat: " + template.read_text("utf-8"), "utf-8")


def long_targets() -> None:
    lines = [f"rot {i % 7}\t{'blau ' * (2 if i < 4 else 6)}" for i in range(20)]
    Path("train.tsv").write_text("\n".join(["source\ttarget", *lines]) + "\n")


def a_giant() -> None:
    config = LlamaConfig(
        hidden_size=16384, intermediate_size=65536, num_hidden_layers=20, vocab_size=40
    )
    for name in ("teacher", "student"):
        config.save_pretrained(name)
        character_tokenizer(closes=False).save_pretrained(name)
        Path(name, "model.safetensors").unlink()


def no_licence() -> None:
    Path("teacher/README.md").write_text("# A teacher\n")


def not_commercial() -> None:
    Path("teacher/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")


def a_shared_row() -> None:
    with Path("dev.tsv").open("a", encoding="utf-8") as file:
        file.write(Path("train.tsv").read_text("utf-8").splitlines()[3] + "\n")


DEV = "data.dev=dev.tsv"
FAULTS: list[tuple[Callable[[], object], Sequence[str], str, Sequence[str], str]] = [
    (other_vocabulary, (), "error", ("share one vocabulary", "36 tokens"), ""),
    (no_declared_end, (), "warning", ("of the teacher names no eos_token_id",), "[2]"),
    (no_declared_turn_end, (), "warning", ("of the teacher lacks '<|eot_id|>'",), "eos_token_id"),
    (another_template, (), "warning", ("other chat templates",), "chat_template.jinja"),
    (chats_without_a_template, (), "error", ("chat template", "has none"), ""),
    (
        long_targets,
        ("data.max_target_tokens=20",),
        "warning",
        ("16 of 20 rows are longer than data.max_target_tokens=20",),
        "data.max_target_tokens=31",
    ),
    (a_giant, (), "error", ("GiB",), "smaller student"),
    (lambda: None, ("teacher.dtype=fp16",), "warning", ("teacher.dtype=fp16 on a CPU",), "out"),
    (no_licence, (), "warning", ("teacher", "unknown"), "license:"),
    (not_commercial, (), "warning", ("teacher", "cc-by-nc-4.0"), ""),
    (a_shared_row, (DEV,), "warning", ("1 of 6 rows of data.dev",), "out of data.train"),
]


@pytest.mark.parametrize(("plant", "overrides", "level", "words", "change"), FAULTS)
def test_a_planted_fault_is_named_alone(
    place: Path,
    plant: Callable[[], object],
    overrides: Sequence[str],
    level: str,
    words: Sequence[str],
    change: str,
) -> None:
    plant()
    data = "train.jsonl" if Path("train.jsonl").exists() else "train.tsv"
    found = examined(*overrides, data=data)
    fault = told(found, level, *words)
    assert change in fault.change
    assert faults(found) == [fault], "and nothing else"
    assert found.would_fail == (level == "error")


@pytest.mark.slow
def test_a_bundled_recipe_gives_no_false_alarm() -> None:
    given = ["training.device=cpu", "data.max_train_examples=100", "data.max_dev_examples=20"]
    found = examine(load_recipe("demo", given, purpose="train"))
    assert not [finding for finding in found.findings if finding.level in ("warning", "error")]


def test_a_template_without_a_generation_prompt_is_told(place: Path) -> None:
    chat_models("qwen")
    for name in ("teacher", "student"):
        template = Path(name, "chat_template.jinja")
        template.write_text(template.read_text("utf-8").replace("add_generation_prompt", "none"))
    found = examined(data="train.jsonl")
    told(found, "warning", "of the teacher has no generation prompt")
    told(found, "warning", "of the student has no generation prompt")


def test_each_of_several_teachers_is_looked_at(place: Path) -> None:
    shutil.copytree("teacher", "other")
    save_unlisted(tiny_model("mbart"), character_tokenizer(), Path("other"))
    Path("other/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    both = "teacher.model=[teacher, other]"
    assert told(examined(both), "warning", "other", "cc-by-nc-4.0").subject == "licences"
    save_unlisted(tiny_model("mbart"), character_tokenizer(extra=["ß"]), Path("other"))
    assert told(examined(both), "error", "'other'", "share one vocabulary").subject == "tokenizers"


def test_texts_of_other_vocabularies_may_be_learned(place: Path) -> None:
    other_vocabulary()
    found = examined("sequences.decoding.max_new_tokens=20", method="seq_kd")
    assert not faults(found)
    told(found, "note", "other vocabularies", "100.0% of the student's tokens", "1.00 student")


def test_of_other_vocabularies_it_says_which_way_fits(place: Path) -> None:
    other_vocabulary()
    found = examined("objective.terms=[{divergence: chunk_likelihood}]")
    assert not faults(found)
    note = told(found, "note", "100.0% of the student's tokens", "ends with '</s>' (id 2)")
    assert note.happens.startswith("chunk_likelihood compares those chunks")
    assert note.change.index("seq_kd") < note.change.index("chunk_l") < note.change.index("uld")
    plain = examined(method="word_kd")
    told(plain, "error", "share one vocabulary", "chunk_likelihood and uld compare texts, too")
    assert told(plain, "note", "100.0% of the student's tokens").change == note.change


def test_rows_show_what_is_learned(place: Path) -> None:
    chat_models("qwen")
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    Path("train.jsonl").write_text(json.dumps(row) + "\n")
    (seen,) = examined(data="train.jsonl").rows
    assert [learned for _, learned in seen.pieces] == [False, True, False, True]
    said = ["".join(tokens.split()) for tokens, learned in seen.pieces if learned]
    assert said == ["two<|im_end|>", "four<|im_end|>"]
    (sampled,) = examined(data="train.jsonl", method="on_policy_kd").rows
    assert [learned for _, learned in sampled.pieces] == [False], "what it samples is learned"


def test_memory_is_that_of_weights_gradients_moments_and_activations(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("teacher", "other")
    model = load_pair("student").model
    size = sum(parameter.numel() for parameter in model.parameters())
    recipe = load_recipe("word_kd", [*MODELS, "data.train=train.tsv", *FEASIBLE])
    need = memory_need(recipe, sketched("student").model, 2 * [sketched("teacher").model],
                       device=torch.device("cpu"), precision="fp32")  # fmt: skip
    parts = dict(need.parts)
    assert parts.pop("libraries") > 2**29
    assert parts == {
        "student's weights": 4 * size,
        "gradients": 4 * size,
        "optimizer": 8 * size,
        "teacher's weights": 2 * 4 * size,
    }
    for have, level in ((need.total * 2, "ok"), (need.total, "warning"), (need.fixed - 1, "error")):
        monkeypatch.setattr(machine_findings, "memory_of", lambda _device, have=have: have)
        found = examined("teacher.model=[teacher, other]")
        assert told(found, level, "estimated").subject == "memory"


def test_activations_are_of_no_more_than_the_data_have(place: Path) -> None:
    def needed(batch_tokens: int, *more: str, method: str = "word_kd") -> str:
        given = (f"training.batch_tokens={batch_tokens}", *more)
        return told(examined(*given, method=method), "ok", "estimated").found

    assert needed(10**7) == needed(10**8) != needed(20)
    once = needed(10**8, method="on_policy_kd")
    twice = needed(10**8, "sequences.rollouts.samples_per_prompt=2", method="on_policy_kd")
    assert once != twice, "each sequence is one to learn from"
