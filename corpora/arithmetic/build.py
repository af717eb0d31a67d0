"""Builds the bundled arithmetic corpus: word problems and chains of sums with worked steps.

    python -m corpora.arithmetic.build --output src/seqdistill/bundled/arithmetic

Needs reasoning-gym of one version (pip install 'seqdistill[experiments]'); the same version gives
the same bytes. Whole templates are held out as the further test set `new-templates`. It writes
corpus.parquet and corpus.json; LICENSES.md is kept by hand.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from corpora.arithmetic.chains import chain_problem, shapes
from corpora.arithmetic.problems import STEP, Problem, count_pieces, reason_to_drop
from corpora.arithmetic.word_problems import PACKAGE, VERSION, load_generators, word_problem
from corpora.parquet import TOOLS, parquet_bytes, write_corpus

PARTS = ("test", "dev", "train")
NEW_TEMPLATES = "new-templates"
SIZES = {"test": 500, "dev": 250, "train": 12_000, NEW_TEMPLATES: 250}
"""Problems of each of the two kinds."""
HELD_OUT_SHARE = 0.2
"""Of the templates of each kind."""
NUM_TRIED = 200
MIN_USABLE_SHARE = 0.5
"""Templates of which fewer of the first NUM_TRIED problems can be used are left out."""
MAX_SEEDS = 5000
ROW_GROUP_SIZE = 8192
COLUMNS = ("id", "prompt", "completion", "template", "split")

Maker = Callable[[str], Problem | None]
"""A seed to a problem of one template."""


def hash_of(text: str) -> str:
    """The order key of a name: sha256 in hexadecimal."""
    return sha256(text.encode()).hexdigest()


def tried(template: str, make: Maker, removed: Counter[str]) -> Iterator[Problem]:
    """The usable problems of a template in the order of their seeds, no numbers twice."""
    keys: set[str] = set()
    for number in range(MAX_SEEDS):
        problem = make(f"{template}/{number}")
        reason = "steps of another form" if problem is None else reason_to_drop(problem)
        if problem is not None and reason is None and problem.key in keys:
            reason = "numbers that were there before"
        if problem is None or reason is not None:
            removed[reason or ""] += 1
        else:
            keys.add(problem.key)
            yield problem


def usable_templates(makers: Mapping[str, Maker]) -> tuple[list[str], Counter[str]]:
    """The templates fit for the corpus in the order of their hashes; how many are not, and why."""
    usable, removed = [], Counter[str]()
    for template, make in makers.items():
        reasons = Counter[str]()
        for number in range(NUM_TRIED):
            problem = make(f"{template}/{number}")
            reason = "steps of another form" if problem is None else reason_to_drop(problem)
            reasons[reason or "usable"] += 1
        if reasons["usable"] >= MIN_USABLE_SHARE * NUM_TRIED:
            usable.append(template)
        else:
            removed[(reasons - Counter(usable=NUM_TRIED)).most_common(1)[0][0]] += 1
    return sorted(usable, key=hash_of), removed


def round_robin(streams: Sequence[Iterator[Problem]]) -> Iterator[Problem]:
    """One problem of each stream in turn, until all have run out."""
    left = list(streams)
    while left:
        still = []
        for stream in left:
            problem = next(stream, None)
            if problem is not None:
                still.append(stream)
                yield problem
        left = still


def divide(
    makers: Mapping[str, Maker], *, sizes: Mapping[str, int] = SIZES
) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """The problems of one kind by part, and what was left out.

    A fifth of the templates, those with the least hashes, serve `new-templates` alone. In the other
    parts templates take turns, so that all have nearly equally many problems, and no template has
    the same numbers twice. Raises ValueError if there are too few.
    """
    templates, unusable = usable_templates(makers)
    num_new = round(HELD_OUT_SHARE * len(templates))
    removed = Counter[str]()
    new, seen = (
        round_robin([tried(name, makers[name], removed) for name in names])
        for names in (templates[:num_new], templates[num_new:])
    )
    parts = {part: list(islice(seen, sizes[part])) for part in PARTS}
    parts[NEW_TEMPLATES] = list(islice(new, sizes[NEW_TEMPLATES]))
    for part, found in parts.items():
        if len(found) < sizes[part]:
            raise ValueError(
                f"{part} must hold {sizes[part]} problems, but only {len(found)} could be made; "
                "ask for fewer or try more seeds"
            )
    return parts, {
        "templates": len(templates) - num_new,
        "new_templates": num_new,
        "templates_left_out": dict(sorted(unusable.items())),
        "problems_left_out": dict(sorted(removed.items())),
    }


def makers_of_words() -> dict[str, Maker]:
    """Template name -> maker, for the templates of reasoning-gym."""
    generators = load_generators().items()
    return {f"words/{number}": partial(word_problem, number, made) for number, made in generators}


def makers_of_chains() -> dict[str, Maker]:
    """Template name -> maker, for the shapes of chains."""
    return {f"chain/{shape}": partial(chain_problem, shape) for shape in shapes()}


def corpus_bytes(parts: Mapping[str, Sequence[Problem]]) -> bytes:
    """The corpus as Parquet; inside a part, problems stand in the order of the hashes of prompts.

    So word problems and chains are mixed.
    """
    rows, numbers = [], Counter[str]()
    for part in ("train", "dev", "test", NEW_TEMPLATES):
        for problem in sorted(parts[part], key=lambda problem: hash_of(problem.prompt)):
            numbers[problem.template] += 1
            name = f"{problem.template}/{numbers[problem.template]:04d}"
            rows.append((name, problem.prompt, problem.completion, problem.template, part))
    return parquet_bytes(COLUMNS, rows, row_group_size=ROW_GROUP_SIZE)


def count(problems: Sequence[Problem]) -> dict[str, float]:
    """Problems, templates, steps, and sizes in pieces (see `problems.count_pieces`)."""
    return {
        "pairs": len(problems),
        "templates": len({problem.template for problem in problems}),
        "steps": sum(len(STEP.findall(problem.completion)) for problem in problems),
        "mean_pieces": round(mean(map(count_pieces, problems)), 1),
        "max_pieces": max(map(count_pieces, problems)),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the corpus files")
    output = parser.parse_args().output
    words, about_words = divide(makers_of_words())
    chains, about_chains = divide(makers_of_chains())
    parts = {part: words[part] + chains[part] for part in SIZES}
    content = corpus_bytes(parts)
    facts = {
        "file": "corpus.parquet",
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
        "language": "en",
        "task": "arithmetic problems to worked steps <<a*b=c>> and the answer after ####",
        "further_tests": [NEW_TEMPLATES],
        "counts": {
            part: {"all": count(parts[part]), "words": count(words[part])}
            | {"chain": count(chains[part])}
            for part in ("train", "dev", "test", NEW_TEMPLATES)
        },
        "words": about_words,
        "chain": about_chains,
        "packages": {PACKAGE: VERSION},
        "tools": TOOLS,
    }
    write_corpus(output, content, facts)


if __name__ == "__main__":
    main()
