// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/hmm.h> by itself declares what it declares in
 * later kernels. Out-of-tree drivers look for a function in that header, and
 * define it if they do not find it there.
 */
#include <linux/hmm.h>

static_assert(__same_type(&hmm_range_fault_unlocked_timeout,
			  int (*)(struct hmm_range *range,
				  unsigned long timeout)));
static_assert(__same_type(&hmm_range_fault, int (*)(struct hmm_range *range)));
static_assert(__same_type(&hmm_pfn_to_phys,
			  phys_addr_t (*)(unsigned long hmm_pfn)));
static_assert(BIT(BITS_PER_LONG - 1) == HMM_PFN_VALID);
static_assert(BIT(BITS_PER_LONG - 2) == HMM_PFN_WRITE);
static_assert(BIT(BITS_PER_LONG - 3) == HMM_PFN_ERROR);
#ifdef CONFIG_64BIT
static_assert(BIT(BITS_PER_LONG - 4) == HMM_PFN_DMA_MAPPED);
static_assert(BIT(BITS_PER_LONG - 5) == HMM_PFN_P2PDMA);
static_assert(BIT(BITS_PER_LONG - 6) == HMM_PFN_P2PDMA_BUS);
static_assert(BITS_PER_LONG - 11 == HMM_PFN_ORDER_SHIFT);
#endif
