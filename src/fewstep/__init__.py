"""fewstep: Adversarial Diffusion Distillation, and what makes it useful."""

__version__ = "0.1.0"
