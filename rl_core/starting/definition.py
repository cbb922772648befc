"""Writes a bandit's YAML: with what is found in a file, or examples to be replaced, and what each key is for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill

import yaml

from rl_core.config import Bandit

_TEMPLATE = """\
# {origin}
# Every key, with its default: docs/reference/bandit-yaml.md. What is wrong with it: banditloop check.
name: {name}
prefix: {prefix}
pipe_version: v1             # another one begins another log
backend: local               # gcp: BigQuery, Pub/Sub and a Vertex endpoint
runner: local                # vertex: pipelines on Vertex AI
problem:
{observation}
  observation_dim: {dim}
  observation_version: "1"   # another one when these numbers mean something else
  intercept: true            # learn what is best on average, too
  actions:                   # by id; {{id: …, active: false}} withdraws one
{actions}
  reward_min: {low}
  reward_max: {high}
  reward_default: {default}   # of a decision that nobody rewarded in time
agent:
  agent_alpha: 1.0           # how much attracts what is not known well
serving:
  epsilon: 0.05              # the share that is drawn at random: what is learnt, and judged, lives on it
  port: {port}
join:
  reward_wait_s: 60          # how long a decision waits for its reward: as long as yours take
startup:
  source: log                # learn the first policy from the log
retrain:
  min_new_interactions: 1000
"""
_IMPORTED = """\
validation:
  other_policies: [imported]   # whose decisions the imported file holds
"""


@dataclass(frozen=True)
class Definition:
    """What a YAML is made of; the defaults are examples.

    Args:
        actions: the ids, with how many rows each has.
        low, high: the bounds of the reward.
        default: the reward of those without one.
    """

    observation: Sequence[str] = ("first", "second")
    actions: Mapping[str, int | None] = field(default_factory=lambda: {"a": None, "b": None})
    low: float = 0.0
    high: float = 1.0
    default: float = 0.0
    source: str | None = None

    def yaml(self, name: str, port: int) -> str:
        """Return the text of NAME.yaml. Raises ConfigError if it were no bandit."""
        listed = fill(", ".join(" ".join(one.split()) for one in self.observation), 110, break_long_words=False)
        said = f"what describes a visit, in this order:\n{listed}"
        origin = f"made by banditloop init from {self.source}" if self.source else "an example, to be filled in"
        text = _TEMPLATE.format(
            origin=f"{name}: {origin}.",
            name=name,
            prefix=name.replace("_", "-"),
            observation="\n".join(f"  # {line}" for line in said.splitlines()),
            dim=len(self.observation),
            actions="\n".join(f"    - {_text(one)}{_rows(count)}" for one, count in self.actions.items()),
            low=_number(self.low),
            high=_number(self.high),
            default=_number(self.default),
            port=port,
        )
        text += _IMPORTED if self.source else ""
        Bandit.from_json(json.dumps(yaml.safe_load(text)))
        return text


def _text(value: str) -> str:
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**9)).strip()


def _number(value: float) -> str:
    return str(yaml.safe_dump(int(value) if value.is_integer() else value)).split("\n")[0]


def _rows(count: int | None) -> str:
    return "" if count is None else f"   # {count:,} rows"
