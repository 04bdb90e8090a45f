"""Flow-factorized representation learning: a sequence VAE whose transformations are potential flows."""

__version__ = "0.1.0"
