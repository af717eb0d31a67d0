"""How a command ends when it cannot go on: a sentence and a code, or a traceback for our defects.

0 done, 1 a defect of ours, 2 something the user can fix, 130 interrupted. Every command of the
program runs inside `ExplainingGroup`; none catches these errors itself.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from seqdistill.core.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130
_RESUMABLE = ("demo", "train")
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
            return super().invoke(ctx)
        except UserError as error:
            _complain(str(error))
            raise typer.Exit(USER_ERROR) from error
        except PermissionError as error:
            if error.filename is None:
                raise
            _complain(
                f"the command needs access to {error.filename!r}, but the system refuses it "
                f"({error.strerror}); change its permissions or name another place"
            )
            raise typer.Exit(USER_ERROR) from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            hint = ", and continue with --resume" if ctx.invoked_subcommand in _RESUMABLE else ""
            _complain(f"Disk full: {_place(error)} is full ({error.strerror}); free some{hint}")
            raise typer.Exit(USER_ERROR) from error
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            _complain(
                f"Out of memory: a batch does not fit ({_first_line(error)}); lower "
                "training.batch_tokens (training.accumulation makes up for it), "
                "sequences.rollouts.samples_per_prompt or sequences.decoding.batch_tokens, in a "
                "new output_dir"
            )
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            hint = "; continue with --resume" if ctx.invoked_subcommand in _RESUMABLE else ""
            typer.echo(f"interrupted{hint}", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _place(error: OSError) -> str:
    return "the disk" if error.filename is None else f"the disk of {error.filename!r}"


def _out_of_memory(error: BaseException) -> bool:
    """Whether it says so: by its type, on GPUs and in Python, or in torch's words, on CPUs."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _complain(message: str) -> None:
    # Not wrapped by us: a terminal wraps by itself, and a path must survive copying.
    typer.echo(f"{typer.style('error:', fg=typer.colors.RED, bold=True)} {message}", err=True)
