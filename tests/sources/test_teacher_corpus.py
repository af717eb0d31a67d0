"""A teacher's corpus: what is kept, how it survives kills, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.core.errors import DataError, ModelError, StaleCorpusError
from seqdistill.data.readers import read_examples
from seqdistill.generation.decoding import Decoding, Hypothesis, SequenceGenerator
from seqdistill.sources.corpus_export import write_jsonl, write_tsv
from seqdistill.sources.corpus_lock import locked
from seqdistill.sources.corpus_settings import CorpusSettings, fingerprint_sources
from seqdistill.sources.corpus_shards import read_outputs, shard_name, write_shard
from seqdistill.sources.teacher_corpus import TeacherCorpus, is_finished, label

END = 1
EXAMPLES = [(f"doc/{number}", (10 + number, 20 + number % 3, END)) for number in range(23)]
BEAM = Decoding(beam_size=3, n_best=2)
SAMPLE = Decoding(mode="sample", n_best=2)
FINGERPRINTS = {
    "teacher_fingerprint": "t",
    "data_fingerprint": "d",
    "tokenizer_fingerprint": "k",
}


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


def label_with(generator: SequenceGenerator, folder: Path, **changes: Any) -> TeacherCorpus:
    examples = changes.pop("examples", EXAMPLES)
    fields: dict[str, Any] = {"decoding": BEAM, "seed": 3, **FINGERPRINTS}
    fields["sources_fingerprint"] = fingerprint_sources(examples)
    fields |= {name: changes.pop(name) for name in fields.keys() | {"engine"} if name in changes}
    arguments: dict[str, Any] = {"shard_size": 5, "decode": spell}
    arguments["source_texts"] = {name: f"source of {name}" for name, _ in examples}
    return label(examples, generator, CorpusSettings(**fields), folder, **(arguments | changes))


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}


def test_every_finished_hypothesis_comes_back_under_its_id(tmp_path: Path) -> None:
    generator = FakeGenerator()
    corpus = label_with(generator, tmp_path / "corpus")
    for example_id, source in EXAMPLES:
        first, second = (generator.hypothesis(source, rank, 0) for rank in (0, 1))
        stored = corpus.n_best(example_id)
        assert [output.token_ids for output in stored] == [first.token_ids, second.token_ids]
        assert [output.log_prob for output in stored] == [-0.25, -1.25]
        assert [output.text for output in stored] == [
            spell(first.token_ids),
            spell(second.token_ids),
        ]
        assert corpus.best()[example_id] == (first.token_ids,)
        assert corpus.best(2)[example_id] == (first.token_ids, second.token_ids)
    assert [output.id for output in corpus if output.rank == 0] == [i for i, _ in EXAMPLES]
    with pytest.raises(KeyError):
        corpus.n_best("nobody")


def test_the_manifest_counts_what_the_shards_hold(tmp_path: Path) -> None:
    corpus = label_with(FakeGenerator(), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tables = [pq.read_table(path) for path in sorted(tmp_path.glob("shard-*.parquet"))]
    assert [table.num_rows for table in tables] == [10, 10, 10, 10, 6]
    assert manifest["num_examples"] == manifest["num_finished"] == 23
    assert manifest["num_hypotheses"] == sum(table.num_rows for table in tables) == 46
    tokens = [ids for table in tables for ids in table.column("token_ids").to_pylist()]
    assert manifest["num_tokens"] == sum(map(len, tokens))
    assert [shard["num_rows"] for shard in manifest["shards"]] == [10, 10, 10, 10, 6]
    assert manifest["settings"]["teacher_fingerprint"] == "t"
    assert manifest["settings"]["decoding"] == dataclasses.asdict(BEAM)
    assert "ctranslate2" in manifest["versions"]
    assert corpus.manifest.seconds >= 0


def test_unfinished_hypotheses_are_dropped_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Source 10 finishes nothing; every third source loses its best hypothesis.
    generator = FakeGenerator(
        is_finished=lambda source, rank: source[0] != 10 and (source[1] != 20 or rank == 1)
    )
    with caplog.at_level(logging.WARNING):
        corpus = label_with(generator, tmp_path)
    assert "1 of 23 examples" in caplog.text
    assert "'doc/0'" in caplog.text
    assert corpus.manifest.unfinished_ids == ("doc/0",)
    assert corpus.n_best("doc/0") == ()
    assert "doc/0" not in corpus.best()
    (survivor,) = corpus.n_best("doc/3")
    assert (survivor.rank, survivor.token_ids[-2]) == (0, 51)
    num_halved = len(range(3, 23, 3))
    assert corpus.manifest.num_dropped == 2 + num_halved
    assert corpus.manifest.num_hypotheses == 46 - 2 - num_halved
    assert corpus.manifest.num_finished + corpus.manifest.num_unfinished == 23


@pytest.mark.parametrize("decoding", [BEAM, SAMPLE], ids=["beam", "sample"])
@pytest.mark.parametrize("num_calls", range(6))
def test_a_corpus_cut_in_generation_and_resumed_equals_a_whole_one(
    tmp_path: Path, decoding: Decoding, num_calls: int
) -> None:
    label_with(FakeGenerator(), tmp_path / "whole", decoding=decoding)
    folder = tmp_path / "cut"
    if num_calls < 5:
        with pytest.raises(PowerCut):
            label_with(FakeGenerator(calls_left=num_calls), folder, decoding=decoding)
        assert not is_finished(folder)
        with pytest.raises(DataError, match=r"no manifest\.json; label again"):
            TeacherCorpus.open(folder, expected=None)
    second = FakeGenerator()
    label_with(second, folder, decoding=decoding)
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")
    assert second.num_generated == 23 - 5 * num_calls if num_calls < 5 else 23


@pytest.mark.parametrize("num_renames", range(7))
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
    assert not list((tmp_path / "cut").glob("*.partial-*"))


def test_a_process_killed_by_the_system_leaves_a_corpus_that_resumes(tmp_path: Path) -> None:
    label_with(FakeGenerator(), tmp_path / "whole")
    folder = tmp_path / "killed"
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_teacher_corpus as here

        class Slow(here.FakeGenerator):
            def generate(self, sources, decoding, *, seed=0, on_progress=None):
                if self.num_generated >= 10:
                    time.sleep(60)
                return super().generate(sources, decoding, seed=seed, on_progress=on_progress)

        here.label_with(Slow(), Path({str(folder)!r}))
    """)
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        waited = time.monotonic() + 60
        while not (folder / "shard-00001.parquet").exists() and time.monotonic() < waited:
            assert process.poll() is None, "the labelling process ended by itself"
            time.sleep(0.02)
        with pytest.raises(DataError, match=f"process {process.pid} is labelling into it"):
            label_with(FakeGenerator(), folder)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    second = FakeGenerator()
    label_with(second, folder)
    assert second.num_generated == 13
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")


def test_a_lock_held_in_the_same_process_counts_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(DataError, match=f"process {os.getpid()} is"):
        label_with(FakeGenerator(), tmp_path)
    label_with(FakeGenerator(), tmp_path)


def test_a_finished_corpus_is_read_whoever_holds_the_lock(tmp_path: Path) -> None:
    made = label_with(FakeGenerator(), tmp_path)
    second = FakeGenerator()
    with locked(tmp_path):
        assert list(label_with(second, tmp_path)) == list(made)
    assert second.num_generated == 0


def test_a_lock_file_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("999999\n")
    assert label_with(FakeGenerator(), tmp_path).manifest.num_examples == 23


def test_a_finished_corpus_is_reused_without_generating(tmp_path: Path) -> None:
    first = label_with(FakeGenerator(), tmp_path)
    again = label_with(FakeGenerator(calls_left=0), tmp_path)
    assert again == first


def test_progress_adds_up_to_all_examples_after_a_resume_too(tmp_path: Path) -> None:
    for calls_left in (2, 1000, 0):
        seen: list[int] = []
        try:
            label_with(FakeGenerator(calls_left=calls_left), tmp_path, on_progress=seen.append)
        except PowerCut:
            continue
        assert sum(seen) == 23


def test_shards_of_sampled_corpora_draw_from_different_streams(tmp_path: Path) -> None:
    examples = [(str(number), (10, 20, END)) for number in range(10)]
    corpus = label_with(FakeGenerator(), tmp_path / "a", examples=examples, decoding=SAMPLE)
    assert corpus.best()["0"] != corpus.best()["9"]
    other = label_with(FakeGenerator(), tmp_path / "b", examples=examples, decoding=SAMPLE, seed=4)
    assert corpus.best() != other.best()


STALE = [
    ({"teacher_fingerprint": "new"}, "teacher_fingerprint: stored 't', wanted 'new'"),
    ({"data_fingerprint": "new"}, "data_fingerprint: stored 'd', wanted 'new'"),
    ({"tokenizer_fingerprint": "new"}, "tokenizer_fingerprint: stored 'k', wanted 'new'"),
    ({"engine": "other int8"}, "engine: stored '', wanted 'other int8'"),
    (
        {"decoding": dataclasses.replace(BEAM, beam_size=4)},
        "decoding.beam_size: stored 3, wanted 4",
    ),
    ({"decoding": dataclasses.replace(BEAM, n_best=1)}, "decoding.n_best: stored 2, wanted 1"),
    (
        {"decoding": dataclasses.replace(BEAM, length_penalty=0.5)},
        "decoding.length_penalty: stored 1.0, wanted 0.5",
    ),
    (
        {"decoding": dataclasses.replace(BEAM, max_new_tokens=9)},
        "decoding.max_new_tokens: stored 128, wanted 9",
    ),
    ({"decoding": SAMPLE}, "decoding.mode: stored 'beam', wanted 'sample'"),
]
STALE_SAMPLES = [
    ({"seed": 4}, "seed: stored 3, wanted 4"),
    ({"decoding": dataclasses.replace(SAMPLE, top_k=4)}, "decoding.top_k: stored 0, wanted 4"),
    (
        {"decoding": dataclasses.replace(SAMPLE, top_p=0.5)},
        "decoding.top_p: stored 1.0, wanted 0.5",
    ),
    (
        {"decoding": dataclasses.replace(SAMPLE, sampling_temperature=2.0)},
        "decoding.sampling_temperature: stored 1.0, wanted 2.0",
    ),
]


def settings_with(decoding: Decoding, changes: dict[str, Any]) -> CorpusSettings:
    return CorpusSettings(**{"decoding": decoding, "seed": 3, **FINGERPRINTS, **changes})


@pytest.mark.parametrize(
    ("decoding", "changes", "sentence"),
    [(BEAM, *case) for case in STALE] + [(SAMPLE, *case) for case in STALE_SAMPLES],
)
def test_each_other_setting_is_refused_when_reading_and_when_resuming(
    tmp_path: Path, decoding: Decoding, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PowerCut):
        label_with(FakeGenerator(calls_left=2), tmp_path, decoding=decoding)
    before = shard_bytes(tmp_path)
    with pytest.raises(StaleCorpusError) as caught:
        label_with(FakeGenerator(), tmp_path, **({"decoding": decoding} | changes))
    assert sentence in str(caught.value)
    assert shard_bytes(tmp_path) == before
    label_with(FakeGenerator(), tmp_path, decoding=decoding)
    TeacherCorpus.open(tmp_path, expected=settings_with(decoding, {}))
    with pytest.raises(StaleCorpusError) as caught:
        TeacherCorpus.open(tmp_path, expected=settings_with(decoding, changes))
    assert sentence in str(caught.value)
    assert "delete this one to label again" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"examples": [*EXAMPLES[:-1], ("doc/22", (9, END))]}, "sources_fingerprint: stored"),
        ({"examples": EXAMPLES[:-1]}, "sources_fingerprint: stored"),
        ({"shard_size": 6}, "shard_size: stored 5, wanted 6"),
    ],
)
def test_other_sources_and_shards_are_refused_when_resuming(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    label_with(FakeGenerator(), tmp_path)
    with pytest.raises(StaleCorpusError, match=sentence):
        label_with(FakeGenerator(), tmp_path, **changes)


def test_settings_that_cannot_change_an_output_do_not_make_a_corpus_stale(tmp_path: Path) -> None:
    label_with(FakeGenerator(), tmp_path)
    same = dataclasses.replace(BEAM, batch_tokens=17, top_k=5, sampling_temperature=2.0)
    label_with(FakeGenerator(calls_left=0), tmp_path, decoding=same, seed=99)


def damaged(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_changed_byte_in_a_shard_is_noticed_and_mended_by_deleting_it(
    tmp_path: Path, place: float
) -> None:
    label_with(FakeGenerator(), tmp_path)
    before = shard_bytes(tmp_path)
    damaged(tmp_path / "shard-00002.parquet", place)
    sentence = r"shard-00002\.parquet must have the sha256.*delete this"
    with pytest.raises(DataError, match=sentence):
        TeacherCorpus.open(tmp_path, expected=None)
    with pytest.raises(DataError, match=sentence):
        label_with(FakeGenerator(), tmp_path)
    (tmp_path / "shard-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"shard-00002\.parquet must be there"):
        TeacherCorpus.open(tmp_path, expected=None)
    generator = FakeGenerator()
    label_with(generator, tmp_path)
    assert generator.num_generated == 5
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
    assert "shard-00001.parquet is damaged or of an older form and is made again" in caplog.text
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["manifest.json", "settings.json"])
def test_damaged_tables_of_contents_are_clear_errors(tmp_path: Path, name: str) -> None:
    label_with(FakeGenerator(), tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(DataError, match=f"{name} must"):
        label_with(FakeGenerator(), tmp_path)


def test_a_corpus_of_another_format_is_stale(tmp_path: Path) -> None:
    label_with(FakeGenerator(), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 0}))
    with pytest.raises(StaleCorpusError, match="format_version 3, found 0"):
        TeacherCorpus.open(tmp_path, expected=None)


def test_folders_with_other_things_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"found 'thesis\.txt'"):
        label_with(FakeGenerator(), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="found a file"):
        label_with(FakeGenerator(), tmp_path / "thesis.txt")
    with pytest.raises(DataError, match="must be a folder that can be written"):
        label_with(FakeGenerator(), tmp_path / "thesis.txt" / "corpus")


def test_ids_that_come_twice_and_no_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'doc/1' as examples 2 and 3"):
        label_with(FakeGenerator(), tmp_path, examples=[*EXAMPLES[:2], EXAMPLES[1]])
    with pytest.raises(DataError, match="at least one example"):
        label_with(FakeGenerator(), tmp_path, examples=[])
    assert not list(tmp_path.iterdir())


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True),
    texts=st.lists(st.text(), min_size=6, max_size=6),
)
def test_any_unicode_comes_back_as_it_was(ids: list[str], texts: list[str]) -> None:
    hypotheses = [[Hypothesis((number, END), -1.0, True)] for number in range(len(ids))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / shard_name(0)
        write_shard(
            path,
            ids,
            texts[: len(ids)],
            hypotheses,
            sources_fingerprint="s",
            decode=lambda tokens: texts[tokens[0]],
            mode="beam",
        )
        found = [(output.id, output.text) for output in read_outputs(path)]
        assert pq.read_table(path).column("source").to_pylist() == texts[: len(ids)]
    assert found == list(zip(ids, texts, strict=False))


def test_exported_files_are_read_back_as_examples(tmp_path: Path) -> None:
    odd = ["a\u2028b\x0bc", "source", 'quo"te', "", "ü\x85"]
    examples = [(f"e{number}", (10 + number, END)) for number in range(5)]
    corpus = label_with(
        FakeGenerator(),
        tmp_path / "corpus",
        examples=examples,
        decode=lambda token_ids: odd[token_ids[0] - 10],
    )
    sources = {example_id: f"source of {example_id}" for example_id, _ in examples}
    expected = [(f"source of e{n}", odd[n]) for n in (0, 1, 2, 4)]
    for write, name in ((write_tsv, "x.tsv"), (write_jsonl, "x.jsonl")):
        assert write(corpus, sources, tmp_path / name) == 4
        found = read_examples(str(tmp_path / name))
        assert [(example.source, example.target) for example in found] == expected
    assert [example.id for example in found] == ["e0", "e1", "e2", "e4"]


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb"])
def test_tsv_refuses_what_it_cannot_hold(tmp_path: Path, text: str) -> None:
    corpus = label_with(FakeGenerator(), tmp_path / "corpus", decode=lambda token_ids: text)
    sources = {example_id: "x" for example_id, _ in EXAMPLES}
    with pytest.raises(DataError, match=r"example 'doc/0'; write \.jsonl instead"):
        write_tsv(corpus, sources, tmp_path / "x.tsv")
    assert not (tmp_path / "x.tsv").exists()
    assert write_jsonl(corpus, sources, tmp_path / "x.jsonl") == 23


@pytest.mark.parametrize("name", ["../../outside.parquet", "/outside.parquet", "sub/x.parquet"])
def test_a_manifest_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "corpus"
    label_with(FakeGenerator(), folder)
    shard = folder / shard_name(0)
    shard.rename(tmp_path / "outside.parquet")
    manifest = folder / "manifest.json"
    said = json.loads(manifest.read_text())
    said["shards"][0]["name"] = name
    manifest.write_text(json.dumps(said))
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
    assert len(list(corpus)) > 0, "of few all may be rightly empty"
