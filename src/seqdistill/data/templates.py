"""Renders a model's chat template: a stranger's program, under a limit of time and size.

transformers runs it in jinja's sandbox. What the sandbox does not bound is bounded here, and
whatever a template raises is told in one sentence. Knows no tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from seqdistill.core.errors import ModelError

MAX_SECONDS = 5.0
"""A conversation takes a thousandth of a second."""
MAX_CHARACTERS = 20_000_000
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
    takes a second rendering, where `finds_generated` asks for it. The limit of time
    holds in the main thread, which alone can be interrupted. Raises TemplateFailure for whatever
    the template raises, and ModelError when it goes beyond a limit.
    """
    conversation, given = [dict(turn) for turn in turns], [dict(tool) for tool in tools or ()]
    arguments = {"tools": given or None, "add_generation_prompt": opens_answer, **options}
    try:
        with _time_limit():
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
    except _TooLongError:
        raise ModelError(
            f"The model's chat template must render a conversation within {MAX_SECONDS:g} seconds, "
            "but it was still running; use a model with another chat template."
        ) from None
    except TemplateError as error:
        raise TemplateFailure(f"refuses them: {error}; fix its roles") from error
    # Broad because the template is a program: it may divide by zero, recurse, fill the memory.
    except Exception as error:
        raise TemplateFailure(
            f"fails on them with {type(error).__name__}: {error}; fix the messages, or use a "
            "model with another chat template"
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise ModelError(
            f"The model's chat template must render a conversation in {MAX_CHARACTERS:,} "
            f"characters, but wrote {len(text):,}; use a model with another chat template."
        )
    return Rendered(text, generated)


class _TooLongError(BaseException):
    """No Exception, so that nothing on the way takes it for a fault of its own."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooLongError

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
