"""Provisioning and teardown of a bandit on Google Cloud, as callers know them."""

from __future__ import annotations

from rl_core.backends.contracts.backend import Part, Say
from rl_core.backends.gcp.provisioning import build, preflight
from rl_core.backends.gcp.provisioning.resource import Site


class CloudProvisioner:
    """`Provisioner` of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def check(self, *, may_make: bool) -> None:
        preflight.check(self._site, may_make=may_make)

    def verify(self, say: Say) -> None:
        build.verify(self._site, say)

    def provision(self, part: Part, say: Say) -> None:
        build.provision(self._site, part, say)

    def in_use(self) -> None:
        return None

    def teardown(self, say: Say) -> None:
        build.teardown(self._site, say)
