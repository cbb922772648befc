"""Every error that banditloop raises on purpose.

    BanditError                 one line: what was got, the rule, the next step
    ├── ConfigError             a setting, a bandit YAML or a parameter breaks its rule
    ├── DataError               an input file is not what its format says
    ├── SchemaError             a row or a request breaks the log's schema
    ├── StoreError              the event store can't do what was asked (a gap, a foreign folder)
    ├── BusError                the message bus did not take or give a message
    ├── PolicyError             a policy artefact is damaged or doesn't fit the problem
    ├── RegistryError           the registry doesn't know the version, or breaks a rule of lineage
    │   └── PromotionConflict   the champion is no longer the one the caller expected
    ├── EndpointError           the endpoint did not answer or refused the policy
    │   └── EndpointAbsent      none was started for this bandit
    ├── RunnerError             a pipeline run could not be submitted, read or cancelled
    │   └── RunnerUnavailable   the runner did not answer; the same call may succeed a little later
    ├── ProvisioningError       what a bandit needs on Google Cloud is missing, or can't be made or taken away
    ├── LeaseHeld               another training holds the lease
    └── PortBusy                something else listens on the port

Programs print `error: <message>` and exit with status 2; a traceback means a defect of ours.
"""


class BanditError(Exception):
    """Base of all errors below; `str(error)` is the one line to show."""


class ConfigError(BanditError):
    pass


class DataError(BanditError):
    pass


class SchemaError(BanditError):
    pass


class StoreError(BanditError):
    pass


class BusError(BanditError):
    pass


class PolicyError(BanditError):
    pass


class RegistryError(BanditError):
    pass


class PromotionConflict(RegistryError):
    pass


class EndpointError(BanditError):
    pass


class EndpointAbsent(EndpointError):
    pass


class RunnerError(BanditError):
    pass


class RunnerUnavailable(RunnerError):
    pass


class ProvisioningError(BanditError):
    pass


class LeaseHeld(BanditError):
    pass


class PortBusy(BanditError):
    pass
