"""Decides whether a pair is fit for the corpus, and if not, why.

Each rule looks at one pair alone; duplicates are the business of duplicates.py.
"""

import re
from collections import Counter

from corpora.en_de.sentences import Pair, tidy, word_set

MIN_WORDS, MAX_WORDS = 2, 60
MARKUP = re.compile(
    r"<[^>]*>|[<>{}\ufffc\\`|~^]|%[A-Za-z0-9(]|\$[\w(]|&\w+;|\[\[|==|__|://|\bwww\."
    r"|\S@\S|\b[\w-]+\.(?:org|com|net|de|io)\b|(?:^|\s)/\w+/|\S+/\S+/\S+|\w+\(\)|#\w|@\w|\.trans\b|^="
)
MOJIBAKE = re.compile("[\u0080-\u009f\ufffd\ue000-\uf8ff]|Ã[\u0080-\u00bf]|â€|Ã¼|Ã¶|Ã¤")
LEADING_DEBRIS = re.compile(r"^(?:[*•·▸→–—+=_-]+\s+|\(?[0-9a-z]{1,2}[.)]\s+)+")
ENGLISH_WORDS = word_set(
    "the of and is to for with this that are from by be it you your can has have which"
)
GERMAN_WORDS = word_set(
    """der die das und ist zu für mit dies diese dieser dieses dass sind von durch sie ihr ihre
    kann können hat haben welche ein eine einen einer eines im den dem des auf als nicht
    wird werden oder zum zur bei wie auch aus nach"""
)
DANGLING = word_set(
    """the a an of and or to for with from by which that der die das den dem und oder für mit
    von ein eine einen durch zu dass"""
)


def words_of(text: str) -> list[str]:
    """The lower-case words of a sentence, without punctuation and numbers."""
    return re.findall(r"[^\W\d_]+", text.lower())


def strip_debris(text: str) -> str:
    """The tidy text without bullets and item numbers in front."""
    return LEADING_DEBRIS.sub("", tidy(text)).strip()


def numbers_of(text: str) -> Counter[str]:
    """The numbers of two or more digits, without thousands and decimal marks."""
    joined = re.sub(r"(?<=\d)[.,\u202f\u00a0 ](?=\d{3}\b)", "", text)
    return Counter(number for number in re.findall(r"\d+", joined) if len(number) > 1)


def is_fragment(text: str) -> bool:
    """Whether the text is a piece of a sentence or mostly not words."""
    if not text or text[0] in ",;:.)]}?!/&" or text[-1] in ",(/&[-–" or text.endswith(" +"):
        return True
    if text.count("(") != text.count(")") or text.count("[") != text.count("]"):
        return True
    if text.count('"') % 2 or text.count("„") != text.count("“") + text.count("”"):
        return True
    words = words_of(text)
    visible = [character for character in text if not character.isspace()]
    letters = sum(character.isalpha() for character in visible)
    return not words or words[-1] in DANGLING or letters < 0.6 * len(visible)


def is_untranslated(source: str, target: str) -> bool:
    """Whether the target is still English, or the source German."""
    source_words, target_words = words_of(source), words_of(target)
    english = sum(word in ENGLISH_WORDS for word in target_words)
    german = sum(word in GERMAN_WORDS for word in target_words)
    if english > german or (english >= 3 and english * 2 > german):
        return True
    if sum(word in GERMAN_WORDS for word in source_words) > max(
        1, sum(word in ENGLISH_WORDS for word in source_words)
    ):
        return True
    shared = sum((Counter(source_words) & Counter(target_words)).values())
    return len(source_words) >= 4 and shared > 0.7 * max(len(source_words), len(target_words))


def reason_to_drop(pair: Pair) -> str | None:
    """The name of the first rule that the pair breaks, None if it breaks none.

    Texts must already be without debris. The ratio of words must lie in 0.5..2, except that two
    words more or less are always allowed, since German writes compounds in one word.
    """
    source, target = pair.source, pair.target
    num_source, num_target = len(source.split()), len(target.split())
    if MOJIBAKE.search(source + target):
        return "broken encoding"
    if MARKUP.search(source) or MARKUP.search(target):
        return "markup or placeholder"
    if not (MIN_WORDS <= num_source <= MAX_WORDS and MIN_WORDS <= num_target <= MAX_WORDS):
        return "length"
    if source.casefold() == target.casefold():
        return "identical"
    longer, shorter = max(num_source, num_target), min(num_source, num_target)
    if longer > 2 * shorter and longer - shorter > 2:
        return "ratio"
    longer, shorter = max(len(source), len(target)), min(len(source), len(target))
    if longer > 2.2 * shorter + 15:
        return "ratio"
    if is_fragment(source) or is_fragment(target):
        return "fragment"
    if is_untranslated(source, target):
        return "untranslated"
    if numbers_of(source) != numbers_of(target):
        return "numbers differ"
    return None
