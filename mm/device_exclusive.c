// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exclusive access of a device to pages of a process.
 *
 * Some devices have atomic operations that hold only as long as nobody else
 * touches the memory. For those, the PTE of a page is replaced by a
 * device-exclusive entry: the CPU faults, and the fault takes the page away
 * from the device before the access goes on.
 *
 * What this file owns
 *
 *   How device-exclusive entries are made, how they pass from one owner to
 *   another, and how they become present again by a CPU fault, by fork() or
 *   because a driver gives a page back. The rest of mm unmaps and protects
 *   them.
 *
 * Invariants
 *
 *   - An entry stands for a page of anonymous memory that was mapped writable,
 *     and so exclusively: there is no other mapping. The page stays
 *     anonymous-exclusive.
 *   - The entry keeps the reference, the mapcount and the RSS of the PTE that
 *     it replaces. Reverse mappings find it, so it pins nothing: reclaim swaps
 *     the page, compaction and offlining migrate it, memory failure unmaps it.
 *     Each of them begins an invalidation before it revokes the entry, so the
 *     device has lost its access by then.
 *   - A device that has a writable entry may write at any time. The folio is
 *     marked dirty when the entry is made, which covers entries that become
 *     read-only later. A writable entry counts as dirty when it is unmapped,
 *     migrated or made present. See mm/device_entry.h.
 *   - The page is system memory. Coherent memory is migrated to system memory
 *     first, as migrate_vma_setup() passes over exclusive entries: a driver that
 *     moves its memory by address would not get it back. For private memory,
 *     the CPU's fault does it.
 *
 * Users of reverse mappings that have not begun an invalidation
 *
 *   must leave the entry as it is. Those that look for the age of a page
 *   (folio_referenced(), page_idle, DAMON) ask secondary MMUs, since the entry
 *   has no accessed bit. folio_mkclean() and pfn_mkclean_range() visit shared
 *   mappings only, where there are no device-exclusive entries. memory_failure()
 *   looks up the processes to kill and then unmaps the page.
 *
 * Large folios
 *
 *   One page of a large folio can be exclusive while the others are mapped:
 *   the mapcount is counted per page. A huge PMD is split, the folio is not.
 *   But there is one lock a folio, and make_device_exclusive_range() returns
 *   every page locked. So that form splits large folios, unless the range is
 *   one page.
 *
 * How a driver learns of the end
 *
 *   Exclusive access is announced with MMU_NOTIFY_EXCLUSIVE: with the new owner
 *   where an entry is made or passes to another owner, without an owner where
 *   a CPU fault or a driver ends it. Everything else that takes the page away
 *   announces what it does, for example MMU_NOTIFY_CLEAR.
 *
 *   Between make_device_exclusive() and folio_unlock() the driver programs its
 *   device. A CPU fault takes the folio lock first, so the device gets at least
 *   one access. Everything else may take the page away at any time, and
 *   mmu_interval_read_retry() tells.
 *
 * Locks
 *
 *	mmap lock (read)
 *	  folio lock (trylock within the walk)
 *	    page-table lock
 */
#include <linux/export.h>
#include <linux/hmm.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

#include "device_entry.h"
#include "device_walk.h"
#include "internal.h"

/**
 * enum exclusive_stop - why a walk stopped, and what its caller does
 * @EXCLUSIVE_STOP_FAULT: fault the page in, for writing
 * @EXCLUSIVE_STOP_PMD: split the huge PMD
 * @EXCLUSIVE_STOP_SPLIT: split exclusive_walk::folio
 * @EXCLUSIVE_STOP_LOCK: wait until exclusive_walk::folio is unlocked
 * @EXCLUSIVE_STOP_SYSTEM: migrate exclusive_walk::folio to system memory
 * @EXCLUSIVE_STOP_REFUSE: leave out exclusive_walk::nr_refused pages
 */
enum exclusive_stop {
	EXCLUSIVE_STOP_FAULT = 1,
	EXCLUSIVE_STOP_PMD,
	EXCLUSIVE_STOP_SPLIT,
	EXCLUSIVE_STOP_LOCK,
	EXCLUSIVE_STOP_SYSTEM,
	EXCLUSIVE_STOP_REFUSE,
};

/**
 * struct exclusive_walk - state of a request for exclusive access
 * @walk: where the walk stands
 * @start: first address of the range
 * @end: end of the range
 * @pages: the result: a page, or ERR_PTR()
 * @owner: of the device, for the notifiers
 * @folio: what the walk stopped at, with a reference, or NULL
 * @whole: large folio that could not be split; only ever compared
 * @reach: how much one run may span (bytes)
 * @refusal: why the pages cannot be had that the walk stopped at
 * @nr_refused: how many they are
 * @wait: wait for pages that are locked, instead of leaving them out
 * @unmapped: PTEs were cleared in this page table
 */
struct exclusive_walk {
	struct device_walk walk;
	unsigned long start;
	unsigned long end;
	struct page **pages;
	void *owner;
	struct folio *folio;
	struct folio *whole;
	unsigned long reach;
	int refusal;
	unsigned long nr_refused;
	bool wait;
	bool unmapped;
};

static inline struct exclusive_walk *to_exclusive(struct device_walk *walk)
{
	return container_of(walk, struct exclusive_walk, walk);
}

static void exclusive_result(struct exclusive_walk *ew, unsigned long addr,
			     struct page *page)
{
	ew->pages[(addr - ew->start) >> PAGE_SHIFT] = page;
}

/* ---- What stands in the way of exclusive access? ---- */

/* Two pages of one folio cannot be returned locked. */
static int exclusive_judge_order(const struct exclusive_walk *ew,
				 struct folio *folio)
{
	if (!folio_test_large(folio) || ew->end - ew->start == PAGE_SIZE)
		return 0;
	return folio == ew->whole ? -EBUSY : EXCLUSIVE_STOP_SPLIT;
}

/*
 * Return: 0 if the page can be had, an enum exclusive_stop to be acted upon,
 * or an error if it cannot be had.
 */
static int exclusive_judge_present(const struct exclusive_walk *ew, pte_t pte,
				   struct folio *folio)
{
	int ret;

	/* First, since a private mapping of a file gets a page of its own. */
	if (!pte_write(pte))
		return EXCLUSIVE_STOP_FAULT;
	if (!folio_test_anon(folio))
		return -EOPNOTSUPP;
	ret = exclusive_judge_order(ew, folio);
	if (ret)
		return ret;
	if (IS_ENABLED(CONFIG_DEVICE_MIGRATION) &&
	    folio_is_device_coherent(folio))
		return EXCLUSIVE_STOP_SYSTEM;
	if (folio_test_locked(folio))
		return ew->wait ? EXCLUSIVE_STOP_LOCK : -EBUSY;
	return 0;
}

/*
 * Hand an exclusive entry over in place. Revoking it first would notify its
 * owner, who would start again and revoke it from us: livelock. For the same
 * reason everybody waits for the lock of such a page, which comes first, as a
 * locked folio cannot be split. A read-only entry goes through the fault
 * handler.
 */
static int exclusive_judge_exclusive(const struct exclusive_walk *ew, pte_t pte,
				     struct folio *folio)
{
	if (!device_pte_exclusive_write(pte))
		return EXCLUSIVE_STOP_FAULT;
	if (folio_test_locked(folio))
		return EXCLUSIVE_STOP_LOCK;
	return exclusive_judge_order(ew, folio);
}

static int exclusive_judge_huge(const struct exclusive_walk *ew,
				const struct device_extent *ext)
{
	struct folio *folio = pfn_folio(ext->pfn);
	int ret;

	if (folio_test_hugetlb(folio))
		return -EOPNOTSUPP;
	if (!(ext->perm & DEVICE_EXTENT_WRITE))
		return EXCLUSIVE_STOP_FAULT;
	if (!folio_test_anon(folio))
		return -EOPNOTSUPP;
	ret = exclusive_judge_order(ew, folio);
	return ret ?: EXCLUSIVE_STOP_PMD;
}

/* Page @i of the extent. */
static int exclusive_judge(const struct exclusive_walk *ew,
			   const struct device_extent *ext, unsigned long i)
{
	struct folio *folio;

	switch (ext->kind) {
	case DEVICE_EXTENT_PRESENT:
		if (!ext->ptep)
			return exclusive_judge_huge(ew, ext);
		folio = pfn_folio(ext->pfn + i);
		return exclusive_judge_present(ew, ptep_get(ext->ptep + i),
					       folio);
	case DEVICE_EXTENT_EXCLUSIVE:
		return exclusive_judge_exclusive(ew, ptep_get(ext->ptep),
						 pfn_folio(ext->pfn));
	default:
		return EXCLUSIVE_STOP_FAULT;
	}
}

static bool exclusive_is_absent(const struct device_extent *ext)
{
	return ext->kind == DEVICE_EXTENT_NO_VMA ||
	       ext->kind == DEVICE_EXTENT_SPECIAL ||
	       ext->kind == DEVICE_EXTENT_POISON;
}

/* How many pages from @i on are refused for the same reason? */
static unsigned long exclusive_count_refused(const struct exclusive_walk *ew,
					     const struct device_extent *ext,
					     unsigned long i, int refusal)
{
	unsigned long first = i;

	if (!ext->ptep)
		return ext->nr - i;
	do {
		i++;
	} while (i < ext->nr && exclusive_judge(ew, ext, i) == refusal);
	return i - first;
}

/* End the walk at page @i of the extent, because of @why. */
static int exclusive_stop_at(struct exclusive_walk *ew,
			     struct device_extent *ext, unsigned long i, int why)
{
	if (why < 0) {
		ew->nr_refused = exclusive_count_refused(ew, ext, i, why);
		ew->refusal = why;
		why = EXCLUSIVE_STOP_REFUSE;
	} else if (why >= EXCLUSIVE_STOP_SPLIT) {
		ew->folio = pfn_folio(ext->pfn + i);
		folio_get(ew->folio);
	}
	ext->nr = i;
	return why;
}

static bool exclusive_skip_vma(struct device_walk *walk)
{
	return walk->vma->vm_flags & (VM_IO | VM_PFNMAP | VM_SHADOW_STACK) ||
	       !(walk->vma->vm_flags & VM_WRITE);
}

/* ---- First walk: find a run of pages that can be had, change nothing ---- */

static int exclusive_find_extent(struct device_walk *walk,
				 struct device_extent *ext)
{
	struct exclusive_walk *ew = to_exclusive(walk);
	unsigned long i;
	int why;

	if (exclusive_is_absent(ext)) {
		ext->nr = 0;
		return -EFAULT;
	}
	for (i = 0; i < ext->nr; i++) {
		why = exclusive_judge(ew, ext, i);
		if (why)
			return exclusive_stop_at(ew, ext, i, why);
	}
	return 0;
}

static const struct device_walk_ops exclusive_find_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = exclusive_find_extent,
	.extent = exclusive_find_extent,
	.skip_vma = exclusive_skip_vma,
};

/* ---- Second walk: take the run ---- */

/* The device is about to access the page, and its entry keeps no age. */
static void exclusive_note_accessed(struct folio *folio)
{
	folio_clear_idle(folio);
	if (!folio_test_referenced(folio))
		folio_set_referenced(folio);
}

/* The reference and the mapping of the PTE become those of the entry. */
static void exclusive_replace(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *ptep, struct page *page)
{
	pte_t old;

	flush_cache_page(vma, addr, page_to_pfn(page));
	old = ptep_get_and_clear(vma->vm_mm, addr, ptep);
	set_pte_at(vma->vm_mm, addr, ptep,
		   device_pte_present_to_exclusive(old, page_folio(page)));
}

static void exclusive_take(struct exclusive_walk *ew, struct device_extent *ext,
			   unsigned long i)
{
	struct page *page = pfn_to_page(ext->pfn + i);
	unsigned long addr = ext->addr + (i << PAGE_SHIFT);
	pte_t *ptep = ext->ptep + i;

	folio_get(page_folio(page));
	exclusive_note_accessed(page_folio(page));
	if (ext->kind == DEVICE_EXTENT_PRESENT) {
		exclusive_replace(ew->walk.vma, addr, ptep, page);
		ew->unmapped = true;
	} else {
		set_pte_at(ew->walk.mm, addr, ptep,
			   device_pte_exclusive_hand_over(ptep_get(ptep)));
	}
	exclusive_result(ew, addr, page);
}

static int exclusive_take_extent(struct device_walk *walk,
				 struct device_extent *ext)
{
	struct exclusive_walk *ew = to_exclusive(walk);
	unsigned long i;
	int why;

	/* The first walk looks into what has changed since. */
	if (!ext->ptep || exclusive_is_absent(ext)) {
		ext->nr = 0;
		return -EAGAIN;
	}
	for (i = 0; i < ext->nr; i++) {
		why = exclusive_judge(ew, ext, i);
		if (why || !folio_trylock(pfn_folio(ext->pfn + i))) {
			ext->nr = i;
			return -EAGAIN;
		}
		exclusive_take(ew, ext, i);
	}
	return 0;
}

static void exclusive_table_begin(struct device_walk *walk)
{
	arch_enter_lazy_mmu_mode();
}

static void exclusive_table_end(struct device_walk *walk, unsigned long start,
				unsigned long end)
{
	struct exclusive_walk *ew = to_exclusive(walk);

	arch_leave_lazy_mmu_mode();
	if (ew->unmapped)
		flush_tlb_range(walk->vma, start, end);
	ew->unmapped = false;
}

static const struct device_walk_ops exclusive_take_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = exclusive_take_extent,
	.extent = exclusive_take_extent,
	.skip_vma = exclusive_skip_vma,
	.table_begin = exclusive_table_begin,
	.table_end = exclusive_table_end,
};

/*
 * Announce what changes, and nothing else: an announcement costs every mirror
 * of these addresses what it has loaded.
 *
 * Return: 0, or -EAGAIN if the page at @ew->walk.addr has changed.
 */
static int exclusive_take_run(struct exclusive_walk *ew, unsigned long start,
			      unsigned long end)
{
	struct mmu_notifier_range range;
	int ret;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_EXCLUSIVE, 0,
				      ew->walk.mm, start, end, ew->owner);
	mmu_notifier_invalidate_range_start(&range);
	ret = device_walk_range(&ew->walk, start, end, &exclusive_take_ops);
	mmu_notifier_invalidate_range_end(&range);
	if (!ret)
		ew->walk.addr = end;
	return ret;
}

/* ---- Between the walks ---- */

/* If the split fails, the next walk leaves out the pages of the folio. */
static int exclusive_split(struct exclusive_walk *ew)
{
	int ret = -EBUSY;

	if (folio_trylock(ew->folio)) {
		ret = split_folio(ew->folio);
		folio_unlock(ew->folio);
	}
	ew->whole = ret ? ew->folio : NULL;
	return 0;
}

static int exclusive_split_pmd(struct exclusive_walk *ew)
{
	unsigned long addr = ew->walk.addr;

	split_huge_pmd_address(vma_lookup(ew->walk.mm, addr), addr, false,
			       NULL);
	return 0;
}

static int exclusive_refuse(struct exclusive_walk *ew)
{
	for (; ew->nr_refused; ew->nr_refused--) {
		exclusive_result(ew, ew->walk.addr, ERR_PTR(ew->refusal));
		ew->walk.addr += PAGE_SIZE;
	}
	return 0;
}

/* The migration drops the reference. */
static int exclusive_move_to_system(struct exclusive_walk *ew)
{
	struct folio *folio = ew->folio;

	ew->folio = NULL;
	if (IS_ENABLED(CONFIG_DEVICE_MIGRATION) &&
	    !migrate_device_coherent_folio(folio))
		return 0;
	ew->nr_refused = 1;
	ew->refusal = -EBUSY;
	return EXCLUSIVE_STOP_REFUSE;
}

static int exclusive_wait(struct exclusive_walk *ew)
{
	int ret = folio_lock_killable(ew->folio);

	if (!ret)
		folio_unlock(ew->folio);
	return ret;
}

static int exclusive_do(struct exclusive_walk *ew, enum exclusive_stop why)
{
	switch (why) {
	case EXCLUSIVE_STOP_FAULT:
		return fixup_user_fault(ew->walk.mm, ew->walk.addr,
					FAULT_FLAG_WRITE | FAULT_FLAG_REMOTE,
					NULL);
	case EXCLUSIVE_STOP_PMD:
		return exclusive_split_pmd(ew);
	case EXCLUSIVE_STOP_SPLIT:
		return exclusive_split(ew);
	case EXCLUSIVE_STOP_LOCK:
		return exclusive_wait(ew);
	case EXCLUSIVE_STOP_SYSTEM:
		return exclusive_move_to_system(ew);
	default:
		return EXCLUSIVE_STOP_REFUSE;
	}
}

static int exclusive_act(struct exclusive_walk *ew, int why)
{
	int ret;

	cond_resched();
	if (why <= 0)
		return why;
	ret = fatal_signal_pending(current) ? -EINTR : exclusive_do(ew, why);
	if (ew->folio)
		folio_put(ew->folio);
	ew->folio = NULL;
	return ret;
}

/*
 * Prepare pages from @ew->walk.addr on until one cannot be had.
 *
 * Return: 0 if @ew->reach or @ew->end was reached; else EXCLUSIVE_STOP_REFUSE
 * or an error, and @ew->walk.addr is the page that cannot be had.
 */
static int exclusive_find_run(struct exclusive_walk *ew)
{
	unsigned long start = ew->walk.addr;
	unsigned long end = start + min(ew->reach, ew->end - start);
	int ret;

	do {
		ret = device_walk_range(&ew->walk, ew->walk.addr, end,
					&exclusive_find_ops);
		if (!ret) {
			ew->walk.addr = end;
			return 0;
		}
		ret = exclusive_act(ew, ret);
	} while (!ret);
	return ret;
}

/*
 * Faulted pages have no reference until they are taken. If memory is short,
 * reclaim takes the first one before the last one is faulted. So retry a run
 * that took nothing with a single page. Taken pages are locked, and stay.
 */
static int exclusive_take_found(struct exclusive_walk *ew, unsigned long start)
{
	int ret = exclusive_take_run(ew, start, ew->walk.addr);

	if (ew->walk.addr == start)
		ew->reach = PAGE_SIZE;
	else
		ew->reach = min(2 * ew->reach, PMD_SIZE);
	return ret;
}

/* One run, and the pages behind it that cannot be had. */
static int exclusive_run(struct exclusive_walk *ew)
{
	unsigned long start = ew->walk.addr;
	int ret = exclusive_find_run(ew);

	if (ew->walk.addr > start && exclusive_take_found(ew, start))
		return fatal_signal_pending(current) ? -EINTR : 0;
	return ret == EXCLUSIVE_STOP_REFUSE ? exclusive_refuse(ew) : ret;
}

/* Return: 0, or why the page at @ew->walk.addr stopped it. */
static int exclusive_range(struct exclusive_walk *ew)
{
	int ret = 0;

	mmap_assert_locked(ew->walk.mm);
	ew->walk.addr = ew->start;
	ew->reach = PMD_SIZE;
	while (!ret && ew->walk.addr < ew->end)
		ret = exclusive_run(ew);
	return ret;
}

/**
 * make_device_exclusive_range() - give a device exclusive access to pages
 * @mm: address space
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned)
 * @pages: receives a page for each that could be had, NULL for the others
 * @owner: identifies the caller to its own notifier, and no other mirror
 *
 * Faults the range in for writing and replaces the PTEs of its anonymous pages
 * by device-exclusive entries. Coherent device memory is migrated to system
 * memory first. NULL is returned for pages that are locked by somebody else,
 * that are not anonymous, or that cannot be migrated to system memory. A page
 * that another owner has exclusively is handed over, and that owner is
 * notified; for the lock of such a page the call waits.
 *
 * @owner must be unique to the notifier that watches these addresses, for
 * example a pointer to the mirror of this process, not to the device. A
 * notifier takes an announcement with its own owner for that of its own call.
 * If two mirrors of an address space share an owner, the one that loses a page
 * to the other is not told so.
 *
 * Every page is returned locked, and all pages of a large folio share one
 * lock. So a range of more than one page splits the large folios in it. NULL
 * is returned for the pages of a folio that cannot be split. A range of one
 * page takes a page of a large folio without splitting the folio, as
 * make_device_exclusive() does. The split unmaps the whole folio, with
 * MMU_NOTIFY_CLEAR, which ends exclusive access to its other pages as well,
 * in the range or not.
 *
 * Pages that are locked cannot be reclaimed. If the range is larger than the
 * memory that the process may have, the call ends with the error of a page
 * fault, or with the signal of the OOM killer.
 *
 * Only addresses whose entries change are announced with MMU_NOTIFY_EXCLUSIVE.
 *
 * The caller programs the device under its own lock, after it has asked
 * mmu_interval_read_retry(), and then unlocks and puts each page. Until then it
 * must not take the mmap lock, begin to read another sequence, or remove a
 * notifier: a CPU fault waits for these locks with the mmap lock held. Pages
 * are faulted in and waited for while those before them are locked. Therefore
 * a driver must not fault on exclusive pages while it holds what
 * dev_pagemap_ops::migrate_to_ram() takes, and no page of an earlier call may
 * still be locked.
 *
 * The page lock keeps off CPU faults only. fork(), munmap() and reclaim may
 * take a page away before it is unlocked; they are announced like any other
 * change of the mapping.
 *
 * The entry pins nothing. A driver that no longer wants a page may leave the
 * entry to the next CPU fault, or call restore_device_exclusive().
 *
 * Context: Process context. The mmap lock is held, for reading at least. May
 * sleep.
 * Return: how many pages from @start on were looked at, which is how many
 * entries of @pages are valid; or, if the first page cannot be accessed,
 * -EFAULT (no memory is mapped there that can be written to), -EINTR (a fatal
 * signal is pending) or another error of the fault. -EINVAL for an absurd
 * range. The pages that are returned are locked, and have a reference.
 */
int make_device_exclusive_range(struct mm_struct *mm, unsigned long start,
				unsigned long end, struct page **pages,
				void *owner)
{
	struct exclusive_walk ew = {
		.walk.mm = mm,
		.start = start,
		.end = end,
		.pages = pages,
		.owner = owner,
	};
	unsigned long i, nr = (end - start) >> PAGE_SHIFT;
	int ret;

	if (start >= end || !PAGE_ALIGNED(start | end) || nr > INT_MAX)
		return -EINVAL;
	ret = exclusive_range(&ew);
	if (ret)
		nr = (ew.walk.addr - start) >> PAGE_SHIFT;
	for (i = 0; i < nr; i++)
		if (IS_ERR(pages[i]))
			pages[i] = NULL;
	return nr ? nr : ret;
}
EXPORT_SYMBOL_GPL(make_device_exclusive_range);

/**
 * make_device_exclusive() - give a device exclusive access to a page
 * @mm: address space
 * @addr: address in the page (bytes)
 * @owner: identifies the caller to its own notifier, and no other mirror
 * @foliop: receives the folio of the page
 *
 * make_device_exclusive_range() for one page, but waits for its lock. A large
 * folio is not split; the page may be any page of it. When the device is
 * programmed, call folio_unlock() and folio_put() with *@foliop.
 *
 * Context: Process context. The mmap lock is held, for reading at least. May
 * sleep.
 * Return: the page, its folio locked and with a reference; or ERR_PTR():
 * * -EFAULT - no memory is mapped there that can be written to
 * * -EOPNOTSUPP - the memory is not anonymous
 * * -EBUSY - the memory is a device's and cannot be migrated to system memory
 * * -EINTR - a fatal signal is pending
 */
struct page *make_device_exclusive(struct mm_struct *mm, unsigned long addr,
				   void *owner, struct folio **foliop)
{
	struct page *page = NULL;
	struct exclusive_walk ew = {
		.walk.mm = mm,
		.start = addr & PAGE_MASK,
		.end = (addr & PAGE_MASK) + PAGE_SIZE,
		.pages = &page,
		.owner = owner,
		.wait = true,
	};
	int ret;

	/* The last page of all addresses, which no process has, ends at 0. */
	if (!ew.end)
		return ERR_PTR(-EFAULT);
	ret = exclusive_range(&ew);
	if (ret)
		return ERR_PTR(ret);
	if (!IS_ERR(page))
		*foliop = page_folio(page);
	return page;
}
EXPORT_SYMBOL_GPL(make_device_exclusive);

/**
 * device_exclusive_restore() - make a device-exclusive entry present
 * @vma: VMA that it is in
 * @addr: its address (bytes, page aligned)
 * @ptep: the entry
 *
 * The reference and the mapping of the entry become those of the PTE again. The
 * folio lock is not needed: the caller has begun an invalidation that covers
 * @addr, so a driver that is just programming the page starts again.
 *
 * Context: page-table lock.
 */
void device_exclusive_restore(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *ptep)
{
	pte_t old = ptep_get(ptep);
	struct page *page = pfn_swap_entry_to_page(pte_to_swp_entry(old));

	set_pte_at(vma->vm_mm, addr, ptep,
		   device_pte_exclusive_to_present(vma, page_folio(page), page,
						   old));
	update_mmu_cache(vma, addr, ptep);
}

/* Nothing is changed if the entry is no longer @orig. */
static bool exclusive_revoke(struct vm_area_struct *vma, pmd_t *pmd,
			     unsigned long addr, pte_t orig)
{
	struct mmu_notifier_range range;
	bool same = false;
	spinlock_t *ptl;	/* of the table that @ptep is in */
	pte_t *ptep;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_EXCLUSIVE, 0,
				      vma->vm_mm, addr, addr + PAGE_SIZE, NULL);
	mmu_notifier_invalidate_range_start(&range);
	ptep = pte_offset_map_lock(vma->vm_mm, pmd, addr, &ptl);
	if (ptep) {
		same = pte_same(ptep_get(ptep), orig);
		if (same)
			device_exclusive_restore(vma, addr, ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	mmu_notifier_invalidate_range_end(&range);
	return same;
}

/**
 * device_exclusive_fault() - the CPU touched a page that a device has
 * @vmf: the fault; @vmf->orig_pte is a device-exclusive entry
 *
 * The page-table lock is not held yet, so the entry and the page behind it may
 * be gone: a reference is only tried for, and the entry compared again. The
 * folio lock lets a driver finish that is just programming the page.
 *
 * Context: Process context, mmap or VMA lock held for reading. May sleep.
 * Return: 0, or VM_FAULT_RETRY from waiting for the folio lock.
 */
vm_fault_t device_exclusive_fault(struct vm_fault *vmf)
{
	swp_entry_t entry = pte_to_swp_entry(vmf->orig_pte);
	struct folio *folio;
	vm_fault_t ret;

	vmf->page = pfn_swap_entry_to_page(entry);
	folio = page_folio(vmf->page);
	if (!folio_try_get(folio))
		return 0;
	ret = folio_lock_or_retry(folio, vmf);
	if (!ret) {
		exclusive_revoke(vmf->vma, vmf->pmd, vmf->address & PAGE_MASK,
				 vmf->orig_pte);
		folio_unlock(folio);
	}
	folio_put(folio);
	return ret;
}

static pte_t exclusive_peek(struct mm_struct *mm, pmd_t *pmd,
			    unsigned long addr)
{
	pte_t pte = __pte(0), *ptep;
	spinlock_t *ptl;	/* of the table that @ptep is in */

	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (ptep) {
		pte = ptep_get(ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	return pte;
}

/*
 * Exclusive entries are in page tables of anonymous memory. The driver's
 * address may have become something else, and mm_find_pmd() expects no leaf of
 * a hugetlb page.
 */
static pmd_t *exclusive_find_pmd(struct vm_area_struct *vma, unsigned long addr)
{
	if (!vma || !vma->anon_vma || is_vm_hugetlb_page(vma))
		return NULL;
	return mm_find_pmd(vma->vm_mm, addr);
}

/**
 * restore_device_exclusive() - give a page back that a device has exclusively
 * @mm: address space
 * @addr: address of the page (bytes, page aligned)
 * @page: the page, locked by the caller
 *
 * For drivers that stop using a page and do not want the next CPU access to
 * fault. While the page is locked it is not handed over to another owner: a
 * driver that has locked the page and then finds that it still has it gives
 * back its own.
 *
 * The end of exclusive access is announced with MMU_NOTIFY_EXCLUSIVE and no
 * owner, to the caller's notifier as well.
 *
 * Context: Process context. The mmap lock is held, for reading at least. May
 * sleep.
 * Return: true if @addr had a device-exclusive entry for @page, which is present
 * now; false if not, and nothing is announced.
 */
bool restore_device_exclusive(struct mm_struct *mm, unsigned long addr,
			      struct page *page)
{
	struct vm_area_struct *vma;
	swp_entry_t entry;
	pmd_t *pmd;
	pte_t pte;

	mmap_assert_locked(mm);
	VM_WARN_ON_ONCE(!folio_test_locked(page_folio(page)));
	vma = vma_lookup(mm, addr);
	pmd = exclusive_find_pmd(vma, addr);
	if (!pmd)
		return false;
	pte = exclusive_peek(mm, pmd, addr);
	if (!is_swap_pte(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	if (!is_device_exclusive_entry(entry) ||
	    swp_offset_pfn(entry) != page_to_pfn(page))
		return false;
	return exclusive_revoke(vma, pmd, addr, pte);
}
EXPORT_SYMBOL_GPL(restore_device_exclusive);
