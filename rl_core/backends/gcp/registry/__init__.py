"""The policy registry in Cloud Storage, with Vertex Model Registry as its mirror."""
