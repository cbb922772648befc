"""How banditloop's work is started from Airflow: tasks, sensors, runners, links. The only room that knows Airflow."""
