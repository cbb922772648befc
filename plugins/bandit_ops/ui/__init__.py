"""The pages that banditloop adds to Airflow's UI."""
