"""Sample-ratio mismatch: does the log hold the split of the traffic that was drawn?

The split that is ours is the exploration floor: of every decision it is known exactly with what probability q it would
explore (take another action than the policy's best): ε - ε/K. Where rows are lost or doubled for one side alone, or
propensities are wrong, the number that explored is not what chance allows, and every offline estimate is biased.
Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019,
https://doi.org/10.1145/3292500.3330722: a chi-square test at a low threshold, since it is asked again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

THRESHOLD = 0.0005
MIN_EXPECTED = 100  # below it the normal approximation says little about so small a p


@dataclass(frozen=True)
class Split:
    """Rows that explored; how many should have; and the variance of that number: Σq and Σq(1 - q)."""

    explored: int = 0
    expected: float = 0.0
    variance: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Observed to expected; None where there are too few rows to tell."""
        return self.explored / self.expected if self._enough else None

    @property
    def p(self) -> float | None:
        """How probable so great a distance is by chance: chi-square of one degree of freedom, so both directions."""
        if not self._enough:
            return None
        return math.erfc(abs(self.explored - self.expected) / math.sqrt(2.0 * self.variance))

    @property
    def mismatch(self) -> bool:
        return self.p is not None and self.p < THRESHOLD

    @property
    def _enough(self) -> bool:
        return self.expected >= MIN_EXPECTED and self.variance > 0.0
