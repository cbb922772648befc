"""`report.json`: what the storm did and saw.

acknowledged    decisions that a client was answered 200 for; an event id asked for again counts once
in_store        the storm's event ids in table `decisions`; more than acknowledged by those that nobody waited for
damaged_decisions, damaged_rewards  offsets that damage to the bus took before they were stored, all named by the bus
answered_anew   event ids whose first answer the bus named as lost, and that were asked for again
lost            acknowledged decisions that the store does not hold with the action, propensity and policy of the
                answer, beyond those damaged
duplicates      event ids with more than one row in `decisions` or in `interactions`
altered         interactions with another action, propensity or policy than their decision
answers_changed event ids that were answered differently when asked again
unanswered_in_store  decisions whose client was gone before the answer; they close with the default reward
rewards_sent    decisions with a reward that was surely on time by its client's clock: acknowledged within
                reward_wait_s of the first question, and sent less than that before the answer
rewards_joined  those of them that were closed by a reward of theirs
rewards_lost    acknowledged rewards of whatever kind (on time, late, second, before their decision, for a decision that
                nobody asked for) that table `rewards` does not hold with that value, each in a row of its own
rewards_used_twice, rewards_misplaced  rewards used for two, or not as the joiner's rules, said again here, want it
kills           SIGKILLs to server, event logger, pipeline jobs, Airflow's scheduler and workers
windows_overlapping, windows_with_gaps  over all attempts, and over the lineage of every policy
pipeline_runs_per_task_max       jobs of one task with a living process at once, looked at four times a second
pipeline_successes_per_task_max  jobs of one task that succeeded
recovery_s_max  the longest from a fault until its victim worked again: the server answers with a policy, the logger
                has had a cycle, another job runs, the task is taken up again, a new scheduler has begun or ended a
                task; for the disk from its freeing or damage until a decision is acknowledged and logged
                (for a damage, two seconds after it at the earliest)
longest_silence_s  the longest time without an acknowledged decision
plan_digest     equal for equal seeds and sizes: the same faults, pauses and traffic; when they meet is the machine's
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from reliability.storm.lanes import Strike

NEVER_S = 999.0
PROMISES: dict[str, float] = {
    "lost": 0,
    "duplicates": 0,
    "altered": 0,
    "answers_changed": 0,
    "rewards_unjoined": 0,
    "rewards_lost": 0,
    "rewards_used_twice": 0,
    "rewards_misplaced": 0,
    "seq_gaps": 0,
    "open": 0,
    "unforeseen_answers": 0,
    "windows_overlapping": 0,
    "windows_with_gaps": 0,
    "pipeline_runs_per_task_max": 1,
    "pipeline_successes_per_task_max": 1,
    "recovery_s_max": 30,
    "longest_silence_s": 30,
}
"""At most this much of each."""


def recoveries(strikes: Sequence[Strike]) -> dict[str, dict[str, float]]:
    """By lane and kind: how many, and the longest recovery; NEVER_S for one that did not recover."""
    found: dict[str, dict[str, float]] = {}
    for strike in strikes:
        one = found.setdefault(f"{strike.lane}: {strike.kind}", {"faults": 0, "recovery_s_max": 0.0})
        one["faults"] += 1
        took = NEVER_S if strike.recovery_s is None else strike.recovery_s
        one["recovery_s_max"] = round(max(one["recovery_s_max"], took), 2)
    return dict(sorted(found.items()))


def kills_of(strikes: Sequence[Strike]) -> Counter[str]:
    kills: Counter[str] = Counter()
    for strike in strikes:
        kills[strike.lane] += strike.kills
    return +kills


def silence(times: Sequence[float]) -> float:
    """The longest pause between two of these times, in seconds."""
    return round(max((b - a for a, b in pairwise(sorted(times))), default=0.0), 2)


def broken(report: Mapping[str, Any], wanted: Mapping[str, float]) -> list[str]:
    """A line for every promise that the report breaks. `wanted`: at least so much of each, for what was asked for."""
    lines = [
        f"{name} is {report[name]}, promised at most {most:g}" for name, most in PROMISES.items() if report[name] > most
    ]
    lines += [f"{name} is {report[name]}, wanted {least:g}" for name, least in wanted.items() if report[name] < least]
    if report["partial"]:
        lines.append("the storm was interrupted: nothing is proven")
    return lines + [f"it went wrong: {problem}" for problem in report["problems"]]


def table(report: Mapping[str, Any]) -> Table:
    shown = Table(title=f"storm, seed {report['seed']}: {report['seconds']} s", box=SIMPLE_HEAD, padding=0)
    shown.add_column("figure")
    shown.add_column("seen", justify="right")
    shown.add_column("promised", justify="right")
    for name in ("acknowledged", "in_store", "kills", "rewards_sent", "rewards_joined", *PROMISES):
        promised = f"≤ {PROMISES[name]:g}" if name in PROMISES else ""
        style = "red" if name in PROMISES and report[name] > PROMISES[name] else None
        shown.add_row(name, f"{report[name]:,}", promised, style=style)
    return shown


def write(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def plot(path: Path, acknowledged: Sequence[float], strikes: Sequence[Strike]) -> None:
    """Acknowledgements per second, and a mark for each fault."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if not acknowledged:
        return
    begin = min(acknowledged)
    per_second = Counter(int(at - begin) for at in acknowledged)
    seconds = range(max(per_second) + 1)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(11, 5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    above.step(seconds, [per_second[second] for second in seconds], where="post", linewidth=0.7)
    above.set(ylabel="acknowledged decisions / s", ylim=(0, None))
    lanes = sorted({strike.lane for strike in strikes})
    for row, lane in enumerate(lanes):
        mine = [strike for strike in strikes if strike.lane == lane]
        below.barh(
            [row] * len(mine),
            [max(0.5, strike.recovery_s or 0.5) for strike in mine],
            left=[strike.at - begin for strike in mine],
            height=0.6,
        )
    below.set(yticks=range(len(lanes)), yticklabels=lanes, xlabel="seconds; each bar is a fault and its recovery")
    figure.savefig(path, dpi=120)
    plt.close(figure)
