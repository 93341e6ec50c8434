#!/usr/bin/env bash
# Checks the Dockerfile without a Docker engine: base images have a version, the commands of
# the build stages succeed with the files that the stages copy, the packages exist, the
# controllers and the operator do not run as root, and entry points are programs that were built.
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

stages=$(awk '$1 == "FROM" { print $4 }' <<<"$instructions")
while read -r image; do
    if grep -qxF "$image" <<<"$stages"; then continue; fi
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
done < <(arguments build RUN; arguments build-ceph RUN | grep -v apt-get)

for stage in controller controller-ceph operator node; do
    entry=$(arguments "$stage" ENTRYPOINT | tr -d '[]"/')
    built=$(arguments "$stage" COPY | sed -n "s|.*/out/\([^ ]*\) /$entry\$|\1|p")
    [ -n "$built" ] || fail "stage $stage does not copy the entry point $entry"
    [ -x "$dir/out/$built" ] || fail "stage $stage: the entry point $built was not built"
    libraries=$(ldd "$dir/out/$built" 2>/dev/null | awk '$2 == "=>" && /librbd|librados/ { print $1 }' | sort | xargs) || true
    case $stage in
    controller-ceph) [ "$libraries" = "librados.so.2 librbd.so.1" ] || fail "$built links $libraries" ;;
    # A dynamic program would not start without libraries.
    *) if ldd "$dir/out/$built" >/dev/null 2>&1; then fail "$built is not static"; fi ;;
    esac
    "$dir/out/$built" --version >/dev/null || fail "$built --version failed"
done
for stage in controller controller-ceph operator; do
    [[ $(arguments "$stage" USER) =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] ||
        fail "USER of $stage: got $(arguments "$stage" USER), want numbers above 0"
done

# can_install simulates the installation of packages on a machine without any package.
can_install() { apt-get -o Dir::State::status=/dev/null install --simulate --no-install-recommends -qq "$@" >/dev/null 2>&1; }
check_packages() {
    local stage=$1 wanted=$2 packages
    packages=$(arguments "$stage" RUN | grep -o 'no-install-recommends [^&]*' | cut -d' ' -f2- | xargs -n1 | sort | xargs)
    [ "$packages" = "$wanted" ] || fail "packages of stage $stage: got $packages, want $wanted"
    read -ra list <<<"$packages"
    # A new machine may have no lists of packages.
    can_install "${list[@]}" || { apt-get -o Acquire::Retries=5 update -qq && can_install "${list[@]}"; } ||
        fail "packages of stage $stage: apt-get cannot install $packages"
}
check_packages build-ceph "librados-dev librbd-dev"
check_packages controller-ceph "librados2 librbd1"
check_packages node "cryptsetup-bin e2fsprogs kmod xfsprogs"
echo "Dockerfile: commands of the build stages run, packages exist, entry points start"
