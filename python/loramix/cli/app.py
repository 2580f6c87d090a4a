"""The program: commands, exit codes, and one line for everything that can go wrong.

0: done.  1: refused, failed or interrupted; nothing was written; or not the same bytes again.
2: not a sensible command.  ``diff`` says with 1 that there is a difference, and with 2 whatever
keeps it from saying so.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, TextIO, cast

import typer

from loramix import __version__
from loramix.cli import (
    baking,
    composing,
    console,
    converting,
    looking,
    merging,
    reproducing,
    shared,
    showing,
    tools,
)
from loramix.errors import LoramixError, ParamError

_INTERRUPTED = 130
# Typer uses click or carries a copy of it: this is UsageError of either.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    merging.merge,
    merging.plan,
    merging.resize,
    baking.bake,
    baking.extract,
    composing.compose,
    converting.convert,
    looking.inspect,
    reproducing.reproduce,
    looking.analyze,
    looking.compat,
    looking.methods,
    tools.diff,
    tools.doctor,
    showing.demo,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Merge LoRA adapters, exactly and fast."""
    if version:
        typer.echo(f"loramix {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run the program.

    Parameters
    ----------
    args : without the program's name; default: those of the process.

    Returns
    -------
    The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        _never_fail(stream)
    return _piped(lambda: _guarded(args))


def _guarded(args: Sequence[str] | None) -> int:
    arguments = None if args is None else list(args)
    try:
        code = app(args=arguments, prog_name="loramix", standalone_mode=False)
    except _UsageError as error:
        message = error.format_message().removesuffix(".")
        command = error.ctx.command_path if error.ctx else "loramix"
        console.complain(f"error: {message[:1].lower()}{message[1:]}; see {command} --help")
        return 2
    except ParamError as error:
        console.complain(f"error: {error}")
        return 2
    except BrokenPipeError:
        raise
    except (LoramixError, OSError) as error:
        console.complain(f"error: {shared.explain(error)}")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        console.complain("interrupted; nothing was written")
        return 1
    return int(code or 0)


def _piped(run: Callable[[], int]) -> int:
    """Exit quietly when the reader of our output has gone, as ``| head`` does."""
    try:
        code = run()
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _never_fail(stream: TextIO) -> None:
    """Write a name that the terminal's encoding lacks with replacements, not with a traceback."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
