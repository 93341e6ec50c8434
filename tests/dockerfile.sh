#!/usr/bin/env bash
# Checks the Dockerfile without a Docker engine: base images have a version, the commands
# of the build stage succeed with the files that the stage copies, the node's packages
# exist, the controller does not run as root, and entry points are programs that were built.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "Dockerfile: $*" >&2; exit 1; }

# The instructions, one a line, without comments.
instructions=$(sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' Dockerfile |
    sed -e ':a' -e '/\\$/N; s/\\\n[[:space:]]*//; ta')

# arguments STAGE KEYWORD: the arguments of the stage's instructions with that keyword.
arguments() {
    awk -v stage="$1" -v keyword="$2" '
        $1 == "FROM" { current = $4 }
        current == stage && $1 == keyword { sub(/^[A-Z]+ /, ""); print }' <<<"$instructions"
}

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
        git ls-files --error-unmatch "$source" >/dev/null || fail "COPY $source: the file is not in git"
        if [ -d "$source" ]; then cp -a "$source" "$dir/src/$target"; else cp "$source" "$dir/src/$target"; fi
    done
done < <(arguments build COPY)
while read -r command; do
    (cd "$dir/src" && bash -eu -c "${command//\/out\//$dir/out/}") || fail "RUN $command"
done < <(arguments build RUN)

for stage in controller node; do
    entry=$(arguments "$stage" ENTRYPOINT | tr -d '[]"/')
    [ -x "$dir/out/$entry" ] || fail "stage $stage: the entry point $entry was not built"
    arguments "$stage" COPY | grep -q "/out/$entry /$entry\$" || fail "stage $stage does not copy $entry"
    # A dynamic program would not start without libraries.
    if ldd "$dir/out/$entry" >/dev/null 2>&1; then fail "$entry is not static"; fi
    "$dir/out/$entry" --version >/dev/null || fail "$entry --version failed"
done
[[ $(arguments controller USER) =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] ||
    fail "USER of the controller: got $(arguments controller USER), want numbers above 0"

packages=$(arguments node RUN | grep -o 'no-install-recommends [^&]*' | cut -d' ' -f2- | xargs -n1 | sort | xargs)
wanted="cryptsetup-bin e2fsprogs xfsprogs"
[ "$packages" = "$wanted" ] || fail "packages of the node image: got $packages, want $wanted"
# can_install simulates the installation on a machine without any package.
can_install() {
    # shellcheck disable=SC2086 # $packages is a list of words
    apt-get -o Dir::State::status=/dev/null install --simulate --no-install-recommends -qq $packages >/dev/null 2>&1
}
# A new machine may have no lists of packages.
can_install || { apt-get -o Acquire::Retries=5 update -qq && can_install; } ||
    fail "packages of the node image: apt-get cannot install $packages"
echo "Dockerfile: commands of the build stage run, packages exist, entry points are static"
