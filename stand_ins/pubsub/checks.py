"""What Pub/Sub refuses, in its own words where they are known. https://cloud.google.com/pubsub/quotas"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc

from stand_ins.grpc_service import ApiError

MESSAGES_PER_REQUEST = 1000
REQUEST_BYTES = 10_000_000
_ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


def invalid(message: str) -> NoReturn:
    raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, message)


def check_name(name: str, collection: str) -> None:
    """projects/<project>/<collection>/<id>."""
    parts = name.split("/")
    well = len(parts) == 4 and parts[0] == "projects" and parts[1] and parts[2] == collection
    if not well or not _ID.fullmatch(parts[3]):
        invalid(
            f"Invalid resource name given (name={name}). Refer to https://cloud.google.com/pubsub/docs/pubsub-basics"
        )


def check_messages(messages: Sequence[Any]) -> None:
    """Raw protobuf messages: proto-plus costs as much as the rest of a publish."""
    if not messages:
        invalid("The request contains an empty batch of messages to publish. Publish at least one message.")
    if len(messages) > MESSAGES_PER_REQUEST:
        invalid(f"The value for message_count is too large. You passed {len(messages)}; the most is 1000.")
    size = sum(message.ByteSize() for message in messages)
    if size > REQUEST_BYTES:
        invalid(f"The value for request_size is too large. You passed {size}; the most is {REQUEST_BYTES}.")
    for message in messages:
        if not message.data and not message.attributes:
            invalid("One or more messages in the publish request is empty: give data or attributes.")
        if message.message_id or message.HasField("publish_time"):
            invalid("message_id and publish_time are given by the service.")
        for key, value in message.attributes.items():
            if not key or len(key.encode()) > 256 or len(value.encode()) > 1024 or key.startswith("goog"):
                invalid(f"Attribute {key!r} breaks a rule: a key has 1 to 256 bytes, a value at most 1024.")
        if len(message.ordering_key.encode()) > 1024:
            invalid("ordering_key has more than 1024 bytes.")
