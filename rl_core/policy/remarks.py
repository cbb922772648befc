"""What a verdict says beside its estimates: how challenger and champion differ, and which rows could not be judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rl_core.policy.manifest import Manifest
from rl_core.problem_config import Problem

_NAMED = 5  # ids; a list of thousands helps nobody


def differences(champion: Manifest, challenger: Manifest, problem: Problem) -> Iterator[str]:
    """Say which actions came and went since the champion was trained, and whether its model is another."""
    before = champion.named_sets[champion.action_set_version]
    was = [action for action in before.actions if action not in before.inactive]
    came, went = _without(problem.active, was), _without(was, problem.active)
    back = [action for action in came if action in champion.actions]
    for what, actions in (("new", _without(came, back)), ("brought back", back), ("withdrawn", went)):
        if actions:
            yield f"{what} since the champion: {_some(actions)}"
    one, other = champion.hyperparameters, challenger.hyperparameters
    if (one.model, one.crosses) != (other.model, other.crosses):
        yield f"its model is {_model(challenger)}, the champion's {_model(champion)}"


def declared_anew(champion: Manifest, challenger: Manifest, left_out: int) -> str:
    """Say that features have another definition; `left_out` rows can't be read by the champion's."""
    was, now = champion.observation_version, challenger.observation_version
    said = f"features are declared anew, {was} is {now}, and all of the log was trained on"
    return f"{said}; {left_out:,} rows that the champion can't read are not compared" if left_out else said


def only_trained(rows: int) -> str:
    """Say that no policy was judged on so many rows, and why."""
    return (
        f"{rows} more rows only train, since nobody knows which actions they could choose from: they name a list that "
        "came and went; write eligible_action_ids, or train once with that list"
    )


def _without(actions: Sequence[str], others: Sequence[str]) -> list[str]:
    known = frozenset(others)
    return [action for action in actions if action not in known]


def _some(actions: Sequence[str]) -> str:
    more = f" and {len(actions) - _NAMED:,} more" if len(actions) > _NAMED else ""
    return ", ".join(actions[:_NAMED]) + more


def _model(manifest: Manifest) -> str:
    agent = manifest.hyperparameters
    crosses = " and ".join(f"{one} × {other}" for one, other in agent.crosses)
    return f"{agent.model}, {crosses} crossed" if crosses else agent.model
