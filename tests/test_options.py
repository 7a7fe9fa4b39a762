"""Options as they are typed, and what a run is held against when it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_type_hints

import pytest
import tyro

from fewstep.options import CHANGEABLE, FREE, SHARED, Mark, StandsFor, as_typed, marked, resume_key, words
from fewstep.ranges import Range, checked
from fewstep.recipes import distillation, emoji

HIDDEN = Mark("hidden")


@dataclass(frozen=True)
class Inner:
    """A group in a group."""

    norm: Annotated[int, CHANGEABLE] = 1
    """A number."""


@dataclass(frozen=True)
class Own:
    """A method's."""

    r1: Annotated[float, Range(0, 1)] = 0.5
    """A number."""
    features: Annotated[str, SHARED] = "auto"
    """Spelled alike for all."""
    side: Annotated[int, Range(0, 9), SHARED] = 1
    """Spelled alike, and in a range."""
    heads: Annotated[Inner, SHARED] = field(default_factory=Inner)
    """Spelled alike, all of them."""


@dataclass(frozen=True)
class All:
    """A run's."""

    steps: Annotated[int, FREE] = 3
    """How far."""
    times: tuple[float, ...] = (1.0, 0.5)
    """A row."""
    weights: Annotated[str, StandsFor(str.upper)] = "file"
    """A name."""
    own: Annotated[Own, HIDDEN] = field(default_factory=Own)
    """The method's."""


def test_what_is_shared_is_spelled_without_the_methods_name_wherever_a_name_is_made() -> None:
    o = All()
    assert as_typed(o) == {
        "steps": 3, "times": (1.0, 0.5), "weights": "file", "own": {"r1": 0.5}, "features": "auto", "side": 1,
        "heads": {"norm": 1},
    }  # fmt: skip
    typed = ["--features", "x", "--heads.norm", "2", "--own.r1", "0.1", "--side", "2"]
    again = tyro.cli(All, args=typed)
    assert again.own == Own(0.1, "x", 2, Inner(2))
    assert sorted(words(json.loads(json.dumps(as_typed(again))), as_typed(o))) == sorted(typed)

    def command(o: All) -> None: ...

    with pytest.raises(ValueError, match="--side 99 is out of range"):
        checked(command)(All(own=Own(side=99)))


def test_a_run_is_held_against_all_but_what_is_free_and_against_what_names_stand_for() -> None:
    key = resume_key(All(steps=9))
    assert key == {
        "--times": [1.0, 0.5], "--weights": "FILE", "--own.r1": 0.5, "--features": "auto", "--side": 1, "--heads.norm": 1,
    }  # fmt: skip
    assert json.loads(json.dumps(key)) == key
    assert resume_key(All(), {"--weights": "found"})["--weights"] == "found"
    assert marked(All(), CHANGEABLE) == ("--heads.norm",)
    assert marked(All(), StandsFor) == ("--weights",)
    assert set(marked(All(), HIDDEN)) == {"--own.r1", "--features", "--side", "--heads.norm"}


def test_what_only_the_run_can_know_is_never_compared_by_its_name() -> None:
    with pytest.raises(AssertionError, match="--teacher"):
        resume_key(distillation.options())


DISTILLED = """add.adversarial-weight add.approximate-r1 add.backward add.condition-dropout add.discriminator-turns
add.distillation-weight add.loss add.mismatched add.r1 add.reals-through-codec add.regression-steps add.regression-weight
add.renoised-input add.space add.student-every add.teacher-steps add.teacher-times add.weighting augment batch-size captions
concepts data ema features features-folder guidance-scale heads-learning-rate heads.image heads.norm heads.spectral heads.text
heads.width init negative precision probabilities rank resolution seed standardise student student-learning-rate styles teacher
times warm.batch-size warm.learning-rate warm.optimizer warm.pairs warm.regression-steps warm.steps warm.teacher-steps"""
"""What a distillation has been held against since the options of a run are written down beside its states."""
WARMED = """captions concepts data guidance-scale init precision probabilities rank seed student styles teacher times
warm.batch-size warm.learning-rate warm.optimizer warm.pairs warm.regression-steps warm.teacher-steps"""
TAUGHT = """autoencoding.edges autoencoding.jitter autoencoding.latents batch-size captions codec codec-batch-size codec-steps
data denoising.high-noise denoising.label-dropout denoising.min-snr-gamma denoising.pure-noise ema init latent-channels
learning-rate optimizer precision seed size styles"""
ENCODED = """autoencoding.edges autoencoding.jitter autoencoding.latents codec-batch-size data latent-channels precision seed
styles"""


GROWN = {
    "--teacher-lora",
    "--method", "--heads.noise-level", "--student-optimizer", "--gradient-accumulation", "--further-ema", "--add.ramp",
    "--add.ramp-start", "--noise-mean", "--noise-spread",
}  # fmt: skip
"""What has come since. A run of before that knows nothing of an option is not asked about it."""


def named(text: str) -> set[str]:
    return {f"--{name}" for name in text.split()}


def test_what_was_refused_is_refused() -> None:
    """The keys of every recipe's default options, as they were when lists of names said so; each may only grow."""
    found = {"--teacher": "t", "--data": "d", "--features-folder": ""}
    o, t = distillation.options(), emoji.TeacherOptions()
    key = resume_key(o, found)
    assert key.keys() - GROWN == named(DISTILLED)
    assert key.keys() - GROWN - set(marked(o, distillation.LATER)) == named(WARMED)
    assert resume_key(t, found).keys() == named(TAUGHT)
    assert set(marked(t, emoji.OF_CODEC)) == named(ENCODED)
    assert set(marked(o, FREE)) == named("steps seconds keep blend look-every device checkpointing require-commercial")


@pytest.mark.parametrize("method", distillation.METHODS.names)
def test_every_methods_options_have_names_of_their_own_and_a_sentence_each(method: str) -> None:
    o: Any = distillation.options_type(method)()
    every = [*as_typed(o)]
    assert len(every) == len(set(every))
    assert o.method == method
    for name in get_type_hints(type(o.own)):
        assert name in {f.name for f in fields(o.own)}
