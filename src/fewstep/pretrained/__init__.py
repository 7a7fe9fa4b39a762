"""The border to diffusers and transformers: foreign parametrisations, timesteps and scalings are converted here, only here.

Inside fewstep a denoiser takes ``t`` in [0, 1] and returns x0. Out there a network takes an integer timestep and predicts
eps, v or a flow; a VAE has a scaling and a shift; a text encoder has a tokenizer with a maximal length.
"""

from .families import FAMILIES, Configs, ModelFamily, family_of
from .folder import Pretrained, load, native_size, reader_of
from .known import KNOWN, Known, Recognised, consistency_times, hint, known, recognise
from .networks import NetworkDenoiser, TransformerDenoiser, UNetDenoiser, VaeCodec
from .portable import make_portable
from .quiet import quiet
from .reading import hub_name, read_config, refuse_pickles
from .schedules import BETA_KEYS, PREDICTION_TYPES, kind_of, prediction_type, schedule_of, to_timestep
from .single_file import check_single_file, single_file
from .terms import (
    RESEARCH_ONLY,
    TEACHERS_README,
    Terms,
    check_commercial,
    checker_of,
    copy_checker,
    page_of,
    pass_on,
    read_terms,
    research_only,
)
from .text import (
    SENTENCE_FORM,
    SENTENCE_TOKENS,
    TextConditioner,
    sentence_encoder_folder,
    text_conditioner,
)
from .unpacked import LORA_IS_A_PART, unpack, unpacked_at, usual_configs
from .weights import stored_dtype, weight_files

__all__ = [
    "BETA_KEYS",
    "FAMILIES",
    "KNOWN",
    "LORA_IS_A_PART",
    "PREDICTION_TYPES",
    "RESEARCH_ONLY",
    "SENTENCE_FORM",
    "SENTENCE_TOKENS",
    "TEACHERS_README",
    "Configs",
    "Known",
    "ModelFamily",
    "NetworkDenoiser",
    "Pretrained",
    "Recognised",
    "Terms",
    "TextConditioner",
    "TransformerDenoiser",
    "UNetDenoiser",
    "VaeCodec",
    "check_commercial",
    "check_single_file",
    "checker_of",
    "consistency_times",
    "copy_checker",
    "family_of",
    "hint",
    "hub_name",
    "kind_of",
    "known",
    "load",
    "make_portable",
    "native_size",
    "page_of",
    "pass_on",
    "prediction_type",
    "quiet",
    "read_config",
    "read_terms",
    "reader_of",
    "recognise",
    "refuse_pickles",
    "research_only",
    "schedule_of",
    "sentence_encoder_folder",
    "single_file",
    "stored_dtype",
    "text_conditioner",
    "to_timestep",
    "unpack",
    "unpacked_at",
    "usual_configs",
    "weight_files",
]
