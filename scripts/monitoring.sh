#!/usr/bin/env bash
# Makes the log-based metrics and alert policies of docs/monitoring/ in a project; what exists is brought up to date.
#
#   scripts/monitoring.sh PROJECT [CHANNEL …]     CHANNEL: a notification channel's full name
#
# The caller needs roles/logging.configWriter and roles/monitoring.alertPolicyEditor on the project.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
project="$1"; shift
channels="$(IFS=,; echo "$*")"
command -v gcloud >/dev/null || { echo "error: gcloud is not installed; see https://cloud.google.com/sdk" >&2; exit 1; }
here="$(cd "$(dirname "$0")/../docs/monitoring" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for kind in metrics alerts; do
  awk -v out="$work/$kind" 'BEGIN { n = 0; file = sprintf("%s-%02d.yaml", out, n) }
    /^---$/ { n++; file = sprintf("%s-%02d.yaml", out, n); next } { print > file }' "$here/$kind.yaml"
done

for file in "$work"/metrics-*.yaml; do
  name="$(sed -n 's/^name: //p' "$file")"
  do=create
  if gcloud logging metrics describe "$name" --project "$project" >/dev/null 2>&1; then do=update; fi
  gcloud logging metrics "$do" "$name" --config-from-file "$file" --project "$project"
done
for file in "$work"/alerts-*.yaml; do
  title="$(sed -n 's/^displayName: "\(.*\)"$/\1/p' "$file")"
  found="$(gcloud monitoring policies list --filter "displayName=\"$title\"" --format 'value(name)' --project "$project")"
  if [ -n "$found" ]; then
    gcloud monitoring policies update "$found" --policy-from-file "$file" --project "$project"
  else
    gcloud monitoring policies create --policy-from-file "$file" --project "$project" \
      ${channels:+--notification-channels "$channels"}
  fi
done
