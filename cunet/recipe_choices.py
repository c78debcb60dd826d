"""What `cunet.recipe_study` compares: the released recipe, TrainConfig's defaults, with a setting changed.

A variation is written as on the command line, `schedule=linear,prediction_type=epsilon`, and has one text:
settings in TrainConfig's order, none that is the released recipe's own.

The average of the weights has a decay of min(d, (1 + k) / (10 + k)) at step k, see `training.ema_update`, so
that d has a say from step (10 d - 1) / (1 - d) on only. A training that ends before is the same to the bit
for every higher d. That holds of the released recipe's own d and trainings, so the variations only lower it.
"""

from __future__ import annotations

from typing import Any

from .diffusion import Diffusion
from .errors import InputError
from .parameters import assignments
from .recipe import OPERATIONAL, TrainConfig, configure

RELEASED = "released"  # the recipe as it is
VARIATIONS = (
    RELEASED,
    "schedule=linear",
    "schedule=sigmoid",
    "prediction_type=epsilon",
    "prediction_type=sample",
    "schedule=linear,prediction_type=epsilon",  # Ho et al. (2020)
    "loss_weighting=min_snr",
    "decay=constant",
    "warmup=0",
    "learning_rate=0.0005",
    "learning_rate=0.003",
    "ema_decay=0",
    "ema_decay=0.9",
    "ema_decay=0.97",
)
GIVEN = OPERATIONAL | {"dataset", "model", "size", "seed", "variant", "images", "max_seconds", "start"}
GIVEN |= {"validate_every", "log_every"}
"""Settings that are no part of a recipe: what is trained, on what, how long, where, and what is logged."""


def changes(text: str) -> dict[str, Any]:
    """What sets a variation apart: "ema_decay=0,flip=true" -> {"ema_decay": 0.0, "flip": True}.

    text: settings of TrainConfig with commas, values as `cunet train --set` takes them; empty or "released"
    is the recipe as it is. Returns them in TrainConfig's order, without those that have the default.

    Raises InputError for what is no setting of a recipe, a setting that is there twice, or a wrong value.
    """
    pairs = [] if text.strip() in ("", RELEASED) else [pair.strip() for pair in text.split(",")]
    given = assignments(pairs)
    if len(given) < len(pairs):
        raise InputError(f"The variation {text!r} has a setting twice: give each once.")
    if foreign := [name for name in given if name in GIVEN]:
        raise InputError(
            f"The variation {text!r} changes {', '.join(foreign)}, which is no part of a recipe: what is "
            "trained, and for how long, is the study's to say."
        )
    config = configure(given)
    Diffusion(config.schedule, config.timesteps, config.prediction_type).loss_weights(config.loss_weighting)
    usual = TrainConfig().model_dump()
    return {key: value for key, value in config.model_dump().items() if value != usual[key]}


def canonical(text: str) -> str:
    """The one text of a variation: "learning_rate=5e-4" -> "learning_rate=0.0005". Raises as `changes`."""
    return ",".join(f"{key}={_written(value)}" for key, value in changes(text).items()) or RELEASED


def _written(value: Any) -> str:
    """A value as YAML reads it back, without a needless .0."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
