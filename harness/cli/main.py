"""The `harness` command: which commands there are, in the order of use. Nothing else prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.arguments import Styled
from harness.cli.output import Output
from harness.cli.plugins import Commands
from harness.errors import HarnessError, PluginFault, StorageError, complaint
from harness.system.platforms import refuse_windows
from harness.system.text import plain


def _commands(**places: str) -> dict[str, str]:
    """By the name of each command where it stands: a name in a module called as the command, or `module:name`."""
    modules = {name: place if ":" in place else f"{name}:{place}" for name, place in places.items()}
    return {name.replace("_", "-"): f"harness.cli.{place}" for name, place in modules.items()}


GROUPS = {
    "Look around": _commands(doctor="doctor", list="list_", describe="describe"),
    "Run": _commands(plan="plan", rehearse="rehearse", run="run", merge="merge", train="train", rank="rank"),
    "Read results": {
        **_commands(table="table", compare="compare", gate="compare:gate", show="show", page="page", sheet="sheet"),
        **_commands(by_prompt="by_prompt", vbench="app"),
    },
    "Ask people": _commands(study="app"),
    "Bring what metrics and models need": _commands(env="app", fetch="fetch"),
    "Extend": _commands(new="app", check="check"),
}
"""The commands of the harness in the order of use."""


class _Own(Commands):
    groups = GROUPS

    def invoke(self, ctx: Any) -> Any:
        """Do a command. An interrupt is one line and exit code 3, also while its modules are imported."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print(f"interrupted{f' by {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
            raise typer.Exit(3) from None


def _print_result(result: object, **_: object) -> None:
    """Print the lines that a command returns. The command works while they are asked for."""
    if isinstance(result, Iterable):
        try:
            for line in result:
                print(line if isinstance(line, Styled) else "\n".join(map(plain, str(line).split("\n"))))
        except SystemExit as end:
            # Only code of a plug-in does this, and its number would be taken for how the command went.
            raise PluginFault(f"a plug-in tried to end the program (SystemExit: {end.code})") from end


app = typer.Typer(
    cls=_Own,
    result_callback=_print_result,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        import harness

        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def harness_(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Evaluation and benchmarking of streaming video diffusion models."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 bad input, 3 incomplete."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with ExitStack() as streams:
        # A process may be started without either, and `print` would take the one for the other.
        out, errors = (
            stream or streams.enter_context(Path(os.devnull).open("w")) for stream in (sys.stdout, sys.stderr)
        )
        streams.enter_context(redirect_stdout(Output(out)))
        streams.enter_context(redirect_stderr(Output(errors, needed=False)))
        code = _exit_code(arguments)
        # What is still in a buffer would end the interpreter in a complaint of its own, and an exit code of its own.
        for stream in (sys.stdout, sys.stderr):
            with suppress(StorageError):
                stream.flush()
        sys.exit(code)


def _exit_code(arguments: list[str] | None) -> int | str | None:
    try:
        refuse_windows()
        try:
            app(args=arguments, prog_name="harness")
        except SystemExit as end:
            sys.stdout.flush()
            return end.code
    except HarnessError as error:
        print(complaint(error), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A path that the system does not take, as for its length, or does not let be looked at.
        if error.filename is None:
            raise
        refused = HarnessError(f"{error.filename}: {error.strerror}", "name another path, or make it accessible")
        print(complaint(refused), file=sys.stderr)
        return refused.exit_code
    return 0


if __name__ == "__main__":
    main()
