"""Whether something exists that another stand-in keeps: asked of it as a client would."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

_QUIET = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def exists(name: str, rest_url: Callable[[], str], pubsub_address: Callable[[], str]) -> bool:
    """Args:
    name: "b/<bucket>", "b/<bucket>/o/<object>", "projects/<p>/datasets/<d>/tables/<t>" or a topic's full name.
    """
    if "/topics/" in name:
        return _topic_exists(name, pubsub_address())
    if name.startswith("b/"):
        bucket, _, inner = name.removeprefix("b/").partition("/o/")
        path = f"/storage/v1/b/{bucket}" + (f"/o/{urllib.parse.quote(inner, safe='')}" if inner else "")
    elif "/datasets/" in name:
        path = f"/bigquery/v2/{name}"
    else:
        return False
    try:
        with _QUIET.open(rest_url() + path) as answer:
            return bool(answer.status == http.client.OK)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code != http.client.NOT_FOUND


def _topic_exists(name: str, address: str) -> bool:
    import grpc
    from google.api_core.exceptions import NotFound
    from google.pubsub_v1 import PublisherClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    with grpc.insecure_channel(address) as channel:
        try:
            PublisherClient(transport=PublisherGrpcTransport(channel=channel)).get_topic(topic=name)
        except NotFound:
            return False
    return True
