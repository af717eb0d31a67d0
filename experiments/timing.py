"""How well and how fast models decode, in fp32 and int8: one engine, in turns in one process."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from experiments.preparing import recipe_of
from experiments.running import OWN_NAMES
from experiments.shapes import Settings
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import model_folder
from seqdistill.evaluation.speed import measure_speed
from seqdistill.evaluation.systems import SystemResult, SystemSource, evaluate_outputs
from seqdistill.jobs.evaluate import evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.records.tables import Row

COMPUTE_TYPES = ("float32", "int8")


def timed(
    models: Mapping[str, str], settings: Settings, teacher: str
) -> dict[tuple[str, str], SystemResult]:
    """What was found by model and compute type; `models` are folders by name.

    Quality is measured again, since int8 has its own. `settings` are those of data and evaluation.
    """
    sources: dict[tuple[str, str], SystemSource] = {}
    for compute_type in COMPUTE_TYPES:
        own = {k: v for k, v in settings.items() if k.startswith(("data.", "evaluation."))}
        own |= {"evaluation.compute_type": compute_type}
        own |= {"teacher.model": teacher, "student.model": teacher}
        recipe = recipe_of(own, preset="baseline")
        examples = read_split(recipe, "test")
        for name, folder in models.items():
            path, full = model_folder(folder), f"{name} {compute_type}"
            load = functools.partial(system_under_test, full, path, "trained", recipe, examples)
            sources[name, compute_type] = SystemSource(full, path, load)
    references = [example.target or "" for example in examples]
    judged = evaluation_settings(recipe, examples, "seq2seq")
    measured = [
        (source, evaluate_outputs(source.load(), references, judged, teacher=None))
        for source in sources.values()
    ]
    return dict(zip(sources, measure_speed(measured, judged), strict=True))


def columns(result: SystemResult) -> Row:
    """Those of a row that are the system's own numbers."""
    return {k: v for k, v in result.row.columns().items() if k not in (*OWN_NAMES, "bytes")}
