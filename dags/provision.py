"""Makes what is missing on Google Cloud and brings the rest up to date, by hand: after every change of image,
functions or the section `google`, and whenever somebody deleted something.

The task group that startup begins with, by itself. Policies, log and champion stay as they are: a new image is deployed
beside the old server, which answers until the new one is healthy. With `provision=false` it only looks and lists.

## When this fails
"""

from airflow.sdk import DAG

from bandit_ops.bandits import good_bandits
from bandit_ops.house import house_rules
from bandit_ops.params import provision_params
from bandit_ops.provisioning import advice, provisioning

for bandit in good_bandits(__file__):
    if bandit.backend == "gcp":
        with DAG(**house_rules(bandit, "provision", advice(bandit, __doc__)), schedule=None, params=provision_params()):
            provisioning(bandit)
