"""Joins decisions with rewards in BigQuery, as one task; on backend local the event logger does it by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from bandit_ops.task import BanditTask
from bandit_ops.watching import say_cloud_vital_signs

if TYPE_CHECKING:
    from airflow.sdk import Context


class JoinLog(BanditTask, BaseOperator):
    """Joins what arrived; the one task of the DAG `…_join`. XCom: `{"interactions", "apart", "head", "open"}`.

    Every run first sends a heartbeat of its own through the bus: what arrives of it shows how far delivery works, which
    distinguishes a silent server from a delayed one. A run that is killed has joined nothing or everything.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        from dataclasses import asdict

        from rl_core.backends.gcp.bus.message_bus import publish_joiner_heartbeat
        from rl_core.backends.gcp.store.event_store import BigQueryEventStore
        from rl_core.backends.gcp.store.joiner import SqlJoiner
        from rl_core.errors import ConfigError

        clients = self.clients
        if clients is None:
            raise ConfigError(f"{self.bandit.name}: backend={self.bandit.backend} is joined by its event logger")
        publish_joiner_heartbeat(clients)
        store = BigQueryEventStore(clients)
        joiner = SqlJoiner(self.bandit, store)
        watermark = joiner.watermark()
        run = joiner.run(watermark)
        self.log.info(
            "%s interactions joined, %s rewards set apart; head %s, %s decisions open, watermark %s; %s bytes scanned",
            run.interactions,
            run.apart,
            run.head,
            run.open,
            watermark.isoformat(timespec="seconds") if watermark else "none yet",
            f"{store.bytes_scanned:,}",
        )
        gaps = joiner.gaps()
        for gap in gaps:
            self.log.error("a gap holds the watermark: %s", gap)
        say_cloud_vital_signs(self, store, watermark, len(gaps))
        return asdict(run)
