"""Model families: Stable Diffusion, SDXL, Stable Diffusion 3 ... One file each, found by what a folder's configs say."""

from .family import FAMILIES, Configs, ModelFamily, Usual, all_families, family_of

__all__ = ["FAMILIES", "Configs", "ModelFamily", "Usual", "all_families", "family_of"]
