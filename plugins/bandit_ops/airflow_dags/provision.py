"""Makes what is missing on Google Cloud and brings the rest up to date, by hand: after every change of image,
functions or the section `google`, and whenever somebody deleted something.

The task group that startup begins with, by itself. Policies, log and champion stay as they are: a new image is deployed
beside the old server, which answers until the new one is healthy. With `provision=false` it only looks and lists.

## When this fails
"""

from __future__ import annotations

from airflow.sdk import DAG

from bandit_ops.house import house_rules
from bandit_ops.params import provision_params
from bandit_ops.provisioning import advice, provisioning
from rl_core.backends import backend_class
from rl_core.config import Bandit


def build(bandit: Bandit) -> DAG | None:
    """Build `<bandit>_provision`; None on backend local, which has nothing to provision."""
    if not backend_class(bandit).PARTS:
        return None
    doc, params = advice(bandit, __doc__), provision_params()
    with DAG(**house_rules(bandit, "provision", doc), schedule=None, params=params) as dag:
        provisioning(bandit)
    return dag
