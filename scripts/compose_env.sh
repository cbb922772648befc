#!/usr/bin/env bash
# Writes .env, which docker-compose.yaml reads: fresh secrets, readable by you alone. One that is there stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -e .env ]; then
  echo ".env is there already; to have new secrets, remove it and the volumes (docker compose down --volumes)"
  exit 0
fi
random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; }  # urlsafe base64 of 32 bytes: what Fernet wants
umask 077
cat >.env.new <<END
POSTGRES_PASSWORD=$(random | tr -d '=')
AIRFLOW_FERNET_KEY=$(random)
AIRFLOW_JWT_SECRET=$(random)
AIRFLOW_SECRET_KEY=$(random)
# Ports on 127.0.0.1, where the default is taken: AIRFLOW_PORT=8088 SERVER_PORT=8471
END
mv .env.new .env
echo "wrote .env"
