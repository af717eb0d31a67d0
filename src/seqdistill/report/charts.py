"""The charts of the page: a table of what each shows, and what goes into it.

Draws through `plots`. What was not measured or logged has no chart.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from seqdistill.core.families import FEATURES
from seqdistill.records.results import EntropyCurve, Metric, System, Value, number
from seqdistill.report import numbers, plots
from seqdistill.report.contents import Points, RunContents, TrainingLog, repetition_curve
from seqdistill.report.headlines import capital
from seqdistill.report.plots import Frame, Look, Point, Scale, Series

Looks = Mapping[str, Look]

REACHED_BY = 0.1
"""Entropy is drawn up to the position that this fraction of the references reaches: the mean over
fewer is noise."""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it."""

    title: str
    svg: Markup
    description: str
    """Read aloud in place of the picture."""
    caption: str


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a chart is called and what its axes are, `{metric}` and `{better}` to be filled in."""

    title: str
    caption: str
    frame: Frame


def _updates(
    title: str, y: str, caption: str, *, small: bool = False, y_scale: Scale = "linear"
) -> _Kind:
    return _Kind(title, caption, Frame("update", y, "steps", y_scale, small=small))


_KINDS = {
    "speed": _Kind(
        "Quality vs. speed",
        "Right is faster, {better} is better. A line joins a system’s greedy (hollow) and "
        "beam-search (filled) decoding.",
        Frame("sentences per second", "{metric}", x_scale="log"),
    ),
    "size": _Kind(
        "Quality vs. size",
        "Left is smaller, {better} is better. Systems of equal size stand side by side.",
        Frame("size on disk, MB", "{metric}", x_scale="log"),
    ),
    "gap": _Kind(
        "Gain of beam search",
        "Beam search minus greedy decoding; above 0 beam search is better. In the order of "
        "the legend.",
        Frame("", "gain in {metric}", x_scale="bare", level=0.0),
    ),
    "entropy": _Kind(
        "Entropy of the next token",
        "Mean over the references, up to the length that 10 % of them reach.",
        Frame("position in the reference", "nats", x_scale="steps"),
    ),
    "agreement": _Kind(
        "Agreement with the teacher",
        "Right: the same next token. {Better}: outputs closer to the teacher’s own.",
        Frame("same likeliest token, % of positions", "{metric} against its outputs"),
    ),
    "length": _Kind(
        "Output length",
        "Greedy (hollow) and beam search (filled); at 1 outputs are as long as the "
        "references. In the order of the legend.",
        Frame("", "tokens / reference tokens", x_scale="bare", level=1.0),
    ),
    "sampling": _Kind(
        "Quality vs. diversity",
        "Right is more diverse, {better} is better. A line joins the temperatures of a "
        "system, the lowest hollow.",
        Frame("100 − self-BLEU of the samples", "{metric}"),
    ),
    "dev": _updates(
        "{Metric} on dev", "{metric}", "Greedy decoding while training; {better} is better."
    ),
    "dev_loss_nats": _updates("Loss on dev", "nats per token", "On the references of dev."),
    "loss_nats": _updates(
        "Training loss", "nats per token", "Each method minimizes its own: compare shapes."
    ),
    "features": _updates(
        "Layers",
        "distance",
        "Of the student’s layers from the teacher’s: the mean of what counts, without its factor.",
        small=True,
    ),
    "skipped_updates": _updates(
        "Skipped updates", "updates", "So far: no position had a weight, nothing was learned."
    ),
    "completion_length": _updates(
        "Length", "tokens", "Tokens of a rollout, end of sequence included.", small=True
    ),
    "eos_rate": _updates(
        "Finished", "% of rollouts", "With an end of sequence; the others were cut.", small=True
    ),
    "student_entropy": _updates(
        "Entropy of the student",
        "nats per token",
        "Of its next token, where it trains.",
        small=True,
    ),
    "teacher_reverse_kl": _updates(
        "KL(student ‖ teacher)",
        "nats per token",
        "On the training sequences; 0: equal.",
        small=True,
    ),
    "student_topk_overlap": _updates(
        "Shared top 8, student",
        "% of its probability",
        "What the student gives to the tokens among the 8 likeliest of both.",
        small=True,
    ),
    "teacher_topk_overlap": _updates(
        "Shared top 8, teacher",
        "% of its probability",
        "What the teacher gives to them.",
        small=True,
    ),
    "distinct_2": _updates(
        "Distinct bigrams",
        "% of bigrams",
        "Of rollouts for different prompts; near 0: they are alike.",
        small=True,
    ),
    "repetition_4": _updates(
        "Repeated 4-grams", "% of 4-grams", "That a rollout has had before.", small=True
    ),
    "staleness": _updates(
        "Staleness",
        "age in updates",
        "Of the rollouts: 0 is on-policy, more is of an earlier student.",
        small=True,
    ),
    "student_fraction": _updates(
        "Student’s share", "% of sequences", "The others come from the mixture’s rest.", small=True
    ),
    "beta": _updates(
        "β of the Jensen-Shannon divergence", "β", "0: forward KL. 1: reverse KL.", small=True
    ),
    "reward": _updates("Reward", "reward", "Mean over the student’s own sequences."),
    "repetition": _updates(
        "Repetition",
        "% of 4-grams",
        "4-grams that a rollout has had before. Dashed: the references’.",
    ),
    "throughput": _updates(
        "Throughput",
        "tokens per second",
        "Solid: sampled, per second of sampling. Dashed: trained on, per second of the whole "
        "update.",
        small=True,
        y_scale="log",
    ),
}
_PERCENT = {
    "eos_rate",
    "student_fraction",
    "student_topk_overlap",
    "teacher_topk_overlap",
    "distinct_2",
    "repetition_4",
}
_ROLLOUTS = (
    "completion_length",
    "eos_rate",
    "student_entropy",
    "teacher_reverse_kl",
    "student_topk_overlap",
    "teacher_topk_overlap",
    "distinct_2",
    "repetition_4",
    "staleness",
    "student_fraction",
    "beta",
)
_SPOKEN_WITH_X = {"speed", "agreement", "sampling"}
"""Not `size`, whose dots are moved apart."""
_ONLY_IF_VARYING = {"staleness", "student_fraction"}


def _drawn(
    key: str,
    series: Iterable[Series],
    metric: Metric | None = None,
    *,
    section: str = "chart",
    level: float | None = None,
) -> list[Chart]:
    """The chart of that key; none without points. The section makes ids of the page unique."""
    found = [each for each in series if each.points]
    if not found:
        return []
    kind, title = _KINDS[key], "" if metric is None else metric.title
    better = "up" if metric is None or metric.higher_is_better else "down"
    words = {"metric": title, "Metric": capital(title), "better": better, "Better": capital(better)}
    frame = dataclasses.replace(kind.frame, y=kind.frame.y.format(**words))
    if level is not None:
        frame = dataclasses.replace(frame, level=level)
    name = kind.title.format(**words)
    window = plots.smoothing(found)
    caption = kind.caption.format(**words)
    if window > 1:
        caption += f" Running mean of {window} points."
    over = f" over {frame.x}" if frame.x else ""
    spoken = f"{name}: {frame.y}{over}. {_spoken(found, with_x=key in _SPOKEN_WITH_X)}"
    return [Chart(name, Markup(plots.draw(f"{section}-{key}", found, frame)), spoken, caption)]


def _spoken(series: Sequence[Series], *, with_x: bool) -> str:
    """What the picture shows, in numbers: of curves their ends, of dots where they are."""
    spoken = []
    for each in series:
        shown, joint = each.points, ", "
        if each.style != "dots" and len(shown) > 1:
            shown, joint = (shown[0], shown[-1]), " to "
        values = (
            numbers.significant(point.y) + (f" at {numbers.significant(point.x)}" if with_x else "")
            for point in shown
        )
        spoken.append(f"{each.name}: {joint.join(values)}")
    return "; ".join(spoken)


def _dot(x: float | None, found: Value | None, *, filled: bool = True) -> list[Point]:
    """One dot with its interval; none where either was not measured."""
    if x is None or found is None or found.value is None:
        return []
    return [Point(x, found.value, filled, found.low, found.high)]


def trade_offs(contents: RunContents, looks: Looks) -> list[Chart]:
    """Quality vs. speed and vs. size: what a choice between the systems rests on.

    Beside the students' sizes also stands the start, so that one sees what was learned.
    """
    metric, systems = contents.metric, contents.measured
    trained = [system for system in systems if system is not contents.results.start]
    if metric is None or len(trained) < 2:  # one dot is no trade-off
        return []
    teacher = contents.results.teacher
    level = None if teacher is None else teacher.score(metric.name)
    speed = [Series(s.name, looks[s.name], _speed_dots(s, metric)) for s in trained]
    return [
        *_drawn("speed", speed, metric, level=level),
        *_drawn("size", _size_dots(systems, metric, looks), metric, level=level),
    ]


def _speed_dots(system: System, metric: Metric) -> list[Point]:
    dots: list[Point] = []
    for decoded, filled in ((system.greedy, False), (system.beam, True)):
        speed, score = number(decoded.sentences_per_second), decoded.scores.get(metric.name)
        # The interval of beam search alone, so that the two do not overlap.
        found = score if filled else Value(value=number(score))
        dots += _dot(speed or None, found, filled=filled)
    return dots


def _size_dots(systems: Sequence[System], metric: Metric, looks: Looks) -> list[Series]:
    found: list[Series] = []
    for system in systems:
        score = system.beam.scores.get(metric.name)
        if score is None or score.value is None or not system.bytes:
            continue
        megabytes = system.bytes / 1e6
        # Students often weigh the same to the byte: a few percent apart, all can be seen.
        while any(abs(megabytes / each.points[0].x - 1.0) < 0.035 for each in found):
            megabytes *= 1.04
        found.append(Series(system.name, looks[system.name], _dot(megabytes, score)))
    return found


def analysis(contents: RunContents, looks: Looks) -> list[Chart]:
    """What explains the quality: search, certainty by position, likeness to the teacher, length.

    Nothing of a single system, nor of the start, which would stretch every scale.
    """
    metric, results = contents.metric, contents.results
    systems = [system for system in results.systems if system is not results.start]
    if metric is None or len(systems) < 2:
        return []

    def dots(points: Callable[[int, System], Sequence[Point]]) -> list[Series]:
        found = [Series(s.name, looks[s.name], points(place, s)) for place, s in enumerate(systems)]
        several = sum(bool(each.points) for each in found) > 1
        return found if several else []

    curves = [
        Series(s.name, looks[s.name], _entropy(results.entropy_by_position[s.name]), "curve")
        for s in systems
        if s.name in results.entropy_by_position
    ]
    likeness = [Series(s.name, looks[s.name], _agreement(s)) for s in systems]
    return [
        *_drawn("gap", dots(lambda x, s: _dot(float(x), s.greedy_beam_gap)), metric),
        *_drawn("entropy", curves),
        *_drawn("agreement", likeness, metric),
        *_drawn("length", dots(_lengths)),
    ]


def _entropy(curve: EntropyCurve) -> list[Point]:
    return [
        Point(float(position), value)
        for position, (value, count) in enumerate(
            zip(curve.entropy_nats, curve.counts, strict=True), start=1
        )
        if count >= REACHED_BY * curve.counts[0]
    ]


def _agreement(system: System) -> list[Point]:
    same = number(system.agreement_top1)
    return _dot(None if same is None else 100.0 * same, system.to_teacher)


def _lengths(x: int, system: System) -> list[Point]:
    ratios = ((system.greedy.length_ratio, False), (system.beam.length_ratio, True))
    return [Point(float(x), ratio, filled) for ratio, filled in ratios if ratio is not None]


def sampling(contents: RunContents, looks: Looks) -> list[Chart]:
    """The main metric over how unlike each other samples are, by temperature."""
    metric = contents.metric
    if metric is None:
        return []
    series = []
    for system in contents.measured:
        points: list[Point] = []
        for place, at in enumerate(system.sampled):
            alike = number(at.self_bleu)
            unlike = None if alike is None else 100.0 - alike
            points += _dot(unlike, at.scores.get(metric.name), filled=place > 0)
        series.append(Series(system.name, looks[system.name], points))
    return _drawn("sampling", series, metric)


def training(contents: RunContents, looks: Looks) -> list[Chart]:
    """Dev scores, losses, distances of layers and skipped updates of the runs that logged them."""
    return [
        *_dev(contents.logs, contents.dev_metric, looks, "chart"),
        *_logged("dev_loss_nats", contents.logs, looks),
        *_logged("loss_nats", contents.logs, looks),
        *_drawn("features", _features(contents.logs, looks)),
        *_logged("skipped_updates", contents.logs, looks),
    ]


def rollouts(logs: Sequence[TrainingLog], looks: Looks) -> list[Chart]:
    """How the students sampled while they trained; nothing where none did.

    Runs that only read have their curves, too, of what was logged of them.
    """
    if not any(log.is_on_policy for log in logs):
        return []
    charts = []
    for key in _ROLLOUTS:
        values = {value for log in logs for _, value in log.curve(key)}
        if key not in _ONLY_IF_VARYING or len(values) > 1:
            charts += _logged(key, logs, looks)
    return charts + _drawn("throughput", _throughput(logs, looks))


def rewards(contents: RunContents, looks: Looks) -> list[Chart]:
    """Reward, dev score, length and repetition over the same updates, of runs with a reward."""
    logs = [log for log in contents.logs if log.curve("reward")]
    if not logs:
        return []
    shown = [_series(log, _by_update(repetition_curve(log.rollouts)), looks, 100.0) for log in logs]
    references = {one.reference for log in logs for one in log.rollouts if one.reference}
    level = _reference_repetition(sorted(references))
    return [
        *_logged("reward", logs, looks, "reward"),
        *_dev(logs, contents.dev_metric, looks, "reward"),
        *_logged("completion_length", logs, looks, "reward"),
        *_drawn("repetition", shown, section="reward", level=level),
    ]


def _by_update(points: Points) -> Points:
    by_update: dict[float, list[float]] = {}
    for update, value in points:
        by_update.setdefault(update, []).append(value)
    return tuple((update, statistics.fmean(each)) for update, each in by_update.items())


def _reference_repetition(references: Sequence[str]) -> float | None:
    if not references:
        return None
    from seqdistill.metrics.diversity import repetition_rate

    return 100.0 * repetition_rate(references).value


def _features(logs: Sequence[TrainingLog], looks: Looks) -> Iterable[Series]:
    """A curve for each feature of each run."""
    for log in logs:
        for key in (key for key in log.curves if re.sub(r"_\d+$", "", key) in FEATURES):
            series = _series(log, log.curve(key), looks)
            yield dataclasses.replace(series, name=f"{log.name}, {key}")


def _dev(
    logs: Sequence[TrainingLog], metric: Metric | None, looks: Looks, section: str
) -> list[Chart]:
    if metric is None:
        return []
    series = [_series(log, log.curve(f"dev_{metric.name}"), looks) for log in logs]
    return _drawn("dev", series, metric, section=section)


def _logged(
    key: str, logs: Sequence[TrainingLog], looks: Looks, section: str = "chart"
) -> list[Chart]:
    factor = 100.0 if key in _PERCENT else 1.0
    return _drawn(
        key, (_series(log, log.curve(key), looks, factor) for log in logs), section=section
    )


def _series(log: TrainingLog, points: Points, looks: Looks, factor: float = 1.0) -> Series:
    return Series(log.name, looks[log.name], [Point(x, factor * y) for x, y in points], "curve")


def _throughput(logs: Sequence[TrainingLog], looks: Looks) -> list[Series]:
    series = []
    for log in logs:
        sampled = [p for p in log.curve("generation_tokens_per_second") if p[1] > 0.0]
        if sampled:
            sampling_curve = _series(log, tuple(sampled), looks)
            trained = _series(log, training_rates(log), looks)
            name = f"{log.name}, trained on"
            series += [sampling_curve, dataclasses.replace(trained, name=name, style="dashed")]
    return series


def training_rates(log: TrainingLog) -> Points:
    """Tokens trained on per second between one logged update and the next."""
    tokens, seconds = dict(log.curve("tokens")), dict(log.curve("seconds"))
    logged = [(0.0, 0.0, 0.0)]
    logged += [
        (step, tokens[step], seconds[step]) for step in sorted(tokens.keys() & seconds.keys())
    ]
    return tuple(
        (step, (after - before) / (now - then))
        for (_, before, then), (step, after, now) in pairwise(logged)
        if now > then and after > before
    )


def sampling_fraction(log: TrainingLog) -> float | None:
    """The fraction of the training time that went into sampling; None where that was not logged.

    Seconds of sampling and of taking over the student's weights, a mean over the logged updates,
    over the seconds of an update. Updates without rollouts count as 0.
    """
    seconds = dict(log.curve("seconds"))
    last = max(seconds, default=0.0)
    if not log.curve("rollouts") or last <= 0.0 or seconds[last] <= 0.0:
        return None
    # Of a mixture the other sequences may be sampled, too.
    spent = [sum(_sampling_seconds(log, step, by) for by in ("", "other_")) for step in seconds]
    return min(1.0, statistics.fmean(spent) / (seconds[last] / last))


def _sampling_seconds(log: TrainingLog, step: float, by: str) -> float:
    sequences, length, rate, refreshing = (
        dict(log.curve(f"{by}{key}")).get(step, 0.0)
        for key in (
            "rollouts",
            "completion_length",
            "generation_tokens_per_second",
            "refresh_seconds",
        )
    )
    return refreshing + (sequences * length / rate if rate else 0.0)
