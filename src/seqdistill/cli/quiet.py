"""What libraries may print on the terminal: our warnings, and little of theirs.

Works through the environment and `logging`, so that it imports none of them; it has to run before
they are imported. What the user set in the environment stays.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings

from seqdistill.cli.screen import is_main_rank

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # else a warning at every fork of a data loader
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # Also transformers' bar over the weights of every model that is loaded.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_CHATTY = ("accelerate", "datasets", "torch", "ctranslate2", "filelock", "fsspec")
_THEIR_WARNINGS = r"(torch|transformers|accelerate|datasets|huggingface_hub|tensorboard)(\.|$)"


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is now: progress bars redirect it while they are on screen.

    A warning is shown once: stages and systems that share data or a model repeat it, and so do the
    processes of a group, of which the first speaks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if record.levelno == logging.WARNING:
            if line in self.shown or not is_main_rank():
                return
            self.shown.add(line)
        print(line, file=sys.stderr, flush=True)


def tame_libraries(*, verbose: bool) -> None:
    """Logs warnings, or everything from INFO on when `verbose`, as plain lines on stderr."""
    if not verbose:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore", module=_THEIR_WARNINGS)
        if (hub := sys.modules.get("huggingface_hub.utils")) is not None:
            hub.disable_progress_bars()  # imported with the recipe: it has read the environment
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]
    for handler in ours:
        handler.shown.clear()  # another command of this process
    if not ours:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("seqdistill").setLevel(logging.INFO if verbose else logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING if verbose else logging.ERROR)


def make_streams_safe() -> None:
    """No text can fail to be printed: UTF-8 into pipes and files, '?' where a terminal lacks it."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8", errors="replace")
