"""Turns Airflow's Google connections into the clients of a bandit."""

from __future__ import annotations

from collections.abc import Sequence

from rl_core.backends.gcp.clients import GoogleClients
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError


def clients_of(bandit: Bandit, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None) -> GoogleClients:
    """Make a bandit's clients with the credentials of a connection. Raises ConfigError where it gives none."""
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    from airflow.sdk.exceptions import AirflowException
    from google.auth.exceptions import GoogleAuthError

    chain = (
        impersonation_chain
        if impersonation_chain is None or isinstance(impersonation_chain, str)
        else list(impersonation_chain)
    )
    try:
        credentials = GoogleBaseHook(gcp_conn_id=gcp_conn_id, impersonation_chain=chain).get_credentials()
    except (AirflowException, GoogleAuthError) as error:
        raise ConfigError(
            f"{bandit.name}: connection {gcp_conn_id!r} gives no credentials ({' '.join(str(error).split())}); "
            "correct the connection, gcp_conn_id or impersonation_chain"
        ) from error
    return GoogleClients(bandit, Settings.from_environment(), credentials)
