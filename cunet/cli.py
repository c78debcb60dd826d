"""The command line: `cunet notebook`, and the rest."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cunet.errors import InputError

app = typer.Typer(
    name="cunet",
    help="The continuous U-Net for denoising diffusion: notebooks, training, sampling, cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _options() -> None:
    """The continuous U-Net for denoising diffusion: notebooks, training, sampling, cost."""


@app.command()
def notebook(
    path: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="A .py of notebooks/.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("papermill_runs/interactive"),
    file: Annotated[Path | None, typer.Option("-f", "--file", help="YAML file of parameters.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="key=value, over the file's.")] = None,
) -> None:
    """Run one notebook through papermill, all or nothing.

    Example: cunet notebook notebooks/01_ode_block.py --out papermill_runs/mine -p steps=8
    """
    from cunet import notebook as runner
    from cunet import parameters, runs

    declared = parameters.declaration(runner.find(path))
    given = parameters.parameters_file(file) if file else {}
    given |= parameters.assignments(parameter or [], declared)
    result = runner.execute(path, out.absolute(), given, progress=sys.stderr.isatty())
    print(f"Result: {runs.shown(result)}; figures, tables and the executed notebook are beside its folder.")


@app.command()
def reproduce(
    profile: Annotated[
        str, typer.Option(help="smoke, laptop, reference, paper, or a .yaml file.")
    ] = "laptop",
    run: Annotated[str | None, typer.Option(help="Name of the run; the profile's by default.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Notebooks at once.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="key=value over the profile's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- SNAKEMAKE...]", help="For Snakemake.")
    ] = None,
) -> None:
    """Run the chain of notebooks: what is missing or out of date, and nothing else."""
    from cunet import reproduce as chain
    from cunet import runs

    report = chain.reproduce(profile, run, jobs, setting, dry_run, extra)
    if dry_run:
        print(f"Nothing was run. Results of this run are in {runs.shown(report.parent.parent)}.")
    else:
        print(f"Results: {runs.shown(report.parent.parent)}; open {runs.shown(report)}")


def main() -> None:
    """Run the command line; bad input is one paragraph and status 2, a failed job one paragraph and status 1."""
    from cunet.processes import Interrupted

    try:
        app(standalone_mode=True)
    except InputError as error:
        sys.exit(_say(str(error), 2))
    except Interrupted as error:
        sys.exit(_say(f"Stopped by {error}. The same command resumes.", 128 + error.signum))
    except RuntimeError as error:
        if type(error).__name__ not in ("NotebookError", "ChainError"):
            raise
        sys.exit(_say(str(error), 1))


def _say(text: str, status: int) -> int:
    print(f"cunet: {text}", file=sys.stderr)
    return status
