"""Student's t distribution, which a mean over few rows asks for; SciPy is not in the job's image."""

from __future__ import annotations

import math

import numpy as np

_STEPS = 20_001


def student_reach(confidence: float, degrees: float) -> float:
    """Return the t for which P(|T| < t) is `confidence`, for Student's T with `degrees` ≥ 1 of freedom, whole or not.

    With t = √ν tan θ, P(|T| < t) = ∫₀^θ cos^(ν-1) / ∫₀^(π/2) cos^(ν-1): Abramowitz, Stegun (1964), 26.7.1 substituted.
    At 95 % the trapezoids are right to 4 digits from Cauchy's distribution (ν = 1) to the normal one.
    """
    angles = np.linspace(0, min(math.pi / 2, 10 / math.sqrt(degrees)), _STEPS)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence * below[-1], below, angles)))
