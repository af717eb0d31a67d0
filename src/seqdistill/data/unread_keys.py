"""What a chat template leaves out: keys of turns, and tools, that it does not render."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import DataError
from seqdistill.data.conversations import ChatSettings, turns_of, whole_text
from seqdistill.data.examples import Example

_LOG = logging.getLogger(__name__)
_NUM_TRIED = 20
"""Examples with a key that are rendered without it, to see whether the template reads it."""
_SILENT = frozenset({"name", "tool_call_id", "id", "weight", "timestamp"})
"""Keys of turns whose loss does not change what was said."""


def check_options(tokenizer: PreTrainedTokenizerBase, settings: ChatSettings) -> None:
    """Warns of template options that the chat template does not name."""
    for name in settings.template_options:
        if name not in str(tokenizer.chat_template):
            _LOG.warning("the chat template does not read the template option %r", name)


def check_read(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, settings: ChatSettings
) -> None:
    """Raises DataError for keys of turns, or tools, that the chat template does not render.

    Said without them, a conversation means something else. A key counts as read when leaving it
    out changes the text of one of the first examples that have it.
    """
    with_key: dict[str, list[Example]] = {}
    for example in examples:
        keys = {"tools"} if example.tools else set[str]()
        for key in keys.union(*(json.loads(turn.more or "{}") for turn in turns_of(example))):
            if len(found := with_key.setdefault(key, [])) < _NUM_TRIED:
                found.append(example)
    for key, having in with_key.items():
        if any(_reads(key, example, tokenizer, settings) for example in having):
            continue
        if key in _SILENT:
            _LOG.info("the chat template does not render the key %r of turns", key)
            continue
        what = "the column" if key == "tools" else "turns with the key"
        raise DataError(
            f"The model's chat template must render {what} {key!r}, but leaves it out (example "
            f"{having[0].id!r}); use a model whose template knows it, or set data.ignore_columns="
            f"[{key}] to learn without it."
        )


def _reads(
    key: str, example: Example, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings
) -> bool:
    def dropped(more: str) -> str:
        return json.dumps({k: v for k, v in json.loads(more or "{}").items() if k != key})

    without = dataclasses.replace(
        example,
        messages=tuple(turn._replace(more=dropped(turn.more)) for turn in example.messages or ()),
        answer_more=dropped(example.answer_more),
        tools="" if key == "tools" else example.tools,
    )
    shown = whole_text(example, tokenizer, settings)
    try:
        return shown != whole_text(without, tokenizer, settings)
    except DataError:
        return True  # it cannot do without
