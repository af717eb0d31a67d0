"""How many faults the tests notice: small changes to the code that decides numbers, one at a time.

    python benchmarks/mutation.py docs/results/mutation.json [--each N] [--seed S]
        [--only NAME] [--module PATH]

A mutant is a module with one change: a comparison or an operator replaced by its neighbour, a
number by the next, a condition negated, an argument of a call left out, a statement dropped. A
seeded draw of them is tried per subject. Each runs the subject's tests in a forked process whose
libraries are loaded already; a mutant is killed when a test fails or processor time runs out.
Decorators, annotations and what only words an error are not changed. Mutants that no test can kill
are listed in mutation_equivalent.yaml, by module, line of source and change, each with its reason:
the score is killed / (tried - equivalent). `--only NAME` tries one subject, `--module PATH` (such
as `data/collating.py`) one module of it.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import json
import os
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.yaml")
# What is changed, and the tests that are asked: those of its own package and of whole updates,
# first those that know it best, since none runs after the first that fails.
SUBJECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "objectives": (
        (
            "objectives/divergences.py",
            "objectives/adaptive_divergences.py",
            "objectives/manual_gradients.py",
            "objectives/chunked.py",
            "objectives/fused.py",
            "objectives/objective.py",
        ),
        ("tests/objectives", "tests/jobs/test_built_objectives.py"),
    ),
    "reduction": (
        ("objectives/reduction.py", "core/token_sum.py"),
        ("tests/objectives", "tests/core", "tests/jobs/test_built_objectives.py"),
    ),
    "weights": (
        ("objectives/token_weights.py", "objectives/observation.py"),
        (
            "tests/objectives/test_policy_gradient.py",
            "tests/objectives/test_suites.py",
            "tests/objectives",
            "tests/sources/test_baselines.py",
            "tests/jobs/test_built_objectives.py",
        ),
    ),
    "encoding": (
        ("data/text_encoding.py", "data/row_encoders.py", "data/tokenizing.py"),
        (
            "tests/data/test_encoding.py",
            "tests/data/test_templates.py",
            "tests/data/test_conversations.py",
            "tests/data",
            "tests/jobs/test_chats.py",
            "tests/jobs/test_own_prompts.py",
            "tests/jobs/test_speech.py",
        ),
    ),
    "policy gradient": (
        ("sources/rewarded.py",),
        ("tests/sources/test_baselines.py", "tests/jobs/test_rewards.py"),
    ),
    "collator": (
        ("data/collating.py", "data/batching.py"),
        ("tests/data/test_batching.py", "tests/data", "tests/sources"),
    ),
}
_CPU_SECONDS = 240
_WITHOUT_EFFECT = ("strict", "out")
"""Arguments that decide no number."""
_NEIGHBOURS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def places(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """Every change that can be made: number of the node, which of its changes, and words for it."""
    silent = _silent(tree)
    for number, node in enumerate(ast.walk(tree)):
        if number in silent:
            continue
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _NEIGHBOURS:
            yield number, 0, f"line {line}: {type(node.op).__name__}"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _NEIGHBOURS:
            yield number, 0, f"line {line}: {type(node.ops[0]).__name__}"
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield number, 0, f"line {line}: {node.value!r}"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            yield number, 0, f"line {line}: {type(node.op).__name__} dropped"
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield number, 0, f"line {line}: condition negated"
        elif isinstance(node, ast.Call):
            for index, keyword in enumerate(node.keywords):
                if keyword.arg not in (None, *_WITHOUT_EFFECT):
                    yield number, index, f"line {line}: {keyword.arg}= left out"
        elif isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield number, 0, f"line {line}: statement dropped"


def _silent(tree: ast.Module) -> set[int]:
    """The numbers of nodes that decide nothing: annotations, messages, checks of types."""
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}
    found: set[int] = set()
    for node in ast.walk(tree):
        quiet: list[ast.AST] = []
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            quiet.append(node.annotation)
        if isinstance(node, ast.ClassDef):
            quiet += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            quiet += [*node.decorator_list, *([node.returns] if node.returns else [])]
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            quiet.append(node)
        if isinstance(node, ast.keyword) and node.arg in _WITHOUT_EFFECT:
            quiet.append(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("_LOG.", "warnings.")):
            quiet.append(node)
        found |= {numbers[id(inner)] for outer in quiet for inner in ast.walk(outer)}
    return found


def mutated(tree: ast.Module, number: int, which: int) -> ast.Module:
    """A copy of the tree with that change."""
    changed = copy.deepcopy(tree)
    node = next(node for place, node in enumerate(ast.walk(changed)) if place == number)
    if isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = _NEIGHBOURS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare):
        node.ops[0] = _NEIGHBOURS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1  # type: ignore[operator]
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if not isinstance(node.op, ast.UAdd):
            _replace(changed, node, node.operand)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Call):
        del node.keywords[which]
    else:
        _replace(changed, node, ast.Pass())
    return ast.fix_missing_locations(changed)


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                setattr(parent, name, [new if item is old else item for item in value])


def _change(module: str, tree: ast.Module) -> None:
    """Lets this process import the module from its changed tree, whichever finder asks for it."""
    file, source = str(SOURCE / "seqdistill" / module), ast.unparse(tree).encode()
    loader = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def changed_data(self: Any, path: Any) -> bytes:
        return source if path == file else get_data(self, path)

    def changed_stats(self: Any, path: Any) -> Any:
        if path == file:
            raise OSError  # so compiled files are neither read nor written
        return path_stats(self, path)

    loader.get_data, loader.path_stats = changed_data, changed_stats  # type: ignore[method-assign]


# Libraries are loaded before pytest starts, so that it cannot rewrite their assertions.
_OPTIONS = ("-x", "-p", "no:cacheprovider", "-p", "no:xdist")
_QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")


def survives(module: str, tree: ast.Module, tests: Sequence[str]) -> bool:
    """Whether all tests pass with the changed module, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            import pytest

            _change(module, tree)
            os._exit(int(pytest.main([*_OPTIONS, *_QUIET, *tests])))
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def equivalents() -> dict[tuple[str, str, str], str]:
    """The reason of each mutant that no test can kill, by module, line of source and change."""
    listed = yaml.safe_load(EQUIVALENT.read_text("utf-8")) or []
    return {(one["module"], one["source"], one["change"]): one["reason"] for one in listed}


def _is_equivalent(survivor: str, known: dict[tuple[str, str, str], str]) -> bool:
    """Whether a survivor, `MODULE line N: CHANGE`, is listed; by its source, as lines move."""
    place, _, change = survivor.partition(": ")
    module, _, line = place.partition(" line ")
    lines = (SOURCE / "seqdistill" / module).read_text("utf-8").splitlines()
    return (module, lines[int(line) - 1].strip(), change) in known


def main() -> None:
    """Tries the mutants and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--each", type=int, default=40, help="mutants of each subject")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(SUBJECTS))
    parser.add_argument("--module", help="of the package's folder, such as data/collating.py")
    given = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = f"{SOURCE}:{ROOT}"  # of the processes that tests start
    sys.path[:0] = [str(ROOT), str(SOURCE)]
    import ctranslate2  # noqa: F401  (loaded once, for all forks)
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    found: dict[str, object] = {}
    known = equivalents()
    for subject, (modules, tests) in SUBJECTS.items():
        modules = tuple(m for m in modules if given.module in (None, m))
        if given.only not in (None, subject) or not modules:
            continue
        every = []
        for module in modules:
            tree = ast.parse((SOURCE / "seqdistill" / module).read_text("utf-8"))
            every += [(module, tree, place) for place in places(tree)]
        if not survives(modules[0], every[0][1], tests):
            sys.exit(f"the tests of {subject} must pass before anything is changed, but fail")
        chosen = random.Random(given.seed).sample(every, min(given.each, len(every)))

        def tried(
            one: tuple[str, ast.Module, tuple[int, int, str]], tests: Sequence[str] = tests
        ) -> str | None:
            module, tree, (number, which, words) = one
            alive = survives(module, mutated(tree, number, which), tests)
            return f"{module} {words}" if alive else None

        with ThreadPoolExecutor(2) as pool:
            alive = [words for words in pool.map(tried, chosen) if words is not None]
        equal = [words for words in alive if _is_equivalent(words, known)]
        alive = [words for words in alive if words not in equal]
        killed = len(chosen) - len(alive) - len(equal)
        found[subject] = {
            "places": len(every),
            "tried": len(chosen),
            "killed": killed,
            "equivalent": len(equal),
            "score": round(killed / max(1, len(chosen) - len(equal)), 3),
            "survivors": sorted(alive),
        }
        print(subject, json.dumps(found[subject], indent=1), flush=True)
        given.output.write_text(json.dumps({"seed": given.seed, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
