# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Eight threads fault on the same device pages: how often is the driver called?
# Source it after stage.sh.

# count_module TREE KERNEL: the module that counts, for that kernel
count_module() {
	local dir=$BUILD/call-count/$1 log=$LOG/call-count-$1.log

	mkdir -p "$dir"
	say 'obj-m := test_hmm_calls.o' >"$dir/Kbuild"
	cmp -s "$TOP/lib/test_hmm_calls.c" "$dir/test_hmm_calls.c" ||
		cp "$TOP/lib/test_hmm_calls.c" "$dir/"
	env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u KERNEL \
		nice make -C "$BUILD/$1" "O=$2" "CC=ccache gcc" "M=$dir" modules >"$log" 2>&1 ||
		die "the counting module does not build: $(grep -m1 -E 'error|Error' "$log") (build/log/${log##*/})"
}

count_faults() {	# TREE KERNEL CPUS ROUNDS
	local name=fault-count-$1

	count_module "$1" "$2"
	vm "$name" --kernel "$BUILD/$1/$2" --no-spm --module test_hmm --cpus "$3" --timeout 600 \
		--module "$BUILD/call-count/$1/test_hmm_calls.ko=" \
		--file "$BUILD/selftests/own/hmm-fault-count" -- \
		"insmod /lib/modules/test_hmm_calls.ko && ./hmm-fault-count $4"
}
