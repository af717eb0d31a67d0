"""Which tokens of a multilingual tokenizer name a language."""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

_LANGUAGE = re.compile(r"__[a-z]{2,3}__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
"""Source: the codes of M2M-100 (`__de__`), mBART (`de_DE`, `en_XX`) and NLLB (`deu_Latn`)."""


def language_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The id of each language code: those that the tokenizer lists (PLBart's `__java__`, too), else
    its special tokens that are spelled as one. A user's own special tokens are none."""
    codes: Mapping[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if codes is None:
        added = tokenizer.added_tokens_decoder.items()
        codes = {str(t): i for i, t in added if t.special and _LANGUAGE.fullmatch(str(t))}
    return {code: int(i) for code, i in codes.items() if i != tokenizer.unk_token_id}
