"""Keeps which IAM bindings we added: a binding carries no label, and one that was there before must outlive us."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rl_core.backends.gcp.provisioning.resource import Site
from rl_core.errors import ProvisioningError
from rl_core.waiting import tries

_TRIES = 5


class Binding(NamedTuple):
    """One role of one member on one resource; `target` is a key of policies.target_of, e.g. "table decisions"."""

    target: str
    role: str
    member: str


class Ledger:
    """The ledger, an object in our folder of the bucket, changed by compare-and-swap.

    A binding is written here before it is added, so a crash in between loses none.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def bindings(self) -> set[Binding]:
        """Return the bindings that we added."""
        return self._read()[0]

    def remember(self, bindings: Iterable[Binding]) -> None:
        """Write bindings down before they are added."""
        new = set(bindings)
        self._change(lambda kept: kept | new)

    def strike(self, bindings: Iterable[Binding]) -> None:
        """Strike bindings out once they are removed."""
        gone = set(bindings)
        self._change(lambda kept: kept - gone)

    def _change(self, change: Callable[[set[Binding]], set[Binding]]) -> None:
        from google.api_core.exceptions import PreconditionFailed

        for _ in tries(_TRIES, 0.1):
            kept, generation = self._read()
            changed = change(kept)
            if changed == kept:
                return
            text = json.dumps([binding._asdict() for binding in sorted(changed)], indent=1)
            try:
                self._blob.upload_from_string(text, content_type="application/json", if_generation_match=generation)
            except PreconditionFailed:  # also what a repeated upload gets that had succeeded at first
                continue
            return
        raise ProvisioningError(f"{self._blob.name}: others keep changing it; run one provisioning at a time")

    def _read(self) -> tuple[set[Binding], int]:
        """With the object's generation, 0 where there is none."""
        from google.api_core.exceptions import NotFound

        blob = self._blob
        try:
            text = blob.download_as_bytes()
        except NotFound:
            return set(), 0
        return {Binding(**binding) for binding in json.loads(text)}, int(blob.generation)

    @property
    def _blob(self) -> Any:
        return self._site.clients.bucket.blob(f"{self._site.names.folder}provisioning/bindings.json")
