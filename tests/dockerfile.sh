#!/usr/bin/env bash
# Checks the Dockerfile as far as that is possible without a Docker engine:
# base images have a version, what the build stage copies is enough for its
# commands (they run, in a copy of just that), the node's packages exist, the
# controller is not root, and entry points are programs that were built.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "Dockerfile: $*" >&2; exit 1; }

# One instruction a line, comments gone.
instructions=$(sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' Dockerfile | sed -e ':a' -e '/\\$/N; s/\\\n[[:space:]]*//; ta')

# of STAGE KEYWORD: the arguments of the stage's instructions of that keyword.
of() { awk -v stage="$1" -v keyword="$2" '$1 == "FROM" { now = $4 } now == stage && $1 == keyword { sub(/^[A-Z]+ /, ""); print }' <<<"$instructions"; }

while read -r image; do
    case $image in
    scratch) ;;
    *:latest) fail "$image has no fixed version" ;;
    *:*[0-9].[0-9]*) ;;
    *) fail "$image has no fixed version" ;;
    esac
done < <(awk '$1 == "FROM" { print $2 }' <<<"$instructions")

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src" "$dir/out"
while read -r line; do
    read -ra words <<<"$line"
    target=${words[-1]}
    for source in "${words[@]:0:${#words[@]}-1}"; do
        git ls-files --error-unmatch "$source" >/dev/null || fail "COPY $source: git does not know it"
        if [ -d "$source" ]; then cp -a "$source" "$dir/src/$target"; else cp "$source" "$dir/src/$target"; fi
    done
done < <(of build COPY)
while read -r command; do
    (cd "$dir/src" && bash -eu -c "${command//\/out\//$dir/out/}") || fail "RUN $command"
done < <(of build RUN)

for stage in controller node; do
    entry=$(of "$stage" ENTRYPOINT | tr -d '[]"/')
    [ -x "$dir/out/$entry" ] || fail "stage $stage: its entry point $entry was not built"
    of "$stage" COPY | grep -q "/out/$entry /$entry\$" || fail "stage $stage does not copy $entry"
    # A program that is not static would not start on an empty base.
    if ldd "$dir/out/$entry" >/dev/null 2>&1; then fail "$entry is not static"; fi
    "$dir/out/$entry" --version >/dev/null || fail "$entry --version"
done
[[ $(of controller USER) =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || fail "the controller is not bound to a numeric user that is not root"

packages=$(of node RUN | grep -o 'no-install-recommends [^&]*' | cut -d' ' -f2-)
[ "$(tr ' ' '\n' <<<"$packages" | sed '/^$/d' | sort | xargs)" = "cryptsetup-bin e2fsprogs xfsprogs" ] || fail "the node image's packages are: $packages"
# As on a machine that has nothing yet, whatever state this one is in.
# shellcheck disable=SC2086 # a list
installable() { apt-get -o Dir::State::status=/dev/null install --simulate --no-install-recommends -qq $packages >/dev/null 2>&1; }
# The lists of packages may be absent on a new machine.
installable || { apt-get -o Acquire::Retries=5 update -qq && installable; } || fail "the node image's packages cannot be installed"
echo "Dockerfile: commands of the build stage run, packages exist, entry points are static"
