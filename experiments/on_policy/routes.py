"""Routes on one fixed city map: the squares of the shortest way from a start to a goal.

Errors can be repaired here: from any square there is a way on. Demonstrations never go wrong, so
they never show a repair; the teacher, which learned from wandering travellers too, is right from
any prefix. Recipes name this module in `plugins` for its metric. Knows nothing of training.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqdistill.plugins import metric, reward
from seqdistill.records import atomic

SIZE = 16
"""Squares along a side of the map."""
NUM_TEST, NUM_DEV = 1000, 500
NUM_TEACHER_ROWS = 200_000
LENGTHS = ((1, 7), (8, 15), (16, 23), (24, None))
"""Of the shortest ways, in steps, that success is told apart by."""
_LONGEST = 90
"""Squares after which a wanderer who has not arrived is given up."""
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ ' </s>' if loop.last else ' ' }}{% endgeneration %}"
    "{% else %}{{ message.content + ' ' }}{% endif %}"
    "{% endfor %}"
)
Pair = tuple[str, str]
"""Start and goal."""
Row = dict[str, list[dict[str, str]]]


@dataclasses.dataclass(frozen=True)
class City:
    """A map of squares named by row and column, `c3`, with walls between some neighbours."""

    neighbours: Mapping[str, tuple[str, ...]]
    """Of each square those that no wall keeps from it. All in the order of rows and columns."""

    @functools.cached_property
    def distances(self) -> Mapping[str, Mapping[str, int]]:
        """For each goal the steps of a shortest way to it from every square."""
        return {goal: self._distances_to(goal) for goal in self.neighbours}

    def _distances_to(self, goal: str) -> dict[str, int]:
        found, queue = {goal: 0}, collections.deque([goal])
        while queue:
            square = queue.popleft()
            for beside in self.neighbours[square]:
                if beside not in found:
                    found[beside] = found[square] + 1
                    queue.append(beside)
        return found

    def next_square(self, square: str, goal: str) -> str:
        """The neighbour nearest to the goal, the first of equals: one right step everywhere."""
        return min(self.neighbours[square], key=self.distances[goal].__getitem__)

    def way(self, start: str, goal: str) -> list[str]:
        """The squares of the shortest way that follows `next_square`, both ends included."""
        squares = [start]
        while squares[-1] != goal:
            squares.append(self.next_square(squares[-1], goal))
        return squares

    def arrives(self, output: str, reference: str) -> bool:
        """Whether the output leads from the reference's start to its goal, by whatever way.

        Every step must go to a neighbour.
        """
        squares, wanted = output.split(), reference.split()
        if not squares or (squares[0], squares[-1]) != (wanted[0], wanted[-1]):
            return False
        steps = itertools.pairwise(squares)
        return all(after in self.neighbours.get(before, ()) for before, after in steps)


@functools.lru_cache
def city(size: int = SIZE, *, open_share: float = 0.15, seed: int = 1) -> City:
    """A map of size x size squares, all connected: a random spanning tree (Prim's, whose branches
    are short) and a share of the other walls taken down."""
    draw = random.Random(seed)
    places = [(row, column) for row in range(size) for column in range(size)]

    def around(place: tuple[int, int]) -> list[tuple[int, int]]:
        near = [(place[0] + a, place[1] + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        return [at for at in near if min(at) >= 0 and max(at) < size]

    beside: dict[tuple[int, int], set[tuple[int, int]]] = {place: set() for place in places}
    seen = {(0, 0)}
    frontier = [((0, 0), near) for near in around((0, 0))]
    while frontier:
        old, new = frontier.pop(draw.randrange(len(frontier)))
        if new not in seen:
            seen.add(new)
            beside[old].add(new)
            beside[new].add(old)
            frontier += [(new, near) for near in around(new) if near not in seen]
    walls = [(a, b) for a in places for b in around(a) if a < b and b not in beside[a]]
    for a, b in draw.sample(walls, int(open_share * len(walls))):
        beside[a].add(b)
        beside[b].add(a)
    return City({_name(at): tuple(map(_name, sorted(near))) for at, near in beside.items()})


def _name(place: tuple[int, int]) -> str:
    return f"{chr(ord('a') + place[0])}{place[1]}"


def split_pairs(town: City, *, seed: int = 7) -> dict[str, list[Pair]]:
    """All pairs of two squares, each in one split, in random order: test and dev (each at most a
    fifth), then train."""
    pairs = list(itertools.permutations(town.neighbours, 2))
    random.Random(seed).shuffle(pairs)
    num_test, num_dev = (min(number, len(pairs) // 5) for number in (NUM_TEST, NUM_DEV))
    rest = pairs[num_test:]
    return {"test": pairs[:num_test], "dev": rest[:num_dev], "train": rest[num_dev:]}


def demonstration(town: City, start: str, goal: str) -> Row:
    """The question and the whole shortest way as the answer."""
    return _row(start, goal, [("assistant", town.way(start, goal))])


def wanderings(town: City, *, seed: int = 11) -> Iterator[Row]:
    """Rows without end for the teacher: ways that are left for a random stretch again and again.

    A stretch is a turn of the role `tool`, which no loss counts; what the assistant says is always
    the right step from where it is. How often a wanderer strays, and how often he lands anywhere
    instead of on a neighbour, is drawn for each row, so that unbroken ways are among them. Starts
    and goals are any: the teacher knows the whole map, pairs of the test set too.
    """
    draw = random.Random(seed)
    squares = list(town.neighbours)
    while True:
        at, goal = start, _ = draw.sample(squares, 2)
        strays = draw.choice([0.0, 0.05, 0.1, 0.2, 0.4])
        jumps = draw.choice([0.0, 0.0, 0.1, 0.3])
        turns, length = [("assistant", [start])], 1
        while at != goal and length < _LONGEST:
            if draw.random() < strays:
                for _ in range(draw.choice([1, 1, 2, 3, 5, 8])):
                    anywhere = draw.random() < jumps
                    at = draw.choice(squares if anywhere else town.neighbours[at])
                    if at == goal:
                        break
                    length += 1
                    _say(turns, "tool", at)
            if at != goal:
                at = town.next_square(at, goal)
            length += 1
            _say(turns, "assistant", at)
        if at == goal:
            yield _row(start, goal, turns)


def _say(turns: list[tuple[str, list[str]]], role: str, square: str) -> None:
    if turns[-1][0] != role:
        turns.append((role, []))
    turns[-1][1].append(square)


def _row(start: str, goal: str, turns: Iterable[tuple[str, Sequence[str]]]) -> Row:
    said = [{"role": role, "content": " ".join(squares)} for role, squares in turns]
    return {"messages": [{"role": "user", "content": f"{start} to {goal} :"}, *said]}


def tokenizer(town: City) -> PreTrainedTokenizerFast:
    """A token a square, with a chat template that puts the turns one after another."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "to", ":", *town.neighbours]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, chat_template=_TEMPLATE, **names)


def shape(width: int, layers: int) -> dict[str, Any]:
    """The transformers configuration of a student so wide and deep."""
    heads = max(1, width // 16)
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }


def write_data(folder: Path) -> None:
    """Writes demonstrations by split, the teacher's rows and the tokenizer, where they lack."""
    town = city(SIZE)
    if (folder / "teacher.jsonl").is_file():  # the last
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(town).save_pretrained(folder / "tokenizer")
    for split, pairs in split_pairs(town).items():
        write_chats(folder / f"{split}.jsonl", (demonstration(town, *pair) for pair in pairs))
    wandered = wanderings(town)
    write_chats(folder / "teacher.jsonl", (next(wandered) for _ in range(NUM_TEACHER_ROWS)))


def write_chats(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows of messages as JSONL."""
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@metric("reaches_goal")
def reaches_goal(outputs: Sequence[str], references: Sequence[str]) -> list[float]:
    """100 for an output that arrives, 0 for another; any length up to the limit of tokens will do.

    The map is that of `city()`.
    """
    return [100.0 * paid for paid in arrives(outputs, outputs, references)]


@reward("arrives")
def arrives(
    _prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]
) -> list[float]:
    """1 for an output that arrives, 0 for another."""
    pairs = zip(completions, references, strict=True)
    return [float(city(SIZE).arrives(completion, reference)) for completion, reference in pairs]


def by_length(outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`reaches_goal` of the outputs whose shortest way has so many steps: `1_7`, ..., `24_more`.

    Without lengths that no reference has.
    """
    found: dict[str, list[float]] = {}
    for value, reference in zip(reaches_goal(outputs, references), references, strict=True):
        steps = len(reference.split()) - 1
        low, high = next((a, b) for a, b in LENGTHS if steps >= a and (b is None or steps <= b))
        found.setdefault(f"{low}_{high or 'more'}", []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
