// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mirroring of a process's page tables: hmm_range_fault().
 *
 * What this file owns
 *
 *   The translation of extents (device_walk.h) into the entries of
 *   hmm_range::hmm_pfns[], and the decision to fault. It keeps no state
 *   between calls and takes no reference to any page: that a result is still
 *   good is told by the sequence of the range's notifier alone.
 *
 * Requests and results
 *
 *   The request of page i is (hmm_pfns[i] & pfn_flags_mask) | default_flags.
 *   Where the mask lets no request through, all pages of the range have the
 *   same request and an extent is decided on as a whole; else page by page.
 *
 *   What is found         no fault asked       fault asked
 *   --------------------  -------------------  ----------------------------
 *   present               VALID (WRITE)        same; see below for WRITE
 *   zero page             VALID                same, or a write fault
 *   own device-private    VALID (WRITE)        same, made writable in place, or
 *                                              a write fault, after which it
 *                                              may still lack WRITE
 *   hole, swap, marker,   0                    fault
 *   PROT_NONE, exclusive,
 *   migration, others'
 *   device-private
 *   poison                0                    fault, which fails: -EFAULT
 *   no struct page,       ERROR                -EFAULT
 *   no VMA, VMA of IO or
 *   without VM_READ
 *
 *   WRITE is reported, and a request to write is met, by a writable *and
 *   dirty* entry only. A device that writes through the mirror cannot mark
 *   the PTE, and a page that is clean when reclaim meets it is dropped. Once
 *   the entry is dirty, whoever cleans it announces that by an invalidation.
 *
 *   Results are written in address order, and never at or behind the address
 *   where a call stops: the entries there are still requests.
 *
 * Mixed memory
 *
 *   Real memory changes its kind at every page: zero pages, holes, pages that
 *   fork() made read-only. So short runs are the ordinary case. Where all pages
 *   have one request, hmm_ptes_all() tells from the value of a PTE alone what
 *   to report, without an extent, and remembers two entries, since kinds that
 *   alternate mostly are two.
 *
 *   A write fault on such memory breaks COW, which invalidates the range for
 *   which it is done. From then on the sequence is out of date and nothing more
 *   is reported, but the pass goes on to fault what the rest of the range
 *   needs, and only then returns -EBUSY. The next call finds all requests met.
 *   So two calls serve any range that nobody else interferes with.
 *
 *   Faults are bounded. A pass only moves forward, and a page whose faults do
 *   not help is faulted HMM_FAULT_TRIES times; a fatal signal and the deadline
 *   end it before each fault. An invalidation from outside therefore costs no
 *   more than one pass whose results are dropped. To fault on is no waste then:
 *   the next call needs the same pages.
 *
 *   Pages that lack the same are faulted in a batch. What the walk has seen of
 *   them may be out of date by then, and a migration entry is waited for, for
 *   as long as it takes. So such an entry is a batch of its own, and a batch
 *   ends at a page that has begun to move, or has become an own device-private
 *   one: a fault would take it off the device. The walk looks at it again.
 *
 * Device-private pages that cannot be made writable
 *
 *   The driver may leave an own page on the device when it is faulted. Then it
 *   is reported without WRITE. It is not even faulted if somebody holds a
 *   reference, which would keep it from migrating: the attempt may invalidate
 *   the range, and the caller would start again and again. If the driver
 *   invalidates in every fault and never moves the page, and if a page of
 *   another device stays there whatever is tried, the answer is -EFAULT, even
 *   if the range is out of date. None of the entries is a result then.
 *
 * Locks
 *
 *   mmap lock, for reading: held by the caller of hmm_range_fault(), taken and
 *   dropped here by hmm_range_fault_unlocked_timeout(). Faults are done under
 *   it with nothing else held. The walk is lockless; that is sound since
 *   whoever changes an entry invalidates, and the reader of the results asks
 *   mmu_interval_read_retry() under the lock that the invalidation takes.
 *
 *   A fault on a device-private page calls dev_pagemap_ops::migrate_to_ram(),
 *   that of another driver or of the caller's own one, so the caller must not
 *   hold a lock that these take. It waits for the page lock of another
 *   driver's page, but not for that of a page that was seen to be an own one.
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

/* What an operation of the walk tells hmm_walk_and_fault(). */
#define HMM_STOP_TO_FAULT	1
#define HMM_STOP_STUCK		2

/*
 * How often a page is faulted in one call. A migration that ends, a hinting
 * entry and a COW are three faults; a page that still is not there after
 * another one is left to the next call.
 */
#define HMM_FAULT_TRIES		4

/**
 * struct hmm_stop - the pages that a walk stopped at, to be faulted
 * @nr: number of pages from hmm_walk::walk.addr on
 * @pmdp: entry of the table that they are in, if there is one of PTEs. It stays
 *	as long as the mmap lock is held; what it holds may change.
 * @foreign: pfn of the first page if that is another device's; else 0
 * @write: they will be written to
 * @own: they are device-private pages of the caller
 */
struct hmm_stop {
	unsigned long nr;
	pmd_t *pmdp;
	unsigned long foreign;
	bool write;
	bool own;
};

/**
 * struct hmm_tried - the pages that were faulted before
 * @below: pages below @below[n] were faulted more than n times. A walk stops at
 *	the first page that lacks something, and a stop covers pages from there
 *	on. So those in front have never had fewer tries, and none of these
 *	addresses is above the one before it.
 * @own: up to here, they were faulted as device-private pages of the caller
 * @foreign: hmm_stop::foreign of the last stop
 * @stays: how many stops before that had the same
 * @invalidated: the range was invalidated during the last faults
 */
struct hmm_tried {
	unsigned long below[HMM_FAULT_TRIES];
	unsigned long own;
	unsigned long foreign;
	unsigned int stays;
	bool invalidated;
};

/* Not an address of a page. */
#define HMM_NOWHERE	1UL

/**
 * struct hmm_walk - one pass over a range
 * @walk: where the walk stands
 * @range: the caller's range
 * @required: what default_flags require of the flags of every result
 * @per_page: requests are taken from hmm_pfns[] too
 * @busy: the pass ends with -EBUSY: it goes on to fault, not to report
 * @reported: address up to which results were written when @busy became true
 * @stop: what the walk stopped for
 * @tried: what was faulted before
 * @own_locked: a page of the caller's own was locked by somebody else
 * @fault_flags: flags of the faults, besides those for single ones
 * @dropped: page whose last fault dropped the mmap lock, or HMM_NOWHERE
 * @unlocked: a fault dropped the mmap lock
 * @bounded: there is a deadline
 * @deadline: for faults, in jiffies
 */
struct hmm_walk {
	struct device_walk walk;
	struct hmm_range *range;
	unsigned long required;
	bool per_page;
	bool busy;
	unsigned long reported;
	struct hmm_stop stop;
	struct hmm_tried tried;
	bool own_locked;
	unsigned int fault_flags;
	unsigned long dropped;
	bool unlocked;
	bool bounded;
	unsigned long deadline;
};

static inline struct hmm_walk *to_hmm_walk(struct device_walk *walk)
{
	return container_of(walk, struct hmm_walk, walk);
}

/* REQ_WRITE counts only beside REQ_FAULT. */
static inline unsigned long hmm_required(unsigned long request)
{
	return request & HMM_PFN_REQ_FAULT ? request & HMM_PFN_REQ : 0;
}

static inline unsigned long *hmm_entry(struct hmm_walk *hw, unsigned long addr)
{
	struct hmm_range *range = hw->range;

	return range->hmm_pfns + ((addr - range->start) >> PAGE_SHIFT);
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
 * Entries with a page count on from @result; the others are all alike. Four at
 * a time, which a compiler that optimizes for size does not do.
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

/* Nothing that a device can use, before a fault: a hole, a hint, swap ... */
static __always_inline bool hmm_pte_nothing(pte_t pte)
{
	if (pte_present(pte))
		return pte_protnone(pte);
	return !is_device_private_entry(pte_to_swp_entry(pte));
}

/*
 * The result for a PTE, if its value alone tells. It does not for a page of a
 * device, or for a mapping without a struct page.
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
	if (hmm_pte_nothing(pte))
		return true;
	*result = pte_pfn(pte) | HMM_PFN_VALID;
	return pte_present(pte) && pte_special(pte) &&
	       is_zero_pfn(pte_pfn(pte));
}

/* Device-private pages that follow each other are cheaper as an extent. */
static __always_inline bool hmm_private_run(pte_t *ptep, unsigned long max)
{
	pte_t pte = device_pte_get(ptep);

	return !pte_present(pte) && max > 1 &&
	       is_device_private_entry(pte_to_swp_entry(pte)) &&
	       pte_same(device_pte_get(ptep + 1), pte_next_swp_offset(pte));
}

/* As hmm_pte_result(), for a device-private page that stands by itself. */
static bool hmm_private_result(struct hmm_walk *hw, pte_t *ptep, pte_t pte,
			       unsigned long max, unsigned long *result)
{
	unsigned long pfn;

	if (pte_present(pte) || hmm_private_run(ptep, max))
		return false;
	pfn = swp_offset_pfn(pte_to_swp_entry(pte));
	*result = 0;
	if (pfn_to_page(pfn)->pgmap->owner != hw->range->dev_private_owner)
		return true;
	*result = pfn | HMM_PFN_VALID;
	if (device_pte_private_write(hw->walk.vma, pte))
		*result |= HMM_PFN_WRITE;
	return true;
}

/* The result for an entry, if that is known without an extent and is enough. */
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

static __always_inline bool hmm_lacks(struct hmm_walk *hw, unsigned long entry,
				      unsigned long result, bool write)
{
	unsigned long missing = hw->required;

	if (hw->per_page)
		missing = hmm_page_required(hw, entry);
	missing &= ~result;
	return missing && !!(missing & HMM_PFN_REQ_WRITE) == write;
}

static bool hmm_pte_migrates(pte_t pte)
{
	return is_swap_pte(pte) && is_migration_entry(pte_to_swp_entry(pte));
}

/*
 * How many pages from page @met of the extent on need the same fault. Pages of
 * other kinds that follow in the same table count too: one stop for them all.
 */
static unsigned long hmm_lacking(struct hmm_walk *hw, struct device_extent *ext,
				 unsigned long met, unsigned long result,
				 bool write)
{
	unsigned long *entry = hmm_entry(hw, ext->addr);
	unsigned long nr, end, max;

	for (nr = met + 1; nr < ext->nr; nr++)
		if (!hmm_lacks(hw, entry[nr], result, write))
			return nr - met;
	end = pmd_addr_end(ext->addr, hw->walk.end);
	max = (end - ext->addr) >> PAGE_SHIFT;
	for (; nr < max; nr++) {
		pte_t pte = device_pte_get(ext->ptep + nr);

		if (!hmm_pte_result(&hw->walk, pte, &result) ||
		    !hmm_lacks(hw, entry[nr], result, write) ||
		    hmm_pte_migrates(pte))
			break;
	}
	return nr - met;
}

/*
 * Page @met of the extent lacks what is asked for it. A fault may bring in a
 * huge page where there is no table of PTEs yet, so look again after one.
 */
static int hmm_stop(struct hmm_walk *hw, struct device_extent *ext,
		    unsigned long met, unsigned long result)
{
	unsigned long entry = hmm_entry(hw, ext->addr)[met];
	unsigned long missing = hmm_page_required(hw, entry) & ~result;
	bool write = missing & HMM_PFN_REQ_WRITE;

	hw->stop = (struct hmm_stop) {
		.nr = 1,
		.pmdp = ext->pmdp,
		.write = write,
	};
	if (ext->ptep && ext->kind != DEVICE_EXTENT_MIGRATION)
		hw->stop.nr = hmm_lacking(hw, ext, met, result, write);
	ext->nr = met;
	if (ext->kind == DEVICE_EXTENT_NO_VMA ||
	    ext->kind == DEVICE_EXTENT_SPECIAL)
		return -EFAULT;
	return HMM_STOP_TO_FAULT;
}

/* How many of @nr pages from @entry on are served by @result. */
static unsigned long hmm_met(struct hmm_walk *hw, const unsigned long *entry,
			     unsigned long nr, unsigned long result)
{
	unsigned long met = 0;

	if (likely(!hw->per_page))
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

	if (likely(!hw->busy))
		hmm_fill(entry, met, result, step);
	return likely(met == ext->nr) ? 0 : hmm_stop(hw, ext, met, result);
}

/* Entries whose requests differ, or that are looked at only to be faulted. */
static unsigned long hmm_ptes_each(struct hmm_walk *hw, unsigned long *entry,
				   pte_t *ptep, unsigned long max)
{
	unsigned long nr, result;

	for (nr = 0; nr < max; nr++) {
		pte_t pte = device_pte_get(ptep + nr);

		if (!hmm_pte_serves(hw, ptep + nr, pte, max - nr,
				    hmm_page_required(hw, entry[nr]), &result))
			break;
		if (!hw->busy)
			hmm_fill_one(entry + nr, result);
	}
	return nr;
}

/**
 * struct hmm_alike - two entries that were seen before, and their results
 * @template: of a present one, for those that differ from it in the pfn only
 * @flags: of their results
 * @other: for those that are the same: nothing, or the zero page
 * @result: of those
 */
struct hmm_alike {
	struct pte_template template;
	unsigned long flags;
	pte_t other;
	unsigned long result;
};

/*
 * To begin with, a page that serves every request, and a hole if nothing is
 * requested. What does not serve the request must not be found here.
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
 * Report an entry unlike both, and remember it in the place of one of them.
 *
 * Return: whether it serves the request, as far as that is known here.
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

/* Entries that differ in what is not there: swapped out, or hinted for NUMA. */
static __always_inline unsigned long
hmm_nothing_run(unsigned long *entry, pte_t *ptep, unsigned long nr,
		unsigned long max)
{
	for (; nr < max && hmm_pte_nothing(device_pte_get(ptep + nr)); nr++)
		hmm_fill_one(entry + nr, 0);
	return nr;
}

/*
 * The hot path: one request for all, which each of these entries meets. Most
 * are like one of the two before, in whatever order they come. Not inlined into
 * the walk, it has the registers for itself.
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
			nr = hmm_nothing_run(entry, ptep, nr, max);
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

	/* Without a special bit, what a PTE of these is takes a closer look. */
	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL) &&
	    walk->vma->vm_flags & VM_MIXEDMAP)
		return 0;
	if (hmm_private_run(ptep, max))
		return 0;
	if (unlikely(hw->per_page || hw->busy))
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

/* How often the page was faulted so far. */
static unsigned int hmm_times(const struct hmm_tried *tried, unsigned long addr)
{
	unsigned int times = 0;

	while (times < HMM_FAULT_TRIES && addr < tried->below[times])
		times++;
	return times;
}

/*
 * Own pages that are still read-only after their fault, since the driver left
 * them on the device. Report them without WRITE, rather than fault for ever.
 *
 * If the range is out of date, that has to wait for the next call, where they
 * are faulted again. A driver that invalidates the range in each such fault
 * and never moves the page would have the caller start again without end.
 */
static int hmm_own_stayed(struct hmm_walk *hw, struct device_extent *ext,
			  unsigned long nr)
{
	unsigned long addr = device_extent_end(ext);

	if (!hw->busy)
		hmm_fill(hmm_entry(hw, addr), nr,
			 (ext->pfn + ext->nr) | HMM_PFN_VALID, 1);
	else if (hw->tried.invalidated)
		return hmm_times(&hw->tried, addr) < HMM_FAULT_TRIES ?
		       HMM_STOP_TO_FAULT : HMM_STOP_STUCK;
	ext->nr += nr;
	return 0;
}

/*
 * The report of the caller's own pages stopped, since they will be written to
 * and are read-only, or soft-clean where that is watched.
 */
static int hmm_own_stopped(struct hmm_walk *hw, struct device_extent *ext,
			   unsigned long nr)
{
	unsigned long addr = device_extent_end(ext);

	/* Not the pages of other kinds that follow. */
	hw->stop.nr = min(hw->stop.nr, nr - ext->nr);
	hw->stop.own = true;
	if (addr >= hw->tried.own)
		return HMM_STOP_TO_FAULT;
	return hmm_own_stayed(hw, ext, min(hw->stop.nr, (hw->tried.own - addr) >>
							PAGE_SHIFT));
}

/* Another device's page. If it is locked, it may be on its way already. */
static int hmm_foreign(struct hmm_walk *hw, struct device_extent *ext)
{
	int ret = hmm_report(hw, ext, 0, 0);
	unsigned long pfn = ext->pfn + ext->nr;

	if (ret == HMM_STOP_TO_FAULT && !folio_test_locked(pfn_folio(pfn)))
		hw->stop.foreign = pfn;
	return ret;
}

static int hmm_private(struct hmm_walk *hw, struct device_extent *ext)
{
	unsigned long result = ext->pfn | HMM_PFN_VALID, nr;
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
 * No architecture that is supported here can write where it cannot read. Secret
 * memory and shadow stacks are for the CPU alone: what get_user_pages() refuses,
 * and the latter to be read, too, for its entries look as if they were writable.
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

/* Faults may go on for long: each is preceded by this. */
static __always_inline int hmm_may_go_on(const struct hmm_walk *hw)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (hw->bounded && time_after_eq(jiffies, hw->deadline))
		return -ETIMEDOUT;
	return 0;
}

/* A fault takes microseconds, or sleeps: some may be done in a row. */
static __always_inline void hmm_resched(unsigned long addr)
{
	if (IS_ALIGNED(addr, SZ_64K))
		cond_resched();
}

/* From here on the pass only faults what the rest of the range needs. */
static void hmm_set_busy(struct hmm_walk *hw)
{
	if (hw->busy)
		return;
	hw->busy = true;
	hw->reported = hw->walk.addr;
}

/*
 * Does somebody hold a reference to the own page at @addr, so that it cannot
 * migrate? A locked page is migrating already, by whoever has the reference.
 */
static bool hmm_private_is_held(struct hmm_walk *hw, unsigned long addr)
{
	struct folio *folio;
	bool held = false;
	swp_entry_t entry;
	spinlock_t *ptl;
	pte_t *ptep;

	ptep = pte_offset_map_lock(hw->walk.mm, hw->stop.pmdp, addr, &ptl);
	if (!ptep)
		return false;
	entry = pte_to_swp_entry(ptep_get(ptep));
	if (is_swap_pte(ptep_get(ptep)) && is_device_private_entry(entry)) {
		folio = pfn_swap_entry_folio(entry);
		held = !folio_test_locked(folio) &&
		       folio_ref_count(folio) > folio_expected_ref_count(folio);
	}
	pte_unmap_unlock(ptep, ptl);
	return held;
}

/*
 * A page of the caller's own, read-only, that will be written to.
 *
 * If it is held, it stays. To try nevertheless may invalidate the range, and
 * the caller would start again until it is held no longer.
 *
 * The fault must not wait for somebody else who has the page locked: that may
 * be a fault of the CPU, which waits for a lock that the driver holds.
 */
static int hmm_fault_own(struct hmm_walk *hw, struct vm_area_struct *vma,
			 unsigned long addr)
{
	vm_fault_t fault;

	if (hmm_private_is_held(hw, addr))
		return 0;
	fault = handle_mm_fault(vma, addr, FAULT_FLAG_REMOTE | FAULT_FLAG_WRITE |
				FAULT_FLAG_ALLOW_RETRY |
				FAULT_FLAG_RETRY_NOWAIT, NULL);
	if (fault & VM_FAULT_RETRY)
		return -EBUSY;
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/*
 * The pages that the walk stopped at are the caller's own. They stay on the
 * device if they can, and are faulted if they are shared or watched. One that
 * is locked is left to the next call.
 */
static int hmm_fault_own_pages(struct hmm_walk *hw, unsigned long *addr,
			       unsigned long end)
{
	struct vm_area_struct *vma = hw->walk.vma;
	int ret;

	for (; *addr < end; *addr += PAGE_SIZE) {
		hmm_resched(*addr);
		ret = hmm_may_go_on(hw) ?:
		      device_make_writable(vma, addr, end,
					   hw->range->dev_private_owner);
		if (ret == DEVICE_WRITE_FAULT)
			ret = hmm_fault_own(hw, vma, *addr);
		if (ret == -EBUSY) {
			hw->own_locked = true;
			hmm_set_busy(hw);
		} else if (ret) {
			return ret;
		}
	}
	return 0;
}

/* One fault. -EAGAIN if the mmap lock is gone; the page may be there or not. */
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
		hw->unlocked = true;
		hw->dropped = addr;
		return -EAGAIN;
	}
	return unlikely(fault & VM_FAULT_ERROR) ? -EFAULT : 0;
}

/* Is this page on the caller's device, or on its way to anywhere? */
static bool hmm_pte_moved(struct hmm_walk *hw, pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	return is_migration_entry(entry) ||
	       (is_device_private_entry(entry) &&
		pfn_swap_entry_to_page(entry)->pgmap->owner ==
		hw->range->dev_private_owner);
}

/*
 * Has the page moved since the walk saw it? This looks at the one entry only, in
 * an RCU read-side critical section as the walk does. A table that has become
 * something else is left to the fault.
 */
static bool hmm_page_moved(struct hmm_walk *hw, unsigned long addr)
{
	pte_t *ptep, pte;
	bool moved;
	pmd_t pmd;

	rcu_read_lock();
	pmd = pmdp_get_lockless(hw->stop.pmdp);
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
 * This comes before every fault but the first of a batch. A page starts to move
 * within an invalidation, so as long as there is none, no entry has to be
 * looked at. @seq: mmu_intervals_seq() of the last look.
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
	unsigned long seq = 1;
	int ret;

	if (hw->stop.write)
		flags |= FAULT_FLAG_WRITE;
	do {
		hmm_resched(*addr);
		ret = hmm_may_go_on(hw) ?:
		      hmm_fault_page(hw, vma, *addr, flags);
		if (ret)
			return ret;
		*addr += PAGE_SIZE;
	} while (*addr < end && !(hmm_may_have_moved(hw, &seq) &&
				  hmm_page_moved(hw, *addr)));
	return 0;
}

/* The pages from @addr on have not been faulted after all. */
static void hmm_untried(struct hmm_tried *tried, unsigned long addr)
{
	unsigned int i;

	for (i = 0; i < HMM_FAULT_TRIES; i++)
		tried->below[i] = min(tried->below[i], addr);
	tried->own = min(tried->own, addr);
}

/*
 * Fault the pages that the walk stopped at. If that ends at one of them, report
 * those before it first: the walk then stops at that one.
 */
static int hmm_fault_pages(struct hmm_walk *hw)
{
	unsigned long addr = hw->walk.addr;
	unsigned long end = addr + (hw->stop.nr << PAGE_SHIFT);
	int ret;

	if (hw->stop.write && !(hw->walk.vma->vm_flags & VM_WRITE))
		return -EPERM;
	ret = hw->stop.own ? hmm_fault_own_pages(hw, &addr, end) :
			     hmm_fault_other_pages(hw, &addr, end);
	if (addr == hw->walk.addr || addr >= end || (ret && ret != -EFAULT))
		return ret;
	hmm_untried(&hw->tried, addr);
	return 0;
}

/* Count the stops in a row at one page of another device. */
static void hmm_try_foreign(struct hmm_tried *tried, unsigned long foreign)
{
	tried->stays = foreign == tried->foreign ? tried->stays + 1 : 0;
	tried->foreign = foreign;
}

/*
 * Take down what is faulted, and how often. A batch has pages that were faulted
 * equally often.
 *
 * Return: false if they have been faulted often enough.
 */
static bool hmm_try(struct hmm_walk *hw)
{
	struct hmm_tried *tried = &hw->tried;
	unsigned long addr = hw->walk.addr;
	unsigned int times = hmm_times(tried, addr);

	if (times)
		hw->stop.nr = min(hw->stop.nr, (tried->below[times - 1] - addr) >>
					       PAGE_SHIFT);
	hmm_try_foreign(tried, hw->stop.foreign);
	if (times == HMM_FAULT_TRIES)
		return false;
	tried->below[times] = addr + (hw->stop.nr << PAGE_SHIFT);
	if (hw->stop.own)
		tried->own = tried->below[times];
	return true;
}

/*
 * No fault has helped. Leave the pages to the next call, unless the first one
 * is another device's, and is there since it was first in a batch: its driver
 * does not move it, however often it is tried.
 */
static int hmm_give_up(struct hmm_walk *hw)
{
	if (hw->stop.foreign && hw->tried.stays >= HMM_FAULT_TRIES - 1)
		return HMM_STOP_STUCK;
	hmm_set_busy(hw);
	hw->walk.addr += hw->stop.nr << PAGE_SHIFT;
	return 0;
}

static int hmm_fault(struct hmm_walk *hw)
{
	struct mmu_interval_notifier *notifier = hw->range->notifier;
	unsigned long seq = READ_ONCE(notifier->invalidate_seq);
	int ret;

	if (!hmm_try(hw))
		return hmm_give_up(hw);
	ret = hmm_fault_pages(hw);
	hw->tried.invalidated = mmu_interval_check_retry(notifier, seq);
	/* To wait for a handler in user space is no fruitless try. */
	if (ret == -EAGAIN)
		hw->tried = (struct hmm_tried) {};
	return ret;
}

/*
 * An error that is found when the range is out of date is found again in the
 * next call, which reports the pages before it. Not so a page that is stuck:
 * its faults may be what invalidates the range, and would in every call.
 */
static int hmm_outcome(const struct hmm_walk *hw, int ret)
{
	switch (ret) {
	case HMM_STOP_STUCK:
		return -EFAULT;
	case 0:
	case -EFAULT:
	case -EPERM:
		return hw->busy ? -EBUSY : ret;
	default:
		return ret;
	}
}

/*
 * Walk and fault by turns from @hw->walk.addr to the end of the range. -EBUSY:
 * the sequence is out of date. -EAGAIN: the mmap lock was dropped. -ETIMEDOUT:
 * the time is used up.
 *
 * A fault that breaks COW invalidates the range. Stopping there would cost the
 * caller a new start for each such page, so all the others are faulted first.
 */
static int hmm_walk_and_fault(struct hmm_walk *hw)
{
	struct hmm_range *range = hw->range;
	bool may_fault = hw->per_page || hw->required;
	int ret;

	do {
		if (mmu_interval_check_retry(range->notifier,
					     range->notifier_seq))
			hmm_set_busy(hw);
		if (hw->busy && !may_fault)
			return -EBUSY;
		ret = device_walk_range(&hw->walk, hw->walk.addr, range->end,
					&hmm_walk_ops);
		if (ret != HMM_STOP_TO_FAULT)
			break;
		ret = hmm_fault(hw);
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
		.per_page = range->pfn_flags_mask & HMM_PFN_REQ,
		.fault_flags = FAULT_FLAG_REMOTE,
		.dropped = HMM_NOWHERE,
	};
}

/**
 * hmm_range_fault() - read the page tables of a process, faulting as asked
 * @range: range, requests and sequence; hmm_pfns[] receives the results
 *
 * Reads what is mapped in [start, end) into @range->hmm_pfns[], an entry a
 * base page, and faults where a request is not met by what is there. A page
 * for which nothing is requested is never faulted, and COW is broken only for
 * those that are to be written to.
 *
 * A fault that breaks COW invalidates the range. The call then goes on to fault
 * what the rest of the range needs and returns -EBUSY at its end, so that the
 * second call serves a range of any content, if nobody else interferes.
 *
 * A private page of the caller's own that will be written to stays on the
 * device if no other process has it: a read-only entry becomes writable, and
 * soft-dirty, in place. Otherwise, or if userfaultfd watches it, it is faulted.
 * If the driver's migrate_to_ram() leaves it on the device, or cannot move it
 * because somebody holds a reference, it is reported without HMM_PFN_WRITE: a
 * driver has to check that. If migrate_to_ram() fails, so does the call.
 *
 * The bits HMM_PFN_INOUT_FLAGS (58 to 60) of an entry are the driver's, and a
 * result keeps what they were. A driver for the first 6.12 kernels, which had
 * no such bits, may test an entry for 0 to find that nothing is mapped. That
 * works if it has cleared @hmm_pfns; in uninitialised memory the bits are not
 * 0, and HMM_PFN_VALID alone tells.
 *
 * No reference is taken. The results may be used under the driver's lock after
 * mmu_interval_read_retry() has returned false for @range->notifier_seq.
 *
 * Faults that need the mmap lock dropped (userfaultfd, for one) cannot be
 * served here; see hmm_range_fault_unlocked_timeout().
 *
 * Context: Process context. The mmap lock of the notifier's mm is held, for
 * reading at least, over the whole call. May sleep. Where a fault is requested,
 * dev_pagemap_ops::migrate_to_ram() may be called: that of another driver for
 * its pages, that of the caller's driver for own pages that are read-only. So
 * the caller holds no lock that these take, nor the lock of a page. The call
 * waits for the page locks of other drivers' pages, and not for those of own
 * pages: they may be held by a CPU fault that waits for the caller's driver.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - invalidated meanwhile, be it by a fault of this call, or an own
 *   page that would have to be faulted is locked; get a new sequence and start
 *   again
 * * -EFAULT - a page was requested that cannot be made valid: also one that
 *   another device's driver does not move
 * * -EPERM - write access was requested in a VMA that does not allow it
 * * -EINTR - a fatal signal is pending, and a page would have to be faulted in
 * * -EINVAL - the range is empty, not page aligned, or not covered by its
 *   notifier; or it has no notifier or no @hmm_pfns
 *
 * With -EFAULT and -EPERM, the entries before the one that stopped the call are
 * results, provided that the sequence still holds. If it does not, and with any
 * other error, no entry is a result. The entries from the one that stopped the
 * call on still hold their requests in any case.
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

/**
 * struct hmm_attempt - state of hmm_range_fault_unlocked_timeout()
 * @hw: pass in progress
 * @saved: requests of the entries, two bits each; NULL if there are none
 */
struct hmm_attempt {
	struct hmm_walk hw;
	unsigned long *saved;
};

static unsigned long hmm_range_pages(const struct hmm_range *range)
{
	return (range->end - range->start) >> PAGE_SHIFT;
}

/*
 * VALID and REQ_FAULT are one bit, WRITE and REQ_WRITE another, so after a
 * pass over the range its requests are gone. Keep them if they matter.
 */
static int hmm_save_requests(struct hmm_attempt *at)
{
	struct hmm_range *range = at->hw.range;
	unsigned long i, nr = hmm_range_pages(range);

	if (!at->hw.per_page)
		return 0;
	at->saved = kvcalloc(BITS_TO_LONGS(2 * nr), sizeof(long), GFP_KERNEL);
	if (!at->saved)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		if (range->hmm_pfns[i] & HMM_PFN_REQ_FAULT)
			__set_bit(2 * i, at->saved);
		if (range->hmm_pfns[i] & HMM_PFN_REQ_WRITE)
			__set_bit(2 * i + 1, at->saved);
	}
	return 0;
}

/*
 * Requests or not, no result of a pass that was given up may stay: the next
 * one may end with an error, and leaves alone what lies behind. Entries that
 * the pass has not written still hold their requests.
 */
static void hmm_restore_requests(struct hmm_attempt *at)
{
	const struct hmm_walk *hw = &at->hw;
	struct hmm_range *range = hw->range;
	unsigned long end = hw->busy ? hw->reported : hw->walk.addr;
	unsigned long i, nr = (end - range->start) >> PAGE_SHIFT;

	for (i = 0; i < nr; i++) {
		range->hmm_pfns[i] &= HMM_PFN_INOUT_FLAGS;
		if (!at->saved)
			continue;
		if (test_bit(2 * i, at->saved))
			range->hmm_pfns[i] |= HMM_PFN_REQ_FAULT;
		if (test_bit(2 * i + 1, at->saved))
			range->hmm_pfns[i] |= HMM_PFN_REQ_WRITE;
	}
}

/*
 * One pass over the range. A fault that dropped the lock is no reason to begin
 * anew: as long as the sequence holds, so do the results.
 */
static int hmm_attempt_pass(struct hmm_attempt *at)
{
	struct hmm_walk *hw = &at->hw;
	int ret;

	do {
		if (mmap_read_lock_killable(hw->walk.mm))
			return -EINTR;
		hw->unlocked = false;
		ret = hmm_walk_and_fault(hw);
		if (!hw->unlocked)
			mmap_read_unlock(hw->walk.mm);
		if (ret != -EAGAIN)
			return ret;
		ret = hmm_may_go_on(hw);
	} while (!ret);
	return ret;
}

static void hmm_attempt_begin(struct hmm_attempt *at)
{
	struct hmm_walk *hw = &at->hw;

	/* No invalidation to wait for tells when a page is unlocked. */
	if (hw->own_locked)
		schedule_timeout_killable(1);
	hw->own_locked = false;
	hw->busy = false;
	hw->dropped = HMM_NOWHERE;
	hw->tried = (struct hmm_tried) {};
	hw->walk.addr = hw->range->start;
	hw->range->notifier_seq = mmu_interval_read_begin(hw->range->notifier);
}

static int hmm_attempt(struct hmm_attempt *at)
{
	int ret;

	do {
		hmm_attempt_begin(at);
		ret = hmm_attempt_pass(at);
		if (!at->hw.busy && ret != -EINTR && ret != -ETIMEDOUT)
			return ret;
		hmm_restore_requests(at);
		if (ret == -EBUSY)
			ret = hmm_may_go_on(&at->hw);
	} while (!ret);
	return ret == -ETIMEDOUT ? -EBUSY : ret;
}

/**
 * hmm_range_fault_unlocked_timeout() - mirror a range, waiting as needed
 * @range: range and requests; hmm_pfns[] receives the results and
 *	@notifier_seq the sequence under which they were read
 * @timeout: how long to try, in jiffies; 0 for no limit
 *
 * Does what hmm_range_fault() does, but takes the mmap lock by itself, lets a
 * fault drop it (so that userfaultfd and slow storage can be served), and
 * starts again with a new sequence as often as the range is invalidated. The
 * caller has only mmu_interval_read_retry() left to ask.
 *
 * The time is looked at before each fault and each new start. What a fault
 * itself waits for, or the end of an invalidation, is not cut short by it.
 *
 * A pass over the range that was invalidated faults all that is needed before
 * the next one starts, so that its own faults cost one start and not more.
 *
 * Context: Process context. The mmap lock must not be held, nor any lock that
 * dev_pagemap_ops::migrate_to_ram() takes, of other drivers or of the caller's
 * own: see hmm_range_fault(). An own page that is locked is not waited for
 * with the mmap lock held; the range is tried again a little later. The caller
 * holds a reference to the users of the notifier's mm (mmget()). May sleep.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - the time is used up; the entries hold their requests
 * * -EINTR - a fatal signal is pending; the entries hold their requests
 * * -ENOMEM - there is no memory to keep the requests of single pages
 * * -EFAULT, -EPERM, -EINVAL - as for hmm_range_fault(); if the faults of the
 *   page that is to blame invalidate the range, all entries hold their requests
 */
int hmm_range_fault_unlocked_timeout(struct hmm_range *range,
				     unsigned long timeout)
{
	struct hmm_attempt at = {};
	int ret;

	if (!hmm_range_sane(range))
		return -EINVAL;
	hmm_walk_init(&at.hw, range);
	at.hw.bounded = timeout;
	at.hw.deadline = jiffies + min(timeout, MAX_JIFFY_OFFSET);
	at.hw.fault_flags |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE;
	ret = hmm_save_requests(&at);
	if (ret)
		return ret;
	ret = hmm_attempt(&at);
	kvfree(at.saved);
	return ret;
}
EXPORT_SYMBOL(hmm_range_fault_unlocked_timeout);
