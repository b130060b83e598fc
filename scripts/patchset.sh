# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the patchset consists of, for the scripts that lay it over a base or
# make mails of it; source it after lib.sh.

patch_files() {	# PATCH...: names that they touch
	awk 'function name(path) { if (sub("^[^/]+/", "", path)) print path }
	     /^--- / { old = $2; next }
	     /^\+\+\+ / && old != "" { name(old); name($2) }
	     { old = "" }' "$@" | sort -u
}

series() {	# names of the patches, in their order
	[ -f "$TOP/patches/series" ] || return 0
	sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$TOP/patches/series"
}

# Without fuzz, and without a trace of what does not apply. A release may have
# changed the lines that a patch changes, so patches/older may have it once more,
# for the releases before.
apply_patch() {	# DIR NAME LOG
	local file=$TOP/patches/$2 older=$TOP/patches/older/$2
	local args=(-d "$1" -p1 -F0 -N -f -r - --no-backup-if-mismatch)

	if [ -f "$older" ] && ! patch "${args[@]}" --dry-run <"$file" >"$3" 2>&1; then
		patch "${args[@]}" --dry-run <"$older" >"$3" 2>&1 || return
		file=$older
	fi
	patch "${args[@]}" <"$file" >"$3" 2>&1
}

# One line for a patch that fails: which, which file, which hunk.
patch_failed() {	# PATCH LOG
	local where

	where=$(awk '/^(patching|checking) file /{ f = $3 }
		/^can.t find file/ { print "no file to patch"; exit }
		/^Hunk #[0-9]+ FAILED/ { sub(/^#/, "", $2); printf "%s hunk %s at line %d\n", f, $2, $5; exit }
		/^Reversed|^The next patch|malformed/ { print; exit }' "$2")
	die "patches/$1 does not apply: ${where:-see $2}"
}

# Where a file of ours lies in this clone, and in the tree.
in_clone() { sed 's,^mm/Kconfig\.hmm$,Kconfig.hmm,'; }
in_tree() { sed 's,^Kconfig\.hmm$,mm/&,'; }

# The base's entry is the paragraph that begins with "HMM - ".
replace_maintainers() {	# DIR
	local file=$1/MAINTAINERS

	awk -v entry="$TOP/MAINTAINERS" '
		/^HMM - / { while ((getline line <entry) > 0) print line; found++; old = 1 }
		/^$/ { old = 0 }
		!old
		END { exit found != 1 }' "$file" >"$file.new" ||
		die "the MAINTAINERS of the base has no entry for HMM, or several"
	mv "$file.new" "$file"
}
