"""What endpoint and model mirror stand on: ids of ours, aliases that one version has, labels that a list filters by.

Nothing is deployed, so nothing is billed.
"""

from __future__ import annotations

from google.api_core.exceptions import AlreadyExists, FailedPrecondition, InvalidArgument
from google.cloud import aiplatform_v1 as v1

from stand_ins.beliefs.scratch import Belief, Scratch

_IMAGE = "europe-docker.pkg.dev/vertex-ai/prediction/sklearn-cpu.1-5:latest"


def an_endpoint_is_made_once_and_found_by_its_label(scratch: Scratch) -> str | None:
    endpoints, names = scratch.clients.endpoints, scratch.names
    name = f"{names.parent}/endpoints/{names.bandit_id}"
    request = v1.CreateEndpointRequest(
        parent=names.parent,
        endpoint_id=names.bandit_id,
        endpoint=v1.Endpoint(display_name=names.endpoint, labels=names.labels),
    )
    scratch.undo(f"endpoint {name}", lambda: endpoints.delete_endpoint(name=name).result(timeout=300))
    endpoints.create_endpoint(request=request).result(timeout=300)
    try:
        endpoints.create_endpoint(request=request).result(timeout=300)
    except AlreadyExists:
        pass
    else:
        raise AssertionError(f"{name} was made twice")
    wanted = f'display_name="{names.endpoint}" AND labels.banditloop="{names.bandit_id}"'
    found = [one.name for one in endpoints.list_endpoints(request={"parent": names.parent, "filter": wanted})]
    assert [one.rpartition("/")[2] for one in found] == [names.bandit_id], f"found {found}"
    return None


def a_version_is_known_by_an_alias_that_it_can_lose(scratch: Scratch) -> str | None:
    models, names = scratch.clients.models, scratch.names
    scratch.undo(f"model {names.model}", lambda: models.delete_model(name=names.model).result(timeout=300))
    for number, parent_model in ((1, ""), (2, names.model)):
        request = v1.UploadModelRequest(
            parent=names.parent,
            parent_model=parent_model,
            model_id="" if parent_model else names.bandit_id,
            model=v1.Model(
                display_name=names.bandit_id,
                version_aliases=[f"{names.bandit_id}-{number:04d}"],
                labels=names.labels,
                container_spec=v1.ModelContainerSpec(image_uri=names.google.image or _IMAGE),
            ),
        )
        models.upload_model(request=request).result(timeout=600)
    one, two = sorted(models.list_model_versions(name=names.model), key=lambda model: int(model.version_id))
    for version, alias in ((one, "champion"), (one, "-champion"), (two, "champion")):
        models.merge_version_aliases(name=f"{names.model}@{version.version_id}", version_aliases=[alias])
    aliases = [set(model.version_aliases) - {"default"} for model in models.list_model_versions(name=names.model)]
    wanted = [{f"{names.bandit_id}-0001"}, {f"{names.bandit_id}-0002", "champion"}]
    assert sorted(aliases, key=len) == wanted, f"aliases are {aliases}"
    try:
        models.merge_version_aliases(name=f"{names.model}@{two.version_id}", version_aliases=["7"])
    except (InvalidArgument, FailedPrecondition):
        return None
    raise AssertionError("a number was taken for an alias")


BELIEFS = (
    Belief("vertex", "an endpoint's id is ours and given once", an_endpoint_is_made_once_and_found_by_its_label),
    Belief("vertex", "aliases of model versions come and go", a_version_is_known_by_an_alias_that_it_can_lose),
)
