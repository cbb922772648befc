"""The gate of `…_retrain`: opens when enough new interactions are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from bandit_ops.assets import interactions_asset
from bandit_ops.lease import open_registry_and_store
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context


class InteractionSensor(BaseSensorOperator):
    """Counts what no training has attempted: `store.head() - registry.last_attempted_seq()`. No clock plays a part.

    XCom: `{"head", "count", "window": [low, high]}`. Waits `gate_timeout_s` at most and then skips, so that a manual
    run never queues behind it for long. Skips at once without a champion, or with `skip_gate` where nothing is new.
    """

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        interval, timeout = bandit.retrain.poke_interval_s, bandit.retrain.gate_timeout_s
        outlets = [interactions_asset(bandit)]
        super().__init__(mode="reschedule", poke_interval=interval, timeout=timeout, outlets=outlets, **kwargs)
        self.bandit = bandit

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout:
            raise AirflowSkipException(f"not enough new interactions within {self.timeout:.0f} s") from None

    def poke(self, context: Context) -> PokeReturnValue:
        registry, store = open_registry_and_store(self.bandit)
        if registry.alias("champion") is None:
            name = self.bandit.name
            raise AirflowSkipException(
                f"{name} has no champion yet, so there is nothing to retrain; run {name}_startup"
            )
        form = context["params"]
        low, head = registry.last_attempted_seq(), store.head()
        count, wanted = max(0, head - low), int(form["min_new_interactions"])
        self.log.info("%s of %s new interactions", f"{count:,}", f"{wanted:,}")
        if not (count >= wanted or form["full_retrain"] or form["skip_gate"]):
            return PokeReturnValue(is_done=False)
        if count == 0 and not form["full_retrain"]:
            raise AirflowSkipException(f"nothing is new since seq {low}, so there is nothing to train on")
        context["outlet_events"][interactions_asset(self.bandit)].extra = {"head": head}
        return PokeReturnValue(is_done=True, xcom_value={"head": head, "count": count, "window": [low, head]})
