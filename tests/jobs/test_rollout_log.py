"""What a run keeps of the sequences that its student writes, and what its log tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.runs import folder_for, recipe_in
from tests.sources.writing import batched

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.core.origins import Origin
from seqdistill.jobs.rollout_log import RolloutLog
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A recipe that wants to see something of every third update."""
    place = folder_for(tmp_path_factory.mktemp("place"), "mbart")
    return prepare(recipe_in(place, "gkd", "sequences.rollouts.samples_every=3"))


def written(prepared: Prepared, writer: Origin, prompts: Sequence[int]) -> list[Completion]:
    """A sequence for each of the prompts, which may come again."""
    return [Completion(prepared.train[prompt], writer) for prompt in prompts]


def kept(run: RunDirectory) -> list[tuple[Any, Any, Any]]:
    run.close()
    return [(row["step"], row["origin"], row["id"]) for row in run.read_rollouts()]


@pytest.mark.parametrize("writer", ["student", "teacher_mixed"])
def test_where_the_coin_falls_to_references_the_log_waits_for_the_student(
    prepared: Prepared, tmp_path: Path, writer: Origin
) -> None:
    run = RunDirectory(tmp_path)
    log = RolloutLog(prepared, run)
    ids = [example.id for example in prepared.train]
    by_others = written(prepared, "reference", [0, 1]) + written(prepared, "teacher", [2])
    log(1, batched(by_others))
    assert kept(run) == []
    log(2, batched(by_others + written(prepared, writer, [3, 4])))
    expected = [(2, writer, ids[3]), (2, writer, ids[4])]
    assert kept(run) == expected
    for update in (2, 3):  # another micro-batch, another update of the same three
        log(update, batched(written(prepared, writer, [5])))
    assert kept(run) == expected
    log(4, batched(by_others))
    log(6, batched(by_others))
    log(
        9, batched(written(prepared, writer, [6]))
    )  # nobody is late twice: the next three begin at 10
    log(10, batched(written(prepared, writer, [7])))
    assert kept(run) == [*expected, (9, writer, ids[6]), (10, writer, ids[7])]


@pytest.mark.parametrize("resumed_at", range(1, 11))
def test_a_log_that_is_resumed_keeps_the_same(
    prepared: Prepared, tmp_path: Path, resumed_at: int
) -> None:
    def hear(log: RolloutLog, first: int, last: int) -> None:
        for update in range(first, last + 1):
            writer: Origin = "student" if update in (2, 3, 8, 10) else "reference"
            log(update, batched(written(prepared, writer, [update])))

    whole, part = (RunDirectory.create(tmp_path / name) for name in ("whole", "part"))
    hear(RolloutLog(prepared, whole), 1, 10)
    assert [step for step, _, _ in kept(whole)] == [2, 8, 10]
    log = RolloutLog(prepared, part)
    hear(log, 1, resumed_at)
    logs = part.logs_so_far()
    hear(log, resumed_at + 1, min(10, resumed_at + 2))
    again = RolloutLog(prepared, part)
    part.go_back_to(logs)
    hear(again, resumed_at + 1, 10)
    assert kept(part) == kept(whole)


def test_several_samples_of_a_prompt_leave_room_for_other_prompts(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    ids = [example.id for example in prepared.train]
    log = RolloutLog(prepared, run)
    log(1, batched(written(prepared, "student", [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])))
    log(4, batched(written(prepared, "student", [n // 4 for n in range(24)])))
    log(7, batched(written(prepared, "student", [5] * 8)))
    names = [name for _, _, name in kept(run)]
    assert names == [*ids[:3], ids[0], *ids[:4], *[ids[5]] * 4]
