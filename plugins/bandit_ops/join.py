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

        backend = self.open_backend()
        report = backend.join()
        run, watermark = report.run, report.watermark
        self.log.info(
            "%s interactions joined, %s rewards set apart; head %s, %s decisions open, watermark %s; %s bytes scanned",
            run.interactions,
            run.apart,
            run.head,
            run.open,
            watermark.isoformat(timespec="seconds") if watermark else "none yet",
            f"{report.bytes_scanned:,}",
        )
        for gap in report.gaps:
            self.log.error("a gap holds the watermark: %s", gap)
        say_cloud_vital_signs(self, backend, watermark, len(report.gaps))
        return asdict(run)
