"""Charts of what explains quality: search, certainty, length, likeness to the teacher.

Each with a sentence that says what one sees in it. Older results lack some of it: what was not
measured has no chart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from seqdistill.report import numbers, plots
from seqdistill.report.charts import Chart
from seqdistill.report.contents import EntropyCurve, RunContents, System

Looks = dict[str, plots.Look]

REACHED_BY = 0.1
"""Entropy is drawn up to the position that this share of the references reaches: the mean over
fewer is noise."""


def charts_of(contents: RunContents, looks: Looks) -> list[Chart]:
    """What was measured of a comparison; nothing of a single system, which has nobody beside it."""
    # What has learned nothing yet would stretch every scale.
    systems = [system for system in contents.systems if not system.is_start]
    if len(systems) < 2:
        return []
    found = [
        _gap(systems, looks),
        _certainty(systems, looks),
        _entropy([c for c in contents.entropy if c.name in {s.name for s in systems}], looks),
        _agreement(systems, looks),
        _length(systems, looks),
    ]
    return [chart for chart in found if chart is not None]


def _ends(
    systems: Sequence[System], value: Callable[[System], float | None]
) -> tuple[System, System]:
    """The systems with the lowest and the highest value, which all of them have; two of equals."""

    def key(system: System) -> float:
        return value(system) or 0.0

    return min(systems, key=key), max(reversed(systems), key=key)


def _gap(systems: Sequence[System], looks: Looks) -> Chart | None:
    found = [(s, s.gap) for s in systems if s.gap is not None]
    if len(found) < 2:
        return None
    title = found[0][0].metric.title
    dots = [
        plots.Dot(looks[s.name], float(x), gap.value, filled=True, low=gap.low, high=gap.high)
        for x, (s, gap) in enumerate(found)
    ]
    gaps = {s.name: gap for s, gap in found}
    least, most = _ends([s for s, _ in found], lambda s: gaps[s.name].value)
    small, large = gaps[least.name], gaps[most.name]
    sentence = (
        f"Beam search helps {most.name} most, {numbers.signed(large.value)}, and least "
        f"{least.name}, {numbers.signed(small.value)}"
    )
    if small.low is not None and small.high is not None and small.low <= 0.0 <= small.high:
        sentence += ", which may be nothing: its interval holds zero"
    return Chart(
        "What beam search adds",
        Markup(plots.columns("gap", dots, y_label=f"gain in {title}", level=0.0)),
        f"Gain of beam search over greedy decoding in {title}. "
        + "; ".join(f"{s.name}: {numbers.signed(gap.value)}" for s, gap in found),
        f"{sentence}. Columns in the order of the legend.",
    )


def _certainty(systems: Sequence[System], looks: Looks) -> Chart | None:
    found = [s for s in systems if s.perplexity is not None and s.mode_share is not None]
    if len(found) < 2:
        return None
    dots = [
        plots.Dot(
            looks[s.name],
            s.perplexity or 0.0,
            100.0 * (s.mode_share or 0.0),
            filled=True,
            low=None if s.mode_share_low is None else 100.0 * s.mode_share_low,
            high=None if s.mode_share_high is None else 100.0 * s.mode_share_high,
        )
        for s in found
    ]
    least, most = _ends(found, lambda s: s.mode_share)
    return Chart(
        "Certainty against likelihood",
        Markup(
            plots.scatter(
                "certainty",
                dots,
                x_label="perplexity of the references",
                y_label="mode share, %",
                level=None,
            )
        ),
        "Mode share over perplexity. "
        + "; ".join(
            f"{s.name}: {numbers.percent(s.mode_share)}, {numbers.fixed(s.perplexity, 2)}"
            for s in found
        ),
        f"{most.name} puts {numbers.percent(most.mode_share)} of its probability on its own output "
        f"at a perplexity of {numbers.fixed(most.perplexity)}; {least.name} puts "
        f"{numbers.percent(least.mode_share)} there at {numbers.fixed(least.perplexity)}.",
    )


def _entropy(curves: Sequence[EntropyCurve], looks: Looks) -> Chart | None:
    found = [curve for curve in curves if curve.name in looks and _reached(curve)]
    if not found:
        return None
    lines = [plots.Line(looks[curve.name], _reached(curve)) for curve in found]
    means = {curve.name: _mean(curve) for curve in found}
    sure = min(means, key=lambda name: means[name])
    unsure = max(reversed(means), key=lambda name: means[name])
    svg = plots.curves(
        "entropy",
        lines,
        x_label="position in the reference",
        y_label="nats",
        marked=False,
        window=1,
    )
    return Chart(
        "Entropy of the next token",
        Markup(svg),
        "Mean entropy in nats by position. "
        + "; ".join(f"{name}: {numbers.fixed(mean, 2)} on average" for name, mean in means.items()),
        f"{sure} has the lowest entropy, {numbers.fixed(means[sure], 2)} nats on average, and "
        f"{unsure} the highest, {numbers.fixed(means[unsure], 2)}. Shown up to the length that "
        f"{numbers.percent(REACHED_BY)} of the references reach.",
    )


def _reached(curve: EntropyCurve) -> list[tuple[float, float]]:
    """(position, nats) up to where enough references reach."""
    return [
        (float(position), nats)
        for position, (nats, count) in enumerate(
            zip(curve.entropy_nats, curve.counts, strict=False), start=1
        )
        if count >= REACHED_BY * curve.counts[0]
    ]


def _mean(curve: EntropyCurve) -> float:
    weighted = sum(n * h for n, h in zip(curve.counts, curve.entropy_nats, strict=False))
    return weighted / sum(curve.counts)


def _agreement(systems: Sequence[System], looks: Looks) -> Chart | None:
    found = [(s, s.agreement, s.to_teacher) for s in systems]
    known = [(s, share, like) for s, share, like in found if share is not None and like is not None]
    if not known:
        return None
    title = known[0][0].metric.title
    dots = [
        plots.Dot(
            looks[s.name], 100.0 * share, like.value, filled=True, low=like.low, high=like.high
        )
        for s, share, like in known
    ]
    closest, share, like = max(known, key=lambda row: row[0].metric.score_key(row[2].value))
    svg = plots.plane(
        "agreement",
        dots,
        x_label="same likeliest token, % of positions",
        y_label=f"{title} against its outputs",
    )
    return Chart(
        "Likeness to the teacher",
        Markup(svg),
        "Agreement with the teacher. "
        + "; ".join(
            f"{s.name}: {numbers.percent(share)} of positions, {title} {numbers.fixed(like.value)}"
            for s, share, like in known
        ),
        f"{closest.name} writes most like the teacher: {title} {numbers.fixed(like.value)} against "
        f"the teacher’s own outputs, and the same likeliest token at {numbers.percent(share)} of "
        "the references’ positions.",
    )


def _length(systems: Sequence[System], looks: Looks) -> Chart | None:
    found = [s for s in systems if s.length_ratio_beam is not None]
    if len(found) < 2:
        return None
    dots = []
    for x, s in enumerate(found):
        for ratio, filled in ((s.length_ratio_greedy, False), (s.length_ratio_beam, True)):
            if ratio is not None:
                dots.append(plots.Dot(looks[s.name], float(x), ratio, filled=filled))
    shortest, longest = _ends(found, lambda s: s.length_ratio_beam)
    return Chart(
        "Output length",
        Markup(plots.columns("length", dots, y_label="tokens / the references’", level=1.0)),
        "Tokens of the outputs over tokens of the references. "
        + "; ".join(
            f"{s.name}: greedy {numbers.fixed(s.length_ratio_greedy, 2)}, beam search "
            f"{numbers.fixed(s.length_ratio_beam, 2)}"
            for s in found
        ),
        f"By beam search {shortest.name} writes least, "
        f"{numbers.fixed(shortest.length_ratio_beam, 2)} of the references’ tokens, and "
        f"{longest.name} most, {numbers.fixed(longest.length_ratio_beam, 2)}. Hollow is greedy.",
    )
