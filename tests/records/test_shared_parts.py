"""Parts that several processes make together."""

from __future__ import annotations

from pathlib import Path

from seqdistill.records.shared_parts import Parts, make_parts


def test_the_last_to_see_that_all_is_made_leaves_what_others_write_next(tmp_path: Path) -> None:
    writing, lock = tmp_path / "choices.parquet.partial-1", tmp_path / ".locks" / "choices.parquet"
    lock.parent.mkdir()
    finished: list[str] = []

    def arrives() -> None:
        make_parts(
            Parts(
                tmp_path,
                ["shard.parquet"],
                begin=lambda: None,
                is_made=lambda _: True,
                make=lambda _: None,
                is_finished=lambda: bool(finished),
                finish=lambda: finished.append("by the first"),
            )
        )

    writing.touch()  # by a process that was killed
    arrives()
    assert finished and not list(tmp_path.iterdir())
    lock.parent.mkdir()
    for path in (writing, lock):
        path.touch()  # by the first, which has gone on
    arrives()
    assert finished == ["by the first"] and writing.exists() and lock.exists()
