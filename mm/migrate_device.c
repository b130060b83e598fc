// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: the interface.
 *
 * Scope
 *
 *   The three calls of a driver that migrates a range of a VMA
 *
 *	migrate_vma_setup()	collect, unmap, find pins
 *	   (the driver allocates and copies)
 *	migrate_vma_pages()	move the identity to the new pages
 *	migrate_vma_finalize()	restore mappings, drop locks and references
 *
 *   Of these steps, this file has isolation, unmapping by rmap, the search for
 *   pins and the move of the identity; the others are in files of their own, and
 *   so are migrations that start from pfns. It also has the CPU fault on a
 *   device-private page.
 *
 * Invariants
 *
 *   - After setup an entry of src[] is 0 or can migrate: nothing of a page that
 *     cannot is held or changed.
 *   - A page that has MOVED has given its mapping, flags and charge away, and
 *     has no other reference than those of the migration and the fault path.
 *
 * States of the entries, references, TLB and locks: migrate_device_internal.h.
 */
#include <linux/export.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/secretmem.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "migrate_device_internal.h"

/*
 * Unmap: isolate, remove other mappings, find pins.
 */

/**
 * struct migrate_unmap - state of unmapping
 * @args: the migration
 * @end: end of this batch
 * @mapped: some pages of this batch are still mapped elsewhere
 * @large: some entries of this batch are large folios
 * @rest: some entries of this batch cannot move yet
 * @drained: the LRU batches of all CPUs were drained
 * @drained_here: the LRU batches of this CPU were drained to drop references
 */
struct migrate_unmap {
	struct migrate_vma *args;
	unsigned long end;
	bool mapped;
	bool large;
	bool rest;
	bool drained;
	bool drained_here;
};

/* A page that is new or was just moved may still be in an LRU batch. */
static bool unmap_claim_lru(struct migrate_unmap *mu, struct folio *folio)
{
	if (likely(folio_test_clear_lru(folio)))
		return true;
	lru_add_drain();
	if (folio_test_clear_lru(folio))
		return true;
	if (mu->drained)
		return false;
	mu->drained = true;
	lru_add_drain_all();
	return folio_test_clear_lru(folio);
}

/* Find mappings other than the collected one by rmap. */
static void unmap_others(struct migrate_unmap *mu, unsigned long start)
{
	unsigned long *src = mu->args->src;
	unsigned long i;

	for (i = start; i < mu->end; i += migrate_entry_nr(src[i])) {
		struct folio *folio = migrate_entry_folio(src[i]);

		if (folio && unlikely(folio_mapped(folio)) &&
		    (src[i] & MIGRATE_PFN_MIGRATE))
			try_to_migrate(folio, TTU_BATCH_FLUSH);
	}
}

/*
 * The migration holds one reference. Any unexpected reference is a pin. Each
 * mapping has a reference, too, which folio_expected_ref_count() expects.
 */
static __always_inline bool unmap_movable(const struct migrate_vma *args,
					  struct folio *folio)
{
	int expected = 1;

	if (!folio_test_anon(folio) || folio_test_swapcache(folio)) {
		if (folio_mapped(folio))
			return false;
		expected += folio_expected_ref_count(folio);
	}
	if (migrate_is_fault(args, folio))
		expected++;
	return folio_ref_count(folio) == expected;
}

/*
 * Take a system page off its LRU list, for which the reference is needed.
 *
 * Return: false if that failed; the entry has lost MIGRATE then.
 */
static __always_inline bool unmap_claim(struct migrate_unmap *mu,
					unsigned long i, struct folio *folio,
					struct folio_batch *claimed)
{
	if (folio_is_zone_device(folio))
		return true;
	if (!unmap_claim_lru(mu, folio)) {
		mu->args->src[i] &= ~MIGRATE_PFN_MIGRATE;
		return false;
	}
	folio_batch_add(claimed, folio);
	return true;
}

/*
 * Isolate pages, and note whether some of them have other mappings. Most pages
 * have none and are not pinned. If all pages are like that, nothing is left to
 * do. A large folio may end behind @end, and the batch with it.
 *
 * Return: number of entries that can move already.
 */
static unsigned long unmap_isolate(struct migrate_unmap *mu,
				   unsigned long start, unsigned long end)
{
	unsigned long i, nr, movable = 0;
	struct folio_batch claimed;

	mu->mapped = false;
	mu->large = false;
	mu->rest = false;
	folio_batch_init(&claimed);
	for (i = start; i < end; i += nr) {
		unsigned long mpfn = mu->args->src[i];
		struct folio *folio = migrate_entry_folio(mpfn);
		bool mapped;

		nr = 1;
		if (migrate_entry_is_large(mpfn)) {
			nr = migrate_large_nr(mpfn);
			mu->large = true;
		}
		if (!folio) {
			if (migrate_entry_is_hole(mpfn))
				movable++;
			else
				mu->rest = true;
			continue;
		}
		mapped = !(mpfn & MIGRATE_PFN_SOLE) && folio_mapped(folio);
		if (mapped)
			mu->mapped = true;
		if (unmap_claim(mu, i, folio, &claimed) && !mapped &&
		    unmap_movable(mu->args, folio))
			movable++;
		else
			mu->rest = true;
	}
	mu->end = i;
	if (folio_batch_count(&claimed))
		folios_del_lru(&claimed);
	return movable;
}

/*
 * May an mlock() or munlock() batch hold a reference? Such a batch stays on the
 * CPU that filled it until the CPU has more of its kind.
 */
static bool unmap_may_be_mlocked(const struct migrate_vma *args,
				 struct folio *folio)
{
	if (folio_is_zone_device(folio) || folio_maybe_dma_pinned(folio))
		return false;
	return folio_test_mlocked(folio) ||
	       (args->vma && args->vma->vm_flags & VM_LOCKED);
}

/*
 * Check again without the references of the LRU batches of this CPU and, for
 * mlocked memory, of all CPUs.
 */
static bool unmap_movable_drained(struct migrate_unmap *mu,
				  struct folio *folio)
{
	if (!mu->drained_here) {
		mu->drained_here = true;
		lru_add_drain();
		if (unmap_movable(mu->args, folio))
			return true;
	}
	if (mu->drained || !unmap_may_be_mlocked(mu->args, folio))
		return false;
	mu->drained = true;
	lru_add_drain_all();
	return unmap_movable(mu->args, folio);
}

/*
 * Undo the steps so far for a page that cannot move. A system page that still
 * has MIGRATE is isolated.
 */
static void unmap_give_up(struct migrate_vma *args, unsigned long i,
			  struct folio *folio)
{
	if ((args->src[i] & MIGRATE_PFN_MIGRATE) &&
	    !folio_is_zone_device(folio))
		folio_add_lru(folio);
	migrate_restore_by_rmap(args, i, folio);
	migrate_unlock(args, folio);
	folio_put(folio);
}

/* Return: number of entries that can move; the others are 0. */
static unsigned long unmap_sort_out(struct migrate_unmap *mu,
				    unsigned long start)
{
	struct migrate_vma *args = mu->args;
	unsigned long i, nr, movable = 0;

	for (i = start; i < mu->end; i += nr) {
		struct folio *folio = migrate_entry_folio(args->src[i]);

		nr = migrate_entry_nr(args->src[i]);
		if ((args->src[i] & MIGRATE_PFN_MIGRATE) &&
		    (!folio || unmap_movable(args, folio) ||
		     unmap_movable_drained(mu, folio))) {
			movable++;
			continue;
		}
		if (folio)
			unmap_give_up(args, i, folio);
		args->src[i] = 0;
	}
	return movable;
}

/*
 * Give each page of the large folios of this batch an entry of its own. Now that
 * they are unmapped, this costs less than a split before, and invalidates
 * nothing.
 *
 * Return: number of entries that can move, of @movable before.
 */
static unsigned long unmap_split(struct migrate_vma *args, unsigned long i,
				 unsigned long end, unsigned long movable)
{
	unsigned long nr;

	for (; i < end; i += nr) {
		struct folio *folio = migrate_entry_folio(args->src[i]);

		nr = migrate_entry_nr(args->src[i]);
		if (!migrate_entry_is_large(args->src[i]))
			continue;
		movable--;
		if (migrate_split(args, i)) {
			movable += nr;
			continue;
		}
		unmap_give_up(args, i, folio);
		args->src[i] = 0;
	}
	return movable;
}

/* Do large folios have one entry each? In a migration by pfn they do. */
static bool unmap_keeps_large(const struct migrate_vma *args)
{
	return !args->vma || migrate_wants_large(args);
}

/**
 * migrate_unmap() - isolate the pages of src[], unmap them and find pins
 * @args: the migration
 *
 * Works on batches, so that each page is still in the CPU cache for the next
 * step.
 *
 * Context: Process context. May sleep.
 * Return: number of entries that can move; the others are 0.
 */
unsigned long migrate_unmap(struct migrate_vma *args)
{
	struct migrate_unmap mu = { .args = args };
	unsigned long i, nr, movable = 0;

	for (i = 0; i < args->npages; i = mu.end) {
		nr = unmap_isolate(&mu, i, min(i + MIGRATE_BATCH,
					       args->npages));
		if (mu.mapped)
			unmap_others(&mu, i);
		if (mu.rest)
			nr = unmap_sort_out(&mu, i);
		if (unlikely(mu.large) && !unmap_keeps_large(args))
			nr = unmap_split(args, i, mu.end, nr);
		movable += nr;
		cond_resched();
	}
	try_to_unmap_flush();
	return movable;
}

static bool migrate_vma_sane(const struct migrate_vma *args)
{
	struct vm_area_struct *vma = args->vma;

	if (!vma || !args->src || !args->dst || args->start >= args->end)
		return false;
	if (args->start < vma->vm_start || args->end > vma->vm_end)
		return false;
	if (is_vm_hugetlb_page(vma) || vma_is_dax(vma) ||
	    vma_is_secretmem(vma) ||
	    vma->vm_flags & (VM_SPECIAL | VM_SHADOW_STACK))
		return false;
	return !args->fault_page || is_device_private_page(args->fault_page);
}

/**
 * migrate_vma_setup() - unmap pages of a VMA in order to move them
 * @args: range, arrays and selection. @args->start and @args->end (bytes) are
 *	rounded down to pages. On return @args->npages is the number of entries
 *	of @args->src and @args->dst, and @args->cpages the number of entries
 *	with MIGRATE_PFN_MIGRATE
 *
 * Fills src[] with an entry for each base page, and dst[] with zeroes. An entry
 * with MIGRATE_PFN_MIGRATE can migrate. If it also has MIGRATE_PFN_VALID, it
 * names a page, which is now locked and unmapped, so that its content is
 * stable. Otherwise it is a hole: the CPU would read zeroes there. Holes of
 * anonymous memory are collected whatever @args selects: leave the entry of
 * dst[] 0 to keep one. The entry of a page that cannot be migrated is 0, and
 * the page is unchanged. Pages that cannot be migrated are those that are
 * pinned, locked, merged by KSM, not selected by @args because of their kind or
 * owner, or mapped where they cannot be unmapped.
 *
 * MIGRATE_PFN_WRITE says that the page was mapped writable.
 * UFFDIO_WRITEPROTECT and PAGEMAP_SCAN need the mmap lock for reading only, so
 * they can write-protect the page before finalize. A driver that maps the
 * destination page writable for its device must do so under
 * mmu_interval_read_retry(), with a sequence number from before this call, or
 * by hmm_range_fault() after finalize. Otherwise the tracker misses the writes
 * of the device.
 *
 * The driver allocates and locks a destination page for each entry that it
 * wants to move, stores migrate_pfn() of its pfn in dst[], copies, and calls
 * migrate_vma_pages() and migrate_vma_finalize(). It must not change @args and
 * the arrays otherwise. CPU accesses to a page with a VALID entry
 * wait until finalize; accesses to a hole do not.
 *
 * @args->fault_page, if set, is the page of the fault that the driver serves in
 * dev_pagemap_ops::migrate_to_ram(). The fault path has locked and referenced
 * it, and undoes both. These do not prevent the page from being migrated.
 *
 * Large folios of files are left alone. Large folios of anonymous memory are
 * split, unless @args selects MIGRATE_VMA_SELECT_COMPOUND. Then a folio that is
 * mapped within the range as a whole has one entry, of its first page, with
 * MIGRATE_PFN_COMPOUND, and the entries of its other pages are 0. A PMD may map
 * it, or PTEs of one page table; folio_order() tells its size. A hole without a
 * page table, of the size of a PMD, and a huge zero page have such an entry
 * without MIGRATE_PFN_VALID. Each counts as one in @args->cpages, as it does in
 * later kernels. The destination of such an entry is either a folio of the same
 * order, by an entry with MIGRATE_PFN_COMPOUND in dst[] and zeroes behind it, or
 * single pages, for all pages or for some. For the latter, migrate_vma_pages()
 * splits the folio and gives each page an entry of its own in src[].
 *
 * Holes that have an entry each, or one of the size of a PMD, can be filled by
 * smaller large folios, too: by an entry with MIGRATE_PFN_COMPOUND in dst[] and
 * zeroes behind it, for as many holes as the folio has pages, with the address
 * aligned to its size.
 *
 * A large folio that cannot be collected whole is split while it is mapped: not
 * all of its pages are in the range, or mapped in order by one page table, or it
 * is poisoned. Without MIGRATE_VMA_SELECT_COMPOUND, also if it is in the swap
 * cache, or if some of its pages are writable and some are not. A page that
 * another process maps, too, is unmapped there. Both send MMU_NOTIFY_CLEAR, for
 * all pages of the folio and without an owner, to all interval notifiers, that of
 * the driver included. So the caller must not hold a lock that this notifier
 * takes.
 *
 * Context: Process context. The mmap lock of @args->vma is held, for reading
 * at least, until migrate_vma_finalize() has returned. May sleep.
 * Return: 0, also if nothing can be migrated; -EINVAL if there is no VMA, or
 * one that is not supported (hugetlb, DAX, secretmem, VM_SHADOW_STACK,
 * VM_SPECIAL), if the range is empty or not in the VMA, if there are no arrays,
 * or if @args->fault_page is not device-private.
 */
int migrate_vma_setup(struct migrate_vma *args)
{
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
	if (migrate_vma_collect(args))
		args->cpages = migrate_unmap(args);
	return 0;
}
EXPORT_SYMBOL(migrate_vma_setup);

/*
 * Pages: move the identity of the source to the destination.
 */

/*
 * Device memory is no place for pages that the kernel itself reads or writes:
 * pages of files and of the swap cache.
 */
static bool identity_fits_device(struct folio *src)
{
	if (!folio_test_anon(src))
		return false;
	return !folio_test_swapcache(src) || folio_free_swap(src);
}

static bool identity_fits(struct folio *dst, struct folio *src)
{
	if (folio_test_writeback(src))
		return false;
	if (!folio_is_zone_device(dst))
		return true;
	return migrate_is_mappable(dst) && identity_fits_device(src);
}

/*
 * The device may write without any record in an entry. So memory that MADV_FREE
 * made disposable while it is clean becomes ordinary memory. Memory that is
 * always disposable (MAP_DROPPABLE) stays so, as it must never be swapped out.
 * A migration by pfn starts on a device, where this was decided before.
 */
static void identity_keep_writes(const struct migrate_vma *args,
				 struct folio *dst)
{
	if (!folio_is_zone_device(dst) || folio_test_swapbacked(dst))
		return;
	if (!args->vma || args->vma->vm_flags & VM_DROPPABLE)
		return;
	__folio_set_swapbacked(dst);
	folio_set_dirty(dst);
}

/*
 * No lookup by mapping finds anonymous memory outside the swap cache. A
 * reference that is taken after this check comes from a lookup by pfn, and such
 * users tolerate that the page moves.
 */
static bool identity_move_anon(struct folio *dst, struct folio *src,
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

static bool identity_move_mapping(struct folio *dst, struct folio *src,
				  int extra)
{
	if (folio_test_anon(src) && !folio_test_swapcache(src) &&
	    !folio_test_large(src))
		return identity_move_anon(dst, src, 1 + extra);
	return folio_migrate_mapping(folio_mapping(src), dst, src, extra) ==
	       MIGRATEPAGE_SUCCESS;
}

static bool identity_move(const struct migrate_vma *args, struct folio *dst,
			  struct folio *src)
{
	int extra = migrate_is_fault(args, src) ? 1 : 0;

	if (!identity_fits(dst, src) ||
	    !identity_move_mapping(dst, src, extra))
		return false;
	folio_migrate_flags(dst, src);
	identity_keep_writes(args, dst);
	if (unlikely(!folio_mapping_flags(src)))
		src->mapping = NULL;
	return true;
}

/* The destination of a large folio or hole must be as large. */
static struct folio *identity_large_dst(unsigned long src_mpfn,
					unsigned long mpfn)
{
	struct page *page = pfn_to_page(mpfn >> MIGRATE_PFN_SHIFT);
	struct folio *folio = page_folio(page);

	if (!(mpfn & MIGRATE_PFN_COMPOUND) || &folio->page != page ||
	    !folio_test_large(folio) || !folio_test_large_rmappable(folio) ||
	    folio_nr_pages(folio) != migrate_large_nr(src_mpfn))
		return NULL;
	migrate_note_huge();
	return folio;
}

static __always_inline struct folio *identity_dst(unsigned long src_mpfn,
						  unsigned long mpfn)
{
	if (likely(!((src_mpfn | mpfn) & MIGRATE_PFN_COMPOUND)))
		return migrate_small_dst(mpfn);
	if (!(mpfn & MIGRATE_PFN_VALID) || !migrate_entry_is_large(src_mpfn))
		return NULL;
	return identity_large_dst(src_mpfn, mpfn);
}

/* For a hole, the large folio may also be one of many smaller ones. */
static bool identity_has_large_dst(const struct migrate_vma *args,
				   unsigned long i)
{
	if (!(args->dst[i] & MIGRATE_PFN_COMPOUND))
		return false;
	return !migrate_entry_is_hole(args->src[i]) ||
	       identity_dst(args->src[i], args->dst[i]);
}

/*
 * If the driver has single pages for a large folio or hole, for all or for
 * some, split it. If it has none, or if that fails, the entry is refused.
 */
static void identity_split(struct migrate_vma *args, unsigned long i)
{
	unsigned long k, nr = migrate_entry_nr(args->src[i]);

	if (!(args->src[i] & MIGRATE_PFN_MIGRATE) ||
	    identity_has_large_dst(args, i))
		return;
	for (k = 0; k < nr; k++) {
		if (args->dst[i + k] & MIGRATE_PFN_VALID) {
			migrate_split(args, i);
			return;
		}
	}
}

/* A large destination for holes. Return: number of holes, 1 if refused. */
static unsigned long identity_holes(struct migrate_vma *args, unsigned long i)
{
	unsigned long nr = migrate_hole_extent(args, i);

	args->dst[i] &= ~MIGRATE_DST_PRIVATE;
	if (nr) {
		migrate_note_huge();
		return nr;
	}
	args->src[i] = 0;
	return 1;
}

/*
 * The source or the destination has COMPOUND. Split the source if the driver has
 * single pages for it. A hole is checked here, unless it has a single page.
 *
 * Return: number of entries that belong together.
 */
static noinline unsigned long identity_prepare(struct migrate_vma *args,
					       unsigned long i)
{
	unsigned long nr;

	if (migrate_entry_is_large(args->src[i]))
		identity_split(args, i);
	if (migrate_starts_extent(args, i))
		return identity_holes(args, i);
	nr = migrate_entry_nr(args->src[i]);
	if (nr > 1 && migrate_entry_is_hole(args->src[i]) &&
	    !identity_dst(args->src[i], args->dst[i]))
		args->src[i] = 0;
	return nr;
}

static __always_inline void identity_page(struct migrate_vma *args,
					  unsigned long i, unsigned long mpfn,
					  struct folio *dst)
{
	if (likely(dst && identity_move(args, dst, migrate_entry_folio(mpfn))))
		args->dst[i] |= MIGRATE_PFN_MOVED;
	else
		args->src[i] &= ~MIGRATE_PFN_MIGRATE;
}

/**
 * migrate_identities() - move the identity of each page to its destination
 * @args: the migration; dst[] is filled in
 *
 * The destination of a single hole is checked when it is charged.
 *
 * Context: Process context. May sleep.
 * Return: whether there are holes that may be populated.
 */
bool migrate_identities(struct migrate_vma *args)
{
	unsigned long i, nr, mpfn, dst;
	bool holes = false;

	for (i = 0; i < args->npages; i += nr) {
		migrate_resched(i);
		nr = 1;
		if (unlikely((args->src[i] | args->dst[i]) &
			     MIGRATE_PFN_COMPOUND))
			nr = identity_prepare(args, i);
		mpfn = args->src[i];
		dst = args->dst[i] & ~MIGRATE_DST_PRIVATE;
		args->dst[i] = dst;
		if (!(mpfn & MIGRATE_PFN_MIGRATE))
			continue;
		if (mpfn & MIGRATE_PFN_VALID)
			identity_page(args, i, mpfn, identity_dst(mpfn, dst));
		else
			holes = true;
	}
	return holes;
}

/**
 * migrate_vma_pages() - move the identity to the destination pages
 * @args: as it was given to migrate_vma_setup(), with dst[] filled in
 *
 * Moves mapping, index, flags and memcg charge from the source to the
 * destination, and maps the destination pages of holes. The CPU can access the
 * latter from now on, so their content must have been written before; the
 * content of the others must be complete when migrate_vma_finalize() is called.
 *
 * Whether a page may move depends on its destination, so entries can still drop
 * out: those without a destination or with one of another order, pages of
 * files with a destination in device memory, pages of the swap cache whose swap
 * is in use, pages that were pinned in the meantime, holes that were filled in
 * the meantime or that userfaultfd handles. A large folio with single pages as
 * destination is split, in each process that maps it. The driver must check
 * MIGRATE_PFN_MIGRATE in src[] again, of the first entry of a large folio or of
 * each page it gave: only pages that still have it have moved.
 *
 * Context: Process context, mmap lock held since setup. May sleep.
 */
void migrate_vma_pages(struct migrate_vma *args)
{
	if (migrate_identities(args))
		migrate_vma_populate(args);
}
EXPORT_SYMBOL(migrate_vma_pages);

/**
 * migrate_vma_finalize() - map the destination or the source pages
 * @args: as it was given to migrate_vma_pages()
 *
 * Maps the destination page of an entry that still has MIGRATE_PFN_MIGRATE, and
 * the source page of any other, and wakes the tasks that wait for it. All
 * source and destination pages are unlocked, and the references that the
 * migration and the driver hold to them are dropped, which frees the page that
 * is not mapped.
 *
 * Context: Process context, mmap lock held since setup. May sleep.
 */
void migrate_vma_finalize(struct migrate_vma *args)
{
	if (!args->npages)
		return;
	mmap_assert_locked(args->vma->vm_mm);
	migrate_restore_in_place(args);
	migrate_finish(args);
}
EXPORT_SYMBOL(migrate_vma_finalize);

/*
 * The CPU fault.
 */

/*
 * The driver is called with the lock of the folio and a reference to it. If it
 * splits the folio, both belong to the folio of the faulting page.
 */
static vm_fault_t fault_call_driver(struct vm_fault *vmf)
{
	struct page *page = vmf->page;
	struct folio *folio;
	vm_fault_t ret;

	ret = page_pgmap(page)->ops->migrate_to_ram(vmf);
	folio = page_folio(page);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

/**
 * migrate_device_fault() - CPU fault on a device-private page
 * @vmf: the fault; @vmf->orig_pte is a device-private entry
 *
 * Of the threads that fault on a page, the one that gets the page lock calls
 * the driver. A reference of each of the others would look like a pin and make
 * the migration fail. So they take none and sleep until the page is unlocked,
 * as they would for a migration entry. By then the page is in system memory, or
 * the next thread calls the driver.
 *
 * Context: Process context, mmap lock held for reading. May sleep.
 * Return: the value of dev_pagemap_ops::migrate_to_ram(); 0 to repeat the
 * access; VM_FAULT_RETRY, with the mmap lock still held, if the page is locked
 * and the fault must not wait.
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
	if (folio_trylock(folio)) {
		folio_get(folio);
		pte_unmap_unlock(vmf->pte, vmf->ptl);
		return fault_call_driver(vmf);
	}

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT) {
		pte_unmap_unlock(vmf->pte, vmf->ptl);
		return VM_FAULT_RETRY;
	}
	pte_unmap(vmf->pte);
	migration_entry_wait_on_locked(entry, vmf->ptl);
	return 0;
}

#ifdef CONFIG_DEVICE_MIGRATION_HUGE
/**
 * do_huge_pmd_device_private() - CPU fault on a device-private PMD
 * @vmf: the fault; @vmf->orig_pmd is a device-private entry
 *
 * As migrate_device_fault(), for a folio that is mapped by a PMD. For the
 * driver, @vmf->pte is NULL, and @vmf->page is the page of the faulting
 * address. The threads that access other pages of the folio wait as well.
 *
 * Context: Process context, mmap lock held for reading. May sleep.
 * Return: as migrate_device_fault(); also VM_FAULT_RETRY for a fault that holds
 * the VMA lock only, which is dropped.
 */
vm_fault_t do_huge_pmd_device_private(struct vm_fault *vmf)
{
	swp_entry_t entry = pmd_to_swp_entry(vmf->orig_pmd);
	struct folio *folio;

	if (vmf->flags & FAULT_FLAG_VMA_LOCK) {
		vma_end_read(vmf->vma);
		return VM_FAULT_RETRY;
	}
	vmf->ptl = pmd_lock(vmf->vma->vm_mm, vmf->pmd);
	if (!pmd_same(*vmf->pmd, vmf->orig_pmd)) {
		spin_unlock(vmf->ptl);
		return 0;
	}
	folio = pfn_swap_entry_folio(entry);
	vmf->pte = NULL;
	vmf->page = folio_page(folio, (vmf->address & ~HPAGE_PMD_MASK) >>
			       PAGE_SHIFT);
	if (folio_trylock(folio)) {
		folio_get(folio);
		spin_unlock(vmf->ptl);
		return fault_call_driver(vmf);
	}

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT) {
		spin_unlock(vmf->ptl);
		return VM_FAULT_RETRY;
	}
	migration_entry_wait_on_locked(entry, vmf->ptl);
	return 0;
}
#endif
