"""Reports a bad bandit YAML as one Airflow import error.

The DAG files pass over a bad YAML, so that it harms no other bandit; this file makes no DAG and says what is wrong.
"""

from bandit_ops.bandits import check_bandits

check_bandits(__file__)
