"""Denoisers that are no diffusion networks, and those that are, behind one interface (table 4 of the paper):

    denoiser(noisy, noise_std) -> clean

noisy is x + noise_std e with e from N(0, I), float32 (B, C, H, W), where x is an image in [-1, 1]; noise_std
is a number above 0; clean is of the shape of noisy, in [-1, 1].

From a diffusion step to a noise level. The forward process adds noise and takes contrast away, x_t =
sqrt(abar_t) x_0 + sqrt(1 - abar_t) e. Only after division by sqrt(abar_t) is that an image plus noise,

    x_t / sqrt(abar_t) = x_0 + s_t e,    s_t = sqrt(1 / abar_t - 1),

and this is what BM3D and networks trained on x + noise must be given, with noise_std = s_t (given x_t
itself, they see a darker image and a noise that is not the one they were told). `level_for` goes from s to
the nearest t. A diffusion network wants x_t: for it the scaling is put back.

    bm3d          Dabov et al. 2007, channel by channel, told the noise level
    autoencoder   convolutional, not told the noise level
    dncnn         Zhang et al. 2017: predicts the noise, not told its level
    others        the names of cunet.models: the reverse process, started at the noise level
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoints, datasets
from .denoising import level_for
from .diffusion import Diffusion
from .errors import InputError, one_of
from .models import IMAGE_SIZE, MODELS, SIZES
from .samplers import evenly_spaced_timesteps
from .sampling import NoiseStreams, device_of, evaluating, walk, whole_numbers

Denoiser = Callable[[Tensor, float], Tensor]
SMALLEST = 16  # pixels: on smaller images the BM3D library ends the process


class Autoencoder(nn.Module):
    """A convolutional autoencoder: four halvings, four doublings, a sigmoid; no skip goes past the middle.

    Stride 2, widths 64-128-256-512, transposed convolutions of kernel 4 and the sigmoid are the authors';
    kernels of 3 on the way down, batch norm and ReLU are ours.

    channels: of the image.    width: the first of the four.
    """

    def __init__(self, channels: int = 3, width: int = 64):
        super().__init__()
        widths, layers = (channels, width, 2 * width, 4 * width, 8 * width), []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        for a, b in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-2], nn.Sigmoid())

    def forward(self, noisy: Tensor) -> Tensor:
        """x + noise -> x in [-1, 1]; both (B, C, H, W). Raises InputError unless 16 divides H and W."""
        if noisy.shape[-1] % 16 or noisy.shape[-2] % 16:
            raise InputError(
                f"The images are {noisy.shape[-2]} x {noisy.shape[-1]} pixels, but the autoencoder halves "
                "both sides four times: pad or cut them to multiples of 16."
            )
        return 2 * self.layers(noisy) - 1


class DnCNN(nn.Module):
    """x + noise - R(x + noise): `depth` convolutions R that predict the noise (Zhang et al. 2017, section 3).

    Batch norm after all but the first and the last. None has a bias, as in the authors' code: 669,312
    parameters at three channels.    channels: of the image.    width: of the layers between.
    """

    def __init__(self, channels: int = 3, width: int = 64, depth: int = 20):
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
        layers = [conv(channels, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [conv(width, width), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, conv(width, channels))

    def forward(self, noisy: Tensor) -> Tensor:
        """x + noise -> x, not cut to any range; both (B, C, H, W), any H and W."""
        return noisy - self.layers(noisy)


NETWORKS = {"autoencoder": Autoencoder, "dncnn": DnCNN}
WIDTHS = {"paper": 64, "laptop": 16, "smoke": 4}  # a quarter at laptop size, as of the diffusion networks
METHODS = ("bm3d", *NETWORKS, *MODELS)
LABELS = {"bm3d": "BM3D", "autoencoder": "autoencoder", "dncnn": "DnCNN"}


def variant(level: int | None = None) -> str:
    """The last part of a checkpoint's name: `l50` of a network for 50 steps of noise, none of a blind one."""
    return "" if level is None else f"l{level}"


def build(name: str, size: str = "paper", channels: int = 3) -> nn.Module:
    """An untrained network of NETWORKS, called as network(noisy); attributes as of `cunet.models.build`.

    size: of cunet.models.SIZES.    channels: 1 or 3.    Raises InputError for an unknown name or size.
    """
    one_of("denoising network", name, NETWORKS)
    one_of("size", size, SIZES)
    network = NETWORKS[name](channels=channels, width=WIDTHS[size])
    network.name, network.size, network.channels = name, size, channels
    network.image_size, network.evaluations = IMAGE_SIZE[size], 0
    return network


# -------------------------------------------------------------------------------------------------- denoisers


class BM3D:
    """BM3D of the package `bm3d`, every channel of every image alone, as the paper's authors called it.

    `channels` and `side`: None, it takes any. The package is free for non-commercial use only, and therefore
    no dependency of this library: it comes with the `dev` extra.    Raises InputError where it is missing.
    """

    channels = side = card = None

    def __init__(self):
        try:
            import bm3d
        except ModuleNotFoundError as error:
            raise InputError(
                "The package bm3d is not installed. `pip install bm3d` installs it (its licence allows "
                "non-commercial use only); or choose another method."
            ) from error
        profile = bm3d.BM3DProfile()
        profile.num_threads = 1  # with more, the order of its sums differs from call to call
        # The domain of the variances' FFT: 16 pixels hold all overlaps of its blocks of 8, which is all that
        # white noise asks for, and take a quarter of the default's time at the same error
        profile.nf = 16
        self.filter = partial(bm3d.bm3d, profile=profile)

    def __call__(self, noisy: Tensor, noise_std: float) -> Tensor:
        _check(noisy, noise_std)
        if min(noisy.shape[-2:]) < SMALLEST:
            raise InputError(
                f"BM3D takes images of {SMALLEST} pixels a side or more, not {tuple(noisy.shape[-2:])}."
            )
        planes = noisy.detach().cpu().double().flatten(0, 1).numpy()
        clean = [
            self.filter((plane + 1) / 2, sigma_psd=noise_std / 2).reshape(plane.shape) for plane in planes
        ]
        return torch.from_numpy(np.stack(clean)).float().mul(2).sub(1).clamp(-1, 1).view(noisy.shape)


class Feedforward:
    """A network of NETWORKS as a denoiser: one call, and the noise level is not told to it.

    `channels` and `side` are those of the images that it was trained on.    batch_size: images a call.
    """

    def __init__(self, network: nn.Module, card: dict[str, Any] | None = None, batch_size: int = 64):
        self.network, self.card, self.batch_size = network, card, batch_size
        self.channels, self.side = network.channels, network.image_size

    @torch.no_grad()
    def __call__(self, noisy: Tensor, noise_std: float) -> Tensor:
        _check(noisy, noise_std, self.channels)
        device = device_of(self.network)
        with evaluating(self.network):
            parts = [self.network(part.to(device)) for part in noisy.float().split(self.batch_size)]
        return torch.cat(parts).clamp(-1, 1).cpu()


class Diffusing:
    """A diffusion network as a denoiser: x_t is made of x + noise, and the reverse process walks from there.

    Every step goes to the posterior mean and no noise is added, the walk of `cunet.denoising`'s tables.
    steps: network calls, spread evenly over the noise level's; one call gives the network's estimate of
    E[x | noisy], more give more detail and more distortion. Not more are made than the level has.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: Diffusion,
        steps: int = 10,
        card: dict[str, Any] | None = None,
        batch_size: int = 64,
    ):
        whole_numbers(steps=(steps, 1))
        self.network, self.diffusion, self.steps, self.card = network, diffusion, steps, card
        self.channels, self.side, self.batch_size = network.channels, network.image_size, batch_size

    def timesteps(self, level: int) -> list[int]:
        """The diffusion steps at which the network is asked: from level - 1 down, `steps` of them."""
        return evenly_spaced_timesteps(level, min(self.steps, level))

    def __call__(self, noisy: Tensor, noise_std: float) -> Tensor:
        _check(noisy, noise_std, self.channels)
        level = level_for(self.diffusion, noise_std)
        contrast = float(self.diffusion.alphas_cumprod[level - 1].sqrt())
        done = []
        with evaluating(self.network):
            for part in noisy.float().split(self.batch_size):
                x = part.to(device_of(self.network)) * contrast
                for step in walk(self.network, x, self.diffusion, self.timesteps(level), "ddpm"):
                    x = step.x
                done.append(x.clamp(-1, 1).cpu())
        return torch.cat(done)


def suited(channels: int, method: str, size: str = "laptop") -> str:
    """The data set whose released network suits a picture: mnist for a grey one, avatars for colours.

    The other one where that network was not released.    channels: of the picture.    method, size: as of
    `load`.
    """
    first, second = ("mnist", "avatars") if channels == 1 else ("avatars", "mnist")
    found, _ = checkpoints.there(checkpoints.ASSETS, size, [first, second], [method])
    return next((which.dataset for which in found), first)


def load(
    method: str,
    dataset: str = "mnist",
    size: str = "laptop",
    folder: Path | None = None,
    seed: int = 0,
    variant: str = "",
    steps: int = 10,
) -> BM3D | Feedforward | Diffusing:
    """A denoiser by its name.

    method: of METHODS.    dataset, size, seed, variant: which training of a network.    folder: of the
    checkpoint; None is the released ones.    steps: of a diffusion network.

    Raises InputError for an unknown name, and where the checkpoint is missing: the text says how to make it.
    """
    one_of("denoising method", method.partition("@")[0], METHODS)
    if method == "bm3d":
        return BM3D()
    one_of("data set", dataset.partition(":")[0], datasets.DATASETS)
    one_of("size", size, SIZES)
    path = (
        folder or checkpoints.ASSETS
    ) / f"{checkpoints.stem(dataset, method, size, seed, variant)}.safetensors"
    if not path.is_file():
        options = f"--dataset {dataset} --size {size} --seed {seed} --out FOLDER"
        command = f"cunet train --model {method} {options}"
        if method in NETWORKS:
            command = f"python -m cunet.denoiser_training --method {method} {options}"
            command += f" --variant {variant}" if variant else ""
        raise InputError(
            f"There is no checkpoint {path.name} in {path.parent}. Make it with `{command}`, and give its "
            "folder or path; or choose another method, size or data set."
        )
    return from_checkpoint(path, steps, method)


def from_checkpoint(path: Path, steps: int = 10, method: str | None = None) -> Feedforward | Diffusing:
    """The denoiser of a checkpoint's file. method: the network it must hold; None takes any.

    Raises InputError as `checkpoints.load`, and for steps below 1.
    """
    network, card = checkpoints.load(path, model=method)
    if card["model"] in NETWORKS:
        return Feedforward(network, card)
    return Diffusing(network, checkpoints.diffusion(card, path), steps, card)


def noisy_images(diffusion: Diffusion, images: Tensor, level: int, seed: int = 0) -> Tensor:
    """images + s e for the noise of `level` diffusion steps, the forward process' scaling undone.

    images: (N, C, H, W) float in [-1, 1].    level: 1 ... T.    The noise of image i is that of
    `denoising.denoise` for the same seed and level, so that all methods get the same noisy images.
    """
    numbers = [i * (diffusion.timesteps + 1) + level for i in range(len(images))]
    noise = NoiseStreams(seed, numbers, images.shape[1:])()
    x_t = diffusion.add_noise(images.float(), noise, level - 1)
    return x_t / float(diffusion.alphas_cumprod[level - 1].sqrt())


def _check(noisy: Tensor, noise_std: float, channels: int | None = None) -> None:
    if noisy.ndim != 4 or not len(noisy) or not noisy.is_floating_point() or not noisy.isfinite().all():
        raise InputError(
            f"Images of shape {tuple(noisy.shape)} and dtype {noisy.dtype} cannot be denoised: expected "
            "finite float (N, C, H, W), N >= 1, an image in [-1, 1] plus noise."
        )
    if channels not in (None, noisy.shape[1]):
        raise InputError(f"The images have {noisy.shape[1]} channels, but this network takes {channels}.")
    if not 0 < noise_std < float("inf"):
        raise InputError(f"noise_std={noise_std!r}: expected the noise's standard deviation, above 0.")
