"""Renders a model's chat template: whatever it raises in jinja's sandbox is told in a sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from seqdistill.core.errors import ModelError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NO_OPTIONS: Mapping[str, object] = {}


class TemplateFailure(ModelError):
    """The template raised; the sentence says what, as the end of a longer one."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it.

    `generated` are the stretches of characters that the template itself marks as written by the
    assistant (`{% generation %}`); None where it has no such marks, or was not asked.
    """

    text: str
    generated: tuple[tuple[int, int], ...] | None


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, object]],
    *,
    opens_answer: bool,
    options: Mapping[str, object] = _NO_OPTIONS,
    tools: Sequence[Mapping[str, object]] | None = None,
    finds_generated: bool = False,
) -> Rendered:
    """The turns in the template of `tokenizer`; with `opens_answer` the assistant's turn is begun.

    The text is that of `apply_chat_template`, `options` its further arguments; what is `generated`
    takes a second rendering, where `finds_generated` asks for it. Raises TemplateFailure for
    whatever the template raises.
    """
    conversation, given = [dict(turn) for turn in turns], [dict(tool) for tool in tools or ()]
    arguments = {"tools": given or None, "add_generation_prompt": opens_answer, **options}
    try:
        text = str(tokenizer.apply_chat_template(conversation, tokenize=False, **arguments))
        generated = None
        template = tokenizer.get_chat_template(None, given or None) if finds_generated else ""
        if _GENERATION.search(template):
            _, [spans] = render_jinja_template(
                conversations=[conversation],
                chat_template=template,
                return_assistant_tokens_mask=True,
                **{**tokenizer.special_tokens_map, **arguments},
            )
            generated = tuple((int(start), int(stop)) for start, stop in spans)
    except TemplateError as error:
        raise TemplateFailure(f"refuses them: {error}; fix its roles") from error
    # Broad because the template is a program: it may divide by zero, recurse, fill the memory.
    except Exception as error:
        raise TemplateFailure(
            f"fails on them with {type(error).__name__}: {error}; fix the messages, or use a "
            "model with another chat template"
        ) from error
    return Rendered(text, generated)
