"""Writes a bandit's YAML: with what is found in a file, or examples to be replaced, and what each key is for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from rl_core.config import Bandit
from rl_core.starting.kinds import Kind, plain

_TEMPLATE = """\
# {origin}
# Every key, with its default: docs/reference/bandit-yaml.md. What is wrong with it: banditloop check.
name: {name}
prefix: {prefix}
pipe_version: v1             # another one begins another log
{backend}
problem:
  features:                  # what a request sends, by name; the kinds: docs/serving.md
{features}
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
_HERE = """\
backend: local               # gcp: BigQuery, Pub/Sub and a Vertex endpoint
runner: local                # vertex: pipelines on Vertex AI"""
_THERE = """\
backend: gcp                 # BigQuery, Pub/Sub and a Vertex endpoint
runner: vertex               # pipelines on Vertex AI
google:
  project: {project}         # what else can be said, and has to be provisioned: docs/google-cloud.md"""
_EXAMPLES = {
    "hour": Kind({"kind": "number", "min": 0, "max": 23}, "a number, brought to -1..1"),
    "country": Kind({"kind": "category", "values": ["de", "fr"]}, "one of these words, or another"),
}
_LONGEST = 100
"""Characters of a feature's line; beyond them its comment stands above it."""


@dataclass(frozen=True)
class Definition:
    """What a YAML is made of; the defaults are examples.

    Args:
        features: by name.
        left_out: columns that are none, with the reason.
        actions: the ids, with how many rows each has.
        low, high: the bounds of the reward.
        default: the reward of those without one.
        project: on Google Cloud; None: on this machine.
    """

    features: Mapping[str, Kind] = field(default_factory=lambda: dict(_EXAMPLES))
    left_out: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, int | None] = field(default_factory=lambda: {"a": None, "b": None})
    low: float = 0.0
    high: float = 1.0
    default: float = 0.0
    source: str | None = None
    project: str | None = None

    def yaml(self, name: str, port: int) -> str:
        """Return the text of NAME.yaml. Raises ConfigError if it were no bandit."""
        origin = f"made by banditloop init from {self.source}" if self.source else "an example, to be filled in"
        text = _TEMPLATE.format(
            origin=f"{name}: {origin}.",
            name=name,
            prefix=name.replace("_", "-"),
            backend=_HERE if self.project is None else _THERE.format(project=self.project),
            features="\n".join(f"    {line}" for line in self._features()),
            actions="\n".join(f"    - {_text(one)}{_rows(count)}" for one, count in self.actions.items()),
            low=_number(self.low),
            high=_number(self.high),
            default=_number(self.default),
            port=port,
        )
        text += _IMPORTED if self.source else ""
        Bandit.from_json(json.dumps(yaml.safe_load(text)))
        return text

    def _features(self) -> Iterator[str]:
        for name, kind in self.features.items():
            only = kind.definition["kind"] if len(kind.definition) == 1 else _flow(kind.definition)
            line, why = f"{name}: {only}", f"# {_one_line(kind.why)}"
            yield from [f"{line}   {why}"] if len(line) + len(why) <= _LONGEST else [why, line]
        for column, reason in self.left_out.items():
            yield f"# left out: {_one_line(f'{column!r}: {reason}')}"


def _flow(value: object) -> str:
    """One line of YAML."""
    return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)).strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(value: str) -> str:
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**9)).strip()


def _number(value: float) -> str:
    return _flow(plain(value)).split("\n")[0]


def _rows(count: int | None) -> str:
    return "" if count is None else f"   # {count:,} rows"
