/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Book-keeping for the folios of a migration, many at a time.
 *
 * What this file owns
 *
 *   The counters and lists that each folio of a migration goes through: the
 *   statistic of mapped memory, the LRU lists and their sizes, the way back to
 *   the page allocator. One by one, they cost more than the
 *   migration itself. The folios of a call mostly belong to one memcg and one
 *   node, so the sums are kept here and added where these change.
 *
 * Invariants
 *
 *   - All folios are of order 0; what is larger goes the way of everybody else.
 *   - Nothing is left behind: who adds to one of the structures flushes it
 *     before the lock named there is dropped.
 *
 * Locks
 *
 *   struct migrate_mapped	page-table lock, and the lock of each folio,
 *				which keeps the folio in its memcg
 *   struct migrate_relist	page-table lock; takes the lruvec lock
 *   migrate_unlist()		takes the lruvec lock
 */
#ifndef _MM_MIGRATE_BULK_H
#define _MM_MIGRATE_BULK_H

#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <trace/events/pagemap.h>

#include "internal.h"

/* Folios that are put on or off a list while interrupts are off. */
#define MIGRATE_LRU_BATCH	SWAP_CLUSTER_MAX

static __always_inline bool folio_on_device(const struct folio *folio)
{
	return page_zonenum(&folio->page) == ZONE_DEVICE;
}

/* folio_mapped() of a folio that is not large */
static __always_inline bool small_folio_mapped(const struct folio *folio)
{
	return atomic_read(&folio->_mapcount) >= 0;
}

/* PageAnonExclusive() of a folio that is not large, and anonymous */
static __always_inline bool
small_folio_anon_exclusive(const struct folio *folio)
{
	return test_bit(PG_anon_exclusive, &folio->flags);
}

/* What folios of one memcg have in common; the value says nothing else. */
static __always_inline unsigned long folio_memcg_key(const struct folio *folio)
{
#ifdef CONFIG_MEMCG
	return folio->memcg_data;
#else
	return 0;
#endif
}

/*
 * Mapped memory.
 */

/**
 * struct migrate_mapped - mappings of anonymous folios that came or went
 * @pgdat: node of the folios
 * @memcg: memcg of the folios, NULL if they are not charged
 * @key: folio_memcg_key() of the folios
 * @nr: by how much NR_ANON_MAPPED has changed, and does not know yet
 */
struct migrate_mapped {
	struct pglist_data *pgdat;
	struct mem_cgroup *memcg;
	unsigned long key;
	long nr;
};

static inline void mapped_flush(struct migrate_mapped *mapped)
{
	if (!mapped->nr)
		return;
	if (mapped->memcg)
		mod_lruvec_state(mem_cgroup_lruvec(mapped->memcg,
						   mapped->pgdat),
				 NR_ANON_MAPPED, mapped->nr);
	else
		mod_node_page_state(mapped->pgdat, NR_ANON_MAPPED, mapped->nr);
	mapped->nr = 0;
}

static noinline void mapped_switch(struct migrate_mapped *mapped,
				   struct folio *folio)
{
	mapped_flush(mapped);
	mapped->pgdat = folio_pgdat(folio);
	mapped->memcg = folio_memcg(folio);
	mapped->key = folio_memcg_key(folio);
}

static __always_inline void mapped_add(struct migrate_mapped *mapped,
				       struct folio *folio, int nr)
{
	/* Between two flushes nothing is known of an earlier memcg. */
	if (!mapped->nr || mapped->pgdat != folio_pgdat(folio) ||
	    mapped->key != folio_memcg_key(folio))
		mapped_switch(mapped, folio);
	mapped->nr += nr;
}

/* folio_remove_rmap_pte() */
static __always_inline void mapped_remove_rmap(struct migrate_mapped *mapped,
					       struct folio *folio,
					       struct vm_area_struct *vma)
{
	if (unlikely(!folio_test_anon(folio))) {
		folio_remove_rmap_pte(folio, &folio->page, vma);
		return;
	}
	if (atomic_add_negative(-1, &folio->_mapcount))
		mapped_add(mapped, folio, -1);
	munlock_vma_folio(folio, vma);
}

/* folio_add_anon_rmap_pte() */
static __always_inline void mapped_add_rmap(struct migrate_mapped *mapped,
					    struct folio *folio,
					    struct vm_area_struct *vma,
					    rmap_t flags)
{
	if (atomic_inc_and_test(&folio->_mapcount))
		mapped_add(mapped, folio, 1);
	if (flags & RMAP_EXCLUSIVE)
		SetPageAnonExclusive(&folio->page);
	mlock_vma_folio(folio, vma);
}

/* folio_add_new_anon_rmap() of an exclusive folio */
static __always_inline void mapped_add_new_rmap(struct migrate_mapped *mapped,
						struct folio *folio,
						struct vm_area_struct *vma,
						unsigned long addr)
{
	void *mapping = (void *)vma->anon_vma + PAGE_MAPPING_ANON;

	if (!(vma->vm_flags & VM_DROPPABLE))
		__folio_set_swapbacked(folio);
	/* One store: page_idle looks at it without a lock. */
	WRITE_ONCE(folio->mapping, (struct address_space *)mapping);
	folio->index = linear_page_index(vma, addr);
	atomic_set(&folio->_mapcount, 0);
	SetPageAnonExclusive(&folio->page);
	mapped_add(mapped, folio, 1);
}

/*
 * LRU lists.
 */

/**
 * struct migrate_lru_size - folios that came to or left one list
 * @lruvec: whose lists, locked; or NULL
 * @pgdat: node of the lruvec
 * @key: folio_memcg_key() of the folios
 * @lru: the list
 * @zid: zone of the folios
 * @nr: what the size of the list does not know yet
 */
struct migrate_lru_size {
	struct lruvec *lruvec;
	struct pglist_data *pgdat;
	unsigned long key;
	enum lru_list lru;
	enum zone_type zid;
	long nr;
};

static inline void lru_size_flush(struct migrate_lru_size *size)
{
	if (size->nr)
		update_lru_size(size->lruvec, size->lru, size->zid, size->nr);
	size->nr = 0;
}

static inline void lru_size_unlock(struct migrate_lru_size *size)
{
	if (!size->lruvec)
		return;
	lru_size_flush(size);
	unlock_page_lruvec_irq(size->lruvec);
	size->lruvec = NULL;
}

/* Lock the lruvec of the folio, instead of the one that is locked now. */
static __always_inline void lru_size_lock(struct migrate_lru_size *size,
					  struct folio *folio)
{
	if (size->lruvec && size->pgdat == folio_pgdat(folio) &&
	    size->key == folio_memcg_key(folio))
		return;
	lru_size_unlock(size);
	size->lruvec = folio_lruvec_lock_irq(folio);
	size->pgdat = folio_pgdat(folio);
	size->key = folio_memcg_key(folio);
}

static __always_inline void lru_size_add(struct migrate_lru_size *size,
					 struct folio *folio,
					 enum lru_list lru, int nr)
{
	enum zone_type zid = folio_zonenum(folio);

	if (unlikely(lru != size->lru || zid != size->zid))
		lru_size_flush(size);
	size->lru = lru;
	size->zid = zid;
	size->nr += nr;
}

/* Folios whose PG_lru the caller has cleared leave their lists. */
static inline void migrate_unlist(struct folio **folios, unsigned int nr)
{
	struct migrate_lru_size size = {};
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct folio *folio = folios[i];
		enum lru_list lru;

		lru_size_lock(&size, folio);
		lru = folio_lru_list(folio);
		if (lru_gen_del_folio(size.lruvec, folio, false))
			continue;
		lru_size_add(&size, folio, lru, -1);
		if (lru != LRU_UNEVICTABLE)
			list_del(&folio->lru);
	}
	lru_size_unlock(&size);
}

/**
 * struct migrate_relist - anonymous folios on their way to an LRU list
 * @nr: number of folios
 * @folios: the folios. They have no reference from here: either they are
 *	mapped, and that ends only with the page-table lock, or they are locked
 *	and the caller has a reference
 */
struct migrate_relist {
	unsigned int nr;
	struct folio *folios[MIGRATE_LRU_BATCH];
};

/*
 * What lru_add() does for a folio that is mlocked. The folio was not when it was
 * queued, but it has been unlocked since: a fault on the swap cache may have
 * mapped it where VM_LOCKED is set. __mlock_folio() leaves a folio that is on
 * no list to the one that puts it on a list. As in lru_add(), the look comes
 * with the lruvec locked and before PG_lru is set, so that __munlock_folio()
 * does not clear PG_mlocked of a listed folio behind it.
 */
static __always_inline void relist_cull_mlocked(struct folio *folio)
{
	if (likely(!folio_test_mlocked(folio)))
		return;
	folio_clear_active(folio);
	folio_set_unevictable(folio);
	/* It may be counted already: reclaim mends what is too low. */
	folio->mlock_count = 0;
	__count_vm_event(UNEVICTABLE_PGCULLED);
}

static inline void relist_flush(struct migrate_relist *relist)
{
	struct migrate_lru_size size = {};
	unsigned int i;

	for (i = 0; i < relist->nr; i++) {
		struct folio *folio = relist->folios[i];
		enum lru_list lru;

		lru_size_lock(&size, folio);
		relist_cull_mlocked(folio);
		lru = folio_lru_list(folio);
		if (!lru_gen_add_folio(size.lruvec, folio, false)) {
			lru_size_add(&size, folio, lru, 1);
			if (lru != LRU_UNEVICTABLE)
				list_add(&folio->lru, &size.lruvec->lists[lru]);
		}
		trace_mm_lru_insertion(folio);
		folio_set_lru(folio);
	}
	lru_size_unlock(&size);
	relist->nr = 0;
}

/*
 * folio_add_lru(). What may have to be unevictable, and what has a generation
 * to be found out, is better left to it.
 */
static __always_inline void relist_add_locked(struct migrate_relist *relist,
					      struct folio *folio)
{
	if (lru_gen_enabled() || folio_test_mlocked(folio) ||
	    folio_test_unevictable(folio)) {
		folio_add_lru(folio);
		return;
	}
	relist->folios[relist->nr++] = folio;
	if (relist->nr == MIGRATE_LRU_BATCH)
		relist_flush(relist);
}

/* The same for a folio that is about to be mapped in @vma */
static __always_inline void relist_add(struct migrate_relist *relist,
				       struct folio *folio,
				       struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_LOCKED)
		folio_add_lru(folio);
	else
		relist_add_locked(relist, folio);
}

/*
 * Folios that nobody needs any more.
 */

/*
 * folio_put(). A page that was moved has given its charge and its place on a
 * list to the other one, so that nothing is left but to free it: in @unused,
 * when that is full or free_unref_folios() is called.
 */
static __always_inline void migrate_free_put(struct folio_batch *unused,
					     struct folio *folio)
{
	if (!folio_put_testzero(folio))
		return;
	if (folio_on_device(folio))
		free_zone_device_folio(folio);
	else if (folio_test_large(folio) || folio_test_lru(folio) ||
		 folio_test_mlocked(folio) || folio_memcg_key(folio))
		__folio_put(folio);
	else if (!folio_batch_add(unused, folio))
		free_unref_folios(unused);
}

#endif /* _MM_MIGRATE_BULK_H */
