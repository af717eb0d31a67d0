"""The command `generate`: texts and conversations through a model folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from seqdistill.assembly.data import encode_for
from seqdistill.assembly.decoding import EngineChoice, build_generator
from seqdistill.assembly.models import model_folder
from seqdistill.core.errors import ModelError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import ChatSettings
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode
from seqdistill.evaluation.dev import best_of, texts_of
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.ctranslate2_model import is_converted
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.model_facts import check_lengths, check_output_length, pair_facts
from seqdistill.generation.speculative import SpeculativeGenerator
from seqdistill.jobs.drafts import check_drafted, speculative, tell_of_drafts
from seqdistill.models.languages import with_languages
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.placement import Dtype, Placement, device_of
from seqdistill.recipe.sections import Device
from seqdistill.recipe.sequences_schema import Decoding

_LOG = logging.getLogger(__name__)


def read_rows(path: str, *, ignore_columns: Sequence[str] = ()) -> list[Example]:
    """The rows of a file as training reads them, without their answers.

    Raises DataError for a file that cannot be read so.
    """
    return [*read_examples(path, targets="unread", ignore_columns=ignore_columns)]


def is_rows(path: str) -> bool:
    """Whether the name is that of a file of rows, and not of lines."""
    return Path(path).name.endswith((".jsonl", ".jsonl.gz", ".parquet"))


def generate_texts(
    model: str,
    prompts: Sequence[str | Example],
    *,
    raw: bool = False,
    template_options: Mapping[str, object] | None = None,
    engine: str = "auto",
    compute_type: str = "float32",
    beam_size: int | None = None,
    max_new_tokens: int = 128,
    sampling_temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    draft: str | None = None,
    draft_tokens: int | None = None,
    threads: int | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    source_language: str | None = None,
    target_language: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress,
) -> list[str]:
    """The model's best output for each prompt, in order; an empty text gives an empty one.

    `model` is a transformers folder, a hub name, `bundled:en-de`, or the
    CTranslate2 folder that `export` writes, which decodes as it is. The languages are
    for multilingual models whose folder does not say them. A text is said by the user in the
    model's chat template, where it has one and `raw` is not set; rows (see `read_rows`) are as
    training reads them.

    With a `sampling_temperature` outputs are samples, else found by a beam of `beam_size`: 5, or 1
    with a `draft`. That is a smaller model of the same tokenizer, which drafts `draft_tokens` at a
    time for the model to verify: see `generation.speculative`. None chooses the number from what
    drafts cost; `progress` is told what they brought.

    Raises UserError for options that no template reads, and ModelError where every output is empty.
    """
    placement = Placement(device_of(device, key="--device"), dtype)
    decoding = _decoding(
        beam_size, max_new_tokens, sampling_temperature, top_k, top_p, draft is not None
    )
    if draft is not None:
        check_drafted(model, draft, engine, compute_type)
    elif draft_tokens is not None:
        raise UserError("--draft-tokens is for a draft, but --draft is not given; name a model")
    stored = _stored_generator(
        model,
        engine=engine,
        compute_type=compute_type,
        threads=threads,
        device=placement.device,
    )
    languages = (source_language, target_language)
    if stored is not None and languages != (None, None):
        raise ModelError(
            "--source-language and --target-language must be left out for a CTranslate2 folder, "
            f"whose languages were set when it was exported, got {languages}"
        )

    def loaded(name: str) -> LoadedModel:
        return with_languages(
            load_pair(model_folder(name), trust_remote_code=trust_remote_code, placement=placement),
            *languages,
            keys=("--source-language", "--target-language"),
        )

    pair = stored or loaded(model)
    templated = pair.kind == "causal" and pair.tokenizer.chat_template is not None and not raw
    wanted: dict[int, Example] = {}
    for place, prompt in enumerate(prompts):
        if isinstance(prompt, Example):
            wanted[place] = prompt
        elif prompt.strip():
            text, turns = ("", (Turn("user", prompt),)) if templated else (prompt, None)
            wanted[place] = Example(str(place), text, None, turns)
    template = "" if raw else str(pair.tokenizer.chat_template or "")
    for name in template_options or ():
        if name not in template:
            raise UserError(
                f"--template-option must name what the model's chat template reads, got {name!r}, "
                "but it is not in the template; leave it out"
            )
    outputs = [""] * len(prompts)
    if not wanted:
        return outputs
    chat, examples = ChatSettings(template_options or {}), list(wanted.values())
    if isinstance(pair, CTranslate2Generator):
        encoded = encode(examples, pair.tokenizer, pair.kind, chat)
        generator: SequenceGenerator = pair
        _warn_of_lengths(pair, encoded, max_new_tokens)
    else:
        check_output_length(max_new_tokens, facts=pair_facts(pair), key="--max_new_tokens")
        encoded = encode_for(pair, examples, chat)
        sources = [example.prompt for example in encoded]
        check_lengths(sources, max_new_tokens=max_new_tokens, facts=pair_facts(pair))
        if draft is not None:
            if threads is not None:
                torch.set_num_threads(threads)
            generator = speculative(
                pair,
                loaded(draft),
                draft_tokens,
                sources=sources,
                decoding=decoding,
                progress=progress,
            )
        else:
            generator = build_generator(
                pair,
                EngineChoice(engine, "--engine", compute_type, threads),
                examples=with_placeholder_targets(encoded),
                max_new_tokens=max_new_tokens,
            )
    progress.start("generating", len(wanted))
    best = best_of(generator, encoded, decoding, progress.advance, seed=seed)
    found = texts_of(best, pair.tokenizer)
    progress.finish()
    if isinstance(generator, SpeculativeGenerator):
        tell_of_drafts(generator, sources, decoding, progress)
    for place, text in zip(wanted, found, strict=True):
        outputs[place] = text
    if not any(outputs):
        raise ModelError(
            f"The model must write something, but its outputs for all {len(wanted)} prompts are "
            f"empty; is {model!r} trained, and are these prompts such as it was trained on?"
        )
    return outputs


def _decoding(
    beam_size: int | None,
    max_new_tokens: int,
    temperature: float | None,
    top_k: int,
    top_p: float,
    drafted: bool,
) -> Decoding:
    """Samples where a temperature is given; raises UserError for what then has no meaning."""
    if temperature is None and (top_k, top_p) != (0, 1.0):
        raise UserError(
            "--top-k and --top-p are for samples, but outputs are searched for; give "
            "--sampling-temperature, too"
        )
    if temperature is None:
        beam_size = beam_size or (1 if drafted else 5)
        return Decoding(beam_size=beam_size, max_new_tokens=max_new_tokens)
    if beam_size is not None:
        raise UserError(
            "Outputs must be samples or found by a beam, got both --sampling-temperature and "
            "--beam-size; leave one of them out"
        )
    return Decoding(
        mode="sample",
        sampling_temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )


def _stored_generator(
    model: str, *, engine: str, compute_type: str, threads: int | None, device: torch.device
) -> CTranslate2Generator | None:
    """The decoder of a CTranslate2 folder; None for all other models."""
    folder = Path(model)
    if not is_converted(folder):
        return None
    if engine == "transformers":
        raise ModelError(
            f"--engine must be ctranslate2 for {model!r}, which is a CTranslate2 folder, got "
            "transformers; leave it out, or run the model that it was made of"
        )
    generator = CTranslate2Generator.open(folder, threads=threads, device=device)
    if compute_type not in ("float32", generator.stored_type):
        raise ModelError(
            f"--compute-type must be left out for {model!r}, which is stored in "
            f"{generator.stored_type}, got {compute_type}"
        )
    return generator


def _warn_of_lengths(
    generator: CTranslate2Generator, encoded: Sequence[EncodedExample], max_new_tokens: int
) -> None:
    """Says which inputs are longer than any that the copy was compared with its model on."""
    new = max_new_tokens if generator.kind == "causal" else 0
    beyond = sum(len(example.source_ids) + new > generator.longest for example in encoded)
    if beyond:
        _LOG.warning(
            "%d of %d texts may take more than the %d positions up to which this copy was compared "
            "with its model",
            beyond,
            len(encoded),
            generator.longest,
        )
