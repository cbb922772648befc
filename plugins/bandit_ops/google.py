"""Turns Airflow's Google connections into credentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl_core.config import Bandit
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


def credentials_of(bandit: Bandit, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None) -> Credentials:
    """Return who acts through a connection. Raises ConfigError where it gives no credentials."""
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    from airflow.sdk.exceptions import AirflowException
    from google.auth.exceptions import GoogleAuthError

    chain = (
        impersonation_chain
        if impersonation_chain is None or isinstance(impersonation_chain, str)
        else list(impersonation_chain)
    )
    try:
        found: Credentials = GoogleBaseHook(gcp_conn_id=gcp_conn_id, impersonation_chain=chain).get_credentials()
    except (AirflowException, GoogleAuthError) as error:
        raise ConfigError(
            f"{bandit.name}: connection {gcp_conn_id!r} gives no credentials ({' '.join(str(error).split())}); "
            "correct the connection, gcp_conn_id or impersonation_chain"
        ) from error
    return found
