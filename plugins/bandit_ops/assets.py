"""The two Airflow Assets of a bandit; other DAGs schedule on them, e.g. `schedule=[champion_asset(bandit)]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.xcom_arg import XComArg

    from bandit_ops.pipeline_tasks import JobReport


def interactions_asset(bandit: Bandit) -> Asset:
    """Return the Asset of the interaction log; its events carry `{"head": the last seq}`."""
    return _asset(bandit, "interactions")


def champion_asset(bandit: Bandit) -> Asset:
    """Return the Asset of the policy in production; its events carry `{"version": the policy's version}`."""
    return _asset(bandit, "champion")


def _asset(bandit: Bandit, what: str) -> Asset:
    """The scheme begins with x-: for any other, Airflow imports every provider's URI handlers, Google's for 1 s."""
    name = f"{bandit.id}-{what}"
    return Asset(name=name, uri=f"x-banditloop://{bandit.id}/{what}", group="banditloop")


class AnnounceChampion(BaseOperator):
    """Emits the champion's asset event where the pipeline promoted a policy; skips where the champion stayed."""

    template_fields = ("report",)

    def __init__(self, *, bandit: Bandit, report: JobReport | XComArg, **kwargs: Any) -> None:
        super().__init__(outlets=[champion_asset(bandit)], **kwargs)
        self.bandit = bandit
        self.report = report

    def execute(self, context: Context) -> str:
        report: JobReport | None = self.report  # type: ignore[assignment]  # rendered by now
        if report is None:
            raise AirflowSkipException("no report came from upstream (marked success by hand?): nothing to announce")
        outputs = report["outputs"]
        version = str(outputs["version"])
        if not outputs["promoted"]:
            raise AirflowSkipException(f"the champion stays, {version} was not promoted: {outputs['reason']}")
        context["outlet_events"][champion_asset(self.bandit)].extra = {"version": version}
        self.log.info("%s is the champion of %s: %s", version, self.bandit.name, outputs["reason"])
        return version
