"""What the paper claims, and the rule by which our numbers decide each claim.

Each rule stands twice: in words, beside the claim, and as the function that applies it. Lays out
nothing, and knows no outcome beforehand.

Source: Kim and Rush 2016, sec. 5, tables 1, 2 and 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from experiments.harness.estimates import Quantity, average, gain, gain_over_teacher, gap, ratio
from experiments.harness.reading import TEACHER, grouped
from experiments.harness.statistics import Estimate
from experiments.harness.text import change, factor, share_name
from experiments.harness.verdicts import Part, Verdict, above, part, within
from experiments.kim_rush.page_cells import Students
from experiments.kim_rush.page_rows import runs_of
from experiments.kim_rush.page_text import method_name
from seqdistill.report.numbers import MISSING, fixed, percent, times

LITTLE_LOSS = 1.0
"""Points that 'little loss' may cost, our reading: in the paper's own case it was 0.6."""
FEWER = 13.0
PRUNING_LOSS = 0.4


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim: the paper's figures, our rule in words, and the rule as a function."""

    title: str
    paper: str
    rule: str
    parts: Callable[[Students], tuple[Part, ...]]


def _better(students: Students, method: str, base: str, *, by_beam: bool) -> Part:
    measure = students.task.measure
    found = students.gain(method, base, measure.beam if by_beam else measure.greedy)
    label = f"{method_name(method)} over {method_name(base)}, {'beam' if by_beam else 'greedy'}"
    return _above(label, found, 0.0, shown=change)


def _above(
    label: str,
    found: Estimate | None,
    limit: float,
    *,
    shown: Callable[[Estimate | None], str],
    remark: str = "",
) -> Part:
    wanted, verdict = (limit, math.inf), above(found, limit)
    return part(label, found, verdict, shown=shown, remark=remark, wanted=wanted)


def _between(
    label: str,
    found: Estimate | None,
    low: float,
    high: float,
    *,
    shown: Callable[[Estimate | None], str],
    remark: str = "",
) -> Part:
    verdict = within(found, low, high)
    return part(label, found, verdict, shown=shown, remark=remark, wanted=(low, high))


def _seq_kd_beats_word_kd(students: Students) -> tuple[Part, ...]:
    return (
        _better(students, "seq_kd", "baseline", by_beam=False),
        _better(students, "seq_kd", "word_kd", by_beam=False),
    )


def _greedy_is_enough(students: Students) -> tuple[Part, ...]:
    measure = students.task.measure
    before, after = (gap(students.student(method), measure) for method in ("baseline", "seq_kd"))
    remark = f"Baseline {change(before)}"
    label = "beam over greedy, Seq-KD"
    return (_between(label, after, -0.3, 0.3, shown=change, remark=remark),)


def _rise(students: Students, key: str) -> tuple[list[float | None], Estimate | None]:
    """Our mean of Baseline and of Seq-KD, and by what factor it rose."""
    before, after = (Quantity(students.student(m), key) for m in ("baseline", "seq_kd"))
    return [average(q.runs, key) for q in (before, after)], ratio(after, before)


def _perplexity_worse(students: Students) -> tuple[Part, ...]:
    (before, after), rise = _rise(students, "perplexity")
    remark = f"from {fixed(before, 2)} to {fixed(after, 2)}"
    return (
        _above("perplexity", rise, 1.0, shown=factor, remark=remark),
        _better(students, "seq_kd", "baseline", by_beam=False),
    )


def _mode_share_tenfold(students: Students) -> tuple[Part, ...]:
    (before, after), rise = _rise(students, "mode_share")
    remark = f"from {percent(before)} to {percent(after)}"
    if before is not None and before > 0.1:
        remark += f", and {times(1.0 / before)} is all that a share can rise from there"
    return (_between("mode share", rise, 10.0, math.inf, shown=factor, remark=remark),)


def _techniques_add_up(students: Students) -> tuple[Part, ...]:
    all_three = "seq_kd+word_kd+seq_inter"
    return (
        _better(students, "seq_kd+seq_inter", "seq_kd", by_beam=True),
        *(
            _better(students, all_three, alone, by_beam=True)
            for alone in ("word_kd", "seq_kd", "baseline+seq_inter")
        ),
    )


def _seq_inter_helps_teacher(students: Students) -> tuple[Part, ...]:
    measure = students.task.measure
    after, before = students.teacher("teacher+seq_inter"), students.teacher()
    greedy = gain(after, before, measure.greedy, sign=measure.sign)
    beam = gain(after, before, measure.beam, sign=measure.sign)
    label = "Teacher + Seq-Inter over Teacher, greedy"
    remark = f"beam {change(beam)}"
    return (_above(label, greedy, 0.0, shown=change, remark=remark),)


def _ten_times_faster(students: Students) -> tuple[Part, ...]:
    measure = students.task.measure
    method = "seq_kd+seq_inter" if students.student("seq_kd+seq_inter") else "seq_kd"
    cost = gain_over_teacher(
        Quantity(students.student(method), measure.greedy),
        Quantity(students.teacher(), measure.beam),
        measure=measure,
    )
    return (
        _speed_part(students, method),
        _between(
            "quality, greedy over the teacher's beam",
            cost,
            -LITTLE_LOSS,
            math.inf,
            shown=change,
            remark=method_name(method),
        ),
    )


def _speed_part(students: Students, method: str) -> Part:
    rows = students.results.of(students.task, "speed")
    timed = grouped((row for row in rows if row.get("size") == students.size), "method")
    chosen = method if (method,) in timed else next((str(name) for (name,) in timed), method)
    found = ratio(
        Quantity(runs_of(rows, students.size, chosen), "words_per_second_greedy"),
        Quantity(runs_of(rows, TEACHER, TEACHER), "words_per_second_beam"),
    )
    label = "words/s, greedy over the teacher's beam"
    text = factor(found) if found is None else f"{factor(found)} ({method_name(chosen)})"
    if found is None or found.low is not None:
        verdict = within(found, 10.0, math.inf)
    else:
        verdict = Verdict.HOLDS if found.value >= 10.0 else Verdict.FAILS
    return Part(label, text, verdict, found, (10.0, math.inf))


def _pruned_thirteenfold(students: Students) -> tuple[Part, ...]:
    measure = students.task.measure
    whole = average(students.teacher(), "parameters")
    teacher = Quantity(students.teacher(), measure.beam)
    candidates: list[tuple[float, str, Estimate]] = []
    for (method, share), runs in grouped(students.pruned, "method", "pruned_share").items():
        left = average(runs, "nonzero")
        found = gain_over_teacher(Quantity(runs, measure.beam), teacher, measure=measure)
        if whole and left and whole / left >= FEWER and found is not None:
            told = f"{method_name(method)}, {share_name(share)} pruned: {times(whole / left)} fewer"
            candidates.append((found.value, told, found))
    label = "beam over the teacher's beam, pruned"
    if not candidates:
        return (Part(label, MISSING, Verdict.MISSING),)
    _, remark, best = max(candidates, key=lambda candidate: candidate[:2])
    return (_between(label, best, -PRUNING_LOSS, math.inf, shown=change, remark=remark),)


CLAIMS = (
    Claim(
        "With greedy decoding Seq-KD gains more over the undistilled student than Word-KD",
        "BLEU 14.7 to 18.9 (+4.2), Word-KD 15.4 (+0.7); Thai-English +2.2 and +1.2",
        "Holds when Seq-KD − Baseline and Seq-KD − Word-KD both lie above 0.",
        _seq_kd_beats_word_kd,
    ),
    Claim(
        "After Seq-KD greedy decoding is as good as beam search",
        "gap 0.1 BLEU (18.9 and 19.0), undistilled 2.9; Thai-English 0.6",
        "Holds when beam − greedy of Seq-KD lies within ±0.3 points.",
        _greedy_is_enough,
    ),
    Claim(
        "Perplexity gets worse while quality gets better",
        "perplexity 8.2 to 22.7, BLEU +4.2",
        "Holds when Seq-KD / Baseline lies above 1 in perplexity and the greedy gain above 0.",
        _perplexity_worse,
    ),
    Claim(
        "The share of probability on the model's own best output rises by an order of magnitude",
        "0.9 % to 16.9 %: 19×",
        "Holds when the mode share of Seq-KD / Baseline lies at 10 or above.",
        _mode_share_tenfold,
    ),
    Claim(
        "The techniques add up",
        "beam: Seq-KD 19.0, + Seq-Inter 19.3°, all three 19.2, Word-KD 17.7, "
        "Baseline + Seq-Inter 18.7°",
        "Holds when, with beam search, Seq-Inter improves Seq-KD and all three together improve on "
        "each one alone: four differences above 0.",
        _techniques_add_up,
    ),
    Claim(
        "Seq-Inter improves the teacher itself",
        "greedy 17.7 to 19.6° (+1.9), beam 19.5 to 19.8° (+0.3)",
        "Holds when Teacher + Seq-Inter − Teacher, greedy, lies above 0.",
        _seq_inter_helps_teacher,
    ),
    Claim(
        "The student decodes ten times faster with little loss",
        "greedy student 1,051 words/s, the teacher's beam 102 (10.3×); 18.9 and 19.5 BLEU (−0.6)",
        f"Holds when greedy student / teacher's beam in float32 is at least 10 and the loss lies "
        f"within {fixed(LITTLE_LOSS)} points (our reading of 'little').",
        _ten_times_faster,
    ),
    Claim(
        "Pruning leaves thirteen times fewer parameters at a loss of 0.4",
        "17 M of 221 M weights at 80 % pruned, 19.1 and 19.5 BLEU (−0.4)",
        f"Holds when a pruned student with at least {FEWER:.0f}× fewer non-zero weights than the "
        f"teacher has parameters lies within {fixed(PRUNING_LOSS)} points of its beam search.",
        _pruned_thirteenfold,
    ),
)
"""In the order of the paper. ° marks figures not compared with the paper's own text."""
