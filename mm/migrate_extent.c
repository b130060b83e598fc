// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: large folios mapped by
 * PTEs.
 *
 * Scope
 *
 *   What each step does for a large folio that PTEs map, for drivers that asked
 *   for large folios by MIGRATE_VMA_SELECT_COMPOUND:
 *
 *	migrate_collect_extent()	setup: from PTEs to an entry of src[]
 *	migrate_restore_extent()	finalize: from migration entries to PTEs
 *
 *   All other steps are the same for a large folio as for a page.
 *
 * Invariants
 *
 *   - An extent is a run of PTEs, one for each page of the folio and in the
 *     order of the pages. It lies in one page table, in the VMA and in the
 *     range of the migration. The address need not have the alignment of the
 *     folio: mremap() may have moved it.
 *   - Either all PTEs of an extent become migration entries or none.
 *   - The migration entries keep the state of each page: write, exclusive,
 *     soft-dirty, uffd-wp, dirty and young. They may differ. The entry of src[]
 *     has WRITE only if all pages are writable.
 *   - The entries are zapped, protected and copied one by one meanwhile. So
 *     each is checked again when the folio is mapped, and runs of equal entries
 *     are mapped together.
 *
 * Locks
 *
 *   The page-table lock is held throughout, and the folio is locked.
 */
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_device_internal.h"

/**
 * struct migrate_extent - a large folio and the PTEs for its pages
 * @vma: the VMA
 * @folio: the folio
 * @addr: address of the first page
 * @ptep: PTE of the first page
 * @nr: number of pages
 */
struct migrate_extent {
	struct vm_area_struct *vma;
	struct folio *folio;
	unsigned long addr;
	pte_t *ptep;
	unsigned long nr;
};

static struct migrate_extent extent_init(const struct migrate_walk *mw,
					 struct folio *folio,
					 unsigned long addr, pte_t *ptep)
{
	return (struct migrate_extent) {
		.vma = mw->walk.vma,
		.folio = folio,
		.addr = addr,
		.ptep = ptep,
		.nr = folio_nr_pages(folio),
	};
}

static unsigned long extent_addr(const struct migrate_extent *ext,
				 unsigned long i)
{
	return ext->addr + (i << PAGE_SHIFT);
}

/* Set the PTEs of @nr pages from page @i on. @pte is the first one. */
static void extent_set_ptes(const struct migrate_extent *ext, unsigned long i,
			    pte_t pte, unsigned long nr)
{
	struct mm_struct *mm = ext->vma->vm_mm;
	unsigned long addr = extent_addr(ext, i);
	pte_t *ptep = ext->ptep + i;
	unsigned long k;

	if (pte_present(pte)) {
		set_ptes(mm, addr, ptep, pte, nr);
		update_mmu_cache_range(NULL, ext->vma, addr, ptep, nr);
		return;
	}
	for (k = 0; k < nr; k++, addr += PAGE_SIZE) {
		set_pte_at(mm, addr, ptep + k, pte);
		pte = pte_next_swp_offset(pte);
	}
}

/*
 * Collect.
 */

static bool extent_is_present(const struct migrate_extent *ext)
{
	unsigned long i, pfn = folio_pfn(ext->folio);

	for (i = 0; i < ext->nr; i++) {
		pte_t pte = ptep_get(ext->ptep + i);

		if (!pte_present(pte) || pte_pfn(pte) != pfn + i)
			return false;
	}
	return true;
}

static bool extent_is_private(const struct migrate_extent *ext)
{
	unsigned long i, pfn = folio_pfn(ext->folio);

	for (i = 0; i < ext->nr; i++) {
		pte_t pte = ptep_get(ext->ptep + i);
		swp_entry_t entry;

		if (!is_swap_pte(pte))
			return false;
		entry = pte_to_swp_entry(pte);
		if (!is_device_private_entry(entry) ||
		    swp_offset_pfn(entry) != pfn + i)
			return false;
	}
	return true;
}

/* Do the PTEs map all pages of the folio, in order? */
static bool extent_is_whole(const struct migrate_extent *ext)
{
	return migrate_is_private(ext->folio) ? extent_is_private(ext) :
						extent_is_present(ext);
}

/* Return: whether the page was mapped writable. */
static bool extent_replace_present(const struct migrate_extent *ext,
				   unsigned long i)
{
	struct page *page = folio_page(ext->folio, i);
	unsigned long addr = extent_addr(ext, i);
	pte_t *ptep = ext->ptep + i;
	bool write = migrate_may_write(ext->vma, addr, ptep_get(ptep));
	swp_entry_t entry = device_entry_migration(page_to_pfn(page), write,
						   PageAnonExclusive(page));
	pte_t old = ptep_get_and_clear(ext->vma->vm_mm, addr, ptep);

	if (!folio_test_dirty(ext->folio))
		migrate_note_dirty(ext->folio, old);
	set_pte_at(ext->vma->vm_mm, addr, ptep,
		   device_pte_present_to_migration(entry, old));
	return write;
}

/* Return: whether the entry was writable. */
static bool extent_replace_private(const struct migrate_extent *ext,
				   unsigned long i)
{
	struct page *page = folio_page(ext->folio, i);
	pte_t old = ptep_get(ext->ptep + i);
	bool write = is_writable_device_private_entry(pte_to_swp_entry(old));
	swp_entry_t entry = device_entry_migration(page_to_pfn(page), write,
						   PageAnonExclusive(page));

	set_pte_at(ext->vma->vm_mm, extent_addr(ext, i), ext->ptep + i,
		   device_pte_swp_to_migration(entry, old, ext->folio));
	return write;
}

/* Return: whether all pages were writable. */
static bool extent_replace(struct migrate_walk *mw,
			   const struct migrate_extent *ext)
{
	bool all = true;
	unsigned long i;

	if (migrate_is_private(ext->folio)) {
		for (i = 0; i < ext->nr; i++)
			all &= extent_replace_private(ext, i);
		return all;
	}
	flush_cache_range(ext->vma, ext->addr, extent_addr(ext, ext->nr));
	for (i = 0; i < ext->nr; i++)
		all &= extent_replace_present(ext, i);
	mw->flush = true;
	return all;
}

/*
 * Clear PG_anon_exclusive of all pages, as folio_try_share_anon_rmap_pte() does
 * for one. No PTE is present any more, so GUP-fast cannot pin the folio after
 * this check: it finds that the PTE has changed.
 *
 * Return: false if the folio is pinned. Then nothing was changed.
 */
static bool extent_share(const struct migrate_extent *ext)
{
	unsigned long i;

	if (!migrate_is_private(ext->folio)) {
		/* Pairs with the barrier in try_grab_folio_fast(). */
		smp_mb();
		if (folio_maybe_dma_pinned(ext->folio))
			return false;
	}
	for (i = 0; i < ext->nr; i++) {
		struct page *page = folio_page(ext->folio, i);

		if (PageAnonExclusive(page))
			ClearPageAnonExclusive(page);
	}
	/* Pairs with the barrier in gup_must_unshare(). */
	smp_mb__after_atomic();
	return true;
}

/* Map the pages again, which are still counted as mapped and exclusive. */
static void extent_undo(const struct migrate_extent *ext)
{
	unsigned long i;

	for (i = 0; i < ext->nr; i++) {
		struct page *page = folio_page(ext->folio, i);
		pte_t old = ptep_get(ext->ptep + i);

		extent_set_ptes(ext, i,
				device_pte_migration_to_present(ext->vma,
								ext->folio,
								page, old), 1);
	}
}

/*
 * Replace the mapping of a locked folio by migration entries. The migration
 * keeps one of the references of the PTEs.
 *
 * Return: the entry for src[], or 0 if the folio is pinned and stays mapped.
 */
static unsigned long extent_unmap(struct migrate_walk *mw,
				  const struct migrate_extent *ext)
{
	struct folio *folio = ext->folio;
	unsigned long mpfn = migrate_pfn(folio_pfn(folio)) |
			     MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND;

	if (extent_replace(mw, ext))
		mpfn |= MIGRATE_PFN_WRITE;
	if (!extent_share(ext)) {
		extent_undo(ext);
		return 0;
	}
	folio_remove_rmap_ptes(folio, &folio->page, ext->nr, ext->vma);
	folio_ref_sub(folio, ext->nr - 1);
	if (!folio_mapped(folio))
		mpfn |= MIGRATE_PFN_SOLE;
	return mpfn;
}

/**
 * migrate_collect_extent() - collect a folio that is mapped by PTEs as a whole
 * @mw: the walk
 * @folio: large folio that @mw->args selects
 * @addr: address of its first page
 * @ptep: PTE of its first page
 * @max: number of PTEs from @ptep on that are in the range and in this table
 *
 * A folio that is locked or pinned is skipped.
 *
 * Context: page-table lock held.
 * Return: number of pages of the folio; 0 if it has to be split, because not
 * all of its pages are mapped here.
 */
unsigned long migrate_collect_extent(struct migrate_walk *mw,
				     struct folio *folio, unsigned long addr,
				     pte_t *ptep, unsigned long max)
{
	struct migrate_extent ext = extent_init(mw, folio, addr, ptep);
	bool faulting = migrate_is_fault(mw->args, folio);
	unsigned long mpfn;

	if (ext.nr > max || !folio_test_anon(folio) ||
	    folio_test_has_hwpoisoned(folio) || !extent_is_whole(&ext))
		return 0;
	if (!faulting && !folio_trylock(folio))
		return ext.nr;
	mpfn = extent_unmap(mw, &ext);
	if (mpfn) {
		mw->args->src[migrate_index(mw->args, addr)] = mpfn;
		mw->args->cpages++;
		mw->nr_pages++;
	} else if (!faulting) {
		folio_unlock(folio);
	}
	return ext.nr;
}

/*
 * Restore.
 */

static void extent_note_accessed(struct folio *folio, swp_entry_t entry)
{
	if (is_migration_entry_young(entry))
		device_folio_note_young(folio);
}

/* Map @nr pages from page @i on, whose entries are equal. @old is the first. */
static void extent_map(const struct migrate_extent *ext, unsigned long i,
		       pte_t old, unsigned long nr)
{
	struct page *page = folio_page(ext->folio, i);
	swp_entry_t entry = pte_to_swp_entry(old);
	rmap_t flags = is_readable_migration_entry(entry) ? RMAP_NONE :
							    RMAP_EXCLUSIVE;
	pte_t pte;

	folio_ref_add(ext->folio, nr);
	folio_add_anon_rmap_ptes(ext->folio, page, nr, ext->vma,
				 extent_addr(ext, i), flags);
	if (migrate_is_private(ext->folio)) {
		extent_note_accessed(ext->folio, entry);
		pte = device_pte_migration_to_private(page_to_pfn(page), old);
	} else {
		pte = device_pte_migration_to_present(ext->vma, ext->folio,
						      page, old);
	}
	extent_set_ptes(ext, i, pte, nr);
}

/* Is this still the entry that setup installed for the page? */
static bool extent_is_due(pte_t pte, unsigned long pfn)
{
	swp_entry_t entry;

	if (!is_swap_pte(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	return is_migration_entry(entry) && swp_offset_pfn(entry) == pfn;
}

/**
 * migrate_restore_extent() - map a large folio in place of an extent
 * @mw: the walk
 * @i: entry of the source
 * @folio: folio to map, locked: the source, or the destination that has moved
 * @addr: address of its first page
 * @ptep: PTE of its first page
 *
 * Each mapping gets a reference of its own.
 *
 * Context: page-table lock held.
 * Return: number of pages that were mapped. The others were zapped.
 */
unsigned long migrate_restore_extent(struct migrate_walk *mw, unsigned long i,
				     struct folio *folio, unsigned long addr,
				     pte_t *ptep)
{
	struct migrate_extent ext = extent_init(mw, folio, addr, ptep);
	unsigned long pfn = mw->args->src[i] >> MIGRATE_PFN_SHIFT;
	unsigned long k, run, mapped = 0;

	for (k = 0; k < ext.nr; k += run) {
		pte_t pte = ptep_get(ptep + k);

		run = 1;
		if (!extent_is_due(pte, pfn + k))
			continue;
		run = device_swp_run(ptep + k, pte, ext.nr - k);
		extent_map(&ext, k, pte, run);
		mapped += run;
	}
	return mapped;
}
