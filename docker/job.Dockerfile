# The job image, for pipeline steps and the event logger, and with `--target server` a fifth of it, for the prediction
# server alone. cloudbuild.yaml builds and pushes both; docker-compose.yaml builds them for a laptop. Refer to them by
# digest (google.image, google.server_image), never by tag. `--target stand-ins` is for docker-compose.emulators.yaml.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS installer
COPY requirements/uv.txt /locks/
RUN python -m venv /installer && /installer/bin/pip install --no-cache-dir --require-hashes -r /locks/uv.txt

FROM installer AS packages
COPY requirements/job.txt /locks/
RUN /installer/bin/uv venv --python /usr/local/bin/python3.11 /opt/job \
 && /installer/bin/uv pip sync --no-cache --python /opt/job/bin/python --require-hashes --compile-bytecode /locks/job.txt

FROM installer AS server-packages
COPY requirements/server.txt /locks/
RUN /installer/bin/uv venv --python /usr/local/bin/python3.11 /opt/job \
 && /installer/bin/uv pip sync --no-cache --python /opt/job/bin/python --require-hashes --compile-bytecode /locks/server.txt

FROM installer AS stand-ins-packages
COPY requirements/dev.txt /locks/
RUN /installer/bin/uv venv --python /usr/local/bin/python3.11 /opt/job \
 && /installer/bin/uv pip sync --no-cache --python /opt/job/bin/python --require-hashes --compile-bytecode /locks/dev.txt

FROM ${PYTHON} AS base
RUN groupadd --gid 10001 banditloop \
 && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin banditloop \
 && install --directory --owner banditloop --group banditloop /var/lib/banditloop /shared
WORKDIR /opt/banditloop
COPY docker/health.py docker/
COPY rl_core rl_core
RUN python -m compileall -q rl_core docker
# The steps of a pipeline run `python3`; TF-Agents speaks Keras 2; BLAS threads only cost time on small matrices.
ENV PATH=/opt/job/bin:$PATH \
    PYTHONPATH=/opt/banditloop \
    PYTHONUNBUFFERED=1 \
    TF_USE_LEGACY_KERAS=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    OPENBLAS_NUM_THREADS=1 \
    BANDIT_HOME=/var/lib/banditloop

FROM base AS stand-ins
COPY --from=stand-ins-packages /opt/job /opt/job
COPY requirements/job.txt requirements/
COPY pipeline_defs pipeline_defs
COPY plugins plugins
COPY stand_ins stand_ins
RUN python -m compileall -q pipeline_defs plugins stand_ins
ENV PYTHONPATH=/opt/banditloop:/opt/banditloop/plugins
USER 10001:10001
CMD ["python", "-m", "stand_ins"]

FROM base AS serving
USER 10001:10001
# Vertex AI sets AIP_HTTP_PORT and its routes; a bandit's YAML may be given as an argument instead of BANDIT_DEFINITION.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
  CMD python docker/health.py http://127.0.0.1:${AIP_HTTP_PORT:-8080}/state
CMD ["python", "-m", "rl_core", "serve"]

FROM serving AS server
COPY --from=server-packages /opt/job /opt/job
ARG REVISION=unknown
LABEL org.opencontainers.image.title="banditloop server" org.opencontainers.image.revision="${REVISION}"

# Last, so that it is what a build without --target makes.
FROM serving AS job
COPY --from=packages /opt/job /opt/job
ARG REVISION=unknown
LABEL org.opencontainers.image.title="banditloop job" org.opencontainers.image.revision="${REVISION}"
