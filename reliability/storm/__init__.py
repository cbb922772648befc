"""The storm: real traffic, real trainings and a real Airflow, while everything that can be killed is killed.

`python -m reliability.storm` (or `make faults`) plays a plan of faults that a seed fixes, waits until the log has come
to rest, and compares what clients were told with what the event store holds. `report.py` says what each figure means.
"""
