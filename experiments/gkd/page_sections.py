"""The page's sections as Markdown: explanations, tables, pictures, verdicts, in reading order.

Says how numbers were made and never what they are: that is for tables, findings and claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.gkd.page_claims import CLAIMS, Claim
from experiments.gkd.page_rows import (
    Results,
    Students,
    later_students,
    longer_students,
    method_name,
)
from experiments.gkd.page_tables import (
    data_table,
    grid_table,
    length_table,
    main_table,
    overview_table,
    rates_table,
    reward_table,
    sampled_methods,
    sampled_table,
    start_table,
    time_table,
)
from experiments.gkd.plan import LATER_FACTOR
from experiments.harness.pages import Pictures
from experiments.harness.text import NOT_MEASURED, change, enumeration, picture, score, table
from experiments.harness.verdicts import Part, Verdict, verdict_of

ELSEWHERE = "not part of this task"


def findings(found: Sequence[Students]) -> list[str]:
    """A sentence for each task and start: the best method, its gain, and how the claims fared."""
    sentences = [
        sentence
        for students in found
        for there in (students, later_students(students))
        if (sentence := _finding(there)) is not None
    ]
    return sentences or [NOT_MEASURED]


def _finding(students: Students) -> str | None:
    best = students.best(students.methods)
    if best is None:
        return None
    runs = students.student(best)
    is_later = students.experiment == "later"
    asked = [c for c in CLAIMS if students.shown.name in c.tasks and (c.later or not is_later)]
    verdicts = [verdict_of(claim.parts(students)) for claim in asked]
    counts = [(verdict, verdicts.count(verdict)) for verdict in Verdict]
    told = enumeration([verdict.told(count) for verdict, count in counts if count])
    place = f"{students.shown.name}, from a later start," if is_later else students.shown.name
    return (
        f"On {place} **{method_name(best)}** is best with "
        f"{students.shown.measure.name} {score(students.score(runs))}, "
        f"{change(students.gained(runs))} over the initial student. "
        f"Of the {len(verdicts)} claims tested there: {told}."
    )


def what_was_run(results: Results, found: Sequence[Students]) -> str:
    """Tasks, data, models, budgets, machine."""
    intro = (
        "All students of a seed start from the same supervised student, get equally many updates "
        "of equally large batches with the same schedule, and each method has the learning rate "
        "that was best for it on dev, from one grid (told below, with every rate that was tried). "
        "On-policy sequences are sampled at temperature 1 from the weights of the very update. "
        "JSD is the paper's own value, not normalized. Positive gains are better on every task."
    )
    versions = results.versions
    named = [
        f"{name} {versions[name]}"
        for name in ("seqdistill", "torch", "transformers", "ctranslate2", "sacrebleu")
        if name in versions
    ]
    told = f"{_machines(results, found)} Versions: {', '.join(named) or 'unknown'}."
    return f"{intro}\n\n{overview_table(results, found) if found else NOT_MEASURED}\n\n{told}"


def _machines(results: Results, found: Sequence[Students]) -> str:
    """The CPUs that each task's students were trained on: times compare within one of them."""
    tasks: dict[str, list[str]] = {}
    for students in found:
        rows = [row for row in results.rows if row.get("task") == students.shown.name]
        names = sorted({str(row.get("machine", "CPU unknown")) for row in rows})
        tasks.setdefault(enumeration(names), []).append(students.shown.name)
    return " ".join(f"{enumeration(names)}: {machine}." for machine, names in tasks.items())


def main_results(found: Sequence[Students], pictures: Pictures) -> str:
    """Every method, for each task."""
    intro = (
        "`a ± b`: mean and 95 % t interval over seeds. `a [b, c]`: one seed, with the 95 % "
        "interval of resampling the test set. A gain is over the initial student of the same seed. "
        "'To best baseline's' is the gain as a multiple of the best baseline's. In bold: the best."
    )
    return _of_each_task(intro, found, main_table, pictures, None)


def over_shares(found: Sequence[Students], pictures: Pictures) -> str:
    """The grid of divergences and lambda."""
    intro = "λ is the share of the batches that the student writes itself; the others are the data."
    return _of_each_task(intro, found, grid_table, pictures, "share")


def diversity(found: Sequence[Students], pictures: Pictures) -> str:
    """Samples: quality against self-BLEU."""
    intro = (
        "Samples from the whole distribution divided by the temperature; the metric is over all of "
        "them. Self-BLEU says how alike the samples of a source are: lower is more diverse. GKD "
        "stands here with λ 1."
    )
    known = [students for students in found if sampled_methods(students)]
    return _of_each_task(intro, known, sampled_table, pictures, "diversity")


def data_efficiency(found: Sequence[Students], pictures: Pictures) -> str:
    """Scores over the part of the inputs."""
    intro = (
        "Equal updates on parts of the training inputs, drawn anew for each seed; rates are those "
        "chosen on all inputs. The loss of on-policy KD reads no references (they plan its batches "
        "alone)."
    )
    known = [students for students in found if students.data_shares]
    return _of_each_task(intro, known, data_table, pictures, "data")


def equal_time(found: Sequence[Students], pictures: Pictures) -> str:
    """On-policy KD against longer supervised training."""
    intro = (
        "'Longer' has as many updates as the seconds of on-policy KD buy, by the first seed's "
        "seconds on the same machine, in training itself: dev scores, and the teacher's outputs "
        "for SeqKD, are not counted. Seconds are of machines that did other work, too: where that "
        "slowed on-policy KD more, the others got more updates than its time would have bought on "
        "a quiet machine. The rows' `typical_seconds_per_update` at each rate show how much."
    )
    return _of_each_task(intro, found, time_table, pictures, None)


def longer_training(found: Sequence[Students], pictures: Pictures) -> str:
    """What more updates leave of the gains."""
    intro = (
        "The same students with more updates, at the rates that were chosen for the shorter "
        "training: whether a gain lasts, or is made sooner only."
    )
    known = [students for students in found if longer_students(students).methods]
    return _of_each_task(intro, known, length_table, pictures, None)


def later_start(found: Sequence[Students], pictures: Pictures) -> str:
    """What students gain that begin where less is left to learn from the data."""
    intro = (
        f"Students whose start was supervised {LATER_FACTOR} times as long, at rates that were "
        "chosen anew, beside the longer trained ones of above; both got equally many updates. "
        "Where a start still learns fast, what is trained next may gain by that alone."
    )
    known = [students for students in found if later_students(students).methods]

    def told(students: Students) -> str:
        return f"{start_table(students)}\n\n{_verdicts_there(students)}"

    return _of_each_task(intro, known, told, pictures, None)


def _verdicts_there(students: Students) -> str:
    """Verdicts on the claims that students of the later start decide, too, beside the first's."""
    places = [("main table", students), ("later start", later_students(students))]
    lines = [
        [str(index), claim.title, *(_verdict(claim, there) for _, there in places)]
        for index, claim in enumerate(CLAIMS, start=1)
        if claim.later and students.shown.name in claim.tasks
    ]
    headings = ["", "claim", *(name for name, _ in places)]
    return table(headings, lines, text_columns=len(headings))


def rewards(found: Sequence[Students], pictures: Pictures) -> str:
    """RL + GKD over alpha."""
    intro = (
        "The objective is (1 − α) reward − α KL(student ‖ teacher) on the student's samples, the "
        "reward ROUGE-L of the training references. What is not rewarded, and lengths and "
        "repetition, show whether the reward is hacked."
    )
    known = [students for students in found if students.teacher_weights]
    return _of_each_task(intro, known, reward_table, pictures, "reward")


def learning_rates(found: Sequence[Students]) -> str:
    """The grids of rates."""
    intro = "The first seed's score on dev for each rate. In bold: the rate that was taken."

    def told(students: Students) -> str:
        later = later_students(students)
        if not later.methods:
            return rates_table(students)
        return f"{rates_table(students)}\n\nFrom the later start:\n\n{rates_table(later)}"

    return _of_each_task(intro, found, told, {}, None)


def claims(found: Sequence[Students]) -> str:
    """A table of verdicts, then for each claim the paper's figures, the rule and ours."""
    intro = (
        "A rule looks at the 95 % interval of the figure: `holds` when all of it lies where the "
        "rule says, `does not hold` when all of it lies elsewhere, `undecided` when it lies on "
        "both sides or there is none. A rule of several parts holds when all do. Each claim is "
        "tested by itself: of many tests some succeed by chance."
    )
    if not found:
        return f"{intro}\n\n{NOT_MEASURED}"
    places = [students.shown.name for students in found]
    lines = [
        [str(index), claim.title, *(_verdict(claim, students) for students in found)]
        for index, claim in enumerate(CLAIMS, start=1)
    ]
    blocks = [intro, table(["", "claim", *places], lines, text_columns=len(places) + 2)]
    for index, claim in enumerate(CLAIMS, start=1):
        blocks.append(f"### {index}. {claim.title}\n\nPaper: {claim.paper}. {claim.rule}")
        blocks.append(_figures(claim, found))
    return "\n\n".join(blocks)


def _verdict(claim: Claim, students: Students) -> str:
    if students.shown.name not in claim.tasks:
        return ELSEWHERE
    return verdict_of(claim.parts(students)).value


def _figures(claim: Claim, found: Sequence[Students]) -> str:
    """A line for each part on each task, and the verdict of the whole."""
    lines = []
    for students in found:
        if students.shown.name not in claim.tasks:
            continue
        parts: Sequence[Part] = claim.parts(students)
        for part in parts:
            lines.append([students.shown.name, part.label, part.figure, part.verdict.value])
        whole = f"**{verdict_of(parts).value}**"
        lines.append([students.shown.name, "claim", "", whole])
    return table(["task", "", "figure", "verdict"], lines, text_columns=4)


def _of_each_task(
    intro: str,
    found: Sequence[Students],
    told: Callable[[Students], str],
    pictures: Pictures,
    plot: str | None,
) -> str:
    blocks = [intro]
    for students in found:
        blocks.append(f"### {students.shown.title}")
        path = None if plot is None else pictures.get((students.shown.name, plot))
        if path is not None:
            blocks.append(picture(path, f"{students.shown.name}: {plot}"))
        blocks.append(told(students))
    return "\n\n".join(blocks if found else [intro, NOT_MEASURED])
