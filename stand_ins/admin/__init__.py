"""Stand-in for the administrative REST services: Functions, Scheduler, Artifact Registry, IAM, Resource Manager, …

It answers what their discovery documents describe: an unknown path, parameter or field is refused as Google does.
Who calls is told by the bearer token, taken as an e-mail address; without one it is `ANONYMOUS`.
"""

from stand_ins.admin.app import ANONYMOUS, AdminStandIn
from stand_ins.admin.world import PROJECT_NUMBER, Hooks

__all__ = ["ANONYMOUS", "PROJECT_NUMBER", "AdminStandIn", "Hooks"]
