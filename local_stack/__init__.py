"""Everything on one machine: Airflow, the prediction server and the event logger as child processes, and the demo."""
