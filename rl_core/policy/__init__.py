"""The policy: its artefact (a folder of files with checksums), its lineage and windows, and the verdict on it."""
