"""The page: nothing external, everything escaped, the numbers in their places, parts optional."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seqdistill.core.errors import UserError
from seqdistill.report import build_report, write_report

Row = dict[str, object]

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def row(name: str, method: str, bleu: float, speed: float, **more: object) -> Row:
    return {
        "name": name,
        "method": method,
        "init": "teacher_layers",
        "parameters": 5_310_000,
        "bytes": 10_000_000,
        "bleu_greedy": bleu - 1,
        "bleu_beam": bleu,
        "bleu_beam_low": bleu - 1.1,
        "bleu_beam_high": bleu + 1.1,
        "chrf": bleu + 25,
        "perplexity": 9.9,
        "mode_share": 0.02,
        "sentences_per_second_greedy": 0.25 * speed,
        "sentences_per_second_beam": 0.1 * speed,
        "words_per_second_greedy": 2.5 * speed,
        "words_per_second_beam": speed,
        "signature": SIGNATURE,
        **more,
    }


SYSTEMS = [
    row("teacher", "teacher", 34.0, 100.0, bytes=25_000_000, perplexity=6.25),
    row("baseline", "baseline", 29.0, 500.0),
    row("word_kd", "word_kd", 30.0, 505.0, length_ratio=0.98),
    row("seq_kd", "seq_kd", 31.62, 510.0, mode_share=0.16),
]
COPY = row(
    "seq_kd int8", "seq_kd", 30.6, 800.0,
    init="int8 copy of seq_kd", bytes=5_000_000, perplexity=None, folder="student-int8",
)  # fmt: skip
TESTS = [
    {"system": "seq_kd", "versus": "baseline", "metric": "bleu", "delta": 2.62,
     "p_value": 0.01, "low": 1.7, "high": 3.4, "test": "paired bootstrap"},
    {"system": "word_kd", "versus": "baseline", "metric": "bleu", "delta": 1.0,
     "p_value": 0.21, "low": -0.2, "high": 2.2, "test": "paired bootstrap"},
]  # fmt: skip


def write_lines(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def metrics(*, with_dev: bool = True) -> list[Row]:
    rows: list[Row] = [
        {"step": s, "updates": s, "loss_nats": 5.0 / s, "learning_rate": 1e-3} for s in range(1, 60)
    ]
    if with_dev:
        rows += [{"step": s, "updates": s, "dev_bleu": 10.0 + s / 4} for s in (20, 40, 60)]
    return rows


def write_comparison(folder: Path) -> Path:
    folder.mkdir()
    results = {
        "systems": SYSTEMS,
        "exports": [COPY],
        "paired_tests": TESTS,
        "baseline": "baseline",
        "metric_notes": ["words are source words"],
        "created": "2025-11-22T10:00:00",
    }
    manifest = {
        "versions": {"python": "3.11.7"},
        "machine": {"cpu_model": "A <fast> one", "memory_bytes": 16_000_000_000},
        "seed": 1,
        "timings": [
            {"step": "train", "seconds": 98.0, "peak_memory_mb": 1400},
            {"step": "evaluate", "seconds": 3.25},
        ],
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "recipe.yaml").write_text("method: seq_kd  # a & b\n", encoding="utf-8")
    for method in ("baseline", "word_kd", "seq_kd"):
        write_lines(folder / method / "metrics.jsonl", metrics())
    write_lines(
        folder / "samples.jsonl",
        [
            {
                "id": f"doc:{i}",
                "source": "Press <Enter> & wait.",
                "reference": "Drücken Sie <Eingabe> & warten Sie.",
                "outputs": {
                    "teacher": "Drücken Sie <Eingabe> & warten Sie.",
                    "seq_kd": "Drücken Sie <script>alert(1)</script>.",
                },
            }
            for i in range(20)
        ],
    )
    return folder


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the full comparison, drawn once: drawing is what takes time."""
    return build_report(write_comparison(tmp_path_factory.mktemp("full") / "demo"))


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "demo")


class Page(HTMLParser):
    """What a browser would see: addresses, ids, texts, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.header_cells_without_scope = 0
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
        if tag == "th" and "scope" not in found:
            self.header_cells_without_scope += 1
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[\s\u202f\u00a0]+", " ", "".join(self.texts))


def test_nothing_outside_the_page_is_referred_to(html: str) -> None:
    page = Page(html)
    assert page.addresses, "the page has links within itself"
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert "script" not in page.tags
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_every_link_within_the_page_has_its_target(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = {address[1:] for address in page.addresses} | set(
        re.findall(r"url\(#([^)]*)\)", html)
    )
    assert targets <= set(page.ids)


def test_the_headline_and_the_cards_say_what_the_best_student_keeps(html: str) -> None:
    text = Page(html).text
    # 31.62 / 34 = 0.93; 29 / 34 = 0.85; 500 and 510 / 100; 10 MB / 25 MB = 0.4
    assert (
        "seq_kd keeps 93 % of the teacher’s BLEU, the worst student (baseline) 85 %, at 5.0× to "
        "5.1× its speed and 0.40× its size." in text
    )
    assert "beam search with beam search" in text
    assert "+2.6 BLEU" in text


@pytest.mark.usefixtures("undrawn")
def test_a_copy_stands_beside_the_systems_and_is_never_recommended(comparison: Path) -> None:
    results = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
    results["exports"][0]["bleu_beam"] = 33.9
    (comparison / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = Page(build_report(comparison)).text
    # 33.9 / 34 = 1.0; 800 / 100 = 8
    assert "Speed of seq_kd int8 8.0× 100 % of the BLEU in 12 % of the time, 5.0 MB" in text
    assert "int8 copy of seq_kd" in text
    assert "seq_kd keeps 93 %" in text


def test_paired_tests_are_told_in_plain_words(html: str) -> None:
    text = Page(html).text
    assert "better than the undistilled student (p = 0.010)" in text
    assert "no significant difference from the undistilled student (p = 0.21)" in text


def test_users_text_is_escaped_and_shown_as_it_is(html: str) -> None:
    assert "<script>" not in html
    text = Page(html).text
    assert "Press <Enter> & wait." in text
    assert "alert" in text
    assert "A <fast> one" in text


def test_every_part_of_a_full_folder_is_on_the_page(html: str) -> None:
    page = Page(html)
    for expected in (
        SIGNATURE, "1 min 38 s", "3.2 s", "1.4 GB", "16.0 GB", "method: seq_kd # a & b",
        "words are source words", "20 sentences", "2025-11-22", "30.5 to 32.7", "Mode share",
        "16 %", "6.25", "paired bootstrap", "python", "3.11.7",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert page.tags.count("article") == 20


def test_every_chart_can_be_heard_and_every_header_cell_has_its_scope(html: str) -> None:
    page = Page(html)
    assert len(page.labels) == 5, "two trade-offs, certainty and two learning curves"
    assert all("seq_kd" in label for label in page.labels)
    assert page.header_cells_without_scope == 0


def test_charts_take_their_colours_from_the_scheme(html: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    colours = {colour for chart in charts for colour in re.findall(r"#[0-9a-fA-F]{6}\b", chart)}
    assert colours == set(), "a fixed colour would be unreadable in one of the schemes"
    for number in range(4):
        assert f"var(--series-{number})" in html
        assert f"--series-{number}:" in html


def test_equal_folders_give_equal_bytes(comparison: Path, html: str) -> None:
    assert build_report(comparison) == html


@pytest.mark.usefixtures("undrawn")
def test_the_report_is_written_beside_the_results(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"systems": [{"name": "a"}]}', encoding="utf-8")
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == build_report(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_in_any_script_and_without_dev_scores_has_a_page(tmp_path: Path) -> None:
    name = "my $x_1$ 学生"
    rows = [row(name, "seq_kd", 31.62, 510.0)]
    (tmp_path / "results.json").write_text(json.dumps({"systems": rows}), encoding="utf-8")
    write_lines(tmp_path / "metrics.jsonl", metrics(with_dev=False))
    write_lines(
        tmp_path / "samples.jsonl",
        [{"id": "1", "source": "open", "reference": "ファイルを開く", "outputs": {name: "開く"}}],
    )
    page = Page(build_report(tmp_path))
    assert (
        f"{name} reaches 31.6 BLEU at 51 sentences per second with 5.3 M parameters." in page.text
    )
    assert "Dev was not scored while training" in page.text
    assert len(page.labels) == 1, "one system has no trade-off, only its loss"


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_not_evaluated_shows_how_its_training_went(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", metrics())
    page = Page(build_report(tmp_path))
    assert "Not evaluated yet" in page.text
    assert len(page.labels) == 2


@pytest.mark.usefixtures("undrawn")
def test_results_with_nothing_but_names_have_a_page(tmp_path: Path) -> None:
    rows = [{"name": "teacher", "method": "teacher"}, {"name": "student"}]
    (tmp_path / "results.json").write_text(json.dumps({"systems": rows}), encoding="utf-8")
    page = Page(build_report(tmp_path))
    assert "student" in page.text
    assert "No training log is in this folder." in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_student_that_stands_alone_beside_its_teacher_is_not_said_to_have_gained(
    comparison: Path,
) -> None:
    assert "Gained by distillation +2.6 BLEU" in Page(build_report(comparison)).text
    results = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
    results["systems"] = [results["systems"][0], results["systems"][3]]
    results["paired_tests"] = [{**TESTS[0], "versus": "teacher", "delta": -2.4}]
    results["baseline"] = "teacher"
    (comparison / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = Page(build_report(comparison)).text
    assert "Against teacher −2.4 BLEU worse than teacher (p = 0.010)" in text
    assert "Gained" not in text


@pytest.mark.usefixtures("undrawn")
def test_an_undistilled_student_that_is_best_is_called_best(comparison: Path) -> None:
    results = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
    results["systems"][1]["bleu_beam"] = 33.0
    (comparison / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "baseline keeps 97 % of the teacher’s BLEU" in Page(build_report(comparison)).text


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ('{"systems": [{"name": "a", "bleu_beam": "high"}]}', "'bleu_beam' must be a number"),
        ('{"systems": [{"method": "a"}]}', "'name' must be a text"),
        ('{"systems": {"name": "a"}}', "'systems' must be a list of objects"),
        ('{"systems": [', "must be JSON"),
    ],
)
def test_damaged_results_are_refused_naming_file_and_key(
    tmp_path: Path, results: str, message: str
) -> None:
    (tmp_path / "results.json").write_text(results, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        build_report(tmp_path)
    assert "results.json" in str(caught.value)


def test_a_folder_without_anything_to_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs results\.json or metrics\.jsonl"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="which is no folder"):
        build_report(tmp_path / "missing")
