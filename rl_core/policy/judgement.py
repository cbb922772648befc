"""Decides from logged rows, judged by every policy, whether a challenger is promoted, and says why.

Unrivalled is only the first policy of a bandit that has simulated its log. A log that was imported has its own policy
for a rival: what it earned is the mean reward of its rows. And what contradicts itself promotes nobody: propensities
under which importance weights don't average to 1, an estimate that no reward can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.bandit import ope, propensities
from rl_core.bandit.ope import Array
from rl_core.config import Bandit

_WORTH_SAYING = 0.01  # of the rows
MIN_ROWS = 10  # two in a fold; fewer are too often alike, as rewards of 0 and 1 are, and then seem to have no spread


@dataclass(frozen=True, eq=False)
class Judged:
    """Logged rows; the reward model's means [n, K]; what each policy would do, as probabilities [n, K].

    Args:
        eligible: how many actions could have been taken [n].
        by_others: which rows [n] policies of validation.other_policies logged.
        learnt: whether for any observation an action stands out in the challenger.
        empty: of the rows, the share [0, 1] whose features are all 0, of which nothing can be learnt.
    """

    logged: ope.LoggedRows
    means: Array
    eligible: NDArray[np.integer[Any]]
    challenger: Array
    champion: Array | None
    by_others: NDArray[np.bool_]
    learnt: bool = True
    empty: float = 0.0

    def of_others(self) -> Judged:
        """Return the rows that other policies logged."""
        mine, rows = self.by_others, self.logged
        logged = ope.LoggedRows(rows.actions[mine], rows.rewards[mine], rows.propensities[mine])
        return Judged(logged, self.means[mine], self.eligible[mine], self.challenger[mine], None, mine[mine])


@dataclass(frozen=True)
class Decision:
    """Whether to promote, why, and the figures."""

    promote: bool
    reason: str
    metrics: dict[str, float]


def decide(judged: Judged, bandit: Bandit) -> Decision:
    """Promote unless the challenger is clearly worse than its rival, or the figures contradict themselves.

    Clearly worse: the whole 95 % interval of the paired doubly robust difference lies below 0.
    """
    metrics = {"behaviour_mean": float(judged.logged.rewards.mean())}
    doubts = _contradictions(judged, bandit.serving.epsilon, metrics)
    if not judged.learnt:
        doubts.append("nothing was learnt, no action stands out for any observation: look at the rewards")
    new = _value("challenger", judged, judged.challenger, metrics)
    values, compared = [new.value], judged
    rival, whose, wish = None, "", ""
    if judged.champion is not None:
        rival, whose = _value("champion", judged, judged.champion, metrics), "the champion"
        values.append(rival.value)
    elif judged.by_others.sum() >= MIN_ROWS:
        compared = judged.of_others()
        new = ope.dr(compared.logged, compared.challenger, compared.means)
        rival = ope.on_policy(compared.logged)
        whose = f"the {rival.value:.3f} that whoever made the log has earned"
        wish = f". To have it serve all the same, name its version to {bandit.name}_rollback"
    doubts += _impossible(values, bandit)
    worse, reason = False, "there is no champion yet; the challenger is " + _shown(new)
    if rival is not None:
        difference = ope.paired_difference(new, rival)
        _put("difference", difference, metrics)
        worse = difference.high < 0
        reason = (
            f"the challenger is {_shown(new)}, {difference.value:+.3f} ({difference.low:+.3f} to "
            f"{difference.high:+.3f}) against {whose} on {len(compared.logged.rewards)} rows: "
            f"{'clearly worse' + wish if worse else 'not clearly worse'}"
        )
    if judged.empty > _WORTH_SAYING:
        reason += (
            f"; {judged.empty:.0%} of the observations are zero in every number, and for those the policy can't learn "
            "what is best: set problem.intercept: true and do a full retrain"
        )
    return Decision(not worse and not doubts, "; ".join([*doubts, reason]), metrics)


def _contradictions(judged: Judged, epsilon: float, metrics: dict[str, float]) -> list[str]:
    """What speaks against the propensities: the mean weights of the uniform policy and of the champion, in words."""
    p, said = judged.logged.propensities, []
    means = {"uniform": propensities.mean_uniform_weight(p, judged.eligible, epsilon)}
    if judged.champion is not None:
        means["champion"] = propensities.mean_weight(judged.logged, judged.champion, epsilon)
    for who, found in means.items():
        names = f"{who}_weight", f"{who}_weight_error", f"{who}_weight_z"
        metrics |= dict(zip(names, (found.mean, found.standard_error, found.z), strict=True))
        if found.contradicts:
            said.append(propensities.contradiction(p, found))
    return said[:1]


def _impossible(values: Sequence[float], bandit: Bandit) -> list[str]:
    low, high = bandit.problem.reward_min, bandit.problem.reward_max
    rounding = 1e-9 * (high - low)
    outside = [value for value in values if not low - rounding <= value <= high + rounding]
    return [f"an estimate of {outside[0]:.3f} is outside reward_min..reward_max ({low:g}..{high:g})"] if outside else []


def _shown(estimate: ope.Estimate) -> str:
    return f"estimated {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}) per decision"


def _value(who: str, judged: Judged, evaluation: Array, metrics: dict[str, float]) -> ope.Estimate:
    """The doubly robust estimate; IPS and SNIPS are put beside it."""
    estimate = ope.dr(judged.logged, evaluation, judged.means)
    for other in (estimate, ope.ips(judged.logged, evaluation), ope.snips(judged.logged, evaluation)):
        _put(who, other, metrics)
    return estimate


def _put(who: str, estimate: ope.Estimate, metrics: dict[str, float]) -> None:
    name = f"{who}_{estimate.estimator.split()[0].lower()}"
    metrics |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
