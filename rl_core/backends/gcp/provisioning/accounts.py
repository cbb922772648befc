"""Service accounts: one for each of job, server, logger and simulator, so that each may do its own work only."""

from __future__ import annotations

from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Owned, Site
from rl_core.backends.gcp.provisioning.rest import call, get
from rl_core.errors import ProvisioningError
from rl_core.google_cloud.names import Role

_SETTINGS = {"job": "google.vertex.service_account", "server": "google.endpoint.service_account"}


class Account(Owned):
    """A service account, made and removed by provisioning."""

    part: Part = "identities"
    role = "roles/iam.serviceAccountAdmin on the project"

    def __init__(self, site: Site, who: Role) -> None:
        self._site = site
        self._who: Role = who
        self.email = site.names.account(who)

    def describe(self) -> str:
        return f"service account {self.email}"

    def exists(self) -> Found:
        account = get(self._accounts.get(name=self._name))
        return Found.ABSENT if account is None else self._site.owner_by(account.get("description"))

    def create(self) -> None:
        """Make the account. Raises ProvisioningError for one that the YAML names: that one is not ours to make."""
        names = self._site.names
        account_id = names.account_id(self._who)
        if not self.email.startswith(f"{account_id}@"):
            raise ProvisioningError(
                f"{_SETTINGS[self._who]} names {self.email}, which does not exist; create it, or drop the setting"
            )
        told = {"displayName": f"{names.bandit_id} {self._who}", "description": self._site.mark}
        body = {"accountId": account_id, "serviceAccount": told}
        call(self._accounts.create(name=f"projects/{names.project}", body=body))

    def _remove(self) -> None:
        call(self._accounts.delete(name=self._name))

    @property
    def _name(self) -> str:
        return f"projects/-/serviceAccounts/{self.email}"

    @property
    def _accounts(self) -> Any:
        return self._site.clients.rest("iam", "v1").projects().serviceAccounts()
