"""Around a training: the processes it runs on, and the signals that stop it."""

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import torch

from cunet.errors import InputError
from cunet.imports import hidden
from cunet.recipe import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def start_fabric(config: TrainConfig) -> "Fabric":
    """Fabric with the processes that `config` asks for; more than one must have been started by torchrun."""
    with hidden("torchmetrics"):  # imported with all of torchvision to see its version, then not used: 4 s
        from lightning_fabric import Fabric  # here: it takes as long as torch, and only training needs it
        from lightning_fabric.plugins.environments import LightningEnvironment

    world, running = config.devices * config.num_nodes, int(os.environ.get("WORLD_SIZE", 1))
    if config.batch_size % (world * config.accumulate):
        raise InputError(
            f"batch_size={config.batch_size} cannot be shared by {world} devices in {config.accumulate} "
            f"parts each: choose a multiple of {world * config.accumulate}."
        )
    if world > 1 and running != world:
        raise InputError(
            f"devices={config.devices} and num_nodes={config.num_nodes} need {world} processes, but "
            f"{running} run. Start them with `torchrun --nproc-per-node {config.devices} -m "
            "cunet.training_job --config FILE --out FOLDER`, or set both to 1."
        )
    there = torch.cuda.device_count()
    if 0 < there < config.devices:
        raise InputError(
            f"devices={config.devices}, but this machine has {there} GPU{'s' if there > 1 else ''}: ask for "
            "no more devices than that. A batch that does not fit takes a larger `accumulate`."
        )
    unused = config.model.startswith("cunet-released")  # its authors left a layer in it that no path uses
    ddp = "ddp_find_unused_parameters_true" if unused else "ddp"
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=config.precision,
        strategy=ddp if world > 1 else "auto",
        plugins=[] if world > 1 else [LightningEnvironment()],  # a lone process of a Slurm job, too
    )
    fabric.launch()
    return fabric


class Signals:
    """While entered, SIGINT and SIGTERM only set `requested` (a second SIGINT raises KeyboardInterrupt).

    `early`: what they raise at once instead, as long as it is set: where nothing has to be finished or saved.
    """

    def __init__(self) -> None:
        self.requested, self.early, self._old = False, None, {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.early is not None:
            raise self.early
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
