// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: large folios mapped by
 * PTEs.
 *
 * Scope
 *
 *   What each step does for a large folio that PTEs map:
 *
 *	migrate_collect_extent()	setup: from PTEs to an entry of src[]
 *	migrate_hole_extent()		pages: does the folio fit into holes?
 *	migrate_populate_extent()	pages: map it there
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
 *   - Either all PTEs of an extent become migration entries or none, and a hole
 *     is filled as a whole or not at all.
 *   - The migration entries keep the state of each page: write, exclusive,
 *     soft-dirty, uffd-wp, dirty and young. They may differ. The entry of src[]
 *     has WRITE only if all pages are writable.
 *   - The entries are zapped, protected and copied one by one meanwhile. So
 *     each is checked again when the folio is mapped, and runs of equal entries
 *     are mapped together.
 *
 * Locks
 *
 *   The page-table lock is held throughout, and the folio is locked, but for
 *   migrate_hole_extent().
 */
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/tlbflush.h>

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
 * @equal: collect: PTEs from the first on that differ in their pfns only, if
 *	known
 */
struct migrate_extent {
	struct vm_area_struct *vma;
	struct folio *folio;
	unsigned long addr;
	pte_t *ptep;
	unsigned long nr;
	unsigned long equal;
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

	if (!pte_present(pte)) {
		device_swp_set(mm, addr, ptep, pte, nr);
		return;
	}
	set_ptes(mm, addr, ptep, pte, nr);
	update_mmu_cache_range(NULL, ext->vma, addr, ptep, nr);
}

/*
 * Collect.
 */

/* The pfn of the page that a PTE maps, present or device-private, else 0 */
static unsigned long extent_pte_pfn(pte_t pte)
{
	swp_entry_t entry;

	if (pte_present(pte))
		return pte_pfn(pte);
	if (!is_swap_pte(pte))
		return 0;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ? swp_offset_pfn(entry) : 0;
}

/* Number of PTEs from that of page @i on that differ in their pfns only */
static unsigned long extent_pte_run(const struct migrate_extent *ext,
				    unsigned long i)
{
	pte_t *ptep = ext->ptep + i, pte;

	if (i < ext->equal)
		return ext->equal - i;
	pte = ptep_get(ptep);
	return pte_present(pte) ? device_pte_run(ptep, pte, ext->nr - i) :
				  device_swp_run(ptep, pte, ext->nr - i);
}

/* Do the PTEs map all pages of the folio, in order? Mostly they are equal. */
static bool extent_is_whole(struct migrate_extent *ext)
{
	unsigned long i, pfn = folio_pfn(ext->folio);

	ext->equal = extent_pte_run(ext, 0);
	for (i = 0; i < ext->nr; i += extent_pte_run(ext, i))
		if (extent_pte_pfn(ptep_get(ext->ptep + i)) != pfn + i)
			return false;
	return true;
}

/* May the process write to the pages of this run of equal PTEs? */
static bool extent_may_write(const struct migrate_extent *ext, unsigned long i)
{
	return migrate_may_write(ext->vma, extent_addr(ext, i),
				 ptep_get(ext->ptep + i));
}

/* Can one entry of src[] say of all pages whether they were writable? */
static bool extent_has_one_permission(const struct migrate_extent *ext)
{
	unsigned long i = ext->equal;
	bool write = i < ext->nr && extent_may_write(ext, 0);

	for (; i < ext->nr; i += extent_pte_run(ext, i))
		if (extent_may_write(ext, i) != write)
			return false;
	return true;
}

/* Number of pages from page @i on that have the same state */
static unsigned long extent_page_run(const struct migrate_extent *ext,
				     unsigned long i)
{
	bool exclusive = migrate_is_exclusive(folio_page(ext->folio, i));
	unsigned long k, nr = extent_pte_run(ext, i);

	for (k = 1; k < nr; k++)
		if (migrate_is_exclusive(folio_page(ext->folio, i + k)) !=
		    exclusive)
			break;
	return k;
}

/*
 * Clear @nr equal PTEs. If the CPU has noted an access or a write in one of them
 * meanwhile, it counts for all. pte_mkdirty(), by which that is done, also makes
 * a PTE soft-dirty.
 */
static pte_t extent_clear_ptes(struct mm_struct *mm, unsigned long addr,
			       pte_t *ptep, unsigned long nr)
{
	pte_t pte = ptep_get(ptep);
	pte_t old = get_and_clear_full_ptes(mm, addr, ptep, nr, 0);

	return pte_soft_dirty(pte) ? old : pte_clear_soft_dirty(old);
}

/*
 * Replace the PTEs of @nr pages from page @i on, which have the same state.
 *
 * Return: whether they were writable.
 */
static bool extent_replace_run(const struct migrate_extent *ext,
			       unsigned long i, unsigned long nr)
{
	struct mm_struct *mm = ext->vma->vm_mm;
	struct page *page = folio_page(ext->folio, i);
	unsigned long addr = extent_addr(ext, i);
	pte_t *ptep = ext->ptep + i, pte = ptep_get(ptep);
	bool write = migrate_may_write(ext->vma, addr, pte);
	swp_entry_t entry = device_entry_migration(page_to_pfn(page), write,
						   migrate_is_exclusive(page));

	if (pte_present(pte)) {
		pte = extent_clear_ptes(mm, addr, ptep, nr);
		migrate_note_dirty(ext->folio, pte);
		pte = device_pte_present_to_migration(entry, pte);
	} else {
		pte = device_pte_swp_to_migration(entry, pte, ext->folio);
	}
	device_swp_set(mm, addr, ptep, pte, nr);
	return write;
}

/* Return: whether all pages were writable. */
static bool extent_replace(struct migrate_walk *mw,
			   const struct migrate_extent *ext)
{
	unsigned long i, run;
	bool all = true;

	if (!migrate_is_private(ext->folio)) {
		flush_cache_range(ext->vma, ext->addr,
				  extent_addr(ext, ext->nr));
		mw->flush = true;
	}
	for (i = 0; i < ext->nr; i += run) {
		run = extent_page_run(ext, i);
		all &= extent_replace_run(ext, i, run);
	}
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
	for (i = 0; i < ext->nr; i++)
		migrate_clear_exclusive(folio_page(ext->folio, i));
	/* Pairs with the barrier in gup_must_unshare(). */
	smp_mb__after_atomic();
	return true;
}

/* Map the pages again, which are still counted as mapped and exclusive. */
static void extent_undo(const struct migrate_extent *ext)
{
	unsigned long i;

	/* the entries that are read were written a moment ago */
	arch_flush_lazy_mmu_mode();
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
 * all of its pages are mapped here, or because the driver wants single pages and
 * not all of them are writable, or none.
 */
unsigned long migrate_collect_extent(struct migrate_walk *mw,
				     struct folio *folio, unsigned long addr,
				     pte_t *ptep, unsigned long max)
{
	struct migrate_extent ext = extent_init(mw, folio, addr, ptep);
	bool faulting = migrate_is_fault(mw->args, folio);
	unsigned long mpfn;

	if (ext.nr > max || !migrate_takes_whole(mw->args, folio) ||
	    !extent_is_whole(&ext))
		return 0;
	if (!migrate_wants_large(mw->args) && !extent_has_one_permission(&ext))
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

/*
 * Populate.
 */

/* May the folio be the destination of holes? */
static bool extent_fits_hole(const struct page *page, struct folio *folio)
{
	return &folio->page == page && folio_test_large(folio) &&
	       folio_test_large_rmappable(folio) &&
	       folio_order(folio) < MIGRATE_HUGE_ORDER;
}

/**
 * migrate_hole_extent() - does a large destination fit into holes?
 * @args: the migration
 * @i: the first hole, which has a large destination
 *
 * The holes have the alignment of the folio, so they are in one page table.
 * Their other entries of dst[] must be 0.
 *
 * Return: number of holes that it fills, or 0 if it does not fit.
 */
unsigned long migrate_hole_extent(const struct migrate_vma *args,
				  unsigned long i)
{
	struct page *page = migrate_pfn_to_page(args->dst[i]);
	struct folio *folio = page ? page_folio(page) : NULL;
	unsigned long k, nr;

	if (!folio || !extent_fits_hole(page, folio) || !args->vma)
		return 0;
	nr = folio_nr_pages(folio);
	if (!IS_ALIGNED((args->start >> PAGE_SHIFT) + i, nr) ||
	    nr > args->npages - i)
		return 0;
	for (k = 1; k < nr; k++)
		if (args->dst[i + k] || args->src[i + k] != args->src[i])
			return 0;
	return nr;
}

static bool extent_is_none(const struct migrate_extent *ext)
{
	unsigned long i;

	for (i = 0; i < ext->nr; i++)
		if (!pte_none(ptep_get(ext->ptep + i)))
			return false;
	return true;
}

/* userfaultfd may write-protect a zero page, which stays then. */
static bool extent_is_zero(const struct migrate_extent *ext)
{
	unsigned long i;

	for (i = 0; i < ext->nr; i++) {
		pte_t pte = ptep_get(ext->ptep + i);

		if (!pte_present(pte) || !is_zero_pfn(pte_pfn(pte)) ||
		    pte_uffd_wp(pte))
			return false;
	}
	return true;
}

/*
 * The zero pages must leave the TLBs before the CPU can access the folio, to
 * which a device-private entry gives no access.
 */
static void extent_zap_zero(struct migrate_walk *mw,
			    const struct migrate_extent *ext)
{
	struct mm_struct *mm = ext->vma->vm_mm;
	unsigned long i, end = extent_addr(ext, ext->nr);

	flush_cache_range(ext->vma, ext->addr, end);
	for (i = 0; i < ext->nr; i++) {
		ksm_might_unmap_zero_page(mm, ptep_get(ext->ptep + i));
		ptep_get_and_clear(mm, extent_addr(ext, i), ext->ptep + i);
	}
	if (migrate_is_private(ext->folio))
		mw->flush = true;
	else
		flush_tlb_range(ext->vma, ext->addr, end);
}

/* Return: false if a page was mapped here since setup. */
static bool extent_make_room(struct migrate_walk *mw,
			     const struct migrate_extent *ext)
{
	if (!migrate_may_populate(ext->vma))
		return false;
	if (extent_is_none(ext))
		return true;
	if (!extent_is_zero(ext))
		return false;
	extent_zap_zero(mw, ext);
	return true;
}

/* The device may have written to new memory that is writable. */
static pte_t extent_new_pte(const struct migrate_extent *ext)
{
	bool write = ext->vma->vm_flags & VM_WRITE;
	pte_t pte;

	if (migrate_is_private(ext->folio))
		return device_pte_new_private(folio_pfn(ext->folio), write);
	pte = mk_pte(&ext->folio->page, ext->vma->vm_page_prot);
	return write ? pte_mkwrite(pte_mkdirty(pte), ext->vma) : pte;
}

static void extent_map_new(struct migrate_walk *mw,
			   const struct migrate_extent *ext)
{
	struct folio *folio = ext->folio;

	folio_ref_add(folio, ext->nr);
	folio_add_new_anon_rmap(folio, ext->vma, ext->addr, RMAP_EXCLUSIVE);
	if (!folio_is_zone_device(folio))
		folio_add_lru_vma(folio, ext->vma);
	extent_set_ptes(ext, 0, extent_new_pte(ext), ext->nr);
	mw->nr_mapped += ext->nr;
}

/**
 * migrate_populate_extent() - map a large destination in place of holes
 * @mw: the walk
 * @addr: address of the first hole
 * @ptep: its PTE
 *
 * Clears the entries of src[] if that is not possible.
 *
 * Context: page-table lock held. migrate_hole_extent() has accepted the folio.
 * Return: number of pages of the folio.
 */
unsigned long migrate_populate_extent(struct migrate_walk *mw,
				      unsigned long addr, pte_t *ptep)
{
	unsigned long i = migrate_index(mw->args, addr);
	struct migrate_extent ext =
		extent_init(mw, migrate_entry_folio(mw->args->dst[i]), addr,
			    ptep);

	if (extent_make_room(mw, &ext))
		extent_map_new(mw, &ext);
	else
		memset_l(mw->args->src + i, 0, ext.nr);
	return ext.nr;
}
