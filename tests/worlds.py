"""Environments that a YAML of a test names: one that is right, and one for each thing that may be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np


class Shop:
    """Two numbers; the first action is right where the first of them is positive, the second where it isn't."""

    def observe(self, rng: np.random.Generator, n: int) -> Any:
        return rng.standard_normal((n, 2))

    def reward(self, observation: Any, action_id: str, event_id: str) -> float:
        assert observation.dtype == np.float32
        noise = np.random.default_rng(list(event_id.encode())).normal(0, 0.05)
        return float(np.clip((action_id == ("a" if observation[0] > 0 else "b")) * 0.8 + 0.1 + noise, 0, 1))


class Wrong(Shop):
    """Gives these instead, what is called is called."""

    def __init__(self, observe: Any = None, reward: Any = None) -> None:
        self._observe, self._reward = observe, reward

    def observe(self, rng: np.random.Generator, n: int) -> Any:
        shown = super().observe(rng, n)
        return {
            None: shown,
            "one column": shown[:, :1],
            "words": [["x", "y"]] * n,
            "ragged": [[1.0], [1.0, 2.0]] * (n // 2),
            "infinite": np.where(shown > 1, np.inf, shown),
            "too large": shown * 1e300,
            "dicts": [{"age": 1}] * n,
            "other users": np.random.default_rng().random((n, 2)),
            "fewer": shown[1:],
        }[self._observe]

    def reward(self, observation: Any, action_id: str, event_id: str) -> Any:
        if self._reward == "broken":
            raise ZeroDivisionError("no price")
        if self._reward == "chance":
            return np.random.default_rng().random()
        return self._reward


class Silent:
    def observe(self, rng: np.random.Generator, n: int) -> Any:
        return rng.random((n, 2))


NUMBER = 7
