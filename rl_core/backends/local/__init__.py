"""The backend on one machine: a journal, Delta Lake tables, a folder of policies, a server process."""
