"""Provisioning and teardown as tasks; what is made and how is the backend's (rl_core/backends/gcp/provisioning)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TaskGroup
from airflow.sdk.exceptions import AirflowFailException

from bandit_ops.lease import LEASE_TTL_S, holder_of
from bandit_ops.task import BanditTask
from rl_core.backends import backend_class
from rl_core.config import Bandit
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from rl_core.backends.contracts.backend import Part, Provisioner

GROUP = "provision"
CHECK = f"{GROUP}.check"
_WITHIN: dict[Part, timedelta] = {
    "storage": timedelta(minutes=10),
    "messaging": timedelta(minutes=10),
    "identities": timedelta(minutes=15),
    "functions": timedelta(minutes=45),
    "endpoint": timedelta(hours=1),
}


_ADVICE = """
- `provision.check`: *can't be provisioned* – the error names each setting to correct, role to give, API to enable.
- `provision.check`: *lacks* – `provision` was off and something is missing; the error lists it.
- `provision.functions`: *no … .zip* – run `make functions-bundle composer-bundle` and deploy the bundle.
- `provision.endpoint`: *google.image is not set* – build the image, put its digest into the YAML, clear the task.
"""


def advice(bandit: Bandit, doc: str | None) -> str:
    """Write the page of a DAG that begins with the task group `provision`: its own, and what that group needs."""
    return (doc or "").rstrip() + (_ADVICE if backend_class(bandit).PARTS else "\n")


def provisioning(bandit: Bandit, before: BaseOperator | None = None) -> None:
    """Add the task group `provision` upstream of `before`; nothing for a backend that needs no provisioning."""
    parts = backend_class(bandit).PARTS
    if not parts:
        return
    with TaskGroup(GROUP, tooltip="make what is missing on Google Cloud; provision=false only verifies"):
        last: BaseOperator = CheckProvisioning(task_id="check", bandit=bandit)
        for part in parts:
            task = ProvisionPart(task_id=part, bandit=bandit, part=part, execution_timeout=_WITHIN[part], retries=3)
            last >> task
            last = task
        if before is not None:
            last >> before


class ProvisioningTask(BanditTask):
    """The base of tasks that act as `google.provisioner`; as the run-time account where there is none."""

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        google = bandit.google
        if google is not None and google.provisioner is not None:
            kwargs.setdefault("impersonation_chain", [google.provisioner])
        super().__init__(bandit=bandit, **kwargs)

    @contextmanager
    def provisioner(self) -> Iterator[Provisioner]:
        """Open what makes and takes away the bandit's resources, with the credentials of the acting account."""
        with closing(self.open_backend()) as backend:
            account = runtime_account(self.bandit, self.gcp_conn_id) if backend.PARTS else None
            yield backend.provisioner(account, bundle_of(self.bandit))


class CheckProvisioning(ProvisioningTask):
    """Checks everything before anything is made; fails with one error that names all that is wrong."""

    def execute(self, context: Context) -> None:
        may_make = bool(context["params"]["provision"])
        with self.provisioner() as provisioner:
            provisioner.check(may_make=may_make)
            if not may_make:
                provisioner.verify(self.log.info)


class ProvisionPart(ProvisioningTask):
    """Makes what is missing of one part; may be tried again after any crash."""

    def __init__(self, *, part: Part, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part: Part = part

    def execute(self, context: Context) -> None:
        if not context["params"]["provision"]:
            self.log.info("provision=false: nothing is made; %s has looked at it", CHECK)
            return
        with self.provisioner() as provisioner:
            provisioner.provision(self.part, self.log.info)


class TearDown(ProvisioningTask):
    """Takes away what provisioning made, or the state of a local bandit; holds the training lock meanwhile."""

    def execute(self, context: Context) -> None:
        form = context["params"]
        typed, asked = str(form["confirm"]).strip(), (self.bandit.prefix, self.bandit.id)
        if typed not in asked:
            raise AirflowFailException(
                f"{typed!r} was typed to confirm, {asked[0]!r} or {asked[1]!r} is asked for; nothing was touched"
            )
        if not form["force"] and (reason := self._busy(context)):
            raise AirflowFailException(f"{reason}; wait for it to end, or set force. Nothing was touched")
        with self.provisioner() as provisioner:
            if alive := provisioner.in_use():
                raise ConfigError(
                    f"{self.bandit.name} is in use: {alive}; stop it first (make down). Nothing was touched"
                )
            runner = self.open_runner()
            for job_id in runner.active():  # none, unless it is forced
                self.log.warning("cancelling %s", job_id)
                runner.cancel(job_id)
            provisioner.teardown(self.log.info)

    def _busy(self, context: Context) -> str | None:
        """Why the bandit can't be taken away now: a training, or a job that outlived its run."""
        from rl_core.errors import LeaseHeld, RegistryError

        backend = self.open_backend()
        if backend.folder is not None and not backend.folder.exists():
            return None
        registry = backend.registry()
        try:
            registry.lease(holder_of(context), LEASE_TTL_S)
        except LeaseHeld as held:
            return str(held)
        except RegistryError as error:
            if not _is_not_found(error):
                raise
            self.log.info("there is no registry any more, so nobody trains: %s", error)
        active = self.open_runner().active()
        if active:
            registry.release(holder_of(context))
        return f"job {active[0]} is still active" if active else None


def _is_not_found(error: Exception) -> bool:
    from google.api_core.exceptions import NotFound

    return isinstance(error.__cause__, NotFound)


def runtime_account(bandit: Bandit, gcp_conn_id: str | None) -> str | None:
    """Return the e-mail of the account that run-time tasks act as; None where it can't be known.

    It can't for a person's login, for one.
    """
    from bandit_ops.google import credentials_of

    if gcp_conn_id is None:
        return None
    if bandit.google is not None and bandit.google.impersonation_chain:
        return bandit.google.impersonation_chain[-1]
    credentials = credentials_of(bandit, gcp_conn_id, None)
    email = getattr(credentials, "service_account_email", None)
    if email == "default":  # of a machine's own account, known after its first token
        from google.auth.transport.requests import Request

        credentials.refresh(Request())
        email = getattr(credentials, "service_account_email", None)
    return email if email and "@" in email else None


def bundle_of(bandit: Bandit) -> Path | None:
    """Find the functions' zip: in the repository's dist/, or in the data/ beside Composer's plugins/."""
    from bandit_ops.runners.spec import ROOT

    name = f"{bandit.name}.zip"
    places = (ROOT / "dist" / "functions", ROOT.parent / "data" / "banditloop" / "functions")
    return next((place / name for place in places if (place / name).is_file()), None)
