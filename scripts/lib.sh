# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Shared by the scripts of this directory; source it, do not run it.
# Sets TOP (the clone), BUILD, LOG and CACHE, and has the helpers that print,
# that look for space, and that wait with a sign of life.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$TOP/build
LOG=$BUILD/log
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hmm-linux
ME=${0##*/}

export LC_ALL=C

say() { printf '%s\n' "$*"; }

die() {
	printf '%s: error: %s\n' "$ME" "$*" >&2
	exit "${DIE_STATUS:-1}"
}

# minutes and seconds of a number of seconds
span() {
	if (($1 >= 60)); then
		printf '%dm%02ds' $(($1 / 60)) $(($1 % 60))
	else
		printf '%ds' "$1"
	fi
}

# step TEXT COMMAND...: one line before, the time it took after
step() {
	local text=$1 start=$SECONDS rc=0

	shift
	"$@" || rc=$?
	((rc)) && return "$rc"
	say "[$(span $((SECONDS - start)))] $text"
}

# need_space DIR MIB WHAT: the nearest existing parent of DIR is looked at
need_space() {
	local dir=$1 free

	while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
	free=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] ||
		die "no disk space: $3 needs $2 MiB in $dir, $free MiB are free"
}

# the patchset's files that are laid over the base, by their names in this clone
own_files() {
	local dirs=() d

	for d in mm include lib tools Documentation drivers arch kernel samples; do
		[ -d "$TOP/$d" ] && dirs+=("$d")
	done
	((${#dirs[@]})) || return 0
	(cd "$TOP" && find "${dirs[@]}" -type f ! -name '*.o' ! -name '*.ko' \
		! -name '*.orig' ! -name '*.rej' ! -name '*~' \
		\( ! -name '.*' -o -name .kunitconfig \) \
		! -path '*/__pycache__/*' -print; say Kconfig.hmm) | sort
}
