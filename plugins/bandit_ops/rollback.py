"""Makes an older policy the champion again, in seconds: compare-and-swap, no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from bandit_ops.assets import champion_asset
from bandit_ops.task import BanditTask
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context

    from rl_core.backends.contracts.registry import PolicyRegistry


class PromoteVersion(BanditTask, BaseOperator):
    """Makes a version champion after the endpoint has loaded and probed it. XCom: the version that serves now."""

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, outlets=[champion_asset(bandit)], **kwargs)

    def execute(self, context: Context) -> str:
        from rl_core.backends.promotion import make_champion

        backend = self.open_backend()
        registry, endpoint = backend.registry(), backend.endpoint()
        champion = registry.alias("champion")
        version = wanted_version(registry, champion, str(context["params"]["version"]))
        make_champion(registry, endpoint, version, champion)
        self.log.info("%s serves again instead of %s", version, champion)
        context["outlet_events"][champion_asset(self.bandit)].extra = {"version": version}
        return version


def wanted_version(registry: PolicyRegistry, champion: str | None, asked: str) -> str:
    """Return the version that `asked` means; "previous" is the champion's parent. Raises AirflowFailException."""
    if asked == "previous":
        parent = registry.lineage(champion).parent if champion else None
        if parent is None:
            raise AirflowFailException(f"champion {champion or 'none'} has no parent to go back to; name a version")
        return parent
    if asked not in registry.versions():
        known = ", ".join(registry.versions()[-5:]) or "none"
        raise AirflowFailException(f"{asked} is not a registered version; the latest are {known}")
    return asked
