"""LibreOffice help pages: paragraphs and headings that carry the same id in both languages.

Only elements with an id are read, so the few notes without one are left out.
"""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from corpora.en_de.sentences import GAP, Pair, align_unit, word_set

VOID = word_set("area base br col embed hr img input link meta source track wbr")
CODE_CLASSES = word_set("code codeintable smathcode image imageintable")
HELP = Path("usr/share/libreoffice/help")


class ParagraphParser(HTMLParser):
    """Collects (id, text) of every element whose id starts with par_ or hd_."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[tuple[str, str]] = []
        self._open: list[tuple[str, bool]] = []
        self._identifier = ""
        self._depth = 0
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        classes = set((values.get("class") or "").split())
        identifier = values.get("id") or ""
        if tag == "br":
            self._text.append(" ")
        if tag in VOID:
            return
        # The help hides the variants of a text until a script chooses one. The one for the Mac
        # is left out; those of single applications cannot be put together.
        if values.get("hidden") == "true" and classes - {"MAC"}:
            self._text.append(GAP)
        hidden = "MAC" in classes or tag in ("script", "style", "pre")
        hidden = hidden or bool(self._open and self._open[-1][1])
        self._open.append((tag, hidden))
        if not self._identifier and identifier.startswith(("par_", "hd_")):
            if tag == "pre" or classes & CODE_CLASSES:
                return
            self._identifier, self._depth, self._text = identifier, len(self._open), []

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or tag not in [name for name, _ in self._open]:
            return
        while self._open:
            name, _ = self._open.pop()
            if self._identifier and len(self._open) < self._depth:
                self.paragraphs.append((self._identifier, "".join(self._text)))
                self._identifier = ""
            if name == tag:
                break

    def handle_data(self, data: str) -> None:
        if self._identifier and not (self._open and self._open[-1][1]):
            self._text.append(data)


def read_paragraphs(html: str) -> list[tuple[str, str]]:
    """(id, text) of the paragraphs of one page, in page order."""
    parser = ParagraphParser()
    parser.feed(html)
    parser.close()
    return parser.paragraphs


def align_pages(english: str, german: str) -> Iterator[tuple[str, str]]:
    """Sentence pairs of two pages: ids that occur equally often on both, in order."""
    targets: dict[str, list[str]] = {}
    for identifier, text in read_paragraphs(german):
        targets.setdefault(identifier, []).append(text)
    sources = read_paragraphs(english)
    counts: dict[str, int] = {}
    for identifier, _ in sources:
        counts[identifier] = counts.get(identifier, 0) + 1
    position: dict[str, int] = {}
    for identifier, text in sources:
        found = targets.get(identifier, [])
        if len(found) == counts[identifier]:
            index = position.get(identifier, 0)
            position[identifier] = index + 1
            yield from align_unit(text, found[index])


def extract(english_root: Path, german_root: Path) -> Iterator[Pair]:
    """Pairs of all help pages that both languages have; the document is the help file."""
    english_text = english_root / HELP / "en-US" / "text"
    german_text = german_root / HELP / "de" / "text"
    for page in sorted(english_text.rglob("*.html")):
        relative = page.relative_to(english_text)
        if not (german_text / relative).is_file():
            continue
        document = "lohelp/" + relative.with_suffix("").as_posix()
        english, german = page.read_text("utf-8"), (german_text / relative).read_text("utf-8")
        for number, (source, target) in enumerate(align_pages(english, german), start=1):
            yield Pair(source, target, "lohelp", document, number)
