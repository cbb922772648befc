# Airflow with banditloop's DAGs and plugins, for docker-compose.yaml. Composer brings an Airflow of its own: there,
# `make composer-bundle` is all that is needed. A second environment, of job.txt, runs pipelines with runner: local.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS packages
COPY requirements/uv.txt requirements/airflow.txt requirements/postgres.txt requirements/job.txt /locks/
RUN python -m venv /installer && /installer/bin/pip install --no-cache-dir --require-hashes -r /locks/uv.txt
RUN /installer/bin/uv venv --python /usr/local/bin/python3.11 /opt/airflow \
 && /installer/bin/uv pip sync --no-cache --python /opt/airflow/bin/python --require-hashes --compile-bytecode \
    /locks/airflow.txt /locks/postgres.txt
RUN /installer/bin/uv venv --python /usr/local/bin/python3.11 /opt/job \
 && /installer/bin/uv pip sync --no-cache --python /opt/job/bin/python --require-hashes --compile-bytecode /locks/job.txt

FROM ${PYTHON}
RUN groupadd --gid 10001 banditloop \
 && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin banditloop \
 && install --directory --owner banditloop --group banditloop /var/lib/banditloop /var/lib/airflow /shared
COPY --from=packages /opt/airflow /opt/airflow
COPY --from=packages /opt/job /opt/job
WORKDIR /opt/banditloop
COPY docker/health.py docker/
COPY requirements/job.txt requirements/
COPY rl_core rl_core
COPY pipeline_defs pipeline_defs
COPY plugins plugins
COPY dags dags
RUN python -m compileall -q docker rl_core pipeline_defs plugins dags
ENV PATH=/opt/airflow/bin:$PATH \
    PYTHONPATH=/opt/banditloop:/opt/banditloop/plugins \
    PYTHONUNBUFFERED=1 \
    TF_USE_LEGACY_KERAS=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    OPENBLAS_NUM_THREADS=1 \
    BANDIT_HOME=/var/lib/banditloop \
    BANDIT_JOB_PYTHON=/opt/job/bin/python \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/banditloop/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/banditloop/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__EXECUTOR=LocalExecutor \
    AIRFLOW__WORKERS__EXECUTION_API_RETRIES=10
USER 10001:10001
# The API server's; docker-compose.yaml gives the other components theirs.
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s \
  CMD python docker/health.py http://127.0.0.1:8080/api/v2/monitor/health
CMD ["airflow", "api-server"]
