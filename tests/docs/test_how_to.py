"""The how-tos of plug-ins: what they show works, from outside the package."""

from __future__ import annotations

import os
import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.jobs.runs import folder_for, trained

from seqdistill.core import plugin_loading
from seqdistill.core.errors import RecipeError, UserError
from seqdistill.core.families import DIVERGENCES, FEATURES, METRICS, REWARDS, TOKEN_WEIGHTS
from seqdistill.jobs.inputs import check_inputs, inputs_of
from seqdistill.recipe import json_schema, load_recipe, schema
from seqdistill.testing import check_token_weight

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs" / "how-to" / f"{family}.md"
    for family in ("divergence", "feature-match", "metric", "reward", "token-weight")
]
_FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAMILIES = (DIVERGENCES, FEATURES, METRICS, REWARDS, TOKEN_WEIGHTS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a stranger's; what is registered from there is forgotten afterwards."""
    before = [dict(family._members) for family in FAMILIES]
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin_loading, "_trusting", False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for family, members in zip(FAMILIES, before, strict=True):
        family._members = members  # type: ignore[attr-defined]
    for name in set(sys.modules) - modules:
        if name.startswith(("my_", "seqdistill_plugin_")):
            del sys.modules[name]
    schema.refresh()


def files_of(page: Path) -> dict[str, str]:
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_passes_its_own_suite_and_a_check(place: Path, page: Path) -> None:
    files = files_of(page)
    for name, text in files.items():
        (place / name).write_text(text)
    yours = ["data.train=train.tsv", "data.dev=dev.tsv", "student.model=s", "teacher.model=t"]
    if page.stem == "divergence":
        yours.append("teacher.scores=dense")
    recipe = load_recipe("recipe.yaml", yours)
    assert recipe.plugins == tuple(name for name in files if re.fullmatch(r"my_\w+\.py", name))
    for name in (name for name in files if name.startswith("test_")):
        tests = runpy.run_path(name)
        for test in (value for key, value in tests.items() if key.startswith("test_")):
            test()


def test_all_five_train_measure_and_resume(place: Path) -> None:
    """In one recipe, written back into the run directory and read again from there."""
    for page in PAGES:
        for name, text in files_of(page).items():
            (place / name).write_text(text)
    folder_for(place, "mbart")
    settings = [
        "plugins=[my_divergence.py, my_match.py, my_metric.py, my_reward.py, my_weight.py]",
        "data={train: train.tsv, dev: test.tsv}",
        "teacher={model: teacher, scores: dense}",
        "student.model=student",
        "sequences={origin: student, rollouts: {samples_per_prompt: 2, max_new_tokens: 6}}",
        "objective={reduction: sequence, reward: {function: of_length, parameters: {target: 4}}}",
        "objective.terms=[{divergence: renyi, order: 0.3},"
        "{divergence: negative_log_likelihood, token_weights: advantages}]",
        "objective.features=[{match: hidden_l1, at_most: 0.5, project: true}]",
        "training={steps: 2, batch_tokens: 60, eval_metric: same_length, log_every: 1, threads: 1}",
        "evaluation={engine: transformers, metrics: same_length, max_new_tokens: 6}",
        "output_dir=runs/mine",
    ]
    (place / "own.yaml").write_text("seed: 3\n")
    recipe = load_recipe("own.yaml", settings)
    run = trained(recipe)
    assert {"renyi", "advantages", "hidden_l1", "reward"} <= set(run.read_metrics()[0])
    assert any("dev_same_length" in row for row in run.read_metrics())
    assert load_recipe(str(run.recipe_path)) == recipe, "imported already: nothing new is run"
    assert trained(recipe, resume=True).read_metrics() == run.read_metrics()
    (place / "my_reward.py").write_text((place / "my_reward.py").read_text() + "\n")
    with pytest.raises(UserError, match="needs the plugins that"):
        check_inputs(run, inputs_of(recipe))
    again = "import pickle; print(repr(pickle.load(open('recipe.pickle', 'rb'))))"
    (place / "recipe.pickle").write_bytes(pickle.dumps(recipe))
    told = subprocess.run(
        [sys.executable, "-c", again],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert told.stdout == f"{recipe!r}\n", "another process loads the plug-ins of a recipe it gets"
    selecting = [text for text in settings if not text.startswith("objective")]
    selecting.append("objective.terms=[{divergence: renyi, token_weights: surprising}]")
    selecting.append("output_dir=runs/selected")
    assert "renyi" in trained(load_recipe("own.yaml", selecting)).read_metrics()[0]
    assert "Term_renyi" in str(json_schema())


def test_an_installed_package_joins_by_its_entry_point(place: Path) -> None:
    (place / "my_package.py").write_text(
        "from seqdistill.plugins import divergence\n"
        "@divergence('installed')\ndef installed(q, p): return (q - p).sum(-1)"
    )
    info = place / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[seqdistill.plugins]\nmine = my_package\n")
    yours = ["data.train=train.tsv", "student.model=s", "teacher={model: t, scores: dense}"]
    terms = "objective.terms=[{divergence: installed}]"
    assert load_recipe("baseline", [*yours, terms]).objective.terms[0].divergence == "installed"


def test_a_strangers_run_imports_nothing_unless_trusted(place: Path) -> None:
    (place / "theirs.py").write_text("raise SystemExit('ran')")
    (place / "recipe.yaml").write_text("plugins: [theirs.py]\n")
    (place / "manifest.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"line 1: plugins .*--trust-remote-code"):
        load_recipe("recipe.yaml")


def test_a_column_that_a_weight_reads_must_be_named(place: Path) -> None:
    (place / "my_rate.py").write_text(
        "from seqdistill.plugins import parameters, token_weight\n"
        "@parameters\nclass Rate:\n    column: str = 'rate'\n"
        "@token_weight('rate', parameters=Rate, extras=('{column}',))\n"
        "def rate(seen, column): return seen.extra(column)\n"
        "@token_weight('silent', parameters=Rate)\n"
        "def silent(seen, column): return seen.extra(column)\n"
    )
    terms = (
        "objective.terms=[{divergence: negative_log_likelihood, token_weights: [{kind: rate%s}]}]"
    )
    yours = ["plugins=my_rate.py", "data.train=train.jsonl", "student.model=s"]
    for given, named, column in (("", "", "rate"), (", column: hard", "rate", "hard")):
        settings = [*yours, terms % given, f"data.extra_columns=[{named}]"]
        found = rf"data\.extra_columns must name {column}, .* rate reads, got {named or 'none'}"
        with pytest.raises(RecipeError, match=found):
            load_recipe("baseline", settings)
        load_recipe("baseline", [*settings[:-1], f"data.extra_columns=[{column}]"])
    check_token_weight("rate", column="hard", extras={"hard": [1.0, 0.0, 2.0, 3.0]})
    with pytest.raises(AssertionError, match=r"registered with extras=\('rate',\)"):
        check_token_weight("silent", extras={"rate": [1.0, 0.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, "there is no file"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            "from seqdistill.plugins import divergence\n"
            "@divergence('forward_kl')\ndef mine(q, p): return q.sum(-1)",
            "must have a name of its own",
        ),
        (
            "from seqdistill.plugins import divergence, parameters\n"
            "@parameters\nclass P:\n    weight: float\n"
            "@divergence('mine', parameters=P)\ndef mine(q, p, weight): return q.sum(-1)",
            "must not be called weight",
        ),
        (
            "from seqdistill.plugins import token_weight\n"
            "@token_weight('mine', reads=('teacher_log_prob',))\n"
            "def mine(seen): return seen.target_mask",
            "reads of the token weight mine must be among .* got 'teacher_log_prob'",
        ),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_one_sentence(
    place: Path, code: str | None, told: str
) -> None:
    if code is not None:
        (place / "own.py").write_text(code)
    (place / "mine.yaml").write_text("method: mine\nplugins: [own.py]\n")
    with pytest.raises(RecipeError, match=rf"mine\.yaml, line 2: plugins .*{told}") as error:
        load_recipe("mine.yaml")
    assert "\n" not in str(error.value)
    assert not any("mine" in family for family in FAMILIES)
