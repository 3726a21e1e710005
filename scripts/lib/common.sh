# shellcheck shell=bash
# What the scripts share: where the project is, saying what is done, and installing Debian packages that are missing.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${SAMPAN_CACHE:-$project/.cache}
export DEBIAN_FRONTEND=noninteractive

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "this needs root: namespaces, mounts and network links are made. Try: sudo $0"; }

# need_packages PACKAGE…: installs those that are not installed; a daemon among them is not started. On a machine
# that is no Debian it only names them: what they hold may be there under other names.
need_packages() {
  command -v dpkg-query >/dev/null || { say "no Debian here; what these packages hold must be there: $*"; return; }
  local missing=() package
  for package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  [ "$(id -u)" = 0 ] || die "packages are missing. Try: sudo apt-get install ${missing[*]}"
  say "apt-get install ${missing[*]}"
  local log policy=/usr/sbin/policy-rc.d made_policy=
  log=$(mktemp)
  # Debian starts a service when its package is installed, unless a policy says no: a test machine wants the program only
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; made_policy=1; }
  local failed=
  { apt-get update -qq || true; apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null || failed=1
  [ -z "$made_policy" ] || rm -f $policy
  [ -z "$failed" ] || { tail -20 "$log" >&2; rm -f "$log"; die "apt-get could not install: ${missing[*]}"; }
  rm -f "$log"
}

python_fits() { python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# a python3 (3.11 or newer) that can make virtual environments
need_python() {
  python_fits && return
  need_packages python3 python3-venv
  python_fits || die "Python 3.11 or newer with venv is needed; here is $(python3 --version 2>&1)"
}
