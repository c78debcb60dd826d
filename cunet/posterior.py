"""The posterior mean where it can be computed: over a finite set of images (equation 15 of the paper).

Let the data be M images x_k, each as likely as another, and y = x + s e with e from N(0, I). Then

    q(x_k | y) = softmax over k of -|y - x_k|^2 / (2 s^2),    E[x | y] = sum over k of q(x_k | y) x_k,

and no denoiser has a smaller mean squared error. With few images this is a toy that is known exactly. With a
training set it estimates the posterior mean of the distribution that the set was drawn from, well where the
noise is so strong that many images have a say, and not at all where one of them has it all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from .datasets import from_uint8
from .errors import InputError


class Posterior(NamedTuple):
    """mean: E[x | y], like the noisy images, float64. weights: q(x_k | y), float64 (N, M). evidence: log q(y)
    for each, float64 (N,), up to a number that is the same for all images and sets of M."""

    mean: Tensor
    weights: Tensor
    evidence: Tensor


def posterior(noisy: Tensor, images: Tensor, noise_std: float, chunk: int = 4096) -> Posterior:
    """E[x | noisy] and the weights of the images behind it.

    noisy: float (N, C, H, W), images in [-1, 1] plus noise_std e.    images: (M, C, H, W), float in [-1, 1]
    or uint8 as in `datasets.ImageDataset.images`.    chunk: images in float64 at once.

    Raises InputError for shapes that do not fit, no images, a noise_std that is not above 0, or a chunk
    below 1.
    """
    if chunk < 1:
        raise InputError(f"chunk={chunk!r}: give the number of images at once, 1 or more.")
    if images.ndim != 4 or not len(images) or images.shape[1:] != noisy.shape[1:] or not noise_std > 0:
        raise InputError(
            f"No posterior of noisy images {tuple(noisy.shape)} over images {tuple(images.shape)} at "
            f"noise_std {noise_std!r}: expected (N, C, H, W) and (M, C, H, W), M not 0, and a number above 0."
        )
    y = noisy.double().flatten(1)
    fits = [(y @ x.T - x.square().sum(1) / 2) / noise_std**2 for x in _parts(images, chunk)]
    fit = torch.cat(fits, 1)
    weights = fit.softmax(1)
    parts = zip(weights.split(chunk, 1), _parts(images, chunk), strict=True)
    return Posterior(sum(w @ x for w, x in parts).view(noisy.shape), weights, fit.logsumexp(1))


def _parts(images: Tensor, chunk: int):
    for part in images.split(chunk):
        yield (part if part.is_floating_point() else from_uint8(part)).double().flatten(1)


def estimate(noisy: Tensor, images: Tensor, noise_std: float) -> tuple[Tensor, float]:
    """The posterior mean as `images`, drawn from the data's distribution, tell it; and how exactly they do.

    Arguments as of `posterior`. Returns E[x | y], and its standard error, root mean square over pixels: half
    the difference of what two halves say. The halves are drawn: in MNIST every other image is of other
    writers, and in the drawn data sets the styles take turns.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    first, second = (posterior(noisy, images[order[i::2]], noise_std) for i in range(2))
    share = (first.evidence - second.evidence).sigmoid().view(-1, 1, 1, 1)
    apart = (first.mean - second.mean).square().mean().sqrt()
    return share * first.mean + (1 - share) * second.mean, float(apart / 2)


def perception(weights: Tensor, images: Tensor, budgets: np.ndarray) -> np.ndarray:
    """P(D) of equation 17 for a toy: the least total variation from the data at distortions D.

    weights: of `posterior`, one row a noisy image, each as likely as another.    images: float (M, C, H, W).
    budgets: distortions, in units of the least one there is, 1 or more.

    A linear program gives it without approximation. Its variables are p(y, what is shown): one of the
    images, or something else. Of everything else the posterior mean costs least, and all of it is equally
    far from the data in total variation.

    Raises InputError where the program has no solution, as for a budget below 1.
    """
    if (
        weights.ndim != 2
        or not weights.numel()
        or weights.shape[1] != len(images)
        or not weights.isfinite().all()
    ):
        raise InputError(
            f"Weights {tuple(weights.shape)} over {len(images)} images cannot be used: give those of "
            "`posterior`, finite, a row a noisy image and a column an image."
        )
    x, weights = images.double(), weights.double()
    mean = torch.einsum("nk,kchw->nchw", weights, x)
    pairs, gaps = _distances(x, x), _distances(mean, x)
    least = (weights * gaps).sum(1)
    price = torch.cat([weights @ pairs, least[:, None]], 1) / least.mean()
    count, options, atoms = *price.shape, len(x)
    # what is shown of each image, plus what p_Xhat lacks of p_X (the positive part), is at least p_X
    shows = np.hstack([np.tile(np.eye(atoms, options), (1, count)), np.eye(atoms)])
    costs = np.append(price.numpy().ravel(), np.zeros(atoms))
    seen = np.hstack([np.kron(np.eye(count), np.ones(options)), np.zeros((count, atoms))])
    goal = np.append(np.zeros(count * options), np.ones(atoms))
    prior, each = weights.mean(0).numpy(), np.full(count, 1 / count)
    found = [linprog(goal, np.vstack([-shows, costs]), np.append(-prior, b), seen, each) for b in budgets]
    for budget, one in zip(budgets, found, strict=True):
        if one.fun is None:
            raise InputError(
                f"There is no P(D) at {float(budget):g} times the least distortion: {one.message} Give "
                "budgets of 1 or more, and weights of which every row sums to 1."
            )
    return np.array([one.fun for one in found])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared differences over pixels: (N, C, H, W), (M, C, H, W) -> (N, M)."""
    return (a[:, None] - b[None]).square().flatten(2).mean(2)
