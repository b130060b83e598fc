// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: restore.
 *
 * Scope
 *
 *   The last step of a migration: each migration entry becomes a mapping of the
 *   destination, if that has MOVED, or of the source; both pages are unlocked
 *   and released, and system pages go back to the LRU. There are three ways:
 *
 *	migrate_restore_in_place()	pages with SOLE, by a walk of the range
 *	migrate_finish()		all that is left, entry by entry
 *	migrate_restore_by_rmap()	one page, wherever it was mapped
 *
 * Invariants
 *
 *   - The new PTE is made from the entry as it is now: it may have been
 *     protected, cleaned or copied by fork() since setup.
 *   - RESTORED in dst[] separates the first way from the second. It is set
 *     under the page-table lock, with the page mapped and, unless it is large,
 *     unlocked, and cleared before finalize returns.
 *   - A page goes to an LRU list before the migration drops its reference.
 *
 * Locks
 *
 *   The pages are locked. In place, the mmap lock is held and the walk takes
 *   the page-table lock; without a VMA, the reference to the anon_vma keeps the
 *   reverse mapping alive. The lruvec lock is innermost.
 */
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_device_internal.h"

/* The page that is mapped again: the destination or the source, or NULL */
static __always_inline struct folio *
restore_folio(const struct migrate_vma *args, unsigned long i)
{
	return migrate_entry_folio(migrate_moved(args, i) ? args->dst[i] :
							    args->src[i]);
}

/*
 * In place.
 */

/*
 * A device-private entry has no accessed bit, so set the folio's. Only do so
 * for a page that moves: a page that stays, or that moves to memory with PTEs,
 * gets a young PTE and must not age twice.
 */
static __always_inline void restore_note_accessed(struct folio *folio,
						  pte_t old)
{
	if (is_migration_entry_young(pte_to_swp_entry(old)))
		device_folio_note_young(folio);
}

/* The page is on its LRU list before this page table is unlocked. */
static __always_inline void restore_lru(struct migrate_walk *mw,
					struct folio *folio)
{
	if (!folio_is_zone_device(folio) && !folio_batch_add(mw->relist, folio))
		folios_add_lru(mw->relist);
}

static __always_inline void
restore_pte(struct migrate_walk *mw, struct folio *folio,
	    unsigned long addr, pte_t *ptep, pte_t old)
{
	struct vm_area_struct *vma = mw->walk.vma;
	rmap_t flags = RMAP_EXCLUSIVE;
	pte_t pte;

	if (is_readable_migration_entry(pte_to_swp_entry(old)))
		flags = RMAP_NONE;
	if (migrate_is_private(folio)) {
		restore_note_accessed(folio, old);
		pte = device_pte_migration_to_private(folio_pfn(folio), old);
	} else {
		restore_lru(mw, folio);
		pte = device_pte_migration_to_present(vma, folio, &folio->page,
						      old);
	}
	folio_add_anon_rmap_pte_batch(folio, &folio->page, vma, addr, flags,
				      &mw->rmap);
	set_pte_at(vma->vm_mm, addr, ptep, pte);
	update_mmu_cache(vma, addr, ptep);
}

/*
 * Restore one migration entry. The page table is still locked when the page is
 * unlocked: the reference now belongs to the entry, and the page may be freed
 * as soon as the page table is unlocked.
 */
static __always_inline void
restore_one(struct migrate_walk *mw, unsigned long i, unsigned long addr,
	    pte_t *ptep, pte_t old)
{
	struct folio *folio = restore_folio(mw->args, i);

	restore_pte(mw, folio, addr, ptep, old);
	migrate_unlock(mw->args, folio);
	mw->args->dst[i] |= MIGRATE_PFN_RESTORED;
}

/*
 * A folio of the size of a PMD is cheap to find by rmap, and PTEs may map it by
 * now.
 */
static __always_inline bool restore_is_in_place(unsigned long mpfn)
{
	if (!(mpfn & MIGRATE_PFN_SOLE))
		return false;
	return !migrate_entry_is_large(mpfn) ||
	       migrate_large_nr(mpfn) < 1UL << MIGRATE_HUGE_ORDER;
}

/*
 * A large folio that PTEs mapped. Its mappings become references before the
 * page table is unlocked, but the migration keeps its own and the lock: it
 * needs the size of the folio to step over its entries.
 */
static noinline void restore_large(struct migrate_walk *mw, unsigned long i,
				   unsigned long addr, pte_t *ptep)
{
	struct folio *folio = restore_folio(mw->args, i);

	if (!restore_is_in_place(mw->args->src[i]) ||
	    !migrate_restore_extent(mw, i, folio, addr, ptep))
		return;
	restore_lru(mw, folio);
	migrate_queue_split(folio);
	mw->args->dst[i] |= MIGRATE_PFN_RESTORED;
}

/* Is this still the entry that setup installed for the page? */
static __always_inline bool restore_due(unsigned long mpfn, swp_entry_t entry)
{
	return is_migration_entry(entry) &&
	       swp_offset_pfn(entry) == mpfn >> MIGRATE_PFN_SHIFT;
}

static __always_inline unsigned long
restore_ptes(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	     unsigned long max)
{
	struct migrate_walk *mw = to_migrate_walk(walk);
	unsigned long first = migrate_index(mw->args, addr);
	unsigned long i;

	for (i = 0; i < max; i++, addr += PAGE_SIZE) {
		unsigned long mpfn = mw->args->src[first + i];
		pte_t pte = ptep_get(ptep + i);

		if (!(mpfn & MIGRATE_PFN_SOLE))
			continue;
		if (migrate_entry_is_large(mpfn)) {
			restore_large(mw, first + i, addr, ptep + i);
			continue;
		}
		if (is_swap_pte(pte) &&
		    restore_due(mpfn, pte_to_swp_entry(pte)))
			restore_one(mw, first + i, addr, ptep + i, pte);
	}
	return max;
}

/* Larger leaves and missing page tables: nothing was collected there. */
static int restore_nothing(struct device_walk *walk, struct device_extent *ext)
{
	return 0;
}

static void restore_table_end(struct device_walk *walk, unsigned long start,
			      unsigned long end)
{
	struct migrate_walk *mw = to_migrate_walk(walk);

	arch_leave_lazy_mmu_mode();
	rmap_batch_flush(&mw->rmap);
	if (folio_batch_count(mw->relist))
		folios_add_lru(mw->relist);
	migrate_drain_mlock(walk->vma);
}

static const struct device_walk_ops restore_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.ptes = restore_ptes,
	.present = restore_nothing,
	.extent = restore_nothing,
	.table_begin = migrate_table_begin,
	.table_end = restore_table_end,
};

/* Holes need no restoring, and shared pages are restored by rmap. */
static unsigned long restore_first(const struct migrate_vma *args)
{
	unsigned long i;

	for (i = 0; i < args->npages; i += migrate_entry_nr(args->src[i]))
		if (restore_is_in_place(args->src[i]))
			break;
	return min(i, args->npages);
}

/**
 * migrate_restore_in_place() - restore pages that had one mapping
 * @args: a migration of a VMA, after setup
 *
 * Sets MIGRATE_PFN_RESTORED in dst[] for each page that it restored.
 *
 * Context: Process context, mmap lock held. May sleep.
 */
void migrate_restore_in_place(struct migrate_vma *args)
{
	unsigned long first = restore_first(args);
	struct migrate_walk mw = migrate_walk_init(args);
	struct folio_batch relist;

	if (first == args->npages)
		return;
	folio_batch_init(&relist);
	mw.relist = &relist;
	device_walk_vma(&mw.walk, args->start + (first << PAGE_SHIFT),
			args->end, &restore_ops);
}

/*
 * By reverse mapping, and the end of each entry.
 */

/**
 * migrate_restore_by_rmap() - map a page wherever the source was mapped
 * @args: the migration
 * @i: entry of the source
 * @folio: folio to map, locked: the source, or the destination that has moved
 *
 * Context: Process context. May sleep.
 */
void migrate_restore_by_rmap(struct migrate_vma *args, unsigned long i,
			     struct folio *folio)
{
	struct folio *src = migrate_entry_folio(args->src[i]);

	remove_migration_ptes(src, folio, 0);
	if (unlikely(folio_test_large(folio)))
		migrate_queue_split(folio);
	if (!args->vma && args->src[i] & MIGRATE_PFN_ANON_VMA) {
		args->src[i] &= ~MIGRATE_PFN_ANON_VMA;
		put_anon_vma(folio_anon_vma(src));
	}
}

/**
 * struct migrate_finish - the end of a migration
 * @args: the migration
 * @unused: pages that are free
 * @relisted: entries below are back on LRU lists, if that is necessary
 */
struct migrate_finish {
	struct migrate_vma *args;
	struct folio_batch unused;
	unsigned long relisted;
};

/* Drop a destination that is unused, or whose PTE has a reference of its own. */
static __always_inline void finish_dst(unsigned long mpfn,
				       struct folio_batch *unused)
{
	struct folio *dst = migrate_dst_folio(mpfn);

	if (dst) {
		folio_unlock(dst);
		folio_put_batch(dst, unused);
	}
}

/*
 * The driver may have given more than the destination of a large folio. Mostly
 * all of these entries are 0.
 */
static void finish_rest(unsigned long *dst, unsigned long nr,
			struct folio_batch *unused)
{
	unsigned long i, any = 0;

	for (i = 0; i + 4 <= nr; i += 4)
		any |= dst[i] | dst[i + 1] | dst[i + 2] | dst[i + 3];
	for (; i < nr; i++)
		any |= dst[i];
	for (i = 0; any && i < nr; i++) {
		finish_dst(dst[i], unused);
		dst[i] = 0;
	}
}

static __always_inline void finish_src(const struct migrate_vma *args,
				       unsigned long mpfn,
				       struct folio_batch *unused)
{
	struct folio *src = migrate_entry_folio(mpfn);

	migrate_unlock(args, src);
	folio_put_batch(src, unused);
}

/*
 * restore_one() has unlocked the page that is mapped and given its reference to
 * the entry. Drop the other page.
 */
static __always_inline void
finish_restored(struct migrate_finish *mf, unsigned long i)
{
	if (migrate_moved(mf->args, i))
		finish_src(mf->args, mf->args->src[i], &mf->unused);
	else
		finish_dst(mf->args->dst[i], &mf->unused);
}

/*
 * Add the pages from entry @start on to LRU lists, before they are mapped. A
 * batch shares the lruvec lock and the statistics. Each page is locked and
 * referenced.
 *
 * Return: the entry to start from next.
 */
static unsigned long finish_relist(struct migrate_vma *args,
				   unsigned long start)
{
	unsigned long i, end = min(start + MIGRATE_BATCH, args->npages);
	struct folio_batch relist;

	folio_batch_init(&relist);
	for (i = start; i < end; i += migrate_entry_nr(args->src[i])) {
		struct folio *folio;

		/* its reference is gone, and the page may be anything */
		if (args->dst[i] & MIGRATE_PFN_RESTORED)
			continue;
		folio = restore_folio(args, i);
		if (!folio || folio_is_zone_device(folio))
			continue;
		folio_batch_add(&relist, folio);
	}
	if (folio_batch_count(&relist))
		folios_add_lru(&relist);
	return i;
}

/*
 * Restore by rmap, except pages with SOLE: these are restored in place. One
 * that gets here was zapped, and has no PTE to restore. Then drop both folios.
 */
static void finish_other(struct migrate_finish *mf, unsigned long i)
{
	struct migrate_vma *args = mf->args;
	unsigned long mpfn = args->src[i];

	if (i >= mf->relisted)
		mf->relisted = finish_relist(args, i);
	if (!args->vma || !restore_is_in_place(mpfn))
		migrate_restore_by_rmap(args, i, restore_folio(args, i));
	finish_src(args, mpfn, &mf->unused);
	finish_dst(args->dst[i], &mf->unused);
}

/* Of a large folio, restoring keeps the references. Return: its entries. */
static noinline unsigned long finish_large(struct migrate_finish *mf,
					   unsigned long i)
{
	struct migrate_vma *args = mf->args;
	unsigned long mpfn = args->src[i];
	unsigned long nr = migrate_large_nr(mpfn);

	finish_rest(args->dst + i + 1, nr - 1, &mf->unused);
	if (!(mpfn & MIGRATE_PFN_VALID)) {
		finish_dst(args->dst[i], &mf->unused);
	} else if (args->dst[i] & MIGRATE_PFN_RESTORED) {
		finish_src(args, mpfn, &mf->unused);
		finish_dst(args->dst[i], &mf->unused);
	} else {
		finish_other(mf, i);
	}
	return nr;
}

/**
 * migrate_finish() - restore what is left and drop all pages
 * @args: the migration, after migrate_restore_in_place() if it has a VMA
 *
 * A page that was zapped since setup may still be in the swap cache, so it goes
 * back to the LRU as well. That also clears the flags of the list it was on.
 *
 * Context: Process context. May sleep.
 */
void migrate_finish(struct migrate_vma *args)
{
	struct migrate_finish mf = { .args = args };
	unsigned long i, nr;

	folio_batch_init(&mf.unused);
	for (i = 0; i < args->npages; i += nr) {
		unsigned long mpfn = args->src[i];

		migrate_resched(i);
		nr = 1;
		if (migrate_entry_is_large(mpfn))
			nr = finish_large(&mf, i);
		else if (!(mpfn & MIGRATE_PFN_VALID))
			finish_dst(args->dst[i], &mf.unused);
		else if (args->dst[i] & MIGRATE_PFN_RESTORED)
			finish_restored(&mf, i);
		else
			finish_other(&mf, i);
		args->dst[i] &= ~MIGRATE_DST_PRIVATE;
	}
	if (folio_batch_count(&mf.unused))
		free_unref_folios(&mf.unused);
}
