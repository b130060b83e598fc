/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Migration between system memory and device memory: shared declarations.
 *
 * Scope
 *
 *   The pages of a migration, from the moment migration entries replace their
 *   page-table entries until the old or the new pages are mapped again. Nothing
 *   is kept between the calls of a driver but its struct migrate_vma with the
 *   arrays src[] and dst[]. A migration that starts from pfns has a struct
 *   migrate_vma on the stack, whose @vma is NULL.
 *
 *	migrate_device.c	interface, isolation, pins, identity, CPU fault
 *	migrate_collect.c	setup: from page tables to src[]
 *	migrate_populate.c	pages: map destination pages in holes
 *	migrate_restore.c	finalize: map the old or the new pages
 *	migrate_evict.c		migrations from pfns, without a VMA
 *	migrate_huge.c		collect, populate and split folios mapped by PMDs
 *	migrate_extent.c	and for large folios mapped by PTEs
 *
 *   Collect, populate and restore each have one loop over page tables or arrays.
 *   What such a loop does for a page is static in that file or inline here.
 *
 * State of an entry of src[]
 *
 *	0			nothing to migrate
 *	MIGRATE			a hole of anonymous memory, or the zero page;
 *				nothing is locked and the CPU does not wait
 *	VALID | MIGRATE		a locked and unmapped page; the migration holds
 *				one reference
 *	VALID			the same, but the page will not move
 *
 *   After setup, a system page is isolated from the LRU; a device page never
 *   was on it. Within setup, a page whose entry has lost MIGRATE is a system
 *   page that could not be isolated.
 *
 *   SOLE, with VALID: the page had one mapping, at the address of the entry.
 *   This was found with the page locked and its mapcount at 0, and it stays
 *   true: a second mapping needs fork(), which the mmap lock excludes, or a
 *   fault on the swap cache or page cache, which the page lock excludes. The
 *   page is restored by looking at that one entry, any other page by a reverse
 *   mapping walk.
 *
 *   ANON_VMA, with VALID, in migrations by pfn: the migration holds a reference
 *   to the anon_vma of the page. No mmap lock is held, so the last process that
 *   maps the page may exit and free the anon_vma, which the reverse mapping
 *   walk of finalize needs.
 *
 *   COMPOUND: the entry stands for a whole large folio of any order, named by
 *   its first page, or for a hole of the size of a PMD. The rest of the entries
 *   of these pages are 0, so a loop must step over them by migrate_entry_nr().
 *   If the driver has no large page for it, migrate_vma_pages() splits it: each
 *   page has an entry of its own then. Without MIGRATE_VMA_SELECT_COMPOUND,
 *   setup does so at its end, and the driver sees no such entries.
 *
 * State of an entry of dst[]
 *
 *	0			no destination
 *	VALID			a page from the driver, locked; its reference
 *				belongs to the migration from now on
 *	VALID | MOVED		set by *_pages(): the page has the identity of
 *				the source and replaces it
 *
 *   RESTORED, within finalize and also without VALID: the page of the entry
 *   that stays or has moved is mapped in place and, unless it is large,
 *   unlocked.
 *
 *   COMPOUND, with VALID: the first page of a large folio of the same order as
 *   the source. The rest of the entries are 0; others are released unused. If
 *   src[] has holes there that have an entry each, the folio fills as many of
 *   them as it has pages.
 *
 * References
 *
 *   Clearing a page-table entry does not drop its reference: the migration
 *   takes it over. An entry that is restored in place takes a reference from
 *   the migration: that of the source, or the driver's reference to the
 *   destination. The page is unlocked before the page table is, because a zap
 *   may free the page once the page table is unlocked. A large folio has a
 *   reference for each PTE. The migration takes over one and drops the others,
 *   and keeps its own until the end when it maps the folio again.
 *
 *   The folio of migrate_vma::fault_page is locked and referenced by the fault
 *   path, see migrate_device_fault(). The migration touches neither. If it
 *   splits the folio, both belong to the new folio of the page.
 *
 * TLB
 *
 *   A concurrent zap that finds a migration entry does not flush, so the TLB is
 *   flushed for a page table before that page table is unlocked. Pages with
 *   more mappings are unmapped in a batch, which is flushed before setup
 *   returns; zaps check for a pending batch.
 *
 * Locks
 *
 *	mmap lock (read), from setup to finalize, for migrate_vma_*()
 *	  page lock: trylock only, so that migrations do not deadlock
 *	    page-table lock
 *	    anon_vma / i_mmap locks, to split and to walk reverse mappings
 *	      lruvec lock
 *
 *   The driver runs with page locks held between the steps, and under the lock
 *   of the faulting page in dev_pagemap_ops::migrate_to_ram(). The locks that
 *   migrate_to_ram() takes thus nest inside the page lock: a driver must not
 *   fault on device memory, for instance by hmm_range_fault(), while it holds
 *   one of them.
 */
#ifndef _MM_MIGRATE_DEVICE_INTERNAL_H
#define _MM_MIGRATE_DEVICE_INTERNAL_H

#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/pagevec.h>
#include <linux/pgtable.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"

/* The private flags of src[] and dst[]; <linux/migrate.h> has the table. */
#define MIGRATE_PFN_ANON_VMA	BIT(2)
#define MIGRATE_PFN_SOLE	BIT(5)

#define MIGRATE_PFN_MOVED	BIT(2)
#define MIGRATE_PFN_RESTORED	BIT(5)

/* The driver fills dst[]: cleared before we set them in migrate_vma_pages(). */
#define MIGRATE_DST_PRIVATE	(MIGRATE_PFN_MOVED | MIGRATE_PFN_RESTORED)

static_assert(!((MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE |
		 MIGRATE_PFN_WRITE | MIGRATE_PFN_COMPOUND) &
		(MIGRATE_PFN_ANON_VMA | MIGRATE_PFN_SOLE |
		 MIGRATE_DST_PRIVATE)));

/* Work on this number of entries at a time: a folio batch holds them. */
#define MIGRATE_BATCH		PAGEVEC_SIZE

/* Order of a folio that is mapped by a PMD, and of a hole with COMPOUND */
#define MIGRATE_HUGE_ORDER	(PMD_SHIFT - PAGE_SHIFT)

/* Call cond_resched() once per this number of entries. */
#define MIGRATE_RESCHED		512

/**
 * struct migrate_walk - a page-table walk of a migration
 * @walk: position of the walk
 * @args: the migration
 * @rmap: mappings added or removed in this page table, not yet counted
 * @relist: restore: system pages mapped in this page table, not yet on the LRU
 * @nr_mapped: populate: pages mapped in this page table, not yet in the RSS
 * @flush: the TLB may hold PTEs that were cleared in this page table
 * @nr_pages: collect: number of pages collected, without holes
 * @split: collect: large folio to split, referenced
 * @whole: collect: large folio that could not be split; only compared
 */
struct migrate_walk {
	struct device_walk walk;
	struct migrate_vma *args;
	struct rmap_batch rmap;
	struct folio_batch *relist;
	unsigned long nr_mapped;
	bool flush;
	unsigned long nr_pages;
	struct folio *split;
	struct folio *whole;
};

static inline struct migrate_walk *to_migrate_walk(struct device_walk *walk)
{
	return container_of(walk, struct migrate_walk, walk);
}

static inline struct migrate_walk migrate_walk_init(struct migrate_vma *args)
{
	return (struct migrate_walk) {
		.walk.mm = args->vma->vm_mm,
		.walk.vma = args->vma,
		.args = args,
		.rmap = RMAP_BATCH_INIT,
	};
}

static inline void migrate_table_begin(struct device_walk *walk)
{
	arch_enter_lazy_mmu_mode();
}

/*
 * Mapping and unmapping in a VM_LOCKED VMA leave references in a batch of this
 * CPU, which look like pins. Drain the batch before the page table is unlocked:
 * after that the task may run on another CPU.
 */
static inline void migrate_drain_mlock(const struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_LOCKED)
		mlock_drain_local();
}

static inline unsigned long migrate_index(const struct migrate_vma *args,
					  unsigned long addr)
{
	return (addr - args->start) >> PAGE_SHIFT;
}

static __always_inline void migrate_resched(unsigned long i)
{
	if (!(i % MIGRATE_RESCHED))
		cond_resched();
}

/*
 * The folio of a page that is no tail page. Saves the test of page_folio(),
 * which each step would repeat for each page.
 */
static __always_inline struct folio *migrate_head_folio(struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(PageTail(page), page);
	return container_of(page, struct folio, page);
}

/*
 * The folio of an entry of src[], or of an entry of dst[] that has MOVED: they
 * never name a tail page.
 */
static __always_inline struct folio *migrate_entry_folio(unsigned long mpfn)
{
	if (!(mpfn & MIGRATE_PFN_VALID))
		return NULL;
	return migrate_head_folio(pfn_to_page(mpfn >> MIGRATE_PFN_SHIFT));
}

static __always_inline bool migrate_entry_is_large(unsigned long mpfn)
{
	return unlikely(mpfn & MIGRATE_PFN_COMPOUND);
}

/* Number of pages of the entry of a large folio or hole */
static inline unsigned long migrate_large_nr(unsigned long mpfn)
{
	struct folio *folio = migrate_entry_folio(mpfn);

	return folio ? folio_nr_pages(folio) : 1UL << MIGRATE_HUGE_ORDER;
}

/* Number of entries to step over from an entry of src[] to the next */
static __always_inline unsigned long migrate_entry_nr(unsigned long mpfn)
{
	return migrate_entry_is_large(mpfn) ? migrate_large_nr(mpfn) : 1;
}

/* An entry of dst[] as the driver wrote it may name any page of any folio. */
static __always_inline struct folio *migrate_dst_folio(unsigned long mpfn)
{
	if (!(mpfn & MIGRATE_PFN_VALID))
		return NULL;
	return pfn_folio(mpfn >> MIGRATE_PFN_SHIFT);
}

/*
 * The destination of a single page or hole: no large folio, and no page of one.
 * Return: NULL if the driver gave none or another one.
 */
static __always_inline struct folio *migrate_small_dst(unsigned long mpfn)
{
	struct page *page = pfn_to_page(mpfn >> MIGRATE_PFN_SHIFT);

	if (!(mpfn & MIGRATE_PFN_VALID) || PageCompound(page))
		return NULL;
	return migrate_head_folio(page);
}

static __always_inline bool migrate_entry_is_hole(unsigned long mpfn)
{
	return (mpfn & (MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE)) ==
	       MIGRATE_PFN_MIGRATE;
}

/*
 * Is the destination of a hole that has no other pages in its entry a large
 * folio, which fills the next holes, too?
 */
static __always_inline bool migrate_starts_extent(const struct migrate_vma *args,
						  unsigned long i)
{
	return unlikely(args->dst[i] & MIGRATE_PFN_COMPOUND) &&
	       migrate_entry_is_hole(args->src[i]) &&
	       !migrate_entry_is_large(args->src[i]);
}

/*
 * Has the destination replaced the source? A VALID entry of dst[] does not say
 * so: the driver may call finalize without migrate_vma_pages().
 */
static __always_inline bool migrate_moved(const struct migrate_vma *args,
					  unsigned long i)
{
	return args->dst[i] & MIGRATE_PFN_MOVED;
}

static __always_inline bool migrate_is_fault(const struct migrate_vma *args,
					     const struct folio *folio)
{
	return unlikely(args->fault_page) &&
	       page_folio(args->fault_page) == folio;
}

static inline bool migrate_wants_large(const struct migrate_vma *args)
{
	return args->flags & MIGRATE_VMA_SELECT_COMPOUND;
}

/*
 * Can the folio be collected whole, if it is mapped as one? Of a folio in the
 * swap cache, a driver that wants pages gets those whose swap is not in use, so
 * the folio is split first.
 */
static inline bool migrate_takes_whole(const struct migrate_vma *args,
				       struct folio *folio)
{
	return folio_test_anon(folio) && !folio_test_has_hwpoisoned(folio) &&
	       (migrate_wants_large(args) || !folio_test_swapcache(folio));
}

static __always_inline void migrate_unlock(const struct migrate_vma *args,
					   struct folio *folio)
{
	if (!migrate_is_fault(args, folio))
		folio_unlock(folio);
}

/*
 * PageAnonExclusive() and ClearPageAnonExclusive() without their test for
 * hugetlb, whose pages are not collected. The loops ask for each page.
 */
static __always_inline bool migrate_is_exclusive(const struct page *page)
{
	return test_bit(PG_anon_exclusive, &page->flags);
}

static __always_inline void migrate_clear_exclusive(struct page *page)
{
	if (migrate_is_exclusive(page))
		clear_bit(PG_anon_exclusive, &page->flags);
}

/*
 * folio_is_device_private() without page_pgmap(), which would look for the head
 * page again. The loops ask once or more for each page.
 */
static __always_inline bool migrate_is_private(const struct folio *folio)
{
	return folio_is_zone_device(folio) &&
	       folio->page.pgmap->type == MEMORY_DEVICE_PRIVATE;
}

/* Is a folio of ZONE_DEVICE one that processes may map, not DAX nor P2PDMA? */
static __always_inline bool migrate_is_mappable(const struct folio *folio)
{
	enum memory_type type = folio->page.pgmap->type;

	return type == MEMORY_DEVICE_PRIVATE || type == MEMORY_DEVICE_COHERENT;
}

/*
 * The PTE may have been the only record that the page is dirty. The migration
 * entry keeps its age, see restore_note_accessed().
 */
static __always_inline void migrate_note_dirty(struct folio *folio, pte_t pte)
{
	if (pte_dirty(pte))
		device_folio_note_dirty(folio);
}

/*
 * NUMA hinting clears the write permission with all others. Restore it as
 * do_numa_page() does, while PG_anon_exclusive still has its value.
 */
static __always_inline bool migrate_may_write(struct vm_area_struct *vma,
					      unsigned long addr, pte_t pte)
{
	if (!pte_present(pte))
		return is_writable_device_private_entry(pte_to_swp_entry(pte));
	if (likely(pte_write(pte)))
		return true;
	if (!pte_protnone(pte))
		return false;
	pte = pte_modify(pte, vma->vm_page_prot);
	if (pte_write(pte))
		return true;
	return vma_wants_manual_pte_write_upgrade(vma) &&
	       can_change_pte_writable(vma, addr, pte);
}

unsigned long migrate_vma_collect(struct migrate_vma *args);
unsigned long migrate_unmap(struct migrate_vma *args);
bool migrate_identities(struct migrate_vma *args);
void migrate_vma_populate(struct migrate_vma *args);
bool migrate_may_populate(struct vm_area_struct *vma);
void migrate_restore_by_rmap(struct migrate_vma *args, unsigned long i,
			     struct folio *folio);
void migrate_restore_in_place(struct migrate_vma *args);
void migrate_finish(struct migrate_vma *args);

#ifdef CONFIG_DEVICE_MIGRATION_HUGE
bool migrate_collect_huge(struct migrate_walk *mw, struct device_extent *ext);
void migrate_populate_charge(struct migrate_vma *args, unsigned long i);
void migrate_populate_huge(struct migrate_walk *mw, unsigned long addr);
bool migrate_split(struct migrate_vma *args, unsigned long i);
void migrate_queue_split(struct folio *folio);
unsigned long migrate_collect_extent(struct migrate_walk *mw,
				     struct folio *folio, unsigned long addr,
				     pte_t *ptep, unsigned long max);
unsigned long migrate_hole_extent(const struct migrate_vma *args,
				  unsigned long i);
unsigned long migrate_populate_extent(struct migrate_walk *mw,
				      unsigned long addr, pte_t *ptep);
unsigned long migrate_restore_extent(struct migrate_walk *mw, unsigned long i,
				     struct folio *folio, unsigned long addr,
				     pte_t *ptep);

#if IS_ENABLED(CONFIG_KUNIT)
void migrate_split_mappings(struct folio *folio);
#endif

/* From now on a zap looks for large folios of which it takes a part. */
static inline void migrate_note_huge(void)
{
	if (unlikely(!READ_ONCE(migrate_huge_used)))
		WRITE_ONCE(migrate_huge_used, true);
}
#else
static inline bool migrate_collect_huge(struct migrate_walk *mw,
					struct device_extent *ext)
{
	return false;
}

static inline void migrate_populate_charge(struct migrate_vma *args,
					   unsigned long i)
{
}

static inline void migrate_populate_huge(struct migrate_walk *mw,
					 unsigned long addr)
{
}

static inline bool migrate_split(struct migrate_vma *args, unsigned long i)
{
	return false;
}

static inline void migrate_queue_split(struct folio *folio)
{
}

static inline void migrate_note_huge(void)
{
}

static inline unsigned long
migrate_collect_extent(struct migrate_walk *mw, struct folio *folio,
		       unsigned long addr, pte_t *ptep, unsigned long max)
{
	return 0;
}

static inline unsigned long migrate_hole_extent(const struct migrate_vma *args,
						unsigned long i)
{
	return 0;
}

static inline unsigned long
migrate_populate_extent(struct migrate_walk *mw, unsigned long addr,
			pte_t *ptep)
{
	return 0;
}

static inline unsigned long
migrate_restore_extent(struct migrate_walk *mw, unsigned long i,
		       struct folio *folio, unsigned long addr, pte_t *ptep)
{
	return 0;
}
#endif

#endif /* _MM_MIGRATE_DEVICE_INTERNAL_H */
