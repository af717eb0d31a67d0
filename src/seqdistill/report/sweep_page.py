"""The page of a sweep: methods with their differences and a picture first, every cell below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from seqdistill.metrics.repetitions import mean, t_interval
from seqdistill.recipe.sweep_schema import START, Sweep
from seqdistill.records.tables import Row
from seqdistill.report import numbers, plots

_HIDDEN = ("cell", "split", "system", "metric", "value", "low", "high", "worth", "version", "error")
_FURTHER = ("perplexity",)  # not speeds: cells ran beside each other


def sweep_page(
    rows: Sequence[Row], differences: Sequence[Row], sweep: Sweep, words: Sequence[str] = ()
) -> str:
    """One HTML file that refers to nothing outside itself; `words` are what a race recommends."""
    students = [r for r in rows if r.get("system") == "student" and r.get("split") == "test"]
    names = list(dict.fromkeys(row["metric"] for row in students))
    compared = _main_metrics(names)
    metrics = compared + [name for name in _FURTHER if name in names]
    bases = [base for base in sweep.bases if base == START or len(sweep.methods) > 1]
    columns = [*sweep.grid, *dict.fromkeys(key for cell in sweep.cells for key in cell)]
    systems: dict[tuple[str, ...], list[Row]] = {}
    for row in students:
        key = (row["method"], *(_shown(row.get(column)) for column in columns))
        systems.setdefault(key, []).append(row)
    lines = [
        {
            "name": key[0],
            "varied": [*key[1:], *(_shown(of[0].get(column)) for column in sweep.choose)],
            "scores": [
                [
                    _score(of, metric),
                    *(
                        _gain(differences, key, columns, metric, base)
                        for base in (bases if metric in compared else ())
                    ),
                ]
                for metric in metrics
            ],
            "seeds": len({row["seed"] for row in of}),
            "is_base": key[0] == sweep.base,
        }
        for key, of in systems.items()
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = resources.files(__package__)
    return environment.from_string((files / "sweep.html.jinja").read_text("utf-8")).render(
        style=Markup((files / "style.css").read_text("utf-8")),
        sweep=sweep,
        words=words,
        varied=[*columns, *sweep.choose],
        chosen=list(sweep.choose),
        metrics=metrics,
        compared=compared,
        bases=bases,
        lines=lines,
        at_ends=list(_at_ends(systems, sweep)),
        picture=Markup(_picture(systems, metrics[0])) if systems else None,
        teachers=[
            (metric, _score([r for r in rows if r.get("system") == "teacher"], metric))
            for metric in metrics
        ],
        cells=_cells(rows, metrics),
        dev=[row for row in rows if row.get("split") == "dev" and "value" in row],
        failed=[row for row in rows if "error" in row],
        shown=_shown,
        numbers=numbers,
    )


def _main_metrics(names: Sequence[str]) -> list[str]:
    """Those of the main metric, whichever way outputs were decoded."""
    main = next((n.removesuffix("_greedy") for n in names if n.endswith("_greedy")), "")
    exactly = (f"{main}_greedy", f"{main}_beam")
    return [name for name in names if name in exactly or name.startswith(f"{main}_sample_t")]


def _at_ends(systems: Mapping[tuple[str, ...], Sequence[Row]], sweep: Sweep) -> Iterator[str]:
    """Which systems chose the first or last of several numbers."""
    for key, rows in systems.items():
        for name, values in sweep.choose.items():
            ordered = len(values) > 1 and all(type(value) in (int, float) for value in values)
            if ordered and rows[0].get(name) in (min(values), max(values)):
                yield f"{' '.join(part for part in key if part)} {name}={_shown(rows[0][name])}"


def _score(rows: Sequence[Row], metric: str) -> str:
    """The mean over seeds with its t interval, of one seed the interval of the test set."""
    found = {row["seed"]: row for row in rows if row["metric"] == metric and "value" in row}
    values = [float(row["value"]) for row in found.values()]
    if not values:
        return numbers.MISSING
    if len(values) > 1:
        low, high = t_interval(values)
        return f"{numbers.fixed(mean(values), 2)} ± {numbers.fixed((high - low) / 2, 2)}"
    return numbers.fixed(values[0], 2) + _ends(next(iter(found.values())))


def _ends(row: Row) -> str:
    low, high = (numbers.fixed(row.get(end), 2) for end in ("low", "high"))
    return "" if numbers.MISSING in (low, high) else f" [{low}, {high}]"


def _gain(
    differences: Sequence[Row], key: Sequence[str], columns: Sequence[str], metric: str, base: str
) -> str:
    found = [
        row
        for row in differences
        if row["metric"] == metric
        and row["baseline"] == base
        and (row["method"], *(_shown(row.get(column)) for column in columns)) == tuple(key)
    ]
    if not found:
        return numbers.MISSING
    row = max(found, key=lambda row: row["num_seeds"])
    return numbers.signed(row["gain"], 2) + _ends(row)


def _cells(rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One line a tested student: what varied, what it took, its scores."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("system") == "student" and row.get("split") == "test":
            cells.setdefault(row["cell"], []).append(row)
    return [
        {
            "facts": {
                key: numbers.fixed(value) if key == "seconds" else _shown(value)
                for key, value in of[0].items()
                if key not in _HIDDEN
            },
            "scores": [_score(of, metric) for metric in metrics],
            "cell": cell,
        }
        for cell, of in cells.items()
    ]


def _picture(systems: Mapping[tuple[str, ...], Sequence[Row]], metric: str) -> str:
    """A line a system: every seed as a dot, the mean as a bar."""
    with plots.styled("sweep"):
        figure, axes = plots.empty((plots.FULL[0], 0.9 + 0.32 * len(systems)))
        for place, rows in enumerate(systems.values()):
            values = [row["value"] for row in rows if row["metric"] == metric]
            axes.plot(values, [-place] * len(values), "o", color=plots.stand_in(1), alpha=0.7)
            axes.plot([mean(values)], [-place], "|", color=plots.INK, markersize=16)
        labels = [" · ".join(part for part in key if part) for key in systems]
        axes.set_yticks([-place for place in range(len(systems))], labels)
        axes.grid(axis="x", visible=True)
        axes.margins(y=0.2 / len(systems) + 0.05)
        axes.set_xlabel(f"{metric}: a dot is a seed, the bar their mean")
        return plots.text_of(figure, "sweep")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
