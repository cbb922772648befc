"""The backend on Google Cloud: Pub/Sub, BigQuery, Cloud Storage with Vertex Model Registry, Vertex endpoint."""
