"""Metrics: equal to what others use, right where the answer is known, and bad input is refused."""

import dataclasses
import hashlib
import os
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from cunet import alexnet, datasets, frechet, metrics
from cunet.errors import InputError

PAIRWISE = (metrics.ssim, metrics.psnr, metrics.lpips)


def smooth(count=3, channels=3, side=32, seed=0):
    """Smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(-1, 1)


def noisy(images, strength=0.3, seed=1):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + strength * noise).clamp(-1, 1)


@pytest.fixture(scope="module")
def digits():
    return {split: datasets.load("mnist", split).batch(slice(0, 280)) for split in ("train", "test")}


@pytest.fixture(scope="module")
def digit_features(digits):
    return {split: metrics.features(images) for split, images in digits.items()}


# image by image


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32), (3, 24)])
def test_ssim_and_psnr_equal_scikit_images(channels, side):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a = smooth(channels=channels, side=side)
    b = noisy(a)
    if side == 24:  # bright and all but flat, where float32 would lose the variances; and not square
        a, b = (0.9 + 1e-3 * x[..., :16] for x in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
    # skimage's constants are (K * range)^2: on [-1, 1] with range 2 they equal ours on [0, 1] with range 1
    arrays = [x.permute(0, 2, 3, 1).double().numpy() for x in (a, b)]
    theirs = [
        structural_similarity(x + 1, y + 1, channel_axis=-1, **options) for x, y in zip(*arrays, strict=True)
    ]
    assert metrics.ssim(a, b).numpy() == pytest.approx(np.array(theirs), abs=1e-4)
    theirs = [peak_signal_noise_ratio(x, y, data_range=2.0) for x, y in zip(*arrays, strict=True)]
    assert metrics.psnr(a, b).numpy() == pytest.approx(np.array(theirs), abs=1e-4)


def test_lpips_equals_the_packages_own_module_from_64_pixels_up():
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    convolutions = [layer for layer in module.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer, index in zip(convolutions, (0, 3, 6, 8, 10), strict=True):
        layer.weight.data, layer.bias.data = (
            alexnet.trunk()[f"{index}.weight"],
            alexnet.trunk()[f"{index}.bias"],
        )
    a = smooth(2, side=64)
    b = noisy(a)
    with torch.no_grad():
        assert metrics.lpips(a, b) == pytest.approx(module(a, b).flatten(), abs=1e-6)
        up = [F.interpolate(x[:, :, ::2, ::2], size=64, mode="bilinear") for x in (a, b)]
        expected = module(*up).flatten()
    assert metrics.lpips(a[:, :, ::2, ::2], b[:, :, ::2, ::2]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 24, 40), (2, 1, 72, 72)])
def test_lpips_takes_any_side_from_16_up_and_grows_with_noise(shape):
    a = smooth(2, shape[1], max(shape[2:]))[..., : shape[2], : shape[3]]
    low, high = metrics.lpips(a, noisy(a, 0.05)), metrics.lpips(a, noisy(a, 0.5))
    assert low.shape == (2,) and (low > 0).all() and (high > 2 * low).all()
    assert metrics.lpips(a, a).abs().max() < 1e-6


def test_every_pairwise_metric_gives_one_value_a_pair_whatever_the_batch():
    a = smooth(3)
    b = noisy(a)
    for metric in PAIRWISE:
        together = metric(a, b)
        assert together.shape == (3,) and together.dtype == torch.float32
        assert together[1:2] == pytest.approx(metric(a[1:2], b[1:2]), rel=1e-5)
    assert metrics.lpips(a, b, batch_size=2) == pytest.approx(metrics.lpips(a, b), abs=1e-6)
    assert metrics.ssim(a, a) == pytest.approx(torch.ones(3)) and metrics.psnr(a, a).isposinf().all()


def test_metrics_leave_the_global_generator_alone():
    alexnet.lpips_network.cache_clear()
    alexnet.features_network.cache_clear()
    a = smooth(2, 1, 16)
    torch.manual_seed(5)
    metrics.lpips(a, noisy(a))
    found = metrics.features(a)
    metrics.kid(found.repeat(2, 1), found.repeat(3, 1), subsets=2)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))


class Levels(torch.nn.Module):
    """Stands for Inception: the mean of each channel, at once."""

    num_features = 3

    def forward(self, images):
        return images.double().mean((2, 3))


def fid(real, generated):
    """FID, its network but for a stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        metric = FrechetInceptionDistance(feature=Levels())
        patch.setattr(frechet, "_inception", lambda *_: (metric, "0" * 64))
        return metrics.fid(real, generated, weights="stand-in")


SETS = (metrics.frechet_distance, fid, metrics.kid, metrics.precision_recall, metrics.features)


def test_the_stand_in_for_inception_gives_a_distance():
    assert 0 < fid(smooth(4), smooth(4, seed=1)).value < torch.inf


@pytest.mark.parametrize("metric", [*PAIRWISE, *SETS], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: x * 2, "values from"),
        (lambda x: (x + 1) * 127.5, "values from"),
        (lambda x: x.where(x > x.min(), torch.nan), "nan"),
        (lambda x: x.where(x > x.min(), torch.inf), "inf"),
        (lambda x: datasets.to_uint8(x), "uint8"),
        (lambda x: x[:0], "no batch"),
        (lambda x: x[0], "no batch"),
        (lambda x: x[:, [0, 1]], "channels"),
    ],
)
def test_images_that_are_empty_or_not_in_range_are_refused(metric, spoil, named):
    a = smooth(2, 3, 16)
    for pair in ((a, spoil(a)), (spoil(a), a)):
        with pytest.raises(InputError, match=named):
            metric(*pair) if metric is not metrics.features else [metric(images) for images in pair]


@pytest.mark.parametrize("metric", PAIRWISE, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("level", [-1.0, 0.25])
def test_originals_of_one_value_throughout_are_refused_and_a_blank_answer_is_scored(metric, level):
    a = smooth(3, 1, 16)
    blank = torch.full_like(a, level)
    with pytest.raises(InputError, match=f"Every pixel of 3 originals is {level:.4g}"):
        metric(blank, a)
    for pair in ((a, blank), (blank[:1], a[:1])):  # a network that collapsed; one that is alone in its group
        assert bool(torch.isfinite(metric(*pair)).all())
    b = noisy(a)
    b[1] = level
    assert bool(torch.isfinite(metric(a, b)).all())


@pytest.mark.parametrize("metric", [metrics.frechet_distance, metrics.kid, metrics.precision_recall])
@pytest.mark.parametrize("alike", [torch.zeros(5, 1, 16, 16), smooth(1, 1, 16).repeat(5, 1, 1, 1)])
def test_sets_of_one_and_the_same_image_are_refused(metric, alike):
    for pair in ((alike, smooth(5, 1, 16)), (smooth(5, 1, 16), alike)):
        with pytest.raises(InputError, match="5 images of one of the two sets all have the same features"):
            metric(*pair)


def test_pairs_of_different_or_too_small_shape_are_refused():
    with pytest.raises(InputError, match="cannot be compared"):
        metrics.ssim(smooth(2), smooth(3))
    with pytest.raises(InputError, match="16 pixels"):
        metrics.lpips(smooth(2, side=8), smooth(2, side=8))


# set against set


def with_moments(mean, deviations, count, seed=0):
    """Features whose sample mean and covariance (n - 1) are exactly `mean` and diag(deviations^2)."""
    x = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x -= x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T
    return x @ whiten * torch.tensor(deviations).double() + torch.tensor(mean).double()


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form():
    real = with_moments([0.0, 1.0, -2.0], [1.0, 2.0, 0.5], 40)
    generated = with_moments([0.5, 1.0, 1.0], [1.5, 1.0, 0.5], 30, seed=1)
    expected = (0.5**2 + 3.0**2) + (0.5**2 + 1.0**2)
    found = metrics.frechet_distance(real, generated)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert (found.n_real, found.n_generated, found.dimension, found.note) == (40, 30, 3, "")
    assert metrics.frechet_distance(real, real).value == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_correlated_gaussians_is_scipys():
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(3)
    real, generated = (
        torch.randn(60, 5, generator=generator).double() @ torch.randn(5, 5, generator=generator).double()
        for _ in range(2)
    )
    first, second = (torch.cov(x.T) for x in (real, generated))
    root = torch.as_tensor(sqrtm((first @ second).numpy()).real)
    expected = (real.mean(0) - generated.mean(0)).square().sum() + torch.trace(first + second - 2 * root)
    assert metrics.frechet_distance(real, generated).value == pytest.approx(float(expected), rel=1e-8)


def test_batches_statistics_and_features_give_the_distance_of_the_whole():
    real, generated = with_moments([0.0] * 3, [1.0] * 3, 50), with_moments([1.0] * 3, [2.0] * 3, 40, seed=1)
    whole = metrics.frechet_distance(real, generated).value
    metric = metrics.FrechetAlexNet(dimension=3)
    for part in real.split(7):
        metric.update(part, real=True)
    metric.update(generated, real=False)
    assert metric.compute().value == pytest.approx(whole, rel=1e-9)
    known = metric.statistics()
    assert known.count == 50
    assert metrics.FrechetAlexNet(known, 3).update(generated, real=False).compute().value == pytest.approx(
        whole
    )
    both = metrics.FrechetAlexNet(real[:20], 3).update(
        metrics.FrechetAlexNet(real[20:], 3).statistics(), real=True
    )
    assert both.update(generated, real=False).compute().value == pytest.approx(whole)
    assert metrics.frechet_distance(known, metric.statistics(real=False)).value == pytest.approx(whole)


def test_sets_too_small_are_refused_or_noted():
    real = with_moments([0.0] * 3, [1.0] * 3, 50)
    assert "singular" in metrics.frechet_distance(real, real[:3]).note
    with pytest.raises(InputError, match="1 generated"):
        metrics.frechet_distance(real, real[:1])
    with pytest.raises(InputError, match="0 generated"):
        metrics.FrechetAlexNet(real, 3).compute()
    with pytest.raises(InputError, match="Features"):
        metrics.frechet_distance(real, real[:, :2])
    with pytest.raises(InputError, match="Features"):
        metrics.frechet_distance(real, real.where(real > 0, torch.nan))


def test_alexnet_features_are_those_of_torchvisions_layers():
    from torchvision.models import alexnet as torchvision_alexnet

    with torch.device("meta"):
        reference = torchvision_alexnet().features[:12]
    reference.load_state_dict(alexnet.trunk(), assign=True)
    images = smooth(2, 3, 64)
    from torchvision.transforms.functional import normalize

    unit = normalize((images + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = reference(unit).mean(dim=(2, 3))
    found = metrics.features(images)
    assert found.shape == (2, 256) and torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(found, metrics.features(images)) and not alexnet.features_network().train().training


def test_grey_images_have_the_features_of_their_colour_copies():
    grey = smooth(2, 1, 24)
    assert torch.allclose(metrics.features(grey), metrics.features(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_train_against_test_digits_is_far_closer_than_noise(digits, digit_features):
    floor = metrics.frechet_distance(digit_features["train"], digit_features["test"]).value
    noise = torch.rand(280, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    far = metrics.features(noise)
    assert 0 < floor < metrics.frechet_distance(digit_features["train"], far).value / 20
    blurred = F.avg_pool2d(digits["test"], 3, stride=1, padding=1, count_include_pad=False)
    assert metrics.frechet_distance(digit_features["train"], blurred).value > 3 * floor
    assert (
        abs(metrics.kid(digit_features["train"], digit_features["test"], subsets=5)[0])
        < 0.05 * (metrics.kid(digit_features["train"], far, subsets=5)[0])
    )
    assert min(metrics.precision_recall(digit_features["train"], digit_features["test"])) > 0.6
    assert metrics.precision_recall(digit_features["train"], far) == (0, 0)


def test_precision_falls_with_strange_images_and_recall_with_missing_ones():
    generator = torch.Generator().manual_seed(0)
    real = torch.cat(
        [torch.randn(100, 4, generator=generator), torch.randn(100, 4, generator=generator) + 50]
    )
    one_mode = torch.randn(200, 4, generator=generator)
    precision, recall = metrics.precision_recall(real, one_mode)
    assert precision > 0.8 and recall == pytest.approx(0.5, abs=0.1)
    with pytest.raises(InputError, match="neighbours"):
        metrics.precision_recall(real, one_mode[:3])


def test_kid_is_unbiased_about_zero_and_repeatable():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(200, 8, generator=generator) for _ in range(2)]
    mean, deviation = metrics.kid(*sets, subsets=20, size=100)
    assert abs(mean) < 3 * deviation and metrics.kid(*sets, subsets=20, size=100) == (mean, deviation)
    assert metrics.kid(sets[0], sets[1] + 1, subsets=20, size=100)[0] > 10 * abs(mean)


def test_features_of_a_data_set_are_kept_by_content(tmp_path, monkeypatch):
    dataset = datasets.ImageDataset("x", "train", datasets.to_uint8(smooth(5, 1, 16)))
    first = metrics.dataset_features(dataset, limit=4, cache=tmp_path)
    assert torch.equal(first, metrics.features(dataset)[:4]) and first.shape == (4, 256)
    other = datasets.ImageDataset("x", "train", dataset.images.flip(0))
    assert not torch.equal(metrics.dataset_features(other, limit=4, cache=tmp_path), first)
    with monkeypatch.context() as patch:
        patch.setattr("cunet.alexnet.features", None)
        assert torch.equal(metrics.dataset_features(dataset, limit=4, cache=tmp_path), first)
    for other in ("code", "weights"):  # what was kept by other code or with other weights is not believed
        with monkeypatch.context() as patch:
            alexnet.fingerprint.cache_clear()
            if other == "code":
                patch.setattr("cunet.alexnet.code", lambda modules: "another")
            else:
                patch.setattr("cunet.alexnet.WEIGHTS", "mnist/t10k-labels-idx1-ubyte.gz")
            patch.setattr("cunet.alexnet.features", lambda images: torch.zeros(len(images), 256))
            assert not metrics.dataset_features(dataset, limit=4, cache=tmp_path).any()
    alexnet.fingerprint.cache_clear()


def test_statistics_of_a_data_set_are_computed_once_and_again_where_what_was_kept_is_damaged(
    tmp_path, monkeypatch
):
    dataset = datasets.ImageDataset("x", "train", datasets.to_uint8(smooth(6, 1, 16)))
    wanted = frechet.FrechetAlexNet(metrics.features(dataset)).statistics()
    first = frechet.dataset_statistics(dataset, cache=tmp_path)
    assert first.count == 6 and first.outer.dtype == torch.float64
    fewer = frechet.dataset_statistics(dataset, limit=4, cache=tmp_path)
    assert fewer.count == 4 and not torch.allclose(fewer.total, first.total)
    for found, expected in zip(first[:2], wanted[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    with monkeypatch.context() as patch:
        patch.setattr(frechet, "FrechetAlexNet", None)
        patch.setattr(frechet, "dataset_features", None)
        again = frechet.dataset_statistics(dataset, cache=tmp_path)
    assert again.count == 6 and all(map(torch.equal, again[:2], first[:2]))
    other = datasets.ImageDataset("x", "train", dataset.images.flip(-1))
    assert not torch.equal(frechet.dataset_statistics(other, cache=tmp_path).outer, first.outer)
    (file,) = tmp_path.glob(f"statistics-*-{dataset.sha256[:16]}-*-6.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="damaged .* made again"):
        made = frechet.dataset_statistics(dataset, cache=tmp_path)
    assert all(map(torch.equal, made[:2], first[:2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet.dataset_statistics(dataset, cache=tmp_path)


# FID with Inception


def test_fid_without_weights_is_skipped_and_says_so():
    result = metrics.fid(smooth(2), smooth(2), weights=None)
    assert result.value is None and "skipped" in result.note and result.name == "FID"
    with pytest.raises(InputError, match="skipped"):
        float(result)


def test_inception_weights_are_not_opened_before_their_hash_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    with pytest.raises(InputError, match="do not exist"):
        metrics.fid(smooth(2), smooth(2), weights=tmp_path / "none.pth")
    (tmp_path / "other.pth").write_bytes(b"something else")
    assert re.fullmatch("6726825d[0-9a-f]{56}", frechet.INCEPTION_SHA256), "all of the hash, not the name's"
    with pytest.raises(InputError, match="SHA-256"):
        metrics.fid(smooth(2), smooth(2), weights=tmp_path / "other.pth")
    with pytest.raises(InputError, match="SHA-256"):  # no hash is no check
        metrics.fid(smooth(2), smooth(2), weights=tmp_path / "other.pth", sha256="")


def test_fid_runs_inception_from_a_file_and_never_unpickles_objects(tmp_path, monkeypatch):
    from torch_fidelity import FeatureExtractorInceptionV3

    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with monkeypatch.context() as patch, torch.device("meta"):
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        shapes = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file)).state_dict()
    constant = {key: torch.full_like(value, 1, device="cpu") for key, value in shapes.items()}
    for key in constant:
        if key.endswith("conv.weight"):
            constant[key] /= constant[key][0].numel()
    torch.save(constant, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    means = lambda mu1, sigma1, mu2, sigma2: (mu1 - mu2).square().sum()  # noqa: E731
    monkeypatch.setattr("torchmetrics.image.fid._compute_fid", means)  # the root of 2048 x 2048 takes seconds
    dark, bright = (
        torch.tensor(levels).view(2, 1, 1, 1).expand(2, 1, 16, 16) for levels in ([0.1, 0.2], [0.9, 1.0])
    )
    result = metrics.fid(dark, bright, weights=file, sha256=digest[:8], batch_size=2)
    for pair in ((dark, bright[:1].repeat(2, 1, 1, 1)), (dark[:1].repeat(2, 1, 1, 1), bright)):
        with pytest.raises(InputError, match="2 images of one of the two sets all have the same features"):
            metrics.fid(*pair, weights=file, sha256=digest[:8])
    assert result.value > 100 and "2048" in result.note and result.dimension == 2048

    dataset = datasets.ImageDataset("dark", "train", datasets.to_uint8(dark))
    again = metrics.fid(dataset, bright, weights=file, sha256=digest, cache=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("inception-*"))) == 1
    with monkeypatch.context() as patch:  # the real set's images are not looked at a second time
        patch.setattr(datasets.ImageDataset, "batch", lambda *_: pytest.fail("computed again"))
        kept = metrics.fid(dataset, bright, weights=file, sha256=digest, cache=tmp_path / "kept")
    assert kept == again == dataclasses.replace(result, value=pytest.approx(result.value, rel=1e-3))

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    file.write_bytes(pickle.dumps(Trap(), protocol=2))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="not a file of tensors"):
        metrics.fid(smooth(2), smooth(2), weights=file, sha256=digest)
    assert not (tmp_path / "executed").exists()


# what readers ask next


def test_the_bootstrap_interval_of_a_mean_is_the_textbook_one_and_covers():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    estimate, low, high = metrics.bootstrap_interval(values, resamples=500)
    half = 1.96 * float(values.std()) / 20
    assert estimate == pytest.approx(float(values.mean()), abs=1e-6)
    assert (estimate - low, high - estimate) == (pytest.approx(half, rel=0.2), pytest.approx(half, rel=0.2))
    draws = torch.randn(60, 30, generator=torch.Generator().manual_seed(1))
    intervals = [metrics.bootstrap_interval(row, resamples=100) for row in draws]
    assert 0.8 < sum(low < 0 < high for _, low, high in intervals) / 60 <= 1


def test_a_centred_interval_contains_the_frechet_distance_that_resampling_inflates():
    real, generated = with_moments([0.0] * 8, [1.0] * 8, 200), with_moments([0.0] * 8, [1.0] * 8, 30, seed=1)

    def statistic(rows):
        return metrics.frechet_distance(known, rows).value

    known = metrics.FrechetAlexNet(real, 8).statistics()
    plain = metrics.bootstrap_interval(generated, statistic, resamples=30)
    centred = metrics.bootstrap_interval(generated, statistic, resamples=30, centred=True)
    assert plain.low > plain.estimate, "the trap that centring is for"
    assert centred.low < centred.estimate == plain.estimate < centred.high


@pytest.mark.parametrize("values", [torch.tensor([1.0]), torch.tensor([1.0, torch.inf]), torch.tensor(1.0)])
def test_an_interval_needs_two_finite_values(values):
    with pytest.raises(InputError, match="interval"):
        metrics.bootstrap_interval(values)


def test_nearest_finds_the_copy_and_its_distance():
    reference = torch.randint(0, 255, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    reference[20:30] = reference[[7, 31, 2, 7, 31, 2, 7, 31, 2, 7]] // 2  # darker copies are not nearer
    images = reference[[7, 31, 2]].clone()
    images[1] += 1
    read = datasets.Slices(3, lambda first, end: images[first:end])
    for some in (images, read):
        for rows in (3, 8, 4000):
            distances, index = metrics.nearest(some, reference, chunk=2, rows=rows)
            assert index.tolist() == [7, 31, 2] and distances.tolist() == [0, 1, 0]
    found = metrics.near_duplicates(images[:2], reference[20:])
    assert (found.share, found.least, found.threshold) == (0.5, 1, 8) and found.median < 8
    with pytest.raises(InputError, match="one shape"):
        metrics.nearest(images, reference[:, :1])
