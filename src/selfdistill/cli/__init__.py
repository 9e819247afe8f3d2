"""The command line. Heavy imports stay inside the commands, so that --help is instant."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from selfdistill.cli import analysis, doctor, methods, pipeline, publish
from selfdistill.cli.options import command

DEBUG = "SELFDISTILL_DEBUG"
"""The environment variable that shows tracebacks."""

LAUNCHED = ("train", "run")
"""Commands that many processes can share."""

ALONE = 30
"""Seconds after which a process that failed speaks up. What ends all of them is said by the first, and the launcher
then stops the others."""

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "All in one": (pipeline.demo, pipeline.run, analysis.study),
    "Make data": (doctor.doctor, pipeline.distill, pipeline.select),
    "Train": (methods.methods, pipeline.train),
    "Measure": (
        analysis.validate, pipeline.evaluate, analysis.compare, analysis.gate, analysis.shift, analysis.scale,
        analysis.report, analysis.show,
    ),
    "Share": (publish.merge, publish.push),
}  # fmt: skip
"""The commands as the help shows them."""


class Commands(TyperGroup):
    """What typer would say itself, wrong arguments in a box and Ctrl-C as an exit code, is an error like all others."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Without arguments, the help, before anything is loaded that reads them."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        from selfdistill.core.errors import UserError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise UserError("stopped. What is finished is on disk; the same command goes on from there.") from stop
        except typer.TyperException as error:
            raise UserError(_usage(error, ctx.invoked_subcommand)) from error
        except EOFError as error:  # typer would take it for the end of what a person types
            _unexpected(error)


app = typer.Typer(
    cls=Commands,
    help="Fine-tune a language model in its own words, and measure what it kept (SDFT, arXiv 2402.13669).",
    epilog="Errors are one line and exit code 2. SELFDISTILL_DEBUG=1 in the environment shows where they come from.",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"selfdistill {version('selfdistill')}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no notes; warnings and errors stay. Before the command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """See the app's help. Options of all commands are read where they are needed (`options.Terminal`)."""
    from selfdistill.core.errors import UserError
    from selfdistill.core.launch import process

    if process().count == 1:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each process would print the same warnings
    if context.invoked_subcommand not in LAUNCHED:
        raise UserError(
            f"{context.invoked_subcommand}: one process does this. A launcher is for {' and '.join(LAUNCHED)}."
        )


for panel, commands in GROUPS.items():
    for function in commands:
        text, mark, example = (inspect.getdoc(function) or "").partition("\n\nExample: ")
        app.command(rich_help_panel=panel, help=text, epilog=mark.strip() + f" {example}")(command(function))


def main() -> NoReturn:
    """Entry point: an error is one line and exit code 2, with a traceback before it only where DEBUG is set."""
    import warnings

    from selfdistill.core.errors import UserError

    warnings.simplefilter("ignore", FutureWarning)  # the libraries' notes to their callers, not to our users
    try:
        code = app(prog_name="selfdistill", standalone_mode=False)
    except UserError as error:
        _fail(str(error), error)
    except typer.TyperException as error:
        _fail(_usage(error), error)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
            from selfdistill.core.store import file_above

            if file := file_above(Path(error.filename)):
                _fail(f"{file}: a file; expected a folder.", error)
        _fail(f"{error.filename or 'system'}: {error.strerror or error}.", error)
    except Exception as error:
        if "No space left on device" in str(error):  # safetensors and others wrap a full disk in errors of their own
            _fail(f"{error}. Free some space; the same command goes on from there.", error)
        _unexpected(error)
    sys.exit(code)


def _usage(error: typer.TyperException, command: str | None = None) -> str:
    """What is wrong with the arguments, in our form: the command, what, what was expected, where to read more."""
    if command and getattr(error, "option_name", None) == "--quiet":
        return f"{command}: --quiet stands before the command: `selfdistill --quiet {command} ...`"
    from selfdistill.core.said import plain_limits

    said = plain_limits(error.format_message())
    said = said[:1].lower() + said[1:] + ("" if said.endswith((".", "?")) else ".")
    wanted: str | None = getattr(getattr(error, "param", None), "help", None)
    expected = f" Expected: {wanted}" if wanted and ": expected " not in said else ""
    where, more = (f"{command}: ", f"selfdistill {command} --help") if command else ("", "selfdistill --help")
    return f"{where}{said}{expected} `{more}` shows what there is."


def _unexpected(error: Exception) -> NoReturn:
    _fail(f"unexpected {type(error).__name__}: {error}. {DEBUG}=1 shows where it comes from.", error)


def _fail(message: str, error: BaseException) -> NoReturn:
    from selfdistill.core.addresses import hidden
    from selfdistill.core.launch import process
    from selfdistill.core.progress import plain

    if not process().main:
        time.sleep(ALONE)
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        print(hidden(_traceback(error)), file=sys.stderr)
    print(f"error: {' '.join(plain(hidden(message)).split())}", file=sys.stderr)
    raise SystemExit(2)


def _traceback(error: BaseException) -> str:
    """With the errors that this one was made from, also where it stands in for them."""
    import traceback

    cause: BaseException | None = error
    while cause:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    return "".join(traceback.format_exception(error))
