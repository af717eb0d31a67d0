"""What the paper claims, and the rule by which our numbers decide each claim.

Each rule stands twice: in words, beside the claim, and as the function that applies it. Lays out
nothing, and knows no outcome beforehand.

Source: Agarwal et al. 2024, sec. 4, figures 1 to 9.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

from experiments.gkd.methods import BASELINES, SHARES, Divergence
from experiments.gkd.page_contrasts import contrast
from experiments.gkd.page_rows import (
    ON_POLICY,
    Students,
    divergence_name,
    method_name,
    self_bleu,
    students_of,
)
from experiments.gkd.plan import LENGTHENED, THRIFTY
from experiments.harness.estimates import Quantity, difference
from experiments.harness.reading import Runs
from experiments.harness.statistics import Estimate, negated
from experiments.harness.text import change, share_name
from experiments.harness.verdicts import Part, Verdict, above, part
from seqdistill.report.numbers import MISSING

ABOUT_TWICE = 1.5
"""Gains that are at least so many times the best baseline's count as about twice: our reading."""
HOT = "1"
"""The temperature of samples that claims speak of."""
EVERYWHERE = ("g2p", "arithmetic", "en-de", "summaries")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim: the paper's figures, our rule in words, and the rule as a function."""

    title: str
    paper: str
    rule: str
    parts: Callable[[Students], tuple[Part, ...]]
    tasks: tuple[str, ...] = EVERYWHERE
    """The tasks on which it is tested."""
    later: bool = False
    """Whether students of a later start decide it, too: not every divergence begins there."""


def _more(label: str, found: Estimate | None, *, remark: str = "") -> Part:
    """A difference, which should lie above 0."""
    wanted = (0.0, math.inf)
    return part(label, found, above(found, 0.0), shown=change, remark=remark, wanted=wanted)


def _is_better(students: Students, name: str, runs: Runs, other: str, base: Runs) -> Part:
    return _more(f"{name} over {other}", students.better_by(runs, base))


def _beats_baselines(students: Students) -> tuple[Part, ...]:
    own = students.student(ON_POLICY)
    return tuple(
        _is_better(students, "On-policy KD", own, method_name(base), students.student(base))
        for base in ("supervised_kd", "imitkd", "seq_kd")
    )


def _twice_the_gain(students: Students) -> tuple[Part, ...]:
    method = students.best_on_policy
    bases = [base for base in BASELINES if base != "supervised_ft"]
    base = students.best(bases)
    if method is None or base is None or not students.initial:
        return (Part(f"gain, less {ABOUT_TWICE} × the best baseline's", MISSING, Verdict.MISSING),)
    own, other = students.student(method), students.student(base)
    # g - 1.5 b, of gains over the same initial student, is linear: no ratio of noisy numbers.
    systems = ((own, 1.0), (other, -ABOUT_TWICE), (students.initial, ABOUT_TWICE - 1.0))
    found = contrast(students, systems, students.key)
    gains = [students.gained(runs) for runs in (own, other)]
    remark = f"{method_name(method)} {change(gains[0])}, {method_name(base)} {change(gains[1])}"
    label = f"gain, less {ABOUT_TWICE} × the best baseline's"
    gained = _more("gain over the initial student", gains[0], remark=method_name(method))
    if gains[1] is None or gains[1].value > 0.0:
        return gained, _more(label, found, remark=remark)
    return (gained,)  # less of a loss would pass for a multiple of a gain


def _rises_with_share(students: Students) -> tuple[Part, ...]:
    complete = [d for d in students.divergences if all(students.point(d, s) for s in SHARES)]
    parts = []
    for before, after in itertools.pairwise(SHARES):
        share = 1.0 / len(complete) if complete else 0.0
        systems = [(students.point(divergence, after), share) for divergence in complete]
        systems += [(students.point(divergence, before), -share) for divergence in complete]
        found = contrast(students, systems, students.key) if complete else None
        label = f"λ from {before:g} to {after:g}"
        remark = f"mean of {len(complete)} divergences" if len(complete) > 1 else "forward KL"
        parts.append(_more(label, found, remark=remark))
    return tuple(parts)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A task and a way of decoding, in which one divergence does best."""

    students: Students
    key: str

    @property
    def best(self) -> Divergence | None:
        # By gains, so that divergences that more seeds were run with than others compare.
        gains = {
            divergence: found.value
            for divergence in self.students.divergences
            if (found := self.students.gained(self.students.point(divergence, 1.0), self.key))
            is not None
        }
        return max(gains, key=lambda divergence: gains[divergence], default=None)

    def better_by(self, first: Divergence, second: Divergence) -> Estimate | None:
        runs = [self.students.point(divergence, 1.0) for divergence in (first, second)]
        return self.students.better_by(runs[0], runs[1], self.key)


def _prefers_another(label: str, first: _Setting, second: _Setting) -> Part:
    """Whether each setting's best divergence is better there than the other setting's best."""
    own, other = first.best, second.best
    if own is None or other is None:
        return Part(label, MISSING, Verdict.MISSING)
    names = divergence_name(own), divergence_name(other)
    if own == other:
        return Part(label, f"{names[0]} in both", Verdict.FAILS)
    here, there = first.better_by(own, other), second.better_by(other, own)
    found = {above(here, 0.0), above(there, 0.0)}
    verdict = Verdict.HOLDS if found == {Verdict.HOLDS} else Verdict.OPEN
    figure = f"{names[0]} by {change(here)}, there {names[1]} by {change(there)}"
    return Part(label, figure, verdict)


def _best_divergence_depends(students: Students) -> tuple[Part, ...]:
    greedy = _Setting(students, students.key)
    hot = _Setting(students, students.shown.sampled(HOT))
    label = "greedy, against every other task"
    others = [
        _prefers_another(label, greedy, _Setting(other, other.key))
        for other in students_of(students.results)
        if other.shown != students.shown
    ]
    order = (Verdict.HOLDS, Verdict.OPEN, Verdict.FAILS, Verdict.MISSING)
    nearest = min(others, key=lambda found: order.index(found.verdict), default=None)
    return (
        _prefers_another(f"greedy, against samples at T {HOT}", greedy, hot),
        nearest or Part(label, MISSING, Verdict.MISSING),
    )


def _mode_seeking_trades_diversity(students: Students) -> tuple[Part, ...]:
    seeking, covering = (students.point(d, 1.0) for d in ("reverse_kl", "forward_kl"))
    quality = students.better_by(seeking, covering, students.shown.sampled(HOT))
    alike = difference(Quantity(seeking, self_bleu(HOT)), Quantity(covering, self_bleu(HOT)))
    return (
        _more(f"reverse KL over forward KL, samples at T {HOT}", quality),
        _more("rise of self-BLEU", alike),
    )


def _few_inputs_are_enough(students: Students) -> tuple[Part, ...]:
    shares = students.data_shares
    least = shares[0] if shares else 0.05
    own = students.trained_on(THRIFTY[-1], least) if shares else ()
    name = f"On-policy KD on {share_name(least)}"
    return tuple(
        _is_better(students, name, own, f"{method_name(base)} on all", students.student(base))
        for base in THRIFTY[:-1]
    )


def _trades_smoothly(students: Students) -> tuple[Part, ...]:
    weights = students.teacher_weights
    runs = [students.rewarded(weight) for weight in weights]
    parts = []
    for label, key, direction in (
        ("ROUGE-L, the reward: α least over α most", "rouge_l_greedy", -1.0),
        ("agreement with the teacher: α most over α least", "agreement_top1", 1.0),
    ):
        steps = [
            difference(Quantity(after, key), Quantity(before, key))
            for before, after in itertools.pairwise(runs)
        ]
        whole = difference(Quantity(runs[-1], key), Quantity(runs[0], key)) if steps else None
        turned = whole if whole is None or direction > 0.0 else negated(whole)
        # A step the wrong way that is surely none the right way breaks the curve.
        breaks = sum(
            above(step if direction > 0.0 else negated(step), 0.0) is Verdict.FAILS
            for step in steps
            if step is not None
        )
        verdict = Verdict.FAILS if breaks else above(turned, 0.0)
        remark = f"{breaks} of {len(steps)} steps the other way"
        places = 3 if key == "agreement_top1" else 1
        shown = _change_with(places)
        parts.append(part(label, turned, verdict, shown=shown, remark=remark))
    return tuple(parts)


def _change_with(places: int) -> Callable[[Estimate | None], str]:
    return lambda found: change(found, places)


def _wins_in_equal_time(students: Students) -> tuple[Part, ...]:
    own = students.student(ON_POLICY)
    return tuple(
        _is_better(
            students, "On-policy KD", own, f"{method_name(m)}, longer", students.in_equal_time(m)
        )
        for m in LENGTHENED
    )


CLAIMS = (
    Claim(
        "On-policy distillation beats supervised KD, ImitKD and SeqKD",
        "on XSum, WMT and GSM8K",
        "Holds when On-policy KD less each of the three lies above 0.",
        _beats_baselines,
        later=True,
    ),
    Claim(
        "Its gain over the initial student is about twice that of the best baseline",
        "2.1× on XSum, 1.7× on WMT, 1.9× on GSM8K, means over sizes",
        "Holds when the gain lies above 0, and, where a baseline gains anything, so does the gain "
        f"less {ABOUT_TWICE} times the baseline's (our reading of 'about twice'). The on-policy "
        "student is of the divergence that was best on dev, the baseline (SeqKD, supervised KD or "
        "ImitKD) the best on test.",
        _twice_the_gain,
        later=True,
    ),
    Claim(
        "Performance rises with λ",
        "GSM8K, T5-base, forward KL: +4.7 at λ 0, +6.8 at 0.5, +8.8 at 1",
        "Holds when both steps lie above 0, each the mean over the divergences that were measured "
        "at every λ.",
        _rises_with_share,
    ),
    Claim(
        "The best divergence depends on the task and on the temperature of sampling",
        "JSD(0.1) on WMT, JSD(0.9) on XSum when sampling, forward or reverse KL on GSM8K",
        "Holds when two settings prefer different divergences (λ 1) and each one's favourite is "
        "surely better there than the other's; fails when both prefer the same.",
        _best_divergence_depends,
    ),
    Claim(
        "Mode-seeking divergences win quality at high temperature and lose diversity",
        "XSum, samples: JSD(0.9) is best",
        f"Holds when, of samples at temperature {HOT}, reverse KL (λ 1) is better than forward KL "
        "and its self-BLEU is higher.",
        _mode_seeking_trades_diversity,
    ),
    Claim(
        "On-policy distillation on 5 % of the inputs beats supervised methods on all",
        "XSum, without references",
        "Holds when On-policy KD on the least part of the inputs, less supervised KD and less "
        "ImitKD on all inputs, lies above 0. The loss of on-policy KD reads no references; the "
        "initial students were trained on all of them.",
        _few_inputs_are_enough,
        ("g2p", "arithmetic"),
    ),
    Claim(
        "RL + GKD trades reward against closeness to the teacher smoothly",
        "XSum, the reward of an entailment classifier",
        "Holds when from the least to the largest α the reward's metric falls and agreement with "
        "the teacher's likeliest tokens rises, and no step between neighbours surely goes the "
        "other way.",
        _trades_smoothly,
        ("summaries",),
    ),
    Claim(
        "On-policy distillation also wins in equal time (our question)",
        "the paper reports 1.8 to 2.2 times the time of supervised training",
        "Holds when On-policy KD less supervised KD and less SeqKD, each with as many updates as "
        "its seconds buy, lies above 0. Making the teacher's outputs is not counted.",
        _wins_in_equal_time,
    ),
)
"""In the order of the paper, ours last. Its figures are read from other texts about it."""
