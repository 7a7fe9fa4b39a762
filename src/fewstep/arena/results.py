"""What the votes say: ratings, win rates, agreement, careless raters, and how many votes are missing. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..evaluation import preference
from ..evaluation.agreement import cohen_kappa, interval, krippendorff_alpha
from ..evaluation.jackknife import LEVEL
from ..rng import Rng
from .plan import CATCHES, Plan
from .votes import Vote

CAREFUL = 0.9
"""A careful rater is right in at least this share of catch pairs."""
DOUBT = 0.01
"""Who is right so seldom that a careful rater would be with this probability at most is called careless."""
FEWEST = 3
"""Nobody is called careless by fewer catch pairs."""
TAILS = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)


def results(plan: Plan, votes: Sequence[Vote], everyone: bool = False, resamples: int = 1000) -> dict[str, Any]:
    """All of it, ready for JSON. Votes of careless raters are left out, unless ``everyone`` counts.

    ``resamples`` is how many bootstraps there are, and how many orders Elo is averaged over.

    Raises ValueError where no vote on two models is left.
    """
    raters = [
        _rater(name, [vote for vote in votes if vote.rater == name]) for name in dict.fromkeys(v.rater for v in votes)
    ]
    careless = {rater["rater"] for rater in raters if rater["careless"]}
    counted = [v for v in votes if v.trial.kind == "pair" and (everyone or v.rater not in careless)]
    if not counted:
        why = " (those of careless raters do not count: --everyone counts them)" if careless else ""
        raise ValueError(f"there are no votes on two models yet{why}: open the page that the arena printed, and vote")
    names = [entry.name for entry in plan.models]
    found = {q: _question(plan, counted, q, resamples) for q in plan.questions}
    mean = [sum(found[q]["models"][m]["elo"] for q in found) / len(found) for m in range(len(names))]
    return {
        "models": names,
        "prompts": len(set(plan.prompts)),
        "votes": len(counted),
        "raters": raters,
        "left_out": sorted(careless) if not everyone else [],
        "questions": found,
        "elo_mean": dict(zip(names, mean)),
        "command": plan.command,
    }


def _rater(name: str, votes: Sequence[Vote]) -> dict[str, Any]:
    """One rater: catch pairs, agreement with himself, and how often he took the left side (half for a tie)."""
    caught = [v.score(CATCHES[v.trial.kind]) == 1 for v in votes if v.trial.kind in CATCHES]
    right, n = sum(caught), len(caught)
    chance = math.fsum(math.comb(n, k) * CAREFUL**k * (1 - CAREFUL) ** (n - k) for k in range(right + 1))
    first = {(v.trial.a, v.trial.b, v.trial.item): v for v in votes if v.trial.kind == "pair"}
    table = torch.zeros(3, 3, dtype=torch.float64)
    for vote in votes:
        before = first.get((vote.trial.a, vote.trial.b, vote.trial.item)) if vote.trial.kind == "repeat" else None
        for question in ("looks", "follows") if before is not None else ():
            one, two = (v.score(question) for v in (before, vote) if v is not None)
            if one is not None and two is not None:
                table[round(2 * one), round(2 * two)] += 1
    again = int(table.sum())
    sides = [{"left": 1.0, "tie": 0.5, "right": 0.0}[s] for v in votes for s in (v.looks, v.follows) if s is not None]
    return {
        "rater": name,
        "votes": len(votes),
        "catch": n,
        "catch_right": right,
        "careless": n >= FEWEST and chance < DOUBT,
        "repeated_answers": again,
        "same": float(table.trace()) / again if again else None,
        "self_kappa": _finite(cohen_kappa(table.tolist())),
        "left": sum(sides) / len(sides) if sides else None,
    }


def _question(plan: Plan, votes: Sequence[Vote], question: str, resamples: int) -> dict[str, Any]:
    """Ratings and pairs by the answers to one question; votes on one prompt are drawn together in the bootstrap."""
    models = len(plan.models)
    cast = [(v.trial.a, v.trial.b, score) for v in votes if (score := v.score(question)) is not None]
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(plan.prompts))}
    clusters = [prompts[plan.prompts[v.trial.item]] for v in votes if v.score(question) is not None]
    tally = preference.tally(cast, models, clusters)
    whole = tally.sum(0)
    drawn = preference.resampled(tally, Rng.of(plan.seed, "arena", question), resamples)
    fit, again = preference.davidson(whole, models), preference.davidson(drawn, models).ratings
    low, high = again.quantile(TAILS, 0).tolist()
    elo = preference.elo(cast, models, Rng.of(plan.seed, "elo", question), orders=resamples).tolist()
    wins = [_wins(counts, models) for counts in (whole, drawn)]
    rows = [
        {
            "model": entry.name,
            "rating": float(fit.ratings[m]),
            "low": low[m],
            "high": high[m],
            "elo": elo[m],
            "win_rate": _finite(float(wins[0][m])),
            "win_low": _bound(wins[1][:, m], 0),
            "win_high": _bound(wins[1][:, m], 1),
        }
        for m, entry in enumerate(plan.models)
    ]
    known = [_pair(plan, k, i, j, whole, drawn) for k, (i, j) in enumerate(preference.pairs(models))]
    return {
        "votes": len(cast),
        "prompts": len(tally),
        "ties": sum(score == 0.5 for *_, score in cast) / len(cast),
        "models": rows,
        "pairs": known,
        "agreement": _agreement(votes, question),
    }


def _pair(plan: Plan, k: int, i: int, j: int, whole: torch.Tensor, drawn: torch.Tensor) -> dict[str, Any]:
    """Two models side by side: who won how often, its interval, and the votes that are missing."""
    n = int(whole[k].sum())
    facts: dict[str, Any] = {"a": plan.models[i].name, "b": plan.models[j].name, "votes": n}
    won, tied, lost = (int(x) for x in whole[k].tolist())
    facts |= {"won": won, "tied": tied, "lost": lost}
    if not n:
        return facts | {"share": None, "low": None, "high": None, "settled": False, "further_votes": None}
    share, again = float(preference.shares(whole)[k]), preference.shares(drawn)[:, k]
    low, high = _bound(again, 0), _bound(again, 1)
    settled = low is not None and high is not None and n > 4 and (low > 0.5 or high < 0.5)
    error = float(again[again.isfinite()].std())
    error = max(error, 0.5 / math.sqrt(n) / 10)  # of votes that are all alike nothing is known for certain
    further = preference.further_votes(share - 0.5, error, n)
    missing = None if settled or not math.isfinite(further) else max(1, math.ceil(further))
    return facts | {"share": share, "low": low, "high": high, "settled": settled, "further_votes": missing}


def _wins(counts: torch.Tensor, models: int) -> torch.Tensor:
    """Share of its votes that each model won against all others ``[..., M]``, ties half; nan for one without votes."""
    won = torch.zeros(*counts.shape[:-2], models, dtype=torch.float64)
    of = torch.zeros_like(won)
    for k, (i, j) in enumerate(preference.pairs(models)):
        n = counts[..., k, :].sum(-1)
        won[..., i] += counts[..., k, 0] + counts[..., k, 1] / 2
        won[..., j] += counts[..., k, 2] + counts[..., k, 1] / 2
        of[..., i] += n
        of[..., j] += n
    return won / of


def _agreement(votes: Iterable[Vote], question: str) -> dict[str, Any]:
    """Between raters, over what more than one of them has judged."""
    units: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for vote in votes:
        if (score := vote.score(question)) is not None:
            units[vote.trial.a, vote.trial.b, vote.trial.item].append(score)
    shared = [said for said in units.values() if len(said) > 1]
    return {
        "shared": len(shared),
        "alpha": _finite(krippendorff_alpha(shared)),
        "alpha_interval": _finite(krippendorff_alpha(shared, interval)),
    }


def _bound(values: torch.Tensor, which: int) -> float | None:
    known = values[values.isfinite()]
    return float(known.quantile(TAILS[which])) if len(known) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
