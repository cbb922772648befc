"""Features: what a policy makes of what was sent, as one pure function that server and training share."""
