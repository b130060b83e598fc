// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mirroring of a process's page tables: hmm_range_fault().
 *
 * Scope
 *
 *   The translation of extents (device_walk.h) into the entries of
 *   hmm_range::hmm_pfns[], and the decision to fault. It keeps no state
 *   between calls and takes no page references: only the sequence number of
 *   the range's notifier tells whether a result is still valid.
 *
 * Requests and results
 *
 *   The request of page i is (hmm_pfns[i] & pfn_flags_mask) | default_flags.
 *   If the mask hides the requests of single pages, all pages of the range
 *   have the same request, and one decision covers a whole extent.
 *
 *   Entry                 without a request    with a request to fault
 *   --------------------  -------------------  ----------------------------
 *   present               VALID (WRITE)        same; see below for WRITE
 *   zero page             VALID                same, or a write fault
 *   own device-private    VALID (WRITE)        same, made writable in place, or
 *                                              a write fault, after which it
 *                                              may still lack WRITE
 *   hole, swap, marker,   0                    fault
 *   PROT_NONE, exclusive,
 *   migration, private
 *   to another device
 *   poison                0                    fault, which fails: -EFAULT
 *   no struct page,       ERROR                -EFAULT
 *   no VMA, VM_IO or no
 *   VM_READ
 *
 *   Only a writable *and dirty* entry gets WRITE and satisfies a request to
 *   write. A device that writes through the mirror cannot set the dirty bit,
 *   and reclaim drops clean pages. Once the entry is dirty, cleaning it
 *   requires an invalidation.
 *
 *   Results are written in address order, and never at or above the address
 *   where a call stops: the entries there still hold requests.
 *
 * Mixed memory
 *
 *   In real address spaces the kind of memory changes at every page: zero
 *   pages, holes, pages that fork() made read-only. So short runs are common.
 *   If all pages have the same request, hmm_ptes_all() derives the result from
 *   the value of a PTE without building an extent. It remembers two entries,
 *   because alternating memory mostly has two kinds.
 *
 *   A write fault on such memory breaks COW, which invalidates the range that
 *   the caller reads. The sequence number is stale from then on, so nothing
 *   more is reported, but the pass goes on and faults what the rest of the
 *   range needs before it returns -EBUSY. The next call finds every request
 *   satisfied. So two calls serve any range, unless others invalidate it.
 *
 *   The number of faults is limited. A pass only moves forward, faults a page
 *   HMM_FAULT_TRIES times at most, and checks for a fatal signal before each
 *   fault. So an invalidation by others costs one pass at most. Its faults are
 *   not wasted, as the next call needs the same pages.
 *
 *   Pages that need the same fault are faulted in a batch. The entries that the
 *   walk has read may be stale by then. A fault on a migration entry waits for
 *   the migration, so such an entry is a batch of its own. A batch ends at a
 *   page that has started to migrate or has become a device-private page of the
 *   caller, as a fault would migrate it back. The walk reads that entry again.
 *
 * Device-private pages that cannot become writable
 *
 *   The driver may leave an own page on the device in migrate_to_ram(). The
 *   page is then reported without WRITE. A page with an extra reference cannot
 *   migrate and is not faulted at all: the attempt may invalidate the range,
 *   and the caller would start over for as long as the reference is held.
 *   The result is -EFAULT, even if the range is stale, if the driver
 *   invalidates the range in every fault without migrating the page, or if a
 *   page of another device does not migrate in any fault. No entry is a result
 *   then.
 *
 * Locks
 *
 *   mmap lock, for reading: held by the caller of hmm_range_fault(), taken and
 *   dropped by hmm_range_fault_unlocked_timeout(). Faults hold no other lock.
 *   The walk is lockless: every change of an entry comes with an invalidation,
 *   and the caller checks mmu_interval_read_retry() under the lock that the
 *   invalidation takes.
 *
 *   A fault on a device-private page calls dev_pagemap_ops::migrate_to_ram()
 *   of the driver that owns it, which may be the caller. So the caller must not
 *   hold any lock that migrate_to_ram() takes. The fault waits for the page
 *   lock of another device's page. It does not wait for the page lock if the
 *   walk has found a page of the caller.
 */
#include <linux/bitmap.h>
#include <linux/hmm.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/signal.h>
#include <linux/secretmem.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "device_write.h"
#include "mmu_interval_notifier.h"

#define HMM_PFN_REQ	(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)
#define HMM_PFN_ORDER_MASK \
	(((1UL << HMM_PFN_ORDER_BITS) - 1) << HMM_PFN_ORDER_SHIFT)

/* Return values of the walk operations, for hmm_walk_and_fault(). */
#define HMM_STOP_TO_FAULT	1
#define HMM_STOP_STUCK		2

/*
 * Faults of a page in one call. A migration entry, a NUMA hint and COW take
 * three. A page that is not present after four is left to the next call.
 */
#define HMM_FAULT_TRIES		4

/* Marks an address as unset: it is not page aligned. */
#define HMM_NOWHERE		1UL

/**
 * enum hmm_fault_kind - how to satisfy a request
 * @HMM_FAULT_NONE: it is satisfied
 * @HMM_FAULT_READ: by a read fault
 * @HMM_FAULT_WRITE: by a write fault
 * @HMM_FAULT_OWN: write to a device-private page of the caller: make the entry
 *	writable in place if possible
 */
enum hmm_fault_kind {
	HMM_FAULT_NONE,
	HMM_FAULT_READ,
	HMM_FAULT_WRITE,
	HMM_FAULT_OWN,
};

/**
 * struct hmm_fault - a batch of pages that need the same fault
 * @kind: which fault
 * @nr: number of pages, starting at hmm_walk::walk.addr
 * @pmdp: PMD entry above the pages, if there is a PTE table. The table stays
 *	while the mmap lock is held; its entries may change
 * @foreign: pfn of the first page if it is private to another device, else 0
 */
struct hmm_fault {
	enum hmm_fault_kind kind;
	unsigned long nr;
	pmd_t *pmdp;
	unsigned long foreign;
};

/**
 * struct hmm_tried - earlier faults of the pass
 * @below: pages below @below[n] were faulted more than n times. The walk stops
 *	at the first page that needs a fault, and a batch starts there, so no
 *	page has fewer faults than one above it, and @below is descending
 * @own: end of the pages that were faulted as HMM_FAULT_OWN
 * @foreign: hmm_fault::foreign of the last batch
 * @stays: number of batches in a row, before the last, with the same @foreign
 * @invalidated: the range was invalidated during the last batch
 */
struct hmm_tried {
	unsigned long below[HMM_FAULT_TRIES];
	unsigned long own;
	unsigned long foreign;
	unsigned int stays;
	bool invalidated;
};

/**
 * struct hmm_walk - one pass over a range
 * @walk: position of the walk
 * @range: range of the caller
 * @required: flags that default_flags require of every result
 * @page_requests: request bits that hmm_pfns[] may add for single pages
 * @stale_at: position of the walk when the pass found its sequence number
 *	stale: results end here, and the pass only faults. Else HMM_NOWHERE
 * @fault: pages at which the walk stopped
 * @tried: earlier faults
 * @own_locked: number of own pages that were skipped because others had locked
 *	them
 * @fault_flags: flags of all faults
 * @dropped: page whose last fault dropped the mmap lock, or HMM_NOWHERE
 */
struct hmm_walk {
	struct device_walk walk;
	struct hmm_range *range;
	unsigned long required;
	unsigned long page_requests;
	unsigned long stale_at;
	struct hmm_fault fault;
	struct hmm_tried tried;
	unsigned long own_locked;
	unsigned int fault_flags;
	unsigned long dropped;
};

static inline struct hmm_walk *to_hmm_walk(struct device_walk *walk)
{
	return container_of(walk, struct hmm_walk, walk);
}

/* HMM_PFN_REQ_WRITE has no effect without HMM_PFN_REQ_FAULT. */
static inline unsigned long hmm_required(unsigned long request)
{
	return request & HMM_PFN_REQ_FAULT ? request & HMM_PFN_REQ : 0;
}

static inline unsigned long *hmm_entry(struct hmm_walk *hw, unsigned long addr)
{
	struct hmm_range *range = hw->range;

	return range->hmm_pfns + ((addr - range->start) >> PAGE_SHIFT);
}

static inline bool hmm_stale(const struct hmm_walk *hw)
{
	return hw->stale_at != HMM_NOWHERE;
}

static unsigned long hmm_page_required(struct hmm_walk *hw, unsigned long entry)
{
	struct hmm_range *range = hw->range;

	return hmm_required((entry & range->pfn_flags_mask) |
			    range->default_flags);
}

static __always_inline void hmm_fill_one(unsigned long *entry,
					 unsigned long result)
{
	*entry = (*entry & HMM_PFN_INOUT_FLAGS) | result;
}

/*
 * Fill @nr entries with @result, which grows by @step: 1 for entries with a
 * pfn, else 0. Unrolled by hand, as gcc does not do it at -O2: this takes 6
 * instructions a page instead of 8, and is all that a huge page costs.
 */
static __always_inline void hmm_fill(unsigned long *entry, unsigned long nr,
				     unsigned long result, unsigned long step)
{
	for (; nr >= 4; nr -= 4, entry += 4, result += 4 * step) {
		hmm_fill_one(entry, result);
		hmm_fill_one(entry + 1, result + step);
		hmm_fill_one(entry + 2, result + 2 * step);
		hmm_fill_one(entry + 3, result + 3 * step);
	}
	for (; nr; nr--, entry++, result += step)
		hmm_fill_one(entry, result);
}

/* A hole, a NUMA hint, swap ...: a device cannot use it without a fault. */
static __always_inline bool hmm_pte_unusable(pte_t pte)
{
	if (pte_present(pte))
		return pte_protnone(pte);
	return !is_device_private_entry(pte_to_swp_entry(pte));
}

/*
 * Get the result of a PTE from its value. Return false if that takes more: for
 * device pages, and for mappings without a struct page.
 */
static __always_inline bool hmm_pte_result(struct device_walk *walk, pte_t pte,
					   unsigned long *result)
{
	if (device_pte_ordinary(walk, pte)) {
		*result = pte_pfn(pte) | HMM_PFN_VALID;
		if (pte_write(pte) && pte_dirty(pte))
			*result |= HMM_PFN_WRITE;
		return true;
	}
	*result = 0;
	if (hmm_pte_unusable(pte))
		return true;
	*result = pte_pfn(pte) | HMM_PFN_VALID;
	return pte_present(pte) && pte_special(pte) &&
	       is_zero_pfn(pte_pfn(pte));
}

/* Contiguous device-private pages are cheaper as an extent. */
static __always_inline bool hmm_private_run(pte_t *ptep, unsigned long max)
{
	pte_t pte = device_pte_get(ptep);

	return !pte_present(pte) && max > 1 &&
	       is_device_private_entry(pte_to_swp_entry(pte)) &&
	       pte_same(device_pte_get(ptep + 1), pte_next_swp_offset(pte));
}

/* As hmm_pte_result(), for a single device-private page. */
static bool hmm_private_result(struct hmm_walk *hw, pte_t *ptep, pte_t pte,
			       unsigned long max, unsigned long *result)
{
	unsigned long pfn;

	if (pte_present(pte) || hmm_private_run(ptep, max))
		return false;
	pfn = swp_offset_pfn(pte_to_swp_entry(pte));
	*result = 0;
	if (page_pgmap(pfn_to_page(pfn))->owner !=
	    hw->range->dev_private_owner)
		return true;
	*result = pfn | HMM_PFN_VALID;
	if (device_pte_private_write(hw->walk.vma, pte))
		*result |= HMM_PFN_WRITE;
	return true;
}

/* Get the result of a PTE. Return whether it satisfies the request. */
static __always_inline bool hmm_pte_serves(struct hmm_walk *hw, pte_t *ptep,
					   pte_t pte, unsigned long max,
					   unsigned long required,
					   unsigned long *result)
{
	if (!hmm_pte_result(&hw->walk, pte, result) &&
	    !hmm_private_result(hw, ptep, pte, max, result))
		return false;
	return !(required & ~*result);
}

/* Which fault does a page with this result need? */
static __always_inline enum hmm_fault_kind
hmm_fault_kind(struct hmm_walk *hw, unsigned long entry, unsigned long result)
{
	unsigned long missing = hw->required;

	if (hw->page_requests)
		missing = hmm_page_required(hw, entry);
	missing &= ~result;
	if (!missing)
		return HMM_FAULT_NONE;
	return missing & HMM_PFN_REQ_WRITE ? HMM_FAULT_WRITE : HMM_FAULT_READ;
}

static bool hmm_pte_migrates(pte_t pte)
{
	return is_swap_pte(pte) && is_migration_entry(pte_to_swp_entry(pte));
}

/*
 * Count the pages, starting at page @met of the extent, that need a fault of
 * @kind. Count pages of other kinds in the same PTE table, too, so that all of
 * them are one batch.
 */
static unsigned long hmm_batch(struct hmm_walk *hw, struct device_extent *ext,
			       unsigned long met, unsigned long result,
			       enum hmm_fault_kind kind)
{
	unsigned long *entry = hmm_entry(hw, ext->addr);
	unsigned long nr, end, max;

	for (nr = met + 1; nr < ext->nr; nr++)
		if (hmm_fault_kind(hw, entry[nr], result) != kind)
			return nr - met;
	end = pmd_addr_end(ext->addr, hw->walk.end);
	max = (end - ext->addr) >> PAGE_SHIFT;
	for (; nr < max; nr++) {
		pte_t pte = device_pte_get(ext->ptep + nr);

		if (!hmm_pte_result(&hw->walk, pte, &result) ||
		    hmm_fault_kind(hw, entry[nr], result) != kind ||
		    hmm_pte_migrates(pte))
			break;
	}
	return nr - met;
}

/*
 * Stop the walk at page @met of the extent, whose request is not satisfied. If
 * there is no PTE table yet, the fault may install a huge page, so walk again
 * after the first one.
 */
static int hmm_stop(struct hmm_walk *hw, struct device_extent *ext,
		    unsigned long met, unsigned long result)
{
	unsigned long entry = hmm_entry(hw, ext->addr)[met];

	hw->fault = (struct hmm_fault) {
		.kind = hmm_fault_kind(hw, entry, result),
		.nr = 1,
		.pmdp = ext->pmdp,
	};
	if (ext->ptep && ext->kind != DEVICE_EXTENT_MIGRATION)
		hw->fault.nr = hmm_batch(hw, ext, met, result, hw->fault.kind);
	ext->nr = met;
	if (ext->kind == DEVICE_EXTENT_NO_VMA ||
	    ext->kind == DEVICE_EXTENT_SPECIAL)
		return -EFAULT;
	return HMM_STOP_TO_FAULT;
}

/* Count the pages, of @nr from @entry on, whose request @result satisfies. */
static unsigned long hmm_met(struct hmm_walk *hw, const unsigned long *entry,
			     unsigned long nr, unsigned long result)
{
	unsigned long met = 0;

	if (likely(!hw->page_requests))
		return hw->required & ~result ? 0 : nr;
	while (met < nr && !(hmm_page_required(hw, entry[met]) & ~result))
		met++;
	return met;
}

static int hmm_report(struct hmm_walk *hw, struct device_extent *ext,
		      unsigned long result, unsigned long step)
{
	unsigned long *entry = hmm_entry(hw, ext->addr);
	unsigned long met = hmm_met(hw, entry, ext->nr, result);

	if (likely(!hmm_stale(hw)))
		hmm_fill(entry, met, result, step);
	return likely(met == ext->nr) ? 0 : hmm_stop(hw, ext, met, result);
}

/* Pages with requests of their own, or in a pass that only faults. */
static unsigned long hmm_ptes_each(struct hmm_walk *hw, unsigned long *entry,
				   pte_t *ptep, unsigned long max)
{
	unsigned long nr, result;

	for (nr = 0; nr < max; nr++) {
		pte_t pte = device_pte_get(ptep + nr);

		if (!hmm_pte_serves(hw, ptep + nr, pte, max - nr,
				    hmm_page_required(hw, entry[nr]), &result))
			break;
		if (!hmm_stale(hw))
			hmm_fill_one(entry + nr, result);
	}
	return nr;
}

/**
 * struct hmm_alike - two entries that the walk has seen, and their results
 * @template: of a present entry, for entries that differ in the pfn only
 * @flags: result flags of such entries
 * @other: another entry, unusable or the zero page, for entries equal to it
 * @result: result of such entries
 */
struct hmm_alike {
	struct pte_template template;
	unsigned long flags;
	pte_t other;
	unsigned long result;
};

/*
 * Start with a page that satisfies every request, and with a hole if there is
 * no request. Entries that do not satisfy the request must never match.
 */
static __always_inline struct hmm_alike hmm_alike_init(struct hmm_walk *hw)
{
	pte_t pte = pte_mkdirty(pte_mkwrite_novma(pfn_pte(0, PAGE_SHARED)));
	unsigned long flags = HMM_PFN_VALID | HMM_PFN_WRITE;

	return (struct hmm_alike) {
		.template = pte_template_of(pte),
		.flags = flags,
		.other = hw->required ? pte : __pte(0),
		.result = hw->required ? flags : 0,
	};
}

/*
 * Report an entry that matches neither, and remember it instead of one of them.
 * Return false if that takes an extent or a fault.
 */
static noinline bool hmm_alike_learn(struct hmm_walk *hw,
				     struct hmm_alike *alike,
				     unsigned long *entry, pte_t *ptep,
				     unsigned long max)
{
	pte_t pte = device_pte_get(ptep);
	unsigned long result;

	if (!hmm_pte_serves(hw, ptep, pte, max, hw->required, &result))
		return false;
	hmm_fill_one(entry, result);
	if (device_pte_ordinary(&hw->walk, pte)) {
		alike->template = pte_template_of(pte);
		alike->flags = result & (HMM_PFN_VALID | HMM_PFN_WRITE);
	} else {
		alike->other = pte;
		alike->result = result;
	}
	return true;
}

static __always_inline unsigned long
hmm_alike_run(const struct hmm_alike *alike, unsigned long *entry, pte_t *ptep,
	      unsigned long nr, unsigned long max)
{
	struct pte_template template = alike->template;
	unsigned long pfn, flags = alike->flags;

	for (; nr < max; nr++) {
		if (!pte_template_match(template, device_pte_get(ptep + nr),
					&pfn))
			break;
		hmm_fill_one(entry + nr, pfn | flags);
	}
	return nr;
}

static __always_inline unsigned long
hmm_alike_run_other(const struct hmm_alike *alike, unsigned long *entry,
		    pte_t *ptep, unsigned long nr, unsigned long max)
{
	pte_t other = alike->other;
	unsigned long result = alike->result;

	for (; nr < max && pte_same(device_pte_get(ptep + nr), other); nr++)
		hmm_fill_one(entry + nr, result);
	return nr;
}

/* Entries without a result that differ: swap entries, NUMA hints. */
static __always_inline unsigned long
hmm_unusable_run(unsigned long *entry, pte_t *ptep, unsigned long nr,
		 unsigned long max)
{
	for (; nr < max && hmm_pte_unusable(device_pte_get(ptep + nr)); nr++)
		hmm_fill_one(entry + nr, 0);
	return nr;
}

/*
 * The hot path: all pages have the same request, and the entries satisfy it.
 * Most entries match one of the two that are remembered. Not inlined into the
 * walk, so that the loops do not compete for registers with it.
 */
static noinline unsigned long
hmm_ptes_all(struct hmm_walk *hw, unsigned long *entry, pte_t *ptep,
	     unsigned long max)
{
	struct hmm_alike alike = hmm_alike_init(hw);
	unsigned long nr = 0, before;

	do {
		before = nr;
		nr = hmm_alike_run(&alike, entry, ptep, nr, max);
		nr = hmm_alike_run_other(&alike, entry, ptep, nr, max);
		if (!hw->required)
			nr = hmm_unusable_run(entry, ptep, nr, max);
		if (nr != before)
			continue;
		if (!hmm_alike_learn(hw, &alike, entry + nr, ptep + nr,
				     max - nr))
			break;
		nr++;
	} while (nr < max);
	return nr;
}

static __always_inline unsigned long
hmm_ptes(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	 unsigned long max)
{
	struct hmm_walk *hw = to_hmm_walk(walk);
	unsigned long *entry = hmm_entry(hw, addr);

	/* Without a special bit, the value of such a PTE is not enough. */
	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL) &&
	    walk->vma->vm_flags & VM_MIXEDMAP)
		return 0;
	if (hmm_private_run(ptep, max))
		return 0;
	if (unlikely(hw->page_requests || hmm_stale(hw)))
		return hmm_ptes_each(hw, entry, ptep, max);
	return hmm_ptes_all(hw, entry, ptep, max);
}

static int hmm_present(struct device_walk *walk, struct device_extent *ext)
{
	const unsigned int dirty = DEVICE_EXTENT_WRITE | DEVICE_EXTENT_DIRTY;
	unsigned long result = ext->pfn | HMM_PFN_VALID;

	if ((ext->perm & dirty) == dirty)
		result |= HMM_PFN_WRITE;
	result |= (unsigned long)ext->order << HMM_PFN_ORDER_SHIFT;
	return hmm_report(to_hmm_walk(walk), ext, result, 1);
}

/* Number of faults of the page in this pass. */
static unsigned int hmm_times(const struct hmm_tried *tried, unsigned long addr)
{
	unsigned int times = 0;

	while (times < HMM_FAULT_TRIES && addr < tried->below[times])
		times++;
	return times;
}

/* The result for the first page of an extent of own pages, without WRITE */
static unsigned long hmm_private_pfn(const struct device_extent *ext)
{
	return ext->pfn | HMM_PFN_VALID |
	       (unsigned long)ext->order << HMM_PFN_ORDER_SHIFT;
}

/*
 * Own pages that are still read-only after their fault: migrate_to_ram() left
 * them on the device. Report them without WRITE instead of looping.
 *
 * If the range is stale, the next call has to report them, after it has faulted
 * them again. If each of these faults invalidates the range, the caller would
 * start over forever, so give up after HMM_FAULT_TRIES.
 */
static int hmm_own_stayed(struct hmm_walk *hw, struct device_extent *ext,
			  unsigned long nr)
{
	unsigned long addr = device_extent_end(ext);

	if (!hmm_stale(hw))
		hmm_fill(hmm_entry(hw, addr), nr,
			 hmm_private_pfn(ext) + ext->nr, 1);
	else if (hw->tried.invalidated)
		return hmm_times(&hw->tried, addr) < HMM_FAULT_TRIES ?
		       HMM_STOP_TO_FAULT : HMM_STOP_STUCK;
	ext->nr += nr;
	return 0;
}

/*
 * The walk stopped at own pages that the device wants to write to and that are
 * read-only, or soft-clean with soft-dirty tracking on.
 */
static int hmm_own_stopped(struct hmm_walk *hw, struct device_extent *ext,
			   unsigned long nr)
{
	unsigned long addr = device_extent_end(ext);

	/*
	 * Leave out the pages of other kinds that follow. The pages of a folio
	 * that is mapped by a PMD become writable together.
	 */
	hw->fault.nr = ext->ptep ? min(hw->fault.nr, nr - ext->nr) :
				   nr - ext->nr;
	hw->fault.kind = HMM_FAULT_OWN;
	if (addr >= hw->tried.own)
		return HMM_STOP_TO_FAULT;
	nr = ext->ptep ? min(hw->fault.nr, (hw->tried.own - addr) >> PAGE_SHIFT) :
			 nr - ext->nr;
	return hmm_own_stayed(hw, ext, nr);
}

/* A page of another device. If it is locked, it may be migrating already. */
static int hmm_foreign(struct hmm_walk *hw, struct device_extent *ext)
{
	int ret = hmm_report(hw, ext, 0, 0);
	unsigned long pfn = ext->pfn + ext->nr;

	if (ret == HMM_STOP_TO_FAULT && !device_folio_seems_locked(pfn_folio(pfn)))
		hw->fault.foreign = pfn;
	return ret;
}

static int hmm_private(struct hmm_walk *hw, struct device_extent *ext)
{
	unsigned long result = hmm_private_pfn(ext), nr;
	int ret;

	if (device_extent_pgmap(ext)->owner != hw->range->dev_private_owner)
		return hmm_foreign(hw, ext);
	if (ext->perm & DEVICE_EXTENT_WRITE)
		result |= HMM_PFN_WRITE;
	nr = ext->nr;
	ret = hmm_report(hw, ext, result, 1);
	return ret == HMM_STOP_TO_FAULT ? hmm_own_stopped(hw, ext, nr) : ret;
}

static int hmm_extent(struct device_walk *walk, struct device_extent *ext)
{
	struct hmm_walk *hw = to_hmm_walk(walk);

	switch (ext->kind) {
	case DEVICE_EXTENT_PRESENT:
	case DEVICE_EXTENT_ZERO:
		return hmm_present(walk, ext);
	case DEVICE_EXTENT_PRIVATE:
		return hmm_private(hw, ext);
	case DEVICE_EXTENT_NO_VMA:
	case DEVICE_EXTENT_SPECIAL:
		return hmm_report(hw, ext, HMM_PFN_ERROR, 0);
	default:
		return hmm_report(hw, ext, 0, 0);
	}
}

/*
 * No architecture with HMM supports memory that is writable but not readable.
 * Secret memory and shadow stacks are for the CPU alone. get_user_pages()
 * refuses them, too, except for reading a shadow stack; but its entries look
 * writable.
 */
static bool hmm_skip_vma(struct device_walk *walk)
{
	vm_flags_t flags = walk->vma->vm_flags;

	return flags & (VM_IO | VM_PFNMAP | VM_SHADOW_STACK) ||
	       !(flags & VM_READ) || vma_is_secretmem(walk->vma);
}

static const struct device_walk_ops hmm_walk_ops = {
	.mode = DEVICE_WALK_LOCKLESS,
	.ptes = hmm_ptes,
	.present = hmm_present,
	.extent = hmm_extent,
	.skip_vma = hmm_skip_vma,
};

/* Checked before each fault, as many faults may take long. */
static __always_inline int hmm_may_go_on(void)
{
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* A fault takes microseconds or sleeps, so reschedule every few faults. */
static __always_inline void hmm_resched(unsigned long addr)
{
	if (IS_ALIGNED(addr, SZ_64K))
		cond_resched();
}

/* Report no more results: only fault what the rest of the range needs. */
static void hmm_set_stale(struct hmm_walk *hw)
{
	if (!hmm_stale(hw))
		hw->stale_at = hw->walk.addr;
}

/* If the folio is locked, an extra reference is that of a migration. */
static bool hmm_folio_pinned(struct folio *folio)
{
	return !folio_test_locked(folio) &&
	       folio_ref_count(folio) > folio_expected_ref_count(folio);
}

static bool hmm_own_huge_pinned(struct hmm_walk *hw)
{
	spinlock_t *ptl = pmd_lock(hw->walk.mm, hw->fault.pmdp); /* of the PMD */
	pmd_t pmd = *hw->fault.pmdp;
	bool pinned = is_pmd_device_private_entry(pmd) &&
		      hmm_folio_pinned(pmd_nonpresent_folio(pmd));

	spin_unlock(ptl);
	return pinned;
}

/* Does an extra reference keep the own page at @addr from migrating? */
static bool hmm_own_pinned(struct hmm_walk *hw, unsigned long addr)
{
	bool pinned = false;
	swp_entry_t entry;
	spinlock_t *ptl;
	pte_t *ptep;

	if (is_pmd_device_private_entry(pmdp_get_lockless(hw->fault.pmdp)))
		return hmm_own_huge_pinned(hw);
	ptep = pte_offset_map_lock(hw->walk.mm, hw->fault.pmdp, addr, &ptl);
	if (!ptep)
		return false;
	entry = pte_to_swp_entry(ptep_get(ptep));
	if (is_swap_pte(ptep_get(ptep)) && is_device_private_entry(entry))
		pinned = hmm_folio_pinned(pfn_swap_entry_folio(entry));
	pte_unmap_unlock(ptep, ptl);
	return pinned;
}

/*
 * Write fault on an own page. It migrates the page to system memory, or leaves
 * it on the device.
 *
 * Do not fault a pinned page. The attempt may invalidate the range, and the
 * caller would start over for as long as the page is pinned.
 *
 * Do not wait for the page lock. It may be held by a CPU fault that waits for a
 * lock of the driver.
 */
static int hmm_fault_own(struct hmm_walk *hw, struct vm_area_struct *vma,
			 unsigned long addr)
{
	vm_fault_t fault;

	if (hmm_own_pinned(hw, addr))
		return 0;
	fault = handle_mm_fault(vma, addr, FAULT_FLAG_REMOTE | FAULT_FLAG_WRITE |
				FAULT_FLAG_ALLOW_RETRY |
				FAULT_FLAG_RETRY_NOWAIT, NULL);
	if (fault & VM_FAULT_RETRY)
		return -EBUSY;
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/* If a PMD still maps the pages, all of them have stayed on the device. */
static unsigned long hmm_own_next(struct hmm_walk *hw, unsigned long addr,
				  unsigned long end)
{
	if (is_pmd_device_private_entry(pmdp_get_lockless(hw->fault.pmdp)))
		return pmd_addr_end(addr, end);
	return addr + PAGE_SIZE;
}

/*
 * Make own pages writable in place. Fault those that are shared or that
 * userfaultfd watches. Leave locked ones to the next call.
 */
static int hmm_fault_own_pages(struct hmm_walk *hw, unsigned long *addr,
			       unsigned long end)
{
	struct vm_area_struct *vma = hw->walk.vma;
	int ret;

	for (; *addr < end; *addr = hmm_own_next(hw, *addr, end)) {
		hmm_resched(*addr);
		ret = hmm_may_go_on() ?:
		      device_make_writable(vma, addr, end,
					   hw->range->dev_private_owner);
		if (ret == DEVICE_WRITE_FAULT)
			ret = hmm_fault_own(hw, vma, *addr);
		if (ret == -EBUSY) {
			hw->own_locked++;
			hmm_set_stale(hw);
		} else if (ret) {
			return ret;
		}
	}
	return 0;
}

/* Return -EAGAIN if the fault dropped the mmap lock. */
static __always_inline int hmm_fault_page(struct hmm_walk *hw,
					  struct vm_area_struct *vma,
					  unsigned long addr,
					  unsigned int flags)
{
	vm_fault_t fault;

	if (unlikely(addr == hw->dropped)) {
		hw->dropped = HMM_NOWHERE;
		flags |= FAULT_FLAG_TRIED;
	}
	fault = handle_mm_fault(vma, addr, flags, NULL);
	if (unlikely(fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED))) {
		hw->dropped = addr;
		return -EAGAIN;
	}
	return unlikely(fault & VM_FAULT_ERROR) ? -EFAULT : 0;
}

/* Is this page migrating, or private to the caller's device? */
static bool hmm_pte_moved(struct hmm_walk *hw, pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	return is_migration_entry(entry) ||
	       (is_device_private_entry(entry) &&
		page_pgmap(pfn_swap_entry_to_page(entry))->owner ==
		hw->range->dev_private_owner);
}

/*
 * Has the page moved since the walk? Read its entry again, under RCU as the
 * walk does. If there is no PTE table any more, leave that to the fault.
 */
static bool hmm_page_moved(struct hmm_walk *hw, unsigned long addr)
{
	pte_t *ptep, pte;
	bool moved;
	pmd_t pmd;

	rcu_read_lock();
	pmd = pmdp_get_lockless(hw->fault.pmdp);
	if (unlikely(!pmd_present(pmd) || pmd_leaf(pmd))) {
		rcu_read_unlock();
		return false;
	}
	ptep = __pte_map(&pmd, addr);
	pte = device_pte_get(ptep);
	moved = unlikely(is_swap_pte(pte)) && hmm_pte_moved(hw, pte);
	pte_unmap(ptep);
	return moved;
}

/*
 * Called before every fault of a batch but the first. A page starts to migrate
 * under an invalidation, so without one there is no need to read its entry.
 * @seq is mmu_intervals_seq() at the previous call.
 */
static __always_inline bool hmm_may_have_moved(struct hmm_walk *hw,
					       unsigned long *seq)
{
	unsigned long last = *seq;

	if (!IS_ENABLED(CONFIG_DEVICE_PRIVATE))
		return false;
	*seq = mmu_intervals_seq(hw->walk.mm);
	return *seq != last || (last & 1);
}

static int hmm_fault_other_pages(struct hmm_walk *hw, unsigned long *addr,
				 unsigned long end)
{
	struct vm_area_struct *vma = hw->walk.vma;
	unsigned int flags = hw->fault_flags;
	unsigned long seq = 1, next = *addr;
	int ret;

	if (hw->fault.kind == HMM_FAULT_WRITE)
		flags |= FAULT_FLAG_WRITE;
	do {
		hmm_resched(next);
		ret = hmm_may_go_on() ?: hmm_fault_page(hw, vma, next, flags);
		if (ret)
			break;
		next += PAGE_SIZE;
	} while (next < end && !(hmm_may_have_moved(hw, &seq) &&
				 hmm_page_moved(hw, next)));
	*addr = next;
	return ret;
}

/* The batch ended early: the pages from @addr on were not faulted. */
static void hmm_untried(struct hmm_tried *tried, unsigned long addr)
{
	unsigned int i;

	for (i = 0; i < HMM_FAULT_TRIES; i++)
		tried->below[i] = min(tried->below[i], addr);
	tried->own = min(tried->own, addr);
}

/*
 * Fault the pages at which the walk stopped. If that fails behind the first
 * page, return 0 nevertheless: the walk first reports the pages in front of the
 * one that failed, and then stops there.
 */
static int hmm_fault_pages(struct hmm_walk *hw)
{
	unsigned long addr = hw->walk.addr;
	unsigned long end = addr + (hw->fault.nr << PAGE_SHIFT);
	int ret;

	if (hw->fault.kind != HMM_FAULT_READ &&
	    !(hw->walk.vma->vm_flags & VM_WRITE))
		return -EPERM;
	if (hw->fault.kind == HMM_FAULT_OWN)
		ret = hmm_fault_own_pages(hw, &addr, end);
	else
		ret = hmm_fault_other_pages(hw, &addr, end);
	if (addr == hw->walk.addr || addr >= end || (ret && ret != -EFAULT))
		return ret;
	hmm_untried(&hw->tried, addr);
	return 0;
}

/* Count the batches in a row that start at the same page of another device. */
static void hmm_try_foreign(struct hmm_tried *tried, unsigned long foreign)
{
	tried->stays = foreign == tried->foreign ? tried->stays + 1 : 0;
	tried->foreign = foreign;
}

/*
 * Record the faults of the next batch. Limit the batch to pages that have had
 * the same number of faults. Return false if that number is at its limit.
 */
static bool hmm_try(struct hmm_walk *hw)
{
	struct hmm_tried *tried = &hw->tried;
	unsigned long addr = hw->walk.addr;
	unsigned int times = hmm_times(tried, addr);

	if (times)
		hw->fault.nr = min(hw->fault.nr,
				   (tried->below[times - 1] - addr) >>
				   PAGE_SHIFT);
	hmm_try_foreign(tried, hw->fault.foreign);
	if (times == HMM_FAULT_TRIES)
		return false;
	tried->below[times] = addr + (hw->fault.nr << PAGE_SHIFT);
	if (hw->fault.kind == HMM_FAULT_OWN)
		tried->own = tried->below[times];
	return true;
}

/*
 * No fault has helped. Leave the pages to the next call. But if the first page
 * is private to another device and stayed in every one of these faults, its
 * driver does not migrate it, and the next call would not help either.
 */
static int hmm_give_up(struct hmm_walk *hw)
{
	if (hw->fault.foreign && hw->tried.stays >= HMM_FAULT_TRIES - 1)
		return HMM_STOP_STUCK;
	hmm_set_stale(hw);
	hw->walk.addr += hw->fault.nr << PAGE_SHIFT;
	return 0;
}

static int hmm_fault_batch(struct hmm_walk *hw)
{
	struct mmu_interval_notifier *notifier = hw->range->notifier;
	unsigned long seq = READ_ONCE(notifier->invalidate_seq);
	int ret;

	if (!hmm_try(hw))
		return hmm_give_up(hw);
	ret = hmm_fault_pages(hw);
	hw->tried.invalidated = mmu_interval_check_retry(notifier, seq);
	/* The fault may have waited for user space: it does not count. */
	if (ret == -EAGAIN)
		hw->tried = (struct hmm_tried) {};
	return ret;
}

/*
 * If the range is stale, the next call will find an error again and report the
 * pages in front of it. Return the error of a stuck page at once: its faults
 * may invalidate the range, in every call.
 */
static int hmm_outcome(const struct hmm_walk *hw, int ret)
{
	switch (ret) {
	case HMM_STOP_STUCK:
		return -EFAULT;
	case 0:
	case -EFAULT:
	case -EPERM:
		return hmm_stale(hw) ? -EBUSY : ret;
	default:
		return ret;
	}
}

/*
 * Walk and fault in turns, from @hw->walk.addr to the end of the range. Return
 * -EBUSY if the sequence number is stale, and -EAGAIN if a fault dropped the mmap
 * lock.
 *
 * A fault that breaks COW invalidates the range. To stop there would make the
 * caller start over for each such page, so fault all other pages first.
 */
static int hmm_walk_and_fault(struct hmm_walk *hw)
{
	struct hmm_range *range = hw->range;
	bool may_fault = hw->page_requests || hw->required;
	int ret;

	do {
		if (mmu_interval_check_retry(range->notifier,
					     range->notifier_seq))
			hmm_set_stale(hw);
		if (hmm_stale(hw) && !may_fault)
			return -EBUSY;
		ret = device_walk_range(&hw->walk, hw->walk.addr, range->end,
					&hmm_walk_ops);
		if (ret != HMM_STOP_TO_FAULT)
			break;
		ret = hmm_fault_batch(hw);
	} while (!ret);
	return hmm_outcome(hw, ret);
}

static bool hmm_range_sane(const struct hmm_range *range)
{
	const struct mmu_interval_notifier *sub = range->notifier;

	if (!sub || !range->hmm_pfns)
		return false;
	if (range->start >= range->end ||
	    !PAGE_ALIGNED(range->start | range->end))
		return false;
	return range->start >= sub->interval_tree.start &&
	       range->end - 1 <= sub->interval_tree.last;
}

static void hmm_walk_init(struct hmm_walk *hw, struct hmm_range *range)
{
	*hw = (struct hmm_walk) {
		.walk.mm = range->notifier->mm,
		.walk.addr = range->start,
		.range = range,
		.required = hmm_required(range->default_flags),
		.page_requests = range->pfn_flags_mask & HMM_PFN_REQ,
		.stale_at = HMM_NOWHERE,
		.fault_flags = FAULT_FLAG_REMOTE,
		.dropped = HMM_NOWHERE,
	};
}

/**
 * hmm_range_fault() - read page tables of a process, with faults on request
 * @range: range, requests and sequence number; hmm_pfns[] receives the results
 *
 * Reads the mappings of [start, end) into hmm_pfns[] of @range, one entry a
 * base page, and faults pages whose entry does not satisfy the request. It
 * never faults a page without a request, and breaks COW for write requests
 * only.
 *
 * A fault that breaks COW invalidates the range. The call then faults what the
 * rest of the range needs and returns -EBUSY at its end, so that the second
 * call serves a range of any content, unless others invalidate it.
 *
 * A device-private page of the caller that the device wants to write to stays
 * on the device if no other process maps it: a read-only entry becomes writable
 * and soft-dirty in place. Otherwise, or if userfaultfd watches it, it is
 * faulted. If the driver's migrate_to_ram() leaves it on the device, or if an
 * extra reference prevents its migration, it is reported without HMM_PFN_WRITE,
 * which drivers have to check. If migrate_to_ram() fails, so does the call.
 *
 * The bits HMM_PFN_INOUT_FLAGS (58 to 60) of an entry belong to the driver and
 * keep their value. Drivers that predate these bits may test an entry for 0 to
 * see that nothing is mapped. That works if they clear @hmm_pfns first;
 * otherwise they have to test HMM_PFN_VALID.
 *
 * No page references are taken. The results may be used under the driver's lock
 * after mmu_interval_read_retry() has returned false for @range->notifier_seq.
 *
 * Faults that have to drop the mmap lock, as for userfaultfd, fail here; see
 * hmm_range_fault_unlocked_timeout().
 *
 * Context: Process context. The mmap lock of the notifier's mm is held, for
 * reading at least, during the whole call. May sleep. A request to fault may
 * call dev_pagemap_ops::migrate_to_ram(): of other drivers for their pages, and
 * of the calling driver for own pages that are read-only. So the caller holds
 * no lock that these take, and no page lock. The call waits for the page locks
 * of other drivers' pages, but not for those of own pages, which may be held by
 * a CPU fault that waits for the driver.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - the range was invalidated, possibly by a fault of this call, or an
 *   own page that has to be faulted is locked; get a new sequence number and
 *   call again
 * * -EFAULT - a requested page cannot be made valid, or another device's driver
 *   does not migrate it
 * * -EPERM - write access was requested in a VMA that does not allow it
 * * -EINTR - a fatal signal is pending and a page has to be faulted
 * * -EINVAL - the range is empty, not page aligned or not covered by its
 *   notifier, or it has no notifier or no @hmm_pfns
 *
 * After -EFAULT and -EPERM, the entries in front of the one that stopped the
 * call are results if the sequence number is still valid. If it is not, and
 * after any other error, no entry is a result. The entry that stopped the call
 * and those behind it hold their requests in any case.
 */
int hmm_range_fault(struct hmm_range *range)
{
	struct hmm_walk hw;

	if (!hmm_range_sane(range))
		return -EINVAL;
	hmm_walk_init(&hw, range);
	mmap_assert_locked(hw.walk.mm);
	return hmm_walk_and_fault(&hw);
}
EXPORT_SYMBOL(hmm_range_fault);

/* Bits that hmm_attempt::saved has for each page. */
enum hmm_saved_bit {
	HMM_SAVED_FAULT,
	HMM_SAVED_WRITE,
	HMM_SAVED_BITS,
};

/**
 * struct hmm_attempt - state of hmm_range_fault_unlocked_timeout()
 * @hw: pass in progress
 * @timeout: time limit of the caller in jiffies, or 0
 * @deadline: when to stop starting over, in jiffies. Only valid if @expires
 * @expires: a pass was invalidated, and no fault has slept since then
 * @saved: requests of single pages, HMM_SAVED_BITS each; NULL if there are none
 */
struct hmm_attempt {
	struct hmm_walk hw;
	unsigned long timeout;
	unsigned long deadline;
	bool expires;
	unsigned long *saved;
};

static inline unsigned long hmm_saved(unsigned long page,
				      enum hmm_saved_bit bit)
{
	return page * HMM_SAVED_BITS + bit;
}

static unsigned long hmm_range_pages(const struct hmm_range *range)
{
	return (range->end - range->start) >> PAGE_SHIFT;
}

/*
 * Results overwrite requests: VALID and REQ_FAULT are the same bit, and so are
 * WRITE and REQ_WRITE. Save the requests of single pages for the next pass.
 */
static int hmm_save_requests(struct hmm_attempt *at)
{
	struct hmm_range *range = at->hw.range;
	unsigned long i, nr = hmm_range_pages(range);

	if (!at->hw.page_requests)
		return 0;
	at->saved = kvcalloc(BITS_TO_LONGS(nr * HMM_SAVED_BITS), sizeof(long),
			     GFP_KERNEL);
	if (!at->saved)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		if (range->hmm_pfns[i] & HMM_PFN_REQ_FAULT)
			__set_bit(hmm_saved(i, HMM_SAVED_FAULT), at->saved);
		if (range->hmm_pfns[i] & HMM_PFN_REQ_WRITE)
			__set_bit(hmm_saved(i, HMM_SAVED_WRITE), at->saved);
	}
	return 0;
}

/*
 * Clear all results of a pass that failed, even without saved requests: the
 * next pass may stop early with an error, and does not write the entries behind
 * that. Entries that the pass has not written still hold their requests.
 */
static void hmm_restore_requests(struct hmm_attempt *at)
{
	const struct hmm_walk *hw = &at->hw;
	struct hmm_range *range = hw->range;
	unsigned long end = hmm_stale(hw) ? hw->stale_at : hw->walk.addr;
	unsigned long i, nr = (end - range->start) >> PAGE_SHIFT;

	for (i = 0; i < nr; i++) {
		range->hmm_pfns[i] &= HMM_PFN_INOUT_FLAGS;
		if (!at->saved)
			continue;
		if (test_bit(hmm_saved(i, HMM_SAVED_FAULT), at->saved))
			range->hmm_pfns[i] |= HMM_PFN_REQ_FAULT;
		if (test_bit(hmm_saved(i, HMM_SAVED_WRITE), at->saved))
			range->hmm_pfns[i] |= HMM_PFN_REQ_WRITE;
	}
}

/*
 * One pass over the range. If a fault drops the mmap lock, continue where it
 * was: results stay valid as long as the sequence number does. Such a fault
 * waits for user space or for storage, which the time limit does not count.
 */
static int hmm_attempt_pass(struct hmm_attempt *at)
{
	struct hmm_walk *hw = &at->hw;
	int ret;

	do {
		if (mmap_read_lock_killable(hw->walk.mm))
			return -EINTR;
		ret = hmm_walk_and_fault(hw);
		if (ret != -EAGAIN) {
			mmap_read_unlock(hw->walk.mm);
			return ret;
		}
		at->expires = false;
		ret = hmm_may_go_on();
	} while (!ret);
	return ret;
}

static void hmm_attempt_begin(struct hmm_attempt *at)
{
	struct hmm_walk *hw = &at->hw;

	/* No invalidation ends when others unlock a page, so just wait a bit. */
	if (hw->own_locked)
		schedule_timeout_killable(1);
	hw->own_locked = 0;
	hw->stale_at = HMM_NOWHERE;
	hw->dropped = HMM_NOWHERE;
	hw->tried = (struct hmm_tried) {};
	hw->walk.addr = hw->range->start;
	hw->range->notifier_seq = mmu_interval_read_begin(hw->range->notifier);
}

/*
 * A pass was invalidated. May the next one start? The first invalidation starts
 * the clock, so that the time which the faults have taken before does not count.
 */
static int hmm_attempt_may_restart(struct hmm_attempt *at)
{
	int ret = hmm_may_go_on();

	if (ret || !at->timeout)
		return ret;
	if (!at->expires) {
		at->expires = true;
		at->deadline = jiffies + at->timeout;
	}
	return time_after_eq(jiffies, at->deadline) ? -EBUSY : 0;
}

static int hmm_attempt(struct hmm_attempt *at)
{
	int ret;

	do {
		hmm_attempt_begin(at);
		ret = hmm_attempt_pass(at);
		if (!hmm_stale(&at->hw) && ret != -EINTR)
			return ret;
		hmm_restore_requests(at);
		if (ret == -EBUSY)
			ret = hmm_attempt_may_restart(at);
	} while (!ret);
	return ret;
}

/**
 * hmm_range_fault_unlocked_timeout() - mirror a range, waiting as needed
 * @range: range and requests; hmm_pfns[] receives the results and
 *	@notifier_seq the sequence number at which they were read
 * @timeout: time limit for starting over, in jiffies; 0 for no limit
 *
 * As hmm_range_fault(), but takes the mmap lock, allows faults to drop it (for
 * userfaultfd and slow storage), and starts over with a new sequence number
 * whenever the range is invalidated. The caller only has to check
 * mmu_interval_read_retry().
 *
 * The time limit bounds how long the call starts over for others that invalidate
 * the range. The clock starts when a pass turns out to be invalid. It stops when
 * a fault drops the mmap lock: that fault waits for user space or for storage,
 * which is progress. So a range that nobody invalidates is served, whatever time
 * its faults take.
 *
 * If the range is invalidated during a pass, the pass faults everything that is
 * needed before the next one starts. So its own faults cause one new start.
 *
 * Context: Process context. The caller holds neither the mmap lock nor any lock
 * that dev_pagemap_ops::migrate_to_ram() takes, of its own or of other drivers:
 * see hmm_range_fault(). The call does not wait for locked own pages with the
 * mmap lock held, but tries the range again a little later. The caller holds a
 * reference to the mm_users of the notifier's mm (mmget()). May sleep.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - others have invalidated the range for as long as the time limit; the
 *   entries hold their requests
 * * -EINTR - a fatal signal is pending; the entries hold their requests
 * * -ENOMEM - no memory to save the requests of single pages
 * * -EFAULT, -EPERM, -EINVAL - as for hmm_range_fault(). All entries hold their
 *   requests if the faults of the failing page invalidate the range
 */
int hmm_range_fault_unlocked_timeout(struct hmm_range *range,
				     unsigned long timeout)
{
	struct hmm_attempt at = {};
	int ret;

	if (!hmm_range_sane(range))
		return -EINVAL;
	hmm_walk_init(&at.hw, range);
	at.timeout = min(timeout, MAX_JIFFY_OFFSET);
	at.hw.fault_flags |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE;
	ret = hmm_save_requests(&at);
	if (ret)
		return ret;
	ret = hmm_attempt(&at);
	kvfree(at.saved);
	return ret;
}
EXPORT_SYMBOL(hmm_range_fault_unlocked_timeout);

/*
 * Pages side by side may be of a device and of the system. A pagemap begins and
 * ends with a subsection.
 */
static bool hmm_same_memory(unsigned long pfn)
{
#ifdef CONFIG_ZONE_DEVICE
	if (IS_ALIGNED(pfn, PAGES_PER_SUBSECTION))
		return zone_device_pages_have_same_pgmap(pfn_to_page(pfn - 1),
							 pfn_to_page(pfn));
#endif
	return true;
}

/* Is @entry the result of the page behind those of @first, @nr pages further? */
static bool hmm_continues(unsigned long first, unsigned long entry,
			  unsigned long nr)
{
	if (first & HMM_PFN_VALID)
		first += nr;
	if ((first ^ entry) & ~HMM_PFN_ORDER_MASK)
		return false;
	return !(entry & HMM_PFN_VALID) ||
	       hmm_same_memory(entry & ~HMM_PFN_FLAGS);
}

/**
 * hmm_range_extent() - count the pages that a device may map as one
 * @range: range with results
 * @index: first page of the extent, an index of hmm_pfns[]
 *
 * The pages of an extent are consecutive in memory, belong to the same device
 * or to none, and have the same flags: results and the driver's own bits. It
 * does not matter how the CPU maps them. So a large folio is one extent even if
 * it is mapped by PTEs, and so are folios that are side by side. Pages without
 * HMM_PFN_VALID form an extent if their results are equal.
 *
 * Context: The driver's lock, with a valid sequence number. Does not sleep.
 * Return: The number of pages, at least 1 and up to the end of the range; 0 if
 * @index is not in the range, or if the range is empty.
 */
unsigned long hmm_range_extent(const struct hmm_range *range,
			       unsigned long index)
{
	unsigned long nr, max = hmm_range_pages(range);
	const unsigned long *entry;

	if (range->end <= range->start || index >= max)
		return 0;
	entry = range->hmm_pfns + index;
	for (nr = 1; nr < max - index; nr++)
		if (!hmm_continues(entry[0], entry[nr], nr))
			break;
	return nr;
}
EXPORT_SYMBOL(hmm_range_extent);

/**
 * hmm_range_extent_order() - get the largest block at the start of an extent
 * @range: range with results
 * @index: first page, an index of hmm_pfns[]
 * @nr: pages of the extent from @index on, at least 1
 *
 * For page tables with entries of several sizes: a block is naturally aligned,
 * both its address and its memory. The next block starts behind it, and its
 * extent is shorter by the block.
 *
 * Context: Any.
 * Return: The order of the block in base pages.
 */
unsigned int hmm_range_extent_order(const struct hmm_range *range,
				    unsigned long index, unsigned long nr)
{
	unsigned long entry = range->hmm_pfns[index];
	unsigned long align = (range->start >> PAGE_SHIFT) + index;

	if (entry & HMM_PFN_VALID)
		align |= entry & ~HMM_PFN_FLAGS;
	return __ffs(align | rounddown_pow_of_two(nr));
}
EXPORT_SYMBOL(hmm_range_extent_order);
