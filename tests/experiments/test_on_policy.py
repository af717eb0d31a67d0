"""The experiments on where on-policy distillation pays: the map of routes, and the page."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from experiments.on_policy import routes
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode

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
    found = routes.by_length(["", *ways[1:]], ways)
    assert found.pop("1_7") == 0.0 and set(found.values()) == {100.0} and "24_more" in found
