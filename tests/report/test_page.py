"""The page: nothing external, everything escaped, every part in words, parts optional."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.made import (
    BASELINE,
    BLEU,
    CHRF,
    COMPARED,
    COPY,
    DEV_METRICS,
    ENDLESS,
    ERRORS,
    SEQ_KD,
    START,
    TEACHER,
    TESTS,
    Course,
    metrics_of,
    paired,
    results,
    system,
    write_everything,
    write_lines,
    write_run,
)
from tests.snapshots import assert_as_kept

from seqdistill.core.errors import UserError
from seqdistill.records.results import Decoded, EntropyCurve, Results, System
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import build_report, charts, headlines, write_report
from seqdistill.report.contents import read_contents


class Page(HTMLParser):
    """What a browser would see: addresses, ids, texts, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})
    LINES = frozenset({"p", "h1", "h2", "h3", "tr", "li", "dt", "figcaption", "summary", "article"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.header_cells_without_scope = 0
        self._texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], f"elements left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "action", "data")
        self.addresses += [found[name] or "" for name in names if name in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if found.get("role") == "img":
            self.labels.append(found.get("aria-label") or "")
            self._texts.append(f"\n[{self.labels[-1]}]\n")
        if tag == "th" and "scope" not in found:
            self.header_cells_without_scope += 1
        if tag not in self.VOID:
            self._open.append(tag)
        if tag in self.LINES:
            self._texts.append("\n")
        if tag in ("td", "th", "dd"):
            self._texts.append(" | ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self._open):
            self._texts.append(re.sub(r"[\s\u202f\u00a0]+", " ", data))

    @property
    def text(self) -> str:
        """A line for every paragraph, heading and row; what is read aloud of a chart in [ ]."""
        lines = (" ".join(line.split()) for line in "".join(self._texts).splitlines())
        return "\n".join(line for line in lines if line.strip(" |")) + "\n"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def html(everything: Path) -> str:
    """The page of the whole comparison, drawn once: drawing is what takes time."""
    return build_report(everything)


def headline_of(found: Results) -> str:
    text = "".join(phrase.text for phrase in headlines.headline(found))
    return text.replace("\u202f", " ")


def test_every_part_in_words(html: str) -> None:
    assert_as_kept(Page(html).text, Path(__file__).with_name("page.txt"))


def test_nothing_outside_the_page_is_referred_to_and_every_link_leads_somewhere(html: str) -> None:
    page = Page(html)
    assert page.addresses, "the page has links within itself"
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert "script" not in page.tags and "<script>" not in html
    assert len(page.ids) == len(set(page.ids))
    within = {address[1:] for address in page.addresses}
    assert within | set(re.findall(r"url\(#([^)]*)\)", html)) <= set(page.ids)
    assert page.header_cells_without_scope == 0
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_charts_take_their_colours_from_the_scheme(html: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    colours = {colour for chart in drawn for colour in re.findall(r"#[0-9a-fA-F]{6}\b", chart)}
    assert colours == set(), "a fixed colour would be unreadable in one of the schemes"
    for number in range(4):
        assert f"var(--series-{number})" in html
        assert f"--series-{number}:" in html


def test_equal_folders_give_equal_bytes(everything: Path, html: str) -> None:
    assert write_report(everything).read_text(encoding="utf-8") == html


def broken(each: System) -> System:
    return each.model_copy(update={"faults": (ENDLESS,)})


def with_errors(name: str, quality: float) -> System:
    return system(name, name, quality, 10.0, metric=ERRORS)


PAGES = {
    "a copy is never recommended": (
        COMPARED.model_copy(update={"exports": (COPY.model_copy(update={"beam": TEACHER.beam}),)}),
        ["Speed of seq_kd int8 | 1.0× | | 100 % of the BLEU, 5.0 MB", "By beam search seq_kd has"],
        [],
    ),
    "systems with nothing but names": (
        results([System(name=name, method=name) for name in ("teacher", "student")]),
        ["teacher was measured without BLEU", "holds no training log"],
        ["Gain of beam search", "Agreement", "Confidence"],
    ),
    "all are broken": (
        results([TEACHER, broken(BASELINE), broken(SEQ_KD)]),
        ["No student is sound, so none is recommended"],
        ["Speed, beam search"],
    ),
    "one student has no badge and is compared with its teacher": (
        results(
            [TEACHER, SEQ_KD],
            paired_tests=(paired("seq_kd", -2.4, 0.01, versus="teacher"),),
            baseline="teacher",
        ),
        ["Against teacher | −2.4 | BLEU: worse than teacher (p = 0.010)"],
        ["recommended", "Gain from distillation"],
    ),
    "of an error rate the lowest is the best": (
        results(
            [with_errors("teacher", 5.0), with_errors("baseline", 9.0), with_errors("seq_kd", 7.0)],
            [ERRORS, CHRF],
            paired_tests=(paired("seq_kd", -2.0, 0.001, metric="token_error_rate"),),
        ),
        [
            "seq_kd has a token error rate of 7.0 against the teacher’s 5.0, the worst",
            "better than baseline (p = 0.001)",
            "down is better",
            "Token error rate on dev",
        ],
        ["up is better", "BLEU 1"],
    ),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("found", "said", "absent"), PAGES.values(), ids=PAGES)
def test_what_the_page_says(
    tmp_path: Path, found: Results, said: list[str], absent: list[str]
) -> None:
    folder = write_run(tmp_path / "run", found)
    if found.metrics[0] == ERRORS:
        row = {"step": 1, "dev_token_error_rate": 12.5, "dev_bleu": 1.0}
        write_lines(folder / "seq_kd" / "metrics.jsonl", [row])
        (folder / "seq_kd" / "recipe.yaml").touch()
    text = Page(build_report(folder)).text
    assert [words for words in said if words not in text] == []
    assert [words for words in absent if words in text] == []


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_in_any_script_has_a_page_before_and_after_it_is_measured(
    tmp_path: Path,
) -> None:
    name = "my $x_1$ 学生"
    write_lines(tmp_path / "metrics.jsonl", [{"step": s, "loss_nats": 1.0 / s} for s in (1, 2)])
    assert "Not evaluated yet" in Page(build_report(tmp_path)).text
    RunDirectory(tmp_path).write_results(results([system(name, "seq_kd", 31.62, 51.0)]))
    row = {"id": "1", "source": "open", "reference": "開く", "outputs": {name: "開く"}}
    write_lines(tmp_path / "samples.jsonl", [row])
    page = Page(build_report(tmp_path))
    said = f"{name} reaches 31.6 BLEU at 51 sentences per second with 5.3 M parameters."
    assert said in page.text
    assert len(page.labels) == 1, "one system has no trade-off, only its loss"


def test_the_headline_names_the_best_the_worst_and_what_is_broken() -> None:
    # 31.62 / 34 = 0.93; 29 / 34 = 0.85; 50 and 51 / 10; 10 MB / 25 MB = 0.4
    assert headline_of(results([TEACHER, START, BASELINE, SEQ_KD])) == (
        "seq_kd keeps 93 % of the teacher’s BLEU, the worst student (baseline) 85 %, at 5.0× to "
        "5.1× its speed and 0.40× its size"
    )
    assert headline_of(results([TEACHER, START, SEQ_KD])) == (
        "seq_kd keeps 93 % of the teacher’s BLEU at 5.1× its speed and 0.40× its size"
    )
    bad = system("akl", "akl", 5.0, 9.0, bytes=20_000_000, faults=(ENDLESS,))
    assert headline_of(results([TEACHER, BASELINE, bad, SEQ_KD])) == (
        "seq_kd keeps 93 % of the teacher’s BLEU, the worst student (akl, broken) 15 %, at 0.90× "
        "to 5.1× its speed and 0.40× to 0.80× its size"
    )
    assert headline_of(results([TEACHER, bad])) == f"akl is broken: {ENDLESS}"


def test_the_headline_is_of_the_copy_that_ships_where_it_is_sound() -> None:
    # greedily 30.6 - 1 of 34; 2.5 x 80 sentences/s against 10; 5 MB / 25 MB
    assert headline_of(COMPARED) == (
        "seq_kd int8, decoded greedily, keeps 87 % of the BLEU of the teacher’s beam search at "
        "20× its speed and 0.20× its size"
    )
    broken = COPY.model_copy(update={"faults": (ENDLESS,)})
    without_beam = TEACHER.model_copy(update={"beam": Decoded()})
    for systems, copy in (([TEACHER, SEQ_KD], broken), ([without_beam, SEQ_KD], COPY)):
        assert headline_of(results(systems, exports=(copy,))).startswith("seq_kd keeps")


@pytest.mark.usefixtures("undrawn")
def test_the_start_does_not_change_how_students_look(tmp_path: Path) -> None:
    def mark(*systems: System) -> str:
        folder = write_run(tmp_path / str(len(systems)), results(systems))
        before, _, _ = build_report(folder).partition("baseline</span>")
        return before.rpartition('<span class="name">')[2]

    assert mark(TEACHER, START, BASELINE, SEQ_KD) == mark(TEACHER, BASELINE, SEQ_KD) != ""


def test_curves_are_the_students_and_entropy_as_far_as_a_tenth_of_the_references(
    tmp_path: Path,
) -> None:
    curve = EntropyCurve(entropy_nats=(1.0, 2.0, 9.0), counts=(20, 2, 1))
    assert [point.y for point in charts._entropy(curve)] == [1.0, 2.0]
    folder = write_run(tmp_path / "run", results([TEACHER, START, SEQ_KD]))
    write_lines(folder / "metrics.jsonl", metrics_of(Course()))
    assert [log.name for log in read_contents(folder).logs] == ["seq_kd"]


def test_the_seconds_of_a_chain_are_those_of_all_its_stages(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {"step": 1, "stage": 0, "seconds_backward": 1.0},
        {"step": 2, "stage": 0, "seconds_backward": 3.0, "seconds_evaluation": 4.0},
        {"step": 3, "stage": 1, "seconds_backward": 5.0, "dev_bleu": 1.0},
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    (log,) = read_contents(tmp_path).logs
    assert log.phases == {"backward": 8.0, "evaluation": 4.0}


def test_dev_scores_are_in_a_metric_that_results_or_manifest_know(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "dev_bleu": 1.0, "dev_new": 2.0}])
    assert read_contents(tmp_path).dev_metric is None
    (tmp_path / "manifest.json").write_text(json.dumps(DEV_METRICS), encoding="utf-8")
    assert read_contents(tmp_path).dev_metric == BLEU


@pytest.mark.usefixtures("undrawn")
def test_the_name_of_a_metric_is_not_broken_at_its_hyphen(tmp_path: Path) -> None:
    metric = BLEU.model_copy(update={"title": "ROUGE-L", "name": "rouge_l"})
    student = SEQ_KD.beam.model_copy(update={"scores": {"rouge_l": SEQ_KD.beam.scores["bleu"]}})
    found = results([SEQ_KD.model_copy(update={"beam": student})], metrics=[metric])
    page = build_report(write_run(tmp_path / "run", found))
    assert "ROUGE-L" not in page
    assert "ROUGE\u2011L" in page


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("results.json", '{"systems": ['),
        ("metrics.jsonl", '{"step": 1, "completion_length": "long"}\n'),
        ("rollouts.jsonl", '{"step": 1, "finished": "yes"}\n'),
        ("samples.jsonl", '{"id": "1", "outputs": []}\n'),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, file: str, text: str) -> None:
    folder = write_run(tmp_path / "run")
    write_lines(folder / "metrics.jsonl", metrics_of(Course())[:4])
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(file)):
        build_report(folder)


def test_a_folder_without_anything_to_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs results\.json or metrics\.jsonl"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="which is no folder"):
        build_report(tmp_path / "missing")


def test_a_difference_is_significant_below_the_level_and_signed_by_the_metric() -> None:
    tests = [*TESTS, paired("seq_kd", -1.0, 0.049), paired("seq_kd", 0.0, 0.01)]
    found = [headlines.significance(test, COMPARED) for test in tests]
    none = headlines.NOT_SIGNIFICANT
    assert found == [none, "better", "better", "worse", none]
