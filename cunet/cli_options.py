"""Options that several commands of the command line share, and the form of their examples."""

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Network: unet, cunet, cunet-released, ... (cunet.models.MODELS).")]
Size = Annotated[str, typer.Option(help="paper (64 pixels), laptop (32) or smoke (16).")]
Dataset = Annotated[str, typer.Option(help="Dataset: mnist, ... (cunet.datasets.DATASETS).")]
Seed = Annotated[int, typer.Option(help="Seed of every random number.")]
Profile = Annotated[str, typer.Option(help="smoke, laptop, reference, paper, or a .yaml file.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value, over the profile's.")]


def example(*lines: str) -> str:
    """The examples at the foot of a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  [cyan]{line}[/cyan]" for line in lines)
