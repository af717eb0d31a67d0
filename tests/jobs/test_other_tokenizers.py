"""Whole runs with a teacher whose tokens are not the student's, and with one whose are, renamed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from tests.jobs import naive
from tests.jobs.runs import (
    assert_equal_students,
    bench,
    folder_for,
    recipe_in,
    save_chat_model,
    trained,
)
from tests.tiny import EOS, character_tokenizer, tiny_model
from tests.tokenizers_made import byte_level
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.teachers import live_teacher
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import UserError
from seqdistill.core.scores import ChunkScores
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.loading import load_pair
from seqdistill.teachers.other_tokens import OtherTokensTeacher

KINDS = pytest.mark.parametrize("kind", ["mbart", "llama"])
BOTH = "objective.terms=[{divergence: chunk_likelihood, weight: 0.5}, {divergence: uld}]"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind data, a student that writes letters and a teacher that writes pieces of words.

    The student's marks have other ids than the teacher's, and other names.
    """
    found = {}
    for kind in ("mbart", "llama"):
        place = found[kind] = folder_for(tmp_path_factory.mktemp(kind), kind)
        tokenizer = byte_level(closes=kind == "mbart")
        shutil.rmtree(place / "teacher")
        model = tiny_model(kind, seed=3, vocab_size=len(tokenizer), max_position_embeddings=60)
        for config in (model.config, model.generation_config):
            config.eos_token_id = tokenizer.eos_token_id
            config.bos_token_id, config.pad_token_id = 0, 1
        if kind == "mbart":
            model.final_logits_bias[0, EOS] += 8.0  # so that its outputs come to an end
        model.save_pretrained(place / "teacher")
        tokenizer.save_pretrained(place / "teacher")
    return found


def letters(ids: tuple[int, ...], tokenizer: PreTrainedTokenizerFast) -> list[str | None]:
    """Of each token what it spells; all texts here are ASCII. None for an end."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [None if name == "</s>" else str(name).replace("Ġ", " ") for name in names]


def naive_loss(place: Path, examples: list[EncodedExample]) -> Tensor:
    """0.5 ALM + ULD over chunks, from both models' plain logits, over the student's tokens."""
    student, teacher = (naive.plain_model(place / who) for who in ("student", "teacher"))
    tokenizers = [load_pair(str(place / who)).tokenizer for who in ("student", "teacher")]
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for example in examples:
        source, target = (
            str(tokenizers[0].decode(ids, skip_special_tokens=True))
            for ids in (example.source_ids, example.target_ids)
        )
        its_source = tokenizers[1](source).input_ids
        its_target = (*tokenizers[1](target, add_special_tokens=False).input_ids, EOS)
        if not student.config.is_encoder_decoder:
            whole = tokenizers[1](source + target).input_ids
            assert whole == [*its_source, *its_target[:-1]], "no token lies across the border here"
        own = naive.plain_logits(student, example.source_ids, example.target_ids)
        with torch.no_grad():
            others = naive.plain_logits(teacher, its_source, its_target)
        own, others = own.log_softmax(-1), others.log_softmax(-1)
        num_tokens += len(example.target_ids)
        spelled = letters(example.target_ids, tokenizers[0])
        time = 0
        for at, piece in enumerate(letters(its_target, tokenizers[1])):
            size = 1 if piece is None else len(piece)  # a letter a token
            assert spelled[time : time + size] == ([None] if piece is None else [*piece])
            steps = range(time, time + size)
            log_q = torch.stack([own[t, example.target_ids[t]] for t in steps]).sum()
            total = total + 0.5 * naive.of_chunk({}, log_q, others[at, its_target[at]])
            q, p = own[time].exp(), others[at].exp()
            q = torch.cat([q, q.new_zeros(len(p) - len(q))])
            total = total + (q.sort().values - p.sort().values).abs().sum()
            time += size
        assert time == len(spelled)
    return total / num_tokens


@KINDS
def test_the_loss_of_a_batch_is_that_of_a_naive_loop(places: dict[str, Path], kind: str) -> None:
    """References, in fp64: texts, tokens, positions, chunks, ends: all are found independently."""
    place = places[kind]
    found = bench(recipe_in(place, "supervised_kd", BOTH, "objective.reduction=token"))
    batch = found.batch()
    by_id = {example.id: example for example in found.examples}
    teacher = live_teacher(found.prepared, torch.device("cpu"))
    found.prepared.adapted.eval().double()
    assert isinstance(teacher, OtherTokensTeacher)
    teacher._model.double()
    states = found.prepared.adapted.states(batch)
    total, parts = found.prepared.objective(states, teacher.score(batch), batch)
    expected = naive_loss(place, [by_id[name] for name in batch.example_ids])
    torch.testing.assert_close(total.total / total.count, expected.detach(), rtol=1e-6, atol=1e-9)
    assert parts["aligned_fraction"].mean == 1.0 and parts["tokens_per_chunk"].mean > 1.5


@pytest.mark.parametrize(("kind", "method"), [("llama", "gkd"), ("mbart", "uld")])
def test_runs_learn_and_tell_how_much_is_compared(
    places: dict[str, Path], tmp_path: Path, kind: str, method: str
) -> None:
    given = [f"output_dir={tmp_path}", "data.dev=null"]
    given += [BOTH, "objective.monitors=[]"] if method == "gkd" else []
    run = trained(recipe_in(places[kind], method, *given))
    rows = [row for row in run.read_metrics() if "aligned_fraction" in row]
    assert len(rows) == 4
    for row in rows:
        assert 0.3 < float(str(row["aligned_fraction"])) <= 1.0
        assert 1.0 <= float(str(row["tokens_per_chunk"])) < 6.0


def rewritten(batch: SequenceBatch, row: int, ids: list[int], prompt: int = 0) -> SequenceBatch:
    """The batch whose row says something else; of decoder-only models after its prompt."""
    mask = batch.target_mask.clone()
    first = int(mask[row].nonzero()[0])
    targets = batch.target_ids.clone()
    mask[row] = False
    mask[row, first : first + len(ids)] = True
    targets[row, first : first + len(ids)] = torch.tensor(ids)
    return dataclasses.replace(batch, target_ids=targets, target_mask=mask)


@KINDS
def test_what_the_student_writes_is_read_by_the_teacher_as_text(
    places: dict[str, Path], kind: str
) -> None:
    """Cut off, with marks inside, or of nothing but an end."""
    found = bench(recipe_in(places[kind], "supervised_kd", BOTH))
    batch = found.batch()
    teacher = live_teacher(found.prepared, torch.device("cpu"))
    assert isinstance(teacher, OtherTokensTeacher)
    spell = found.prepared.student.tokenizer
    its = found.prepared.teachers[0].tokenizer
    rot = spell("rot", add_special_tokens=False).input_ids

    def scores_of(ids: list[int]) -> tuple[list[int], list[int]]:
        """The chunks of the row's positions, and the teacher's tokens in them."""
        changed = rewritten(batch, 0, ids)
        scores = teacher.score(changed)
        assert isinstance(scores, ChunkScores)
        own = scores.chunk_of[0][changed.target_mask[0]].tolist()
        there = (scores.teacher_chunk_of <= max(own)) if max(own) >= 0 else slice(0)
        return own, scores.target_ids[there].tolist()

    one = its("rot", add_special_tokens=False).input_ids
    assert len(one) == 1
    assert scores_of([*rot, EOS]) == ([0, 0, 0, 1], [*one, EOS])
    assert scores_of(rot) == ([0, 0, 0], one), "cut off: the end is not what follows"
    assert scores_of([EOS]) == ([0], [EOS])
    unknown = 3
    own, _ = scores_of([*rot, unknown, EOS])
    assert own == [0, 0, 0, -1, 1], "what is no text is in no chunk"


@KINDS
def test_longer_than_the_teacher_reads_is_in_no_chunk(
    places: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "short"
    shutil.copytree(places[kind], place)
    tokenizer = load_pair(str(place / "teacher")).tokenizer
    shutil.rmtree(place / "teacher")
    model = tiny_model(kind, seed=3, vocab_size=len(tokenizer), max_position_embeddings=7)
    model.save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    found = bench(recipe_in(place, "supervised_kd", BOTH))
    teacher = live_teacher(found.prepared, torch.device("cpu"))
    per_row = []
    for update in (1, 2, 3):
        batch = found.batch(update)
        scores = teacher.score(batch)
        assert isinstance(scores, ChunkScores)
        for own, counts in zip(scores.chunk_of, batch.target_mask, strict=True):
            per_row.append(bool((own[counts] >= 0).all()))
            assert per_row[-1] or bool((own == -1).all()), "a whole row or nothing"
    assert 0 < sum(per_row) < len(per_row)


@pytest.mark.parametrize(("kind", "method"), [("mbart", "word_kd"), ("llama", "on_policy_kd")])
def test_the_same_tokenizer_under_another_name_gives_the_same_bits(
    tmp_path: Path, kind: str, method: str
) -> None:
    """Other files, another class name and another path: the same strings and merges."""
    (tmp_path / "a").mkdir()
    place = folder_for(tmp_path / "a", kind)
    first = trained(recipe_in(place, method, "data.dev=null"))
    again = tmp_path / "b"
    shutil.copytree(place, again, ignore=shutil.ignore_patterns("runs"))
    (again / "teacher").rename(again / "another-name")
    tokenizer = character_tokenizer(closes=kind == "mbart")
    renamed = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        name_or_path="someone/else",
    )
    renamed.save_pretrained(again / "another-name")
    other = recipe_in(again, method, "data.dev=null", f"teacher.model={again / 'another-name'}")
    assert prepare(other).shared_symbols == 40
    second = trained(other)
    assert_equal_students(first, second)


REFUSED = [
    (("objective.terms=[{divergence: forward_kl}]",), r"chunk_likelihood and uld compare texts"),
    ((BOTH, "teacher.cache_hidden_states=fp32"), r"teacher.cache_hidden_states must be none"),
    ((BOTH, "objective.monitors=[teacher_reverse_kl]"), r"objective.monitors must be without it"),
    (
        ("objective.terms=[{divergence: uld, token_weights: top_tokens}]",),
        r"objective.terms.0.token_weights must be without it .* got top_tokens",
    ),
    (
        (BOTH, "objective.features=[{match: hidden_mse, layers: last}]"),
        r"objective.features must be \[\] .* got hidden_mse",
    ),
]


@pytest.mark.parametrize(("given", "told"), REFUSED)
def test_what_needs_shared_tokens_is_refused_in_a_sentence(
    places: dict[str, Path], given: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        prepare(recipe_in(places["llama"], "supervised_kd", *given))


def test_a_teacher_that_samples_with_the_student_is_refused(places: dict[str, Path]) -> None:
    given = (BOTH, "sequences.rollouts.teacher_fraction=0.2", "objective.monitors=[]")
    with pytest.raises(UserError, match=r"teacher_fraction must be 0 where teacher and student"):
        prepare(recipe_in(places["mbart"], "on_policy_kd", *given))


def test_conversations_go_through_the_teachers_own_template(tmp_path: Path) -> None:
    """Qwen's turns end with <|im_end|>, Llama's with <|eot_id|>: end is aligned with end."""
    for who, family in (("student", "llama-3"), ("teacher", "qwen")):
        save_chat_model(tmp_path / who, family)
    lines = [
        '{"messages": [{"role": "user", "content": "rot"}, {"role": "assistant", "content": '
        f'"blau {"ab" * n}"'
        "}]}"
        for n in range(1, 9)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = [f"data.train={tmp_path / 'train.jsonl'}", "data.dev=null", "data.test=null", BOTH]
    found = bench(recipe_in(tmp_path, "supervised_kd", *given))
    batch = found.batch()
    teacher = live_teacher(found.prepared, torch.device("cpu"))
    scores = teacher.score(batch)
    assert isinstance(scores, ChunkScores)
    assert (scores.chunk_of[batch.target_mask] >= 0).all(), "every token, and the end"
    names = found.prepared.teachers[0].tokenizer.convert_ids_to_tokens(scores.target_ids.tolist())
    assert names.count("<|im_end|>") == batch.num_sequences
