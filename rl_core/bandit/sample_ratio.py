"""Sample-ratio mismatch: tests whether the log holds the split of the traffic that was drawn.

The split here is the exploration floor. Each decision explores (takes another action than the policy's best) with a
known probability q = ε - ε/K. Where rows are lost or doubled on one side alone, or propensities are wrong, the number
E that explored is not what chance allows, and every off-policy estimate is biased. The test: (E - Σq)² / Σq(1 - q) is
chi-square with one degree of freedom; a low threshold, since it is asked again and again.
Fabijan et al. (2019), "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD,
https://doi.org/10.1145/3292500.3330722.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

THRESHOLD = 0.0005
MIN_EXPECTED = 100  # below it the normal approximation says little about so small a p


@dataclass(frozen=True)
class Split:
    """Counts for the test: rows that explored, E; how many should have, Σq; and that number's variance, Σq(1 - q)."""

    explored: int = 0
    expected: float = 0.0
    variance: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Observed to expected, E / Σq; None where there are too few rows."""
        return self.explored / self.expected if self._enough else None

    @property
    def p(self) -> float | None:
        """The probability of a distance at least as great by chance, in either direction; None with too few rows."""
        if not self._enough:
            return None
        return math.erfc(abs(self.explored - self.expected) / math.sqrt(2.0 * self.variance))

    @property
    def mismatch(self) -> bool:
        """Whether p lies below THRESHOLD: rows are missing or doubled, or propensities are wrong."""
        return self.p is not None and self.p < THRESHOLD

    @property
    def _enough(self) -> bool:
        return self.expected >= MIN_EXPECTED and self.variance > 0.0
