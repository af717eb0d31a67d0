"""What is wrong with a chain: in each of its stages, between them, and in settings that none reads.

Finds only; what a stage is made of is `stages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from seqdistill.recipe.checks import Contradiction, contradictions
from seqdistill.recipe.documents import dotted
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import (
    KEYS,
    OF_THE_CHAIN,
    given_keys,
    key_of,
    made_stage,
    settings_by_key,
)

_IDLE_DECODING = ("batch_tokens", "threads")
"""Settings of decoding that change no output."""


def chain_contradictions(recipe: Recipe) -> list[Contradiction]:
    """What is wrong with the list of stages, and in each of them; nothing when all can be trained.

    A key that a stage's preset or settings give is named as what mends it, `stages.1.settings.`
    and the key; any other as the recipe's own.
    """
    found: list[Contradiction] = []
    if recipe.compare:
        sentence = "must not stand beside compare, got both; remove one of the two"
        found.append(Contradiction("stages", sentence))
    made = [
        made_stage(recipe, index, None if index == 0 else "the student before", found)
        for index in range(len(recipe.stages))
    ]
    stages = {index: stage for index, stage in enumerate(made) if stage is not None}
    found.extend(_of_the_stages(recipe, stages))
    if len(stages) == len(recipe.stages):
        found.extend(_unread(recipe, stages))
        found.extend(_shared_corpus(stages))
        found.extend(states_findings(recipe, list(stages.values())))
    return list(dict.fromkeys(found))


def _of_the_stages(recipe: Recipe, stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """The contradictions of every stage, under the keys that mend them."""
    # Under the chain's name, so that name and output_dir are checked, too.
    each = {
        index: contradictions(stage.model_copy(update={"method": recipe.method}))
        for index, stage in stages.items()
    }
    for index, items in each.items():
        given = given_keys(recipe.stages[index])
        for item in items:
            if key_of(tuple(item.key.split("."))) in given:
                yield Contradiction(f"stages.{index}.settings.{item.key}", item.sentence)
            elif all(item in others for others in each.values()):
                yield item
            else:
                yield Contradiction(item.key, f"in stages.{index} {item.sentence}")


def _unread(recipe: Recipe, stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """Settings of the recipe that hold in no stage, since each that would read them has its own."""
    given = {index: given_keys(recipe.stages[index]) for index in stages}
    own, default = settings_by_key(recipe), settings_by_key(Recipe())
    for path in KEYS:
        if path[0] in OF_THE_CHAIN or own[dotted(path)] == default[dotted(path)]:
            continue
        readers = [
            index
            for index, stage in stages.items()
            if path[0] != "sequences" or _reads_sequences(stage, str(path[1]))
        ]
        overruling = [index for index in readers if path in given[index]]
        if overruling and overruling == readers:
            yield Contradiction(
                dotted(path),
                "must be left to the stages, since each that reads it brings its own, got a value "
                f"for all of them; write it as stages.{overruling[0]}.settings.{dotted(path)}",
            )
        elif overruling and path[0] == "pruning":
            # It would prune the first stage, and hardly anybody means that.
            yield Contradiction(
                dotted(path),
                f"must be left to the stages, since stages.{overruling[0]} brings its own, got a "
                "value for all of them; write it as "
                f"stages.{overruling[0]}.settings.{dotted(path)}",
            )


def _reads_sequences(stage: Recipe, name: str) -> bool:
    """Whether a stage reads that setting, or that part, of `sequences`."""
    sequences = stage.sequences
    if name in ("corpus", "decoding", "similarity"):
        return sequences.decoded_by_teacher
    if name == "rollouts":
        return sequences.can_roll_out
    if name == "mixture":
        return sequences.reads_mixture
    return sequences.origin == "replay" if name == "replay" else True


def _shared_corpus(stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """A folder of the teacher's outputs that two stages with other outputs would both use."""
    first_with: dict[str, int] = {}
    for index, stage in stages.items():
        corpus = stage.sequences.corpus
        if corpus is None or not stage.sequences.decoded_by_teacher:
            continue
        first = first_with.setdefault(corpus, index)
        decodings = [
            stages[i].sequences.decoding.model_dump(exclude=set(_IDLE_DECODING))
            for i in (first, index)
        ]
        if decodings[0] != decodings[1]:
            yield Contradiction(
                "sequences.corpus",
                f"must be another folder for each way of decoding, got {corpus!r} for stages."
                f"{first} and stages.{index}; remove it, or write it as stages.{index}.settings."
                "sequences.corpus",
            )


def states_findings(recipe: Recipe, systems: Sequence[Recipe]) -> Iterator[Contradiction]:
    """Kept states of the teacher that no system would read, or that two would overwrite.

    `systems` are the stages of the chain, or the compared ones.
    """
    readers = [system for system in systems if system.teacher.cache_hidden_states != "none"]
    if recipe.teacher.cache_hidden_states != "none" and not readers:
        yield Contradiction(
            "teacher.cache_hidden_states",
            "must be none where teacher.scores is none in every stage or compared preset, since "
            f"the states would not be read, got {recipe.teacher.cache_hidden_states}; remove it",
        )
    folders: dict[str, Recipe] = {}
    for reader in readers:
        folder = reader.teacher.states
        if folder is None:
            continue
        first = folders.setdefault(folder, reader)
        sections = [
            system.sequences.model_dump(exclude={"decoding": set(_IDLE_DECODING), "corpus": True})
            for system in (first, reader)
        ]
        if sections[0] != sections[1] or first.data != reader.data:
            yield Contradiction(
                "teacher.states",
                f"must be another folder for {first.method} and for {reader.method}, which read "
                f"other sequences, got {folder!r} for both; remove it, since folders are "
                "named by content",
            )
