"""The commands of the command line that take a machine for themselves: they measure and compare networks.

`cunet.cli` adds them to the others; libraries are imported inside, as there.
"""

from pathlib import Path
from typing import Annotated

import typer

from cunet import terminal
from cunet.cli_options import Dataset, Seed, Size
from cunet.errors import InputError

# of the studies
Seen = Annotated[int, typer.Option(help="Images that each training sees.")]
Samples = Annotated[int, typer.Option(help="Images behind each distance; 0 leaves distances out.")]
StudyFolder = Annotated[Path, typer.Option(help="Folder of trainings, table and figure.")]


def bench(
    size: Size = "paper",
    models: Annotated[
        str | None, typer.Option(help="Names with commas; the first is what ratios refer to.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Of forward, step, training, memory, operators, growth, variants, throughput (this one "
            "always of trainings at size laptop)."
        ),
    ] = None,
    modes: Annotated[str | None, typer.Option(help="Of eager, compiled, with +channels_last, +bf16.")] = None,
    batches: Annotated[str | None, typer.Option(help="Batch sizes of forward and step.")] = None,
    training_batch: Annotated[int, typer.Option(help="Batch size of training and memory.")] = 16,
    channels: Annotated[int, typer.Option(help="1 for grey images, 3 for RGB.")] = 3,
    repeats: Annotated[int, typer.Option(help="Rounds; ratios are of their medians.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder of the tables and the figure.")] = Path(
        "papermill_runs/bench"
    ),
) -> None:
    """Measure networks against each other on this machine: parameters, MACs, memory, time."""
    from cunet import bench as benchmark
    from cunet import bench_report, folders, model_names

    given = {"tasks": tasks, "modes": modes}
    chosen = {key: tuple(text.split(",")) for key, text in given.items() if text is not None}
    if models is not None:
        chosen["models"] = tuple(model_names.listed(models))
    if batches is not None:
        chosen["batches"] = tuple(_whole(text, "--batches") for text in batches.split(","))
    settings = benchmark.Settings(
        size=size, channels=channels, training_batch=training_batch, repeats=repeats, **chosen
    )
    folders.check_writable(out)
    found = benchmark.run(settings, out, progress=True)
    for part in bench_report.tables(found):
        terminal.show(f"{part}\n")
    print("Seconds: " + "; ".join(f"{part} {seconds:.0f}" for part, seconds in found.seconds.items()))
    print(f"Results: tables (CSV), records (JSON) and figures in {folders.shown(out)}")


def solvers(
    choices: Annotated[
        str | None,
        typer.Option(
            help="solver:evaluations a block, or own, the released steps; with commas, by default all."
        ),
    ] = None,
    images: Seen = 50_000,
    samples: Samples = 500,
    dataset: Dataset = "mnist",
    size: Size = "laptop",
    seed: Seed = 0,
    out: StudyFolder = Path("papermill_runs/solvers"),
) -> None:
    """Train the continuous U-Net with each solver and evaluate it with each; resumes where it stopped."""
    from cunet import folders, solver_study

    chosen = {} if choices is None else {"choices": tuple(choices.split(","))}
    settings = solver_study.Settings(
        images=images, samples=samples, dataset=dataset, size=size, seed=seed, **chosen
    )
    folders.check_writable(out)
    frame = solver_study.run(settings, out, progress=True)
    terminal.show(solver_study.matrix(frame, settings.choices).round(4).to_markdown())
    print(f"Rows: trained with, columns: evaluated with. Results: {folders.shown(out / 'solvers.csv')}")


def recipes(
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="key=value, with commas, over the released recipe; again for the next. By default all of "
            "cunet.recipe_choices."
        ),
    ] = None,
    models: Annotated[str, typer.Option(help="Names of networks, with commas.")] = "unet,cunet",
    images: Seen = 50_000,
    samples: Samples = 500,
    dataset: Dataset = "mnist",
    size: Size = "laptop",
    seed: Seed = 0,
    out: StudyFolder = Path("papermill_runs/recipes"),
) -> None:
    """Train networks by the released recipe and by others, and compare; resumes where it stopped."""
    from cunet import folders, model_names, recipe_figures, recipe_study

    chosen = {"variations": tuple(vary)} if vary else {}
    chosen["models"] = tuple(model_names.listed(models))
    settings = recipe_study.Settings(
        images=images, samples=samples, dataset=dataset, size=size, seed=seed, **chosen
    )
    folders.check_writable(out)
    frame = recipe_study.run(settings, out, progress=True)
    terminal.show(recipe_figures.table(frame).to_markdown(index=False, floatfmt=".4g"))
    known = recipe_study.spread(frame, out)
    print(f"Largest loss over smallest by seed: {known.ratio:.3f} ({known.words})")
    print(f"Results: {folders.shown(out / 'recipes.csv')}")


def _whole(text: str, option: str) -> int:
    """A whole number from the command line."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} has {text!r}; it needs whole numbers with commas, as in 1,8.") from None


COMMANDS = {
    bench: (
        "cunet bench",
        "cunet bench --models unet,cunet --tasks forward,step --modes eager --batches 1 --repeats 5",
        "cunet bench --tasks growth",
        "cunet bench --tasks throughput --models unet,cunet,cunet-first",
    ),
    solvers: (
        "cunet solvers --images 50000",
        "cunet solvers --choices leapfrog:1,leapfrog:2,rk4:4 --images 20000 --samples 0",
    ),
    recipes: (
        "cunet recipes --images 50000",
        "cunet recipes --vary schedule=linear,prediction_type=epsilon --vary ema_decay=0 --models unet",
    ),
}
"""The commands of this module, each with its examples, in the order of the help."""
