/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Interface of the example driver for HMM, see drivers/misc/hmm_example.c.
 */
#ifndef _UAPI_MISC_HMM_EXAMPLE_H
#define _UAPI_MISC_HMM_EXAMPLE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct hmm_example_args - argument of every command
 * @addr: address in the calling process (bytes, a multiple of 8)
 * @len: length of the range (bytes, a multiple of 8, above 0). For
 *	HMM_EXAMPLE_LIST the largest number of nodes
 * @value: operand or result, see the commands
 */
struct hmm_example_args {
	__u64 addr;
	__u64 len;
	__u64 value;
};

/**
 * struct hmm_example_node - node of the list that HMM_EXAMPLE_LIST follows
 * @next: address of the next node (a multiple of 16), 0 in the last one
 * @value: value to add up
 */
struct hmm_example_node {
	__u64 next;
	__u64 value;
};

#define HMM_EXAMPLE_MEMORY	(16 << 20)	/* bytes on the device */

/* The device adds up the 64-bit words of the range: @value is the sum. */
#define HMM_EXAMPLE_SUM		_IOWR('H', 0xa8, struct hmm_example_args)
/* The device adds @value to each 64-bit word: @value is the new sum. */
#define HMM_EXAMPLE_ADD		_IOWR('H', 0xa9, struct hmm_example_args)
/* The device follows a list from the node at @addr: @value is the sum. */
#define HMM_EXAMPLE_LIST	_IOWR('H', 0xaa, struct hmm_example_args)
/* Move the pages of the range: @value is how many moved. */
#define HMM_EXAMPLE_TO_DEVICE	_IOWR('H', 0xab, struct hmm_example_args)
#define HMM_EXAMPLE_TO_SYSTEM	_IOWR('H', 0xac, struct hmm_example_args)

#endif /* _UAPI_MISC_HMM_EXAMPLE_H */
