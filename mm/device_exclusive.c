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
 *   The birth of device-exclusive entries, their way from one owner to another,
 *   and their end by a CPU fault or by fork(). Unmapping and protection are
 *   those of the rest of mm.
 *
 * Invariants
 *
 *   - An entry stands for a page of anonymous memory that was mapped writable,
 *     and so exclusively: there was no other mapping, and no walk of reverse
 *     mappings is needed to find one. The page stays anonymous-exclusive.
 *   - The folio is of order 0. The entry keeps the reference of the PTE that
 *     it replaces but gives up its mapcount, and a folio of which one page has
 *     entries without a mapcount cannot be unmapped or migrated correctly. So
 *     large folios are split before anything refers to their pages.
 *   - To the rest of mm the page has a reference that no mapping explains.
 *     Reclaim, migration and compaction leave it alone.
 *   - The page is system memory. Such a page could not leave a device that is
 *     removed, so coherent memory is brought home before; to get at private
 *     memory, the CPU's fault does it.
 *
 * How a driver learns of the end
 *
 *   Whoever makes, hands over or revokes an entry announces MMU_NOTIFY_EXCLUSIVE,
 *   with the new owner, or with no owner where it is revoked. Between the two
 *   the driver programs its device with the page locked: revoking takes the
 *   page lock first, so it cannot overtake that.
 *
 * Locks
 *
 *	mmap lock (read)
 *	  page lock (trylock within the walk)
 *	    page-table lock
 */
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

#include "internal.h"
#include "device_walk.h"

/**
 * enum exclusive_stop - what a walk asks its caller to do
 * @EXCLUSIVE_STOP_FAULT: fault the page in, for writing
 * @EXCLUSIVE_STOP_SPLIT: split exclusive_walk::folio
 * @EXCLUSIVE_STOP_LOCK: wait until exclusive_walk::folio is unlocked
 * @EXCLUSIVE_STOP_HOME: migrate exclusive_walk::folio to system memory
 */
enum exclusive_stop {
	EXCLUSIVE_STOP_FAULT = 1,
	EXCLUSIVE_STOP_SPLIT,
	EXCLUSIVE_STOP_LOCK,
	EXCLUSIVE_STOP_HOME,
};

/**
 * struct exclusive_walk - state of a request for exclusive access
 * @walk: where the walk stands
 * @start: first address of the range
 * @pages: the result: a page, or ERR_PTR()
 * @owner: of the device, for the notifiers
 * @folio: what the walk stopped at, with a reference, to be split, waited for,
 *	or brought home
 * @whole: large folio that could not be split; only ever compared
 * @wait: wait for pages that are locked, rather than pass them over
 * @unmapped: PTEs were cleared in this page table
 */
struct exclusive_walk {
	struct device_walk walk;
	unsigned long start;
	struct page **pages;
	void *owner;
	struct folio *folio;
	struct folio *whole;
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

static int exclusive_refuse(struct exclusive_walk *ew, unsigned long addr,
			    unsigned long nr, long error)
{
	for (; nr; nr--, addr += PAGE_SIZE)
		exclusive_result(ew, addr, ERR_PTR(error));
	return 0;
}

static int exclusive_stop_with(struct exclusive_walk *ew, struct folio *folio,
			       enum exclusive_stop why)
{
	folio_get(folio);
	ew->folio = folio;
	return why;
}

/* What could not be split the last time is passed over, page by page or whole. */
static int exclusive_large(struct exclusive_walk *ew, struct folio *folio,
			   unsigned long addr, unsigned long nr)
{
	if (folio == ew->whole)
		return exclusive_refuse(ew, addr, nr, -EBUSY);
	return exclusive_stop_with(ew, folio, EXCLUSIVE_STOP_SPLIT);
}

/* The reference of the PTE becomes that of the entry. */
static void exclusive_replace(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *ptep, struct folio *folio)
{
	struct page *page = &folio->page;
	swp_entry_t entry;
	pte_t old, new;

	flush_cache_page(vma, addr, page_to_pfn(page));
	old = ptep_get_and_clear(vma->vm_mm, addr, ptep);
	/* What the device writes, no entry notes: it may be read-only later. */
	folio_mark_dirty(folio);
	entry = make_writable_device_exclusive_entry(page_to_pfn(page));
	new = swp_entry_to_pte(entry);
	if (pte_soft_dirty(old))
		new = pte_swp_mksoft_dirty(new);
	if (pte_uffd_wp(old))
		new = pte_swp_mkuffd_wp(new);
	set_pte_at(vma->vm_mm, addr, ptep, new);
	folio_remove_rmap_pte(folio, page, vma);
}

static int exclusive_page(struct exclusive_walk *ew, unsigned long addr,
			  pte_t *ptep, struct page *page)
{
	struct folio *folio = page_folio(page);

	/* First, since a private mapping of a file gets a page of its own. */
	if (!pte_write(ptep_get(ptep)))
		return EXCLUSIVE_STOP_FAULT;
	if (!folio_test_anon(folio))
		return exclusive_refuse(ew, addr, 1, -EOPNOTSUPP);
	if (folio_test_large(folio))
		return exclusive_large(ew, folio, addr, 1);
	if (IS_ENABLED(CONFIG_DEVICE_MIGRATION) &&
	    folio_is_device_coherent(folio))
		return exclusive_stop_with(ew, folio, EXCLUSIVE_STOP_HOME);
	if (!folio_trylock(folio)) {
		if (ew->wait)
			return exclusive_stop_with(ew, folio,
						   EXCLUSIVE_STOP_LOCK);
		return exclusive_refuse(ew, addr, 1, -EBUSY);
	}
	folio_get(folio);
	exclusive_replace(ew->walk.vma, addr, ptep, folio);
	exclusive_result(ew, addr, page);
	ew->unmapped = true;
	return 0;
}

static int exclusive_ptes(struct device_walk *walk, struct device_extent *ext)
{
	struct exclusive_walk *ew = to_exclusive(walk);
	unsigned long i;
	int ret;

	for (i = 0; i < ext->nr; i++) {
		ret = exclusive_page(ew, ext->addr + (i << PAGE_SHIFT),
				     ext->ptep + i, pfn_to_page(ext->pfn + i));
		if (ret) {
			ext->nr = i;
			return ret;
		}
	}
	return 0;
}

static int exclusive_stop_at(struct device_extent *ext, int why)
{
	ext->nr = 0;
	return why;
}

static int exclusive_huge(struct exclusive_walk *ew, struct device_extent *ext)
{
	struct folio *folio = pfn_folio(ext->pfn);
	int ret;

	if (folio_test_hugetlb(folio))
		return exclusive_refuse(ew, ext->addr, ext->nr, -EOPNOTSUPP);
	if (!(ext->perm & DEVICE_EXTENT_WRITE))
		return exclusive_stop_at(ext, EXCLUSIVE_STOP_FAULT);
	if (!folio_test_anon(folio))
		return exclusive_refuse(ew, ext->addr, ext->nr, -EOPNOTSUPP);
	ret = exclusive_large(ew, folio, ext->addr, ext->nr);
	return ret ? exclusive_stop_at(ext, ret) : 0;
}

/*
 * A page that is exclusive already, of this owner or of another, who is told by
 * the invalidation that has begun. The entry stays: if it were revoked first, the
 * owner would be told that it lost its page, and a driver that starts again for
 * that would never come to an end. For the same reason a page that is locked is
 * waited for, by everybody. An entry that does not allow to write is for the fault.
 */
static int exclusive_hand_over(struct exclusive_walk *ew,
			       struct device_extent *ext)
{
	struct folio *folio = pfn_folio(ext->pfn);
	pte_t pte = ptep_get(ext->ptep);

	if (!(ext->perm & DEVICE_EXTENT_WRITE) || pte_swp_uffd_wp(pte))
		return exclusive_stop_at(ext, EXCLUSIVE_STOP_FAULT);
	if (!folio_trylock(folio))
		return exclusive_stop_at(ext, exclusive_stop_with(ew, folio,
						EXCLUSIVE_STOP_LOCK));
	folio_get(folio);
	/* It may have been made clean since. */
	set_pte_at(ew->walk.mm, ext->addr, ext->ptep,
		   pte_swp_mksoft_dirty(pte));
	exclusive_result(ew, ext->addr, &folio->page);
	ext->nr = 1;
	return 0;
}

static int exclusive_extent(struct device_walk *walk,
			    struct device_extent *ext)
{
	switch (ext->kind) {
	case DEVICE_EXTENT_PRESENT:
		return ext->ptep ? exclusive_ptes(walk, ext) :
				   exclusive_huge(to_exclusive(walk), ext);
	case DEVICE_EXTENT_EXCLUSIVE:
		return exclusive_hand_over(to_exclusive(walk), ext);
	case DEVICE_EXTENT_NO_VMA:
	case DEVICE_EXTENT_SPECIAL:
	case DEVICE_EXTENT_POISON:
		return exclusive_stop_at(ext, -EFAULT);
	default:
		return exclusive_stop_at(ext, EXCLUSIVE_STOP_FAULT);
	}
}

static bool exclusive_skip_vma(struct device_walk *walk)
{
	return walk->vma->vm_flags & (VM_IO | VM_PFNMAP | VM_SHADOW_STACK) ||
	       !(walk->vma->vm_flags & VM_WRITE);
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

static const struct device_walk_ops exclusive_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = exclusive_ptes,
	.extent = exclusive_extent,
	.skip_vma = exclusive_skip_vma,
	.table_begin = exclusive_table_begin,
	.table_end = exclusive_table_end,
};

static int exclusive_walk_on(struct exclusive_walk *ew, unsigned long end)
{
	struct mmu_notifier_range range;
	int ret;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_EXCLUSIVE, 0,
				      ew->walk.mm, ew->walk.addr, end,
				      ew->owner);
	mmu_notifier_invalidate_range_start(&range);
	ret = device_walk_range(&ew->walk, ew->walk.addr, end, &exclusive_ops);
	mmu_notifier_invalidate_range_end(&range);
	return ret;
}

/* The page at which the walk stands cannot be had now. */
static void exclusive_pass_over(struct exclusive_walk *ew)
{
	exclusive_refuse(ew, ew->walk.addr, 1, -EBUSY);
	ew->walk.addr += PAGE_SIZE;
}

/* Where it fails, the next walk passes over the pages of the folio. */
static int exclusive_split(struct exclusive_walk *ew)
{
	int ret = -EBUSY;

	if (folio_trylock(ew->folio)) {
		ret = split_folio(ew->folio);
		folio_unlock(ew->folio);
	}
	ew->whole = ret ? ew->folio : NULL;
	folio_put(ew->folio);
	return 0;
}

static int exclusive_bring_home(struct exclusive_walk *ew)
{
	if (!IS_ENABLED(CONFIG_DEVICE_MIGRATION) ||
	    migrate_device_coherent_folio(ew->folio))
		exclusive_pass_over(ew);
	return 0;
}

static int exclusive_wait(struct exclusive_walk *ew)
{
	int ret = folio_lock_killable(ew->folio);

	if (!ret)
		folio_unlock(ew->folio);
	folio_put(ew->folio);
	return ret;
}

static int exclusive_act(struct exclusive_walk *ew, int why)
{
	cond_resched();
	if (why < 0)
		return why;
	if (fatal_signal_pending(current)) {
		if (why != EXCLUSIVE_STOP_FAULT)
			folio_put(ew->folio);
		return -EINTR;
	}
	switch (why) {
	case EXCLUSIVE_STOP_SPLIT:
		return exclusive_split(ew);
	case EXCLUSIVE_STOP_LOCK:
		return exclusive_wait(ew);
	case EXCLUSIVE_STOP_HOME:
		return exclusive_bring_home(ew);
	default:
		return fixup_user_fault(ew->walk.mm, ew->walk.addr,
					FAULT_FLAG_WRITE | FAULT_FLAG_REMOTE,
					NULL);
	}
}

/*
 * Walk and act by turns until the range is done or cannot be.
 *
 * Return: 0, or why the page at @ew->walk.addr stopped it.
 */
static int exclusive_range(struct exclusive_walk *ew, unsigned long end)
{
	int ret = 0;

	mmap_assert_locked(ew->walk.mm);
	ew->walk.addr = ew->start;
	while (!ret && ew->walk.addr < end) {
		ret = exclusive_walk_on(ew, end);
		if (!ret)
			break;
		ret = exclusive_act(ew, ret);
	}
	return ret;
}

/**
 * make_device_exclusive_range() - give a device exclusive access to pages
 * @mm: address space
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned)
 * @pages: receives a page for each that could be had, NULL for the others
 * @owner: identifies the caller to its own notifier
 *
 * Faults the range in for writing and replaces the PTEs of its anonymous pages
 * by device-exclusive entries. Large folios are split, device memory is brought
 * home. Pages that are locked by somebody else, that are not anonymous, that
 * cannot be split or not be brought home are NULL. A page that is exclusive
 * already stays it, and whoever had it learns of the new owner, unless that is
 * the same; for the lock of such a page the call waits.
 *
 * The caller programs the device under its own lock, after it has asked
 * mmu_interval_read_retry(), and then unlocks and puts each page. Until that is
 * done it must not take the mmap lock, begin to read another sequence, or remove
 * a notifier: fork() waits for these page locks with the mmap lock held and an
 * invalidation begun. And since pages are faulted in, waited for and brought home
 * while those before them are locked, what dev_pagemap_ops::migrate_to_ram()
 * takes must not be held by who faults on pages that are exclusive, and no page
 * of an earlier call may still be locked.
 *
 * From then on an access by the CPU takes the page away again.
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
		.pages = pages,
		.owner = owner,
	};
	unsigned long i, nr = (end - start) >> PAGE_SHIFT;
	int ret;

	if (start >= end || !PAGE_ALIGNED(start | end) || nr > INT_MAX)
		return -EINVAL;
	ret = exclusive_range(&ew, end);
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
 * @owner: identifies the caller to its own notifier
 * @foliop: receives the folio of the page
 *
 * make_device_exclusive_range() for one page, but waits for its lock. When the
 * device is programmed, folio_unlock() and folio_put() of *@foliop let go.
 *
 * Context: Process context. The mmap lock is held, for reading at least. May
 * sleep.
 * Return: the page, its folio locked and with a reference; or ERR_PTR():
 * * -EFAULT - no memory is mapped there that can be written to
 * * -EOPNOTSUPP - the memory is not anonymous
 * * -EBUSY - it belongs to a large folio that cannot be split now, or to a
 *   device and cannot be brought home now
 * * -EINTR - a fatal signal is pending
 */
struct page *make_device_exclusive(struct mm_struct *mm, unsigned long addr,
				   void *owner, struct folio **foliop)
{
	struct page *page = NULL;
	struct exclusive_walk ew = {
		.walk.mm = mm,
		.start = addr & PAGE_MASK,
		.pages = &page,
		.owner = owner,
		.wait = true,
	};
	int ret = exclusive_range(&ew, ew.start + PAGE_SIZE);

	if (ret)
		return ERR_PTR(ret);
	if (!IS_ERR(page))
		*foliop = page_folio(page);
	return page;
}
EXPORT_SYMBOL_GPL(make_device_exclusive);

/* The reference of the entry becomes that of the PTE again. */
static void exclusive_restore(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *ptep, struct page *page)
{
	pte_t pte, old = ptep_get(ptep);
	bool write = is_writable_device_exclusive_entry(pte_to_swp_entry(old));

	pte = pte_mkold(mk_pte(page, READ_ONCE(vma->vm_page_prot)));
	if (pte_swp_soft_dirty(old))
		pte = pte_mksoft_dirty(pte);
	if (pte_swp_uffd_wp(old))
		pte = pte_mkuffd_wp(pte);
	else if (write)
		pte = maybe_mkwrite(pte_mkdirty(pte), vma);
	folio_add_anon_rmap_pte(page_folio(page), page, vma, addr, RMAP_NONE);
	set_pte_at(vma->vm_mm, addr, ptep, pte);
	update_mmu_cache(vma, addr, ptep);
}

/**
 * device_exclusive_try_restore() - make a device-exclusive entry present
 * @vma: VMA that it is in
 * @addr: its address (bytes, page aligned)
 * @ptep: the entry
 *
 * For fork(), which has announced an invalidation of the whole VMA.
 *
 * Context: page-table lock.
 * Return: true, or false if the page is locked and the caller has to try again
 * later.
 */
bool device_exclusive_try_restore(struct vm_area_struct *vma,
				  unsigned long addr, pte_t *ptep)
{
	swp_entry_t entry = pte_to_swp_entry(ptep_get(ptep));
	struct page *page = pfn_swap_entry_to_page(entry);

	if (!trylock_page(page))
		return false;
	exclusive_restore(vma, addr, ptep, page);
	unlock_page(page);
	return true;
}

static void exclusive_revoke(struct vm_fault *vmf, struct page *page)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PAGE_MASK;
	struct mmu_notifier_range range;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_EXCLUSIVE, 0,
				      vma->vm_mm, addr, addr + PAGE_SIZE, NULL);
	mmu_notifier_invalidate_range_start(&range);
	vmf->pte = pte_offset_map_lock(vma->vm_mm, vmf->pmd, addr, &vmf->ptl);
	if (vmf->pte) {
		if (pte_same(ptep_get(vmf->pte), vmf->orig_pte))
			exclusive_restore(vma, addr, vmf->pte, page);
		pte_unmap_unlock(vmf->pte, vmf->ptl);
	}
	mmu_notifier_invalidate_range_end(&range);
}

/**
 * device_exclusive_fault() - the CPU touched a page that a device has
 * @vmf: the fault; @vmf->orig_pte is a device-exclusive entry
 *
 * The page-table lock is not held yet, so the entry and the page behind it may
 * be gone: a reference is only tried for, and the entry compared again.
 *
 * Context: Process context, mmap or VMA lock held for reading. May sleep.
 * Return: 0, or VM_FAULT_RETRY from waiting for the page lock.
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
		exclusive_revoke(vmf, vmf->page);
		folio_unlock(folio);
	}
	folio_put(folio);
	return ret;
}
