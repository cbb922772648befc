#!/usr/bin/env bash
# Brings dist/composer (make composer-bundle) into a Cloud Composer environment, and asks Airflow whether it loads.
#
#   scripts/deploy_composer.sh ENVIRONMENT LOCATION [--project PROJECT] [--bundle FOLDER] [--wait SECONDS]
#                              [--poll SECONDS] [--allow-dirty] [--dry-run]
#
# Runs in flight survive: files are added and replaced first (plugins before the DAGs that use them), and plugins that
# only an older bundle had are removed last, once every DAG file loads without them. Files of others are never touched.
# The caller needs roles/composer.user and roles/storage.objectAdmin on the environment's bucket.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
fail() { echo "error: $*" >&2; exit 1; }

environment="" location="" project=() dry_run="" allow_dirty="" wait_s=600 poll_s=30
bundle="$(cd "$(dirname "$0")/.." && pwd)/dist/composer"
while [ $# -gt 0 ]; do
  case "$1" in
    --project|--bundle|--wait|--poll) [ $# -ge 2 ] || fail "$1 needs a value" ;;&
    --project) project=(--project "$2"); shift ;;
    --bundle) bundle="$2"; shift ;;
    --wait) wait_s="$2"; shift ;;
    --poll) poll_s="$2"; shift ;;
    --allow-dirty) allow_dirty=yes ;;
    --dry-run) dry_run=yes ;;
    -h|--help) usage; exit 0 ;;
    -*) fail "unknown option $1; the options are in $0 --help" ;;
    *) if [ -z "$environment" ]; then environment="$1"; elif [ -z "$location" ]; then location="$1"
       else fail "unexpected argument $1; see $0 --help"; fi ;;
  esac
  shift
done
[ -n "$environment" ] && [ -n "$location" ] || { usage >&2; fail "name the environment and its location"; }

ours="data/banditloop"
[ -f "$bundle/$ours/FILES" ] || fail "$bundle holds no bundle; run: make composer-bundle"
version="$(head -n 1 "$bundle/$ours/VERSION")"
if [ -z "$allow_dirty" ] && [[ "$version" = *-dirty ]]; then
  fail "the bundle is of $version: nobody could find this code again. Commit, run make composer-bundle, or --allow-dirty"
fi
command -v gcloud >/dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"

# What only looks is done in a dry run too; what changes something is printed then.
change() { if [ -n "$dry_run" ]; then printf 'would run: %s\n' "$*"; else "$@"; fi; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

at=(--location "$location" "${project[@]}")
dags="$(gcloud composer environments describe "$environment" "${at[@]}" --format 'value(config.dagGcsPrefix)')" \
  || fail "can't describe environment $environment in $location; check both names, --project and roles/composer.user"
[[ "$dags" = gs://*/dags ]] || fail "environment $environment has no bucket (dagGcsPrefix=$dags); is it still being made?"
bucket="${dags%/dags}"
echo "$version -> $bucket"

# An object's content, or nothing where it does not exist; any other failure ends the deployment.
remote() {
  gcloud storage cat "$bucket/$1" "${project[@]}" 2>"$work/why" || {
    grep -qiE 'matched no objects|not found|404' "$work/why" || { cat "$work/why" >&2; fail "can't read $bucket/$1"; }
  }
}
remote "$ours/FILES" >"$work/before"

# One .airflowignore serves the whole folder: lines that others put there stay.
cp -R "$bundle" "$work/bundle"
remote plugins/.airflowignore >"$work/ignored"
grep -vxFf "$bundle/plugins/.airflowignore" "$work/ignored" >>"$work/bundle/plugins/.airflowignore" || true
sort -u "$work/before" "$bundle/$ours/FILES" >"$work/bundle/$ours/FILES"  # whatever happens, nothing is forgotten

echo "1/4 compiled pipelines and functions, then plugins, then DAGs"
for folder in data plugins dags; do
  change gcloud storage rsync --recursive --checksums-only "$work/bundle/$folder" "$bucket/$folder" "${project[@]}"
done

# Before Airflow is asked: a DAG file that is to go may be the broken one.
{ grep -vxFf "$bundle/$ours/FILES" "$work/before" || true; } | LC_ALL=C sort >"$work/gone"
remove() {
  while IFS= read -r path; do change gcloud storage rm "$bucket/$path" "${project[@]}"; done
}
remove < <(grep '^dags/' "$work/gone" || true)

echo "2/4 import errors, for up to $wait_s s: the environment copies the bucket, then parses it"
look() { gcloud composer environments run "$environment" "${at[@]}" dags list-import-errors -- --output plain; }
if [ -n "$dry_run" ]; then
  change gcloud composer environments run "$environment" "${at[@]}" dags list-import-errors -- --output plain
else
  deadline=$((SECONDS + wait_s)) clean=0
  while :; do
    look >"$work/errors" 2>&1 || {
      cat "$work/errors" >&2
      fail "Airflow could not be asked; a gcloud that knows no Airflow 3 needs: gcloud components update. No plugin was removed"
    }
    # Clean twice, a pause apart: the first answer may be about the files before.
    if grep -q "No data found" "$work/errors"; then clean=$((clean + 1)); else clean=0; fi
    [ "$clean" -lt 2 ] || break
    if [ "$clean" -eq 0 ] && [ "$SECONDS" -ge "$deadline" ]; then
      cat "$work/errors" >&2
      fail "Airflow can't load the DAG files above. No plugin was removed; deploy a corrected or the former bundle"
    fi
    sleep "$poll_s"
  done
fi

echo "3/4 what the former bundle had and this one has not"
remove < <(grep -v '^dags/' "$work/gone" || true)

echo "4/4 the list of what is there now"
change gcloud storage cp "$bundle/$ours/FILES" "$bucket/$ours/FILES" "${project[@]}"
[ -n "$dry_run" ] || echo "deployed: $version"
