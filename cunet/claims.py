"""The claims of "The Missing U for Efficient Diffusion Models", each with its place: data, no logic.

What has to be measured for a claim to count as reproduced says its rule, in `cunet.rules`; numbers, figures
and errata of the paper are in `cunet.paper`.
"""

from __future__ import annotations

from typing import NamedTuple


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
