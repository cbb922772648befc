"""Starts banditloop's work from Airflow: tasks, sensors, runners, links. The only room that knows Airflow."""
