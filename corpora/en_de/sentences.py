"""Text units: white space, sentence boundaries and one-to-one pairing of two sides.

It knows nothing about files or formats, and it never reorders or merges sentences: where two
sides do not have the same number of plausible sentences, the unit stays in one piece.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass


def word_set(words: str) -> frozenset[str]:
    """The words of a white-space separated list."""
    return frozenset(words.split())


ABBREVIATIONS = word_set(
    """e.g i.e etc vs cf incl resp approx no fig ca al st dr mr mrs ms prof inc ltd co eds ed vol
    ver z.b d.h u.a u.ä o.ä usw bzw ggf evtl inkl exkl nr abb vgl sog bspw z.t i.d.r s.o s.u max
    min engl urspr allg einschl mind insb d.i v.a u.u z.zt usf uvm u.v.m ff std hrsg orig zzgl"""
)
BOUNDARY = re.compile(r"(?<=[.!?])([\"'”“»)\]]*)\s+(?=[\"'„“‚«»(\[]*[A-ZÄÖÜ0-9])")
# Stands for text that a viewer would fill in; clean.py drops sentences that hold it.
GAP = "\ufffc"
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


@dataclass(frozen=True)
class Pair:
    """One English unit and its German translation, with the document it was found in."""

    source: str
    target: str
    origin: str
    document: str
    number: int

    @property
    def identifier(self) -> str:
        """A name that stays the same when filters or other documents change."""
        return f"{self.document.replace('/', '-')}-{self.number:04d}"


def tidy(text: str) -> str:
    """The text in Unicode NFC, without invisible characters, on one line, single-spaced."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    text = " ".join(text.split())
    return re.sub(r"\s+([,.;:!?])(?=\s|$)", r"\1", text)


def split_sentences(text: str) -> list[str]:
    """The sentences of a tidy paragraph; abbreviations, initials and ordinals do not end one."""
    sentences = []
    start = 0
    for match in BOUNDARY.finditer(text):
        words = text[start : match.start()].rstrip(".").split()
        last = words[-1].lower().lstrip("(\"'„“[") if words else ""
        ends_with_dot = text[match.start() - 1] == "."
        if ends_with_dot and (
            last in ABBREVIATIONS or (len(last) == 1 and last.isalpha()) or last.isdigit()
        ):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def lengths_agree(source: str, target: str) -> bool:
    """Whether two sentences are close enough in characters to be translations of each other."""
    longer, shorter = max(len(source), len(target)), min(len(source), len(target))
    return longer <= 1.9 * shorter + 12


def align_unit(source: str, target: str) -> Iterator[tuple[str, str]]:
    """Sentence pairs of one aligned unit, or the unit itself if sentences cannot be matched."""
    source, target = tidy(source), tidy(target)
    sources, targets = split_sentences(source), split_sentences(target)
    pairs = list(zip(sources, targets, strict=False))
    if len(sources) == len(targets) and all(lengths_agree(*pair) for pair in pairs):
        yield from pairs
    elif source and target:
        yield source, target
