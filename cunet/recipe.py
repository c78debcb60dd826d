"""What a training is: its settings, and streams of random numbers that depend on the seed and a name alone.

The settings are a flat pydantic model, so that a JSON file, a notebook's parameters and a checkpoint's card
all say the same thing; the defaults are what the released networks were trained with. A stream that is named
by a step needs no state of a generator to be gone on with.
"""

import hashlib
import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cunet import checkpoints
from cunet.errors import InputError
from cunet.inputs import TIMESTEPS

OPERATIONAL = frozenset(
    "compile channels_last checkpoint_every checkpoint_seconds devices num_nodes accumulate data_root".split()
)
"""Settings that may change when a training is resumed: where and how fast it runs, not what it computes."""


class TrainConfig(BaseModel):
    """What to train and how. Every field is part of the checkpoint's card (`recipe`).

    The budget is `images`, or `max_seconds` of training if that is above 0 (then `images` is not used): the
    learning rate decays to 0 over the budget (unless `decay` says otherwise), and training stops at its end.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    dataset: str = Field(
        "mnist", pattern=r"^[a-z0-9_]+$", description="name in cunet.datasets.DATASETS; default mnist"
    )
    model: str = Field("cunet", description="name in cunet.models.MODELS; default cunet")
    size: str = Field(
        "laptop", description="name in cunet.models.SIZES, gives the image side; default laptop"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, batches and noise; default 0")
    variant: str = Field("", pattern=r"^[a-z0-9_]*$", description="last part of the file name; default none")
    images: int = Field(200_000, ge=1, description="images to see, repeats counted; default 200000")
    max_seconds: float = Field(0, ge=0, description="s to train; 0 (default): the budget is `images`")
    batch_size: int = Field(64, ge=1, description="images an optimiser step, over all devices; default 64")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak learning rate of Adam; default 0.0015")
    warmup: int = Field(200, ge=0, description="steps of linear rise to the peak; default 200")
    decay: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate after the rise: cosine to 0 over the budget (default), constant"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the first moment; default 0.9")
    beta2: float = Field(0.99, ge=0, lt=1, description="Adam's decay of the second moment; default 0.99")
    clip: float = Field(1.0, ge=0, description="largest 2-norm of the gradient, 0: no limit; default 1")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="the average's decay a step; default 0.999")
    schedule: str = Field("cosine", description="noise schedule: linear, cosine, sigmoid; default cosine")
    timesteps: int = Field(TIMESTEPS, ge=1, le=TIMESTEPS, description="diffusion steps T; default 1000")
    prediction_type: str = Field(
        "v_prediction", description="what the network predicts: epsilon, sample, v_prediction (default)"
    )
    loss_weighting: str = Field(
        "uniform", description="weight of each step's loss: uniform (default), min_snr (Hang et al. 2023)"
    )
    flip: bool = Field(False, description="mirror images left-right with probability 1/2; default no")
    start: str = Field(
        "", description="name of a released checkpoint to start from; default (empty): random weights"
    )
    label_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of labels hidden from a network with classes; default 0.1"
    )
    validate_every: int = Field(
        25_000, ge=0, description="images between validations, 0: at the end only; default 25000"
    )
    log_every: int = Field(2_000, ge=1, description="images a point of the loss curve averages; default 2000")
    checkpoint_every: int = Field(
        0, ge=0, description="steps between saved states, 0 (default): by time only"
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="s between saved states; default 60")
    compile: bool = Field(False, description="torch.compile the network; default no")
    channels_last: bool = Field(True, description="NHWC memory format; default yes")
    devices: int = Field(1, ge=1, description="processes a node, above 1 under torchrun; default 1")
    num_nodes: int = Field(1, ge=1, description="machines; default 1")
    accumulate: int = Field(1, ge=1, description="parts a device splits its share of a batch into; default 1")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="as in Lightning Fabric; default 32-true"
    )
    data_root: str = Field("", description="folder of the data set; default (empty): the standard one")

    @model_validator(mode="before")
    @classmethod
    def _folder(cls, values: Any) -> Any:
        """`folder:PATH` is the data set `folder` in PATH: a path cannot be part of a file's name."""
        if isinstance(values, dict) and str(values.get("dataset")).startswith("folder:"):
            kind, _, path = values["dataset"].partition(":")
            return {**values, "dataset": kind, "data_root": path}
        return values

    @property
    def name(self) -> str:
        """Stem of the files that this training writes."""
        return checkpoints.stem(self.dataset, self.model, self.size, self.seed, self.variant)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step `step` (from 0) when the share `progress` (0..1) of the budget is used.

        Linear warm-up times cosine decay to 0 (Loshchilov and Hutter 2017, equation 5, without restarts), or
        linear warm-up alone if `decay` is "constant".
        """
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "constant":
            return self.learning_rate * rise
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))

    def changes(self, saved: dict[str, Any]) -> str:
        """In words, the settings that differ from `saved` and make another training; empty if none does.

        saved: settings of a card or a state. One that it lacks, since it came later, had its default; where
        there are none at all, nothing is known of the training, and all settings differ.
        """
        now = self.model_dump()
        usual = {key: field.default for key, field in type(self).model_fields.items()} if saved else {}
        before = {key: saved.get(key, usual.get(key)) for key in now}
        fields = [key for key in now if key not in OPERATIONAL and now[key] != before[key]]
        return "; ".join(f"{key} was {before[key]!r} and is now {now[key]!r}" for key in fields)


def configure(values: dict[str, Any]) -> TrainConfig:
    """A :class:`TrainConfig` from plain values (a JSON file, a notebook's parameters).

    Raises:
        InputError: a name is unknown, a type is wrong or a value is out of range; the text names each.
    """
    if not isinstance(values, dict):
        raise InputError(f"The training's settings must be names and values (a JSON object), not {values!r}.")
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc']))}={f['input']!r}: {f['msg']}" for f in error.errors()]
        known = ", ".join(TrainConfig.model_fields)
        raise InputError(
            f"The training's settings are wrong: {'; '.join(faults)}. The settings are: {known}."
        ) from error


def stream(seed: int, *name: str | int) -> int:
    """A 64-bit number that depends on the seed and a stream's name, such as ("step", 17), and on no more."""
    text = "/".join(map(str, (seed, *name))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator that starts from :func:`stream` (seed, *name)."""
    return torch.Generator().manual_seed(stream(seed, *name))
