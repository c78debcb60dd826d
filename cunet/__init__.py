"""cunet: continuous U-Nets for denoising diffusion, the library behind the notebooks."""

__version__ = "0.1.0"
