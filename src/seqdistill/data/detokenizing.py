"""Token ids -> the text that people read, scores compare and rewards see. The one owner of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.data.marks import marks


class TextDecoder:
    """Decodes with one tokenizer; leaves out the model's marks and keeps a user's own tokens.

    Marks are those of `data.marks`, beginnings, ends, padding and the unknown among them. Special
    tokens that a user has added, such as `<sep>`, are text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._marks = frozenset(marks(tokenizer).values())

    def texts(self, sequences: Iterable[Sequence[int]]) -> list[str]:
        """The text of each sequence, in order."""
        kept = [[int(i) for i in ids if int(i) not in self._marks] for ids in sequences]
        return [str(text) for text in self._tokenizer.batch_decode(kept)] if kept else []

    def text(self, ids: Sequence[int]) -> str:
        """The text of one sequence."""
        return self.texts([ids])[0]
