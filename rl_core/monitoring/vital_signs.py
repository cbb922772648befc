"""The vital signs: figures that show whether a bandit's loop works, as one line of JSON per measurement.

docs/monitoring/ says what each means, and makes Cloud Monitoring metrics and alerts of the line; `metrics_file.py`
writes them for Prometheus.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rl_core.backends.contracts.bus import BUS_PREFIX
from rl_core.bandit.sample_ratio import THRESHOLD
from rl_core.config import Bandit
from rl_core.monitoring.delivery import Delivery
from rl_core.policy.windows import new_windows, total

if TYPE_CHECKING:
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore

EVENT = "banditloop_vital_signs"
LAG_S = 900.0
"""A watermark that is older rings; docs/monitoring/alerts.yaml has the same limit."""
_OFTEN, _FROM = 0.05, 100  # of the rewards, once there are so many: the normal rate of repeats is below it
log = logging.getLogger(__name__)


def _figure(help_text: str) -> Any:
    return field(metadata={"help": help_text})


@dataclass(frozen=True)
class VitalSigns:
    """All figures of one measurement; None where there is nothing to measure yet."""

    bandit: str
    head: int = _figure("interactions in the log, ever")
    new_interactions: int = _figure("interactions that no training has seen")
    acknowledged: int = _figure("events that servers confirmed to their clients: gcp in the last hour, local ever")
    stored: int = _figure("those of them that are in the log")
    missing: int = _figure("those of them that are neither in the log nor rejected")
    rejected: int = _figure("events of the last hour that could not become a row of the log")
    gaps: int = _figure("producers of whom something is missing that should be there")
    watermark_lag_s: float | None = _figure("seconds since when not everything accepted is in the log")
    champion: str | None = _figure("the policy in production")
    champion_age_s: float | None = _figure("seconds since it was promoted")
    last_attempt: str | None = _figure("how the last training ended")
    quarantined: int | None = _figure("rows that the last training set apart")
    decisions: int = _figure("decisions logged in the last hour")
    rewards: int = _figure("rewards logged in the last hour")
    interactions: int = _figure("decisions closed in the last hour")
    rewarded: float | None = _figure("share of those that a reward closed")
    unactivated: int = _figure("those whose answer nobody said was used")
    duplicates: int = _figure("rewards of late whose decision had one already")
    late: int = _figure("rewards of late that came after join.reward_wait_s")
    unknown: int = _figure("rewards of late whose decision is not in the log")
    split: float | None = _figure("how many explored, to how many should have")
    split_p: float | None = _figure("how probable a split at least as far off is by chance")
    open: int = _figure("decisions that wait for their reward")
    open_s: float | None = _figure("seconds since the oldest of them was received")
    open_of_jobs: int = _figure("those of them whose job wrote them long ago and has not ended")
    open_by_producer: dict[str, dict[str, float]] = field(default_factory=dict)
    """`count` and `age_s` of those that wait."""
    rewards_of_late: int = 0
    """Of as long a time as `duplicates`, `late` and `unknown`, which are held against it."""

    def alarms(self) -> dict[str, str]:
        """Return what is wrong: by name, what to look at."""
        said = {}
        if self.gaps:
            said["gap"] = f"{self.gaps} producers hold the watermark: the log of the join says whose events are missing"
        if self.watermark_lag_s is not None and self.watermark_lag_s > LAG_S:
            said["lag"] = (
                f"something accepted {self.watermark_lag_s:.0f} s ago may not be in the log yet: does the event logger "
                "run, what do its log and logger.json say? On Google Cloud: the logs of logger function and join"
            )
        if self.rejected:
            said["rejected_events"] = (
                f"{self.rejected} events could not become a row: the table rejected_events says why"
            )
        if self.quarantined:
            said["quarantined_rows"] = (
                f"the last training set {self.quarantined} rows apart: see quarantine.parquet beside its dataset.json"
            )
        for name, (figure, hint) in _REWARDS.items():
            among = self.rewards_of_late
            if among >= _FROM and (count := getattr(self, figure)) > _OFTEN * among:
                said[name] = f"{count} rewards {hint}"
        if self.split_p is not None and self.split_p < THRESHOLD:
            said["sample_ratio_mismatch"] = (
                f"{self.split} times as many decisions explored as were drawn to: rows are lost or doubled for one "
                "side, or propensities are wrong; look at missing, rejected and unactivated, and trust no offline "
                "estimate before it is clear"
            )
        if self.open_of_jobs:
            said["unended_job"] = (
                f"{self.open_of_jobs} decisions of jobs wait for rewards, see open_by_producer: run the import again "
                "to its end; of a job of your own, call the store's complete(producer)"
            )
        return said

    def line(self, severity: str) -> str:
        """Write the line of JSON with the given severity."""
        alarms = self.alarms()
        return json.dumps(
            {"severity": severity, "event": EVENT, **asdict(self)} | ({"alarms": alarms} if alarms else {})
        )

    @property
    def severity(self) -> str:
        """ERROR where the log stands still, WARNING where something else is wrong, else INFO."""
        rung = self.alarms().keys()
        return "ERROR" if rung & _STANDS_STILL else "WARNING" if rung else "INFO"


_REWARDS = {
    "doubled_rewards": ("duplicates", "came for decisions that had one: does a client send what was acknowledged?"),
    "late_rewards": ("late", "came after join.reward_wait_s: is it long enough?"),
    "unknown_rewards": ("unknown", "name no decision of the log: do clients send the event_id of the answer?"),
}
_STANDS_STILL = {"gap", "lag"}
ALARMS = ("gap", "lag", "rejected_events", "quarantined_rows", *_REWARDS, "sample_ratio_mismatch", "unended_job")
FIGURES: dict[str, str] = {one.name: one.metadata["help"] for one in fields(VitalSigns) if "help" in one.metadata}
"""What each figure is, by name."""


def vital_signs(bandit: Bandit, registry: PolicyRegistry, head: int, delivery: Delivery, now: datetime) -> VitalSigns:
    """Measure the vital signs; `now` and the watermark are times of the same kind: UTC."""
    champion, attempts = registry.alias("champion"), registry.attempts()
    promoted = [attempt.at for attempt in attempts if attempt.verdict == "promoted" and attempt.version == champion]
    last, seen = attempts[-1] if attempts else None, delivery.log
    quarantined = last.metrics.get("quarantined") if last else None
    waiting = {
        one.producer: {"count": one.count, "age_s": _age_s(one.since, delivery.read_at or now)}
        for one in delivery.open_decisions
    }
    return VitalSigns(
        bandit=bandit.id,
        head=head,
        new_interactions=total(new_windows(registry, head)),
        acknowledged=delivery.acknowledged,
        stored=delivery.stored,
        missing=delivery.missing,
        rejected=delivery.rejected,
        gaps=delivery.gaps,
        watermark_lag_s=None if delivery.watermark is None else _age_s(delivery.watermark, delivery.read_at or now),
        champion=champion,
        champion_age_s=_age_s(promoted[-1], now) if promoted else None,
        last_attempt=last.verdict if last else None,
        quarantined=None if quarantined is None else round(quarantined),
        decisions=seen.decisions,
        rewards=seen.rewards,
        interactions=seen.interactions,
        rewarded=seen.rewarded,
        unactivated=seen.unactivated,
        duplicates=seen.duplicates,
        late=seen.late,
        unknown=seen.unknown,
        split=None if seen.split.ratio is None else round(seen.split.ratio, 3),
        split_p=None if seen.split.p is None else _cut(seen.split.p),
        rewards_of_late=seen.rewards_of_late,
        open=sum(round(one["count"]) for one in waiting.values()),
        open_s=max((one["age_s"] for one in waiting.values()), default=None),
        open_of_jobs=sum(
            round(one["count"])
            for producer, one in waiting.items()
            if not producer.startswith(BUS_PREFIX) and one["age_s"] > LAG_S + bandit.join.reward_wait_s
        ),
        open_by_producer=waiting,
    )


def log_vital_signs(
    bandit: Bandit, registry: PolicyRegistry, store: EventStore, delivery: Delivery, now: datetime
) -> VitalSigns:
    """Measure, and write the line into the log of the calling task."""
    signs = vital_signs(bandit, registry, store.head(), delivery, now)
    log.log(logging.getLevelNamesMapping()[signs.severity], "%s", signs.line(signs.severity))
    return signs


def _age_s(then: datetime, now: datetime) -> float:
    return round((now - then).total_seconds(), 3)


def _cut(p: float) -> float:
    """To four places, downwards: never rounded up to the threshold, nor written with an exponent."""
    return int(p * 10_000) / 10_000
