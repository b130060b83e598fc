# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Eight threads fault on the same device pages: how often is the driver called?
# Source it after stage.sh.

count_faults() {	# TREE CONFIG CPUS ROUNDS
	local name=fault-count-$1 bench=$BUILD/bench.d

	"$TOP/scripts/bench.d/build" module test_hmm_calls "$1" "$2"
	"$TOP/scripts/bench.d/build" program hmm-fault-count
	vm "$name" --kernel "$BUILD/$1/$2" --no-spm --module test_hmm --cpus "$3" --timeout 600 \
		--module "$bench/$1-$2/test_hmm_calls.ko=" --file "$bench/hmm-fault-count" -- \
		"insmod /lib/modules/test_hmm_calls.ko && ./hmm-fault-count $4"
}
