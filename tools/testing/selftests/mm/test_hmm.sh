#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs one of the tests with what it needs: the dummy device, its nodes, and a
# few huge pages. Everything is taken back at the end, and a device that cannot be
# removed after the tests is a failure, too: its memory is still in use.
#
# The status is that of the tests; 4 says that they could not be run.

module=test_hmm
here=$(dirname "$0")
huge_pages_needed=4
huge_pages=/proc/sys/vm/nr_hugepages
skip=4
removal_limit=120	# seconds

usage()
{
	cat <<-END
	usage: $0 TEST [ADDRESS0 ADDRESS1]

	TEST is smoke, for hmm-tests, or what follows hmm- in the name of
	another program: outcome, trackers, race, migrate-race or unload.

	ADDRESS0 and ADDRESS1 are physical addresses of 256 MiB each that the
	kernel leaves alone (memmap=256M!ADDRESS0 on its command line), for
	the two devices with coherent memory. Without them, the tests of
	coherent memory are skipped.
	END
}

skip_all()
{
	echo "1..0 # SKIP $*"
	exit $skip
}

note()
{
	echo "# $*"
}

loaded()
{
	[ -d /sys/module/$module ]
}

# A module that was there before stays as it is.
load()
{
	! loaded || return 0
	modprobe $module "$@" && loaded && mine=1
}

# Without udev or devtmpfs: /dev/hmm_dmirror0 to 3, as sysfs has them.
make_nodes()
{
	for link in /sys/dev/char/*; do
		node=/dev/$(basename "$(readlink "$link")")
		case $node in
		/dev/hmm_dmirror[0-3])
			[ ! -e "$node" ] || continue
			dev=$(basename "$link")
			mknod -m 600 "$node" c "${dev%:*}" "${dev#*:}" &&
				nodes="$nodes $node"
			;;
		esac
	done
}

make_huge_pages()
{
	[ -w $huge_pages ] || return 0
	free=$(sed -n 's/^HugePages_Free: *//p' /proc/meminfo)
	[ "${free:-0}" -lt $huge_pages_needed ] || return 0
	huge_pages_before=$(cat $huge_pages)
	echo $((huge_pages_before + huge_pages_needed)) >$huge_pages
}

# A removal that waits for memory cannot be killed, so it is left behind.
remove_module()
{
	modprobe -r $module &
	seconds=0
	while kill -0 $! 2>/dev/null; do
		if [ $seconds -ge $removal_limit ]; then
			note "$module is not removed after $removal_limit s"
			return 1
		fi
		sleep 1
		seconds=$((seconds + 1))
	done
	wait $!
}

take_back()
{
	# shellcheck disable=SC2086
	[ -z "$nodes" ] || rm -f $nodes
	[ -z "$huge_pages_before" ] || echo "$huge_pages_before" >$huge_pages
	[ -n "$mine" ] || return 0
	if ! remove_module; then
		note "$module cannot be removed"
		return 1
	fi
}

run_test()	# PROGRAM [PARAMETER...]
{
	program=$here/$1
	shift
	status=0
	load "$@" || skip_all "$module cannot be loaded: CONFIG_TEST_HMM=m?"
	make_nodes
	make_huge_pages
	[ -n "$mine" ] || note "$module was loaded already"
	"$program" || status=$?
	take_back || status=1
	return $status
}

mine='' nodes='' huge_pages_before=''
case $1 in
smoke) program=hmm-tests ;;
outcome | trackers | race | migrate-race | unload) program=hmm-$1 ;;
"" | -h)
	usage
	exit 0
	;;
*) program= ;;
esac
if [ -z "$program" ] || { [ $# != 1 ] && [ $# != 3 ]; }; then
	usage >&2
	exit 1
fi
[ "$(id -u)" = 0 ] || skip_all "only root can load $module"
command -v modprobe >/dev/null || skip_all "there is no modprobe"
if [ $# = 3 ]; then
	run_test $program "spm_addr_dev0=$2" "spm_addr_dev1=$3"
else
	run_test $program
fi
