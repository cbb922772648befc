"""A connection to an endpoint on Vertex AI: rawPredict, where decisions and rewards share the predict route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rl_core.backends.contracts.connection import Unreachable

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients

TIMEOUT_S = 15.0
ROLE = "roles/aiplatform.user on the project"
_BUSY = 503


class VertexConnection:
    """Posts to an endpoint on Vertex AI.

    Args:
        endpoint: the endpoint's full resource name.
    """

    def __init__(self, clients: GoogleClients, endpoint: Callable[[], str]) -> None:
        self._clients = clients
        self._endpoint = endpoint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="raw-predict")

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a body; `path` plays no part, since Vertex AI has one route and what the body holds says what it is."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._raw_predict, body)

    def _raw_predict(self, body: bytes) -> tuple[int, bytes]:
        from google.api.httpbody_pb2 import HttpBody
        from google.api_core import exceptions as google

        from rl_core.google_cloud.failures import explained, transient

        endpoint = self._endpoint()
        request = {"endpoint": endpoint, "http_body": HttpBody(content_type="application/json", data=body)}
        try:
            answer = self._clients.predictions.raw_predict(request=request, retry=None, timeout=TIMEOUT_S)
        except (google.InvalidArgument, google.FailedPrecondition) as error:
            return 400, str(error.message).encode()
        except google.GoogleAPICallError as error:
            if transient(error):
                return _BUSY, str(error.message).encode()
            with explained(Unreachable, f"ask {endpoint}", self._clients.names, ROLE):
                raise
        return 200, bytes(answer.data)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


def over_vertex(clients: GoogleClients) -> Callable[[], VertexConnection]:
    """Make a factory of connections to the bandit's endpoint. Raises EndpointError where there is none."""
    from rl_core.backends.gcp.endpoint.endpoint import endpoint_name

    name = endpoint_name(clients)
    return lambda: VertexConnection(clients, lambda: name)
