#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The users of device memory other than migration: file system DAX, device DAX
# and PCI peer-to-peer memory. Each is bound, used, removed while it is in use,
# and bound again. While a page is held, the removal must wait, report that in
# the log, and then finish.
#
# The script removes devices, so it needs a virtual machine with
#	an NVDIMM without labels, of 512 MiB or more
#	an NVMe with serial number "cmb" and a controller memory buffer
#	an NVMe with serial number "plain", whose contents are lost
#	an NVMe with serial number "slow", limited to about 64 KiB a second
#
# Usage: zone_device_users.sh {fsdax|devdax|p2pdma}...
# The program zone_device_user is in the directory of this script or in PATH.

PATH=$(dirname "$0"):$PATH
TMP=${TMPDIR:-/tmp}/zone_device.$$
MNT=$TMP/mnt
NAMESPACE=namespace0.0
count=0
failed=0

mkdir -p "$MNT"

say() { echo "# $*"; }

result() {	# STATUS NAME
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count $2"
		return
	fi
	failed=$((failed + 1))
	echo "not ok $count $2"
	cat "$TMP"/*.out 2>/dev/null | sed 's/^/#   /'
	dmesg | tail -n 15 | sed 's/^/#   /'
}

bail() {
	echo "Bail out! $*"
	exit 1
}

# ---- processes ----

run() {		# NAME COMMAND FILE [OTHER]: run a user to its end
	name=$1
	shift
	zone_device_user "$@" >"$TMP/user.out" 2>&1
	result $? "$name"
}

start_user() {	# COMMAND FILE [OTHER]: sets USER_PID once it is ready
	: >"$TMP/user.out"
	zone_device_user "$@" >"$TMP/user.out" 2>&1 &
	USER_PID=$!
	i=0
	while ! grep -q ready "$TMP/user.out"; do
		i=$((i + 1))
		kill -0 $USER_PID 2>/dev/null && [ $i -lt 600 ] || return 1
		sleep 0.1
	done
}

ends_within() {	# PID SECONDS
	i=0
	while kill -0 "$1" 2>/dev/null; do
		i=$((i + 1))
		[ $i -le $(($2 * 10)) ] || return 1
		sleep 0.1
	done
}

# ---- devices ----

unbind() { echo "$2" >"/sys/bus/$1/unbind"; }
bind() { echo "$2" >"/sys/bus/$1/bind"; }

# The log must report a removal that waits, and the page.
log_names_user() {
	dmesg | sed -n '/removal under a user begins/,$p' >"$TMP/log"
	grep -q 'memremap: .*removal waits' "$TMP/log" &&
		grep -qE 'memremap: +pfn 0x[0-9a-f]+: .*refcount' "$TMP/log"
}

# The report comes during the wait, but late on a slow machine.
log_will_name_user() {
	i=0
	while ! log_names_user; do
		i=$((i + 1))
		kill -0 $remover 2>/dev/null && [ $i -lt 1200 ] || return 1
		sleep 0.1
	done
}

# removal_waits NAME DRIVER DEVICE COMMAND FILE [OTHER]
# The device is removed while a user holds pages.
removal_waits() {
	name=$1 driver=$2 device=$3
	shift 3
	start_user "$@"
	result $? "$name: a user holds pages"
	echo "removal under a user begins" >/dev/kmsg
	unbind "$driver" "$device" &
	remover=$!
	! ends_within $remover 13
	result $? "$name: removal waits"
	log_will_name_user
	result $? "$name: the log names the page"
	kill -USR1 $USER_PID
	wait $USER_PID
	result $? "$name: the pages have their contents"
	ends_within $remover 20
	result $? "$name: removal finishes"
	wait $remover
}

# removal_unmaps NAME DRIVER DEVICE COMMAND FILE [OTHER]
removal_unmaps() {
	name=$1 driver=$2 device=$3
	shift 3
	start_user "$@"
	result $? "$name: a user maps the memory"
	unbind "$driver" "$device" &
	remover=$!
	ends_within $remover 60
	result $? "$name: removal finishes"
	kill -USR1 $USER_PID 2>/dev/null
	wait $USER_PID
	result $? "$name: the user gets SIGBUS"
	wait $remover
}

nvme_of() {	# SERIAL: the PCI address
	for c in /sys/class/nvme/nvme*; do
		[ "$(tr -d ' ' <"$c/serial")" = "$1" ] || continue
		basename "$(readlink -f "$c/device")"
		return
	done
	return 1
}

disk_of() {	# SERIAL: the block device
	c=$(readlink -f "/sys/bus/pci/devices/$(nvme_of "$1")"/nvme/nvme*)
	for d in "$c"/nvme*n1; do
		echo "/dev/$(basename "$d" | sed 's/c[0-9]*n/n/')"
	done
}

# ---- file system DAX ----

fsdax_mount() {	# FILE-SYSTEM [OPTION...]
	fs=$1
	shift
	mkfs.$fs -q "$@" /dev/pmem0 >"$TMP/mkfs.out" 2>&1 &&
		mount -t $fs -o dax=always /dev/pmem0 "$MNT"
}

# With its reverse map, XFS finds the mappings of files when the device goes.
fsdax_mount_rmap() { fsdax_mount xfs -f -m rmapbt=1; }

fsdax_truncate_waits() {
	start_user hold-pipe "$MNT/t"
	result $? "fsdax: a pipe holds pages of a file"
	truncate -s 0 "$MNT/t" &
	shrink=$!
	! ends_within $shrink 3
	result $? "fsdax: truncation waits for the pages"
	kill -USR1 $USER_PID
	wait $USER_PID
	result $? "fsdax: the pages have their contents"
	ends_within $shrink 10
	result $? "fsdax: truncation finishes"
}

fsdax_memory_map() {	# mem|dev
	say "file system DAX, memory map in $1"
	ndctl create-namespace -f -e $NAMESPACE -m fsdax -M "$1" >"$TMP/ndctl.out" 2>&1
	result $? "fsdax/$1: bound"
	dev=$(basename "$(readlink -f /sys/block/pmem0/device)")
	fsdax_mount_rmap
	result $? "fsdax/$1: XFS mounted"
	run "fsdax/$1: mapped and used" check "$MNT/f"
	run "fsdax/$1: O_DIRECT out of the mapping" direct "$MNT/f" "$OTHER"
	run "fsdax/$1: truncated under O_DIRECT" truncate "$MNT/f" "$OTHER"
	fsdax_truncate_waits

	removal_unmaps "fsdax/$1: unbound while mapped" nd/drivers/nd_pmem "$dev" \
		hold-map "$MNT/f"
	umount "$MNT"
	bind nd/drivers/nd_pmem "$dev"
	fsdax_mount_rmap
	result $? "fsdax/$1: bound again"
	run "fsdax/$1: used again" direct "$MNT/f" "$OTHER"
	removal_unmaps "fsdax/$1: unbound under load" nd/drivers/nd_pmem "$dev" \
		load "$MNT/f" "$OTHER"
	umount "$MNT"
	bind nd/drivers/nd_pmem "$dev"
	fsdax_mount_rmap
	result $? "fsdax/$1: bound once more"
	removal_waits "fsdax/$1: unbound while held" nd/drivers/nd_pmem "$dev" \
		hold-pipe "$MNT/f"
	umount "$MNT"
	bind nd/drivers/nd_pmem "$dev"
}

# A file system that keeps its files when the device goes keeps the memory.
fsdax_keeps_files() {	# FILE-SYSTEM [OPTION...]
	dev=$(basename "$(readlink -f /sys/block/pmem0/device)")
	name="fsdax/$1 without reverse map"
	fsdax_mount "$@"
	result $? "$name: mounted"
	start_user keep-map "$MNT/f"
	result $? "$name: a user maps the memory"
	unbind nd/drivers/nd_pmem "$dev" &
	remover=$!
	! ends_within $remover 3
	result $? "$name: removal waits"
	kill -USR1 $USER_PID
	wait $USER_PID
	result $? "$name: the memory is whole"
	umount "$MNT"
	result $? "$name: unmounted"
	ends_within $remover 20
	result $? "$name: removal finishes"
	wait $remover
	bind nd/drivers/nd_pmem "$dev"
}

fsdax() {
	fsdax_memory_map mem
	fsdax_memory_map dev
	fsdax_keeps_files xfs -f -m rmapbt=0
	fsdax_keeps_files ext4 -F -b 4096
}

# ---- device DAX ----

devdax_aligned() {	# ALIGN mem|dev
	say "device DAX, alignment $1, memory map in $2"
	ndctl create-namespace -f -e $NAMESPACE -m devdax -a "$1" -M "$2" \
		>"$TMP/ndctl.out" 2>&1
	result $? "devdax/$1/$2: bound"
	run "devdax/$1/$2: mapped and used" check /dev/dax0.0
	run "devdax/$1/$2: O_DIRECT out of the mapping" direct /dev/dax0.0 "$OTHER"
	removal_unmaps "devdax/$1/$2: unbound while mapped" \
		dax/drivers/device_dax dax0.0 hold-map /dev/dax0.0
	bind dax/drivers/device_dax dax0.0
	run "devdax/$1/$2: used again" direct /dev/dax0.0 "$OTHER"
	removal_unmaps "devdax/$1/$2: unbound under load" \
		dax/drivers/device_dax dax0.0 load /dev/dax0.0 "$OTHER"
	bind dax/drivers/device_dax dax0.0
	removal_waits "devdax/$1/$2: unbound under a long-term pin" \
		dax/drivers/device_dax dax0.0 hold-pin /dev/dax0.0
	bind dax/drivers/device_dax dax0.0
	run "devdax/$1/$2: used once more" check /dev/dax0.0
}

devdax() {
	devdax_aligned 2M mem
	devdax_aligned 4K mem
	devdax_aligned 2M dev
}

# ---- PCI peer-to-peer memory ----

p2pdma() {
	cmb=$(nvme_of cmb) || bail "no NVMe with serial number cmb"
	mem=/sys/bus/pci/devices/$cmb/p2pmem/allocate
	say "peer-to-peer memory of $cmb"
	[ -e "$mem" ]
	result $? "p2pdma: bound"
	available=$(cat "${mem%/*}/available")
	run "p2pdma: mapped and used" check "$mem"
	run "p2pdma: O_DIRECT of another device" direct "$mem" "$OTHER"
	removal_unmaps "p2pdma: unbound under load" pci/drivers/nvme "$cmb" \
		load "$mem" "$OTHER"
	bind pci/drivers/nvme "$cmb"
	[ -e "$mem" ]
	result $? "p2pdma: bound again"
	run "p2pdma: used again" direct "$mem" "$OTHER"

	start_user slow "$mem" "$(disk_of slow)"
	result $? "p2pdma: a transfer is in flight"
	sleep 1
	unbind pci/drivers/nvme "$cmb" &
	remover=$!
	! ends_within $remover 2
	result $? "p2pdma: removal waits for the transfer"
	ends_within $remover 300
	result $? "p2pdma: removal finishes"
	wait $USER_PID
	result $? "p2pdma: the transfer was whole"
	wait $remover
	bind pci/drivers/nvme "$cmb"
	run "p2pdma: used once more" check "$mem"
	[ "$(cat "${mem%/*}/available")" = "$available" ]
	result $? "p2pdma: all memory is back in its pool"
}

command -v zone_device_user >/dev/null || bail "zone_device_user is not built"
[ $# -gt 0 ] || bail "usage: $0 {fsdax|devdax|p2pdma}..."
OTHER=$(disk_of plain) || bail "no NVMe with serial number plain"
plan=0
for user in "$@"; do
	case $user in
	fsdax) plan=$((plan + 58)) ;;
	devdax) plan=$((plan + 48)) ;;
	p2pdma) plan=$((plan + 14)) ;;
	*) bail "no such user of device memory: $user" ;;
	esac
done
echo "TAP version 13"
echo "1..$plan"
for user in "$@"; do
	$user
done
say "$((count - failed)) passed, $failed failed"
rm -rf "$TMP"
[ $failed = 0 ]
