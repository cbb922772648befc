"""Off-policy evaluation: estimates what another policy would have earned on rows that the behaviour policy logged.

Row i of n holds an observation x_i, the action a_i, its reward r_i and the logged propensity p_i. Four estimators of
the mean reward of an evaluation policy π, with importance weights w_i = π(a_i|x_i) / p_i and a reward model m(x, k):

    IPS    (1/n) Σ_i w_i r_i                             unbiased
    SNIPS  Σ_i w_i r_i / Σ_i w_i                         less variance, bias O(1/n)
    DM     (1/n) Σ_i Σ_k π(k|x_i) m(x_i, k)              as biased as the model m
    DR     DM + (1/n) Σ_i w_i (r_i - m(x_i, a_i))        unbiased whatever m is

"Unbiased" needs exact propensities, and p > 0 for whatever π may take; the exploration floor grants both. The model's
means must come from data without these rows, or DM and DR flatter the model's own policy.

References: IPS: Horvitz, Thompson (1952), JASA; Strehl, Langford, Li, Kakade (2010), "Learning from Logged Implicit
Exploration Data", NIPS. SNIPS: Swaminathan, Joachims (2015), "The Self-Normalized Estimator for Counterfactual
Learning", NIPS. DM, DR: Dudík, Langford, Li (2011), "Doubly Robust Policy Evaluation and Learning", ICML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.bandit.student import student_reach
from rl_core.errors import DataError, SchemaError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LoggedRows:
    """n rows that the behaviour policy logged: actions a [n], rewards r [n], and propensities p [n] of those actions.

    Raises:
        SchemaError: fewer than 2 rows, lengths differ, a propensity outside (0, 1], a number that is not finite.
    """

    actions: NDArray[np.integer[Any]]
    rewards: Array
    propensities: Array

    def __post_init__(self) -> None:
        lengths = (len(self.actions), len(self.rewards), len(self.propensities))
        if len(set(lengths)) > 1:
            raise SchemaError(f"{lengths[0]} actions, {lengths[1]} rewards, {lengths[2]} propensities: lengths differ")
        if lengths[0] < 2:
            raise SchemaError(f"off-policy evaluation got {lengths[0]} rows; a standard error needs at least 2")
        _refuse_rows(~np.isfinite(self.rewards), self.rewards, "reward", "must be a finite number")
        outside = ~((self.propensities > 0) & (self.propensities <= 1))  # true for NaN
        _refuse_rows(outside, self.propensities, "propensity", "must lie in (0, 1]: the logger must know what it drew")


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated mean reward with its confidence interval [low, high]; the evaluator judges by it.

    `value` is the mean of `terms` [n], `standard_error` is their sample standard deviation / √n, and the interval is
    value ± t standard_error, with t of Student's distribution: few rows know their own spread badly. Its degrees of
    freedom are `effective_sample_size` - 1, since a few rows of great weight know it no better; 1 at least.
    `effective_sample_size` is (Σ w)² / Σ w² (Kish 1965): how many rows of π's own log would tell as much; n for DM.
    `paired_difference` subtracts terms of two policies.

    It knows only what the rows hold. Where rewards are rare and weights great, the rows that would tell are often
    missing, and the interval lies too low: of clicks in 5 % of rows, logged by a champion with ε 0.05 among 4 actions,
    1,000 rows put half of all equally good challengers clearly below it (simulated).
    """

    estimator: str
    value: float
    standard_error: float
    low: float
    high: float
    effective_sample_size: float
    terms: Array = field(repr=False)


def ips(logged: LoggedRows, evaluation: Array, confidence: float = 0.95) -> Estimate:
    """Estimate a policy's mean reward by inverse propensity scoring: (1/n) Σ_i w_i r_i, w_i = π(a_i|x_i) / p_i.

    Args:
        evaluation: probabilities π(k|x_i) [n, K]; rows sum to 1.
        confidence: of the interval, in (0, 1).

    Raises:
        SchemaError: `evaluation` doesn't fit the rows, or is no distribution.
    """
    w = weights(logged, evaluation)
    return _estimate("IPS", w * logged.rewards, _effective(w), confidence)


def snips(logged: LoggedRows, evaluation: Array, confidence: float = 0.95) -> Estimate:
    """Estimate a policy's mean reward by self-normalised IPS: V = Σ_i w_i r_i / Σ_i w_i.

    The standard error is that of the ratio's linearisation (delta method), with terms V + w_i (r_i - V) / mean(w).

    Args:
        evaluation: probabilities π(k|x_i) [n, K]; rows sum to 1.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: the evaluation policy takes none of the logged actions.
        SchemaError: `evaluation` doesn't fit the rows, or is no distribution.
    """
    w = weights(logged, evaluation)
    if not w.any():
        raise DataError("the evaluation policy takes none of the logged actions: this log says nothing about it")
    value = w @ logged.rewards / w.sum()
    return _estimate("SNIPS", value + w * (logged.rewards - value) / w.mean(), _effective(w), confidence)


def dm(logged: LoggedRows, evaluation: Array, means: Array, confidence: float = 0.95) -> Estimate:
    """Estimate a policy's mean reward by the direct method: (1/n) Σ_i Σ_k π(k|x_i) m(x_i, k).

    Its interval covers the sampling of rows, not the model's error.

    Args:
        evaluation: probabilities π(k|x_i) [n, K]; rows sum to 1.
        means: the reward model m(x_i, k) [n, K], fitted without these rows.
        confidence: of the interval, in (0, 1).

    Raises:
        SchemaError: `evaluation` or `means` doesn't fit the rows, or holds what is no probability or no number.
    """
    _check_evaluation(logged, evaluation)
    return _estimate("DM", _model_value(evaluation, means), float(len(logged.rewards)), confidence)


def dr(logged: LoggedRows, evaluation: Array, means: Array, confidence: float = 0.95) -> Estimate:
    """Estimate a policy's mean reward doubly robustly: (1/n) Σ_i [Σ_k π(k|x_i) m(x_i, k) + w_i (r_i - m(x_i, a_i))].

    Unbiased where either the propensities or the model are right; here the propensities are, and the model lessens the
    variance.

    Args:
        evaluation: probabilities π(k|x_i) [n, K]; rows sum to 1.
        means: the reward model m(x_i, k) [n, K], fitted without these rows.
        confidence: of the interval, in (0, 1).

    Raises:
        SchemaError: `evaluation` or `means` doesn't fit the rows, or holds what is no probability or no number.
    """
    w = weights(logged, evaluation)
    modelled = _model_value(evaluation, means)
    residual = logged.rewards - means[np.arange(len(w)), logged.actions]
    return _estimate("DR", modelled + w * residual, _effective(w), confidence)


def on_policy(logged: LoggedRows, confidence: float = 0.95) -> Estimate:
    """Estimate the mean reward of the behaviour policy itself: the mean of its rewards."""
    return _estimate("LOG", logged.rewards, float(len(logged.rewards)), confidence)


def paired_difference(one: Estimate, other: Estimate, confidence: float = 0.95) -> Estimate:
    """Estimate `one - other` on the same rows, from the differences of their terms.

    The pairing takes the noise that both share out of the interval. The effective sample size is the smaller one.

    Raises:
        SchemaError: the estimates stand on different numbers of rows.
    """
    if len(one.terms) != len(other.terms):
        raise SchemaError(
            f"estimates of {len(one.terms)} and {len(other.terms)} rows can't be paired; use the same rows"
        )
    size = min(one.effective_sample_size, other.effective_sample_size)
    return _estimate(f"{one.estimator} - {other.estimator}", one.terms - other.terms, size, confidence)


def weights(logged: LoggedRows, evaluation: Array) -> Array:
    """Return the importance weights w_i = π(a_i|x_i) / p_i, [n], for probabilities π(k|x_i) [n, K].

    Raises:
        SchemaError: `evaluation` doesn't fit the rows, or is no distribution.
    """
    _check_evaluation(logged, evaluation)
    w: Array = evaluation[np.arange(len(logged.actions)), logged.actions] / logged.propensities
    return w


def _check_evaluation(logged: LoggedRows, evaluation: Array) -> None:
    if evaluation.ndim != 2 or len(evaluation) != len(logged.actions):
        raise SchemaError(
            f"evaluation probabilities have shape {evaluation.shape}; expected ({len(logged.actions)}, K)"
        )
    if not 0 <= int(logged.actions.min()) <= int(logged.actions.max()) < evaluation.shape[1]:
        span = f"{logged.actions.min()}..{logged.actions.max()}"
        raise SchemaError(f"logged actions span {span}; the evaluation policy knows 0..{evaluation.shape[1] - 1}")
    sums = evaluation.sum(axis=1)
    wrong = np.any(evaluation < 0, axis=1) | ~np.isclose(sums, 1, rtol=0, atol=1e-6)
    _refuse_rows(wrong, sums, "sum of evaluation probabilities", "must be 1, none of them negative")


def _model_value(evaluation: Array, means: Array) -> Array:
    if means.shape != evaluation.shape:
        raise SchemaError(f"model means have shape {means.shape}; expected {evaluation.shape} as the probabilities")
    infinite = ~np.isfinite(means)
    first = means[np.arange(len(means)), infinite.argmax(axis=1)]
    _refuse_rows(np.any(infinite, axis=1), first, "model mean", "must be a finite number")
    value: Array = np.einsum("nk,nk->n", evaluation, means)
    return value


def _estimate(estimator: str, terms: Array, effective_sample_size: float, confidence: float) -> Estimate:
    value, error = float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms)))
    reach = student_reach(confidence, max(effective_sample_size - 1, 1)) * error
    return Estimate(estimator, value, error, value - reach, value + reach, effective_sample_size, terms)


def _effective(w: Array) -> float:
    return float(w.sum() ** 2 / (w @ w)) if w.any() else 0.0


def _refuse_rows(wrong: NDArray[np.bool_], values: Array, name: str, rule: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise SchemaError(f"row {row} ({int(wrong.sum())} of {len(wrong)}): {name} is {values[row]}; it {rule}")
