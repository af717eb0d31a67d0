"""From a recipe to what lies on servers: the teacher's scores and labels, the student's rollouts.

Nothing here is asked of a server before training, labelling or `doctor` begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from seqdistill.assembly.comparing import check_vocabularies
from seqdistill.assembly.data import as_teacher_reads, collator_for, without_references
from seqdistill.assembly.preparing import Prepared
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.generation.model_facts import pair_facts, writing_below
from seqdistill.generation.server import ServerClient
from seqdistill.generation.text_server import TextServerGenerator, request_ids
from seqdistill.generation.vllm_sampler import VllmSampler
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.vocabulary import num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.shards import Prompt, Prompts
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.on_server import ServerTeacher, sequences_of
from seqdistill.teachers.server_checks import (
    check_length,
    check_tokenizer,
    dialect_of,
    facts_of,
    self_test,
    served,
    whole_sequences,
)

TEACHER, ROLLOUTS = "teacher.server", "sequences.rollouts.server"
_NUM_TESTED = 8


def server_teacher(
    prepared: Prepared, examples: Sequence[EncodedExample], device: torch.device
) -> ServerTeacher:
    """The recipe's teacher behind its server, compared.

    Raises ServerError for whatever does not fit, and RecipeError for an encoder-decoder.
    """
    recipe, student, local = prepared.recipe, prepared.student, prepared.teacher
    if student.kind != "causal":
        raise RecipeError(
            "teacher.server must score for a decoder-only student, since servers score prompts and "
            "no targets of encoder-decoders, got an encoder-decoder; let the teacher label (method "
            "seq_kd with sequences.decoding.engine=server), or run it in this process"
        )
    size = student.model.get_output_embeddings().weight.shape[0]
    if local is not None:
        size = check_vocabularies(student, local)
    client = ServerClient(recipe.teacher.server, key=TEACHER)
    try:
        server = served(client)
        check_length(client, server, _longest(prepared, examples), "data.max_source_tokens")
        tested = with_placeholder_targets(EncodedDataset.of(examples)[:_NUM_TESTED])
        decoder = TextDecoder(student.tokenizer)
        check_tokenizer(
            client,
            server.model,
            student.tokenizer,
            decoder.texts((*e.source_ids, *e.target_ids) for e in tested),
            has_local=local is not None,
        )
        batch = whole_sequences(collator_for(student)(tested))
        top_k = min(recipe.teacher.top_k, size)
        first = sequences_of(batch)[0]
        teacher = ServerTeacher(
            client,
            model=server.model,
            dialect=dialect_of(client, server.model, first.ids, top_k),
            top_k=top_k,
            vocab_size=size,
            sparse_form=recipe.teacher.sparse_form or "bucket",
        )
        copy = None
        if local is not None:
            rows = local.model.get_output_embeddings().weight.shape[0]
            copy = InProcessTeacher(SequenceModel(local.model.to(device)), vocab_size=rows)
        teacher.differences = self_test(teacher, batch.to(device), local=copy)
        teacher.facts = facts_of(server, client, teacher.differences)
    except BaseException:
        client.close()
        raise
    return teacher


def _longest(prepared: Prepared, examples: Sequence[EncodedExample]) -> int:
    """Tokens of the longest sequence that may be scored."""
    lengths, sequences = EncodedDataset.of(examples).lengths, prepared.recipe.sequences
    longest = int((lengths.teacher_source + lengths.target).max(initial=0))
    if sequences.rolls_out:
        new = sequences.rollouts.max_new_tokens
        longest = max(longest, int(lengths.teacher_source.max(initial=0)) + new)
    return longest


def vllm_sampler(
    prepared: Prepared, examples: Sequence[EncodedExample], decoding: Decoding, vocab_size: int
) -> VllmSampler:
    """What writes the student's rollouts on the recipe's server.

    Raises RecipeError for an encoder-decoder, ServerError for a server that does not fit.
    """
    section, student = prepared.recipe.sequences.rollouts.server, prepared.student
    if student.kind != "causal":
        raise RecipeError(
            "sequences.rollouts.engine must not be vllm for an encoder-decoder, which vLLM does "
            "not run, got vllm; use ctranslate2 or transformers"
        )
    client = ServerClient(section, key=ROLLOUTS)
    server = served(client)
    longest = int(EncodedDataset.of(examples).lengths.source.max(initial=0))
    check_length(
        client,
        server,
        longest + decoding.max_new_tokens,
        "sequences.rollouts.max_new_tokens",
    )
    folder = section.weights_folder
    return VllmSampler(
        student.model,
        client,
        served=server.model,
        decoding=decoding,
        facts=writing_below(pair_facts(student), vocab_size),
        folder=None if folder is None else Path(folder),
    )


def label_requests(recipe: Recipe, examples: Sequence[Example]) -> Prompts:
    """What the teacher's server is asked: prompts alone, as the teacher reads them.

    Raises DataError for a recording, and for a conversation where texts alone are asked.
    """
    asked, api = as_teacher_reads(without_references(examples)), recipe.teacher.server.api

    def prompt(place: int) -> Prompt:
        example = asked[place]
        request = _request(example, api)
        text = example.source or json.dumps(request, ensure_ascii=False)
        return Prompt(example.id, request_ids(request), text)

    return Prompts(len(asked), prompt)


def _request(example: Example, api: str) -> dict[str, object]:
    if example.audio is not None:
        raise DataError(
            f"{TEACHER} must be asked texts, but {example.id!r} is a recording; label in this "
            "process"
        )
    if example.messages is None and api == "completions":
        return {"prompt": example.source}
    if api == "completions":
        raise DataError(
            f"{TEACHER}.api must be chat for conversations, got completions and {example.id!r} "
            f"of messages; set {TEACHER}.api=chat"
        )
    turns = example.messages or (Turn("user", example.source),)
    tools = {"tools": json.loads(example.tools)} if example.tools else {}
    return {"messages": [turn.as_dict() for turn in turns], **tools}


def label_server(recipe: Recipe) -> TextServerGenerator:
    """What asks the teacher's server for labels, once it is known to serve the model."""
    client = ServerClient(recipe.teacher.server, key=TEACHER)
    server = served(client)
    return TextServerGenerator(client, model=server.model, api=recipe.teacher.server.api)


def rollout_vocabulary(prepared: Prepared) -> int:
    """Ids of what the student writes lie below what the objective cuts both heads to."""
    return prepared.shared_symbols or num_known_ids(prepared.student.tokenizer)


def servers_said(prepared: Prepared) -> list[str]:
    """What the recipe's servers say when they are asked, a sentence each.

    Raises ServerError for what training would refuse. No weights are sent.
    """
    recipe, found = prepared.recipe, list[str]()
    if recipe.teacher.on_server and prepared.asks_teacher:
        teacher = server_teacher(prepared, prepared.train, prepared.student.model.device)
        teacher.close()
        apart = ", ".join(f"{nats:.2g} {what}" for what, nats in teacher.differences.items())
        found.append(
            f"{TEACHER}: {teacher.model} tells {teacher.top_k} symbols by {teacher.dialect}; its "
            f"answers differ by so many nats: {apart}"
        )
    if recipe.sequences.decoding.engine == "server" and recipe.sequences.decoded_by_teacher:
        found.append(f"{TEACHER}: {label_server(recipe).model} labels")
    if recipe.sequences.rollouts.engine == "vllm" and recipe.sequences.rolls_out:
        sampler = vllm_sampler(
            prepared,
            prepared.train,
            Decoding(max_new_tokens=recipe.sequences.rollouts.max_new_tokens),
            rollout_vocabulary(prepared),
        )
        found.append(f"{ROLLOUTS}: {sampler.served}")
    return found
