"""Pages of a list, and changes by field mask, as the API gives and takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from stand_ins.pubsub.checks import invalid

_T = TypeVar("_T")
_PAGE = 100


def page(items: Sequence[_T], request: Any) -> tuple[list[_T], str]:
    """The page that the request asks for, and the token of the next one or ""."""
    if request.page_token and not request.page_token.isdigit():
        invalid(f"Invalid page_token {request.page_token!r}.")
    start = int(request.page_token or 0)
    end = start + (request.page_size or _PAGE)
    return list(items[start:end]), str(end) if end < len(items) else ""


def merged(stored: Any, given: Any, mask: Any, changeable: Sequence[str]) -> Any:
    """`stored` with the fields of `mask` as they are in `given`."""
    paths = list(mask.paths) if mask else []
    if not paths:
        invalid("The update_mask in the request must be set and not empty.")
    for path in paths:
        if path not in changeable:
            invalid(f"Invalid update_mask provided in the request: {path!r} is unknown or cannot be changed.")
    kind = type(stored)
    raw, new = kind.pb(stored), kind.pb(given)
    for path in paths:
        raw.ClearField(path)
        part = kind()
        kind.pb(part).CopyFrom(new)
        for field, _ in new.ListFields():
            if field.name != path:
                kind.pb(part).ClearField(field.name)
        raw.MergeFrom(kind.pb(part))
    return stored
