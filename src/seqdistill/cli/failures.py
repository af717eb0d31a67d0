"""How a command ends when it cannot go on: a sentence and a code, or a traceback for our defects.

0 done, 1 a defect of ours, 2 something the user can mend, 130 interrupted. Every command of the
program runs inside `ExplainingGroup`; none catches these errors itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from seqdistill.core.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130
_RESUMABLE = ("demo", "train")


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
        except KeyboardInterrupt as error:
            hint = "; continue with --resume" if ctx.invoked_subcommand in _RESUMABLE else ""
            typer.echo(f"interrupted{hint}", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _complain(message: str) -> None:
    # Not wrapped by us: a terminal wraps by itself, and a path must survive copying.
    typer.echo(f"{typer.style('error:', fg=typer.colors.RED, bold=True)} {message}", err=True)
