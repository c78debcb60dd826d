"""The command line `cunet`.

Exit status: 0 done, 1 a job failed, 2 bad input, 128 + n stopped by signal n. What goes wrong is one
paragraph on stderr. Libraries are imported inside the commands: `cunet --help` answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from cunet import cli_measure, folders, terminal
from cunet.cli_options import Dataset, Model, Profile, Seed, Settings, Size, example
from cunet.errors import InputError, explain, interruptible, whole_numbers


class Commands(TyperGroup):
    """The commands: an interruption is told like everything else that ends one; typer would be silent."""

    def invoke(self, ctx):
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            sys.exit(explain(error))


app = typer.Typer(
    name="cunet",
    cls=Commands,
    help="The continuous U-Net for denoising diffusion: run its notebooks, train, sample, count, measure.",
    epilog="Exit status: 0 done, 1 a job failed, 2 bad input, 128 + n stopped by signal n. "
    "Tab completion in your shell: [cyan]cunet --install-completion[/cyan].",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COUNTABLE = 10**15  # images of a training


@app.command(
    epilog=example(
        "cunet reproduce",
        "cunet reproduce --profile smoke --dry-run",
        r"cunet reproduce --run mine --set checkpoints=train --set 'seeds=\[0, 1]'",
        "cunet reproduce --profile paper --set gpus=8 --set jobs=8 --set shards=8",
        "cunet reproduce --profile paper --on slurm -- --jobs 8",
    )
)
def reproduce(
    profile: Profile = "laptop",
    run: Annotated[
        str | None, typer.Option(help="Name of the run's folder; by default the profile's.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Notebooks at once; by default the profile's.")] = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    on: Annotated[
        str | None, typer.Option(help="slurm, or another folder of papermill_runs/executors.")
    ] = None,
    ignore_memory: Annotated[
        bool, typer.Option("--ignore-memory", help="Start though a job may need more than there is.")
    ] = False,
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="For Snakemake.")
    ] = None,
) -> None:
    """Run the chain of notebooks: what is missing or out of date, and nothing else."""
    from cunet import folders
    from cunet import reproduce as reproduction

    report = reproduction.reproduce(profile, run, jobs, settings, dry_run, on, extra, ignore_memory)
    if dry_run:
        print(f"Nothing was run. The results of this run are in {folders.shown(report.parent.parent)}")
    else:
        print(f"Results are in {folders.shown(report.parent.parent)}; open {folders.shown(report)}")


@app.command(
    epilog=example(
        "cunet estimate --profile paper",
        "cunet estimate --profile paper --set gpus=8 --set jobs=8 --set shards=8 --cores 64",
        "cunet estimate --profile laptop --against laptop",
    )
)
def estimate(
    profile: Profile = "laptop",
    settings: Settings = None,
    jobs: Annotated[int | None, typer.Option(help="Jobs at once; by default the profile's.")] = None,
    gpus: Annotated[
        int | None,
        typer.Option(help="GPUs of a machine; by default the profile's, or 1 for networks of size paper."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Cores of a machine, shared by jobs at once; by default this one's.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A finished run of this profile to compare with.")
    ] = None,
) -> None:
    """Say what a run will take, before anything starts: jobs, hours, GPU-hours, memory, disk."""
    from cunet import chain, measured, profiles
    from cunet import estimate as estimates
    from cunet import reproduce as reproduction

    chosen = profiles.load(profile, settings)
    if (gpus is not None and gpus < 0) or (jobs is not None and jobs < 1):
        raise InputError(f"--gpus is {gpus} and --jobs {jobs}: give 0 or more GPUs, and 1 or more jobs.")
    if cores is not None and cores < 1:
        raise InputError(f"--cores is {cores}: a machine has 1 or more.")
    plan = chain.plan(chosen, reproduction.folder(against or chosen.name))
    terminal.show(estimates.report(plan, jobs or chosen.jobs, gpus, cores))
    if against:
        compared = measured.compared(plan, jobs or chosen.jobs, gpus)
        terminal.show(f"\nAgainst the run {against}:\n\n{compared}")


@app.command(
    epilog=example(
        "cunet notebook notebooks/01_ode_block.py",
        "cunet notebook notebooks/06_sampling.py --out papermill_runs/mine -p shown=16 -p seed=1",
    )
)
def notebook(
    path: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="A .py of notebooks/.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("papermill_runs/interactive"),
    file: Annotated[Path | None, typer.Option("-f", "--file", help="YAML file of parameters.")] = None,
    parameters: Annotated[list[str] | None, typer.Option("-p", help="key=value, over the file's.")] = None,
) -> None:
    """Run one notebook with papermill: parameters checked, outputs all or none."""
    from cunet import folders
    from cunet import notebook as runner
    from cunet import parameters as given

    found = runner.find(path)
    values = given.parameters_file(file) if file else {}
    values |= given.assignments(parameters or [], given.declaration(found))
    result = runner.execute(found, out.absolute(), values, progress=sys.stderr.isatty())
    print(
        f"Result: {folders.shown(result)}; the executed notebook, figures and tables are in folders beside it"
    )


@app.command(
    epilog=example(
        "cunet train --model unet --images 200000",
        "cunet train --dataset avatars --seed 1 --set learning_rate=5e-4 --set flip=true --out checkpoints",
        "cunet train --size paper --dataset celeba --set devices=8 --set precision=bf16-mixed",
    )
)
def train(
    dataset: Dataset = "mnist",
    model: Model = "cunet",
    size: Size = "laptop",
    seed: Seed = 0,
    images: Annotated[int, typer.Option(help="Images to see, repeats counted.")] = 200_000,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, any other setting.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = Path("papermill_runs/checkpoints"),
) -> None:
    """Train a network, or go on where an earlier call stopped."""
    from cunet import devices, folders, parameters, training

    given = {"dataset": dataset, "model": model, "size": size, "seed": seed, "images": images}
    config = training.configure(given | parameters.assignments(settings or []))
    if config.images > COUNTABLE:
        digits = len(str(config.images))
        raise InputError(f"images has {digits} digits: such a training never ends; give {COUNTABLE} at most.")
    if config.devices * config.num_nodes == 1:
        path = training.train(config, out, progress=True)
    else:
        path = devices.run(config, out)
    print(f"Checkpoint: {folders.shown(path)}; its card is {path.with_suffix('.json').name} beside it")


@app.command(
    epilog=example(
        "cunet sample --model cunet --n 64",
        "cunet sample --n 512 --compile --channels-last",
        "cunet sample --checkpoint checkpoints/mnist-cunet-laptop-s1.safetensors --sampler ddpm --steps 1000",
    )
)
def sample(
    dataset: Annotated[str | None, typer.Option(help="Dataset, mnist if no checkpoint is given.")] = None,
    model: Annotated[str | None, typer.Option(help="Network, cunet if no checkpoint is given.")] = None,
    size: Annotated[str | None, typer.Option(help="Its size, laptop if no checkpoint is given.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A trained network, for a released one.")] = None,
    n: Annotated[int, typer.Option(help="How many images.")] = 64,
    sampler: Annotated[str, typer.Option(help="ddpm, ddim, ... (cunet.sampling.SAMPLERS).")] = "ddim",
    steps: Annotated[int, typer.Option(help="Steps of the reverse process.")] = 50,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(help="Images at once; changes nothing but speed.")] = 64,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network first; without a compiler it runs as it is."),
    ] = False,
    precision: Annotated[str, typer.Option(help="32, or bf16 for autocast.")] = "32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Lay images and weights out so in memory.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("papermill_runs/samples"),
) -> None:
    """Draw images from a released or a trained network: a sheet to look at, and all of them as an array."""
    from cunet import checkpoints, folders, pictures, running, sampling

    path = checkpoint or checkpoints.released(dataset or "mnist", model or "cunet", size or "laptop")
    network, card = checkpoints.load(path, model, size)
    if dataset not in (None, card.get("dataset")):
        raise InputError(f"{path} was trained on {card.get('dataset')!r}, not on {dataset!r}.")
    diffusion = checkpoints.diffusion(card, path)
    folders.check_writable(out)
    whole_numbers(n=(n, 1), batch_size=(batch_size, 1))
    network = running.prepared(network, min(n, batch_size), compiled, precision, channels_last)
    images = sampling.sample(network, n, diffusion, sampler, steps, seed, batch_size, progress=True)
    sheet = pictures.write_sheet(images, out, f"{Path(path).stem}-{sampler}{steps}-s{seed}")
    print(f"Samples: {folders.shown(sheet)}, and all {n} as {sheet.with_suffix('.npy').name} beside it")


@app.command(
    epilog=example(
        "cunet denoise photo.jpg --noise-level 0.1",
        "cunet denoise scan.png --noise-level 0.05 --model unet --steps 1 --out clean.png",
    )
)
def denoise(
    picture: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG or JPEG, of any size.")],
    noise_level: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise, above 0, at most 1, where black is 0 and white is 1; from "
            "grey levels, divide by 255."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="unet, cunet, dncnn, autoencoder, bm3d, ... (cunet.denoisers.METHODS).")
    ] = "cunet",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="What a released network was trained on; by default mnist for a grey picture, avatars for "
            "one in colour, or the other where that was not released."
        ),
    ] = None,
    size: Size = "laptop",
    checkpoint: Annotated[Path | None, typer.Option(help="A trained network, for a released one.")] = None,
    steps: Annotated[
        int, typer.Option(help="Calls of a diffusion network; 1 gives the smoothest picture.")
    ] = 10,
    out: Annotated[
        Path | None, typer.Option(help="A .png; by default beside the picture, photo.jpg-denoised.png.")
    ] = None,
) -> None:
    """Denoise a picture of your own; a network knows only images like those it was trained on.

    What is larger than the network's images is cut into tiles that overlap; what is smaller is mirrored at
    its edges up to their side. Each channel of a picture in colour is denoised by itself where the network
    knows grey images; palettes and CMYK are read as RGB, and the result is 8-bit grey or RGB. Refused: 16
    bits a channel, really transparent or animated pictures, and what is neither PNG nor JPEG.
    """
    from cunet import denoisers, folders, pictures

    noisy = pictures.read(picture)
    # of the whole name, so that photo.jpg and photo.png beside it have results of their own
    out = out or picture.with_name(f"{picture.name}-denoised.png")
    folders.check_writable(out.parent)
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the picture in it, as in --out {out / 'clean.png'}.")
    if out.suffix.lower() != ".png":
        raise InputError(f"--out is {out}, but the denoised picture is a PNG: give a name that ends in .png.")
    if out.resolve() == picture.resolve() or (out.exists() and out.samefile(picture)):
        raise InputError(f"--out {out} is the picture itself, which would be lost: give another name.")
    if checkpoint:
        denoiser = denoisers.from_checkpoint(checkpoint, steps)
    else:
        dataset = dataset or denoisers.suited(noisy.shape[1], model, size)
        denoiser = denoisers.load(model, dataset, size, steps=steps)
    if denoiser.card and "dataset" not in denoiser.card:
        raise InputError(
            f"The card of {checkpoint} does not say on which data set the network was trained, and it "
            "denoises images like those only. Give a checkpoint as `cunet train` writes."
        )
    clean = pictures.denoise(denoiser, noisy, noise_level, progress=True)
    print(f"Denoised: {folders.shown(pictures.write(out, clean))}")
    if card := denoiser.card:
        images = f"{card['dataset']} images of {denoiser.side} x {denoiser.side} pixels"
        print(
            f"The network, {card['model']}, has seen {images} and no others: in other pictures it draws what "
            "is not there. For those take `--model bm3d`, or a checkpoint trained on their kind"
        )


for _command, _examples in cli_measure.COMMANDS.items():
    app.command(epilog=example(*_examples))(_command)


@app.command(epilog=example("cunet info cunet", "cunet info unet --size laptop --channels 1 --json"))
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name of cunet.models.MODELS.")],
    size: Size = "paper",
    channels: Annotated[int, typer.Option(help="1 for grey images, 3 for RGB.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Count a network's parameters, and the MACs of one call with every evaluation of its solver."""
    from cunet import cost, models

    if channels not in (1, 3):
        raise InputError(f"channels={channels}: expected 1 for grey images or 3 for RGB.")
    network = models.build(model, size=size, channels=channels)
    counts = cost.parameters(network)
    facts = {
        "model": model,
        "size": size,
        "channels": channels,
        "image_size": network.image_size,
        "parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "macs": cost.macs(network, network.image_size),
        "evaluations": network.evaluations,
    }
    if as_json:
        print(json.dumps(facts))
        return
    terminal.facts(
        {key: format(value, ",") if isinstance(value, int) else value for key, value in facts.items()}
    )


def main() -> None:
    """Run the command line; turn what a user can mend, SIGINT and SIGTERM into a paragraph and a status."""
    folders.fix_roots()
    try:
        with interruptible():
            status = app(standalone_mode=False) or 0
    except BaseException as error:
        status = explain(error)
    sys.exit(status)
