/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Address-space mirroring: read the page tables of a process for a device.
 *
 * A driver keeps a device page table in sync with the page tables of a process.
 * It subscribes to the address range with an interval notifier, reads the
 * mappings with hmm_range_fault(), and updates the device page table under a
 * lock that its notifier takes, too, after mmu_interval_read_retry() has
 * returned false.
 *
 * See mm/hmm.c for the meaning of the results.
 */
#ifndef LINUX_HMM_H
#define LINUX_HMM_H

#include <linux/mm.h>

struct mmu_interval_notifier;

/*
 * Layout of an entry of hmm_range::hmm_pfns[], from the highest bit down:
 * results (which are requests on input), bits of the driver, order of the
 * mapping, pfn. With 32 bits, the bits of the driver would have to be taken
 * from the pfn, so they do not exist.
 */
#define HMM_PFN_RESULT_BITS	3
#ifdef CONFIG_64BIT
#define HMM_PFN_INOUT_BITS	3
#define HMM_PFN_INOUT(nr)	\
	(1UL << (BITS_PER_LONG - HMM_PFN_RESULT_BITS - (nr)))
#else
#define HMM_PFN_INOUT_BITS	0
#define HMM_PFN_INOUT(nr)	(0UL & (nr))
#endif
#define HMM_PFN_ORDER_BITS	5

/**
 * enum hmm_pfn_flags - flags of an entry of hmm_range::hmm_pfns[]
 * @HMM_PFN_VALID: result: there is a page, and the device may read it. It may
 *	be device-private if it belongs to hmm_range::dev_private_owner
 * @HMM_PFN_WRITE: result, with @HMM_PFN_VALID: the device may write to the
 *	page, whose entry is writable and dirty. Promised, see below
 * @HMM_PFN_ERROR: result: a device cannot access anything here
 * @HMM_PFN_DMA_MAPPED: for the driver: the page is mapped for DMA. Preserved
 * @HMM_PFN_P2PDMA: for the driver: peer-to-peer memory. Preserved
 * @HMM_PFN_P2PDMA_BUS: for the driver: mapped by bus address. Preserved
 * @HMM_PFN_ORDER_SHIFT: lowest bit of the order of the mapping
 * @HMM_PFN_REQ_FAULT: request: fault until the page is valid
 * @HMM_PFN_REQ_WRITE: request, with @HMM_PFN_REQ_FAULT: fault until the device
 *	may write
 * @HMM_PFN_FLAGS: all bits that are not part of the pfn
 * @HMM_PFN_INOUT_FLAGS: bits that keep their value from input to output
 *
 * A result of 0, apart from preserved bits, means that no page is mapped, and
 * that a fault may map one.
 *
 * A page is never reported with @HMM_PFN_WRITE while its entry is clean. The
 * driver need not mark the page dirty, neither when the device writes nor when
 * the driver unmaps it: an entry is cleaned under an invalidation only, and what
 * the device wrote before that is not lost. Soft-dirty tracking and write
 * protection by userfaultfd have seen the write, too. The promise ends with the
 * invalidation. A writable entry that is clean is reported without
 * @HMM_PFN_WRITE, so a driver must take the rights of a page from the result,
 * not from its request.
 */
enum hmm_pfn_flags {
	HMM_PFN_VALID = 1UL << (BITS_PER_LONG - 1),
	HMM_PFN_WRITE = 1UL << (BITS_PER_LONG - 2),
	HMM_PFN_ERROR = 1UL << (BITS_PER_LONG - HMM_PFN_RESULT_BITS),
	HMM_PFN_DMA_MAPPED = HMM_PFN_INOUT(1),
	HMM_PFN_P2PDMA = HMM_PFN_INOUT(2),
	HMM_PFN_P2PDMA_BUS = HMM_PFN_INOUT(3),
	HMM_PFN_ORDER_SHIFT = BITS_PER_LONG - HMM_PFN_RESULT_BITS -
			      HMM_PFN_INOUT_BITS - HMM_PFN_ORDER_BITS,

	HMM_PFN_REQ_FAULT = HMM_PFN_VALID,
	HMM_PFN_REQ_WRITE = HMM_PFN_WRITE,

	HMM_PFN_INOUT_FLAGS = HMM_PFN_DMA_MAPPED | HMM_PFN_P2PDMA |
			      HMM_PFN_P2PDMA_BUS,
	HMM_PFN_FLAGS = ~((1UL << HMM_PFN_ORDER_SHIFT) - 1),
};

/**
 * hmm_pfn_to_page() - get the page of a valid entry
 * @hmm_pfn: entry with HMM_PFN_VALID set
 *
 * Context: The driver's lock, with a valid sequence number.
 * Return: The page. No reference is taken.
 */
static inline struct page *hmm_pfn_to_page(unsigned long hmm_pfn)
{
	return pfn_to_page(hmm_pfn & ~HMM_PFN_FLAGS);
}

/**
 * hmm_pfn_to_phys() - get the physical address of a valid entry
 * @hmm_pfn: entry with HMM_PFN_VALID set
 *
 * Of a device-private page, it is the address in the range of its pagemap,
 * which nobody can access.
 *
 * Context: As for hmm_pfn_to_page().
 * Return: The address of the first byte of the page.
 */
static inline phys_addr_t hmm_pfn_to_phys(unsigned long hmm_pfn)
{
	return PFN_PHYS(hmm_pfn & ~HMM_PFN_FLAGS);
}

/**
 * hmm_pfn_to_map_order() - get the order of the CPU mapping of a valid entry
 * @hmm_pfn: entry with HMM_PFN_VALID set
 *
 * The mapping is naturally aligned and may extend beyond the range on both
 * sides. All its entries have the same flags, unless a fault on one of them has
 * changed the mapping after the others were read.
 *
 * Return: The order in base pages. It is 0 for a page mapped by a PTE, even if
 * its folio is large; see hmm_range_extent() for such folios.
 */
static inline unsigned int hmm_pfn_to_map_order(unsigned long hmm_pfn)
{
	return (hmm_pfn >> HMM_PFN_ORDER_SHIFT) &
	       ((1U << HMM_PFN_ORDER_BITS) - 1);
}

/**
 * struct hmm_range - range to mirror, requests and results
 * @notifier: subscription that covers the range
 * @notifier_seq: sequence number from mmu_interval_read_begin()
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned)
 * @hmm_pfns: one entry a base page: requests on input, results on output
 * @default_flags: requests for every page
 * @pfn_flags_mask: requests that are taken from @hmm_pfns
 * @dev_private_owner: owner of the device-private pages to report, not to fault
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

/* Time in milliseconds after which a driver should stop retrying. */
#define HMM_RANGE_DEFAULT_TIMEOUT	1000

int hmm_range_fault(struct hmm_range *range);
int hmm_range_fault_unlocked_timeout(struct hmm_range *range,
				     unsigned long timeout);
unsigned long hmm_range_extent(const struct hmm_range *range,
			       unsigned long index);
unsigned int hmm_range_extent_order(const struct hmm_range *range,
				    unsigned long index, unsigned long nr);

bool restore_device_exclusive(struct mm_struct *mm, unsigned long addr,
			      struct page *page);

#endif /* LINUX_HMM_H */
