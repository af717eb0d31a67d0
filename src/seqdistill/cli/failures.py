"""How a command ends when it cannot go on: a sentence and a code, or a traceback for our defects.

0 done, 1 a defect of ours, 2 something the user can fix, 130 interrupted, 143 terminated. Every
command of the program runs inside `ExplainingGroup`; none catches these errors itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from seqdistill.core.errors import UserError, first_line, is_out_of_memory

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143
_RESUMABLE = ("demo", "train")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    f"os error {errno.ENOSPC})",
    f"os error {errno.EDQUOT})",
)
_OF_PROCESSES = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""What torch names the errors of processes that talk to each other; gloo's have no name."""
_REMEDIES = {
    **dict.fromkeys((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EROFS), "name another place"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk and the connection to it"),
    errno.ENAMETOOLONG: "shorten the name",
    **dict.fromkeys((errno.EFBIG, errno.EMFILE), "raise that limit (`ulimit -a`)"),
}


class ExplainingGroup(TyperGroup):
    """Commands whose user errors are sentences on stderr; without a command it prints its help.

    (The type of `ctx` is no public name of typer's.)
    """

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """The words of the command line, which no words at all turn into help."""
        if not args:
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, list(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _terminable(ctx):
                return super().invoke(ctx)
        except Exception as error:
            sentence = _sentence(error, resumable=ctx.invoked_subcommand in _RESUMABLE)
            if sentence is None:
                raise
            # Not wrapped by us: a terminal wraps by itself, and a path must survive copying.
            label = typer.style("error:", fg=typer.colors.RED, bold=True)
            typer.echo(f"{label} {sentence}", err=True)
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            hint = "; continue with --resume" if ctx.invoked_subcommand in _RESUMABLE else ""
            terminated = isinstance(error, _Terminated)
            typer.echo(f"{'terminated' if terminated else 'interrupted'}{hint}", err=True)
            raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as torchrun sends it to all others when one process of a training has died."""


@contextlib.contextmanager
def _terminable(ctx: Any) -> Iterator[None]:
    """While open, SIGTERM raises `_Terminated` where that can be resumed, and ends others at once,
    forked processes too, which would else wait for work of their own."""
    own = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != own or ctx.invoked_subcommand not in _RESUMABLE:
            os._exit(TERMINATED)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sentence(error: Exception, *, resumable: bool) -> str | None:
    """What the user can fix, the machine's faults before what was made of them; None for a defect
    of ours."""
    again = ", and continue with --resume" if resumable else ""
    if (full := _full(error)) is not None:
        name, reason = getattr(full, "filename", None), getattr(full, "strerror", None)
        place = "the disk" if name is None else f"the disk of {name!r}"
        return f"Disk full: {place} is full ({reason or first_line(full)}); free some{again}"
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return (
            f"Out of memory: a batch does not fit ({first_line(error)}); lower "
            "training.batch_tokens (training.gradient_accumulation_steps makes up for it), "
            "sequences.rollouts.samples_per_prompt or sequences.decoding.batch_tokens, in a "
            "new output_dir"
        )
    if type(error).__name__ in _OF_PROCESSES or "gloo/transport" in str(error):
        return (
            "All processes of a training must stay until it ends, but another one has stopped or "
            f"is out of reach ({first_line(error).partition('. ')[0]}); see what it said{again}"
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path must have no NUL character, but one of the recipe's has; name another place"
    if not isinstance(error, OSError) or error.filename is None:
        return None
    if isinstance(error, PermissionError):
        return (
            f"the command needs access to {error.filename!r}, but the system refuses it "
            f"({error.strerror}); change its permissions or name another place"
        )
    remedy = _REMEDIES.get(error.errno or 0)
    if isinstance(error, FileNotFoundError) and not os.path.isdir(os.path.dirname(error.filename)):
        remedy = "its folder was removed while the command ran: bring it back, or start again"
    if remedy is None:
        return None
    return f"the command must use {error.filename!r}, but found: {error.strerror}; {remedy}{again}"


def _full(error: BaseException) -> BaseException | None:
    """The error that reports a full disk, in any library's words; None if none does."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for seen in chain:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return seen
    others = (seen for seen in chain if not isinstance(seen, UserError))
    return next((seen for seen in others if any(w in str(seen) for w in _FULL_WORDS)), None)
