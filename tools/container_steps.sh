#!/usr/bin/env bash
# The steps of the Dockerfile, so that they can be run, and tested, without a container.
#
#   tools/container_steps.sh install PREFIX    a virtual environment with medcodi and $EXTRAS in PREFIX
#   tools/container_steps.sh user NAME         a user without rights, with a home folder
#   tools/container_steps.sh check             as that user, without network: doctor, a generation, its provenance, the served page
#
# Beside the repository a folder wheels/ (tools/wheels.sh) is installed from alone, without any index; else packages are downloaded.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

install() {
  local prefix="$1" python="${PYTHON:-python3}" extras="${EXTRAS-eval,dicom,turing,web}" wheels="${WHEELS:-$root/wheels}"
  local package="medcodi${extras:+[$extras]}" options=(--disable-pip-version-check --no-cache-dir --quiet --constraint "$root/constraints.txt")
  "$python" -m venv "$prefix"
  if [ -d "$wheels" ]; then
    PYTHON="$prefix/bin/python" "$root/tools/wheels.sh" --check "$wheels"
    "$prefix/bin/pip" install "${options[@]}" --no-index --find-links "$wheels" "$package"
  else
    # The CPU build of PyTorch, where an index of such builds is named: 0.2 GB in place of the CUDA libraries' 5 GB.
    if [ -n "${TORCH_INDEX:-}" ]; then
      "$prefix/bin/pip" install "${options[@]}" --index-url "$TORCH_INDEX" torch torchvision
    fi
    "$prefix/bin/pip" install "${options[@]}" "$root${extras:+[$extras]}"
  fi
  "$prefix/bin/python" -c 'from importlib.metadata import version; print("medcodi", version("medcodi"))'
  echo "Installed in $SECONDS s: $(du --summarize --block-size=1M "$prefix" | cut -f1) MiB."
}

user() {
  groupadd --gid 10001 "$1"
  useradd --uid 10001 --gid 10001 --create-home --home-dir "/home/$1" --shell /usr/sbin/nologin "$1"
  mkdir -p /data && chown "$1:$1" /data
}

check() {
  [ "$(id -u)" != 0 ] || { echo "Error: the check runs as root. Expected: a user without rights. Fix: docker run --user 10001." >&2; exit 2; }
  local folder
  folder="$(mktemp -d)"
  cd "$folder"
  medcodi doctor
  medcodi generate --prompt report="Cardiomegaly." --target frontal --steps 2 --out generated
  [ -s generated/frontal.png ] && [ -s generated/provenance.json ]
  echo "As user $(id -u), without network: doctor is content, and an X-ray was generated, after $SECONDS s."
  # The page, where the extra web is installed: it must answer on loopback.
  if python -c 'import nicegui' 2>/dev/null; then
    serve_once
    echo "The page is served, after $SECONDS s."
  fi
  rm -r "$folder"
}

serve_once() {
  local server
  medcodi serve --port "${PORT:-8080}" >serve.log 2>&1 &
  server=$!
  for _ in $(seq 120); do
    kill -0 "$server" 2>/dev/null || break
    if python -c "import urllib.request as r; assert b'<html' in r.urlopen('http://127.0.0.1:${PORT:-8080}/', timeout=10).read()" 2>/dev/null; then
      kill -INT "$server"
      wait "$server" || true
      return
    fi
    sleep 1
  done
  cat serve.log >&2
  echo "Error: the page was not served within two minutes. Expected: HTML at port ${PORT:-8080}. Fix: read the lines above." >&2
  exit 1
}

step="${1:?install, user or check}"
case "$step" in
  install) install "${2:?the folder of the environment}" ;;
  user) user "${2:?the name of the user}" ;;
  check) check ;;
  *) echo "Error: no step $step. Expected: install, user or check. Fix: tools/container_steps.sh check." >&2; exit 2 ;;
esac
