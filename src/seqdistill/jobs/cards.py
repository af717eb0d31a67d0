"""The model card of an exported student: what it is, how good, of what it was made, how to load it.

Says nothing that no record says. Names of files are given without where they lie.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from seqdistill.assembly.licences import licences, teacher_of_scores
from seqdistill.compression.layers import parameter_count
from seqdistill.core.errors import UserError
from seqdistill.core.version import __version__
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import trainings
from seqdistill.records.results import Results, Score, System
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import numbers

_LOG = logging.getLogger(__name__)
CARD = "README.md"
_AUTO = {"seq2seq": "AutoModelForSeq2SeqLM", "causal": "AutoModelForCausalLM"}


def model_card(pair: LoadedModel, run: RunDirectory | None, exported: Mapping[str, Any]) -> str:
    """The card in Markdown, the hub's settings in front; of a run with its numbers and recipe.

    `exported` is the content of export.json.
    """
    recipe = None if run is None else _recipe_of(run)
    settings: dict[str, Any] = {"tags": ["seqdistill", "knowledge-distillation"]}
    settings["library_name"] = _library(str(exported["form"]))
    trained = [] if recipe is None else trainings(recipe)
    teachers = [*dict.fromkeys(name for one in trained for name in _teachers(one))]
    if on_hub := [one for one in teachers if not Path(one).exists() and ":" not in one]:
        settings["base_model"] = on_hub if len(on_hub) > 1 else on_hub[0]
    parts = [
        f"---\n{yaml.safe_dump(settings, sort_keys=False)}---",
        f"# {_shown(pair.name)}",
        f"A {type(pair.model).__name__} with {parameter_count(pair.model):,} parameters"
        + (f", distilled from {' and '.join(map(_shown, teachers))}" if teachers else "")
        + f", written by seqdistill {__version__} as `{exported['form']}`.",
        "## How to load it",
        _loading(str(exported["form"]), pair),
        "## Compared with the model that it was made of",
        _comparison(exported),
    ]
    if run is not None and run.results_path.is_file():
        parts += ["## Measured", _measured(run.read_results())]
    if recipe is not None:
        parts += ["## Made of", _sources(recipe), "## Recipe", _settings(recipe)]
    return "\n\n".join(parts) + "\n"


def _teachers(recipe: Recipe) -> tuple[str, ...]:
    """The other models that taught, also one of which only its scores were there."""
    scored = teacher_of_scores(recipe)
    return recipe.teacher.other_models if scored is None else (scored[0],)


def _recipe_of(run: RunDirectory) -> Recipe | None:
    """The run's recipe; None, which is said, where it needs plug-ins that are not trusted."""
    try:
        return load_recipe(str(run.whole(run.recipe_path)))
    except UserError as error:
        _LOG.warning("the model card says nothing of the recipe: %s", error)
        return None


def _library(form: str) -> str:
    return {"dense": "transformers", "sparse": "seqdistill", "onnx": "onnx"}.get(
        form, "gguf" if form.startswith("gguf") else "ctranslate2"
    )


def _shown(name: str) -> str:
    """A hub name whole; of a path its last part."""
    return Path(name).name if Path(name).exists() or name.startswith("/") else name


def _loading(form: str, pair: LoadedModel) -> str:
    if form == "sparse":
        return "```sh\nseqdistill export FOLDER OUTPUT --format dense\n```"
    if form.startswith("gguf"):
        return "```sh\nllama-cli -m FOLDER/model.gguf\n```"
    if form == "dense":
        name = type(pair.model).__name__ if pair.extractor is not None else _AUTO[pair.kind]
        lines = [
            "import transformers",
            "",
            'tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")',
            f'model = transformers.{name}.from_pretrained("FOLDER")',
        ]
    elif form == "onnx":
        lines = [
            "import transformers",
            "from transformers.exporters import ExportedModel",
            "",
            'tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")',
            'graphs = ExportedModel.from_pretrained("FOLDER/onnx").runners  # in ONNX Runtime',
        ]
    else:
        name = "Translator" if pair.kind == "seq2seq" else "Generator"
        lines = [
            "import ctranslate2, json, transformers",
            "",
            'how = json.load(open("FOLDER/seqdistill.json"))  # end_token, target_prefix',
            'tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")',
            f'model = ctranslate2.{name}("FOLDER")',
        ]
    return "\n".join(["```python", *lines, "```"])


def _comparison(exported: Mapping[str, Any]) -> str:
    words = [f"Weights: {exported['weight_bytes']:,} bytes"]
    if (agreement := exported["agreement"]) is not None:
        words.append(
            f"log-probabilities of {agreement['num_tokens']:,} tokens at most "
            f"{agreement['max_nats']:.2g} nats apart"
        )
    if exported["equal_outputs"] is not None:
        words.append(
            f"{exported['equal_outputs']:.1%} of {exported['num_inputs']:,} greedy outputs are the "
            f"same ({exported['engine']})"
        )
    if str(exported["form"]).startswith("gguf"):
        words.append("read back by transformers; llama.cpp itself was not run")
    return "; ".join(words) + "."


def _measured(results: Results) -> str:
    """The systems by every metric of beam outputs, with intervals."""
    titles = [metric.title for metric in results.metrics]
    lines = [f"| system | {' | '.join(titles)} |", f"|---|{'--:|' * len(titles)}"]
    for system in (*results.systems, *results.exports):
        cells = [_cell(system, metric.name) for metric in results.metrics]
        lines.append(f"| {system.name} | {' | '.join(cells)} |")
    scored = (s.beam.scores.get(m.name) for s in results.systems for m in results.metrics)
    lines += ["", *_signatures(scored)]
    return "\n".join(lines)


def _cell(system: System, metric: str) -> str:
    score = system.beam.scores.get(metric)
    return numbers.MISSING if score is None else numbers.with_interval(score)


def _signatures(scores: Iterable[Score | None]) -> list[str]:
    found = dict.fromkeys(score.signature for score in scores if score and score.signature)
    return [f"`{signature}`" for signature in found]


def _sources(recipe: Recipe) -> str:
    lines = [
        f"- {what}: {_shown(name)}; licence: {licence or 'unknown'}"
        for one in trainings(recipe)
        for what, name, licence in licences(one)
    ]
    return "\n".join(dict.fromkeys(lines))


def _settings(recipe: Recipe) -> str:
    content = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"output_dir"})
    return f"```yaml\n{yaml.safe_dump(_without_places(content), sort_keys=False)}```"


def _without_places(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _without_places(each) for key, each in cast("dict[str, object]", value).items()
        }
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return _shown(value) if isinstance(value, str) else value
