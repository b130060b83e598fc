// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/hmm.h> alone declares what later kernels declare in
 * it. Out-of-tree drivers look for a function in that header, and bring their
 * own where they do not find it.
 */
#include <linux/hmm.h>

static_assert(__same_type(&hmm_range_fault_unlocked_timeout,
			  int (*)(struct hmm_range *range,
				  unsigned long timeout)));
static_assert(__same_type(&hmm_range_fault, int (*)(struct hmm_range *range)));
static_assert(HMM_PFN_VALID == BIT(BITS_PER_LONG - 1));
static_assert(HMM_PFN_WRITE == BIT(BITS_PER_LONG - 2));
static_assert(HMM_PFN_ERROR == BIT(BITS_PER_LONG - 3));
#ifdef CONFIG_64BIT
static_assert(HMM_PFN_DMA_MAPPED == BIT(BITS_PER_LONG - 4));
static_assert(HMM_PFN_P2PDMA == BIT(BITS_PER_LONG - 5));
static_assert(HMM_PFN_P2PDMA_BUS == BIT(BITS_PER_LONG - 6));
static_assert(HMM_PFN_ORDER_SHIFT == BITS_PER_LONG - 11);
#endif
