"""The chain: which jobs a profile asks for, with which parameters, and which of them wait for which.

`plan` turns a profile into jobs and checks every parameter of every notebook, so that a mistake shows
before the first job starts. `prepare` writes the plan, and one parameters file a job (only when its content
changes: the files are inputs, and Snakemake goes by them). The Snakefile reads the plan back with `load`.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from cunet import folders, profiles, runs
from cunet.checkpoint_names import Trained, besides
from cunet.errors import InputError
from cunet.parameters import declaration, nearest, parameters_file, validate
from cunet.profiles import Profile

# What a notebook needs besides its own file and the library, by numbers: the one place where this is said.
NEEDS: dict[str, tuple[str, ...]] = {
    "00": tuple(f"{number:02}" for number in range(1, 100)),  # shows what all others found
    "06": ("05",),
    "07": ("05",),
    "08": ("05",),
    "09": ("05",),
    "10": ("05",),
    "11": ("05",),
    "12": tuple(f"{number:02}" for number in range(1, 100) if number != 12),  # judges it
}
TRAINING = "05"  # the notebook that runs once a dataset, model and seed
SHARDED = "07_synthesis"  # the notebook whose samples can be made by jobs of their own
PLAN = "plan.json"  # in a run's folder; JSON, since each process of Snakemake's reads it: YAML takes long
PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """One execution of one notebook: its name, the notebook's, its parameters, and the jobs it waits for."""

    name: str
    notebook: str
    parameters: dict[str, Any] = field(hash=False)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run consists of: its folder, its profile, its jobs in the order of the notebooks."""

    run_dir: Path
    profile: Profile
    jobs: tuple[Job, ...]

    def of(self, stem: str) -> list[Job]:
        """The jobs of one notebook."""
        return [job for job in self.jobs if job.notebook == stem]

    @property
    def receipts(self) -> list[str]:
        """The files, relative to the run's folder, that say that a shard of the samples is made."""
        count = self.profile.shards if self.of(SHARDED) else 1
        return [receipt(shard, count) for shard in range(count)] if count > 1 else []


def plan(profile: Profile, run_dir: Path) -> Plan:
    """The jobs that a profile asks for, each parameter checked against its notebook.

    Raises:
        InputError: the profile names a notebook that does not exist, or a parameter that the notebook does
            not have or that the chain sets.
    """
    missing = [stem for stem in profile.notebooks if not source(stem).is_file()]
    if missing:
        there = sorted(path.stem for path in source("x").parent.glob("[0-9][0-9]_*.py"))
        raise InputError(
            f"Profile {profile.name!r} asks for the notebook {missing[0]!r}{nearest(missing[0], there)}, "
            f"which is not in {folders.shown(source('x').parent)}. Take the line out of the profile, or "
            "correct its name."
        )
    named = {stem: [name for name, _ in _variants(profile, stem)] for stem in sorted(profile.notebooks)}
    jobs = []
    for stem in named:
        declared = declaration(source(stem))
        for name, own in _variants(profile, stem):
            jobs.append(Job(name, stem, _parameters(profile, stem, name, own, declared), _needs(stem, named)))
    return Plan(run_dir, profile, tuple(jobs))


def source(stem: str) -> Path:
    """The file of a notebook."""
    return folders.root() / "notebooks" / f"{stem}.py"


def _variants(profile: Profile, stem: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of a notebook's jobs, each with the parameters that tell it from the others."""
    if not stem.startswith(TRAINING):
        yield stem, {"seed": profile.seeds[0]}
        return
    asked, out = _trainings(profile, stem), set(_unreleased(profile, stem))
    for which in [w for w in asked if w not in out] or asked:  # where there is none at all, `check` says so
        name = f"{stem}-{which.dataset}-{folders.slug(which.model, '+')}-s{which.seed}"
        yield name, {"dataset": which.dataset, "model": which.model, "seed": which.seed}


def _trainings(profile: Profile, stem: str) -> list[Trained]:
    """What the jobs of notebook 05 train or read: the networks of the profile, and, where networks are
    trained in the run, those that a notebook's own `datasets`, `models` and `seeds` add, and its lines
    `further` and `guided_datasets`."""
    asked = {"": {}, **(profile.notebooks if profile.checkpoints == "train" else {})}
    found: dict[tuple[str, str, int], None] = {}
    for name, lines in asked.items():
        lists = ((lines.get(key), getattr(profile, key)) for key in ("datasets", "models", "seeds"))
        own = [mine if isinstance(mine, list) else shared for mine, shared in lists]  # types are judged later
        own[1] = profile.networks(own[1])
        found |= dict.fromkeys(product(*own))
        for dataset, model in _besides(name, lines, own[0]):
            found |= dict.fromkeys(product([dataset], [model], own[2][:1]))
    variant = profile.notebooks[stem].get("variant")
    return [Trained(*which, variant if isinstance(variant, str) else "") for which in found]


def _besides(stem: str, lines: dict[str, Any], datasets: list[str]) -> list[tuple[str, str]]:
    """What `besides` finds in a notebook's lines: lists that only the notebook declares train nothing."""
    declared = declaration(source(stem)) if "guided_datasets" in lines else {}
    return besides({"guided_models": declared.get("guided_models"), **lines, "datasets": datasets})


def _unreleased(profile: Profile, stem: str) -> list[Trained]:
    """Of the trainings of a notebook 05 that reads released checkpoints, those that were not released."""
    if profile.notebooks[stem].get("checkpoints", profile.checkpoints) != "released":
        return []
    folder = PACKAGE / "assets" / "checkpoints"
    asked = _trainings(profile, stem)
    return [w for w in asked if not (folder / f"{w.stem(profile.size)}.safetensors").is_file()]


def left_out(profile: Profile) -> list[str]:
    """Names of the networks that a profile asks for and a run goes without, since they were not released."""
    stems = [stem for stem in profile.notebooks if stem.startswith(TRAINING)]
    return [which.stem(profile.size) for stem in stems for which in _unreleased(profile, stem)]


def _parameters(
    profile: Profile, stem: str, name: str, own: dict[str, Any], declared: dict[str, Any]
) -> dict[str, Any]:
    """A job's parameters: what the chain sets, what profile and notebook share, the notebook's own lines."""
    shared = {key: getattr(profile, key) for key in profiles.SHARED if key in declared}
    if "models" in shared:
        shared["models"] = profile.networks()
    lines = profile.notebooks[stem]
    if stem.startswith(TRAINING):
        for key in own.keys() & lines.keys():
            raise InputError(
                f"{stem}.{key} cannot be set: that notebook runs once for each of the profile's {key}s. "
                f"Write {key}s: [{lines[key]}] in its place."
            )
        if lines.get("data_root"):
            raise InputError(
                f"{stem}.data_root cannot be set in a profile: the other notebooks would look for the data "
                f"elsewhere. Set the environment variable CUNET_DATA={lines['data_root']}, which all read."
            )
    given = {"job": name, "profile": profile.label, **shared, **own, **lines}
    return validate(declared, given, source(stem))


def check(plan: Plan, data: bool = True) -> list[str]:
    """Refuse what jobs would refuse, perhaps hours later: names, settings of trainings, what is not there.

    data: refuse photographs that are not there; else only say, a text each, which are missing.

    Raises:
        InputError: an unknown data set, network or size; a training's setting that is out of range; more
            samples than there are real images to hold them against; no network that was released, where
            released ones are asked for; photographs that are not there.
    """
    named = _named(plan)
    if not any(named.values()):
        return []
    from cunet import models  # with what follows, 3 s

    _refuse_unknown(named)
    for name in dict.fromkeys(name for _, name in named["model"] if "@" in name):
        models.build(name, "smoke", 1)
    absent = _absent(dict.fromkeys(name for _, name in named["dataset"]), data)
    declared = {stem: declaration(source(stem)) for stem in plan.profile.notebooks}
    for job in plan.jobs:
        given = {**declared[job.notebook], **job.parameters}
        if job.notebook == SHARDED:
            _refuse_too_many(given)
        if job.notebook.startswith(TRAINING):
            _refuse_training(given)
    return absent


def _named(plan: Plan) -> dict[str, list[tuple[Job, str]]]:
    """The data sets, networks and sizes that a plan names, each with a job that asks for it."""
    named = {
        kind: [
            (job, name)
            for job in plan.jobs
            for name in (*asked_for(job.parameters, kind), *job.parameters.get(f"guided_{kind}s", ()))
        ]
        for kind in ("dataset", "model", "size")
    }
    for job in [job for job in plan.jobs if job.notebook.startswith(TRAINING)][:1]:
        named["dataset"] += [(job, name) for name in plan.profile.datasets]  # also those that are left out
        named["model"] += [(job, name) for name in plan.profile.networks()]
    return named


def _refuse_unknown(named: dict[str, list[tuple[Job, str]]]) -> None:
    """Raise InputError for a name that the library does not know; a network's without its changes."""
    from cunet import datasets, models

    known = {"dataset": datasets.DATASETS, "model": models.MODELS, "size": models.SIZES}
    for kind, found in named.items():
        for job, name in found:
            if name.partition("@")[0] not in known[kind]:
                raise InputError(
                    f"{job.name} asks for the {kind} {name!r}{nearest(name, list(known[kind]))}. Known are "
                    f"{', '.join(known[kind])}."
                )


def _absent(names: Iterable[str], refuse: bool) -> list[str]:
    """Of data sets those that are not there, a text each; with `refuse`, InputError for the first. InputError
    always where one has yet to be drawn and the packages for it are missing."""
    from cunet import datasets, drawn

    absent = []
    for name in names:
        try:
            datasets.find(name)
        except InputError as error:
            if refuse:
                raise
            absent.append(str(error))
        if name in drawn.RECIPES:
            drawn.check(name, datasets.data_root() / "drawn")
    return absent


def _refuse_too_many(given: dict[str, Any]) -> None:
    """Raise InputError if notebook 07 is to make more samples than there are real images beside them."""
    from cunet import synthesis, work

    for name in given["datasets"]:
        if name in work.IMAGES:  # of other data sets only reading them tells how many there are
            synthesis.refuse_too_few(given, name, *work.images(name)[:2])


def _refuse_training(given: dict[str, Any]) -> None:
    """Raise InputError for settings that a training cannot have, and a released network that is not there."""
    from cunet import checkpoints, recipe

    config = recipe.configure({k: given[k] for k in recipe.TrainConfig.model_fields if k in given})
    if given.get("checkpoints") == "released":
        checkpoints.released(config.dataset, config.model, config.size, config.seed, config.variant)


def asked_for(parameters: dict[str, Any], kind: str) -> list[str]:
    """What a job's `dataset` and `datasets` (or of another kind) name; with networks, also `further`,
    `remedies`, `earlier` and `discrete`."""
    one, several = parameters.get(kind), parameters.get(f"{kind}s") or []
    if kind == "model":
        for more in ("further", "remedies", "earlier"):
            several = [*several, *(parameters.get(more) or [])]
        several += [parameters["discrete"]] if parameters.get("discrete") else []
    return [*([one] if one else []), *several]


def _needs(stem: str, named: dict[str, list[str]]) -> tuple[str, ...]:
    """The jobs that a notebook's jobs wait for, of those that the profile has."""
    needs = NEEDS.get(stem[:2], ())
    return tuple(name for other, names in named.items() if other[:2] in needs for name in names)


def prepare(plan: Plan) -> None:
    """Write a run's profile.yaml, plan.json and params/<job>.yaml, each only if its content changes.

    Results of jobs that the profile no longer asks for are moved to aside/, out of the scorecard and the
    report.
    """
    run_dir = plan.run_dir
    folders.write_if_new(run_dir / "profile.yaml", profiles.dump(plan.profile))
    latest = folders.newest(made(run_dir))
    for job in plan.jobs:
        text = yaml.safe_dump(runs.plain(job.parameters), sort_keys=False, allow_unicode=True)
        folders.write_if_new(run_dir / "params" / f"{job.name}.yaml", text, latest)
    listed = [{"name": job.name, "notebook": job.notebook, "needs": job.needs} for job in plan.jobs]
    folders.write_if_new(run_dir / PLAN, json.dumps(listed, indent=1) + "\n")
    names = {job.name for job in plan.jobs}
    for path in [*(run_dir / "params").glob("*.yaml"), *(run_dir / "results").glob("*.json")]:
        if path.stem not in names:
            (run_dir / "aside").mkdir(exist_ok=True)
            os.replace(path, run_dir / "aside" / path.name)


def made(run_dir: Path) -> Iterator[Path]:
    """What jobs have made in a run, by whose times Snakemake goes."""
    for pattern in ("results/*.json", "executed/*.ipynb", "samples/*.txt", "report/index.html"):
        yield from run_dir.glob(pattern)


def snapshot(plan: Plan, run_dir: Path) -> Plan:
    """The same plan for `run_dir`, a copy of what Snakemake looks at to say what would run.

    `run_dir` is a folder beside the run's: the paths of inputs are relative, and Snakemake goes by them.
    """
    names = ("results", "executed", "params", "samples", "report/index.html", ".snakemake/metadata")
    names += ("profile.yaml",)
    for name in names:
        there, copy = plan.run_dir / name, run_dir / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if there.is_dir():
            shutil.copytree(
                there, copy, ignore=shutil.ignore_patterns("*.safetensors")
            )  # with the times of files, which count where Snakemake knows no hash
        elif there.is_file():
            shutil.copy2(there, copy)
    return replace(plan, run_dir=run_dir)


def load(run_dir: Path) -> Plan:
    """The plan that `prepare` left in a run's folder, whatever was released or edited since.

    Raises:
        InputError: nothing was prepared there, or a file of it is missing or damaged.
    """
    profile, listed = run_dir / "profile.yaml", run_dir / PLAN
    if profile.is_file() and not listed.is_file():
        raise InputError(
            f"{folders.shown(run_dir)} has no {PLAN}: it was prepared by an earlier version. The command "
            "that started the run, with its --profile and --set, writes the plan."
        )
    if not profile.is_file():
        raise InputError(
            f"{run_dir} is not a prepared run: start it with `cunet reproduce --run {run_dir.name}`."
        )
    try:
        found = [
            (job["name"], job["notebook"], tuple(job["needs"]))
            for job in json.loads(listed.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(
            f"The plan {folders.shown(listed)} is damaged. The command that started the run writes it anew."
        ) from None
    jobs = (
        Job(name, stem, parameters_file(run_dir / "params" / f"{name}.yaml"), needs)
        for name, stem, needs in found
    )
    return Plan(run_dir, profiles.check(parameters_file(profile), str(profile)), tuple(jobs))


def receipt(shard: int, of: int) -> str:
    """The file, relative to the run's folder, that says that a shard of the samples is complete."""
    return f"samples/shard-{shard}-of-{of}.txt"
