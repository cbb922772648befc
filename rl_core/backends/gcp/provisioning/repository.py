"""The Docker repository of the job image."""

from __future__ import annotations

from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Owned, Site
from rl_core.backends.gcp.provisioning.rest import call, get, wait


class Repository(Owned):
    """The Docker repository of the job image, in Artifact Registry."""

    part: Part = "storage"
    role = "roles/artifactregistry.admin on the project"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"image repository {self._site.names.repository.rpartition('/')[2]}"

    def exists(self) -> Found:
        repository = get(self._locations.repositories().get(name=self._site.names.repository))
        return Found.ABSENT if repository is None else self._site.owner(repository.get("labels"))

    def create(self) -> None:
        names = self._site.names
        parent, _, repository = names.repository.rpartition("/repositories/")
        body = {"format": "DOCKER", "labels": names.labels, "description": f"images of {names.bandit_id}"}
        if names.google.kms_key is not None:
            body["kmsKeyName"] = names.google.kms_key
        request = self._locations.repositories().create(parent=parent, repositoryId=repository, body=body)
        wait(call(request), self._operation)

    def _remove(self) -> None:
        wait(call(self._locations.repositories().delete(name=self._site.names.repository)), self._operation)

    def _operation(self, name: str) -> Any:
        return self._locations.operations().get(name=name)

    @property
    def _locations(self) -> Any:
        return self._site.clients.rest("artifactregistry", "v1").projects().locations()
