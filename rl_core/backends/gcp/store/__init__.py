"""The event store on BigQuery: tables, queries, the joiner's transaction, forgetting."""
