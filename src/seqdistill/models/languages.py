"""Which languages a multilingual encoder-decoder reads and writes, in the codes of its tokenizer.

M2M100, NLLB, mBART and their kin put the source's code beside the source, and the target's at the
beginning of what the decoder reads. Tokenizers without codes have nothing to be told.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from seqdistill.core.errors import RecipeError
from seqdistill.core.language_codes import language_codes
from seqdistill.models.adapters import decoder_prefix_ids, decoder_start_id
from seqdistill.models.loading import LoadedModel

_LOG = logging.getLogger(__name__)
_NUM_SHOWN = 5


def language_code(wanted: str, codes: Mapping[str, int], *, key: str) -> str:
    """The code that `wanted` means: itself, or else the only one of its language.

    `en` means `en_XX` and `__en__`, but neither `eng_Latn` nor one of two scripts. `key` is the
    setting in the message of the RecipeError for what means none, or several.
    """
    if wanted in codes:
        return wanted
    variants = [code for code in codes if f"{code.strip('_')}_".startswith(f"{wanted}_")]
    if len(variants) == 1:
        return variants[0]
    alike = [code for code in codes if wanted and code.strip("_").startswith(wanted[:2].lower())]
    close = variants or alike or difflib.get_close_matches(wanted, list(codes), cutoff=0.3)
    shown = ", ".join(sorted(close or codes)[:_NUM_SHOWN])
    raise RecipeError(
        f"{key} must be one of the tokenizer's {len(codes)} language codes, such as {shown}, got "
        f"{wanted!r}; give the code. Where rows of the data name the language otherwise, a recipe "
        f"can give both, as {wanted or 'en'}:CODE"
    )


def with_languages(
    pair: LoadedModel,
    source: str | None,
    target: str | None,
    *,
    keys: tuple[str, str] = ("data.source_language", "data.target_language"),
) -> LoadedModel:
    """The same pair, which from now on reads `source` and writes `target`, also when it is saved.

    Given none, they stay what the folder says they are. Nothing happens to a tokenizer that has no
    language codes. A Whisper hears what it writes, and is told `target` alone. Raises RecipeError,
    naming the settings `keys`, for a code that the tokenizer does not have, and for languages that
    neither the caller nor the folder says.
    """
    if pair.extractor is not None:
        if source is not None:
            raise RecipeError(
                f"{keys[0]} must be left out for {pair.name}, which hears, got {source!r}; give "
                f"what is spoken as {keys[1]}"
            )
        return _heard_in(pair, target, keys[1])
    tokenizer = pair.tokenizer
    told = isinstance(getattr(type(tokenizer), "src_lang", None), property)
    codes = language_codes(tokenizer) if told and pair.kind == "seq2seq" else {}
    if not codes:
        return pair
    read = tokenizer.init_kwargs.get("src_lang") if source is None else source
    written = _written_language(pair, codes) if target is None else target
    for key, language in zip(keys, (read, written), strict=True):
        if language is None:
            raise RecipeError(
                f"{key} must be given for {pair.name}, which is multilingual: neither its "
                "generation_config.json (forced_bos_token_id) nor its tokenizer_config.json "
                f"(src_lang) say which languages are meant; set {keys[0]} and {keys[1]} to codes "
                f"such as {', '.join(sorted(codes)[:_NUM_SHOWN])}"
            )
    assert read is not None and written is not None
    tokenizer.src_lang = language_code(read, codes, key=keys[0])
    tokenizer.tgt_lang = language_code(written, codes, key=keys[1])
    tokenizer.init_kwargs |= {"src_lang": tokenizer.src_lang, "tgt_lang": tokenizer.tgt_lang}
    if target is not None:
        _begin_with(pair, codes[tokenizer.tgt_lang], codes)
    _LOG.info("%s reads %s and writes %s", pair.name, tokenizer.src_lang, tokenizer.tgt_lang)
    return pair


def _heard_in(pair: LoadedModel, wanted: str | None, key: str) -> LoadedModel:
    """The Whisper, which from now on transcribes that language; those of one language as is."""
    config = pair.model.generation_config
    known = {
        code.strip("<|>"): i for code, i in (getattr(config, "lang_to_id", None) or {}).items()
    }
    if not known:
        return pair
    wanted = wanted or getattr(config, "language", None)
    if wanted is None:
        raise RecipeError(
            f"{key} must be given for {pair.name}, which transcribes {len(known)} languages and "
            "whose generation_config.json names none of them; set it to a code such as "
            f"{', '.join(sorted(known)[:_NUM_SHOWN])}"
        )
    plain = wanted.strip("<|>").lower()
    code = language_code(TO_LANGUAGE_CODE.get(plain, plain), known, key=key)
    config.language, config.task = f"<|{code}|>", getattr(config, "task", None) or "transcribe"
    _LOG.info("%s hears %s (%s)", pair.name, code, config.task)
    return pair


def _written_language(pair: LoadedModel, codes: Mapping[str, int]) -> str | None:
    """The code that the model's decoder begins with, if it does begin with one."""
    begins = (*decoder_prefix_ids(pair.model), decoder_start_id(pair.model))
    return next((code for code, token_id in codes.items() if token_id in begins), None)


def _begin_with(pair: LoadedModel, code_id: int, codes: Mapping[str, int]) -> None:
    """Has the decoder begin with the code: after its start token, or, in mBART's way, as it.

    mBART's tokenizer closes targets with their code, and its decoders start from what closes them.
    """
    model, ids = pair.model, set(codes.values())
    start = decoder_start_id(model)
    if pair.tokenizer(text_target="a").input_ids[0] != code_id and (start is None or start in ids):
        model.config.decoder_start_token_id = code_id
        model.generation_config.decoder_start_token_id = code_id
        return
    model.generation_config.forced_bos_token_id = code_id
