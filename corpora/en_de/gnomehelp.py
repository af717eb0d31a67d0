"""GNOME help pages (Mallard) and the Debian installation guide (HTML).

The leaf blocks of two pages are paired by position, and only if both pages have the same
sequence of blocks. References whose text is filled in by the viewer leave a gap; they are marked
with GAP so that the cleaning drops the sentence. DocBook manuals are not read.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from corpora.en_de.sentences import GAP, Pair, align_unit, word_set

BLOCKS = word_set("p title subtitle desc")
SKIPPED = word_set("credit license revision code screen comment media keywords")
HTML_BLOCKS = word_set("p h1 h2 h3 h4 h5 h6 dt li td th dd div")
HTML_TEXT = word_set("p h1 h2 h3 h4 h5 h6 dt")
HTML_VOID = word_set("area base br col embed hr img input link meta")
HEADING_NUMBER = re.compile(
    r"^(?:(?:Chapter|Kapitel|Appendix|Anhang)\s+\w+\.|[A-Z0-9]+(?:\.\d+)+\.)\s+"
)

Block = tuple[str, str]


def local_name(element: ElementTree.Element) -> str:
    """The tag without its name space; comments have an empty one."""
    return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""


def inline_text(element: ElementTree.Element) -> str:
    """The visible text of a leaf block."""
    name = local_name(element)
    if name == "media":
        return GAP
    if name == "link" and not "".join(element.itertext()).strip():
        return GAP
    parts = [element.text or ""]
    separator = {"keyseq": "+", "guiseq": " ▸ "}.get(name)
    for index, child in enumerate(element):
        if separator is not None:
            # Between the keys of a sequence there is nothing but white space.
            parts.append((separator if index else "") + inline_text(child))
        else:
            parts.append(inline_text(child) + (child.tail or ""))
    return "".join(parts) if separator is None else "".join(parts).strip()


def read_page(xml: str) -> list[Block]:
    """(tag, text) of the leaf blocks of a Mallard page, in document order."""
    blocks: list[Block] = []

    def walk(element: ElementTree.Element) -> None:
        name = local_name(element)
        if name in SKIPPED:
            return
        if name in BLOCKS:
            # Titles with a type are short forms for menus and sorting.
            if element.get("type") is None:
                blocks.append((name, inline_text(element)))
            return
        for child in element:
            walk(child)

    walk(ElementTree.fromstring(xml))
    return blocks


class GuideParser(HTMLParser):
    """Collects (tag, text) of the leaf blocks of one page of the installation guide."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._open: list[tuple[str, bool]] = []
        self._block = ""
        self._text: list[str] = []

    def _finish(self) -> None:
        if self._block in HTML_TEXT:
            text = " ".join("".join(self._text).split())
            self.blocks.append((self._block, HEADING_NUMBER.sub("", text)))
        self._block, self._text = "", []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HTML_VOID:
            return
        classes = dict(attrs).get("class") or ""
        skipped = tag in ("pre", "head", "script") or classes in ("navheader", "navfooter", "toc")
        skipped = skipped or bool(self._open and self._open[-1][1])
        self._open.append((tag, skipped))
        if tag in HTML_BLOCKS or tag == "pre":
            self._finish()
            self._block = "" if skipped else tag

    def handle_endtag(self, tag: str) -> None:
        if tag in HTML_VOID or tag not in [name for name, _ in self._open]:
            return
        if tag in HTML_BLOCKS:
            self._finish()
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._block and not (self._open and self._open[-1][1]):
            self._text.append(data)


def read_guide_page(html: str) -> list[Block]:
    """(tag, text) of the paragraphs, headings and terms of one page of the guide."""
    parser = GuideParser()
    parser.feed(html)
    parser.close()
    return parser.blocks


def align_blocks(english: list[Block], german: list[Block]) -> Iterator[tuple[str, str]]:
    """Sentence pairs of two pages, or nothing if their blocks differ in number or kind."""
    if [tag for tag, _ in english] != [tag for tag, _ in german]:
        return
    for (_, source), (_, target) in zip(english, german, strict=True):
        yield from align_unit(source, target)


def number_pairs(pairs: Iterator[tuple[str, str]], document: str) -> Iterator[Pair]:
    """The pairs of one document, counted from 1."""
    for number, (source, target) in enumerate(pairs, start=1):
        yield Pair(source, target, "gnomehelp", document, number)


def extract_help(root: Path) -> Iterator[Pair]:
    """Pairs of the Mallard pages of one unpacked package; the document is the page."""
    base = root / "usr/share/help"
    for page in sorted((base / "C").rglob("*.page")):
        relative = page.relative_to(base / "C")
        german_page = base / "de" / relative
        if not german_page.is_file():
            continue
        try:
            english = read_page(page.read_text("utf-8"))
            german = read_page(german_page.read_text("utf-8"))
        except ElementTree.ParseError as error:
            print(f"gnomehelp: left out {relative}, which is not well-formed XML: {error}")
            continue
        document = "gnomehelp/" + relative.with_suffix("").as_posix()
        yield from number_pairs(align_blocks(english, german), document)


def extract_guide(root: Path) -> Iterator[Pair]:
    """Pairs of the installation guide; the document is the HTML page."""
    base = root / "usr/share/doc/installation-guide-amd64"
    for page in sorted((base / "en").glob("*.html")):
        german_page = base / "de" / page.name
        if not german_page.is_file():
            continue
        english = read_guide_page(page.read_text("utf-8"))
        german = read_guide_page(german_page.read_text("utf-8"))
        document = f"gnomehelp/installation-guide/{page.stem}"
        yield from number_pairs(align_blocks(english, german), document)
