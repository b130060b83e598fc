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
 * Locks
 *
 *   mmap lock, for reading: held by the caller of hmm_range_fault(), taken and
 *   dropped here by hmm_range_fault_unlocked_timeout(). Faults are done under
 *   it with nothing else held. The walk is lockless; that is sound since
 *   whoever changes an entry invalidates, and the reader of the results asks
 *   mmu_interval_read_retry() under the lock that the invalidation takes.
 */
#include <linux/bitmap.h>
#include <linux/hmm.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/signal.h>
#include <linux/secretmem.h>
#include <linux/slab.h>

#include "device_walk.h"
#include "device_write.h"

#define HMM_PFN_REQ	(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)

/* What an operation of the walk asks its caller to do. */
#define HMM_STOP_TO_FAULT	1

/**
 * struct hmm_walk - one pass over a range
 * @walk: where the walk stands
 * @range: the caller's range
 * @required: what default_flags require of the flags of every result
 * @per_page: requests are taken from hmm_pfns[] too
 * @fault_nr: pages from @walk.addr on that have to be faulted
 * @fault_write: they are to be written to
 * @fault_whole: what is faulted may bring in more than one page at a time
 * @fault_own: they are private pages of the caller's
 * @own_end: up to where those have been faulted, once
 * @own_locked: it was locked by somebody else, so that the answer is -EBUSY
 * @fault_flags: flags of the faults, besides FAULT_FLAG_WRITE
 * @unlocked: a fault dropped the mmap lock
 * @bounded: there is a deadline
 * @deadline: for faults, in jiffies
 */
struct hmm_walk {
	struct device_walk walk;
	struct hmm_range *range;
	unsigned long required;
	bool per_page;
	unsigned long fault_nr;
	bool fault_write;
	bool fault_whole;
	bool fault_own;
	unsigned long own_end;
	bool own_locked;
	unsigned int fault_flags;
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

static int hmm_stop(struct hmm_walk *hw, struct device_extent *ext,
		    unsigned long missing)
{
	if (!missing)
		return 0;
	switch (ext->kind) {
	case DEVICE_EXTENT_NO_VMA:
	case DEVICE_EXTENT_SPECIAL:
		ext->nr = 0;
		return -EFAULT;
	default:
		hw->fault_nr = ext->nr;
		hw->fault_write = missing & HMM_PFN_REQ_WRITE;
		hw->fault_whole = ext->order;
		hw->fault_own = false;
		ext->nr = 0;
		return HMM_STOP_TO_FAULT;
	}
}

/*
 * Requests differ: report what is met, and stop at the first page that is not,
 * to fault it and those after it that lack the same.
 */
static int hmm_report_per_page(struct hmm_walk *hw, struct device_extent *ext,
			       unsigned long result, unsigned long step)
{
	unsigned long *entry = hmm_entry(hw, ext->addr);
	unsigned long nr = ext->nr, met, missing = 0, lack;
	int ret;

	for (met = 0; met < nr; met++) {
		missing = hmm_page_required(hw, entry[met]) & ~result;
		if (missing)
			break;
	}
	hmm_fill(entry, met, result, step);
	if (met == nr)
		return 0;

	for (lack = met + 1; lack < nr; lack++)
		if ((hmm_page_required(hw, entry[lack]) & ~result) != missing)
			break;
	ext->nr = lack - met;
	ret = hmm_stop(hw, ext, missing);
	ext->nr = met;
	return ret;
}

/* @missing of REQ_WRITE alone: the page is valid, but not to be written to. */
static int hmm_report(struct hmm_walk *hw, struct device_extent *ext,
		      unsigned long result, unsigned long step)
{
	unsigned long missing = hw->required & ~result;

	if (unlikely(hw->per_page))
		return hmm_report_per_page(hw, ext, result, step);
	if (unlikely(missing))
		return hmm_stop(hw, ext, missing);
	hmm_fill(hmm_entry(hw, ext->addr), ext->nr, result, step);
	return 0;
}

/*
 * The hot path: PTEs that differ from the first in nothing but the pfn, with
 * one request for all that they meet. The pages need not follow each other.
 */
static __always_inline unsigned long
hmm_ptes(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	 unsigned long max)
{
	struct hmm_walk *hw = to_hmm_walk(walk);
	unsigned long *entry = hmm_entry(hw, addr);
	pte_t first = device_pte_get(ptep);
	struct device_pte_like like = device_pte_like(first);
	unsigned long nr, pfn, flags = HMM_PFN_VALID;

	if (hw->per_page || !device_pte_ordinary(walk, first))
		return 0;
	if (pte_write(first) && pte_dirty(first))
		flags |= HMM_PFN_WRITE;
	if (hw->required & ~flags)
		return 0;
	for (nr = 0; nr < max; nr++) {
		if (!device_pte_is_like(like, device_pte_get(ptep + nr),
					&pfn))
			break;
		entry[nr] = (entry[nr] & HMM_PFN_INOUT_FLAGS) | pfn | flags;
	}
	return nr;
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

/*
 * A report of the owner's pages stopped at pages to be written to that are
 * read-only, or soft-clean where that is watched. They are made writable, or
 * faulted, once. If the fault leaves a page on the device, as the driver may
 * have it while it looks pages up, report it without WRITE instead of looping.
 */
static int hmm_own_stopped(struct hmm_walk *hw, struct device_extent *ext)
{
	unsigned long addr = device_extent_end(ext), nr = hw->fault_nr;

	if (addr >= hw->own_end) {
		hw->own_end = addr + (nr << PAGE_SHIFT);
		hw->fault_own = true;
		return HMM_STOP_TO_FAULT;
	}
	nr = min(nr, (hw->own_end - addr) >> PAGE_SHIFT);
	hmm_fill(hmm_entry(hw, addr), nr, (ext->pfn + ext->nr) | HMM_PFN_VALID,
		 1);
	ext->nr += nr;
	return 0;
}

static int hmm_private(struct hmm_walk *hw, struct device_extent *ext)
{
	unsigned long result = ext->pfn | HMM_PFN_VALID;
	int ret;

	if (device_extent_pgmap(ext)->owner != hw->range->dev_private_owner)
		return hmm_report(hw, ext, 0, 0);
	if (ext->perm & DEVICE_EXTENT_WRITE)
		result |= HMM_PFN_WRITE;
	ret = hmm_report(hw, ext, result, 1);
	return ret == HMM_STOP_TO_FAULT ? hmm_own_stopped(hw, ext) : ret;
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
static int hmm_may_go_on(const struct hmm_walk *hw)
{
	cond_resched();
	if (fatal_signal_pending(current))
		return -EINTR;
	if (hw->bounded && time_after_eq(jiffies, hw->deadline))
		return -ETIMEDOUT;
	return 0;
}

/*
 * A fault on a page of the caller's own must not wait for somebody else who has
 * the page locked: that may be a fault of the CPU, which waits for a lock that
 * the driver holds. -EBUSY then, and the driver starts again.
 */
static int hmm_fault_own(struct hmm_walk *hw, struct vm_area_struct *vma,
			 unsigned long addr)
{
	vm_fault_t fault;

	fault = handle_mm_fault(vma, addr, FAULT_FLAG_REMOTE | FAULT_FLAG_WRITE |
				FAULT_FLAG_ALLOW_RETRY |
				FAULT_FLAG_RETRY_NOWAIT, NULL);
	if (!(fault & VM_FAULT_RETRY))
		return fault & VM_FAULT_ERROR ? -EFAULT : 0;
	hw->own_locked = true;
	return -EBUSY;
}

/*
 * The pages that the walk stopped at are the caller's own. They stay on the
 * device if they can, and are faulted if they are shared or watched.
 */
static int hmm_fault_own_pages(struct hmm_walk *hw, struct vm_area_struct *vma)
{
	unsigned long addr = hw->walk.addr;
	unsigned long end = addr + (hw->fault_nr << PAGE_SHIFT);
	int ret;

	while (addr < end) {
		ret = hmm_may_go_on(hw) ?:
		      device_make_writable(vma, &addr, end,
					   hw->range->dev_private_owner);
		if (ret == -EBUSY)
			hw->own_locked = true;
		if (ret != DEVICE_WRITE_FAULT)
			return ret;
		ret = hmm_fault_own(hw, vma, addr);
		if (ret)
			return ret;
		addr += PAGE_SIZE;
	}
	return 0;
}

/* One fault. -EAGAIN if the mmap lock is gone; the page may be there or not. */
static int hmm_fault_page(struct hmm_walk *hw, struct vm_area_struct *vma,
			  unsigned long addr)
{
	unsigned int flags = hw->fault_flags;
	vm_fault_t fault;

	if (hw->fault_write)
		flags |= FAULT_FLAG_WRITE;
	fault = handle_mm_fault(vma, addr, flags, NULL);
	if (fault & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) {
		hw->unlocked = true;
		hw->fault_flags |= FAULT_FLAG_TRIED;
		return -EAGAIN;
	}
	hw->fault_flags &= ~FAULT_FLAG_TRIED;
	return fault & VM_FAULT_ERROR ? -EFAULT : 0;
}

/*
 * Fault in the pages that the walk stopped at. Where a huge page may come in
 * at once, the walk looks again after the first fault.
 */
static int hmm_fault_pages(struct hmm_walk *hw)
{
	struct vm_area_struct *vma = hw->walk.vma;
	unsigned long addr = hw->walk.addr;
	unsigned long nr = hw->fault_whole ? 1 : hw->fault_nr;
	int ret = 0;

	if (hw->fault_write && !(vma->vm_flags & VM_WRITE))
		return -EPERM;
	if (hw->fault_own)
		return hmm_fault_own_pages(hw, vma);
	for (; !ret && nr; nr--, addr += PAGE_SIZE)
		ret = hmm_may_go_on(hw) ?: hmm_fault_page(hw, vma, addr);
	return ret;
}

/*
 * Walk and fault by turns from @hw->walk.addr to the end of the range. -EBUSY:
 * the sequence is out of date. -EAGAIN: the mmap lock was dropped. -ETIMEDOUT:
 * the time is used up.
 */
static int hmm_walk_and_fault(struct hmm_walk *hw)
{
	struct hmm_range *range = hw->range;
	int ret;

	do {
		if (mmu_interval_check_retry(range->notifier,
					     range->notifier_seq))
			return -EBUSY;
		ret = device_walk_range(&hw->walk, hw->walk.addr, range->end,
					&hmm_walk_ops);
		if (ret != HMM_STOP_TO_FAULT)
			return ret;
		ret = hmm_fault_pages(hw);
	} while (!ret);
	return ret;
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
 * A private page of the caller's own that is to be written to stays on the
 * device if no other process has it: a read-only entry becomes writable, and
 * soft-dirty, in place. Otherwise, or if userfaultfd watches it, it is faulted
 * once. If the driver's migrate_to_ram() leaves it where it is, it is reported
 * without HMM_PFN_WRITE, which a driver has to look at.
 *
 * No reference is taken. The results may be used under the driver's lock after
 * mmu_interval_read_retry() has returned false for @range->notifier_seq.
 *
 * Faults that need the mmap lock dropped (userfaultfd, for one) cannot be
 * served here; see hmm_range_fault_unlocked_timeout().
 *
 * Context: Process context. The mmap lock of the notifier's mm is held, for
 * reading at least, over the whole call. May sleep.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - invalidated meanwhile, or a page of the caller's own that is to be
 *   made writable is locked; get a new sequence and start again
 * * -EFAULT - a page was requested that cannot be made valid
 * * -EPERM - write access was requested in a VMA that does not allow it
 * * -EINTR - a fatal signal is pending, and a page would have to be faulted in
 * * -EINVAL - the range is empty, not page aligned, or not covered by its
 *   notifier; or it has no notifier or no @hmm_pfns
 *
 * With an error, the entries before the one that stopped the call are results,
 * and from there on they still hold their requests.
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
 * one may end with an error, and leaves alone what lies behind.
 */
static void hmm_restore_requests(struct hmm_attempt *at)
{
	struct hmm_range *range = at->hw.range;
	unsigned long i, nr = hmm_range_pages(range);

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

/* No invalidation to wait for tells when a page is unlocked. */
static void hmm_attempt_wait(struct hmm_attempt *at)
{
	if (at->hw.own_locked)
		schedule_timeout_killable(1);
	at->hw.own_locked = false;
}

static int hmm_attempt(struct hmm_attempt *at)
{
	struct hmm_range *range = at->hw.range;
	int ret;

	do {
		hmm_attempt_wait(at);
		range->notifier_seq = mmu_interval_read_begin(range->notifier);
		at->hw.walk.addr = range->start;
		at->hw.own_end = 0;
		ret = hmm_attempt_pass(at);
		if (ret != -EBUSY && ret != -EINTR && ret != -ETIMEDOUT)
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
 * Context: Process context. The mmap lock must not be held, nor any lock that
 * dev_pagemap_ops::migrate_to_ram() takes. The caller holds a reference to the
 * users of the notifier's mm (mmget()). May sleep.
 * Return:
 * * 0 - every entry is a result
 * * -EBUSY - the time is used up; the entries hold their requests
 * * -EINTR - a fatal signal is pending; the entries hold their requests
 * * -ENOMEM - there is no memory to keep the requests of single pages
 * * -EFAULT, -EPERM, -EINVAL - as for hmm_range_fault()
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
