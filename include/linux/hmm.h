/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Address-space mirroring: read the page tables of a process for a device.
 *
 * A driver keeps a page table of its own in step with that of a process. It
 * subscribes to the address range with an interval notifier, asks
 * hmm_range_fault() what the process has mapped there, and puts the answer
 * into the device's page table under a lock that its notifier takes as well,
 * after mmu_interval_read_retry() said that nothing has changed in between.
 *
 * See mm/hmm.c for what the answers mean.
 */
#ifndef LINUX_HMM_H
#define LINUX_HMM_H

#include <linux/mm.h>

struct mmu_interval_notifier;

/*
 * An entry of hmm_range::hmm_pfns[] is a pfn with flags above it. With 64 bits
 * there is room for flags that belong to the driver's DMA mapping; with 32,
 * each of those bits would be taken from the pfn, so they do not exist.
 */
#ifdef CONFIG_64BIT
#define HMM_PFN_ORDER_OFFSET	11
#define HMM_PFN_INOUT_BIT(nr)	(1UL << (BITS_PER_LONG - (nr)))
#else
#define HMM_PFN_ORDER_OFFSET	8
#define HMM_PFN_INOUT_BIT(nr)	(0UL & (nr))
#endif

/**
 * enum hmm_pfn_flags - flags of an entry of hmm_range::hmm_pfns[]
 * @HMM_PFN_VALID: result: there is a page, and the device may read it. The
 *	page may be device-private if it belongs to hmm_range::dev_private_owner
 * @HMM_PFN_WRITE: result, together with @HMM_PFN_VALID: the device may write
 *	to the page; it is already marked dirty
 * @HMM_PFN_ERROR: result: there is nothing here that a device can access
 * @HMM_PFN_DMA_MAPPED: the driver's: the page is mapped for DMA. Kept
 * @HMM_PFN_P2PDMA: the driver's: peer-to-peer memory. Kept
 * @HMM_PFN_P2PDMA_BUS: the driver's: addressed on the bus directly. Kept
 * @HMM_PFN_ORDER_SHIFT: five bits from here on are the order of the mapping
 * @HMM_PFN_REQ_FAULT: request: fault until the page is valid
 * @HMM_PFN_REQ_WRITE: request, together with @HMM_PFN_REQ_FAULT: until the
 *	device may write
 * @HMM_PFN_FLAGS: every bit that is not part of the pfn
 * @HMM_PFN_INOUT_FLAGS: the bits that are carried from input to output
 *
 * A result of 0 (but for kept bits) says that a page is not there now, and
 * that asking for a fault may bring it.
 */
enum hmm_pfn_flags {
	HMM_PFN_VALID = 1UL << (BITS_PER_LONG - 1),
	HMM_PFN_WRITE = 1UL << (BITS_PER_LONG - 2),
	HMM_PFN_ERROR = 1UL << (BITS_PER_LONG - 3),
	HMM_PFN_DMA_MAPPED = HMM_PFN_INOUT_BIT(4),
	HMM_PFN_P2PDMA = HMM_PFN_INOUT_BIT(5),
	HMM_PFN_P2PDMA_BUS = HMM_PFN_INOUT_BIT(6),
	HMM_PFN_ORDER_SHIFT = BITS_PER_LONG - HMM_PFN_ORDER_OFFSET,

	HMM_PFN_REQ_FAULT = HMM_PFN_VALID,
	HMM_PFN_REQ_WRITE = HMM_PFN_WRITE,

	HMM_PFN_INOUT_FLAGS = HMM_PFN_DMA_MAPPED | HMM_PFN_P2PDMA |
			      HMM_PFN_P2PDMA_BUS,
	HMM_PFN_FLAGS = ~((1UL << HMM_PFN_ORDER_SHIFT) - 1),
};

/**
 * hmm_pfn_to_page() - page of a valid entry
 * @hmm_pfn: entry with HMM_PFN_VALID set
 *
 * Context: the driver's lock, with the sequence still good; no reference to
 * the page is held or taken.
 * Return: the page.
 */
static inline struct page *hmm_pfn_to_page(unsigned long hmm_pfn)
{
	return pfn_to_page(hmm_pfn & ~HMM_PFN_FLAGS);
}

/**
 * hmm_pfn_to_map_order() - size of the CPU mapping behind a valid entry
 * @hmm_pfn: entry with HMM_PFN_VALID set
 *
 * The mapping is naturally aligned and may reach beyond the range on both
 * sides. Its entries have the same flags, unless a fault that one of them asked
 * for has changed it after the others were read.
 *
 * Return: order of the mapping in base pages: 0 for a page mapped by a PTE,
 * whatever the size of its folio.
 */
static inline unsigned int hmm_pfn_to_map_order(unsigned long hmm_pfn)
{
	return (hmm_pfn >> HMM_PFN_ORDER_SHIFT) & 0x1F;
}

/**
 * struct hmm_range - what to mirror, and the answer
 * @notifier: subscription that covers the range
 * @notifier_seq: what mmu_interval_read_begin() returned
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned)
 * @hmm_pfns: one entry a base page: requests on entry, results on return
 * @default_flags: requests that hold for every page
 * @pfn_flags_mask: which requests are taken from @hmm_pfns
 * @dev_private_owner: report device-private pages of this owner in place
 */
struct hmm_range {
	struct mmu_interval_notifier *notifier;
	unsigned long notifier_seq;
	unsigned long start;
	unsigned long end;
	unsigned long *hmm_pfns;
	unsigned long default_flags;
	unsigned long pfn_flags_mask;
	void *dev_private_owner;
};

/* Milliseconds that a driver should keep trying before it gives up. */
#define HMM_RANGE_DEFAULT_TIMEOUT	1000

int hmm_range_fault(struct hmm_range *range);
int hmm_range_fault_unlocked_timeout(struct hmm_range *range,
				     unsigned long timeout);

bool restore_device_exclusive(struct mm_struct *mm, unsigned long addr,
			      struct page *page);

#endif /* LINUX_HMM_H */
