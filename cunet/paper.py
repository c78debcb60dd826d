"""Numbers and claims of "The Missing U for Efficient Diffusion Models", each with its place: data, no logic.

Rows are named tuples, so `pandas.DataFrame(paper.TABLE_1)` is the paper's table. A network is called by the
name that `cunet.models` gives it; `label` is what the paper prints. Numbers are as printed, errors included:
what is wrong in print stands in `ERRATA`, and is never mended silently.

Prose in the notebooks never repeats a number of the paper. It is printed from here.
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
    """A number in the text. value: a fraction, a count, or a (low, high) pair; place: where it stands."""

    value: float | tuple[float, float]
    text: str
    place: str


QUOTES = {
    "parameters_ratio": Quote(0.25, "approximately a quarter of the parameters", "abstract, 4.3"),
    "flops_ratio": Quote(0.30, "~30% of the Floating Point Operations (FLOPs)", "abstract"),
    "parameters": Quote(8.8e6, "our cUNet requires only 8.8M parameters", "4.3, fig. 6"),
    "faster": Quote((0.30, 0.80), "being about 30% to 80% faster", "4.1"),
    "synthesis_samples": Quote(30_000, "each containing 30,000 generated samples", "4.1"),
    "denoising_images": Quote(300, "we evaluated 300 images", "4.2"),
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

EQUATIONS = {  # as printed, in TeX
    1: r"y(0) = y_0, \quad \frac{dy}{dt}(t) = f_\theta(t, y(t))",
    2: r"x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(x_t - \sqrt{\beta_t} \frac{1}{\sqrt{1 - \alpha_t}}"
    r" \epsilon_\theta(x_t, t) \right) + \sigma_t z, \quad z \sim \mathcal{N}(0, I)",
    3: r"\epsilon_{\theta}(x_t, t) \approx \tilde{U}(x_t, t, \tilde{t}; \theta)",
    4: r"x''_{\tilde{t}} = f^{(a)}(x_{\tilde{t}}, x'_{\tilde{t}}, t, \tilde{t}, \theta_f), \quad"
    r" x_{\tilde{t}_0} = X_0, \quad x'_{\tilde{t}_0} = g(x_{\tilde{t}_0}, \theta_g)",
    5: r"dx_t = [f(x_t, t) - g(t)^2 \nabla_{x_t} \log p_t(x_t)]dt + g(t)dw_t",
    6: r"dx_t = [f(x_t, t) - g(t)^2 \nabla_{x_t} \log p_t(x_t)]dt",
    7: r"dx_t = -\frac{1}{2}\beta(t)[x_t + 2s_{\theta_b}(x_t)]dt + \sqrt{\beta(t)}dw_t",
    8: r"dx_t = -\frac{1}{2}\beta(t)[x_t + s_{\theta_b}(x_t, t)]dt",
    9: r"dx_t = -\frac{1}{2}\beta(t)[x_t + s_{\theta_b}(x_t)]dt"
    r" - \frac{1}{2}\beta(t)s_{\theta_b}(x_t, t)dt + \sqrt{\beta(t)}dw_t",
    10: r"r'_t = -r_t^T \frac{\partial \frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]}{\partial X_t}",
    11: r"x_{t_n} = \int_{t_0}^{t_n} x'_t dt + x_{t_0}, \quad x_{t_0} = f(X_0, \theta_f), \quad"
    r" x'_t = \frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]",
    12: r"\mathbf{K} = \int_{t_0}^{t_n} x'_t dt = \int_{t_0}^{t_n} \left(x'_t + A(t)[x'_t -"
    r" \frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]] \right) dt + B(x_{t_0} - f)",
    13: r"\frac{d\mathbf{K}}{d\theta} = \int_{t_0}^{t_n} \frac{x'_t}{d\theta} dt + \int_{t_0}^{t_n} A(t)"
    r" \left(\frac{dx'_t}{d\theta} - \frac{\partial[\frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]]}"
    r"{\partial \theta} - \frac{\partial[\frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]]}"
    r"{\partial x^T} \right) dt + B \left(\frac{dx_{t_0}}{d\theta} - \frac{df}{d\theta} \right)",
    14: r"r'_t = -r_t^T \frac{\partial \frac{1}{2}\beta(t)[-x_t - s_{\theta_b}(x_t, t)]}{\partial X_t}",
    15: r"q(x|y) = \frac{q(y|x)q(x)}{q(y)}",
    16: r"d_{\text{TV}}(p_{\hat{X}}, p_X) = \frac{1}{2} \int |p_{\hat{X}}(x) - p_X(x)| dx",
    17: r"P(D) = \min_{p_{\hat{X}|Y}} d_{\text{TV}}(p_{\hat{X}}, p_X) \quad \text{s.t.} \quad"
    r" \mathbb{E}[\Delta(X, \hat{X})] \leq D",
    18: r"\lambda P(D_1) + (1 - \lambda)P(D_2) \geq P(\lambda D_1 + (1 - \lambda)D_2)",
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
        "eq. 13",
        "the partial derivative by x stands alone, and the first integrand lacks a d",
        "it is multiplied by dx/dtheta, and the first integrand is dx'/dtheta",
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


class Claim(NamedTuple):
    """A claim of the paper. text: the claim; place: where it is made; paper: the paper's own evidence."""

    id: str
    text: str
    place: str
    paper: str


CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            "C01",
            "cU-Net has about a quarter of the U-Net's parameters",
            "abstract, 4.3, fig. 6",
            "8.8 M, roughly a quarter",
        ),
        Claim(
            "C02",
            "cU-Net needs about 30 % of the U-Net's FLOPs",
            "abstract, tab. 5",
            "about 30 % (abstract); 2.90 of 7.21 (table 5)",
        ),
        Claim("C03", "cU-Net needs a quarter of the memory", "tab. 5", "137.9 MB of 545.5 MB"),
        Claim(
            "C04",
            "attention and residual connections cost what table 5 says",
            "tab. 5, fig. 6",
            "of 2.90 GFLOPS: 2.81 without attention, 1.71 without residuals, 1.62 without either",
        ),
        Claim(
            "C05",
            "inference is 30 % to 80 % faster",
            "4.1, tab. 1",
            "0.54 s of 3.56 s (MNIST), 7.36 s of 12.48 s (CelebA), 8.33 s of 12.14 s (LSUN Church)",
        ),
        Claim(
            "C06",
            "image quality is on a par with the U-Net's",
            "tab. 1",
            "FID 2.98 against 3.61 (MNIST), 21.44 against 19.75 (CelebA), 12.14 against 12.28 (LSUN Church)",
        ),
        Claim(
            "C07",
            "cU-Net reaches its best FID in fewer sampling steps",
            "tab. 1",
            "5 against 30 (MNIST), 80 against 100 (CelebA), 90 against 100 (LSUN Church)",
        ),
        Claim(
            "C08",
            "cU-Net is as good at equal steps",
            "-",
            "left open: no FID at equal steps is reported",
        ),
        Claim(
            "C09",
            "denoising: the U-Net has the better SSIM from 100 steps of noise on, cU-Net at 50",
            "tab. 2",
            "SSIM 0.88 / 0.90 at 50, 0.85 / 0.83 at 100, 0.32 / 0.18 at 800 (U-Net / cU-Net)",
        ),
        Claim(
            "C10",
            "denoising: cU-Net has the better LPIPS at every noise level",
            "tab. 2",
            "LPIPS 0.025 / 0.019 at 50, 0.419 / 0.315 at 800 (U-Net / cU-Net)",
        ),
        Claim(
            "C11",
            "denoising: cU-Net peaks at an earlier step, in SSIM and LPIPS, and in less time",
            "tab. 3",
            "SSIM peak at step 47 / 39 at 50 steps of noise, at 731 / 284 at 800 (U-Net / cU-Net)",
        ),
        Claim(
            "C12",
            "cU-Net beats BM3D, a convolutional autoencoder and DnCNN:"
            " best LPIPS at every level, best SSIM at 50",
            "tab. 4",
            "at 50: SSIM 0.90, LPIPS 0.019; at 400: SSIM 0.44 against 0.58 of the U-Net, LPIPS 0.146",
        ),
        Claim(
            "C13",
            "the U-Net's LPIPS has an elbow after its peak, cU-Net's has not",
            "fig. 11",
            "one image",
        ),
        Claim(
            "C14",
            "the U-Net's SSIM is above cU-Net's along the whole trajectory at high noise",
            "fig. 10",
            "one image",
        ),
        Claim(
            "C15",
            "without attention or residual connections samples get visibly worse",
            "fig. 12-14",
            "pictures, no number",
        ),
        Claim(
            "C16",
            "a block solves a second-order ODE with a learned initial velocity",
            "eq. 4",
            "by construction",
        ),
        Claim(
            "C17",
            "the adjoint of the probability-flow ODE is first order, and reusing it for the second-order ODE"
            " is cheaper than a second-order adjoint",
            "3.3, prop. 3.1",
            "a proof of the first half, no measurement",
        ),
        Claim(
            "C18",
            "the reverse SDE is probability flow plus Langevin; the flow alone is faster and less accurate",
            "3.3, eq. 5-9",
            "a derivation, no measurement",
        ),
        Claim(
            "C19",
            "a local error O(h^(k+1)) gives a global error O(h^k)",
            "3.3",
            "stated",
        ),
        Claim("C20", "memory is constant in the number of solver steps", "2", "stated"),
        Claim(
            "C21",
            "second-order dynamics need fewer solver steps than first-order for the same accuracy",
            "2, 3.3",
            "stated",
        ),
        Claim("C22", "cU-Net is more robust to noise than the discrete U-Net", "abstract, 2", "stated"),
        Claim("C23", "training converges faster", "abstract, 1", "stated"),
        Claim(
            "C24",
            "the time embedding lets the network tell the noise level",
            "3, fig. 4",
            "a picture of the forward process",
        ),
        Claim(
            "C25",
            "the gain adds to other accelerations (DDIM, fast solvers, respacing)",
            "abstract, 4.3, 5",
            "argued, no measurement",
        ),
        Claim(
            "C26",
            "the perception-distortion function is convex;"
            " denoisers trained with an L2 loss give the posterior mean",
            "4.2, eq. 15-18",
            "from Blau and Michaeli (2018)",
        ),
    )
}
