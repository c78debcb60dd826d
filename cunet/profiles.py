"""Profiles: the numbers of a run, validated before anything starts.

A profile is a YAML file of papermill_runs/profiles/. It says which notebooks run, on which datasets,
models and seeds, and with which values in place of the literals of their parameters cells. Profiles
change numbers, never branches: the same notebooks run under `smoke` and under `paper`.
"""

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cunet import folders, model_names, runs
from cunet.errors import InputError
from cunet.parameters import load_yaml, nearest

NOTEBOOK = r"[0-9]{2}_[a-z0-9_]+"
RESERVED = ("run_dir", "job", "profile")  # parameters that the chain itself sets
SHARED = ("checkpoints", "size", "datasets", "models", "seeds")  # handed to every notebook that has them


class Profile(BaseModel):
    """The content of a profile's file; see papermill_runs/README.md for what each line does."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    description: str = ""
    jobs: int = Field(1, ge=1, le=256)  # notebooks at once; the processor's cores are divided among them
    gpus: int = Field(0, ge=0, le=1024)  # of this machine, handed out to jobs at once; 0: each sees all
    shards: int = Field(1, ge=1, le=4096)  # jobs that make the samples of notebook 07; 1: the notebook itself
    checkpoints: Literal["released", "train"] = "released"
    size: str = "laptop"
    datasets: list[str] = Field(["mnist"], min_length=1)
    models: list[str] = Field(["unet", "cunet"], min_length=1)
    solvers: list[str] = []  # each network that solves an equation, with each of these; none: as it is
    seeds: list[int] = Field([0], min_length=1)
    notebooks: dict[str, dict[str, Any]]

    @field_validator("datasets", "solvers")
    @classmethod
    def _names(cls, values: list[str]) -> list[str]:
        for value in values:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
                raise ValueError(f"{value!r} is not a name in small letters, digits, - and _")
        return _once(values)

    @field_validator("models")
    @classmethod
    def _models(cls, values: list[str]) -> list[str]:
        for value in values:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*(@[A-Za-z0-9_=,.()-]+)?", value):
                raise ValueError(f"{value!r} is not a network's name, such as unet or cunet@solver=rk4")
        return _once(values)

    def networks(self, models: list[str] | None = None) -> list[str]:
        """`models`, the profile's by default, those with a solver once for each of `solvers`."""
        chosen = self.models if models is None else models
        if not self.solvers:
            return list(chosen)
        found: dict[str, None] = {}
        for model in chosen:
            family, given = model_names.split(model)
            solves = family.startswith("cunet") and not family.startswith("cunet-released")
            if solves and not any(change.startswith("solver=") for change in given):
                kinds = [",".join([*given, f"solver={solver}"]) for solver in self.solvers]
                found |= dict.fromkeys(f"{family}@{kind}" for kind in kinds)
            else:
                found[model] = None
        return list(found)

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, values: list[int]) -> list[int]:
        if not 0 <= min(values) <= max(values) < 2**31:
            raise ValueError("a seed is 0 or more, and less than 2^31")
        return _once(values)

    @field_validator("notebooks", mode="before")
    @classmethod
    def _notebooks(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values:
            raise ValueError("it needs at least one line such as '04_networks: {}'")
        for stem, parameters in values.items():
            if not re.fullmatch(NOTEBOOK, str(stem)):
                raise ValueError(f"{stem!r} is not the name of a notebook, such as 04_networks")
            if not isinstance(parameters or {}, dict):
                raise ValueError(f"{stem} holds {parameters!r}; it needs lines such as 'samples: 64'")
            _own(stem, parameters or {})
            taken = [name for name in parameters or {} if name in RESERVED]
            if taken:
                raise ValueError(f"{stem}.{taken[0]} is set by the chain, not by a profile")
        return {stem: parameters or {} for stem, parameters in values.items()}

    @property
    def label(self) -> str:
        """The profile that results carry: its name, but `smoke` at that size whatever the name, because the
        numbers then mean nothing."""
        return runs.SMOKE if self.size == runs.SMOKE else self.name


def _own(stem: str, parameters: dict[str, Any]) -> None:
    """Raise ValueError unless a notebook's own lists of networks hold what the names of jobs are made of."""
    for key, kind, words in (("datasets", str, "names"), ("models", str, "names"), ("seeds", int, "numbers")):
        values = parameters.get(key)
        if isinstance(values, list) and not all(type(value) is kind for value in values):
            raise ValueError(f"{stem}.{key} is {values!r}; it needs {words}")


def _once(values: list) -> list:
    """The list, if nothing is there twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{values} holds something twice")
    return values


def folder() -> Path:
    """The folder of the profiles."""
    return folders.root() / "papermill_runs" / "profiles"


def load(profile: str, settings: list[str] | None = None) -> Profile:
    """Read a profile and apply settings to it.

    Arguments:
        profile: a name (`laptop`: papermill_runs/profiles/laptop.yaml) or the path of a .yaml file.
        settings: `key=value`, where key is a line of the profile (`checkpoints=train`) or a notebook's
            parameter (`06_sampling.samples=64`), and value is YAML.

    Raises:
        InputError: no such profile, or something in it that is unknown, mistyped or out of range.
    """
    path = _path(profile)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The profile {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"The profile {path} holds {content!r}; it needs lines such as 'size: laptop'.")
    content = {"name": path.stem, **content}
    for setting in settings or []:
        _apply(content, setting)
    return check(content, folders.shown(path))


def check(content: dict[str, Any], source: str) -> Profile:
    """Validate the content of a profile; InputError with the first problem, and the nearest name."""
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where, value = ".".join(str(part) for part in problem["loc"]), problem.get("input")
        if problem["type"] == "extra_forbidden":
            fields = list(Profile.model_fields)
            raise InputError(
                f"{source} has an unknown line {where!r}{nearest(where, fields)}. "
                f"Lines are {', '.join(fields)}."
            ) from None
        message = problem["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: {where} is {_short(value)}: {message}.") from None


def dump(profile: Profile) -> str:
    """A profile as the text of a file that `load` reads back."""
    return yaml.safe_dump(profile.model_dump(), sort_keys=False, allow_unicode=True)


def _path(profile: str) -> Path:
    """The file of a profile; InputError with the nearest name if there is none."""
    if str(profile).endswith((".yaml", ".yml")) and Path(profile).is_file():
        return Path(profile)
    names = sorted(path.stem for path in folder().glob("*.yaml"))
    if profile not in names:
        raise InputError(
            f"There is no profile {str(profile)!r}{nearest(str(profile), names)}. Profiles are "
            f"{', '.join(names) or 'none'}, the .yaml files of {folders.shown(folder())}; a path that ends "
            "in .yaml works too."
        )
    return folder() / f"{profile}.yaml"


def _apply(content: dict[str, Any], setting: str) -> None:
    """Apply one `key=value` to the content of a profile."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError(f"{setting!r} is not of the form key=value, as in checkpoints=train or seeds=[0,1].")
    value = load_yaml(text, f"The value of {key!r}")
    stem, dot, parameter = key.removeprefix("notebooks.").partition(".")
    if not dot:
        content[key] = value
        return
    notebooks = content.get("notebooks")
    if not isinstance(notebooks, dict) or stem not in notebooks:
        names = list(notebooks) if isinstance(notebooks, dict) else []
        raise InputError(
            f"{setting!r}: the profile has no notebook {stem!r}{nearest(stem, names)}. "
            f"It has {', '.join(names)}."
        )
    notebooks[stem] = {**(notebooks[stem] or {}), parameter: value}


def _short(value: Any) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
