"""What Airflow is told of us: the page of a pipeline run. An installed wheel names it as an entry point."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from bandit_ops.links import URL_PREFIX
from bandit_ops.ui.lazy import LazyApp


class BanditPlugin(AirflowPlugin):
    """Serves the page of a pipeline run from Airflow's API server."""

    name = "banditloop"
    fastapi_apps: list[Any] = [{"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "banditloop"}]  # noqa: RUF012 - Airflow's own declaration
