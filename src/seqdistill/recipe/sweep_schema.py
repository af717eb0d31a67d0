"""What a sweep file may say: start, methods, the settings that vary, seeds, what dev chooses.

A sweep names recipes and settings over them; what these mean is the recipe's affair.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from seqdistill.core.errors import RecipeError, did_you_mean
from seqdistill.recipe.documents import parse_document
from seqdistill.recipe.schema_errors import schema_complaints
from seqdistill.recipe.sections import Section, as_list
from seqdistill.recipe.stages import STUDENT_BEFORE, first_weights, first_weights_in

Overrides = dict[str, Any]
"""Recipe settings by their dotted keys: {training.learning_rate: 1e-3}."""
Values = dict[str, Annotated[list[Any], Field(min_length=1)]]
START = "start"
"""The method of rows about the common start."""
_SET_BY_THE_SWEEP = ("output_dir", "seed", "compare", "preset")


class SweepStage(Section):
    """One training: a recipe, and what it needs besides the settings that all share."""

    recipe: str
    """A preset or a YAML file."""
    settings: Overrides = Field(default={})
    """Over those of the recipe and of the sweep."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"recipe": given} if isinstance(given, str) else given


Stages = Annotated[tuple[SweepStage, ...], Field(min_length=1), BeforeValidator(as_list)]


class Sweep(Section):
    """Methods x settings x seeds, each cell one student."""

    output_dir: str
    """Where runs, rows and page go."""
    methods: Annotated[dict[str, Stages], Field(min_length=1)]
    """By the name that tables give them: {word-kd: word_kd, mine: {recipe: mine.yaml}}; a list
    of presets where their own names do. A method that is a list itself is a chain: each of its
    trainings goes on from the student of the one before, and `choose` is for the last."""
    start: SweepStage | None = None
    """Trained once for each combination of the grid and each seed: every method goes on from its
    student. Measured as the row `start`. `choose` is not for it."""
    settings: Overrides = Field(default={})
    """What all cells share. `{seed}` in any setting is filled in: {teacher.model:
    "runs/teacher-{seed}/student"}."""
    grid: Values = Field(default={})
    """Settings that vary, every combination of their values: {student.decoder_layers: [1, 2]}."""
    cells: list[Overrides] = Field(default=[])
    """Combinations of settings one by one, in the place of `grid`."""
    seeds: Annotated[list[int], Field(min_length=1)] = Field(default=[1])
    """Each cell is trained once with each. With two or more, differences have intervals."""
    choose: Values = Field(default={})
    """Settings that every method chooses for itself, for each combination of the grid: one student
    of the first seed is trained with each combination of these values, all equally long, and the
    best by the metric that chooses checkpoints (training.eval_metric) on dev is taken for all
    seeds. Test sets choose nothing."""
    baseline: str | None = None
    """The method, or `start`, that the others are compared with, seed by seed. Default: the first
    method."""

    @field_validator("methods", mode="before")
    @classmethod
    def _named_by_presets(cls, given: Any) -> Any:
        is_list = isinstance(given, list) and all(isinstance(name, str) for name in given)
        return {name: name for name in given} if is_list else given

    @field_validator("output_dir")
    @classmethod
    def _expanded(cls, given: str) -> str:
        return os.path.expanduser(given)

    @model_validator(mode="after")
    def _agrees(self) -> Sweep:
        if self.grid and self.cells:
            raise _refused("either grid or cells must be given, got both; write all as cells")
        if START in self.methods:
            raise _refused("methods must have other names than start, the section; rename it")
        if self.baseline is not None and self.baseline not in self.systems:
            raise _refused(
                f"baseline must be one of {', '.join(self.systems)}, got {self.baseline!r}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise _refused(f"seeds must differ, got {self.seeds}; name each once")
        varied = {*self.grid, *(key for cell in self.cells for key in cell)}
        if twice := sorted(varied & self.choose.keys()):
            raise _refused(f"{twice[0]} must stand in grid, cells or choose, got it in two places")
        own = [stage.settings for name in self.systems for stage in self.stages(name)]
        for key in (*self.settings, *varied, *self.choose, *(key for of in own for key in of)):
            if key in _SET_BY_THE_SWEEP:
                raise _refused(
                    f"{key} must be left to the sweep; use its own output_dir, seeds and methods"
                )
        for name in self.methods:
            first, *others = self.stages(name)
            own = [stage.settings for stage in others] + ([self.choose] if others else [])
            for settings in own:
                if found := first_weights_in(settings):
                    raise _refused(
                        f"{found[0]} must be left out of what goes on from a trained student, got "
                        f"it for {name}; set it for {'the start' if self.start else first.recipe}, "
                        "or for all in settings, grid or cells"
                    )
        return self

    @property
    def systems(self) -> list[str]:
        """The names in the column `method`: the start, where there is one, and the methods."""
        return [*([] if self.start is None else [START]), *self.methods]

    def stages(self, name: str) -> tuple[SweepStage, ...]:
        """What is trained for a system, each from the student of the one before."""
        begins = () if self.start is None else (self.start,)
        return (*begins, *self.methods.get(name, ()))

    @property
    def base(self) -> str:
        """The method that the others are compared with."""
        return self.baseline or next(iter(self.methods))

    @property
    def bases(self) -> list[str]:
        """What methods are compared with: the baseline, and the start where there is one."""
        return list(dict.fromkeys([self.base, *self.systems[: self.start is not None]]))

    def combinations(self) -> list[Overrides]:
        """The combinations of settings that every method is trained with."""
        return self.cells or list(_products(self.grid))

    def candidates(self, name: str) -> list[Overrides]:
        """What a system may choose from; without a choice one combination that sets nothing."""
        return list(_products(self.choose if name in self.methods else {}))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One student of a sweep: a method, or the start, with its settings and a seed."""

    method: str
    stages: tuple[SweepStage, ...]
    """Trained one after another, each from the student of the one before."""
    varied: Mapping[str, Any]
    """Of grid or cells."""
    chosen: Mapping[str, Any]
    seed: int
    shared: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`word_kd, training.learning_rate=0.001, seed 1`."""
        settings = {**self.varied, **self.chosen}
        shown = [f"{key}={_text(value)}" for key, value in settings.items()]
        return ", ".join([self.method, *shown, f"seed {self.seed}"])

    def overrides(self, index: int) -> list[str]:
        """For `load_recipe` of one of the stages, without output_dir.

        The student that a later one goes on from has no place yet, and a name that says so.
        """
        layers = [self.shared, self.stages[index].settings, self.varied]
        if index == len(self.stages) - 1:
            layers.append(self.chosen)
        if index > 0:
            layers.append({"student": first_weights(STUDENT_BEFORE)})
        layers.append({"seed": self.seed})
        settings = [f"{key}={_text(value)}" for layer in layers for key, value in layer.items()]
        return [setting.replace("{seed}", str(self.seed)) for setting in settings]


def trials(sweep: Sweep) -> Iterator[Trial]:
    """Every student that the sweep may train, whatever is chosen: all candidates, all seeds."""
    for name in sweep.systems:
        for varied, chosen in itertools.product(sweep.combinations(), sweep.candidates(name)):
            for seed in sweep.seeds:
                yield Trial(name, sweep.stages(name), varied, chosen, seed, sweep.settings)


def read_sweep(path: Path) -> Sweep:
    """The sweep in a YAML file. Raises RecipeError with every mistake, its line and its key."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"a sweep must be a readable YAML file, got {str(path)!r} ({error}); check the path"
        ) from error
    problems: list[str] = []
    document = parse_document(text, str(path), problems)
    for key in sorted(document.values.keys() - Sweep.model_fields.keys()):
        hint = (
            did_you_mean(key, Sweep.model_fields)
            or f" It may have: {', '.join(Sweep.model_fields)}."
        )
        problems.append(f"{document.place_of((key,))}: a sweep has no key {key!r}.{hint}")
        del document.values[key]
    try:
        sweep = Sweep.model_validate(document.values)
    except ValidationError as error:
        own = [str(found["msg"]) for found in error.errors() if found["type"] == "sweep"]
        problems += own or schema_complaints(error, document)
    if problems:
        raise RecipeError("; ".join(dict.fromkeys(problems)))
    return sweep


def _refused(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("sweep", "{sentence}", {"sentence": sentence})


def _products(values: Mapping[str, list[Any]]) -> Iterator[Overrides]:
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
