"""The real Google clients of one bandit, each made at its first use, all with one identity.

Stand-ins for Google (tests, docker-compose.emulators.yaml): REST clients follow BANDIT_GOOGLE_ENDPOINT, Pub/Sub
BANDIT_PUBSUB_EMULATOR_HOST; Vertex AI, whose address is fixed, is reached through the variable `grpc_proxy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rl_core.config import Bandit, Settings
from rl_core.google_cloud.names import names_of

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import aiplatform_v1, bigquery

# After an outage gRPC waits up to two minutes before it looks again; a server that answers 503 meanwhile looks sooner.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000))
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


def _read_refusal(response: Any, *_: Any, **__: Any) -> None:
    """The client leaves a refused download (304, 404) unread, and its connection open; read, it is used again."""
    if not 200 <= response.status_code < 300:
        _ = response.content


class GoogleClients:
    """The Google clients of one bandit, which every part of the gcp backend shares.

    Args:
        credentials: who acts; None means the process's own (Application Default Credentials).
    """

    def __init__(self, bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> None:
        self.bandit = bandit
        self.names = names_of(bandit)
        self.settings = settings
        self._given = credentials
        self._rest: dict[tuple[str, str], Any] = {}

    @cached_property
    def credentials(self) -> Credentials:
        """The credentials of who acts. Raises ConfigError where the process has none."""
        if self._given is not None:
            return self._given
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import DefaultCredentialsError

        from rl_core.errors import ConfigError

        if self.settings.google_endpoint is not None:
            return AnonymousCredentials()
        try:
            found: Credentials = google.auth.default(scopes=_SCOPES)[0]
        except DefaultCredentialsError as error:
            raise ConfigError(
                "no Google credentials: run as a service account, or `gcloud auth application-default login`"
            ) from error
        return found

    @cached_property
    def bigquery(self) -> bigquery.Client:
        from google.cloud import bigquery

        return bigquery.Client(
            project=self.names.project,
            credentials=self.credentials,
            location=self.names.location,
            client_options=self._rest_options,
        )

    @cached_property
    def storage(self) -> Any:
        from google.cloud import storage

        client = storage.Client(
            project=self.names.project, credentials=self.credentials, client_options=self._rest_options
        )
        client._http.hooks["response"].append(_read_refusal)
        return client

    @cached_property
    def bucket(self) -> Any:
        """The bandit's bucket; no request is made."""
        return self.storage.bucket(self.names.bucket)

    @cached_property
    def publisher(self) -> Any:
        """The thin Pub/Sub client, without batching threads: the bus batches by itself."""
        from google.pubsub_v1 import PublisherClient

        return PublisherClient(transport=self._pubsub_transport("publisher"))

    @cached_property
    def subscriber(self) -> Any:
        from google.pubsub_v1 import SubscriberClient

        return SubscriberClient(transport=self._pubsub_transport("subscriber"))

    @cached_property
    def pipelines(self) -> aiplatform_v1.PipelineServiceClient:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.PipelineServiceClient(credentials=self.credentials, client_options=self._vertex_options)

    @cached_property
    def models(self) -> aiplatform_v1.ModelServiceClient:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.ModelServiceClient(credentials=self.credentials, client_options=self._vertex_options)

    @cached_property
    def endpoints(self) -> aiplatform_v1.EndpointServiceClient:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.EndpointServiceClient(credentials=self.credentials, client_options=self._vertex_options)

    @cached_property
    def predictions(self) -> aiplatform_v1.PredictionServiceClient:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.PredictionServiceClient(credentials=self.credentials, client_options=self._vertex_options)

    @cached_property
    def metadata(self) -> aiplatform_v1.MetadataServiceClient:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.MetadataServiceClient(credentials=self.credentials, client_options=self._vertex_options)

    def rest(self, service: str, version: str) -> Any:
        """Make a client of a service without a library in Composer, from the discovery documents of googleapiclient."""
        if (service, version) not in self._rest:
            from googleapiclient import discovery

            self._rest[service, version] = discovery.build(
                service,
                version,
                credentials=self.credentials,
                client_options=self._rest_options,
                static_discovery=True,
                cache_discovery=False,
            )
        return self._rest[service, version]

    def close(self) -> None:
        """Close the clients that were opened."""
        for name in ("bigquery", "storage"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for name in ("publisher", "subscriber", "pipelines", "models", "endpoints", "predictions", "metadata"):
            if name in self.__dict__:
                self.__dict__[name].transport.close()
        for opened in self._rest.values():
            opened.close()

    @property
    def _rest_options(self) -> dict[str, str] | None:
        endpoint = self.settings.google_endpoint
        return None if endpoint is None else {"api_endpoint": endpoint}

    @property
    def _vertex_options(self) -> dict[str, str]:
        return {"api_endpoint": f"{self.names.region}-aiplatform.googleapis.com"}

    def _pubsub_transport(self, which: str) -> Any:
        import grpc
        from google.pubsub_v1.services import publisher, subscriber

        module = {"publisher": publisher, "subscriber": subscriber}[which]
        transport = getattr(module.transports, f"{which.capitalize()}GrpcTransport")
        host = self.settings.pubsub_emulator_host
        if host is not None:
            return transport(channel=grpc.insecure_channel(host, list(_RECONNECT)))

        def channel(*args: Any, options: Sequence[tuple[str, Any]], **kwargs: Any) -> grpc.Channel:
            return transport.create_channel(*args, options=[*options, *_RECONNECT], **kwargs)

        return transport(credentials=self.credentials, channel=channel)
