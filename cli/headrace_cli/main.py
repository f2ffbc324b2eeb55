"""The ``headrace`` and ``kubectl headrace`` commands: arguments in, exit code out."""

import sys
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Final

import typer

from headrace_cli import cluster_commands, key_commands, run_command, validate_command
from headrace_cli.weights import Weights

app = typer.Typer(
    name="headrace", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

Files = Annotated[
    list[str], typer.Option("-f", "--filename", help="Manifest, folder of manifests, or - for stdin; repeatable.")
]


class Output(StrEnum):
    YAML = "yaml"
    JSON = "json"
    TEXT = "text"


@app.command()
def run(
    filename: Files,
    weights: Annotated[
        Path | None, typer.Option(help="GGUF file that stands for the one on the model's volume.")
    ] = None,
    model_dir: Annotated[Path | None, typer.Option(help="Folder that stands for the volume: DIR/<path>.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="What to print of each task.")] = Output.YAML,
) -> None:
    """Execute tasks here, without cluster and Redis, and print each with the status it would have had.

    Exit code: 0 all Complete, 1 some Failed or the engine did not serve, 2 a manifest is wrong, 130 after Ctrl-C, which
    prints what was generated so far.
    """
    raise typer.Exit(run_command.run(filename, Weights(weights, model_dir), output.value))


@app.command()
def validate(
    filename: Files,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print mistakes only.")] = False,
) -> None:
    """Judge manifests by the same rules as the API server. Exit code: 0 all right, 2 a manifest is wrong."""
    raise typer.Exit(validate_command.validate(filename, quiet=quiet))


cluster_commands.register(app)
key_commands.register(app)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    try:
        print(version("headrace"))
    except PackageNotFoundError:
        print("unknown: not installed as a distribution")


_OK: Final = 0


def main() -> int:
    """Gives the exit code; Ctrl-C gives 130 as shells expect."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else _OK
    except KeyboardInterrupt:
        return 130
    return _OK


if __name__ == "__main__":
    sys.exit(main())
