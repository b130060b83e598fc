# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the stages of scripts/test. Results go to $RESULTS, a line a test.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RESULTS=${RESULTS:-/dev/stdout}
STAGE=${0##*/}

# The kernel that a stage tests unless it names another, and the programs for it.
# `make test-distro` and `make test-arm64` set other kernels.
TEST_KERNEL=${TEST_KERNEL:-test}
BASE_PROGRAMS=$BUILD/selftests/base OWN_PROGRAMS=$BUILD/selftests/own

# Parameters of the dummy device: the memory that scripts/vm reserves
SPM_ARGS='spm_addr_dev0=0x110000000 spm_addr_dev1=0x120000000'
case $TEST_KERNEL in
arm64-*)
	export PROGRAMS_FOR=arm64
	BASE_PROGRAMS+=-arm64 OWN_PROGRAMS+=-arm64
	SPM_ARGS='spm_addr_dev0=0x160000000 spm_addr_dev1=0x170000000'
	;;
esac

result() {	# pass|fail|skip NAME [REASON]
	printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}" >>"$RESULTS"
	case $1 in
	pass) say "   ok   $2" ;;
	*) say "   $1 $2: ${3:-}" ;;
	esac
}

# In a run of all tests the sources do not change, so a kernel is looked at once:
# even that takes make a quarter of a minute.
kernel() {
	local k

	for k; do
		[ -z "${BUILT:-}" ] || [ ! -e "$BUILT/$k" ] || continue
		"$TOP/scripts/build" "$k" || exit 1
		[ -z "${BUILT:-}" ] || : >"$BUILT/$k"
	done
}

# vm NAME OPTION... -- COMMAND: run a VM with its output in build/log/NAME.out,
# and print its progress. The status goes to VM_STATUS and does not end the stage.
vm() {
	local name=$1 start=$SECONDS next=30 pid

	shift
	"$TOP/scripts/vm" --log "$name" "$@" >"$LOG/$name.run" 2>&1 &
	pid=$!
	# shellcheck disable=SC2064
	trap "kill $pid 2>/dev/null || :" EXIT
	while kill -0 $pid 2>/dev/null; do
		sleep 1
		((SECONDS - start >= next)) || continue
		say "   ... $name: $(span $((SECONDS - start))), $(cat "$LOG/$name.out" "$LOG/$name.console" 2>/dev/null |
			grep -cE '^(\[[^]]*\] )? *(not )?ok [0-9]' || :) results"
		next=$((next + 60))
	done
	VM_STATUS=0
	wait $pid || VM_STATUS=$?
	trap - EXIT
	VM_TIME=$((SECONDS - start))
}

# The VM itself is a result: it must end with a status and a clean console. The
# TAP output of a program reports its failures; with --status, its exit status is
# a result, too.
vm_verdict() {	# NAME [--status]
	local why

	case $VM_STATUS in
	9[5-9]) why=$(grep -aE "error:|insmod" "$LOG/$1.run" | tail -n 1) ;;
	0) why= ;;
	*) why=${2:+status $VM_STATUS, see build/log/$1.out} ;;
	esac
	if [ -n "$why" ]; then
		result fail "$1: VM" "$why"
	else
		result pass "$1: clean console and exit"
	fi
}

# tap NAME FILE [OPTION...]: add the results in a log
tap() {
	local name=$1 log=$2 tmp=$LOG/$1.results

	shift 2
	"$TOP/scripts/tap" "$@" "$log" >"$tmp"
	[ -s "$tmp" ] || printf 'fail\t%s\tno test result in its output\n' "$name" >"$tmp"
	cat "$tmp" >>"$RESULTS"
	if (($(wc -l <"$tmp") < 100)); then
		awk -F'\t' '$1 == "pass" { print $2 }' "$tmp" | fold_names
		awk -F'\t' '$1 != "pass" { printf "   %-5s %s: %s\n", $1, $2, $3 }' "$tmp"
	else
		awk -F'\t' '$1 == "fail" { printf "   %-5s %s: %s\n", $1, $2, $3 }' "$tmp"
	fi
	say "   [$(span "$VM_TIME")] $name: $(grep -c '^pass' "$tmp") ok, $(grep -c '^fail' "$tmp") failed, $(grep -cE '^(skip|known)' "$tmp") skipped or known"
}

# Print names with a common prefix on one line, as wide as a terminal.
fold_names() {
	awk '{
		n = split($0, part, "."); last = part[n]
		head = substr($0, 1, length($0) - length(last))
		if (head != now || length(line) + length(last) > 96) {
			if (line != "") print line
			line = "   ok    " substr(head, 1, length(head) - 1) ":"; now = head
		}
		line = line " " last
	} END { if (line != "") print line }'
}
