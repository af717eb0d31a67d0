"""The command `generate`: texts through a model folder."""

from __future__ import annotations

from collections.abc import Sequence

from seqdistill.build.decoding import build_generator
from seqdistill.build.models import model_folder
from seqdistill.compression.sparse_files import load_stored_pair
from seqdistill.core.progress import Progress
from seqdistill.data.encoding import EncodedExample, encode, with_stand_in_targets
from seqdistill.data.examples import Example
from seqdistill.generation.decoding import Decoding


def generate_texts(
    model: str,
    lines: Sequence[str],
    *,
    engine: str = "ctranslate2",
    compute_type: str = "float32",
    beam_size: int = 5,
    max_new_tokens: int = 128,
    threads: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress,
) -> list[str]:
    """The model's best output for each text, in order; an empty text gives an empty one.

    `model` is a transformers folder, stored sparse or not, a hub name, or `bundled:en-de`.
    """
    pair = load_stored_pair(model_folder(model), trust_remote_code=trust_remote_code)
    wanted = [Example(str(i), line, None) for i, line in enumerate(lines) if line.strip()]
    outputs = [""] * len(lines)
    if not wanted:
        return outputs
    encoded = encode(wanted, pair.tokenizer, pair.kind)
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
        [example.source_ids for example in encoded],
        Decoding(beam_size=beam_size, max_new_tokens=max_new_tokens),
        on_progress=progress.advance,
    )
    progress.finish()
    ids = [hypotheses[0].token_ids if hypotheses else () for hypotheses in found]
    texts = pair.tokenizer.batch_decode(ids, skip_special_tokens=True)
    for example, text in zip(wanted, texts, strict=True):
        outputs[int(example.id)] = text.strip()
    return outputs
