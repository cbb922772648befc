"""BigQuery's REST API over DuckDB, for the statements and methods we use."""

from stand_ins.bigquery.server import BigQueryStandIn

__all__ = ["BigQueryStandIn"]
