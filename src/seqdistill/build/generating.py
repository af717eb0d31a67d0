"""The command `generate`: texts and conversations through a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from seqdistill.build.data import encode_for
from seqdistill.build.decoding import build_generator
from seqdistill.build.models import model_folder
from seqdistill.compression.sparse_files import load_stored_pair
from seqdistill.core.errors import UserError
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import ChatSettings
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample, with_stand_in_targets
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples
from seqdistill.generation.decoding import Decoding
from seqdistill.models.languages import with_languages


def read_rows(path: str, *, ignore_columns: Sequence[str] = ()) -> list[Example]:
    """The rows of a file as training reads them, without their answers.

    Raises DataError for a file that cannot be read so.
    """
    examples = read_examples(path, need_target=False, ignore_columns=ignore_columns)
    return [Example(e.id, e.source, None, e.messages, tools=e.tools) for e in examples]


def is_rows(path: str) -> bool:
    """Whether the name is that of a file of rows, and not of lines."""
    return Path(path).name.endswith((".jsonl", ".jsonl.gz", ".parquet"))


def generate_texts(
    model: str,
    prompts: Sequence[str | Example],
    *,
    raw: bool = False,
    template_options: Mapping[str, object] | None = None,
    engine: str = "ctranslate2",
    compute_type: str = "float32",
    beam_size: int = 5,
    max_new_tokens: int = 128,
    threads: int | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress,
) -> list[str]:
    """The model's best output for each prompt, in order; an empty text gives an empty one.

    `model` is a transformers folder, stored sparse or not, a hub name, or `bundled:en-de`. The
    languages are for multilingual models whose folder does not say them. A text is said by the
    user in the model's chat template, where it has one and `raw` is not set; rows (see `read_rows`)
    are as training reads them. Raises UserError for options that no template reads.
    """
    pair = with_languages(
        load_stored_pair(model_folder(model), trust_remote_code=trust_remote_code),
        source_language,
        target_language,
        keys=("--source-language", "--target-language"),
    )
    templated = pair.kind == "causal" and pair.tokenizer.chat_template is not None and not raw
    wanted = {
        place: _example(place, prompt, templated=templated)
        for place, prompt in enumerate(prompts)
        if isinstance(prompt, Example) or prompt.strip()
    }
    _check_options(template_options or {}, pair.tokenizer, raw=raw)
    outputs = [""] * len(prompts)
    if not wanted:
        return outputs
    encoded = encode_for(pair, list(wanted.values()), ChatSettings(template_options or {}))
    probes = with_stand_in_targets(encoded[:8])
    verify_on = [
        EncodedExample(probe.id, probe.source_ids[:64], probe.target_ids[:64]) for probe in probes
    ]
    generator = build_generator(
        pair,
        engine=engine,
        engine_key="--engine",
        compute_type=compute_type,
        threads=threads,
        verify_on=verify_on,
    )
    progress.start("generating", len(wanted))
    found = generator.generate(
        [example.prompt_ids for example in encoded],
        Decoding(beam_size=beam_size, max_new_tokens=max_new_tokens),
        on_progress=progress.advance,
    )
    progress.finish()
    ids = [hypotheses[0].token_ids if hypotheses else () for hypotheses in found]
    for place, text in zip(wanted, TextDecoder(pair.tokenizer).texts(ids), strict=True):
        outputs[place] = text.strip()
    return outputs


def _example(place: int, prompt: str | Example, *, templated: bool) -> Example:
    if isinstance(prompt, Example):
        return prompt
    if templated:
        return Example(str(place), "", None, (Turn("user", prompt),))
    return Example(str(place), prompt, None)


def _check_options(
    options: Mapping[str, object], tokenizer: PreTrainedTokenizerBase, *, raw: bool
) -> None:
    if not options:
        return
    template = "" if raw else str(tokenizer.chat_template or "")
    for name in options:
        if name not in template:
            raise UserError(
                f"--template-option must name what the model's chat template reads, got {name!r}, "
                "but it is not in the template; leave it out"
            )
