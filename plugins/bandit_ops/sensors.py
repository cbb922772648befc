"""The gate of `…_retrain`: opens when enough new interactions are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from bandit_ops.assets import interactions_asset
from bandit_ops.patience import PatientSensor
from bandit_ops.running import is_manual, somebody_waits
from bandit_ops.watching import say_vital_signs
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context


class InteractionSensor(PatientSensor):
    """Counts what no training has attempted and no champion holds: the sum of the new windows. No clock plays a part.

    XCom: `{"head", "count"}`; which windows are trained is planned under the lease. Stays shut where enough is new but
    nothing of it may train. Skips after `gate_timeout_s`, and as soon as another run is queued behind a scheduled one,
    as a run triggered by hand is. Skips at once where `skip_gate` finds nothing new. Without a champion it counts
    alike: the training makes the first.
    """

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        timeout, outlets = bandit.retrain.gate_timeout_s, [interactions_asset(bandit)]
        super().__init__(bandit=bandit, timeout=timeout, outlets=outlets, **kwargs)
        self.seen = ""
        self.said_vital_signs = False

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout:
            raise AirflowSkipException(f"{self.seen} after {self.timeout:.0f} s") from None

    def look(self, context: Context, waited_s: float) -> PokeReturnValue:
        from rl_core.policy.windows import any_served, new_windows, total

        if not is_manual(context) and somebody_waits(context):
            raise AirflowSkipException("gives way to the run that is queued behind this one")
        registry, store = self.open_registry(), self.open_store()
        if not self.said_vital_signs and waited_s < self.poke_interval:
            say_vital_signs(self, registry, store)
            self.said_vital_signs = True
        form, first = context["params"], registry.alias("champion") is None
        recomputes = form["full_retrain"] and not first
        head = store.head()
        windows = new_windows(registry, head)
        count, wanted = total(windows), int(form["min_new_interactions"])
        seen = f"{count:,} of {wanted:,} new interactions{' for the first policy' if first else ''}"
        self.log.info("counted by scanning %s bytes of the log", f"{store.bytes_scanned:,}")
        if not (count >= wanted or form["full_retrain"] or form["skip_gate"]):
            return self._shut(seen, skip=False)
        if count == 0 and not recomputes:
            what_now = f"; ask the server for decisions, or run {self.bandit.name}_startup" if first else ""
            return self._shut(
                f"none of the log's {head:,} interactions is new, so there is nothing to train on{what_now}", skip=True
            )
        if not recomputes and not any_served(store, windows):
            # It stays shut rather than let a run fail, or begin every second, until somebody uses an answer.
            return self._shut(
                f"{seen}, but none may train: each is unactivated, forgotten or was not served",
                skip=bool(form["skip_gate"]),
            )
        self.log.info("%s: the gate opens", seen)
        context["outlet_events"][interactions_asset(self.bandit)].extra = {"head": head}
        return PokeReturnValue(is_done=True, xcom_value={"head": head, "count": count})

    def _shut(self, why: str, *, skip: bool) -> PokeReturnValue:
        if skip:
            raise AirflowSkipException(why)
        self.log.info("%s", why)
        self.seen = why
        return PokeReturnValue(is_done=False)
