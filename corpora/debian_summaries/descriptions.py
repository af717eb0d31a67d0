"""From an apt list to (document, summary): the long and the short description of each package.

Decides what is fit for the corpus and says why not; sameness is the business of duplicates.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from corpora.en_de.clean import MOJIBAKE
from corpora.en_de.ddtp import parse_description, read_stanzas
from corpora.en_de.sentences import split_sentences, tidy

MIN_DOCUMENT_WORDS, MAX_DOCUMENT_WORDS = 20, 300
MIN_SUMMARY_WORDS, MAX_SUMMARY_WORDS = 2, 16
ADDRESS = re.compile(r"://|\bwww\.|\S@\S|<[^>]*>")
SUMMARY_MARKUP = re.compile(r"://|\bwww\.|\S@\S|[<>{}\\`|~^]|%[A-Za-z0-9(]|\$[\w(]")
CLOSING = (".", "!", "?", ":", ";", ",", '"', ")", "”", "’")
EMPTY_PACKAGE = re.compile(r"\b(?:transitional|dummy|meta-?package|empty package)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Description:
    """The long and the short description of one binary package."""

    package: str
    source_package: str
    document: str
    summary: str

    @property
    def identifier(self) -> str:
        """A name that stays the same when filters or other packages change."""
        return f"debian/{self.package}"


def document_of(description: str) -> str:
    """The long description as running text.

    Verbatim lines (tables, commands) and sentences that hold an address or markup are left out.
    Items of lists follow each other like sentences; where they have no mark at their end, a
    semicolon parts them.
    """
    sentences = []
    for block in parse_description(description)[1:]:
        for kind, text in block:
            if kind != "verbatim":
                sentences += [s for s in split_sentences(tidy(text)) if not ADDRESS.search(s)]
    parted = [s if s.endswith(CLOSING) else s + ";" for s in sentences[:-1]]
    return " ".join([*parted, *sentences[-1:]])


def read_descriptions(english_list: str, sources: dict[str, str]) -> Iterator[Description]:
    """All descriptions of the list, in its order; `sources` has the source package of each."""
    for stanza in read_stanzas(english_list):
        if "Description-en" not in stanza or "Package" not in stanza:
            continue
        package, text = stanza["Package"], stanza["Description-en"]
        summary = tidy(text.split("\n", 1)[0])
        yield Description(package, sources.get(package, package), document_of(text), summary)


def reason_to_drop(description: Description) -> str | None:
    """The name of the first rule that the description breaks, None if it breaks none."""
    document, summary = description.document, description.summary
    if EMPTY_PACKAGE.search(summary) or EMPTY_PACKAGE.search(document):
        return "transitional, dummy or metapackage"
    if not MIN_SUMMARY_WORDS <= len(summary.split()) <= MAX_SUMMARY_WORDS:
        return "length of the summary"
    if not MIN_DOCUMENT_WORDS <= len(document.split()) <= MAX_DOCUMENT_WORDS:
        return "length of the document"
    if MOJIBAKE.search(document + summary):
        return "broken encoding"
    if SUMMARY_MARKUP.search(summary):
        return "markup in the summary"
    visible = [character for character in document if not character.isspace()]
    if sum(character.isalpha() for character in visible) < 0.7 * len(visible):
        return "mostly no words"
    return None


def clean(found: Iterator[Description]) -> tuple[list[Description], Counter[str]]:
    """The descriptions fit for use, and how many were not, by reason.

    A package that is there in several versions counts once, as listed first.
    """
    kept, removed = [], Counter[str]()
    seen: set[str] = set()
    for description in found:
        reason = reason_to_drop(description)
        if reason is None and description.package in seen:
            reason = "another version of a package"
        if reason is not None:
            removed[reason] += 1
            continue
        seen.add(description.package)
        kept.append(description)
    return kept, removed
