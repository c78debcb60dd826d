"""Numbers of "The Missing U for Efficient Diffusion Models", each with its place: data, no logic.

Rows are named tuples, so `pandas.DataFrame(paper.TABLE_1)` is the paper's table. A network is called by the
name that `cunet.models` gives it; `label` is what the paper prints. Numbers are as printed, errors included:
what is wrong in print stands in `ERRATA`, and is never mended silently.

Prose in the notebooks never repeats a number of the paper. It is printed from here. What the paper claims is
in `cunet.claims`.
"""

from __future__ import annotations

from typing import NamedTuple

TITLE = "The Missing U for Efficient Diffusion Models"


class Synthesis(NamedTuple):
    """A row of table 1. fid: Frechet Inception distance; seconds: average time a sample, on a CPU."""

    dataset: str
    model: str
    fid: float
    steps: int
    seconds: float


TABLE_1 = (
    Synthesis("mnist", "unet", 3.61, 30, 3.56),
    Synthesis("mnist", "cunet", 2.98, 5, 0.54),
    Synthesis("celeba", "unet", 19.75, 100, 12.48),
    Synthesis("celeba", "cunet", 21.44, 80, 7.36),
    Synthesis("lsun_church", "unet", 12.28, 100, 12.14),
    Synthesis("lsun_church", "cunet", 12.14, 90, 8.33),
)


class Denoising(NamedTuple):
    """A row of table 2. noise: diffusion steps of noise added; ssim, lpips: the best value along the way."""

    noise: int
    model: str
    ssim: float
    lpips: float


TABLE_2 = (
    Denoising(50, "unet", 0.88, 0.025),
    Denoising(50, "cunet", 0.90, 0.019),
    Denoising(100, "unet", 0.85, 0.044),
    Denoising(100, "cunet", 0.83, 0.038),
    Denoising(150, "unet", 0.79, 0.063),
    Denoising(150, "cunet", 0.78, 0.050),
    Denoising(200, "unet", 0.74, 0.079),
    Denoising(200, "cunet", 0.71, 0.069),
    Denoising(250, "unet", 0.72, 0.104),
    Denoising(250, "cunet", 0.64, 0.084),
    Denoising(400, "unet", 0.58, 0.184),
    Denoising(400, "cunet", 0.44, 0.146),
    Denoising(600, "unet", 0.44, 0.316),
    Denoising(600, "cunet", 0.26, 0.238),
    Denoising(800, "unet", 0.32, 0.419),
    Denoising(800, "cunet", 0.18, 0.315),
)


class Peak(NamedTuple):
    """A row of table 3: the step at which SSIM, or LPIPS, was best, and the seconds taken to get there."""

    noise: int
    model: str
    ssim_step: int
    ssim_seconds: float
    lpips_step: int
    lpips_seconds: float


TABLE_3 = (
    Peak(50, "unet", 47, 5.45, 41, 4.71),
    Peak(50, "cunet", 39, 4.40, 39, 4.40),
    Peak(100, "unet", 93, 19.72, 78, 16.54),
    Peak(100, "cunet", 73, 9.89, 72, 9.69),
    Peak(150, "unet", 140, 29.69, 119, 25.18),
    Peak(150, "cunet", 103, 14.27, 102, 13.88),
    Peak(200, "unet", 186, 39.51, 161, 34.09),
    Peak(200, "cunet", 130, 18.16, 128, 17.82),
    Peak(250, "unet", 232, 49.14, 203, 43.15),
    Peak(250, "cunet", 154, 21.59, 152, 21.22),
    Peak(400, "unet", 368, 77.33, 332, 69.77),
    Peak(400, "cunet", 217, 29.60, 212, 29.19),
    Peak(600, "unet", 548, 114.90, 507, 106.42),
    Peak(600, "cunet", 265, 35.75, 263, 35.49),
    Peak(800, "unet", 731, 153.38, 668, 140.26),
    Peak(800, "cunet", 284, 39.11, 284, 39.05),
)


class Method(NamedTuple):
    """A row of table 4. method: bm3d | autoencoder | dncnn | unet | cunet."""

    noise: int
    method: str
    ssim: float
    lpips: float


TABLE_4 = (
    Method(50, "bm3d", 0.74, 0.062),
    Method(50, "autoencoder", 0.89, 0.030),
    Method(50, "dncnn", 0.89, 0.026),
    Method(50, "unet", 0.88, 0.025),
    Method(50, "cunet", 0.90, 0.019),
    Method(150, "bm3d", 0.26, 0.624),
    Method(150, "autoencoder", 0.80, 0.072),
    Method(150, "dncnn", 0.81, 0.051),
    Method(150, "unet", 0.79, 0.063),
    Method(150, "cunet", 0.78, 0.050),
    Method(400, "bm3d", 0.06, 0.977),
    Method(400, "autoencoder", 0.52, 0.204),
    Method(400, "dncnn", 0.53, 0.227),
    Method(400, "unet", 0.58, 0.184),
    Method(400, "cunet", 0.44, 0.146),
)


class Cost(NamedTuple):
    """A row of table 5. gflops: printed as GigaFLOPS (see ERRATA: multiply-accumulates); megabytes: "MB"."""

    model: str
    label: str
    gflops: float
    megabytes: float


TABLE_5 = (
    Cost("unet", "U-Net", 7.21, 545.5),
    Cost("cunet-released-5attn", "Continuous UNet (cU-Net)", 2.90, 137.9),
    Cost("cunet-released-noattn", "cU-Net wo/A (no attention)", 2.81, 128.7),
    Cost("cunet-released-nores", "cU-Net wo/R (no resblocks)", 1.71, 92.0),
    Cost("cunet-released-plain", "cU-Net wo/A/R (no attention & no resblocks)", 1.62, 88.4),
)


class Printed(NamedTuple):
    """What the authors' public notebook prints at 64 x 64 RGB; macs is None where it prints none."""

    model: str
    parameters: int
    macs: int | None


RELEASED_CODE = (
    Printed("unet", 35_710_339, 7_206_256_640),
    Printed("cunet-released", 8_811_875, 2_830_983_168),
    Printed("cunet-released-5attn", 9_140_835, None),
    Printed("cunet-released-noattn", 8_548_707, None),
    Printed("cunet-released-nores", 6_138_083, None),
    Printed("cunet-released-plain", 5_874_915, None),
)
RELEASED_RECIPE = {  # for CelebA at 64 x 64; the paper itself gives no training settings
    "batch_size": 128,
    "learning_rate": 2e-4,
    "beta1": 0.9,
    "beta2": 0.99,
    "clip": 1.0,
    "ema_decay": 0.9999,
    "schedule": "sigmoid",
    "timesteps": 1000,
    "prediction_type": "v_prediction",
    "flip": True,
    "precision": "16-mixed",
    "accumulate": 2,
    "steps": 500_000,
}
RELEASED_CODE_PLACE = "github.com/Sergio20f/cDDPM, state of 2023-07-27, output of alt_diffusion.ipynb"


class Quote(NamedTuple):
    """A number in the text. value: a fraction or a count; place: where it stands."""

    value: float
    text: str
    place: str


QUOTES = {
    "parameters_ratio": Quote(0.25, "approximately a quarter of the parameters", "abstract, 4.3"),
    "flops_ratio": Quote(0.30, "~30% of the Floating Point Operations (FLOPs)", "abstract"),
    "parameters": Quote(8.8e6, "our cUNet requires only 8.8M parameters", "4.3, fig. 6"),
}

FIGURES = {
    1: "Visual representation of the framework",
    2: "The ODE block (left) and the ODE derivative function approximator (right)",
    3: "Randomly selected generated samples by the baseline U-Net (left) and by cU-Net (right)",
    4: "Noise accumulation in images over increasing timesteps",
    5: "Original, noised, and denoised images",
    6: "Total number of parameters for U-Net and cU-Net models and variants",
    7: "Intermediate denoising predictions",
    8: "Intermediate denoising predictions: cU-Net in fewer steps",
    9: "Intermediate denoising predictions: facial features amidst the noise",
    10: "SSIM against diffusion steps at several noise levels, one image",
    11: "LPIPS against denoising steps, one image: the elbow effect",
    12: "Samples of cU-Net trained without attention",
    13: "Samples of cU-Net trained without residual connections within the ODE block",
    14: "Samples of the basic version, which only includes time embeddings",
}

EQUATIONS = {  # as printed, in TeX; only what a notebook shows
    2: r"x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(x_t - \sqrt{\beta_t} \frac{1}{\sqrt{1 - \alpha_t}}"
    r" \epsilon_\theta(x_t, t) \right) + \sigma_t z, \quad z \sim \mathcal{N}(0, I)",
}


class Erratum(NamedTuple):
    """Something wrong, or at odds with itself, in print: where, what stands there, what it should say."""

    place: str
    printed: str
    correct: str


ERRATA = (
    Erratum(
        "eq. 2",
        "the noise is weighted by sqrt(beta_t) / sqrt(1 - alpha_t), which is 1 because beta_t = 1 - alpha_t",
        "beta_t / sqrt(1 - alpha_bar_t), with alpha_bar_t the product of the alphas (Ho et al. 2020, alg. 2)",
    ),
    Erratum(
        "eq. 6",
        "the probability flow has the score weighted by g(t)^2",
        "g(t)^2 / 2 (Song et al. 2021, eq. 13); equation 8 has it right",
    ),
    Erratum(
        "prop. 3.1, eq. 10, 14",
        "the adjoint r obeys a differential equation, and that is all; r is never defined",
        "r(t_n) is the gradient of the loss by the end state, and that by theta is the integral of "
        "r^T dF/dtheta plus r(t_0)^T df/dtheta; without these two the equation determines nothing",
    ),
    Erratum(
        "eq. 10",
        "r' is a column, and equals a row: minus r^T times the Jacobian",
        "r' is minus the transposed Jacobian times r",
    ),
    Erratum(
        "eq. 13",
        "the partial derivative by x stands alone, and the first integrand lacks a d",
        "it is multiplied by dx/dtheta, and the first integrand is dx'/dtheta",
    ),
    Erratum(
        "eq. 15",
        "the sentence before it speaks of y, conditioned on x",
        "the equation is the posterior of x, given y",
    ),
    Erratum(
        "abstract",
        "about 30 % of the FLOPs",
        "table 5 gives 2.90 / 7.21, which is 40 %",
    ),
    Erratum(
        "tab. 5",
        "GigaFLOPS",
        "multiply-accumulates, half as many as floating-point operations",
    ),
    Erratum(
        "tab. 5",
        "Megabytes in Memory",
        "the size of a training checkpoint in MiB (weights, average, two Adam moments), not memory in use",
    ),
    Erratum(
        "tab. 5, no resblocks",
        "1.71 GFLOPS and 92.0 MB for one network",
        "1.71 fits five attention layers, 92.0 MB fits two",
    ),
    Erratum(
        "tab. 5, fig. 6",
        "both are said to show the cU-Net",
        "2.90 belongs to the variant with five attention layers, 8.8 M to the one with two",
    ),
    Erratum(
        "tab. 3",
        "the U-Net takes 0.116 s a step in the first row and 0.21 s in every other",
        "one network on one machine takes the same time a step; no reason is given",
    ),
)
