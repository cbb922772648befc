"""The endpoint on Vertex AI, and what provisioning and teardown do with it.

deploy_mode=pointer: one deployed server follows the registry; its replicas report, since Vertex hides them.
deploy_mode=model: `rl_core.backends.gcp.endpoint.model_endpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rl_core.backends.contracts.endpoint import Endpoint
from rl_core.backends.gcp.endpoint import server_model
from rl_core.backends.gcp.endpoint.replicas import LIVE_S, Replicas
from rl_core.backends.gcp.endpoint.vertex_endpoint import VertexEndpoint
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.errors import EndpointAbsent, EndpointError, PolicyError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.waiting import looks

_POLL_S = 0.5


def open_vertex_endpoint(clients: GoogleClients) -> Endpoint:
    """Open the endpoint of `google.endpoint.deploy_mode`."""
    if clients.names.google.endpoint.deploy_mode == "model":
        from rl_core.backends.gcp.endpoint.model_endpoint import ModelEndpoint

        return ModelEndpoint(clients, VertexRegistry(clients))
    return PointerEndpoint(clients)


def endpoint_name(clients: GoogleClients) -> str:
    """Return the endpoint's full name, `projects/…/endpoints/<id>`, for predictions. Raises EndpointAbsent."""
    return str(VertexEndpoint(clients).get().name)


def ensure_endpoint(clients: GoogleClients) -> bool:
    """Make the endpoint where it is missing; return whether it was made. Raises EndpointError."""
    return VertexEndpoint(clients).ensure()


def ensure_server_deployed(clients: GoogleClients) -> bool:
    """Deploy the server of the current image where it does not answer; return whether anything was changed.

    For deploy_mode=pointer; deploy_mode=model has no server of its own. Takes ten minutes or so where it deploys.

    Raises:
        EndpointError: Vertex AI refused, or the server did not come up.
        ConfigError: google.image is not set.
    """
    if clients.names.google.endpoint.deploy_mode == "model":
        return False
    return server_model.ensure_server(clients)


def delete_endpoint(clients: GoogleClients) -> bool:
    """Delete the endpoint with everything deployed to it; return whether there was one. Raises EndpointError."""
    return VertexEndpoint(clients).delete()


def delete_models(clients: GoogleClients) -> list[str]:
    """Delete the mirrored policies' model and the server's; return the names of those there were.

    Raises:
        EndpointError: Vertex AI refused.
    """
    from google.api_core.exceptions import NotFound

    gone = []
    for name in (clients.names.model, server_model.model_name(clients)):
        with VertexEndpoint(clients).explained(f"delete {name}"):
            try:
                clients.models.delete_model(name=name, timeout=30.0).result(timeout=300.0)
            except NotFound:
                continue
        gone.append(name)
    return gone


class PointerEndpoint:
    """`Endpoint`: the servers follow the registry's aliases; this watches every live replica take a policy."""

    def __init__(self, clients: GoogleClients) -> None:
        self._endpoint = VertexEndpoint(clients)
        self._replicas = Replicas(clients)
        self._name = clients.names.endpoint

    def load(self, version: str, timeout_s: float = 120.0) -> None:
        self._endpoint.get()
        self._wait(version, "loaded", lambda state: version in state["loaded"], timeout_s)

    def serve(self, version: str, timeout_s: float = 120.0) -> None:
        self._wait(version, "served as champion", lambda state: state["champion"] == version, timeout_s)

    def state(self) -> dict[str, Any]:
        """Return the replicas' states as one.

        `serves` and `champion` are None where the replicas differ; `loaded` is what all have; counts are sums.
        """
        self._endpoint.get()
        return merged(self._live())

    def _live(self) -> dict[str, dict[str, Any]]:
        if not (found := self._replicas.live()):
            raise EndpointAbsent(
                f"endpoint {self._name}: no replica reported in the last {LIVE_S:g} s; "
                "run the DAG …_provision, or look at the endpoint's logs"
            )
        return found

    def _wait(self, version: str, what: str, reached: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        for _ in looks(timeout_s, _POLL_S):
            replicas = self._live()
            if not (behind := [replica for replica, state in replicas.items() if not reached(state)]):
                return
            for replica in behind:
                if (reason := replicas[replica]["refused"].get(version)) is not None:
                    raise PolicyError(f"the endpoint refused {version}: {reason} (replica {replica})")
        state = replicas[behind[0]]
        raise EndpointError(
            f"endpoint {self._name}: {version} was not {what} within {timeout_s:g} s by {len(behind)} of "
            f"{len(replicas)} replicas ({behind[0]}: champion {state['champion']}, loaded: "
            f"{', '.join(state['loaded']) or 'none'}); look at the endpoint's logs"
        )


def merged(replicas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of several replicas into one, which keeps them under `replicas`."""
    states = list(replicas.values())
    loaded = set.intersection(*(set(state["loaded"]) for state in states))
    refused = {version: reason for state in states for version, reason in state["refused"].items()}
    counts = {
        name: sum(state.get(name, 0) for state in states)
        for name, value in states[0].items()
        if isinstance(value, int) and name != "pid"
    }

    def common(name: str) -> Any:
        values = {state.get(name) for state in states}
        return values.pop() if len(values) == 1 else None

    return {
        **counts,
        "serves": common("serves"),
        "champion": common("champion"),
        "challenger": common("challenger"),
        "loaded": sorted(loaded),
        "refused": refused,
        "durability": common("durability"),
        "replicas": {replica: dict(state) for replica, state in replicas.items()},
    }
