// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exclusive access of a device to pages of a process.
 *
 * The atomic operations of some devices are atomic only as long as the CPU does
 * not access the page. To grant exclusive access to such a device, the PTE of
 * the page is replaced by a device-exclusive entry. The CPU faults on it, and
 * the fault revokes the access of the device before the CPU continues.
 *
 * Scope
 *
 *   Creating device-exclusive entries, passing them from one owner to another,
 *   and making them present again: in a CPU fault, in fork(), and when a driver
 *   gives up its access. The rest of mm unmaps and write-protects them.
 *
 * Invariants
 *
 *   - An entry replaces a writable PTE of an anonymous page. The page has no
 *     other mapping and stays anon-exclusive.
 *   - The entry keeps the reference, the mapcount and the RSS of the PTE. The
 *     reverse mapping finds the entry, so it does not pin the page: reclaim
 *     swaps it out, compaction and memory offlining migrate it, memory failure
 *     unmaps it. All of them begin an invalidation before they change the
 *     entry, so the device has lost its access by then.
 *   - The device may write as long as the entry is writable. Creating an entry
 *     marks the folio dirty, which covers an entry that becomes read-only
 *     later. A writable entry counts as dirty when it is unmapped, migrated or
 *     made present. See mm/device_entry.h.
 *   - The page is system memory. A coherent device page is migrated to system
 *     memory first: migrate_vma_setup() skips device-exclusive entries, so a
 *     driver that evicts its memory by address would not get the page back. A
 *     device-private page is migrated by the CPU fault.
 *
 * Reverse mapping without an invalidation
 *
 *   A walk of the reverse mapping that has not begun an invalidation must not
 *   change the entry. Walks that test the age of a page, in
 *   folio_referenced(), page_idle and DAMON, ask the secondary MMUs, because
 *   the entry has no accessed bit. folio_mkclean() and pfn_mkclean_range() walk
 *   shared mappings only, which have no device-exclusive entries.
 *   memory_failure() looks up the processes to kill, and then unmaps the page.
 *
 * Large folios
 *
 *   One page of a large folio can be exclusive while the others are mapped,
 *   because the mapcount is counted per page. A huge PMD is split, but not the
 *   folio. However, a folio has one lock, and make_device_exclusive_range()
 *   returns each page locked. It therefore splits large folios, unless the
 *   range is one page.
 *
 * How a driver learns that it lost a page
 *
 *   MMU_NOTIFY_EXCLUSIVE announces a change of exclusive access. The event has
 *   the new owner if an entry is created or handed over, and no owner if a CPU
 *   fault or a driver ends the access. Any other change of the mapping has its
 *   own event, such as MMU_NOTIFY_CLEAR.
 *
 *   The driver programs its device between make_device_exclusive() and
 *   folio_unlock(). A CPU fault takes the folio lock first, so the device gets
 *   at least one access. Any other change may take the page away in between;
 *   the driver detects it by mmu_interval_read_retry().
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
 * enum exclusive_stop - what to do before the walk can continue
 * @EXCLUSIVE_STOP_FAULT: fault the page in for writing
 * @EXCLUSIVE_STOP_PMD: split the huge PMD
 * @EXCLUSIVE_STOP_SPLIT: split exclusive_walk::folio
 * @EXCLUSIVE_STOP_LOCK: wait until exclusive_walk::folio is unlocked
 * @EXCLUSIVE_STOP_MIGRATE: migrate exclusive_walk::folio to system memory
 * @EXCLUSIVE_STOP_REFUSE: skip exclusive_walk::nr_refused pages
 */
enum exclusive_stop {
	EXCLUSIVE_STOP_FAULT = 1,
	EXCLUSIVE_STOP_PMD,
	EXCLUSIVE_STOP_SPLIT,
	EXCLUSIVE_STOP_LOCK,
	EXCLUSIVE_STOP_MIGRATE,
	EXCLUSIVE_STOP_REFUSE,
};

/**
 * struct exclusive_walk - state of a request for exclusive access
 * @walk: position of the walk
 * @start: first address of the range
 * @end: end of the range
 * @pages: result for each page of the range: the page or ERR_PTR()
 * @owner: owner of the exclusive access, for the notifiers
 * @folio: folio at which the walk stopped, with a reference, or NULL
 * @unsplit: large folio that could not be split; compared, not dereferenced
 * @run_size: maximum size of a run (bytes)
 * @refusal: error for the pages at which the walk stopped
 * @nr_refused: number of these pages
 * @wait: wait for a locked page instead of refusing it
 * @flush: PTEs of this page table were cleared
 */
struct exclusive_walk {
	struct device_walk walk;
	unsigned long start;
	unsigned long end;
	struct page **pages;
	void *owner;
	struct folio *folio;
	struct folio *unsplit;
	unsigned long run_size;
	int refusal;
	unsigned long nr_refused;
	bool wait;
	bool flush;
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

/* ---- Checks: can a page become exclusive? ---- */

/* Two pages of one folio share the lock, so they cannot both be returned. */
static int exclusive_check_order(const struct exclusive_walk *ew,
				 struct folio *folio)
{
	if (!folio_test_large(folio) || ew->end - ew->start == PAGE_SIZE)
		return 0;
	return folio == ew->unsplit ? -EBUSY : EXCLUSIVE_STOP_SPLIT;
}

/*
 * Return: 0 if the page can become exclusive, an enum exclusive_stop if
 * something has to be done first, or the error to refuse the page with.
 */
static int exclusive_check_present(const struct exclusive_walk *ew, pte_t pte,
				   struct folio *folio)
{
	int ret;

	/* Fault first: in a private file mapping it copies to an anon page. */
	if (!pte_write(pte))
		return EXCLUSIVE_STOP_FAULT;
	if (!folio_test_anon(folio))
		return -EOPNOTSUPP;
	ret = exclusive_check_order(ew, folio);
	if (ret)
		return ret;
	if (IS_ENABLED(CONFIG_DEVICE_MIGRATION) &&
	    folio_is_device_coherent(folio))
		return EXCLUSIVE_STOP_MIGRATE;
	if (folio_test_locked(folio))
		return ew->wait ? EXCLUSIVE_STOP_LOCK : -EBUSY;
	return 0;
}

/*
 * Hand an exclusive entry over in place. Revoking it first would notify the
 * current owner, who would retry and revoke it from us: livelock. For the same
 * reason, always wait for the lock of such a page instead of refusing it. Test
 * the lock first, because a locked folio cannot be split. A read-only entry
 * goes through the fault handler.
 */
static int exclusive_check_exclusive(const struct exclusive_walk *ew, pte_t pte,
				     struct folio *folio)
{
	if (!device_pte_exclusive_write(pte))
		return EXCLUSIVE_STOP_FAULT;
	if (folio_test_locked(folio))
		return EXCLUSIVE_STOP_LOCK;
	return exclusive_check_order(ew, folio);
}

static int exclusive_check_huge(const struct exclusive_walk *ew,
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
	ret = exclusive_check_order(ew, folio);
	return ret ?: EXCLUSIVE_STOP_PMD;
}

/* Check page @i of the extent. */
static int exclusive_check(const struct exclusive_walk *ew,
			   const struct device_extent *ext, unsigned long i)
{
	struct folio *folio;

	switch (ext->kind) {
	case DEVICE_EXTENT_PRESENT:
		if (!ext->ptep)
			return exclusive_check_huge(ew, ext);
		folio = pfn_folio(ext->pfn + i);
		return exclusive_check_present(ew, ptep_get(ext->ptep + i),
					       folio);
	case DEVICE_EXTENT_EXCLUSIVE:
		return exclusive_check_exclusive(ew, ptep_get(ext->ptep),
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

/* Count the pages from @i on that are refused with the same error. */
static unsigned long exclusive_count_refused(const struct exclusive_walk *ew,
					     const struct device_extent *ext,
					     unsigned long i, int refusal)
{
	unsigned long first = i;

	if (!ext->ptep)
		return ext->nr - i;
	do {
		i++;
	} while (i < ext->nr && exclusive_check(ew, ext, i) == refusal);
	return i - first;
}

/* End the walk before page @i of the extent. */
static int exclusive_stop_at(struct exclusive_walk *ew,
			     struct device_extent *ext, unsigned long i,
			     int ret)
{
	if (ret < 0) {
		ew->nr_refused = exclusive_count_refused(ew, ext, i, ret);
		ew->refusal = ret;
		ret = EXCLUSIVE_STOP_REFUSE;
	} else if (ret >= EXCLUSIVE_STOP_SPLIT) {
		ew->folio = pfn_folio(ext->pfn + i);
		folio_get(ew->folio);
	}
	ext->nr = i;
	return ret;
}

static bool exclusive_skip_vma(struct device_walk *walk)
{
	return walk->vma->vm_flags & (VM_IO | VM_PFNMAP | VM_SHADOW_STACK) ||
	       !(walk->vma->vm_flags & VM_WRITE);
}

/* ---- First walk: find a run of pages that can become exclusive ---- */

static int exclusive_find_extent(struct device_walk *walk,
				 struct device_extent *ext)
{
	struct exclusive_walk *ew = to_exclusive(walk);
	unsigned long i;
	int ret;

	if (exclusive_is_absent(ext)) {
		ext->nr = 0;
		return -EFAULT;
	}
	for (i = 0; i < ext->nr; i++) {
		ret = exclusive_check(ew, ext, i);
		if (ret)
			return exclusive_stop_at(ew, ext, i, ret);
	}
	return 0;
}

static const struct device_walk_ops exclusive_find_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = exclusive_find_extent,
	.extent = exclusive_find_extent,
	.skip_vma = exclusive_skip_vma,
};

/* ---- Second walk: make the run exclusive ---- */

/* The device is about to access the page, and its entry has no accessed bit. */
static void exclusive_note_accessed(struct folio *folio)
{
	folio_clear_idle(folio);
	if (!folio_test_referenced(folio))
		folio_set_referenced(folio);
}

/* The entry keeps the reference and the mapcount of the PTE. */
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
		ew->flush = true;
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
	int ret;

	/* The entry has changed. Leave it to the first walk. */
	if (!ext->ptep || exclusive_is_absent(ext)) {
		ext->nr = 0;
		return -EAGAIN;
	}
	for (i = 0; i < ext->nr; i++) {
		ret = exclusive_check(ew, ext, i);
		if (ret || !folio_trylock(pfn_folio(ext->pfn + i))) {
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
	if (ew->flush)
		flush_tlb_range(walk->vma, start, end);
	ew->flush = false;
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
 * Invalidate only the range that changes: every mirror drops its entries for
 * it and has to load them again.
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

/* If the split fails, the next walk refuses the pages of the folio. */
static int exclusive_split(struct exclusive_walk *ew)
{
	int ret = -EBUSY;

	if (folio_trylock(ew->folio)) {
		ret = split_folio(ew->folio);
		folio_unlock(ew->folio);
	}
	ew->unsplit = ret ? ew->folio : NULL;
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
static int exclusive_migrate(struct exclusive_walk *ew)
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

static int exclusive_resolve(struct exclusive_walk *ew,
			     enum exclusive_stop stop)
{
	switch (stop) {
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
	case EXCLUSIVE_STOP_MIGRATE:
		return exclusive_migrate(ew);
	default:
		return EXCLUSIVE_STOP_REFUSE;
	}
}

static int exclusive_handle_stop(struct exclusive_walk *ew, int stop)
{
	int ret;

	cond_resched();
	if (stop <= 0)
		return stop;
	if (fatal_signal_pending(current))
		ret = -EINTR;
	else
		ret = exclusive_resolve(ew, stop);
	if (ew->folio)
		folio_put(ew->folio);
	ew->folio = NULL;
	return ret;
}

/*
 * Prepare a run of pages from @ew->walk.addr on.
 *
 * Return: 0 at the end of the run or of the range. Otherwise
 * EXCLUSIVE_STOP_REFUSE or an error, with @ew->walk.addr at the page that is
 * refused or that failed.
 */
static int exclusive_find_run(struct exclusive_walk *ew)
{
	unsigned long start = ew->walk.addr;
	unsigned long end = start + min(ew->run_size, ew->end - start);
	int ret;

	do {
		ret = device_walk_range(&ew->walk, ew->walk.addr, end,
					&exclusive_find_ops);
		if (!ret) {
			ew->walk.addr = end;
			return 0;
		}
		ret = exclusive_handle_stop(ew, ret);
	} while (!ret);
	return ret;
}

/*
 * The pages of a run have no reference until they are taken. If memory is
 * short, reclaim may swap out the first one before the last one is faulted in.
 * If nothing of a run could be taken, retry with a run of one page. Pages that
 * were taken are locked and stay.
 */
static int exclusive_take_found(struct exclusive_walk *ew, unsigned long start)
{
	int ret = exclusive_take_run(ew, start, ew->walk.addr);

	if (ew->walk.addr == start)
		ew->run_size = PAGE_SIZE;
	else
		ew->run_size = min(2 * ew->run_size, PMD_SIZE);
	return ret;
}

/* Process one run and the refused pages that follow it. */
static int exclusive_run(struct exclusive_walk *ew)
{
	unsigned long start = ew->walk.addr;
	int ret = exclusive_find_run(ew);

	if (ew->walk.addr > start && exclusive_take_found(ew, start))
		return fatal_signal_pending(current) ? -EINTR : 0;
	return ret == EXCLUSIVE_STOP_REFUSE ? exclusive_refuse(ew) : ret;
}

/* Return: 0, or the error at @ew->walk.addr. */
static int exclusive_range(struct exclusive_walk *ew)
{
	int ret = 0;

	mmap_assert_locked(ew->walk.mm);
	ew->walk.addr = ew->start;
	ew->run_size = PMD_SIZE;
	while (!ret && ew->walk.addr < ew->end)
		ret = exclusive_run(ew);
	return ret;
}

/**
 * make_device_exclusive_range() - give a device exclusive access to pages
 * @mm: address space
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned)
 * @pages: returns for each page of the range the page, or NULL if refused
 * @owner: identifies the caller to its own notifier, and to no other notifier
 *
 * Faults the range in for writing and replaces the PTEs of its anonymous pages
 * by device-exclusive entries. Migrates coherent device memory to system memory
 * first. Refuses a page that another task has locked, that is not anonymous, or
 * that cannot be migrated to system memory. A page to which another owner has
 * exclusive access is handed over, and that owner is notified; the call waits
 * for the lock of such a page.
 *
 * @owner must be unique to the notifier that watches these addresses, for
 * example a pointer to the mirror of this process, not to the device. A
 * notifier mistakes an event with its own owner for the effect of its own call.
 * If two mirrors of an address space share an owner, the one that loses a page
 * to the other does not learn about it.
 *
 * Every page is returned locked, and all pages of a large folio share one
 * lock. A range of more than one page therefore splits the large folios in it,
 * and refuses the pages of a folio that cannot be split. A range of one page
 * takes a page of a large folio without splitting the folio, as
 * make_device_exclusive() does. The split unmaps the whole folio with
 * MMU_NOTIFY_CLEAR. This ends exclusive access to all its other pages as well,
 * including those outside the range.
 *
 * Locked pages cannot be reclaimed. If the range is larger than the memory that
 * the process may use, the call ends with the error of a page fault, or with
 * the signal of the OOM killer.
 *
 * MMU_NOTIFY_EXCLUSIVE covers only the addresses whose entries change.
 *
 * The caller takes its own lock, calls mmu_interval_read_retry(), programs the
 * device, and then unlocks and puts each page. Until then it must not take the
 * mmap lock, call mmu_interval_read_begin() or remove a notifier, because a CPU
 * fault waits for the page lock with the mmap lock held. The call faults in and
 * waits for pages while earlier pages of the range are locked. A driver must
 * therefore not call it with a lock held that its migrate_to_ram() takes, and
 * must have unlocked all pages of an earlier call.
 *
 * The page lock holds off CPU faults only. fork(), munmap() and reclaim may
 * take a page away before it is unlocked, and notify the driver as for any
 * other change of the mapping.
 *
 * The entry pins nothing. A driver that no longer needs a page may leave the
 * entry to the next CPU fault, or call restore_device_exclusive().
 *
 * Context: Process context. The mmap lock is held, at least for reading. May
 * sleep.
 * Return: the number of pages from @start on that were processed, which is the
 * number of valid entries in @pages. The returned pages are locked and have a
 * reference. If the first page cannot be accessed: -EFAULT if there is no
 * memory that can be written to, -EINTR if a fatal signal is pending, or
 * another error of the page fault. -EINVAL if the range is empty, unaligned or
 * too large.
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
 * @owner: identifies the caller to its own notifier, and to no other notifier
 * @foliop: returns the folio of the page
 *
 * Does the same as make_device_exclusive_range() for one page, but waits for
 * the page lock. Does not split a large folio; the page may be any page of it.
 * When the device is programmed, the caller calls folio_unlock() and
 * folio_put() for *@foliop.
 *
 * Context: Process context. The mmap lock is held, at least for reading. May
 * sleep.
 * Return: the page, with its folio locked and a reference held; or ERR_PTR():
 * * -EFAULT - there is no memory that can be written to
 * * -EOPNOTSUPP - the memory is not anonymous
 * * -EBUSY - device memory that cannot be migrated to system memory
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

	/* The end of the last page overflows. No process can map that page. */
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
 * @vma: VMA of the entry
 * @addr: address of the entry (bytes, page aligned)
 * @ptep: the entry
 *
 * The PTE takes over the reference and the mapcount of the entry. The folio
 * lock is not needed: the caller has begun an invalidation that covers @addr,
 * so a driver that is programming its device for the page will retry.
 *
 * Context: The page-table lock is held.
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

/* Return: true if the entry was still @orig, and is present now. */
static bool exclusive_revoke(struct vm_area_struct *vma, pmd_t *pmd,
			     unsigned long addr, pte_t orig)
{
	struct mmu_notifier_range range;
	bool same = false;
	spinlock_t *ptl;	/* lock of the page table */
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
 * device_exclusive_fault() - handle a CPU fault on a device-exclusive entry
 * @vmf: the fault; @vmf->orig_pte is the entry
 *
 * Without the page-table lock, the entry may change and the page may be freed
 * at any time. Try to get a reference, and compare the entry again under the
 * lock. Taking the folio lock lets a driver finish programming its device.
 *
 * Context: Process context. The mmap lock or the VMA lock is held for reading.
 * May sleep.
 * Return: 0, or VM_FAULT_RETRY if the folio lock could not be taken.
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

static pte_t exclusive_read_pte(struct mm_struct *mm, pmd_t *pmd,
				unsigned long addr)
{
	pte_t pte = __pte(0), *ptep;
	spinlock_t *ptl;	/* lock of the page table */

	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (ptep) {
		pte = ptep_get(ptep);
		pte_unmap_unlock(ptep, ptl);
	}
	return pte;
}

/*
 * The driver remembers the address, but the mapping may have changed since.
 * Exclusive entries are in page tables of anonymous memory only, and
 * mm_find_pmd() must not be called for a hugetlb VMA.
 */
static pmd_t *exclusive_find_pmd(struct vm_area_struct *vma, unsigned long addr)
{
	if (!vma || !vma->anon_vma || is_vm_hugetlb_page(vma))
		return NULL;
	return mm_find_pmd(vma->vm_mm, addr);
}

/**
 * restore_device_exclusive() - give up exclusive access to a page
 * @mm: address space
 * @addr: address of the page (bytes, page aligned)
 * @page: the page, locked by the caller
 *
 * For a driver that no longer needs the page and wants to spare the CPU a
 * fault. A locked page is not handed over to another owner. If the driver
 * finds, after locking the page, that it still has exclusive access, it gives
 * up its own access.
 *
 * All notifiers, including that of the caller, get MMU_NOTIFY_EXCLUSIVE without
 * an owner.
 *
 * Context: Process context. The mmap lock is held, at least for reading. May
 * sleep.
 * Return: true if @addr had a device-exclusive entry for @page, which is
 * present now; otherwise false, and no notifier was called.
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
	pte = exclusive_read_pte(mm, pmd, addr);
	if (!is_swap_pte(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	if (!is_device_exclusive_entry(entry) ||
	    swp_offset_pfn(entry) != page_to_pfn(page))
		return false;
	return exclusive_revoke(vma, pmd, addr, pte);
}
EXPORT_SYMBOL_GPL(restore_device_exclusive);
