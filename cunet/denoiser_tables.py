"""Table 4: diffusion networks beside denoisers of other kinds, image by image on the same noisy images.

A method is named by its network, with `-level` behind it where one network was trained for each noise level:

    bm3d                          told the noise level
    autoencoder-level, dncnn-level    one network a level
    autoencoder, dncnn            one network for all levels, which has to find the level out
    unet, cunet                   the reverse process

A diffusion network's walk gives not one image but one a step. `READINGS` are what may be taken of it: `best`
is the paper's, each score's own best on the way, for which the original must be at hand; `end` is the last
image and `first` the prediction of the first call, which anyone can have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from . import denoisers, metrics, palette, paper
from .denoising_tables import SCORES, SIGNIFICANT, band, holm, sign_flip
from .trajectories import METRICS, Trajectory
from .wording import interval

READINGS = ("best", "end", "first")
AUTHORS = ("bm3d", "autoencoder-level", "dncnn-level")  # the rivals as the authors trained them
PRACTICE = ("bm3d", "autoencoder", "dncnn")  # and blind, over the whole range of noise
WAYS = {"one a level": AUTHORS, "blind": PRACTICE}  # to train the rivals, as tables call them
TAIL_RESAMPLES = 5000  # of a bootstrap whose interval is wider than 95 %, and so rests on fewer of them
Scores = Mapping[tuple[str, int], Mapping[str, Tensor]]


def label(method: str) -> str:
    """A method's name in tables and figures."""
    name, _, kind = method.partition("-")
    if name not in denoisers.LABELS:
        return palette.label(method)
    training = {"level": ", one a level", "": ", blind" if name in denoisers.NETWORKS else ""}
    return denoisers.LABELS[name] + training[kind]


def measure(clean: Tensor, images: Tensor) -> dict[str, Tensor]:
    """SSIM, PSNR and LPIPS of denoised images (N, C, H, W) against the originals; each float32 (N,)."""
    return {metric: getattr(metrics, metric)(clean, images) for metric in METRICS}


def read(trajectory: Trajectory, reading: str = "best") -> dict[str, Tensor]:
    """The scores of a walk: each image's `best` of each metric, or those of its `end`; each (N,)."""
    if reading == "best":
        return {metric: trajectory.best(metric)[0] for metric in trajectory.scores}
    return {metric: scores[:, -1] for metric, scores in trajectory.scores.items()}


def averages(scores: Scores, seed: int = 0) -> pd.DataFrame:
    """A row a method, noise level and metric: mean, and the ends of its 95 % bootstrap interval over images.

    scores: (method, level) -> metric -> (N,).    Columns: noise, method, metric, mean, low, high, n.
    """
    rows = []
    for (method, level), found in scores.items():
        for metric, values in found.items():
            low, high = (float(end[0]) for end in band(values[:, None], seed=seed))
            row = dict(noise=level, method=method, metric=metric, mean=float(values.double().mean()))
            rows.append(row | dict(low=low, high=high, n=len(values)))
    return pd.DataFrame(rows).sort_values("noise", kind="stable", ignore_index=True)


def table_4(frame: pd.DataFrame, cards: Mapping[tuple[str, int | None], Mapping[str, Any]]) -> pd.DataFrame:
    """Table 4: a row a noise level and method, scores with their intervals, and what the paper prints.

    frame: of `averages`. The paper's autoencoder and DnCNN stand beside those with one network a level.
    cards: (network, the level it was trained for or None) -> its checkpoint's card. The last column,
    `images seen` in training, is from them: empty for a method that is not trained.
    """
    printed = {(row.noise, row.method): row for row in paper.TABLE_4}
    rows = {}
    for (noise, method), part in frame.groupby(["noise", "method"], sort=False):
        part = part.set_index("metric")
        row = {
            m.upper(): interval(*part.loc[m, ["mean", "low", "high"]], ".1f" if m == "psnr" else ".3f")
            for m in part.index
        }
        name = method.removesuffix("-level")
        theirs = None if method in denoisers.NETWORKS else printed.get((noise, name))
        row |= {f"paper: {m.upper()}": getattr(theirs, m, "") for m in SCORES}
        card = cards.get((name, None if name == method else noise), {})
        rows[noise, label(method)] = row | {"images seen": card.get("images_seen", "")}
    index = pd.MultiIndex.from_tuples(rows, names=["noise steps", "method"])
    return pd.DataFrame(list(rows.values()), index=index)


def duels(scores: Scores, chosen: str, rivals: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """One method against each of the others, by a paired test over images (`denoising_tables.sign_flip`).

    Columns: noise, metric (ssim, lpips), rival, difference (chosen minus rival), low, high, p, p_holm
    (adjusted over all comparisons of the metric), winner: "chosen" or "rival" where p_holm is at most 0.05,
    else "".
    """
    levels = sorted({level for method, level in scores if method == chosen})
    frames = []
    for metric in SCORES:
        rows = []
        for noise in levels:
            for rival in rivals:
                difference = (scores[chosen, noise][metric] - scores[rival, noise][metric]).double()
                low, high = (float(end[0]) for end in band(difference[:, None], seed=seed))
                row = dict(noise=noise, metric=metric, rival=rival, difference=float(difference.mean()))
                rows.append(row | dict(low=low, high=high, p=sign_flip(difference, seed)))
        frame = pd.DataFrame(rows)
        frame["p_holm"] = holm(frame.p)
        better = (frame.difference > 0) == (METRICS[metric] is max)
        frame["winner"] = np.where(frame.p_holm > SIGNIFICANT, "", np.where(better, "chosen", "rival"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def leaders(scores: Scores, metric: str = "lpips", seed: int = 0) -> pd.DataFrame:
    """Which method has the best mean at each noise level, and from which others the images cannot tell it.

    The same images say which is the best, so whatever is said of it shall hold of any method that they could
    have chosen: intervals are of all methods of the level at once (Bonferroni), p-values adjusted over all
    their pairs (Holm).

    Columns: noise, method, mean, low, high (95 % bootstrap over images), undecided: the other methods whose
    paired difference from it has an adjusted p-value above 0.05, by `denoising_tables.sign_flip`.
    """
    rows = []
    for noise in sorted({level for _, level in scores}):
        found = {m: values[metric].double() for (m, level), values in scores.items() if level == noise}
        best = METRICS[metric](found, key=lambda m: float(found[m].mean()))
        pairs = list(combinations(found, 2))
        adjusted = holm([sign_flip(found[b] - found[a], seed) for a, b in pairs])
        tied = [set(pair) for pair, q in zip(pairs, adjusted, strict=True) if q > SIGNIFICANT]
        ends = band(found[best][:, None], TAIL_RESAMPLES, 1 - SIGNIFICANT / len(found), seed)
        low, high = (float(end[0]) for end in ends)
        row = dict(noise=noise, method=best, mean=float(found[best].mean()), low=low, high=high)
        rows.append(row | {"undecided": [m for m in found if {m, best} in tied]})
    return pd.DataFrame(rows)


def shares(frame: pd.DataFrame) -> dict[str, float]:
    """What the rule of C12 takes: the shares of the comparisons won and, with `_lost`, lost, each 0 ... 1, in
    LPIPS at all levels, in SSIM at the lowest. What is neither, the images do not decide.

    frame: of `duels`.
    """
    found = {}
    for metric, part in (("lpips", frame), ("ssim", frame[frame.noise == frame.noise.min()])):
        winner = part.winner[part.metric == metric]
        found |= {
            metric: float((winner == "chosen").mean()),
            f"{metric}_lost": float((winner == "rival").mean()),
        }
    return found


def in_words(frame: pd.DataFrame) -> str:
    """What `duels` found for the claim, in a sentence's parts."""
    lowest, parts = frame.noise.min(), []
    for metric, where in (("lpips", "at all levels"), ("ssim", f"at {lowest}")):
        rows = frame[(frame.metric == metric) & ((metric == "lpips") | (frame.noise == lowest))]
        won, lost = ((rows.winner == side).sum() for side in ("chosen", "rival"))
        parts.append(f"{metric.upper()} {where}: {won} of {len(rows)} comparisons won, {lost} lost")
    return "; ".join(parts)


def _takes_part(name: str, dataset: str, way: str) -> bool:
    """Whether what was not there is missed where rivals of a data set are trained a way: BM3D and diffusion
    networks are in both ways; the names of rivals for one level end in it, as in mnist-dncnn-laptop-s0-l50.
    """
    if name.startswith(tuple(f"{dataset}-{network}-" for network in denoisers.NETWORKS)):
        return bool(re.search(r"-l\d+$", name)) == (way == "one a level")
    return name.startswith((f"{dataset}-", "bm3d"))


def trained_for_less(
    cards: Mapping[tuple[str, str, int | None], Mapping[str, Any]], dataset: str, way: str, chosen: str
) -> str:
    """In words, which rivals of a way saw fewer images in training than the chosen network; empty for none.

    cards: (data set, network, the level that it was trained for or None) -> its checkpoint's card.
    """
    whole, parts = cards[dataset, chosen, None]["images_seen"], []
    for network in denoisers.NETWORKS:
        seen = [
            card["images_seen"]
            for (where, name, level), card in cards.items()
            if (where, name) == (dataset, network) and (level is None) == (way == "blind")
        ]
        if seen and min(seen) < whole:
            parts.append(f"{denoisers.LABELS[network]} saw {min(seen):,}")
    if not parts:
        return ""
    each = " a level" if way == "one a level" else ""
    return (
        f"In training {' and '.join(parts)} images{each}, and {label(chosen)} {whole:,}: a rival might"
        " do better with as many."
    )


def claims(
    given: Mapping[str, Any],
    found: Mapping[tuple[str, str, str], pd.DataFrame],
    protocol: pd.DataFrame,
    missing: Sequence[str],
    cards: Mapping[tuple[str, str, int | None], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The scorecard's rows for C12: one a data set and way to train the rivals, with the paper's reading.

    given: parameters of notebook 09, `datasets` being those that took part. found: (dataset, way, reading) ->
    `duels`, where all rivals were there. protocol: a row for each, with dataset, rivals (the way), walk (the
    reading) and C12 (the verdict). missing: names of what was not there. cards: as in `trained_for_less`.
    """
    rows = []
    for dataset in given["datasets"]:
        for way in WAYS:
            frame = found.get((dataset, way, "best"))
            gone = [name for name in missing if _takes_part(name, dataset, way)]
            text, value, why = f"rivals {way}: missing are {', '.join(gone)}", None, None
            if frame is not None:
                text, value = f"rivals {way}: {in_words(frame)}", shares(frame)
                part = protocol[(protocol.dataset == dataset) & (protocol.rivals == way)].set_index("walk")
                kinds = ", ".join(f"{walk} {part.C12[walk]}" for walk in part.index)
                why = (
                    f"{dataset}, rivals {way}: the best image of the walk is found with the original at hand;"
                    f" by what is counted of the walk the verdict is: {kinds}."
                )
                less = trained_for_less(cards, dataset, way, given["models"][-1])
                why += f" {less}" if less else ""
                if given["size"] != "paper":
                    why += " And every network here is smaller than the paper's"
            row = dict(id="C12", measured=text, value=value, why=why, n=given["images"], dataset=dataset)
            rows.append(row | dict(size=given["size"], spread="paired tests over images; one training seed"))
    return rows
