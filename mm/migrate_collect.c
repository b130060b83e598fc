// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: collect.
 *
 * Scope
 *
 *   The first step of migrate_vma_setup(): pages of the range that @args
 *   selects are locked, their page-table entries become migration entries, and
 *   src[] names them. Holes and zero pages get their entries, too. The only
 *   entry point is migrate_vma_collect().
 *
 * Invariants
 *
 *   - An entry of src[] is 0 or what migrate_device_internal.h describes, but
 *     its page is not isolated, and may have other mappings and pins.
 *   - A page that is not collected has its mapping, lock and references as
 *     before.
 *
 * Policy for large folios
 *
 *   A folio of anonymous memory is collected whole if a PMD maps it within the
 *   range, or if PTEs map all of its pages there, in order and in one page
 *   table. If the driver wants pages, migrate_unmap() splits it once it is
 *   unmapped. With MIGRATE_VMA_SELECT_COMPOUND, a hole of the size of a PMD is
 *   collected whole, too.
 *
 *   Any other large folio of anonymous memory that is in the way is split,
 *   whether PMDs or PTEs map it; the walk stops for that, since splitting
 *   sleeps. A folio that cannot be split, for instance because it is pinned,
 *   is skipped. The mapping of a huge zero page is split at once. Large folios
 *   of files are left alone: their pages do not go to device memory.
 *
 * Locks
 *
 *   The caller holds the mmap lock. Within it, and within an mmu notifier
 *   range (MMU_NOTIFY_MIGRATE, owner of the caller):
 *
 *	page-table lock, taken and dropped by the walk
 *	  page lock, by trylock; kept for a page that is collected
 *
 *   A split takes the page lock first, by trylock, and no page-table lock is
 *   held then.
 */
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_device_internal.h"

/* Return value of a walk operation: split migrate_walk::split, then go on. */
#define COLLECT_SPLIT	1

static bool collect_selects_device(const struct migrate_vma *args,
				   const struct folio *folio)
{
	struct dev_pagemap *pgmap = folio->page.pgmap;

	if (pgmap->owner != args->pgmap_owner)
		return false;
	switch (pgmap->type) {
	case MEMORY_DEVICE_PRIVATE:
		return args->flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
	case MEMORY_DEVICE_COHERENT:
		return args->flags & MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	default:
		return false;
	}
}

static __always_inline bool collect_selects(const struct migrate_vma *args,
					    const struct folio *folio)
{
	if (unlikely(folio_is_zone_device(folio)))
		return collect_selects_device(args, folio);
	return args->flags & MIGRATE_VMA_SELECT_SYSTEM;
}

/*
 * Clear a present PTE and, if @exclusive, PG_anon_exclusive. The order matters:
 * clear the PTE, check for pins, and only then install a migration entry. A
 * device-private entry needs none of this. Its page cannot be pinned, and no
 * CPU changes the entry without the page-table lock.
 *
 * Return: false if the page is pinned. It stays mapped then.
 */
static __always_inline bool
collect_clear(struct vm_area_struct *vma, struct folio *folio,
	      unsigned long addr, pte_t *ptep, bool exclusive, pte_t *old)
{
	flush_cache_page(vma, addr, folio_pfn(folio));
	*old = ptep_get_and_clear(vma->vm_mm, addr, ptep);
	if (!exclusive ||
	    !folio_try_share_anon_rmap_pte(folio, &folio->page))
		return true;
	set_pte_at(vma->vm_mm, addr, ptep, *old);
	return false;
}

/*
 * Replace the mapping of a locked page by a migration entry.
 *
 * Return: the entry for src[], or 0 if the page is pinned and stays mapped.
 */
static __always_inline unsigned long
collect_unmap(struct migrate_walk *mw, struct folio *folio,
	      unsigned long addr, pte_t *ptep)
{
	struct vm_area_struct *vma = mw->walk.vma;
	bool anon = folio_test_anon(folio);
	bool exclusive = anon && migrate_is_exclusive(&folio->page);
	pte_t new, old = ptep_get(ptep);
	bool present = pte_present(old);
	bool write = migrate_may_write(vma, addr, old);
	unsigned long pfn = folio_pfn(folio);
	unsigned long mpfn = migrate_pfn(pfn) | MIGRATE_PFN_MIGRATE;
	swp_entry_t entry;

	if (present &&
	    !collect_clear(vma, folio, addr, ptep, exclusive, &old))
		return 0;
	if (!present && exclusive)
		migrate_clear_exclusive(&folio->page);
	if (write)
		mpfn |= MIGRATE_PFN_WRITE;
	entry = device_entry_migration(pfn, write, exclusive);
	if (present) {
		migrate_note_dirty(folio, old);
		new = device_pte_present_to_migration(entry, old);
		mw->flush = true;
	} else {
		new = device_pte_swp_to_migration(entry, old, folio);
	}
	set_pte_at(vma->vm_mm, addr, ptep, new);

	if (folio_remove_rmap_pte_batch(folio, &folio->page, vma, &mw->rmap) &&
	    anon)
		mpfn |= MIGRATE_PFN_SOLE;
	return mpfn;
}

/*
 * Skip KSM pages, which can be told from others under the page lock. ksmd would
 * read the page on the device. It also maps a page before it adds the reverse
 * mapping, so that restoring could miss an entry.
 */
static __always_inline unsigned long
collect_locked(struct migrate_walk *mw, struct folio *folio,
	       unsigned long addr, pte_t *ptep)
{
	if (folio_test_ksm(folio))
		return 0;
	return collect_unmap(mw, folio, addr, ptep);
}

static void collect_small(struct migrate_walk *mw, struct folio *folio,
			  unsigned long addr, pte_t *ptep)
{
	struct migrate_vma *args = mw->args;
	bool faulting = migrate_is_fault(args, folio);
	unsigned long mpfn;

	if (!collect_selects(args, folio) || !folio->mapping ||
	    PageHWPoison(&folio->page))
		return;
	if (!faulting && !folio_trylock(folio))
		return;
	mpfn = collect_locked(mw, folio, addr, ptep);
	if (mpfn) {
		args->src[migrate_index(args, addr)] = mpfn;
		args->cpages++;
		mw->nr_pages++;
	} else if (!faulting) {
		folio_unlock(folio);
	}
}

/* The policy, see the head of the file. */
static int collect_large(struct migrate_walk *mw, struct folio *folio)
{
	if (!collect_selects(mw->args, folio) || folio == mw->whole ||
	    !folio_test_anon(folio))
		return 0;
	if (!migrate_is_fault(mw->args, folio))
		folio_get(folio);
	mw->split = folio;
	return COLLECT_SPLIT;
}

/*
 * A run of PTEs that have pages, present or device-private. The extent ends with
 * a large folio that is left alone: the one behind it may be collected whole.
 */
static int collect_ptes(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_walk *mw = to_migrate_walk(walk);
	struct folio *folio;
	unsigned long i;
	int ret;

	for (i = 0; i < ext->nr; i++) {
		folio = pfn_folio(ext->pfn + i);
		if (folio_test_large(folio))
			break;
		collect_small(mw, folio, ext->addr + (i << PAGE_SHIFT),
			      ext->ptep + i);
	}
	if (i == ext->nr)
		return 0;
	ret = collect_large(mw, folio);
	if (!ret)
		i = folio_pfn(folio) + folio_nr_pages(folio) - ext->pfn;
	ext->nr = min(ext->nr, i);
	return ret;
}

/* The page of a present PTE that is not ordinary, if it can be collected. */
static noinline struct page *collect_hinted_page(pte_t pte)
{
	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL) || !pte_protnone(pte) ||
	    pte_special(pte))
		return NULL;
	return pte_page(pte);
}

/*
 * The page of a PTE that can be collected without looking at its neighbours,
 * or whose folio can, else NULL.
 */
static __always_inline struct page *collect_pte_page(struct device_walk *walk,
						     pte_t pte)
{
	swp_entry_t entry;

	if (likely(device_pte_ordinary(walk, pte)))
		return pte_page(pte);
	if (!is_swap_pte(pte))
		return pte_present(pte) ? collect_hinted_page(pte) : NULL;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ?
	       pfn_to_page(swp_offset_pfn(entry)) : NULL;
}

/* Does the driver want a hole or a zero page of a PMD as one entry? */
static bool collect_wants_holes(const struct migrate_vma *args)
{
	return IS_ENABLED(CONFIG_DEVICE_MIGRATION_HUGE) &&
	       migrate_wants_large(args);
}

/*
 * A PTE that maps @page, which is part of a large folio. Return: how many of
 * the @max entries at @ptep were handled, 0 if the folio has to be split.
 */
static noinline unsigned long
collect_whole(struct migrate_walk *mw, struct page *page, unsigned long addr,
	      pte_t *ptep, unsigned long max)
{
	struct folio *folio = page_folio(page);

	if (&folio->page != page || !collect_selects(mw->args, folio))
		return 0;
	return migrate_collect_extent(mw, folio, addr, ptep, max);
}

/*
 * The fast path: pages of order 0, and large folios that are collected whole.
 * Device memory comes from a free list, so its pages rarely form a run that is
 * worth an extent.
 */
static __always_inline unsigned long
collect_ordinary(struct device_walk *walk, unsigned long addr, pte_t *ptep,
		 unsigned long max)
{
	struct migrate_walk *mw = to_migrate_walk(walk);
	unsigned long nr, step;

	for (nr = 0; nr < max; nr += step) {
		struct page *page = collect_pte_page(walk, ptep_get(ptep + nr));

		if (!page)
			break;
		step = 1;
		if (likely(!PageCompound(page))) {
			collect_small(mw, migrate_head_folio(page),
				      addr + (nr << PAGE_SHIFT), ptep + nr);
			continue;
		}
		step = collect_whole(mw, page, addr + (nr << PAGE_SHIFT),
				     ptep + nr, max - nr);
		if (!step)
			break;
	}
	return nr;
}

static void collect_small_holes(struct migrate_vma *args, unsigned long addr,
				unsigned long nr)
{
	unsigned long *src = args->src + migrate_index(args, addr);
	unsigned long i;

	for (i = 0; i < nr; i++)
		src[i] = MIGRATE_PFN_MIGRATE;
	args->cpages += nr;
}

static void collect_large_hole(struct migrate_vma *args, unsigned long addr)
{
	args->src[migrate_index(args, addr)] = MIGRATE_PFN_MIGRATE |
					       MIGRATE_PFN_COMPOUND;
	args->cpages++;
}

/* Holes above the PTE level: one entry for each PMD, and pages at both ends. */
static void collect_holes(struct migrate_vma *args, struct device_extent *ext)
{
	unsigned long end = device_extent_end(ext);
	unsigned long first = ALIGN(ext->addr, PMD_SIZE);
	unsigned long last = ALIGN_DOWN(end, PMD_SIZE);

	if (ext->ptep || first >= last || !collect_wants_holes(args)) {
		collect_small_holes(args, ext->addr, ext->nr);
		return;
	}
	collect_small_holes(args, ext->addr, (first - ext->addr) >> PAGE_SHIFT);
	for (; first < last; first += PMD_SIZE)
		collect_large_hole(args, first);
	collect_small_holes(args, last, (end - last) >> PAGE_SHIFT);
}

static int collect_huge(struct migrate_walk *mw, struct device_extent *ext)
{
	struct folio *folio = pfn_folio(ext->pfn);
	int ret;

	/* Mapped PROT_NONE: otherwise its extent is DEVICE_EXTENT_ZERO. */
	if (is_huge_zero_folio(folio) || !collect_selects(mw->args, folio))
		return 0;
	if (migrate_collect_huge(mw, ext))
		return 0;
	ret = collect_large(mw, folio);
	if (ret)
		ext->nr = 0;
	return ret;
}

static int collect_zero(struct migrate_walk *mw, struct device_extent *ext)
{
	if (!(mw->args->flags & MIGRATE_VMA_SELECT_SYSTEM))
		return 0;
	if (ext->ptep) {
		collect_holes(mw->args, ext);
		return 0;
	}
	if (ext->nr == 1UL << MIGRATE_HUGE_ORDER &&
	    collect_wants_holes(mw->args)) {
		collect_large_hole(mw->args, ext->addr);
		return 0;
	}
	split_huge_pmd_locked(mw->walk.vma, ext->addr & PMD_MASK,
			      ext->pmdp, false, NULL);
	return DEVICE_WALK_AGAIN;
}

static int collect_extent(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_walk *mw = to_migrate_walk(walk);

	switch (ext->kind) {
	case DEVICE_EXTENT_HOLE:
		if (vma_is_anonymous(walk->vma))
			collect_holes(mw->args, ext);
		return 0;
	case DEVICE_EXTENT_ZERO:
		return collect_zero(mw, ext);
	case DEVICE_EXTENT_PRESENT:
	case DEVICE_EXTENT_PROTNONE:
	case DEVICE_EXTENT_PRIVATE:
		return ext->ptep ? collect_ptes(walk, ext) :
				   collect_huge(mw, ext);
	default:
		return 0;
	}
}

static void collect_table_end(struct device_walk *walk, unsigned long start,
			      unsigned long end)
{
	struct migrate_walk *mw = to_migrate_walk(walk);

	arch_leave_lazy_mmu_mode();
	rmap_batch_flush(&mw->rmap);
	if (mw->flush)
		flush_tlb_range(walk->vma, start, end);
	mw->flush = false;
	migrate_drain_mlock(walk->vma);
}

static const struct device_walk_ops collect_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.ptes = collect_ordinary,
	.present = collect_ptes,
	.extent = collect_extent,
	.table_begin = migrate_table_begin,
	.table_end = collect_table_end,
};

static bool collect_split_locked(struct folio *folio)
{
	bool done = false;

	if (folio_trylock(folio)) {
		done = !split_folio(folio);
		folio_unlock(folio);
	}
	folio_put(folio);
	return done;
}

/*
 * Split the folio that the walk stopped at, or have the walk skip it. The lock
 * and the reference of the fault path pass on to the page of the fault.
 */
static void collect_split(struct migrate_walk *mw)
{
	struct folio *folio = mw->split;
	bool done;

	if (migrate_is_fault(mw->args, folio))
		done = !split_huge_page(mw->args->fault_page);
	else
		done = collect_split_locked(folio);
	mw->whole = done ? NULL : folio;
}

/**
 * migrate_vma_collect() - take the pages of a range out of its page tables
 * @args: sane, see migrate_vma_setup(); src[] is all 0
 *
 * Fills src[] and counts in @args->cpages.
 *
 * Context: Process context, mmap lock held. May sleep.
 * Return: number of pages that were collected; holes are not counted.
 */
unsigned long migrate_vma_collect(struct migrate_vma *args)
{
	struct migrate_walk mw = migrate_walk_init(args);
	struct mmu_notifier_range range;

	mw.walk.addr = args->start;
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0,
				      mw.walk.mm, args->start, args->end,
				      args->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	while (device_walk_vma(&mw.walk, mw.walk.addr, args->end,
			       &collect_ops)) {
		collect_split(&mw);
		cond_resched();
	}
	mmu_notifier_invalidate_range_end(&range);
	return mw.nr_pages;
}
