"""Adds and removes the IAM bindings that a bandit needs on one resource; grants.py lists them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import suppress

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.ledger import Binding, Ledger
from rl_core.backends.gcp.provisioning.policies import Policy, target_of
from rl_core.backends.gcp.provisioning.resource import Found, Site
from rl_core.waiting import looks

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 4.0


class Bindings:
    """The bindings of one resource.

    Args:
        target: a key of policies.target_of.
    """

    def __init__(self, site: Site, target: str, wanted: Collection[Binding], part: Part, role: str) -> None:
        self._site = site
        self._ledger = Ledger(site)
        self._target = target
        self._wanted = sorted(wanted)
        self.part: Part = part
        self.role = role

    def describe(self) -> str:
        given = sorted(f"{b.role} to {b.member.partition(':')[2].partition('@')[0]}" for b in self._wanted)
        return f"IAM of {target_of(self._site, self._target).name} ({', '.join(given)})"

    def exists(self) -> Found:
        return Found.ABSENT if self.missing() else Found.OURS

    def missing(self) -> list[Binding]:
        """Return the bindings that are not there: all of them where the resource itself is missing."""
        from google.api_core.exceptions import NotFound

        try:
            policy = target_of(self._site, self._target).read()
        except NotFound:
            return self._wanted
        return [binding for binding in self._wanted if binding.member not in _members(policy, binding.role)]

    def create(self) -> None:
        missing = self.missing()
        self._ledger.remember(missing)
        self._change(lambda policy: _with(policy, missing))

    def delete(self) -> Found:
        """Remove what the ledger knows of this resource; whatever else is bound there stays."""
        from google.api_core.exceptions import NotFound

        ours = [binding for binding in self._ledger.bindings() if binding.target == self._target]
        if not ours:
            return Found.ABSENT
        with suppress(NotFound):
            self._change(lambda policy: _without(policy, ours))
        self._ledger.strike(ours)
        return Found.OURS

    def _change(self, change: Callable[[Policy], Policy]) -> None:
        """Read, change and write, again where somebody else was faster or a new account is not known everywhere yet."""
        from google.api_core import exceptions as google

        policy_of = target_of(self._site, self._target)
        for left in looks(self._site.patience_s, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, jitter=True):
            policy = policy_of.read()
            changed = change(copy.deepcopy(policy))
            if changed == policy:
                return
            try:
                policy_of.write(changed)
                return
            except (google.Conflict, google.PreconditionFailed):
                if not left:
                    raise
            except google.BadRequest as error:
                if "does not exist" not in str(error) or not left:
                    raise


def _members(policy: Policy, role: str) -> set[str]:
    """Of the role without condition."""
    return {
        member
        for binding in policy.get("bindings", [])
        if binding["role"] == role and not binding.get("condition")
        for member in binding.get("members", [])
    }


def _with(policy: Policy, added: Collection[Binding]) -> Policy:
    for binding in added:
        if binding.member not in _members(policy, binding.role):
            policy.setdefault("bindings", []).append({"role": binding.role, "members": [binding.member]})
    return policy


def _without(policy: Policy, removed: Collection[Binding]) -> Policy:
    """Also of accounts that were deleted, which a policy keeps as "deleted:<member>?uid=…"."""
    for binding in policy.get("bindings", []):
        if binding.get("condition"):
            continue
        ours = [b.member for b in removed if b.role == binding["role"]]
        gone = tuple(f"deleted:{member}?" for member in ours)
        binding["members"] = [m for m in binding.get("members", []) if m not in ours and not m.startswith(gone)]
    policy["bindings"] = [binding for binding in policy.get("bindings", []) if binding.get("members")]
    return policy
