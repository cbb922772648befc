"""The message of the simulate topic: how many users the simulator function shall send."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError

from rl_core.config import Bandit, Settings
from rl_core.environment_config import MovieLens
from rl_core.errors import EndpointError, SchemaError
from rl_core.frozen import Frozen
from rl_core.movielens.data import synthetic_path
from rl_core.movielens.download import download


class TrafficRequest(Frozen):
    """A request for traffic; what is left out is as in the bandit's section `simulate`.

    Without `seed`, the caller of `serve` chooses one.
    """

    decisions: int | None = Field(default=None, ge=1, le=1_000_000)
    concurrency: int | None = Field(default=None, ge=1, le=256)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    round: int = Field(default=0, ge=0)

    @classmethod
    def of(cls, payload: bytes) -> Self:
        """Parse a message's payload; an empty one asks for the defaults. Raises SchemaError."""
        try:
            return cls.model_validate_json(payload or b"{}")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the payload"
            raise SchemaError(
                f'a request for traffic: {where}: {first["msg"]}; publish JSON like {{"decisions": 1000}}'
            ) from error


def serve(request: TrafficRequest, bandit: Bandit, settings: Settings, seed: int) -> None:
    """Send the users that a request asks for; the simulator function calls it.

    Raises:
        DataError: MovieLens 100K can't be had; users out of another data set would earn rewards that nobody learned.
        EndpointError: there is no endpoint, it refused a request, or not all of the users were served.
    """
    from rl_core.simulation import simulator

    real = settings.home / "data" / "ml-100k" / "u.data"
    movielens = isinstance(bandit.environment, MovieLens) and settings.movielens_dir is None
    if movielens and not real.is_file() and not synthetic_path(settings.home).is_file():
        download(real)
    traffic = simulator.send(
        bandit,
        settings,
        request.decisions or bandit.simulate.decisions,
        request.concurrency or bandit.simulate.concurrency,
        seed if request.seed is None else request.seed,
        request.round,
    )
    if not traffic.complete:
        raise EndpointError(
            f"{traffic.acknowledged} of {traffic.requested} decisions and {traffic.rewards_acknowledged} rewards were "
            f"acknowledged: {traffic.ended_early or 'the rest was not'}; look at the endpoint's log"
        )
