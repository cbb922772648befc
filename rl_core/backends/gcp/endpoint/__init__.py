"""The endpoint on Vertex AI: the server's containers, what they report, and the policies they serve."""
