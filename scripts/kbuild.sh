# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the scripts that call the kernel's make; source it after lib.sh.
#
# An output directory right below the source tree makes kbuild use relative
# paths, so that the compiler's cache serves every clone.
export CCACHE_DIR=$CACHE/ccache CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=$BUILD
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-8G}
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
export KBUILD_BUILD_USER=hmm KBUILD_BUILD_HOST=hmm KBUILD_BUILD_VERSION=1

# The processor that is built for; set_arch changes it.
KARCH=x86 KCROSS=''

set_arch() {	# ARCH [CROSS]: as the kernel's make takes them
	KARCH=$1 KCROSS=${2:-}
}

need_tools() {
	local tool

	for tool in "${KCROSS}gcc" gcc make ccache flex bison bc; do
		command -v "$tool" >/dev/null ||
			die "$tool is missing: run 'make setup' as root${KCROSS:+, or scripts/setup matrix}"
	done
}

kmake() {	# TREE OUTPUT ARG...
	local tree=$1 output=$2

	shift 2
	# the flags of an outer make are not for the kernel's, nor are the locks
	env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u KERNEL nice make -C "$tree" "O=$output" \
		"ARCH=$KARCH" "CROSS_COMPILE=$KCROSS" "CC=ccache ${KCROSS}gcc" "HOSTCC=ccache gcc" \
		"$@" 6>&- 7>&-
}

# The line of an object, such as str_error_r.o, is none.
first_error() {	# LOG
	awk '!/^  [A-Z]/ && /error|ERROR|Error|undefined reference|No space left/ { print; found = 1; exit }
		END { exit !found }' "$1" | sed "s,^\.\./,,; s,$BUILD/,," || tail -n 1 "$1"
}

# The fragments over a configuration without anything, to OUTPUT/.hmm-new. The
# log is shown to nobody unless it fails.
merge_config() {	# TREE OUTPUT LOG FRAGMENT...
	local tree=$1 output=$2 log=$3

	shift 3
	(cd "$tree" && scripts/kconfig/merge_config.sh -m -O "$output" "$@") >"$log" 2>&1 &&
		mv "$tree/$output/.config" "$tree/$output/.hmm-all" &&
		kmake "$tree" "$output" KCONFIG_ALLCONFIG=.hmm-all KCONFIG_CONFIG=.hmm-new \
			allnoconfig >>"$log" 2>&1
}

last_words() {	# FRAGMENT...: a line a symbol
	awk '/^CONFIG_[^=]*=/ { sym = $0; sub(/=.*/, "", sym) }
		/^# CONFIG_.* is not set$/ { sym = $2 }
		/^(# )?CONFIG_/ { word[sym] = $0 }
		END { for (sym in word) print word[sym] }' "$@" | sort
}

# Symbols of FRAGMENTs that do not stand in the result, a line each. Of two
# fragments that have a symbol, the later one's word counts.
not_in_effect() {	# RESULT FRAGMENT...
	local result=$1 line sym

	shift
	while read -r line; do
		case $line in
		'# CONFIG_'*' is not set')
			sym=${line#\# } sym=${sym% is not set}
			! grep -q "^$sym=" "$result" || say "$line"
			;;
		CONFIG_*=*) grep -qxF "$line" "$result" || say "$line" ;;
		esac
	done < <(last_words "$@")
}

# The new configuration, if it is another one: else nothing is built again.
take_config() {	# OUTPUT
	if cmp -s "$1/.hmm-new" "$1/.hmm-config-used"; then
		cp -p "$1/.hmm-config-used" "$1/.config"
	else
		cp "$1/.hmm-new" "$1/.config"
		cp -p "$1/.config" "$1/.hmm-config-used"
	fi
}
