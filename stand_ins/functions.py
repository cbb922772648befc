"""Cloud Functions that really run: what was deployed, under the real functions-framework, fed by the topic it names."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stand_ins.free_port import free_port, wait_until_open

FetchObject = Callable[[str, str], bytes]
"""Content of an object, by bucket and name."""

Subscribe = Callable[[str, str, str], None]
"""Make a function's push subscription: the function, the topic, the URL."""


class Functions:
    """Deploys what the functions service was told, in processes of this machine.

    Args:
        environment: of every function, below its own variables.
    """

    def __init__(
        self, folder: Path, fetch: FetchObject, subscribe: Subscribe, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self._folder = folder
        self._fetch = fetch
        self._subscribe = subscribe
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def deploy(self, function: Mapping[str, Any]) -> None:
        """Start the function resource (v2), replacing one of its name; returns once it listens."""
        name = str(function["name"]).rpartition("/")[2]
        self.delete(name)
        source = function["buildConfig"]["source"]["storageSource"]
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(io.BytesIO(self._fetch(source["bucket"], source["object"]))) as archive:
            archive.extractall(folder)
        port = free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BANDIT_", "AIRFLOW_"))}
        own = function.get("serviceConfig", {}).get("environmentVariables", {})
        command = [sys.executable, "-m", "functions_framework", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--target", function["buildConfig"]["entryPoint"], "--signature-type", "cloudevent"]
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--source", "main.py"],
                cwd=folder,
                env={**inherited, **self._environment(), **own, "PYTHONPATH": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running[name] = process
        wait_until_open(port, process, folder / "log.txt")
        trigger = function.get("eventTrigger")
        if trigger is not None:
            self._subscribe(name, trigger["pubsubTopic"], f"http://127.0.0.1:{port}")

    def delete(self, name: str) -> None:
        """End the function of this name, short or in full; a subscription of its own keeps what comes meanwhile."""
        process = self._running.pop(name.rpartition("/")[2], None)
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        for name in list(self._running):
            self.delete(name)


def subscription_of(function: str, project: str) -> str:
    """What Eventarc calls the subscription of a function, by the function's short or full name."""
    return f"projects/{project}/subscriptions/eventarc-{function.rpartition('/')[2]}"


def end_push(address: str, name: str) -> None:
    """Delete the subscription, if it is there."""
    import grpc
    from google.api_core.exceptions import NotFound
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    with grpc.insecure_channel(address) as channel, suppress(NotFound):
        SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)).delete_subscription(subscription=name)


def push_to(address: str, name: str, topic: str, url: str) -> None:
    """Make the push subscription `name`, or lead the one that is there to the URL, as Eventarc does."""
    import grpc
    from google.api_core.exceptions import AlreadyExists
    from google.pubsub_v1 import PushConfig, SubscriberClient, Subscription
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    with grpc.insecure_channel(address) as channel:
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        config = PushConfig(push_endpoint=url)
        try:
            client.create_subscription(Subscription(name=name, topic=topic, push_config=config))
        except AlreadyExists:
            client.modify_push_config(subscription=name, push_config=config)
