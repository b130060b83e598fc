/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of the dummy device for heterogeneous memory management
 * (lib/test_hmm.c).
 *
 * Opening /dev/hmm_dmirror0 to 3 mirrors the address space of the process on
 * the device. 0 and 1 have private memory, 2 and 3 have coherent memory.
 */
#ifndef LIB_TEST_HMM_UAPI_H
#define LIB_TEST_HMM_UAPI_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct hmm_dmirror_cmd - the argument of each command
 * @addr: in: start of the range, page aligned
 * @ptr: in: user buffer with the data that the device writes, or for the data
 *	that it reads
 * @npages: in: size of the range in base pages; for HMM_DMIRROR_FLAGS the flags
 * @cpages: out: number of pages done, from @addr on, also after an error: those
 *	copied to or from @ptr, or checked; for HMM_DMIRROR_MIGRATE_TO_SYS the
 *	number of pages that moved, anywhere in the range
 * @faults: out: number of device faults
 */
struct hmm_dmirror_cmd {
	__u64 addr;
	__u64 ptr;
	__u64 npages;
	__u64 cpages;
	__u64 faults;
};

#define HMM_DMIRROR_COMMAND(nr)	_IOWR('H', nr, struct hmm_dmirror_cmd)

/*
 * READ, WRITE: the device accesses the range, with device faults where needed.
 * Each page is copied to or from @ptr.
 */
#define HMM_DMIRROR_READ		HMM_DMIRROR_COMMAND(0x00)
#define HMM_DMIRROR_WRITE		HMM_DMIRROR_COMMAND(0x01)

/*
 * MIGRATE_TO_DEV: migrate the range to the device, then read it into @ptr from
 * there. -ENOENT: a page did not migrate; -ENOMEM: the same, and an allocation
 * failed.
 * MIGRATE_TO_SYS: migrate the pages that are on the device to system memory.
 * Both migrate a large folio as a whole if all of it is in the range.
 */
#define HMM_DMIRROR_MIGRATE_TO_DEV	HMM_DMIRROR_COMMAND(0x02)
#define HMM_DMIRROR_MIGRATE_TO_SYS	HMM_DMIRROR_COMMAND(0x03)

/* SNAPSHOT: store a byte for each page in @ptr, see enum hmm_dmirror_prot. */
#define HMM_DMIRROR_SNAPSHOT		HMM_DMIRROR_COMMAND(0x04)

/*
 * EXCLUSIVE: get exclusive access to the range and read it into @ptr. -EBUSY: a
 * page was revoked before it was read; -EOPNOTSUPP: not anonymous memory.
 * Exclusive access lasts until the CPU accesses the page or the file is closed.
 * CHECK_EXCLUSIVE: -EPERM if access to some page is still exclusive.
 * EXCLUSIVE_AT_ONCE: lock all pages of the range, make them exclusive, and
 * unlock them. They do not enter the page table of the device. @cpages: number
 * of pages that became exclusive.
 */
#define HMM_DMIRROR_EXCLUSIVE		HMM_DMIRROR_COMMAND(0x05)
#define HMM_DMIRROR_CHECK_EXCLUSIVE	HMM_DMIRROR_COMMAND(0x06)
#define HMM_DMIRROR_EXCLUSIVE_AT_ONCE	HMM_DMIRROR_COMMAND(0x0b)

/* RELEASE: evict all pages of all processes, then remove the device memory. */
#define HMM_DMIRROR_RELEASE		HMM_DMIRROR_COMMAND(0x07)

/* FLAGS: @npages is a set of HMM_DMIRROR_FLAG bits for this open file. */
#define HMM_DMIRROR_FLAGS		HMM_DMIRROR_COMMAND(0x08)

/* READ_UNLOCKED, WRITE_UNLOCKED: faults may drop the mmap lock. */
#define HMM_DMIRROR_READ_UNLOCKED	HMM_DMIRROR_COMMAND(0x09)
#define HMM_DMIRROR_WRITE_UNLOCKED	HMM_DMIRROR_COMMAND(0x0a)

/*
 * Fail the next allocation of a migration by this file, in device memory or in
 * system memory. That clears the flag. If it was for a large folio, single
 * pages are allocated instead.
 */
#define HMM_DMIRROR_FLAG_FAIL_ALLOC	_BITULL(0)

/*
 * Fill holes that are smaller than a PMD with folios of this order, where they
 * are aligned to it, when they migrate to the device. -EINVAL if the device has
 * no such folios.
 */
#define HMM_DMIRROR_FLAG_HOLE_ORDER(order)	((order) << 8)
#define HMM_DMIRROR_FLAG_HOLE_ORDER_MASK	HMM_DMIRROR_FLAG_HOLE_ORDER(15ULL)

/**
 * enum hmm_dmirror_prot - result of a snapshot for one page
 * @HMM_DMIRROR_PROT_NONE: no access without a fault
 * @HMM_DMIRROR_PROT_READ: the device may read
 * @HMM_DMIRROR_PROT_WRITE: the device may read and write
 * @HMM_DMIRROR_PROT_PMD: flag: mapped by a PMD
 * @HMM_DMIRROR_PROT_PUD: flag: mapped by a PUD
 * @HMM_DMIRROR_PROT_ZERO: flag: the zero page
 * @HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL: flag: private memory, this device
 * @HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE: flag: private memory, another device
 * @HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL: flag: coherent memory, this device
 * @HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE: flag: coherent memory, another device
 * @HMM_DMIRROR_PROT_ERROR: a fault would fail
 */
enum hmm_dmirror_prot {
	HMM_DMIRROR_PROT_NONE = 0,
	HMM_DMIRROR_PROT_READ = 1 << 0,
	HMM_DMIRROR_PROT_WRITE = 1 << 1,
	HMM_DMIRROR_PROT_PMD = 1 << 2,
	HMM_DMIRROR_PROT_PUD = 1 << 3,
	HMM_DMIRROR_PROT_ZERO = 1 << 4,
	HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL = 2 << 4,
	HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE = 3 << 4,
	HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL = 4 << 4,
	HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE = 5 << 4,
	HMM_DMIRROR_PROT_ERROR = 0xff,
};

#endif /* LIB_TEST_HMM_UAPI_H */
