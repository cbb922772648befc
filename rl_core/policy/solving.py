"""Solves a policy from sums: by hyperparameters, the scale of the features, and what is known of the actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_core.bandit.linucb import Array, LinUCB, Statistics
from rl_core.bandit.shared import SharedLinUCB, Sharing, solve_hybrid
from rl_core.config import Agent
from rl_core.errors import PolicyError
from rl_core.features.catalogue import Catalogue

Model = LinUCB | SharedLinUCB
"""What scores observations: num_actions, dim, means, scores; theta and root, which all of them can be written as."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How sums become a policy; the same sums may be solved by any.

    Attributes:
        scale: the size of each feature [d], to which λ is relative; None: λ is absolute.
        catalogue: what is known of the actions; None: nothing, so each learns by itself.
    """

    agent: Agent
    scale: Array | None = None
    catalogue: Catalogue | None = None

    def solve(self, statistics: Statistics, own: Sequence[str], wanted: Sequence[str]) -> Model:
        """Solve for the action ids `wanted`, from the sums of the ids `own`; a new one has the prior.

        Of a model that shares, actions that are not wanted have taught what the others use.

        Raises:
            PolicyError: the sums are no sums of squares, or the recipe lacks what its model needs.
        """
        ids = tuple(dict.fromkeys([*own, *wanted]))
        sums = statistics.aligned(own, ids)
        at = {action: index for index, action in enumerate(ids)}
        model = self._solve(sums, ids)
        return model if ids == tuple(wanted) else model.taken([at[action] for action in wanted])

    def _solve(self, sums: Statistics, ids: Sequence[str]) -> Model:
        agent, given = self.agent, (self.agent.agent_alpha, self.agent.tikhonov_weight, self.scale)
        if agent.model == "disjoint":
            return LinUCB.of(sums, *given)
        if self.catalogue is None:
            raise PolicyError(f"a {agent.model} model needs the features of its actions; train the policy again")
        everything, actions = np.arange(sums.b.shape[1]), self.catalogue.matrix(ids)
        crossed = (everything, *(np.asarray(indices, np.intp) for indices in self.catalogue.crossed))
        size = np.asarray((1.0, *self.catalogue.size))
        known = np.asarray([action in self.catalogue.vectors for action in ids], np.float64)
        if agent.model == "hybrid":  # what is not described has nothing in common with others
            return solve_hybrid(sums, *given, Sharing(actions * known[:, None], crossed, size))
        taught = sums if known.all() else sums.weighted(known)
        return SharedLinUCB.of(taught, *given, Sharing(actions, crossed, size))
