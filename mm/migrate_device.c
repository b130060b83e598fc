// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and the memory of a device.
 *
 * What this file owns
 *
 *   The pages of a migration from the moment they are taken out of the page
 *   tables until new or old pages stand there again. A driver calls
 *
 *	migrate_vma_setup()	collect, unmap, find out who is pinned
 *	   (the driver allocates and copies)
 *	migrate_vma_pages()	the new page takes over the identity
 *	migrate_vma_finalize()	page tables, locks and references
 *
 *   or, when it starts from device pages whose mappings it does not know,
 *   migrate_device_range() or migrate_device_pfns() in place of the first
 *   and migrate_device_pages() and migrate_device_finalize() of the others.
 *   Nothing is kept between the calls but the arrays src[] and dst[].
 *
 * State of an entry of src[]
 *
 *	0			nothing to migrate here
 *	MIGRATE			a hole of anonymous memory, or the zero page;
 *				nothing is locked, and nobody waits
 *	VALID | MIGRATE		a page that is locked, unmapped, isolated from
 *				the LRU, and has one reference that is ours
 *	VALID			the same, but it will not move
 *
 *   ISOLATED, beside VALID, says that the page was taken off an LRU list.
 *   SOLE, beside VALID, says that the one mapping that the page had was at
 *   the address of the entry. That was found under the page lock with the
 *   mapcount at 0, and it stays so: a second mapping could only come by
 *   fork(), which the mmap lock keeps out, or by a fault on the swap cache or
 *   the page cache, which the page lock does. Such a page is restored by
 *   looking at that one entry; any other by a walk of the reverse mappings.
 *
 *   ANON_VMA, beside VALID and in migrations by pfn only, says that the
 *   anon_vma of the page has a reference of ours. No mmap lock is held there,
 *   so that it could go with the last process that had the page mapped, and
 *   the walk that restores the page needs it.
 *
 * State of an entry of dst[]
 *
 *	0			no destination
 *	VALID			a page that the driver brings, locked, with a
 *				reference that is ours from then on
 *	VALID | MOVED		from migrate_vma_pages() on: it has the identity
 *				of the source, and takes over
 *
 * References
 *
 *   The reference of a page-table entry is not dropped when the entry is
 *   cleared: it becomes that of the migration. Where the entry is restored in
 *   place it goes back there, or, for a page that takes over, the reference
 *   that the driver brought goes there. The page is unlocked before the page
 *   table is, since after that a zap may free it.
 *
 *   The page of a fault (migrate_vma::fault_page) comes with a lock and a
 *   reference of the fault path's, see migrate_device_fault(). Neither is
 *   touched here.
 *
 * TLB
 *
 *   A zap that runs at the same time finds a migration entry and flushes
 *   nothing, so no page table is unlocked before the TLB entries of what was
 *   cleared in it are gone. That is one flush a page table. Pages with other
 *   mappings are unmapped in a batch that is flushed before setup returns;
 *   zaps know of such a batch.
 *
 * Locks
 *
 *	mmap lock (read), from setup to finalize, for migrate_vma_*()
 *	  page lock: trylock only, so that migrations do not deadlock
 *	    page-table lock
 *	    anon_vma / i_mmap locks, to split and to walk reverse mappings
 *	      lruvec lock
 *
 *   A page lock is held while the driver runs between the steps, and by the
 *   fault path around dev_pagemap_ops::migrate_to_ram(). Whatever that
 *   function takes is thus taken inside a page lock: a driver must not fault
 *   on device memory, by hmm_range_fault() for one, while it holds it.
 */
#include <linux/export.h>
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/oom.h>
#include <linux/page_idle.h>
#include <linux/rmap.h>
#include <linux/secretmem.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_bulk.h"

/* Flags of src[] that are ours: see the head of the file. */
#define MIGRATE_PFN_ISOLATED	BIT(2)
#define MIGRATE_PFN_ANON_VMA	BIT(4)
#define MIGRATE_PFN_SOLE	BIT(5)

/*
 * Of dst[]: the page has the identity of the source; and, within finalize, the
 * page that won is mapped and let go of.
 */
#define MIGRATE_PFN_MOVED	BIT(2)
#define MIGRATE_PFN_RESTORED	BIT(5)

/* What an operation of a walk asks its caller to do before it goes on. */
#define MIGRATE_STOP_TO_SPLIT	1
#define MIGRATE_STOP_TO_ALLOC	2

/*
 * The page of an entry of src[], or of one of dst[] that migrate_vma_pages()
 * has accepted: neither is ever a part of a large folio.
 */
static __always_inline struct folio *migrate_entry_folio(unsigned long mpfn)
{
	if (!(mpfn & MIGRATE_PFN_VALID))
		return NULL;
	return (struct folio *)pfn_to_page(mpfn >> MIGRATE_PFN_SHIFT);
}

/* What a driver entered may be any part of any folio. */
static __always_inline struct folio *migrate_dst_folio(unsigned long mpfn)
{
	struct folio *folio = migrate_entry_folio(mpfn);

	if (folio && PageCompound(&folio->page))
		return page_folio(&folio->page);
	return folio;
}

static __always_inline bool migrate_entry_is_hole(unsigned long mpfn)
{
	return (mpfn & (MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE)) ==
	       MIGRATE_PFN_MIGRATE;
}

/* A folio of ZONE_DEVICE that processes may own */
static __always_inline bool folio_is_device_memory(const struct folio *folio)
{
	enum memory_type type = folio->page.pgmap->type;

	return type == MEMORY_DEVICE_PRIVATE || type == MEMORY_DEVICE_COHERENT;
}

static __always_inline bool folio_is_private(const struct folio *folio)
{
	return folio_on_device(folio) &&
	       folio->page.pgmap->type == MEMORY_DEVICE_PRIVATE;
}

static void migrate_table_begin(struct device_walk *walk)
{
	arch_enter_lazy_mmu_mode();
}

/*
 * Mapping and unmapping in an mlocked VMA leaves references in a batch of this
 * CPU, which look like pins. Drop them before the page-table lock is dropped:
 * after that, this may be another CPU.
 */
static void migrate_drain_mlock(const struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_LOCKED)
		mlock_drain_local();
}

/*
 * Collect: from page tables into src[].
 */

/**
 * struct migrate_collect - state of migrate_vma_setup()
 * @walk: where the walk stands
 * @args: the caller's arguments
 * @split: large folio to be split, with a reference; NULL: a huge zero page
 * @whole: large folio that could not be split; only ever compared
 * @pages: number of pages collected, which leaves out holes
 * @mapped: mappings that went in this page table
 * @unmapped: PTEs that the TLB may know were cleared in this page table
 */
struct migrate_collect {
	struct device_walk walk;
	struct migrate_mapped mapped;
	struct migrate_vma *args;
	struct folio *split;
	struct folio *whole;
	unsigned long pages;
	bool unmapped;
};

static inline struct migrate_collect *to_collect(struct device_walk *walk)
{
	return container_of(walk, struct migrate_collect, walk);
}

static inline unsigned long migrate_index(const struct migrate_vma *args,
					  unsigned long addr)
{
	return (addr - args->start) >> PAGE_SHIFT;
}

static bool collect_wants_device(const struct migrate_vma *args,
				 struct folio *folio)
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

static __always_inline bool collect_wants(const struct migrate_vma *args,
					  struct folio *folio)
{
	if (unlikely(folio_on_device(folio)))
		return collect_wants_device(args, folio);
	return args->flags & MIGRATE_VMA_SELECT_SYSTEM;
}

/*
 * A PTE that is gone may have been the only one to know that the page is dirty.
 * Its age is kept in the migration entry: see restore_note_accessed().
 */
static __always_inline void collect_note_dirty(struct folio *folio, pte_t pte)
{
	if (pte_dirty(pte))
		device_folio_note_dirty(folio);
}

/*
 * NUMA hinting takes the write permission away with all others. Give it back
 * as do_numa_page() does, while PG_anon_exclusive is still what it was.
 */
static __always_inline bool collect_may_write(struct vm_area_struct *vma,
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

/*
 * Clear a present PTE and take the mark of an exclusive page. Order matters: the
 * PTE is cleared, then pins are looked for, and only then may there be a
 * migration entry. Device-private memory is never pinned, and no CPU changes its
 * entry behind the page-table lock, so that it can stay until it is replaced.
 *
 * Return: false if the page is pinned and stays mapped.
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
 * Return: the entry for src[], 0 if the page is pinned and stays mapped.
 */
static __always_inline unsigned long
collect_unmap(struct migrate_collect *mc, struct folio *folio,
	      unsigned long addr, pte_t *ptep)
{
	struct vm_area_struct *vma = mc->walk.vma;
	bool anon = folio_test_anon(folio);
	bool exclusive = anon && small_folio_anon_exclusive(folio);
	pte_t new, old = ptep_get(ptep);
	bool present = pte_present(old);
	bool write = collect_may_write(vma, addr, old);
	unsigned long pfn = folio_pfn(folio);
	unsigned long mpfn = migrate_pfn(pfn) | MIGRATE_PFN_MIGRATE;
	swp_entry_t entry;

	if (present &&
	    !collect_clear(vma, folio, addr, ptep, exclusive, &old))
		return 0;
	if (!present && exclusive)
		ClearPageAnonExclusive(&folio->page);
	if (write)
		mpfn |= MIGRATE_PFN_WRITE;
	entry = device_entry_migration(pfn, write, exclusive);
	if (present) {
		collect_note_dirty(folio, old);
		new = device_pte_present_to_migration(entry, old);
		mc->unmapped = true;
	} else {
		new = device_pte_swp_to_migration(entry, old, folio);
	}
	set_pte_at(vma->vm_mm, addr, ptep, new);

	mapped_remove_rmap(&mc->mapped, folio, vma);
	if (anon && !small_folio_mapped(folio))
		mpfn |= MIGRATE_PFN_SOLE;
	return mpfn;
}

/*
 * Not what belongs to KSM, which the page lock tells. ksmd would go on to read
 * it, and maps a page before the reverse mappings know, so that an entry could
 * be missed when it is to be restored.
 */
static __always_inline unsigned long
collect_locked(struct migrate_collect *mc, struct folio *folio,
	       unsigned long addr, pte_t *ptep)
{
	if (folio_test_ksm(folio))
		return 0;
	return collect_unmap(mc, folio, addr, ptep);
}

/* A page that is not part of a large folio */
static void collect_small(struct migrate_collect *mc, struct folio *folio,
			  unsigned long addr, pte_t *ptep)
{
	struct migrate_vma *args = mc->args;
	bool faulting = &folio->page == args->fault_page;
	unsigned long mpfn;

	if (!collect_wants(args, folio) || !folio->mapping ||
	    PageHWPoison(&folio->page))
		return;
	if (!faulting && !folio_trylock(folio))
		return;
	mpfn = collect_locked(mc, folio, addr, ptep);
	if (mpfn) {
		args->src[migrate_index(args, addr)] = mpfn;
		args->cpages++;
		mc->pages++;
	} else if (!faulting) {
		folio_unlock(folio);
	}
}

/* Of a file it stays whole: device memory is no place for its pages anyway. */
static int collect_large(struct migrate_collect *mc, struct folio *folio)
{
	if (!collect_wants(mc->args, folio) || folio == mc->whole ||
	    !folio_test_anon(folio))
		return 0;
	folio_get(folio);
	mc->split = folio;
	return MIGRATE_STOP_TO_SPLIT;
}

static int collect_page(struct migrate_collect *mc, unsigned long addr,
			pte_t *ptep, unsigned long pfn)
{
	struct folio *folio = pfn_folio(pfn);

	if (folio_test_large(folio))
		return collect_large(mc, folio);
	collect_small(mc, folio, addr, ptep);
	return 0;
}

/* A run of PTEs that have pages, present or device-private. */
static int collect_ptes(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_collect *mc = to_collect(walk);
	unsigned long i;
	int ret;

	for (i = 0; i < ext->nr; i++) {
		ret = collect_page(mc, ext->addr + (i << PAGE_SHIFT),
				   ext->ptep + i, ext->pfn + i);
		if (ret) {
			ext->nr = i;
			return ret;
		}
	}
	return 0;
}

/*
 * The page of an entry, if it has one that can be collected without a look at
 * its neighbours; else NULL.
 */
static __always_inline struct page *collect_pte_page(struct device_walk *walk,
						     pte_t pte)
{
	swp_entry_t entry;

	if (likely(device_pte_ordinary(walk, pte)))
		return pte_page(pte);
	if (!is_swap_pte(pte))
		return NULL;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ?
	       pfn_to_page(swp_offset_pfn(entry)) : NULL;
}

/*
 * The short cut: what need not be split. Device memory comes from a free list,
 * so its pages seldom make a run that would be worth an extent.
 */
static __always_inline unsigned long
collect_ordinary(struct device_walk *walk, unsigned long addr, pte_t *ptep,
		 unsigned long max)
{
	struct migrate_collect *mc = to_collect(walk);
	unsigned long nr;

	for (nr = 0; nr < max; nr++) {
		struct page *page = collect_pte_page(walk, ptep_get(ptep + nr));

		if (!page || PageCompound(page))
			break;
		collect_small(mc, (struct folio *)page,
			      addr + (nr << PAGE_SHIFT), ptep + nr);
	}
	return nr;
}

static void collect_holes(struct migrate_vma *args, struct device_extent *ext)
{
	unsigned long *src = args->src + migrate_index(args, ext->addr);
	unsigned long i;

	for (i = 0; i < ext->nr; i++)
		src[i] = MIGRATE_PFN_MIGRATE;
	args->cpages += ext->nr;
}

static int collect_huge(struct migrate_collect *mc, struct device_extent *ext)
{
	int ret;

	/* Without access to it: else it would be an extent of its own kind. */
	if (is_huge_zero_folio(pfn_folio(ext->pfn)))
		return 0;
	ret = collect_large(mc, pfn_folio(ext->pfn));
	if (ret)
		ext->nr = 0;
	return ret;
}

static int collect_zero(struct migrate_collect *mc, struct device_extent *ext)
{
	if (!(mc->args->flags & MIGRATE_VMA_SELECT_SYSTEM))
		return 0;
	if (ext->ptep) {
		collect_holes(mc->args, ext);
		return 0;
	}
	mc->split = NULL;
	ext->nr = 0;
	return MIGRATE_STOP_TO_SPLIT;
}

static int collect_extent(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_collect *mc = to_collect(walk);

	switch (ext->kind) {
	case DEVICE_EXTENT_HOLE:
		if (vma_is_anonymous(walk->vma))
			collect_holes(mc->args, ext);
		return 0;
	case DEVICE_EXTENT_ZERO:
		return collect_zero(mc, ext);
	case DEVICE_EXTENT_PRESENT:
	case DEVICE_EXTENT_PROTNONE:
	case DEVICE_EXTENT_PRIVATE:
		return ext->ptep ? collect_ptes(walk, ext) :
				   collect_huge(mc, ext);
	default:
		return 0;
	}
}

static void collect_table_end(struct device_walk *walk, unsigned long start,
			      unsigned long end)
{
	struct migrate_collect *mc = to_collect(walk);

	arch_leave_lazy_mmu_mode();
	mapped_flush(&mc->mapped);
	if (mc->unmapped)
		flush_tlb_range(walk->vma, start, end);
	mc->unmapped = false;
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

/* Split what the walk stopped at. A folio that resists is passed over. */
static void collect_split(struct migrate_collect *mc)
{
	struct folio *folio = mc->split;
	bool done = false;

	if (!folio) {
		split_huge_pmd_address(mc->walk.vma, mc->walk.addr, false,
				       NULL);
		return;
	}
	if (folio_trylock(folio)) {
		done = !split_folio(folio);
		folio_unlock(folio);
	}
	mc->whole = done ? NULL : folio;
	folio_put(folio);
}

/* Return: number of pages that were collected. */
static unsigned long migrate_vma_collect(struct migrate_vma *args)
{
	struct migrate_collect mc = {
		.walk.mm = args->vma->vm_mm,
		.walk.vma = args->vma,
		.walk.addr = args->start,
		.args = args,
	};
	struct mmu_notifier_range range;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0,
				      mc.walk.mm, args->start, args->end,
				      args->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	while (device_walk_vma(&mc.walk, mc.walk.addr, args->end,
			       &collect_ops)) {
		collect_split(&mc);
		cond_resched();
	}
	mmu_notifier_invalidate_range_end(&range);
	return mc.pages;
}

/*
 * Unmap: isolate, remove other mappings, find pins.
 */

/**
 * struct migrate_batch - the arrays of one migration, and how it came about
 * @src: source entries
 * @dst: destination entries, from migrate_vma_pages() on
 * @npages: number of entries
 * @args: arguments of migrate_vma_*(), NULL if the migration is by pfns
 * @fault_folio: folio that the fault path has locked and referenced, or NULL
 * @mapped: pages were found to be mapped elsewhere, too
 * @drained: the LRU batches of all CPUs were drained for this call
 * @drained_here: those of this CPU were, on account of references
 * @relisted: within finalize, entries before this one have their pages on LRU
 *	lists
 */
struct migrate_batch {
	unsigned long *src;
	unsigned long *dst;
	unsigned long npages;
	struct migrate_vma *args;
	struct folio *fault_folio;
	bool mapped;
	bool drained;
	bool drained_here;
	unsigned long relisted;
};

static struct migrate_batch migrate_vma_batch(struct migrate_vma *args)
{
	return (struct migrate_batch) {
		.src = args->src,
		.dst = args->dst,
		.npages = args->npages,
		.args = args,
		.fault_folio = args->fault_page ?
			       page_folio(args->fault_page) : NULL,
	};
}

/* So many entries are worked on before others may run. */
#define BATCH_RESCHED	512

/*
 * Arrays may be long, and nothing that is done to an entry has to sleep. @i goes
 * up by ones, or by batches.
 */
static __always_inline void batch_resched(unsigned long i)
{
	BUILD_BUG_ON(BATCH_RESCHED % MIGRATE_LRU_BATCH);
	if (!(i % BATCH_RESCHED))
		cond_resched();
}

static __always_inline void batch_unlock(const struct migrate_batch *mb,
					 struct folio *folio)
{
	if (folio != mb->fault_folio)
		folio_unlock(folio);
}

/*
 * Has the destination taken over? What the driver says of it is not enough: it
 * may come to finalize by an error path, without migrate_vma_pages().
 */
static __always_inline bool batch_moved(const struct migrate_batch *mb,
					unsigned long i)
{
	return mb->dst[i] & MIGRATE_PFN_MOVED;
}

/* Does the entry have to be restored by a walk of the reverse mappings? */
static __always_inline bool batch_by_rmap(const struct migrate_batch *mb,
					  unsigned long i)
{
	return !mb->args || !(mb->src[i] & MIGRATE_PFN_SOLE);
}

/* The page that stays or takes over, NULL if there is none. */
static __always_inline struct folio *
batch_winner(const struct migrate_batch *mb, unsigned long i)
{
	return migrate_entry_folio(batch_moved(mb, i) ? mb->dst[i] :
							mb->src[i]);
}

/* Put @folio in the place of the source, wherever that was mapped. */
static void batch_remap(struct migrate_batch *mb, unsigned long i,
			struct folio *folio)
{
	struct folio *src = migrate_entry_folio(mb->src[i]);

	remove_migration_ptes(src, folio, 0);
	if (!mb->args && (mb->src[i] & MIGRATE_PFN_ANON_VMA)) {
		mb->src[i] &= ~MIGRATE_PFN_ANON_VMA;
		put_anon_vma(folio_anon_vma(src));
	}
}

/* A page that is new or was moved lately may still be on its way to a list. */
static bool batch_claim_lru(struct migrate_batch *mb, struct folio *folio)
{
	if (likely(folio_test_clear_lru(folio)))
		return true;
	lru_add_drain();
	if (folio_test_clear_lru(folio))
		return true;
	if (mb->drained)
		return false;
	mb->drained = true;
	lru_add_drain_all();
	return folio_test_clear_lru(folio);
}

/*
 * Take system pages off their LRU lists, for which a reference is needed. On
 * the way note whether there are other mappings.
 */
static void batch_isolate(struct migrate_batch *mb, unsigned long start,
			  unsigned long end)
{
	struct folio *claimed[MIGRATE_LRU_BATCH];
	unsigned int nr = 0;
	unsigned long i;

	for (i = start; i < end; i++) {
		struct folio *folio = migrate_entry_folio(mb->src[i]);

		if (!folio)
			continue;
		if (unlikely(small_folio_mapped(folio)))
			mb->mapped = true;
		if (folio_on_device(folio))
			continue;
		if (batch_claim_lru(mb, folio)) {
			mb->src[i] |= MIGRATE_PFN_ISOLATED;
			claimed[nr++] = folio;
		} else {
			mb->src[i] &= ~MIGRATE_PFN_MIGRATE;
		}
	}
	if (nr)
		migrate_unlist(claimed, nr);
}

/* Mappings other than the one that was collected are found by rmap. */
static void batch_unmap(struct migrate_batch *mb, unsigned long start,
			unsigned long end)
{
	unsigned long i;

	mb->mapped = false;
	for (i = start; i < end; i++) {
		struct folio *folio = migrate_entry_folio(mb->src[i]);

		if (folio && unlikely(small_folio_mapped(folio)) &&
		    (mb->src[i] & MIGRATE_PFN_MIGRATE))
			try_to_migrate(folio, TTU_BATCH_FLUSH);
	}
}

/* Ours is one reference; any that is not accounted for is a pin. */
static __always_inline bool batch_movable(const struct migrate_batch *mb,
					  struct folio *folio)
{
	int expected = 1;

	if (!folio_test_anon(folio) || folio_test_swapcache(folio))
		expected += folio_expected_ref_count(folio);
	if (folio == mb->fault_folio)
		expected++;
	return !small_folio_mapped(folio) &&
	       folio_ref_count(folio) == expected;
}

/*
 * Batches of mlock() and munlock() have references, and stay on the CPU where
 * they began until that has more of the kind to do.
 */
static bool batch_is_mlocked(const struct migrate_batch *mb,
			     struct folio *folio)
{
	if (folio_on_device(folio) || folio_maybe_dma_pinned(folio))
		return false;
	return folio_test_mlocked(folio) ||
	       (mb->args && mb->args->vma->vm_flags & VM_LOCKED);
}

/*
 * One more look, without the references of the batches of this CPU, and, for
 * mlocked memory, of all CPUs.
 */
static bool batch_movable_after_all(struct migrate_batch *mb,
				    struct folio *folio)
{
	if (!mb->drained_here) {
		mb->drained_here = true;
		lru_add_drain();
		if (batch_movable(mb, folio))
			return true;
	}
	if (mb->drained || !batch_is_mlocked(mb, folio))
		return false;
	mb->drained = true;
	lru_add_drain_all();
	return batch_movable(mb, folio);
}

/* Undo what was done to a page that cannot move. */
static void batch_give_up(struct migrate_batch *mb, unsigned long i,
			  struct folio *folio)
{
	if (mb->src[i] & MIGRATE_PFN_ISOLATED)
		folio_add_lru(folio);
	batch_remap(mb, i, folio);
	batch_unlock(mb, folio);
	folio_put(folio);
}

/* Return: number of entries that can move; the others are 0. */
static unsigned long batch_sort_out(struct migrate_batch *mb,
				    unsigned long start, unsigned long end)
{
	unsigned long i, movable = 0;

	for (i = start; i < end; i++) {
		struct folio *folio = migrate_entry_folio(mb->src[i]);

		if ((mb->src[i] & MIGRATE_PFN_MIGRATE) &&
		    (!folio || batch_movable(mb, folio) ||
		     batch_movable_after_all(mb, folio))) {
			movable++;
			continue;
		}
		if (folio)
			batch_give_up(mb, i, folio);
		mb->src[i] = 0;
	}
	return movable;
}

/*
 * A few pages at a time, so that they are still in the cache for the next step.
 *
 * Return: number of entries that can move; the others are 0.
 */
static unsigned long migrate_batch_unmap(struct migrate_batch *mb)
{
	unsigned long i, end, movable = 0;

	for (i = 0; i < mb->npages; i = end) {
		end = min(i + MIGRATE_LRU_BATCH, mb->npages);
		batch_isolate(mb, i, end);
		if (mb->mapped)
			batch_unmap(mb, i, end);
		movable += batch_sort_out(mb, i, end);
		batch_resched(i);
	}
	try_to_unmap_flush();
	return movable;
}

static bool migrate_vma_sane(const struct migrate_vma *args)
{
	const struct vm_area_struct *vma = args->vma;

	if (!vma || !args->src || !args->dst || args->start >= args->end)
		return false;
	if (args->start < vma->vm_start || args->end > vma->vm_end)
		return false;
	if (is_vm_hugetlb_page(args->vma) || vma_is_dax(args->vma) ||
	    vma_is_secretmem(args->vma) ||
	    vma->vm_flags & (VM_SPECIAL | VM_SHADOW_STACK))
		return false;
	return !args->fault_page || is_device_private_page(args->fault_page);
}

/**
 * migrate_vma_setup() - take pages out of a range of a VMA, to move them
 * @args: range, arrays and selection. @args->start and @args->end (bytes) are
 *	rounded down to pages. On return @args->npages is the number of entries
 *	of @args->src and @args->dst and @args->cpages that of the entries with
 *	MIGRATE_PFN_MIGRATE
 *
 * Fills @args->src[] with an entry for each base page, and @args->dst[] with
 * zeroes. An entry with MIGRATE_PFN_MIGRATE can be migrated: if it is also
 * MIGRATE_PFN_VALID, from the page that it names, which is now locked, mapped
 * nowhere and thus stable; else from nothing, for the CPU would read zeroes
 * there. A page that is pinned, locked by somebody else, merged by KSM, of a
 * kind or an owner that @args does not select, or mapped where it cannot be
 * unmapped has an entry of 0 and is untouched.
 *
 * MIGRATE_PFN_WRITE says that the page was mapped writable. UFFDIO_WRITEPROTECT
 * and PAGEMAP_SCAN can write-protect it before finalize, as they need the mmap
 * lock for reading only. A driver that maps the destination page writable for
 * its device must do so under mmu_interval_read_retry(), with a sequence number
 * from before this call, or by hmm_range_fault() after finalize. Otherwise the
 * tracker misses what the device writes.
 *
 * The driver allocates and locks a destination page for each entry that it
 * wants to move, enters migrate_pfn() of its pfn in @args->dst[], copies, and
 * calls migrate_vma_pages() and migrate_vma_finalize(). @args and the arrays
 * are not to be changed otherwise in between. An access by the CPU to a page
 * with a VALID entry waits until finalize; an access to a hole does not.
 *
 * If @args->fault_page is set, it is the page of the fault that the driver is
 * serving in dev_pagemap_ops::migrate_to_ram(): locked and referenced by the
 * fault path, which also undoes both. The page is not in the way of its own
 * migration then.
 *
 * Large folios of anonymous memory are split; those of files are left alone.
 *
 * Context: Process context. The mmap lock of @args->vma is held, for reading
 * at least, until migrate_vma_finalize() has returned. May sleep.
 * Return: 0, also if nothing can be migrated, or -EINVAL: no VMA or one that
 * is not supported (hugetlb, DAX, secretmem, VM_SPECIAL), a range that is empty or not in
 * the VMA, no arrays, or a @args->fault_page that is not device-private.
 */
int migrate_vma_setup(struct migrate_vma *args)
{
	struct migrate_batch mb;

	args->start &= PAGE_MASK;
	args->end &= PAGE_MASK;
	args->cpages = 0;
	args->npages = 0;
	if (!migrate_vma_sane(args))
		return -EINVAL;
	mmap_assert_locked(args->vma->vm_mm);

	args->npages = (args->end - args->start) >> PAGE_SHIFT;
	memset_l(args->src, 0, args->npages);
	memset_l(args->dst, 0, args->npages);
	if (!migrate_vma_collect(args))
		return 0;

	mb = migrate_vma_batch(args);
	args->cpages = migrate_batch_unmap(&mb);
	return 0;
}
EXPORT_SYMBOL(migrate_vma_setup);

/*
 * Pages: the identity of the source goes to the destination.
 */

/*
 * Device memory is no place for what the kernel itself reads or writes: pages
 * of files and of the swap cache.
 */
static bool device_accepts(struct folio *src)
{
	if (!folio_test_anon(src))
		return false;
	return !folio_test_swapcache(src) || folio_free_swap(src);
}

static bool dst_accepts(struct folio *dst, struct folio *src)
{
	if (folio_test_writeback(src) || folio_test_large(dst))
		return false;
	if (!folio_on_device(dst))
		return true;
	return folio_is_device_memory(dst) && device_accepts(src);
}

/*
 * The device may write to the page with no entry to note it. What MADV_FREE
 * made disposable while clean is ordinary memory from now on; what is born
 * disposable (MAP_DROPPABLE) stays it, as it must never be written to swap. A
 * migration by pfn comes from a device, where that was decided.
 */
static void keep_device_writes(const struct migrate_batch *mb,
			       struct folio *dst)
{
	if (!folio_on_device(dst) || folio_test_swapbacked(dst))
		return;
	if (!mb->args || mb->args->vma->vm_flags & VM_DROPPABLE)
		return;
	__folio_set_swapbacked(dst);
	folio_set_dirty(dst);
}

/*
 * Anonymous memory outside of the swap cache is known to nobody by its
 * mapping. References that come after this look are of those that find pages
 * by their pfn, and do not mind.
 */
static bool migrate_anon_mapping(struct folio *dst, struct folio *src,
				 int expected)
{
	if (folio_ref_count(src) != expected)
		return false;
	dst->index = src->index;
	dst->mapping = src->mapping;
	if (folio_test_swapbacked(src))
		__folio_set_swapbacked(dst);
	return true;
}

static bool migrate_mapping(struct folio *dst, struct folio *src, int extra)
{
	struct address_space *mapping;

	if (folio_test_anon(src) && !folio_test_swapcache(src))
		return migrate_anon_mapping(dst, src, 1 + extra);
	mapping = folio_mapping(src);
	return folio_migrate_mapping(mapping, dst, src, extra) ==
	       MIGRATEPAGE_SUCCESS;
}

static bool migrate_identity(struct migrate_batch *mb, struct folio *dst,
			     struct folio *src)
{
	int extra = src == mb->fault_folio ? 1 : 0;

	if (!dst_accepts(dst, src) || !migrate_mapping(dst, src, extra))
		return false;
	folio_migrate_flags(dst, src);
	keep_device_writes(mb, dst);
	if (unlikely(!folio_mapping_flags(src)))
		src->mapping = NULL;
	return true;
}

/* Return: whether there are holes with a destination. */
static bool migrate_identities(struct migrate_batch *mb)
{
	bool holes = false;
	unsigned long i;

	for (i = 0; i < mb->npages; i++) {
		struct folio *src = migrate_entry_folio(mb->src[i]);
		struct folio *dst = migrate_dst_folio(mb->dst[i]);

		batch_resched(i);
		mb->dst[i] &= ~MIGRATE_PFN_MOVED;
		if (!(mb->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		if (!src && dst && mb->args)
			holes = true;
		else if (src && dst && migrate_identity(mb, dst, src))
			mb->dst[i] |= MIGRATE_PFN_MOVED;
		else
			mb->src[i] &= ~MIGRATE_PFN_MIGRATE;
	}
	return holes;
}

/*
 * Populate: device memory where there was none.
 */

/**
 * struct migrate_charge - destination pages of holes, before they are mapped
 * @args: the caller's arguments
 * @fbatch: pages still to be charged
 * @index: their entries
 */
struct migrate_charge {
	struct migrate_vma *args;
	struct folio_batch fbatch;
	unsigned long index[PAGEVEC_SIZE];
};

static void charge_refuse(struct migrate_charge *mc, unsigned long index)
{
	mc->args->src[index] = 0;
}

/* As many as the memcg has room for, which the batch as a whole was too much. */
static void charge_singly(struct migrate_charge *mc)
{
	struct mm_struct *mm = mc->args->vma->vm_mm;
	unsigned int i;

	for (i = 0; i < folio_batch_count(&mc->fbatch); i++)
		if (mem_cgroup_charge(mc->fbatch.folios[i], mm, GFP_KERNEL))
			charge_refuse(mc, mc->index[i]);
}

static void charge_flush(struct migrate_charge *mc)
{
	if (mem_cgroup_charge_folios(&mc->fbatch, mc->args->vma->vm_mm,
				     GFP_KERNEL))
		charge_singly(mc);
	folio_batch_reinit(&mc->fbatch);
}

/*
 * A page is visible as soon as its entry is: it has to be charged, and its
 * content to have been written, before.
 */
static void charge_hole(struct migrate_charge *mc, unsigned long index)
{
	struct folio *folio = migrate_dst_folio(mc->args->dst[index]);

	if (folio_test_large(folio) ||
	    (folio_on_device(folio) && !folio_is_device_memory(folio))) {
		charge_refuse(mc, index);
		return;
	}
	__folio_mark_uptodate(folio);
	mc->index[folio_batch_count(&mc->fbatch)] = index;
	if (!folio_batch_add(&mc->fbatch, folio))
		charge_flush(mc);
}

/* Return: where the entries to be populated begin, args->npages if none. */
static unsigned long populate_charge(struct migrate_vma *args)
{
	bool possible = vma_is_anonymous(args->vma) &&
			!anon_vma_prepare(args->vma);
	struct migrate_charge mc = { .args = args };
	unsigned long i, first = args->npages;

	folio_batch_init(&mc.fbatch);
	for (i = 0; i < args->npages; i++) {
		if (!migrate_entry_is_hole(args->src[i]))
			continue;
		if (!possible) {
			charge_refuse(&mc, i);
			continue;
		}
		charge_hole(&mc, i);
		first = min(first, i);
	}
	if (folio_batch_count(&mc.fbatch))
		charge_flush(&mc);
	return first;
}

/**
 * struct migrate_populate - state of the population of holes
 * @walk: where the walk stands
 * @args: the caller's arguments
 * @mapped: mappings that came in this page table
 * @nr: pages mapped in this page table, not yet in the RSS
 * @zapped: a zero page was replaced in this page table
 */
struct migrate_populate {
	struct device_walk walk;
	struct migrate_mapped mapped;
	struct migrate_vma *args;
	long nr;
	bool zapped;
};

static inline struct migrate_populate *to_populate(struct device_walk *walk)
{
	return container_of(walk, struct migrate_populate, walk);
}

static void populate_give_up(struct migrate_populate *mp, unsigned long addr,
			     unsigned long nr)
{
	unsigned long *src = mp->args->src + migrate_index(mp->args, addr);
	unsigned long i;

	for (i = 0; i < nr; i++)
		if (migrate_entry_is_hole(src[i]))
			src[i] = 0;
}

static bool populate_allowed(struct device_walk *walk)
{
	return !userfaultfd_missing(walk->vma) &&
	       !check_stable_address_space(walk->mm);
}

/* New memory that is writable is taken to have been written by the device. */
static __always_inline pte_t populate_pte(struct vm_area_struct *vma,
					  struct folio *folio)
{
	bool write = vma->vm_flags & VM_WRITE;
	pte_t pte;

	if (folio_is_private(folio))
		return device_pte_new_private(folio_pfn(folio), write);
	pte = mk_pte(&folio->page, vma->vm_page_prot);
	return write ? pte_mkwrite(pte_mkdirty(pte), vma) : pte;
}

static __always_inline void populate_one(struct migrate_populate *mp,
					 unsigned long addr, pte_t *ptep,
					 struct folio *folio)
{
	struct vm_area_struct *vma = mp->walk.vma;

	folio_get(folio);
	mapped_add_new_rmap(&mp->mapped, folio, vma, addr);
	if (!folio_on_device(folio))
		folio_add_lru_vma(folio, vma);
	mp->nr++;
	set_pte_at(vma->vm_mm, addr, ptep, populate_pte(vma, folio));
	update_mmu_cache(vma, addr, ptep);
}

/*
 * The zero page has to go from the TLBs before another page can be accessed in
 * its place: some CPUs would write to that while others still read zeroes.
 *
 * Return: false if the zero page is write-protected by userfaultfd, and stays.
 */
static bool populate_zap_zero(struct migrate_populate *mp, unsigned long addr,
			      pte_t *ptep, struct folio *folio)
{
	struct vm_area_struct *vma = mp->walk.vma;
	pte_t pte = ptep_get(ptep);

	if (pte_uffd_wp(pte))
		return false;
	ksm_might_unmap_zero_page(vma->vm_mm, pte);
	flush_cache_page(vma, addr, pte_pfn(pte));
	if (folio_is_private(folio)) {
		ptep_get_and_clear(vma->vm_mm, addr, ptep);
		mp->zapped = true;
	} else {
		ptep_clear_flush(vma, addr, ptep);
	}
	return true;
}

static void populate_run(struct migrate_populate *mp,
			 struct device_extent *ext)
{
	unsigned long index = migrate_index(mp->args, ext->addr);
	unsigned long i, addr = ext->addr;

	for (i = 0; i < ext->nr; i++, addr += PAGE_SIZE) {
		struct folio *folio;

		if (!migrate_entry_is_hole(mp->args->src[index + i]))
			continue;
		folio = migrate_entry_folio(mp->args->dst[index + i]);
		if (ext->kind == DEVICE_EXTENT_ZERO &&
		    !populate_zap_zero(mp, addr, ext->ptep + i, folio)) {
			mp->args->src[index + i] = 0;
			continue;
		}
		populate_one(mp, addr, ext->ptep + i, folio);
	}
}

/* A hole without a page table: stop where a page is wanted. */
static int populate_find_wanted(struct migrate_populate *mp,
				struct device_extent *ext)
{
	unsigned long *src = mp->args->src + migrate_index(mp->args, ext->addr);
	unsigned long i;

	for (i = 0; i < ext->nr; i++) {
		if (migrate_entry_is_hole(src[i])) {
			ext->nr = i;
			return MIGRATE_STOP_TO_ALLOC;
		}
	}
	return 0;
}

static int populate_extent(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_populate *mp = to_populate(walk);
	bool hole = ext->kind == DEVICE_EXTENT_HOLE;

	if (hole && !ext->ptep)
		return populate_find_wanted(mp, ext);
	if (ext->ptep && (hole || ext->kind == DEVICE_EXTENT_ZERO) &&
	    populate_allowed(walk))
		populate_run(mp, ext);
	else
		populate_give_up(mp, ext->addr, ext->nr);
	return 0;
}

static void populate_table_end(struct device_walk *walk, unsigned long start,
			       unsigned long end)
{
	struct migrate_populate *mp = to_populate(walk);

	arch_leave_lazy_mmu_mode();
	mapped_flush(&mp->mapped);
	add_mm_counter(walk->mm, MM_ANONPAGES, mp->nr);
	if (mp->zapped)
		flush_tlb_range(walk->vma, start, end);
	mp->nr = 0;
	mp->zapped = false;
}

static const struct device_walk_ops populate_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = populate_extent,
	.extent = populate_extent,
	.table_begin = migrate_table_begin,
	.table_end = populate_table_end,
};

static bool populate_alloc_table(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4dp = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pudp = p4dp ? pud_alloc(mm, p4dp, addr) : NULL;
	pmd_t *pmdp = pudp ? pmd_alloc(mm, pudp, addr) : NULL;

	return pmdp && !pte_alloc(mm, pmdp);
}

static void populate_range(struct migrate_populate *mp, unsigned long start)
{
	struct device_walk *walk = &mp->walk;
	unsigned long end = mp->args->end;

	walk->addr = start;
	while (device_walk_vma(walk, walk->addr, end, &populate_ops)) {
		if (!populate_alloc_table(walk->mm, walk->addr)) {
			populate_give_up(mp, walk->addr,
					 (end - walk->addr) >> PAGE_SHIFT);
			return;
		}
	}
}

/*
 * Nothing was locked where there was nothing, so whatever was found by setup
 * is looked at again, under the page-table lock and announced.
 */
static void migrate_populate_holes(struct migrate_vma *args)
{
	struct migrate_populate mp = {
		.walk.mm = args->vma->vm_mm,
		.walk.vma = args->vma,
		.args = args,
	};
	unsigned long first = populate_charge(args);
	unsigned long start = args->start + (first << PAGE_SHIFT);
	struct mmu_notifier_range range;

	if (first == args->npages)
		return;
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0,
				      mp.walk.mm, start, args->end,
				      args->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	populate_range(&mp, start);
	mmu_notifier_invalidate_range_end(&range);
}

/**
 * migrate_vma_pages() - let the destination pages take over
 * @args: as it was given to migrate_vma_setup(), with @args->dst[] filled in
 *
 * Moves what makes a page this page (mapping, index, flags, memcg charge) from
 * the source to the destination, and maps the destination pages of holes. The
 * latter are visible to the CPU from then on, so their content must have been
 * written before; that of the others until migrate_vma_finalize().
 *
 * Whether a page may move depends on where it goes, so entries can still drop
 * out here: those without a destination, pages of files that would go to
 * device memory, pages of the swap cache whose swap is still in use, pages that
 * were pinned meanwhile, holes that were filled by somebody else or belong to
 * userfaultfd. The driver has to look at MIGRATE_PFN_MIGRATE in @args->src[]
 * again: only where it is still set does the device own the page now.
 *
 * Context: Process context, mmap lock held since setup. May sleep.
 */
void migrate_vma_pages(struct migrate_vma *args)
{
	struct migrate_batch mb = migrate_vma_batch(args);

	if (migrate_identities(&mb))
		migrate_populate_holes(args);
}
EXPORT_SYMBOL(migrate_vma_pages);

/**
 * migrate_device_pages() - let the destination pages take over
 * @src_pfns: entries, as migrate_device_range() or migrate_device_pfns() left
 *	them
 * @dst_pfns: migrate_pfn() of a locked destination page each, or 0
 * @npages: number of entries
 *
 * What migrate_vma_pages() does, for a migration that did not begin at a VMA.
 *
 * Context: Process context. May sleep.
 */
void migrate_device_pages(unsigned long *src_pfns, unsigned long *dst_pfns,
			  unsigned long npages)
{
	struct migrate_batch mb = {
		.src = src_pfns,
		.dst = dst_pfns,
		.npages = npages,
	};

	migrate_identities(&mb);
}
EXPORT_SYMBOL(migrate_device_pages);

/*
 * Finalize: page tables, locks, references.
 */

/**
 * struct migrate_restore - state of the restoration in place
 * @walk: where the walk stands
 * @mb: the migration
 * @mapped: mappings that came in this page table
 * @relist: pages mapped in this page table that belong on an LRU list
 */
struct migrate_restore {
	struct device_walk walk;
	struct migrate_batch *mb;
	struct migrate_mapped mapped;
	struct migrate_relist relist;
};

static inline struct migrate_restore *to_restore(struct device_walk *walk)
{
	return container_of(walk, struct migrate_restore, walk);
}

/*
 * A device-private entry has no bit for the age of the page, so the folio is
 * told. Only once the page has moved: where it stays, or moves to memory with
 * PTEs of its own, the PTE is young again, and the page must not age twice.
 */
static __always_inline void restore_note_accessed(struct folio *folio,
						  pte_t old)
{
	if (is_migration_entry_young(pte_to_swp_entry(old)))
		device_folio_note_young(folio);
}

/* @old is the entry as it is now: it may have changed since setup. */
static __always_inline void
restore_pte(struct migrate_restore *mr, struct folio *folio,
	    unsigned long addr, pte_t *ptep, pte_t old)
{
	struct vm_area_struct *vma = mr->walk.vma;
	rmap_t rmap = RMAP_EXCLUSIVE;
	pte_t pte;

	if (is_readable_migration_entry(pte_to_swp_entry(old)))
		rmap = RMAP_NONE;
	if (folio_is_private(folio)) {
		restore_note_accessed(folio, old);
		pte = device_pte_migration_to_private(folio_pfn(folio), old);
	} else {
		pte = device_pte_migration_to_present(vma, folio, &folio->page,
						      old);
	}
	mapped_add_rmap(&mr->mapped, folio, vma, rmap);
	set_pte_at(vma->vm_mm, addr, ptep, pte);
	update_mmu_cache(vma, addr, ptep);
}

/*
 * One migration entry that is ours. The reference of the page that is mapped
 * goes to the entry, and its lock is dropped here, with the page table still
 * locked: once that is not, the page may be gone.
 */
static __always_inline void
restore_one(struct migrate_restore *mr, unsigned long i, unsigned long addr,
	    pte_t *ptep, pte_t old)
{
	struct migrate_batch *mb = mr->mb;
	struct folio *folio = batch_winner(mb, i);

	if (!folio_on_device(folio))
		relist_add(&mr->relist, folio, mr->walk.vma);
	restore_pte(mr, folio, addr, ptep, old);
	batch_unlock(mb, folio);
	mb->dst[i] |= MIGRATE_PFN_RESTORED;
}

/* Is it still the entry that setup left for this page? */
static __always_inline bool restore_due(unsigned long mpfn, swp_entry_t entry)
{
	return is_migration_entry(entry) &&
	       swp_offset_pfn(entry) == mpfn >> MIGRATE_PFN_SHIFT;
}

static __always_inline unsigned long
restore_ptes(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	     unsigned long max)
{
	struct migrate_restore *mr = to_restore(walk);
	unsigned long first = migrate_index(mr->mb->args, addr);
	unsigned long i;

	for (i = 0; i < max; i++, addr += PAGE_SIZE) {
		unsigned long mpfn = mr->mb->src[first + i];
		pte_t pte = ptep_get(ptep + i);

		if (!(mpfn & MIGRATE_PFN_SOLE) || !is_swap_pte(pte))
			continue;
		if (restore_due(mpfn, pte_to_swp_entry(pte)))
			restore_one(mr, first + i, addr, ptep + i, pte);
	}
	return max;
}

/* Larger leaves and missing tables: no page of ours was ever there. */
static int restore_nothing(struct device_walk *walk, struct device_extent *ext)
{
	return 0;
}

static void restore_table_end(struct device_walk *walk, unsigned long start,
			      unsigned long end)
{
	struct migrate_restore *mr = to_restore(walk);

	arch_leave_lazy_mmu_mode();
	mapped_flush(&mr->mapped);
	relist_flush(&mr->relist);
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

/* Holes have nothing to be restored, nor have pages that others map, too. */
static unsigned long restore_first(const struct migrate_vma *args)
{
	unsigned long i;

	for (i = 0; i < args->npages; i++)
		if (args->src[i] & MIGRATE_PFN_SOLE)
			break;
	return i;
}

static void migrate_restore_in_place(struct migrate_batch *mb)
{
	struct migrate_vma *args = mb->args;
	unsigned long first = restore_first(args);
	struct migrate_restore mr;

	mr.walk.mm = args->vma->vm_mm;
	mr.walk.vma = args->vma;
	mr.mb = mb;
	mr.mapped.nr = 0;
	mr.relist.nr = 0;
	if (first < args->npages)
		device_walk_vma(&mr.walk, args->start + (first << PAGE_SHIFT),
				args->end, &restore_ops);
}

/* What was mapped has been let go of; what is left is the other page, if any. */
static __always_inline void
finish_restored(struct migrate_batch *mb, unsigned long i,
		struct folio_batch *unused)
{
	struct folio *src, *dst;

	if (batch_moved(mb, i)) {
		src = migrate_entry_folio(mb->src[i]);
		batch_unlock(mb, src);
		migrate_free_put(unused, src);
		return;
	}
	dst = migrate_dst_folio(mb->dst[i]);
	if (dst) {
		folio_unlock(dst);
		migrate_free_put(unused, dst);
	}
}

/* Does @folio, which stays or takes over, belong on an LRU list? */
static bool finish_lists(const struct migrate_batch *mb, unsigned long i,
			 const struct folio *folio)
{
	if (mb->dst[i] & MIGRATE_PFN_RESTORED)
		return false;
	if (batch_moved(mb, i))
		return !folio_on_device(folio);
	return mb->src[i] & MIGRATE_PFN_ISOLATED;
}

/*
 * Pages from entry @start on go to LRU lists, before they are mapped: so many
 * at a time that the lruvec lock and the counters cost little. Each is locked
 * and has a reference of ours. The list of a page of a file may depend on the
 * mapping, which folio_add_lru() looks at.
 */
static void finish_relist(struct migrate_batch *mb, unsigned long start)
{
	unsigned long i, end = min(start + MIGRATE_LRU_BATCH, mb->npages);
	struct migrate_relist relist;

	relist.nr = 0;
	for (i = start; i < end; i++) {
		struct folio *folio = batch_winner(mb, i);

		if (!folio || !finish_lists(mb, i, folio))
			continue;
		if (folio_test_anon(folio))
			relist_add_locked(&relist, folio);
		else
			folio_add_lru(folio);
	}
	relist_flush(&relist);
	mb->relisted = end;
}

/*
 * Restore pages by rmap that were not restored in place, and drop both pages. A
 * page zapped meanwhile has no PTE to restore. It may still be in the swap
 * cache, so put it back on the LRU, which also clears the flags of its list.
 */
static void finish_other(struct migrate_batch *mb, unsigned long i,
			 struct folio_batch *unused)
{
	struct folio *src = migrate_entry_folio(mb->src[i]);
	struct folio *dst = migrate_dst_folio(mb->dst[i]);

	if (src) {
		if (i >= mb->relisted)
			finish_relist(mb, i);
		if (batch_by_rmap(mb, i))
			batch_remap(mb, i, batch_winner(mb, i));
		batch_unlock(mb, src);
		migrate_free_put(unused, src);
	}
	if (dst) {
		folio_unlock(dst);
		migrate_free_put(unused, dst);
	}
}

static void migrate_batch_finish(struct migrate_batch *mb)
{
	struct folio_batch unused;
	unsigned long i;

	folio_batch_init(&unused);
	for (i = 0; i < mb->npages; i++) {
		batch_resched(i);
		if (mb->dst[i] & MIGRATE_PFN_RESTORED)
			finish_restored(mb, i, &unused);
		else
			finish_other(mb, i, &unused);
		mb->dst[i] &= ~(MIGRATE_PFN_MOVED | MIGRATE_PFN_RESTORED);
	}
	if (folio_batch_count(&unused))
		free_unref_folios(&unused);
}

/**
 * migrate_vma_finalize() - make the new pages visible, or the old ones again
 * @args: as it was given to migrate_vma_pages()
 *
 * Puts the destination page where an entry has kept MIGRATE_PFN_MIGRATE, else
 * the source page, into the page tables, and wakes who waits for it. All
 * source and destination pages are unlocked, and the references that the
 * migration and the driver had to them are dropped; a page that lost is freed
 * by that. The contents of the destination pages must be complete.
 *
 * Context: Process context, mmap lock held since setup. May sleep.
 */
void migrate_vma_finalize(struct migrate_vma *args)
{
	struct migrate_batch mb = migrate_vma_batch(args);

	if (!args->npages)
		return;
	mmap_assert_locked(args->vma->vm_mm);
	migrate_restore_in_place(&mb);
	migrate_batch_finish(&mb);
}
EXPORT_SYMBOL(migrate_vma_finalize);

/**
 * migrate_device_finalize() - make the new pages visible, or the old ones again
 * @src_pfns: entries, as migrate_device_pages() left them
 * @dst_pfns: as migrate_device_pages() left them
 * @npages: number of entries
 *
 * What migrate_vma_finalize() does, for a migration that did not begin at a
 * VMA.
 *
 * Context: Process context. May sleep.
 */
void migrate_device_finalize(unsigned long *src_pfns, unsigned long *dst_pfns,
			     unsigned long npages)
{
	struct migrate_batch mb = {
		.src = src_pfns,
		.dst = dst_pfns,
		.npages = npages,
	};

	migrate_batch_finish(&mb);
}
EXPORT_SYMBOL(migrate_device_finalize);

/*
 * From device pages, whoever has mapped them.
 */

/* Return: the entry for a device page that is in use, 0 if it cannot move. */
static unsigned long device_lock_page(struct page *page)
{
	struct folio *folio;

	/* No reference to one that is locked: it would look like a pin. */
	if (PageLocked(page))
		return 0;
	folio = folio_get_nontail_page(page);
	if (!folio)
		return 0;
	if (!folio_trylock(folio)) {
		folio_put(folio);
		return 0;
	}
	return migrate_pfn(page_to_pfn(page)) | MIGRATE_PFN_MIGRATE;
}

static unsigned long device_lock_pfn(unsigned long pfn)
{
	return pfn_valid(pfn) ? device_lock_page(pfn_to_page(pfn)) : 0;
}

/*
 * Keep the anon_vma, see the head of the file.
 *
 * Return: the entry; 0 if the page is one that nobody has mapped any more, or
 * ever had: all device memory that is in use is anonymous, so it is a destination
 * that was refused. It is let go of then, and free with that.
 */
static unsigned long device_get_anon_vma(unsigned long mpfn)
{
	struct folio *folio = migrate_entry_folio(mpfn);

	if (!folio)
		return mpfn;
	if (folio_test_anon(folio) && folio_get_anon_vma(folio))
		return mpfn | MIGRATE_PFN_ANON_VMA;
	folio_unlock(folio);
	folio_put(folio);
	return 0;
}

static void migrate_device_unmap(unsigned long *src_pfns, unsigned long npages)
{
	struct migrate_batch mb = {
		.src = src_pfns,
		.npages = npages,
	};
	unsigned long i;

	for (i = 0; i < npages; i++) {
		src_pfns[i] = device_get_anon_vma(src_pfns[i]);
		batch_resched(i);
	}
	migrate_batch_unmap(&mb);
}

/**
 * migrate_device_range() - take device pages out of all page tables
 * @src_pfns: receives an entry for each page
 * @start: first pfn
 * @npages: number of pages
 *
 * For a driver that wants its memory back and does not know who uses it, as on
 * eviction and removal. Fills @src_pfns as migrate_vma_setup() fills its
 * src[]; pages that are free, pinned, or locked by somebody else have an entry
 * of 0. To be followed by migrate_device_pages() and
 * migrate_device_finalize().
 *
 * Context: Process context. The pagemap of the pages is alive. May sleep.
 * Return: 0.
 */
int migrate_device_range(unsigned long *src_pfns, unsigned long start,
			 unsigned long npages)
{
	bool valid = false;
	unsigned long i;

	for (i = 0; i < npages; i++) {
		unsigned long pfn = start + i;

		/* A memory map comes and goes with whole subsections. */
		if (!i || IS_ALIGNED(pfn, PAGES_PER_SUBSECTION))
			valid = pfn_valid(pfn);
		src_pfns[i] = valid ? device_lock_page(pfn_to_page(pfn)) : 0;
		batch_resched(i);
	}
	migrate_device_unmap(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_range);

/**
 * migrate_device_pfns() - take device pages out of all page tables
 * @src_pfns: pfns on entry, entries as of migrate_device_range() on return
 * @npages: number of pages
 *
 * migrate_device_range() for pages that do not follow each other.
 *
 * Context: Process context. The pagemaps of the pages are alive. May sleep.
 * Return: 0.
 */
int migrate_device_pfns(unsigned long *src_pfns, unsigned long npages)
{
	unsigned long i;

	for (i = 0; i < npages; i++) {
		src_pfns[i] = device_lock_pfn(src_pfns[i]);
		batch_resched(i);
	}
	migrate_device_unmap(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_pfns);

/**
 * migrate_device_coherent_folio() - bring a coherent page home
 * @folio: page of device-coherent memory, with a reference of the caller's,
 *	which is dropped
 *
 * For a long-term pin, which device memory must not have.
 *
 * Context: Process context. May sleep.
 * Return: 0 if the page was replaced by one of system memory wherever it was
 * mapped, if anywhere; -EBUSY if it could not be: pinned, or no memory.
 */
int migrate_device_coherent_folio(struct folio *folio)
{
	unsigned long dst = 0, src;
	struct folio *home;

	folio_lock(folio);
	if (!folio_mapped(folio)) {
		folio_unlock(folio);
		folio_put(folio);
		return 0;
	}
	src = migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE;
	migrate_device_unmap(&src, 1);
	if (!src)
		return -EBUSY;

	home = folio_alloc(GFP_USER | __GFP_NOWARN, 0);
	if (home) {
		folio_lock(home);
		dst = migrate_pfn(folio_pfn(home));
	}
	migrate_device_pages(&src, &dst, 1);
	if (src & MIGRATE_PFN_MIGRATE)
		folio_copy(home, folio);
	migrate_device_finalize(&src, &dst, 1);
	return src & MIGRATE_PFN_MIGRATE ? 0 : -EBUSY;
}

/*
 * The fault path.
 */

static vm_fault_t device_fault_locked(struct vm_fault *vmf,
				      struct folio *folio)
{
	vm_fault_t ret;

	folio_get(folio);
	pte_unmap_unlock(vmf->pte, vmf->ptl);
	ret = folio->page.pgmap->ops->migrate_to_ram(vmf);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

/**
 * migrate_device_fault() - the CPU touched a device-private page
 * @vmf: the fault; @vmf->orig_pte is a device-private entry
 *
 * Of all the threads that fault on one page, the one that gets the page lock
 * has the driver bring it back. A reference of each would be a pin to it, and
 * keep all of them from succeeding; so the others have none, and sleep until
 * the page is unlocked, as they would for a migration entry. After that the
 * page is where they can access it, or the next of them tries.
 *
 * Context: Process context, mmap lock held for reading. May sleep.
 * Return: what dev_pagemap_ops::migrate_to_ram() returned, 0 if the access is
 * simply to be repeated, or VM_FAULT_RETRY if somebody else has the page lock
 * and the fault is not to wait; the mmap lock is held then.
 */
vm_fault_t migrate_device_fault(struct vm_fault *vmf)
{
	swp_entry_t entry = pte_to_swp_entry(vmf->orig_pte);
	struct folio *folio;

	vmf->pte = pte_offset_map_lock(vmf->vma->vm_mm, vmf->pmd, vmf->address,
				       &vmf->ptl);
	if (!vmf->pte)
		return 0;
	if (!pte_same(ptep_get(vmf->pte), vmf->orig_pte)) {
		pte_unmap_unlock(vmf->pte, vmf->ptl);
		return 0;
	}
	vmf->page = pfn_swap_entry_to_page(entry);
	folio = page_folio(vmf->page);
	if (folio_trylock(folio))
		return device_fault_locked(vmf, folio);

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT) {
		pte_unmap_unlock(vmf->pte, vmf->ptl);
		return VM_FAULT_RETRY;
	}
	pte_unmap(vmf->pte);
	migration_entry_wait_on_locked(entry, vmf->ptl);
	return 0;
}
