"""What a person has to know of a file before it is learnt from: rows, rewards, support, propensities, actions."""

from __future__ import annotations

import numpy as np

from rl_core.bandit import propensities
from rl_core.config import Bandit
from rl_core.importing.rows import Checked, counted

_SHOWN = 20


class Summary:
    """The figures of a file, part by part.

    Attributes:
        rows: how many can be imported.
        aside: lines of the others, with the reason.
    """

    def __init__(self, bandit: Bandit) -> None:
        self._problem, self._epsilon = bandit.problem, bandit.serving.epsilon
        self.rows = 0
        self.aside: list[tuple[int, str]] = []
        self._counts = np.zeros(bandit.problem.num_actions, np.int64)
        self._sums = np.zeros(bandit.problem.num_actions)
        self._unrewarded = 0
        self._low, self._high = np.inf, -np.inf
        self._propensities: list[np.ndarray] = []
        self._eligible: list[np.ndarray] = []

    def add(self, part: Checked) -> None:
        self.rows += len(part.lines)
        self.aside += part.aside
        if not len(part.lines):
            return
        k, given = self._problem.num_actions, np.isfinite(part.reward)
        reward = np.where(given, part.reward, self._problem.reward_default)
        self._counts += np.bincount(part.action, minlength=k)
        self._sums += np.bincount(part.action, reward, minlength=k)
        self._unrewarded += int((~given).sum())
        self._low, self._high = min(self._low, reward.min()), max(self._high, reward.max())
        self._propensities.append(part.propensity)
        counts = np.full(len(part.lines), k) if part.eligible is None else part.eligible.sum(axis=1)
        self._eligible.append(counts.astype(np.int32))

    @property
    def total(self) -> int:
        return self.rows + len(self.aside)

    def text(self) -> str:
        """Write the figures as lines of text."""
        lines = [f"  rows      {self.rows:,} can be imported, {len(self.aside):,} set aside"]
        lines += [f"            {n:,}: {reason} (first in line {line})" for reason, n, line in counted(self.aside)]
        if self.rows:
            mean = self._sums.sum() / self.rows
            lines.append(
                f"  rewards   {self._low:g} to {self._high:g}, mean {mean:.4f}; {self._unrewarded:,} rows have none "
                f"and get {self._problem.reward_default:g}"
            )
            p = np.concatenate(self._propensities)
            lines.append(f"  support   the smallest propensity is {p.min():.3g}: a row weighs up to {1 / p.min():,.0f}")
            lines.append(self._weights(p))
            lines += self._actions()
        return "\n".join(lines)

    def _weights(self, p: np.ndarray) -> str:
        if len(p) < 2:
            return "  weights   one row is too few to test the propensities"
        found = propensities.mean_uniform_weight(p, np.concatenate(self._eligible), self._epsilon)
        said = f"{found.mean:.3f} ± {found.standard_error:.3f}, must be 1 (z {found.z:.1f})"
        if found.contradicts:
            said += f"\n  warning: {propensities.contradiction(p, found)}; no policy of this log will be promoted"
            if never := int((self._counts == 0).sum()):
                said += (
                    f". {never:,} actions have no row: if they could not be chosen then, import before they are in the "
                    "YAML, or say with --map eligible_actions=COLUMN which could"
                )
        return f"  weights   mean of the uniform policy's {said}"

    def _actions(self) -> list[str]:
        order = np.argsort(-self._counts, kind="stable")
        shown = [
            f"  action    {self._problem.actions[k]}: {self._counts[k]:,} rows"
            + (f", mean reward {self._sums[k] / self._counts[k]:.4f}" if self._counts[k] else "")
            for k in order[:_SHOWN]
        ]
        more, never = len(order) - _SHOWN, int((self._counts == 0).sum())
        return [*shown, f"            and {more:,} more, {never:,} actions without rows"] if more > 0 else shown
