"""A teacher's corpus: what is kept, how it survives kills, who shares it, when it is refused."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from seqdistill.core.errors import DataError, ModelError, StaleCorpusError
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources import shards
from seqdistill.sources.labelling import Labelling, label
from seqdistill.sources.shards import Prompt, TeacherOutput, fingerprint_sources
from seqdistill.sources.teacher_corpus import CORPUS, CorpusSettings, TeacherCorpus, is_complete

END = 1
EXAMPLES = [(f"doc/{number}", (10 + number, 20 + number % 3, END)) for number in range(23)]
BEAM = Decoding(beam_size=3, n_best=2)
SAMPLE = Decoding(mode="sample", n_best=2)


class PowerCut(BaseException):
    """Ends the process at once, as far as the code under test can tell."""


@dataclasses.dataclass
class FakeGenerator:
    """Reverses the source; in mode `sample` the tokens depend on the seed as well."""

    calls_left: int = 1000
    num_generated: int = 0
    is_finished: Callable[[Sequence[int], int], bool] = lambda source, rank: True

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        if not self.calls_left:
            raise PowerCut
        self.calls_left -= 1
        self.num_generated += len(sources)
        if on_progress is not None:
            on_progress(len(sources))
        shift = seed % 97 if decoding.mode == "sample" else 0
        return [
            [self.hypothesis(source, rank, shift) for rank in range(decoding.n_best)]
            for source in sources
        ]

    def hypothesis(self, source: Sequence[int], rank: int, shift: int) -> Hypothesis:
        tokens = [token + shift for token in source[-2::-1]] + [50 + rank]
        if not self.is_finished(source, rank):
            return Hypothesis(tuple(tokens), -9.5, False)
        return Hypothesis((*tokens, END), -0.25 - rank, True)


def spell(token_ids: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in token_ids if token != END)


def sources_of(examples: Sequence[tuple[str, Sequence[int]]]) -> list[Prompt]:
    return [Prompt(name, ids, f"source of {name}") for name, ids in examples]


def settings_with(**changes: Any) -> CorpusSettings:
    sources = fingerprint_sources(sources_of(EXAMPLES))
    return dataclasses.replace(CorpusSettings("t", "k", sources, BEAM, seed=3), **changes)


def label_with(generator: SequenceGenerator, folder: Path, **changes: Any) -> TeacherCorpus:
    sources = sources_of(changes.pop("examples", EXAMPLES))
    of_settings = {field.name for field in dataclasses.fields(CorpusSettings)}
    fields = {name: changes.pop(name) for name in of_settings & changes.keys()}
    fields.setdefault("sources_fingerprint", fingerprint_sources(sources))
    arguments: dict[str, Any] = {"shard_size": 5, "decode": spell} | changes
    return label(
        Labelling(sources, lambda: generator, settings_with(**fields), folder, **arguments)
    )


def stored(corpus: TeacherCorpus) -> list[TeacherOutput]:
    return [output for _, outputs in corpus.by_example() for output in outputs]


def outputs_of(corpus: TeacherCorpus) -> dict[str, list[tuple[int, ...]]]:
    return {name: [one.token_ids for one in outputs] for name, outputs in corpus.by_example()}


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}


@pytest.mark.parametrize("rows_read", [3, 1024])
def test_every_finished_hypothesis_comes_back_under_its_id(
    tmp_path: Path, rows_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the outputs of one example lie in two reads."""
    monkeypatch.setattr(shards, "_ROWS_READ", rows_read)
    generator = FakeGenerator()
    corpus = label_with(generator, tmp_path / "corpus")
    for (example_id, source), (name, found) in zip(EXAMPLES, corpus.by_example(), strict=True):
        expected = [generator.hypothesis(source, rank, 0) for rank in (0, 1)]
        assert name == example_id
        assert [output.rank for output in found] == [0, 1]
        assert [output.token_ids for output in found] == [one.token_ids for one in expected]
        assert [output.log_prob for output in found] == [-0.25, -1.25]
        assert [output.text for output in found] == [spell(one.token_ids) for one in expected]
    tables = [pq.read_table(path) for path in sorted((tmp_path / "corpus").glob("*.parquet"))]
    assert [table.num_rows for table in tables] == [10, 10, 10, 10, 6]
    sources = [text for table in tables for text in table.column("source").to_pylist()]
    assert sources[::2] == sources[1::2] == [f"source of {name}" for name, _ in EXAMPLES]
    counts = corpus.record.counts
    assert (counts.num_hypotheses, counts.num_unfinished, counts.num_with_text) == (46, 0, 46)
    assert counts.num_tokens == sum(len(output.token_ids) for output in stored(corpus))
    assert "ctranslate2" in corpus.record.versions


def rarely_finished(source: Sequence[int], rank: int) -> bool:
    """Source 10 finishes nothing, every third source its second output alone."""
    return source[0] != 10 and (source[1] != 20 or rank == 1)


NUM_CUT = 2 + len(range(3, 23, 3))


def test_unfinished_hypotheses_are_dropped_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = label_with(FakeGenerator(is_finished=rarely_finished), tmp_path)
    assert "1 of 23 examples" in caplog.text
    outputs = dict(corpus.by_example())
    assert outputs["doc/0"] == []
    (survivor,) = outputs["doc/3"]
    assert (survivor.rank, survivor.token_ids[-2]) == (0, 51)
    counts = corpus.record.counts
    assert (counts.num_hypotheses, counts.num_cut) == (46 - NUM_CUT, 0)
    assert (counts.num_dropped, counts.num_unfinished) == (NUM_CUT, 1)


def test_cut_samples_are_kept_without_an_end_token_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without them a teacher's samples would be those of a distribution that stops early."""
    generator = FakeGenerator(is_finished=rarely_finished)
    corpus = label_with(generator, tmp_path, decoding=SAMPLE)
    counts = corpus.record.counts
    assert (counts.num_hypotheses, counts.num_cut) == (46, NUM_CUT)
    assert (counts.num_dropped, counts.num_unfinished) == (0, 0)
    assert f"{NUM_CUT} of the teacher's 46 samples were cut off at 128 tokens" in caplog.text
    assert [len(outputs) for _, outputs in corpus.by_example()] == [2] * 23
    cut = [output for output in stored(corpus) if output.token_ids[-1] != END]
    assert cut == [output for output in stored(corpus) if not output.finished]
    assert {output.log_prob for output in cut} == {-9.5} and len(cut) == NUM_CUT
    assert counts.num_tokens == sum(len(output.token_ids) for output in stored(corpus))


class Mute(FakeGenerator):
    """Says nothing at all, but for sources that are finished."""

    def hypothesis(self, source: Sequence[int], rank: int, shift: int) -> Hypothesis:
        found = super().hypothesis(source, rank, shift)
        return found if found.finished else Hypothesis((), 0.0, False)


def test_an_answer_without_a_token_is_no_sample_and_of_nothing_else_there_is_no_corpus(
    tmp_path: Path,
) -> None:
    mute = Mute(is_finished=lambda source, rank: source[0] < 12)
    corpus = label_with(mute, tmp_path / "few", decoding=SAMPLE)
    assert {output.id for output in stored(corpus)} == {"doc/0", "doc/1"}
    counts = corpus.record.counts
    assert (counts.num_unfinished, counts.num_cut, counts.num_dropped) == (21, 0, 42)
    endless = FakeGenerator(is_finished=lambda source, rank: False)
    silent = Mute(is_finished=lambda source, rank: False)
    for generator, decoding in ((silent, SAMPLE), (endless, BEAM)):
        with pytest.raises(ModelError, match="for 0 of 23 examples, and no corpus is written"):
            label_with(generator, tmp_path / "none", decoding=decoding)
    assert not any((tmp_path / "none").iterdir())


@pytest.mark.parametrize("decoding", [BEAM, SAMPLE], ids=["beam", "sample"])
@pytest.mark.parametrize("num_calls", [0, 1, 4])
def test_a_corpus_cut_in_generation_and_resumed_equals_a_whole_one(
    tmp_path: Path, decoding: Decoding, num_calls: int
) -> None:
    label_with(FakeGenerator(), tmp_path / "whole", decoding=decoding)
    folder = tmp_path / "cut"
    with pytest.raises(PowerCut):
        label_with(FakeGenerator(calls_left=num_calls), folder, decoding=decoding)
    assert not is_complete(folder)
    with pytest.raises(DataError, match="its labelling has not ended"):
        TeacherCorpus.open(folder, expected=None)
    second, seen = FakeGenerator(), list[int]()
    corpus = label_with(second, folder, decoding=decoding, on_progress=seen.append)
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")
    assert second.num_generated == 23 - 5 * num_calls and sum(seen) == 23
    idle = FakeGenerator(calls_left=0)
    assert label_with(idle, folder, decoding=decoding, on_progress=seen.append) == corpus
    assert sum(seen) == 46


@pytest.mark.parametrize("num_renames", [0, 1, 6])
def test_a_corpus_cut_while_writing_and_resumed_equals_a_whole_one(
    tmp_path: Path, num_renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_with(FakeGenerator(), tmp_path / "whole")
    renames: list[Path] = []
    replace = os.replace

    def cut(old: Path, new: Path) -> None:
        if len(renames) == num_renames:
            # What a kill leaves behind: a half-written file under a name of another process.
            half = Path(old).read_bytes()[:100]
            Path(f"{new}.partial-999999").write_bytes(half)
            raise PowerCut
        renames.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(PowerCut):
        label_with(FakeGenerator(), tmp_path / "cut")
    monkeypatch.undo()
    second = FakeGenerator()
    label_with(second, tmp_path / "cut")
    assert shard_bytes(tmp_path / "cut") == shard_bytes(tmp_path / "whole")
    assert second.num_generated == max(0, 23 - 5 * max(0, num_renames - 1))
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        CORPUS,
        *shard_bytes(tmp_path / "whole"),
    }


def in_another_process(folder: Path, *, pause: str) -> subprocess.Popen[bytes]:
    """Labels into the folder; `pause` is run before each shard is generated, as n = 0, 1, ..."""
    code = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_teacher_corpus as here
        folder = Path({str(folder)!r})

        class Slow(here.FakeGenerator):
            n = 0
            def generate(self, sources, decoding, *, seed=0, on_progress=None):
                {pause}
                self.n += 1
                return super().generate(sources, decoding, seed=seed, on_progress=on_progress)

        made = Slow()
        here.label_with(made, folder, decoding=here.SAMPLE)
        print(made.num_generated)
    """)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    waited = time.monotonic() + 60
    while not path.exists() and time.monotonic() < waited:
        assert process.poll() is None, "the labelling process ended by itself"
        time.sleep(0.02)


def test_what_a_killed_process_was_making_is_made_by_one_that_waits_for_it(tmp_path: Path) -> None:
    label_with(FakeGenerator(), tmp_path / "whole", decoding=SAMPLE)
    folder, second = tmp_path / "killed", FakeGenerator()
    process = in_another_process(folder, pause="self.n < 2 or time.sleep(60)")
    try:
        wait_for(folder / ".locks" / "shard-00002.parquet", process)
        seen: list[int] = []

        def kill_in_the_end(count: int) -> None:
            seen.append(count)
            if sum(seen) == 18:  # all but the five of the third shard
                process.send_signal(signal.SIGKILL)

        label_with(second, folder, decoding=SAMPLE, on_progress=kill_in_the_end)
    finally:
        process.kill()
        process.communicate()
    assert second.num_generated == 13 and sum(seen) == 23
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")


def test_processes_that_label_together_make_each_shard_once_and_the_same_corpus(
    tmp_path: Path,
) -> None:
    whole = label_with(FakeGenerator(), tmp_path / "whole", decoding=SAMPLE)
    folder, own = tmp_path / "shared", FakeGenerator()
    # It goes on when two shards are being made at the same time, one by each process.
    both = "while len(list((folder / '.locks').iterdir())) < 2: time.sleep(0.01)"
    process = in_another_process(folder, pause=both)
    wait_for(folder / ".locks" / "shard-00000.parquet", process)
    found = label_with(own, folder, decoding=SAMPLE)
    others = int(process.communicate(timeout=60)[0])
    assert process.returncode == 0
    assert own.num_generated + others == 23 and others >= 5 <= own.num_generated
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")
    assert found.record == whole.record


def test_shards_of_sampled_corpora_draw_from_different_streams(tmp_path: Path) -> None:
    examples = [(str(number), (10, 20, END)) for number in range(10)]
    corpus = label_with(FakeGenerator(), tmp_path / "a", examples=examples, decoding=SAMPLE)
    assert outputs_of(corpus)["0"] != outputs_of(corpus)["9"]
    other = label_with(FakeGenerator(), tmp_path / "b", examples=examples, decoding=SAMPLE, seed=4)
    assert outputs_of(corpus) != outputs_of(other)


def beam(**changes: Any) -> dict[str, Any]:
    return {"decoding": BEAM.model_copy(update=changes)}


def sample(**changes: Any) -> dict[str, Any]:
    return {"decoding": SAMPLE.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("decoding", "changes", "sentence"),
    [
        (BEAM, {"teacher_fingerprint": "new"}, "teacher_fingerprint: stored 't', wanted 'new'"),
        (BEAM, {"tokenizer_fingerprint": "new"}, "tokenizer_fingerprint: stored 'k', wanted 'new'"),
        (BEAM, {"sources_fingerprint": "new"}, "sources_fingerprint: stored"),
        (BEAM, {"engine": "other int8"}, "engine: stored '', wanted 'other int8'"),
        (BEAM, beam(beam_size=4), "decoding.beam_size: stored 3, wanted 4"),
        (BEAM, beam(n_best=1), "decoding.n_best: stored 2, wanted 1"),
        (BEAM, beam(length_penalty=0.5), "decoding.length_penalty: stored 1.0, wanted 0.5"),
        (BEAM, beam(max_new_tokens=9), "decoding.max_new_tokens: stored 128, wanted 9"),
        (BEAM, {"decoding": SAMPLE}, "decoding.mode: stored 'beam', wanted 'sample'"),
        (SAMPLE, {"seed": 4}, "seed: stored 3, wanted 4"),
        (SAMPLE, sample(top_k=4), "decoding.top_k: stored 0, wanted 4"),
        (SAMPLE, sample(top_p=0.5), "decoding.top_p: stored 1.0, wanted 0.5"),
        (SAMPLE, sample(sampling_temperature=2.0), "decoding.sampling_temperature: stored 1.0"),
    ],
)
def test_each_other_setting_is_refused_when_reading_and_when_resuming(
    tmp_path: Path, decoding: Decoding, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PowerCut):
        label_with(FakeGenerator(calls_left=2), tmp_path, decoding=decoding)
    before = shard_bytes(tmp_path)
    wanted = {"decoding": decoding} | changes
    with pytest.raises(StaleCorpusError) as caught:
        label_with(FakeGenerator(), tmp_path, **wanted)
    assert sentence in str(caught.value)
    assert shard_bytes(tmp_path) == before
    label_with(FakeGenerator(), tmp_path, decoding=decoding)
    TeacherCorpus.open(tmp_path, expected=settings_with(decoding=decoding))
    with pytest.raises(StaleCorpusError) as caught:
        TeacherCorpus.open(tmp_path, expected=settings_with(**wanted))
    assert sentence in str(caught.value)


def test_other_sources_and_shards_are_refused_but_not_settings_of_no_effect(
    tmp_path: Path,
) -> None:
    label_with(FakeGenerator(), tmp_path)
    for examples in ([*EXAMPLES[:-1], ("doc/22", (9, END))], EXAMPLES[:-1], EXAMPLES[::-1]):
        with pytest.raises(StaleCorpusError, match="sources_fingerprint: stored"):
            label_with(FakeGenerator(), tmp_path, examples=examples)
    with pytest.raises(StaleCorpusError, match="shard_size: stored 5, wanted 6"):
        label_with(FakeGenerator(), tmp_path, shard_size=6)
    same = BEAM.model_copy(update={"batch_tokens": 17, "top_k": 5, "sampling_temperature": 2.0})
    label_with(FakeGenerator(calls_left=0), tmp_path, decoding=same, seed=99)


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_a_changed_byte_in_a_shard_is_noticed_and_fixed_by_deleting_it(
    tmp_path: Path, place: float
) -> None:
    label_with(FakeGenerator(), tmp_path)
    before = shard_bytes(tmp_path)
    damaged = tmp_path / "shard-00002.parquet"
    content = bytearray(damaged.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    damaged.write_bytes(content)
    for missing in ([], ["shard-00001.parquet"]):
        for name in missing:
            (tmp_path / name).unlink()
        with pytest.raises(DataError, match=r"shard-00002\.parquet must have the sha256"):
            label_with(FakeGenerator(), tmp_path)
    damaged.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.parquet must be there"):
        TeacherCorpus.open(tmp_path, expected=None)
    generator = FakeGenerator()
    label_with(generator, tmp_path)
    assert generator.num_generated == 10
    assert shard_bytes(tmp_path) == before


def test_a_torn_shard_of_an_unfinished_corpus_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label_with(FakeGenerator(), tmp_path / "whole")
    folder = tmp_path / "torn"
    with pytest.raises(PowerCut):
        label_with(FakeGenerator(calls_left=3), folder)
    shard = folder / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    generator = FakeGenerator()
    label_with(generator, folder)
    assert generator.num_generated == 23 - 10
    assert "shard-00001.parquet is damaged" in caplog.text
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")


def test_folders_with_other_things_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one example"):
        label_with(FakeGenerator(), tmp_path, examples=[])
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"found 'thesis\.txt'"):
        label_with(FakeGenerator(), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="found a file"):
        label_with(FakeGenerator(), tmp_path / "thesis.txt")
    with pytest.raises(DataError, match="must be a folder that can be written"):
        label_with(FakeGenerator(), tmp_path / "thesis.txt" / "corpus")
    (tmp_path / CORPUS).write_text("{")
    with pytest.raises(DataError, match="must describe"):
        label_with(FakeGenerator(), tmp_path)


def test_a_record_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "corpus"
    label_with(FakeGenerator(), folder)
    (folder / "shard-00000.parquet").rename(tmp_path / "outside.parquet")
    said = (folder / CORPUS).read_text()
    (folder / CORPUS).write_text(said.replace("shard-00000.parquet", "../../outside.parquet"))
    with pytest.raises(DataError, match="must name files of that folder alone"):
        label_with(FakeGenerator(), folder)
    with pytest.raises(DataError, match="must name files of that folder alone"):
        TeacherCorpus.open(folder, expected=None)


def test_many_outputs_without_any_text_are_no_corpus(tmp_path: Path) -> None:
    examples = [(f"e{n}", (5, 6, n)) for n in range(64)]
    with pytest.raises(ModelError, match="its outputs for all 64 examples are empty"):
        label_with(FakeGenerator(), tmp_path, examples=examples, decode=lambda _: " ")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".json")]
    corpus = label_with(FakeGenerator(), tmp_path, examples=examples[:63], decode=lambda _: "")
    assert len(stored(corpus)) > 0, "of few all may be rightly empty"
