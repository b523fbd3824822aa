#!/usr/bin/env bash
# Everything that an installation without network needs, in one folder: wheels of the pinned set, ours, and their hashes.
#
#   tools/wheels.sh wheels/ [EXTRAS]           where there is a network, on the same platform and Python as the target
#   tools/wheels.sh --check wheels/            on the target: complete, unchanged, and of this version
#
# EXTRAS: eval,dicom,turing,web if left out. pip's own variables hold: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_PROXY, PIP_CERT.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"

refuse() {
  echo "Error: $1. Expected: $2. Fix: $3." >&2
  exit 2
}

version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/medcodi/__init__.py")"
[ -n "$version" ] || refuse "no version in $root/medcodi/__init__.py" "__version__" "check the repository out again"

platform() {
  "$python" -c 'import platform, sys; print(f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform} {platform.machine()}")'
}

# ---- on the target: whole, unchanged, of this version
check() {
  local folder="$1" missing
  [ -f "$folder/SHA256SUMS" ] || refuse "$folder has no SHA256SUMS" "a folder that tools/wheels.sh has filled" "tools/wheels.sh $folder, where there is a network"
  [ ! -f "$folder/PLATFORM" ] || [ "$(platform)" = "$(cat "$folder/PLATFORM")" ] ||
    refuse "$folder is for $(cat "$folder/PLATFORM"), and $python is $(platform)" "the same Python and platform" "PYTHON=/path/to/that/python $0 --check $folder, or fill a folder with this one"
  compgen -G "$folder/medcodi-$version-*.whl" >/dev/null ||
    refuse "$folder holds $(cd "$folder" && compgen -G 'medcodi-*.whl' || echo 'no wheel of medcodi')" "medcodi-$version" "tools/wheels.sh $folder, with this version's repository"
  missing="$(cd "$folder" && sha256sum --quiet --check SHA256SUMS 2>&1)" ||
    refuse "$folder is damaged ($(head -n 1 <<<"$missing"))" "the files of SHA256SUMS" "copy the folder again"
}

if [ "${1:-}" = --check ]; then
  check "${2:?the folder of wheels}"
  echo "$2: $(wc -l <"$2/SHA256SUMS") files, unchanged, medcodi $version."
  exit 0
fi

# ---- where there is a network
folder="${1:?a new folder for the wheels}"
extras="${2:-eval,dicom,turing,web}"
[ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || refuse "$folder is not empty" "a new or empty folder" "another folder, or remove it"
mkdir -p "$folder"
"$python" -m pip wheel --no-deps --wheel-dir "$folder" "$root"
# Some packages are published as source alone: pip wheel builds them here, so that the target needs no compiler.
"$python" -m pip wheel --wheel-dir "$folder" --constraint "$root/constraints.txt" --find-links "$folder" "medcodi[$extras]==$version"
cp "$root/constraints.txt" "$folder"
platform >"$folder/PLATFORM"
(cd "$folder" && sha256sum -- * >.SHA256SUMS && mv .SHA256SUMS SHA256SUMS)
check "$folder"
echo "$folder: $(du -sh "$folder" | cut -f1). Copy it to the target, and install: pip install --no-index --find-links $folder 'medcodi[$extras]'"
