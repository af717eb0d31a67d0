"""The rows of the experiment as the page reads them: what tasks are called, runs that go together.

Reads gkd.json and selects. Decides nothing and writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.gkd.methods import (
    BASELINES,
    DIVERGENCES,
    SHARES,
    Divergence,
    GridPoint,
    grid_name,
)
from experiments.harness.estimates import Quantity, average, estimate, gain
from experiments.harness.reading import (
    TEACHER,
    Measure,
    Row,
    Runs,
    distinct,
    facts_of,
    in_order,
    read_document,
)
from experiments.harness.statistics import Estimate

INITIAL = "initial"
TEMPERATURES = ("0.3", "1")
"""At which outputs are sampled, as rows spell them."""
ON_POLICY = "on_policy_kd"
# Baselines, then the grid by lambda.
METHODS = tuple(
    dict.fromkeys(
        (
            *BASELINES,
            *(grid_name(GridPoint(d, share)) for share in SHARES for d in DIVERGENCES),
        )
    )
)
"""Every method of the main tables, in their order."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """How one task is shown: its title, and the keys of its scores with their names."""

    name: str
    title: str
    measure: Measure
    dev: Measure
    further: tuple[tuple[str, str], ...] = ()
    """Further columns of the main table: (heading, key)."""

    @property
    def file_stem(self) -> str:
        """The task's name as part of a file name."""
        return self.name.replace("-", "_")

    def sampled(self, temperature: str) -> str:
        """The key of the score of samples at a temperature."""
        return f"{self.measure.key}_sample_t{temperature}"


SHOWN = (
    Shown(
        "g2p",
        "g2p: English spelling to phonemes",
        Measure("sequence_error_rate", "WER", -1),
        Measure("dev_token_error_rate", "PER", -1),
        (("PER", "token_error_rate_greedy"), ("WER beam", "sequence_error_rate_beam")),
    ),
    Shown(
        "arithmetic",
        "arithmetic: word problems and chains, with worked steps",
        Measure("answer_accuracy", "accuracy", 1),
        Measure("dev_answer_accuracy", "accuracy", 1),
        (
            ("with calculator", "answer_accuracy_calculator"),
            ("new templates", "answer_accuracy_new_templates"),
        ),
    ),
    Shown(
        "en-de",
        "en-de: software documentation, English to German",
        Measure("bleu", "BLEU", 1),
        Measure("dev_chrf", "chrF", 1),
        (("BLEU beam", "bleu_beam"), ("chrF", "chrf_greedy")),
    ),
    Shown(
        "summaries",
        "summaries: long to short descriptions of Debian packages",
        Measure("rouge_2", "ROUGE-2", 1),
        Measure("dev_rouge_2", "ROUGE-2", 1),
        (("ROUGE-1", "rouge_1_greedy"), ("ROUGE-L", "rouge_l_greedy")),
    ),
)


@dataclasses.dataclass(frozen=True)
class Results:
    """gkd.json: its rows, and what it says of the tasks and the versions."""

    rows: tuple[Row, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, Any]

    def of(self, shown: Shown, *experiments: str) -> tuple[Row, ...]:
        """The rows of some experiments on one task."""
        return tuple(
            row
            for row in self.rows
            if row.get("task") == shown.name and row.get("experiment") in experiments
        )


def read(path: Path) -> Results:
    """The results in the file. Raises DataError when it is none, or tells one cell twice."""
    return results_of(read_document(path))


def results_of(document: Mapping[str, Any]) -> Results:
    """The results in a document that was read, whose rows may come in any order."""
    facts = facts_of(document)
    rows = in_order(document["rows"], lambda row: f"task {row.get('task')}, {row.get('name')}")
    return Results(rows, facts.tasks, facts.versions)


def self_bleu(temperature: str) -> str:
    """The key of how alike the samples at a temperature are."""
    return f"self_bleu_sample_t{temperature}"


@dataclasses.dataclass(frozen=True)
class Students:
    """All systems of one task: what the tables, plots and claims ask for."""

    results: Results
    shown: Shown
    experiment: Literal["main", "follow_up", "later"] = "main"
    """Whose rows are the students: those of the main table, those trained for longer, or those that
    start from one that was supervised for longer."""
    temperature: str | None = None
    """Of the samples that are scored; None for greedy outputs."""

    def _where(self, experiments: Sequence[str], **values: object) -> Runs:
        return tuple(
            row
            for row in self.results.of(self.shown, *experiments)
            if all(row.get(key) == value for key, value in values.items())
        )

    @property
    def teacher(self) -> Runs:
        """The teacher's one row."""
        return self._where(["teacher"])

    @property
    def initial(self) -> Runs:
        """The supervised students that the trained ones start from; all where none is trained."""
        return self.starts_of(self.trained)

    def starts_of(self, runs: Runs) -> Runs:
        """The supervised students of the seeds that the runs have; all without runs."""
        start = "later_initial" if self.experiment == "later" else "initial"
        return of_the_same_seeds(self._where([start]), runs)

    @property
    def trained(self) -> Runs:
        """The runs of all methods, trained equally long."""
        return self._where([self.experiment])

    def student(self, method: str) -> Runs:
        """The runs of a method, trained as long as all of these; of teacher or start by name."""
        if method in (TEACHER, INITIAL):
            return self.teacher if method == TEACHER else self.initial
        return self._where([self.experiment], method=method)

    def point(self, divergence: Divergence, share: float) -> Runs:
        """The runs of one point of the grid."""
        return self.student(grid_name(GridPoint(divergence, share)))

    def trained_on(self, method: str, data_share: float) -> Runs:
        """The runs of a method on a part of the inputs, or on all of them: of the same seeds."""
        parts = self._beside_main("data")
        runs = self._where([self.experiment, *parts], method=method, data_share=data_share)
        return of_the_same_seeds(runs, self._where(parts))

    def in_equal_time(self, method: str) -> Runs:
        """The runs of a method that took as long as on-policy KD."""
        return self._where(self._beside_main("wall_clock"), method=method)

    def rewarded(self, teacher_weight: float) -> Runs:
        """The runs with a reward, at one alpha."""
        return self._where(self._beside_main("reward"), alpha=teacher_weight)

    @property
    def start_of_rewarded(self) -> Runs:
        """The supervised students that those with a reward start from."""
        return self.starts_of(self._where(self._beside_main("reward")))

    @property
    def temperatures(self) -> list[str]:
        """Those of `TEMPERATURES` that samples were measured at."""
        start = self.initial
        return [t for t in TEMPERATURES if average(start, self_bleu(t)) is not None]

    def _beside_main(self, experiment: str) -> list[str]:
        """The experiment, where its students were trained as long as these."""
        return [experiment] if self.experiment == "main" else []

    @property
    def methods(self) -> list[str]:
        """The methods of the main table that were measured, in its order."""
        found = {row.get("method") for row in self.results.of(self.shown, self.experiment)}
        return [method for method in METHODS if method in found]

    @property
    def divergences(self) -> list[Divergence]:
        """The divergences that were measured with the student writing everything."""
        return [d for d in DIVERGENCES if self.point(d, 1.0)]

    @property
    def data_shares(self) -> list[float]:
        """The parts of the inputs that students were trained on, with the whole; or none."""
        rows = self.results.of(self.shown, *self._beside_main("data"))
        return [*distinct(rows, "data_share"), 1.0] if rows else []

    @property
    def teacher_weights(self) -> list[float]:
        """The values of alpha that were measured."""
        return distinct(self.results.of(self.shown, *self._beside_main("reward")), "alpha")

    # Numbers.

    @property
    def key(self) -> str:
        """The key of the main score of the test set, decoded as these are."""
        if self.temperature is not None:
            return self.shown.sampled(self.temperature)
        return self.shown.measure.greedy

    def better_by(self, runs: Runs, base: Runs, key: str | None = None) -> Estimate | None:
        """By how much one system is better than another; positive is better."""
        return gain(runs, base, key or self.key, sign=self.shown.measure.sign)

    def gained(self, runs: Runs, key: str | None = None) -> Estimate | None:
        """By how much a student is better than the one that it started from."""
        return self.better_by(runs, self.initial, key)

    def best(self, methods: Iterable[str], *, on_dev: bool = False) -> str | None:
        """The method that gains most, the earlier of equal ones; None where none was measured.

        Gains are over the start of the same seed, so methods that more seeds have been run with
        than others compare.
        """
        gains: dict[str, float] = {}
        measure = self.shown.dev if on_dev else self.shown.measure
        for method in methods:
            runs, key = self.student(method), measure.key if on_dev else self.key
            found = gain(runs, self.initial, key, sign=measure.sign)
            if found is not None:
                gains[method] = found.value
        return max(gains, key=lambda method: gains[method], default=None)

    @property
    def best_baseline(self) -> str | None:
        """The baseline that does best on the test set: the hardest to beat."""
        return self.best(BASELINES)

    @property
    def best_on_policy(self) -> str | None:
        """Of the methods with the student writing everything, the one that does best on dev."""
        names = [grid_name(GridPoint(divergence, 1.0)) for divergence in self.divergences]
        return self.best(names, on_dev=True)

    def score(self, runs: Runs, key: str | None = None) -> Estimate | None:
        """The mean with its interval."""
        return estimate(Quantity(runs, key or self.key))


def of_the_same_seeds(runs: Runs, others: Runs) -> Runs:
    """The runs of seeds that others have, too, so that both can stand in a table; all without."""
    seeds = {row.get("seed") for row in others}
    return tuple(row for row in runs if not seeds or row.get("seed") in seeds)


def students_of(results: Results) -> list[Students]:
    """Every task that has a measured student, in their order."""
    found = [Students(results, shown) for shown in SHOWN]
    return [students for students in found if students.methods]


def longer_students(students: Students) -> Students:
    """The same methods, trained for longer."""
    return dataclasses.replace(students, experiment="follow_up")


def later_students(students: Students) -> Students:
    """The same methods, from a start that was supervised for longer."""
    return dataclasses.replace(students, experiment="later")


_DIVERGENCE_NAMES: Mapping[str, str] = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jsd_0.1": "JSD(0.1)",
    "jsd_0.5": "JSD(0.5)",
    "jsd_0.9": "JSD(0.9)",
}
_METHOD_NAMES: Mapping[str, str] = {
    TEACHER: "Teacher",
    INITIAL: "Initial student",
    "supervised_ft": "Supervised FT",
    "seq_kd": "SeqKD",
    "supervised_kd": "Supervised KD",
    "imitkd": "ImitKD",
    ON_POLICY: "On-policy KD",
    "gkd_rl": "RL + GKD",
}


def divergence_name(divergence: str) -> str:
    """The paper's name: `jsd_0.1` is `JSD(0.1)`."""
    return _DIVERGENCE_NAMES.get(divergence, divergence)


def method_name(method: str) -> str:
    """The paper's name: `gkd-reverse_kl-0.5` is `GKD reverse KL, λ 0.5`."""
    if method.startswith("gkd-"):
        _, divergence, share = method.split("-")
        return f"GKD {divergence_name(divergence)}, λ {share}"
    return _METHOD_NAMES.get(method, method)
