"""The rows of results.json in typed form: metrics, systems, tests, what was analysed.

Opens no file and computes nothing. A field that is there but damaged is an error: see `fields`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from seqdistill.records.atomic import JsonValue
from seqdistill.report.contents import (
    Comparison,
    EntropyCurve,
    Measured,
    Metric,
    Sampled,
    System,
)
from seqdistill.report.fields import (
    needed_number,
    needed_text,
    number_at,
    numbers_at,
    rows_at,
    text_at,
    texts_at,
    wrong,
)

FORMERLY = (Metric("bleu", higher_is_better=True), Metric("chrf", higher_is_better=True))
"""What results were in before they said so."""

_SAMPLED = re.compile(r".+_sample_t([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)")


def metrics(results: Mapping[str, JsonValue], where: str) -> tuple[Metric, ...]:
    """What the results are in, the main metric first.

    Raises UserError when one does not say which way is up.
    """
    rows = rows_at(results, "metrics", where)
    found = []
    for row in rows:
        upward = row.get("higher_is_better")
        if not isinstance(upward, bool):
            raise wrong(where, "higher_is_better", "true or false", upward)
        found.append(Metric(needed_text(row, "name", where), higher_is_better=upward))
    return tuple(found) or FORMERLY


def system(row: Mapping[str, JsonValue], metrics: Sequence[Metric], where: str) -> System:
    """One row of the results; the first of the metrics is the one its quality is in."""
    name = needed_text(row, "name", where)
    main = metrics[0]

    def number(key: str) -> float | None:
        return number_at(row, key, f"{where}, system {name!r}")

    def measured(key: str) -> Measured | None:
        value, low, high = (number(f"{key}{end}") for end in ("", "_low", "_high"))
        return None if value is None else Measured(value, low, high)

    second = number(f"{metrics[1].name}_beam") if len(metrics) > 1 else None

    return System(
        name=name,
        method=text_at(row, "method") or name,
        init=text_at(row, "init"),
        parameters=number("parameters"),
        size_bytes=number("bytes"),
        metric=main,
        greedy=number(f"{main.name}_greedy"),
        beam=number(f"{main.name}_beam"),
        beam_low=number(f"{main.name}_beam_low"),
        beam_high=number(f"{main.name}_beam_high"),
        # Formerly chrF had a column of beam search alone.
        second=number(metrics[1].name) if second is None and len(metrics) > 1 else second,
        gap=measured("greedy_beam_gap"),
        perplexity=number("perplexity"),
        mode_share=number("mode_share"),
        mode_share_low=number("mode_share_low"),
        mode_share_high=number("mode_share_high"),
        entropy_nats=number("entropy_nats"),
        length_ratio_greedy=number("length_ratio_greedy"),
        length_ratio_beam=number("length_ratio_beam"),
        agreement=number("agreement_top1"),
        to_teacher=measured(f"{main.name}_to_teacher"),
        words_per_second_greedy=number("words_per_second_greedy"),
        words_per_second_beam=number("words_per_second_beam"),
        sentences_per_second_greedy=number("sentences_per_second_greedy"),
        sentences_per_second_beam=number("sentences_per_second_beam"),
        signatures=_signatures(row, metrics),
        faults=tuple(texts_at(row, "faults", f"{where}, system {name!r}")),
        folder=text_at(row, "folder"),
        sampled=_sampled(row, metrics, number, measured),
    )


def _signatures(row: Mapping[str, JsonValue], metrics: Sequence[Metric]) -> dict[str, str]:
    """Of each metric that the row has one of; the main metric's has the plain name."""
    keys = {metrics[0].name: "signature"} | {m.name: f"{m.name}_signature" for m in metrics[1:]}
    found = {name: text_at(row, key) for name, key in keys.items()}
    return {name: signature for name, signature in found.items() if signature is not None}


def _sampled(
    row: Mapping[str, JsonValue],
    metrics: Sequence[Metric],
    number: Callable[[str], float | None],
    measured: Callable[[str], Measured | None],
) -> tuple[Sampled, ...]:
    """From columns that end in the temperature, such as `self_bleu_sample_t0.5`."""
    matches = [_SAMPLED.fullmatch(key) for key in row]
    ends = {match[1] for match in matches if match is not None}
    found = []
    for end in sorted(ends, key=float):
        scores = {metric.name: measured(f"{metric.name}_sample_t{end}") for metric in metrics}
        found.append(
            Sampled(
                float(end),
                {name: score for name, score in scores.items() if score is not None},
                self_bleu=measured(f"self_bleu_sample_t{end}"),
                repetition=number(f"repetition_sample_t{end}"),
                finished_share=number(f"finished_share_sample_t{end}"),
            )
        )
    return tuple(found)


def entropy(results: Mapping[str, JsonValue], where: str) -> tuple[EntropyCurve, ...]:
    """Each system's entropy by position, where that was analysed."""
    analyses = results.get("analyses")
    by_name = analyses.get("entropy_by_position") if isinstance(analyses, dict) else None
    if by_name is None:
        return ()
    if not isinstance(by_name, dict):
        raise wrong(where, "entropy_by_position", "an object of curves by system name", by_name)
    return tuple(
        EntropyCurve(
            name, numbers_at(curve, "entropy_nats", where), numbers_at(curve, "counts", where)
        )
        for name, curve in by_name.items()
    )


def comparison(row: Mapping[str, JsonValue], metrics: Sequence[Metric], where: str) -> Comparison:
    """One paired test. A difference of an error rate is good when it is negative."""
    name = text_at(row, "metric") or "bleu"
    falling = [metric for metric in metrics if not metric.higher_is_better]
    return Comparison(
        system=needed_text(row, "system", where),
        versus=needed_text(row, "versus", where),
        metric=name,
        higher_is_better=not any(name.startswith(metric.name) for metric in falling),
        delta=needed_number(row, "delta", where),
        p_value=needed_number(row, "p_value", where),
        low=number_at(row, "low", where),
        high=number_at(row, "high", where),
        test=text_at(row, "test") or "paired test",
    )
