/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What a program and the dummy device of heterogeneous memory management
 * (lib/test_hmm.c) say to each other.
 *
 * A program opens /dev/hmm_dmirror0 to 3, which makes its address space that of
 * the device, and gives commands. 0 and 1 have private memory, 2 and 3 have
 * coherent memory.
 */
#ifndef LIB_TEST_HMM_UAPI_H
#define LIB_TEST_HMM_UAPI_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct hmm_dmirror_cmd - the argument of each command
 * @addr: in: first address of the range that the command is about, page aligned
 * @ptr: in: buffer of the program's: what the device is to write, or room for
 *	what it has read
 * @npages: in: size of the range in base pages; of HMM_DMIRROR_FLAGS the flags
 * @cpages: out: how many pages, from @addr on, are done, also after an error:
 *	copied to or from @ptr, or looked at; of HMM_DMIRROR_MIGRATE_TO_SYS how
 *	many have come home, wherever they were
 * @faults: out: how often the device found a page missing in its page table
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
 * READ, WRITE: the device accesses the range, faulting as it needs. A page is
 * copied to or from @ptr.
 */
#define HMM_DMIRROR_READ		HMM_DMIRROR_COMMAND(0x00)
#define HMM_DMIRROR_WRITE		HMM_DMIRROR_COMMAND(0x01)

/*
 * MIGRATE_TO_DEV: move the range to the device, which then reads it into @ptr.
 * -ENOENT: a page is not there; -ENOMEM: the same, and memory was short.
 * MIGRATE_TO_SYS: move what is on the device back.
 */
#define HMM_DMIRROR_MIGRATE_TO_DEV	HMM_DMIRROR_COMMAND(0x02)
#define HMM_DMIRROR_MIGRATE_TO_SYS	HMM_DMIRROR_COMMAND(0x03)

/* SNAPSHOT: an HMM_DMIRROR_PROT value a page, a byte each, into @ptr. */
#define HMM_DMIRROR_SNAPSHOT		HMM_DMIRROR_COMMAND(0x04)

/*
 * EXCLUSIVE: get exclusive access to the range and read it into @ptr. -EBUSY: a
 * page was taken back before it could be read; -EOPNOTSUPP: the memory is not
 * anonymous. It lasts until the CPU touches the page, also if the file is closed.
 * CHECK_EXCLUSIVE: -EPERM if the device still has it for some page.
 * EXCLUSIVE_AT_ONCE: get all pages of the range before one is unlocked. The
 * device does not load them; @cpages is how many there were.
 */
#define HMM_DMIRROR_EXCLUSIVE		HMM_DMIRROR_COMMAND(0x05)
#define HMM_DMIRROR_CHECK_EXCLUSIVE	HMM_DMIRROR_COMMAND(0x06)
#define HMM_DMIRROR_EXCLUSIVE_AT_ONCE	HMM_DMIRROR_COMMAND(0x0b)

/* RELEASE: empty the device's memory, whoever uses it, and take it away. */
#define HMM_DMIRROR_RELEASE		HMM_DMIRROR_COMMAND(0x07)

/* FLAGS: @npages is a set of HMM_DMIRROR_FLAG bits for this open file. */
#define HMM_DMIRROR_FLAGS		HMM_DMIRROR_COMMAND(0x08)

/* READ_UNLOCKED, WRITE_UNLOCKED: by faults that may drop the mmap lock. */
#define HMM_DMIRROR_READ_UNLOCKED	HMM_DMIRROR_COMMAND(0x09)
#define HMM_DMIRROR_WRITE_UNLOCKED	HMM_DMIRROR_COMMAND(0x0a)

/*
 * The next page that a migration by a command of this file wants to allocate,
 * on the device or in the system, is not to be had. Then the flag is clear.
 */
#define HMM_DMIRROR_FLAG_FAIL_ALLOC	_BITULL(0)

/**
 * enum hmm_dmirror_prot - what a snapshot says of a page
 * @HMM_DMIRROR_PROT_NONE: nothing that the device could access without a fault
 * @HMM_DMIRROR_PROT_READ: the device may read
 * @HMM_DMIRROR_PROT_WRITE: the device may read and write
 * @HMM_DMIRROR_PROT_PMD: beside those: part of a mapping of PMD size
 * @HMM_DMIRROR_PROT_PUD: beside those: part of a mapping of PUD size
 * @HMM_DMIRROR_PROT_ZERO: beside READ: the zero page
 * @HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL: beside those: private memory of this
 *	device
 * @HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE: of another device
 * @HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL: coherent memory of this device
 * @HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE: of another device
 * @HMM_DMIRROR_PROT_ERROR: nothing that a device can access at all
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
