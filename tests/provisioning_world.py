"""A project that is provisioned in tests: the stand-ins, and the real clients with other settings each time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.backend import GoogleBackend
from rl_core.backends.gcp.provisioning import build, preflight
from rl_core.backends.gcp.provisioning.resource import Site
from rl_core.config import Bandit, Settings
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.cloud import Cloud

COMPOSER = "composer@test-project.iam.gserviceaccount.com"
PROVISIONER = "provisioner@test-project.iam.gserviceaccount.com"
ACCOUNTS = "projects/test-project/serviceAccounts"


class World:
    """A project, and doors to it with other settings."""

    def __init__(self, cloud: Cloud, bandit: Bandit, folder: Path, handles: ExitStack) -> None:
        self.cloud = cloud
        self._handles = handles
        self._bandit = bandit
        self._folder = folder
        self.said: list[str] = []
        self.bundle = folder / "movielens.zip"
        self.bundle.write_bytes(b"the functions")
        cloud.admin.add(f"{ACCOUNTS}/{COMPOSER}", email=COMPOSER, uniqueId="1")

    def site(self, bundle: bool = True, runtime_account: str | None = COMPOSER, **changes: Any) -> Site:
        """`changes` are settings of the bandit where it has them, else of its section `google`."""
        written = self._bandit.model_dump(mode="json")
        written["google"] |= {"provisioner": PROVISIONER, "endpoint": {"deploy_mode": "model"}}
        for name, value in changes.items():
            place = written if name in written else written["google"]
            place[name] = place[name] | value if isinstance(place[name], dict) and value else value
        if written["environment"] is None:
            written["startup"]["source"] = "log"
        variables = self.cloud.environment()
        settings = Settings(
            home=self._folder / "home",
            google_endpoint=variables["BANDIT_GOOGLE_ENDPOINT"],
            pubsub_emulator_host=variables["BANDIT_PUBSUB_EMULATOR_HOST"],
        )
        clients = GoogleClients(Bandit.from_json(json.dumps(written)), settings)
        self._handles.callback(clients.close)
        return Site(clients.bandit, clients, runtime_account, self.bundle if bundle else None, patience_s=1.0)

    def provision(self, site: Site, *parts: Part) -> list[str]:
        """What was said."""
        self.said = []
        preflight.check(site, may_make=True)
        for part in parts or GoogleBackend.PARTS:
            build.provision(site, part, self.said.append)
        return self.said

    def everything(self) -> dict[str, Any]:
        """Of all services, what there is: without what changes by being looked at."""
        site = self.site()
        clients = site.clients
        datasets = {dataset.dataset_id for dataset in clients.bigquery.list_datasets()}
        return {
            **{name: value for name, value in self.cloud.admin.everything().items() if name == "bindings"},
            "resources": sorted(self.cloud.admin.everything()["resources"]),
            "buckets": {b.name: sorted(o.name for o in clients.storage.list_blobs(b)) for b in self._buckets(clients)},
            "tables": {name: sorted(t.table_id for t in clients.bigquery.list_tables(name)) for name in datasets},
            "access": {
                name: sorted(str(e.to_api_repr()) for e in clients.bigquery.get_dataset(name).access_entries)
                for name in datasets
            },
            "topics": sorted(t.name for t in clients.publisher.list_topics(project="projects/test-project")),
            "endpoints": sorted(e.display_name for e in clients.endpoints.list_endpoints(parent=clients.names.parent)),
        }

    def _buckets(self, clients: GoogleClients) -> list[Any]:
        return list(clients.storage.list_buckets())
