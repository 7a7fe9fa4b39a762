"""The border to diffusers and transformers: foreign parametrisations, timesteps and scalings are converted here, only here.

Inside fewstep a denoiser takes ``t`` in [0, 1] and returns x0. Out there a network takes an integer timestep and predicts
eps, v or a flow; a VAE has a scaling and a shift; a text encoder has a tokenizer with a maximal length.
"""

from .folder import Pretrained, load, read_config, reader_of, refuse_pickles
from .networks import TransformerDenoiser, UNetDenoiser, VaeCodec, is_sdxl
from .portable import make_portable
from .quiet import quiet
from .schedules import BETA_KEYS, PREDICTION_TYPES, kind_of, prediction_type, schedule_of, to_timestep
from .terms import TEACHERS_README, Terms, checker_of, copy_checker, page_of, pass_on, read_terms
from .text import (
    SENTENCE_FORM,
    SENTENCE_TOKENS,
    SD3Conditioner,
    SDXLConditioner,
    TextConditioner,
    sentence_encoder_folder,
    text_conditioner,
)

__all__ = [
    "BETA_KEYS",
    "PREDICTION_TYPES",
    "SENTENCE_FORM",
    "SENTENCE_TOKENS",
    "TEACHERS_README",
    "Pretrained",
    "SD3Conditioner",
    "SDXLConditioner",
    "Terms",
    "TextConditioner",
    "TransformerDenoiser",
    "UNetDenoiser",
    "VaeCodec",
    "checker_of",
    "copy_checker",
    "is_sdxl",
    "kind_of",
    "load",
    "make_portable",
    "page_of",
    "pass_on",
    "prediction_type",
    "quiet",
    "read_config",
    "read_terms",
    "reader_of",
    "refuse_pickles",
    "schedule_of",
    "sentence_encoder_folder",
    "text_conditioner",
    "to_timestep",
]
