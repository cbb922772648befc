"""The one file that Airflow scans here: registers the link to a pipeline run and the page behind it."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from bandit_ops.links import URL_PREFIX, PipelineRunLink
from bandit_ops.ui.lazy import LazyApp


class BanditPlugin(AirflowPlugin):
    name = "banditloop"
    operator_extra_links: list[Any] = [PipelineRunLink()]  # noqa: RUF012 - Airflow's own declaration
    fastapi_apps: list[Any] = [{"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "banditloop"}]  # noqa: RUF012
