"""ImageNet's AlexNet, as far as metrics need it: LPIPS, and features for Frechet distances.

The convolution layers ship with the library (`assets/alexnet`), so neither needs a download.
"""

import hashlib
import warnings
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from cunet import assets, storage
from cunet.datasets import ImageDataset, checked, data_root
from cunet.provenance import code

SIDE = 64
WEIGHTS = "alexnet/alexnet_features.safetensors"
MAKERS = ("alexnet", "datasets")  # the modules that decide what features an image has


@lru_cache(1)
def trunk() -> dict[str, Tensor]:
    """Weights of the five convolution layers under torchvision's names without their `features.`."""
    weights = load(assets.read(WEIGHTS))
    return {name.removeprefix("features."): tensor for name, tensor in weights.items()}


def colour(images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, H, W): one channel is shown to the network as grey."""
    return images.expand(-1, 3, -1, -1)


class AlexNetFeatures(nn.Module):
    """Channel means of AlexNet's last convolution stage, after its ReLU: 256 numbers an image.

    Images are resized bilinearly to 64 x 64 (anti-aliased going down), so that one network and one scale
    serve every size, and normalised with ImageNet's mean and standard deviation. Always in evaluation mode.
    """

    num_features = 256

    def __init__(self):
        super().__init__()
        with torch.device("meta"):  # no initialisation: nothing is drawn from the global generator
            self.layers = nn.Sequential(
                nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
            )  # fmt: skip
        self.layers.load_state_dict(trunk(), assign=True)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AlexNetFeatures":
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images float in [-1, 1], (B, 1 or 3, H, W) -> float32 (B, 256)."""
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(
                images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
            )
        return self.layers(((colour(images) + 1) / 2 - self.mean) / self.std).mean(dim=(2, 3))


@lru_cache(1)
def features_network() -> AlexNetFeatures:
    """One `AlexNetFeatures` a process."""
    return AlexNetFeatures()


@cache
def fingerprint() -> str:
    """Hash of what decides the features of an image: the code of MAKERS and the weights."""
    return hashlib.sha256(f"{code(MAKERS)} ".encode() + assets.read(WEIGHTS)).hexdigest()


@torch.no_grad()
def features(images: Tensor | ImageDataset, batch_size: int = 250) -> Tensor:
    """AlexNet features of a set of images: float32 (N, 256), on the CPU.

    Raises:
        InputError: no images, or values that are not finite or not in [-1, 1].
    """
    network, parts = features_network(), []
    for start in range(0, max(len(images), 1), batch_size):
        chosen = slice(start, start + batch_size)
        batch = images.batch(chosen) if isinstance(images, ImageDataset) else images[chosen]
        batch = checked(batch)
        parts.append(network.to(batch.device)(batch.float()).cpu())
    return torch.cat(parts)


def dataset_features(dataset: ImageDataset, limit: int | None = None, cache: Path | None = None) -> Tensor:
    """Features of the first `limit` images of a data set (all by default), float32 (n, 256).

    They are computed once and kept in the folder `cache` (`features` under the data root), in a file named
    after the content of the data set and the code and weights that made them (`fingerprint`).
    """
    file, count = kept_for(dataset, limit, cache, "alexnet")
    found = storage.kept(file)
    if found is None:
        found = features(ImageDataset(dataset.name, dataset.split, dataset.images[:count]))
        storage.keep(file, found)
    return found


def kept_for(dataset: ImageDataset, limit: int | None, cache: Path | None, what: str) -> tuple[Path, int]:
    """The file that keeps something of the first `limit` images of a data set, and how many these are."""
    count = min(limit or len(dataset), len(dataset))
    folder = cache or data_root() / "features"
    return folder / f"{what}-{dataset.sha256[:16]}-{fingerprint()[:12]}-{count}.safetensors", count


@lru_cache(1)
def lpips_network() -> nn.Module:
    """The `lpips` package's network (AlexNet, linear heads of version 0.1) with the vendored trunk.

    `pnet_rand=True` keeps the package from downloading a trunk; what it draws in its place is overwritten,
    and the global generator is left as it was.
    """
    from lpips import LPIPS

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchvision's, about an argument that the package still passes
        network = LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    stages = dict(zip(("0", "3", "6", "8", "10"), range(1, 6), strict=True))
    weights = {f"slice{stages[name.split('.')[0]]}.{name}": tensor for name, tensor in trunk().items()}
    network.net.load_state_dict(weights)
    return network.requires_grad_(False).eval()


def enlarge(images: Tensor) -> Tensor:
    """Images whose short side is below 64, enlarged bilinearly until it is 64; others as they are."""
    short = min(images.shape[-2:])
    if short >= SIDE:
        return images
    size = [round(side * SIDE / short) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
