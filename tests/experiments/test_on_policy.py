"""The experiments on where on-policy distillation pays: the map of routes, and the page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.claims import read_claims
from experiments.followers import page as followers
from experiments.on_policy import page, routes, run
from experiments.running import add_rows
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from tests.jobs.runs import save_pairs
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode
from seqdistill.jobs.sweep import pending_cells, planned_cells
from seqdistill.recipe.sweep_schema import read_sweep
from seqdistill.records.tables import read_rows

TOWN = routes.city(5)


def test_ways_are_as_short_as_another_algorithm_finds() -> None:
    squares = list(TOWN.neighbours)
    near = np.array([[b in TOWN.neighbours[a] for b in squares] for a in squares], dtype=float)
    assert (near == near.T).all() and 2 * 24 < near.sum() < 2 * 40  # a tree's walls and more
    known = shortest_path(csr_array(near), unweighted=True)
    for (i, start), (j, goal) in itertools.permutations(enumerate(squares), 2):
        way = TOWN.way(start, goal)
        assert (way[0], way[-1], len(way) - 1) == (start, goal, known[i, j])
        assert all(b in TOWN.neighbours[a] for a, b in itertools.pairwise(way))


def test_pairs_are_in_one_split_and_demonstrations_arrive() -> None:
    splits = routes.split_pairs(TOWN)
    every = [pair for pairs in splits.values() for pair in pairs]
    assert len(every) == len(set(every)) == 25 * 24
    assert [len(splits[name]) for name in ("test", "dev", "train")] == [120, 120, 360]
    for start, goal in splits["test"]:
        question, answer = routes.demonstration(TOWN, start, goal)["messages"]
        assert question == {"role": "user", "content": f"{start} to {goal} :"}
        assert TOWN.arrives(answer["content"], " ".join((start, goal)))


def test_the_teacher_learns_right_steps_alone_from_wherever_a_wanderer_is(tmp_path: Path) -> None:
    rows = list(itertools.islice(routes.wanderings(TOWN), 300))
    assert rows == list(itertools.islice(routes.wanderings(TOWN), 300))
    routes.write_chats(tmp_path / "rows.jsonl", rows)
    tokenizer = routes.tokenizer(TOWN)
    encoded = encode(read_examples(str(tmp_path / "rows.jsonl")), tokenizer, "causal")
    strayed, jumped = 0, 0
    for row, example in zip(rows, encoded, strict=True):
        question, *turns = row["messages"]
        start, _, goal, _ = question["content"].split()
        said = [(turn["role"], square) for turn in turns for square in turn["content"].split()]
        assert said[0] == ("assistant", start) and said[-1] == ("assistant", goal)
        for (_, before), (role, after) in itertools.pairwise(said):
            if role == "assistant":
                assert after == TOWN.next_square(before, goal) or after == goal
            else:
                strayed, jumped = strayed + 1, jumped + (after not in TOWN.neighbours[before])
        *learned, end = tokenizer.convert_ids_to_tokens(example.counted_ids)
        assert end == "</s>" and example.own_prompt_ids is None
        assert learned == [square for role, square in said if role == "assistant"]
    assert 0 < jumped < strayed


def test_the_metric_asks_for_legal_steps_from_the_start_to_the_goal() -> None:
    start = "a0"
    near = TOWN.neighbours[start][0]
    far = next(square for square in TOWN.neighbours if square not in TOWN.neighbours[start])
    goal = f"{start} {near}"
    assert TOWN.arrives(goal, goal)
    assert TOWN.arrives(f"{start} {near} {start} {near}", goal)  # however long
    for wrong in ("", start, near, f"{near} {start}", f"{start} {far}", f"{start} z9 {near}"):
        assert not TOWN.arrives(wrong, goal), wrong
    ways = [" ".join(routes.city().way("a0", goal)) for goal in ("a1", "p15", "h8")]
    assert routes.arrives(ways, ["", *ways[1:]], ways) == [0.0, 1.0, 1.0]
    found = routes.by_length(["", *ways[1:]], ways)
    assert found.pop("1_7") == 0.0 and set(found.values()) == {100.0} and "24_more" in found


def made_up(
    task: str, method: str, condition: str, *scores: float, **more: Any
) -> list[dict[str, Any]]:
    """Rows of a method, a seed for each score."""
    key = "token_error_rate" if task == "few_inputs" else "reaches_goal"
    return [
        {"task": task, "experiment": "teacher" if method == "teacher" else "main", "method": method}
        | {
            "name": f"{method}/{condition}/{seed}",
            "condition": condition,
            "seed": seed,
            "dev": score,
        }
        | {f"{key}_greedy": score, f"{key}_sample_t1": score, "parameters": 9, "seconds": 1.0}
        | {"steps": 5, "learning_rate": 1e-3, **more}
        for seed, score in enumerate(scores, start=1)
    ]


def test_the_page_claims_what_its_rows_show_and_no_more(tmp_path: Path) -> None:
    store = tmp_path / "on_policy.parquet"
    few = {"num_inputs": 250}
    rows = [
        *made_up("few_inputs", "teacher", "", 30.0),
        *made_up("few_inputs", "start", "250 inputs", 80.0, 81.0, 79.0, **few),
        *made_up("few_inputs", "supervised_kd", "250 inputs", 76.0, 77.2, 74.9, **few),
        *made_up("few_inputs", "on_policy_forward_kl", "250 inputs", 70.0, 71.1, 69.2, **few),
        *made_up("few_inputs", "on_policy_jsd", "250 inputs", 90.0, 91.0, 89.5, **few),
        *made_up("few_inputs", "start", "1,000 inputs", 60.0, 61.0, num_inputs=1000),
        *made_up("routes", "start", "", 60.0, 61.0, reaches_goal_greedy_1_7=90.0),
        *made_up("routes", "supervised_kd", "", 70.0, 71.1, reaches_goal_greedy_1_7=90.0),
        *made_up("routes", "on_policy_reverse_kl", "", 62.0, 63.2, reaches_goal_greedy_1_7=95.0),
    ]
    add_rows(store, rows)
    few_place, more, town = page.places_of(page.read(store))
    assert (few_place.title, more.title, town.title) == ("250 inputs", "1,000 inputs", "routes")
    assert few_place.best == {
        "best on-policy": "on_policy_forward_kl",
        "best supervised": "supervised_kd",
    }
    claims = read_claims(page.CLAIMS)
    verdicts = {
        verdict: [title for title, _ in found]
        for verdict, found in page.judged(claims[0], [few_place, more, town]).items()
    }
    assert verdicts == {
        "holds": ["250 inputs"],
        "does not hold": ["routes"],
        "undecided": [],
        "not measured": ["1,000 inputs"],
    }
    whole = few_place.figure(
        {"kind": "weighted", "weights": {"best on-policy": 1.0, "best supervised": -1.7}}
    )
    gains = [
        (s - o) - 1.7 * (s - k) for s, k, o in ((80, 76, 70), (81, 77.2, 71.1), (79, 74.9, 69.2))
    ]
    assert whole is not None and whole.value == pytest.approx(sum(gains) / 3)
    room = few_place.figure({"kind": "room", "sought": {"few_inputs": 4.0}})
    assert room is not None and room.value == pytest.approx(50.0 - 2 * 4.0)
    assert town.figure({"kind": "room", "sought": {"few_inputs": 4.0}}) is None
    page.write_page(store)
    text = store.with_suffix(".md").read_text("utf-8")
    assert "Seq-KD" not in text.split("## What holds when")[0]
    plots = {path.name for path in (tmp_path / "on_policy").iterdir()}
    assert plots == {"inputs.svg", "length_routes.svg"}
    assert all(f"(on_policy/{plot})" in text for plot in plots)


def test_steps_to_the_best_student_are_measured_by_the_teachers_beam_in_fp32(
    tmp_path: Path,
) -> None:
    store = tmp_path / "on_policy.parquet"
    rows = []
    for method, compute_type, speed, bleu in (
        ("teacher", "float32", 10.0, 24.0),
        ("teacher", "int8", 20.0, 23.9),
        ("seq_kd", "float32", 100.0, 22.0),
        ("seq_kd", "int8", 250.0, 21.9),
    ):
        row = {"task": page.BEST, "experiment": page.BEST, "method": method, "seed": 1}
        row |= {"name": f"{method}/{compute_type}", "compute_type": compute_type, "bytes": 1e6}
        for mode, factor in (("greedy", 2.0), ("beam", 1.0)):
            row |= {f"words_per_second_{mode}": factor * speed, f"bleu_{mode}": bleu}
            row |= {f"bleu_{mode}_over_teacher": bleu - 24.0}
        rows.append({**row, "parameters": 9})
    add_rows(store, rows)
    steps = page.steps_of(page.read(store))
    fastest = max(steps, key=lambda step: step.speed)
    assert (fastest.speed, fastest.row["compute_type"], fastest.mode) == (50.0, "int8", "greedy")
    page.write_page(store)
    assert (tmp_path / "on_policy" / "quality.svg").is_file()
    assert "| int8 | greedy | 21.9 | −2.1 | 50× |" in store.with_suffix(".md").read_text("utf-8")


def test_followers_are_judged_by_their_margin_and_are_those_of_the_sweeps(tmp_path: Path) -> None:
    sweeps = {
        shown.title: read_sweep(Path(routes.__file__).with_name(f"{shown.name}.yaml"))
        for shown in followers.SHOWN
    }
    compared = {name for sweep in sweeps.values() for name in sweep.systems}
    assert compared == followers.METHOD_NAMES.keys() - {"teacher"}
    for claim in read_claims(Path(followers.__file__).with_name("claims.yaml")):
        named = {figure[role] for figure in claim.figures for role in ("system", "base")}
        assert claim.tasks is not None and all(
            named <= {*sweeps[task].methods} for task in claim.tasks
        )
    store = tmp_path / "followers.parquet"
    scores = {
        "start": (60, 61),
        "all_tokens": (90, 91),
        "tip_half": (89, 90.1),
        "tip_fifth": (80, 81),
    }
    rows = [row for name, found in scores.items() for row in made_up("followers", name, "", *found)]
    add_rows(store, rows, {"followers": {"dev": 3, "test": 9}})
    followers.write_page(store)
    lines = store.with_suffix(".md").read_text("utf-8").splitlines()
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in lines
        if line.startswith("| ")
    }
    assert [verdicts[number] for number in "124"] == ["holds", "does not hold", "not measured"]


def test_cells_whose_rows_are_kept_do_not_run_again_on_another_machine(tmp_path: Path) -> None:
    for part in (tiny_model("marian"), character_tokenizer()):
        part.save_pretrained(tmp_path / "model")
    splits = ("train", "dev", "test")
    settings: dict[str, Any] = {
        "data": {split: str(save_pairs(tmp_path / f"{split}.tsv", 4, seed=1)) for split in splits},
        "student.model": str(tmp_path / "model"),
        "training.eval_metric": "chrf",
    }
    sweep = {
        "output_dir": str(tmp_path / "runs"),
        "settings": settings,
        "methods": ["baseline"],
        "choose": {"training.learning_rate": [0.1, 0.2]},
        "seeds": [1, 2],
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep), "utf-8")
    regime = run.Regime("made_up", lambda *_: None, lambda _: {}, tmp_path / "kept.parquet")
    regime.__dict__["sweep"] = read_sweep(tmp_path / "sweep.yaml")
    cells = planned_cells(regime.sweep)
    kept = []
    for name, cell in cells.items():
        rate, seed = cell.facts["training.learning_rate"], cell.facts["seed"]
        row = {"task": "made_up", "cell": cell.key, "name": name, "method": "one", "seed": seed}
        if seed == 1:
            kept.append({**row, "experiment": "rate", "name": f"rate/{name}", "dev": 100 * rate})
        if (rate, seed) == (0.2, 1):
            scores = {"chrf_greedy": 5.0, "chrf_greedy_low": 4.0, "chrf_greedy_high": 6.0}
            of_run = {"steps": 3, "seconds": 1.0, "parameters": 9}
            kept.append({**row, "experiment": "main", **of_run, **scores})
    add_rows(regime.results, kept)
    run.restore(regime, cells)
    (left,) = pending_cells(regime.sweep, cells)
    assert (left.facts["training.learning_rate"], left.facts["seed"]) == (0.2, 2)
    run.keep(regime, {"dev": 1, "test": 1})
    assert {row["name"] for row in read_rows(regime.results)} == {row["name"] for row in kept}
