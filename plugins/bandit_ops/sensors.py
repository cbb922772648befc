"""The gate of `…_retrain`: opens when enough new interactions are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from bandit_ops.assets import interactions_asset
from bandit_ops.lease import is_manual, open_registry_and_store
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context


class InteractionSensor(BaseSensorOperator):
    """Counts what no training has attempted: `store.head() - registry.last_attempted_seq()`. No clock plays a part.

    XCom: `{"head", "count", "window": [low, high]}`. Waits `gate_timeout_s` at most and then skips, so that a manual
    run never queues behind it for long. A manual run skips at once where there is no champion, or where `skip_gate`
    finds nothing new; a scheduled one waits for the champion too, or "@continuous" would begin a run every second.
    """

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        interval, timeout = bandit.retrain.poke_interval_s, bandit.retrain.gate_timeout_s
        outlets = [interactions_asset(bandit)]
        super().__init__(mode="reschedule", poke_interval=interval, timeout=timeout, outlets=outlets, **kwargs)
        self.bandit = bandit
        self.seen = ""

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout:
            raise AirflowSkipException(f"{self.seen} after {self.timeout:.0f} s") from None

    def poke(self, context: Context) -> PokeReturnValue:
        registry, store = open_registry_and_store(self.bandit)
        if registry.alias("champion") is None:
            return self._shut(context, f"{self.bandit.name} has no champion yet; run {self.bandit.name}_startup")
        form = context["params"]
        low, head = registry.last_attempted_seq(), store.head()
        count, wanted = max(0, head - low), int(form["min_new_interactions"])
        seen = f"{count:,} of {wanted:,} new interactions"
        if not (count >= wanted or form["full_retrain"] or form["skip_gate"]):
            return self._shut(context, seen, wait=True)
        if count == 0 and not form["full_retrain"]:
            return self._shut(context, f"nothing is new since seq {low}, so there is nothing to train on")
        self.log.info("%s: the gate opens", seen)
        context["outlet_events"][interactions_asset(self.bandit)].extra = {"head": head}
        return PokeReturnValue(is_done=True, xcom_value={"head": head, "count": count, "window": [low, head]})

    def _shut(self, context: Context, why: str, wait: bool = False) -> PokeReturnValue:
        self.log.info("%s", why)
        self.seen = why
        if not wait and is_manual(context):
            raise AirflowSkipException(why)
        return PokeReturnValue(is_done=False)
