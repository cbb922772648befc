"""The event store on one machine: Delta Lake tables in a folder, queried with DuckDB."""
