"""The gate of `…_retrain`: opens when enough new interactions are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from bandit_ops.assets import interactions_asset
from bandit_ops.running import is_manual, waited_s
from bandit_ops.task import BanditTask
from bandit_ops.watching import say_vital_signs
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context


NO_CHAMPION_WAIT_S = 30.0
"""How long a scheduled run stays without a champion, so that no run starts every second; a manual one waits for it."""


class InteractionSensor(BanditTask, BaseSensorOperator):
    """Counts what no training has attempted and no champion holds: the sum of the new windows. No clock plays a part.

    XCom: `{"head", "count", "windows": [[low, high], …]}`. Stays shut where enough is new but nothing of it may train.
    Waits `gate_timeout_s` at most and then skips, so that a manual run never queues behind it for long. Skips at once
    where `skip_gate` finds nothing new, or where there is no champion; there a scheduled run stays for a while, or
    "@continuous" would begin a run every second.
    """

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        interval, timeout = bandit.retrain.poke_interval_s, bandit.retrain.gate_timeout_s
        outlets = [interactions_asset(bandit)]
        super().__init__(
            bandit=bandit, mode="reschedule", poke_interval=interval, timeout=timeout, outlets=outlets, **kwargs
        )
        self.seen = ""

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout:
            raise AirflowSkipException(f"{self.seen} after {self.timeout:.0f} s") from None

    def poke(self, context: Context) -> PokeReturnValue:
        from rl_core.policy.windows import any_served, new_windows, total

        registry, store = self.open_registry(), self.open_store()
        say_vital_signs(self, context, registry, store)
        if registry.alias("champion") is None:
            patience = 0.0 if is_manual(context) else min(self.timeout, NO_CHAMPION_WAIT_S)
            why = f"{self.bandit.name} has no champion yet; run {self.bandit.name}_startup"
            return self._shut(why, skip=waited_s(context) >= patience)
        form = context["params"]
        head = store.head()
        windows = new_windows(registry, head)
        count, wanted = total(windows), int(form["min_new_interactions"])
        seen = f"{count:,} of {wanted:,} new interactions"
        self.log.info("counted by scanning %s bytes of the log", f"{store.bytes_scanned:,}")
        if not (count >= wanted or form["full_retrain"] or form["skip_gate"]):
            return self._shut(seen, skip=False)
        if count == 0 and not form["full_retrain"]:
            return self._shut(
                f"none of the log's {head:,} interactions is new, so there is nothing to train on", skip=True
            )
        if not form["full_retrain"] and not any_served(store, windows):
            # It stays shut rather than let a run fail, or begin every second, until somebody uses an answer.
            return self._shut(
                f"{seen}, but none may train: each is unactivated, forgotten or was not served",
                skip=bool(form["skip_gate"]),
            )
        self.log.info("%s: the gate opens", seen)
        context["outlet_events"][interactions_asset(self.bandit)].extra = {"head": head}
        return PokeReturnValue(is_done=True, xcom_value={"head": head, "count": count, "windows": windows})

    def _shut(self, why: str, *, skip: bool) -> PokeReturnValue:
        if skip:
            raise AirflowSkipException(why)
        self.log.info("%s", why)
        self.seen = why
        return PokeReturnValue(is_done=False)
