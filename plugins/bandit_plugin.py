"""Registers the page of a pipeline run, unless an installed banditloop does: the one file that Airflow scans here.

Two plugins of one name are an import error to Airflow.
"""

from importlib.metadata import PackageNotFoundError, distribution

try:
    distribution("banditloop")
except PackageNotFoundError:
    from bandit_ops.plugin import BanditPlugin as BanditPlugin
