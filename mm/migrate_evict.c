// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: from pfns.
 *
 * Scope
 *
 *   Migrations that start from device pages, whatever maps them: eviction by the
 *   driver, and the move of coherent memory before a long-term pin. The steps
 *   after the first are those of any migration, but without a VMA.
 *
 * Invariants
 *
 *   - A page is looked up without a reference, and the folio that it belongs to
 *     may change until it is locked. So its folio and order are read after that.
 *   - The migration holds the anon_vma of each page, as the last process that
 *     maps it may exit meanwhile.
 *
 * Locks
 *
 *   Page locks, by trylock. A split takes the anon_vma lock within them.
 */
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "internal.h"
#include "migrate_device_internal.h"

/* A migration that has no VMA */
static struct migrate_vma device_args(unsigned long *src, unsigned long *dst,
				      unsigned long npages)
{
	return (struct migrate_vma) {
		.src = src,
		.dst = dst,
		.npages = npages,
	};
}

/*
 * The folio of a page in use, locked and referenced, or NULL if it cannot move.
 * Without a reference, the page may become part of another folio.
 */
static struct folio *device_lock_folio(struct page *page)
{
	struct folio *folio = page_folio(page);

	/* A reference to a locked page would look like a pin to its owner. */
	if (device_folio_seems_locked(folio) || !folio_try_get(folio))
		return NULL;
	if (likely(folio_trylock(folio))) {
		if (likely(page_folio(page) == folio))
			return folio;
		folio_unlock(folio);
	}
	folio_put(folio);
	return NULL;
}

/*
 * A large folio of which @page is the first of at most @max pages that are
 * evicted has one entry. Of any other, only @page is evicted, so split it.
 *
 * Return: the entry, or 0 if the folio cannot be split.
 */
static unsigned long device_large_entry(struct folio *folio, struct page *page,
					unsigned long max)
{
	unsigned long mpfn = migrate_pfn(page_to_pfn(page)) |
			     MIGRATE_PFN_MIGRATE;

	if (&folio->page == page && folio_nr_pages(folio) <= max)
		return mpfn | MIGRATE_PFN_COMPOUND;
	/* The lock and the reference pass on to the folio of @page. */
	if (!split_huge_page(page))
		return mpfn;
	folio_unlock(folio);
	folio_put(folio);
	return 0;
}

/*
 * Return: the entry for a device page in use, the first of @max pages that are
 * contiguous, or 0 if it cannot move.
 */
static unsigned long device_lock_page(struct page *page, unsigned long max)
{
	struct folio *folio = device_lock_folio(page);

	if (!folio)
		return 0;
	if (folio_test_large(folio))
		return device_large_entry(folio, page, max);
	return migrate_pfn(page_to_pfn(page)) | MIGRATE_PFN_MIGRATE;
}

/* Number of pfns, of at most @max, that are contiguous. */
static unsigned long device_run(const unsigned long *pfns, unsigned long max)
{
	unsigned long nr = 1;

	while (nr < max && pfns[nr] == pfns[0] + nr)
		nr++;
	return nr;
}

static unsigned long device_lock_pfns(const unsigned long *pfns,
				      unsigned long max)
{
	struct page *page;

	if (!pfn_valid(pfns[0]))
		return 0;
	page = pfn_to_page(pfns[0]);
	/* Only a hint: it saves most of the search for a run. */
	if (PageCompound(page))
		max = device_run(pfns, max);
	else
		max = 1;
	return device_lock_page(page, max);
}

/* Store the entry of a large folio, or of a page. Return: its pages. */
static __always_inline unsigned long
device_store(unsigned long *src_pfns, unsigned long mpfn)
{
	unsigned long nr = migrate_entry_nr(mpfn);

	src_pfns[0] = mpfn;
	if (unlikely(nr > 1))
		memset_l(src_pfns + 1, 0, nr - 1);
	return nr;
}

/*
 * Hold the anon_vma of the page for the reverse mapping walk of finalize.
 * Device memory in use is anonymous. A page without an anon_vma was unmapped
 * everywhere or never mapped: the destination of a migration that failed. Drop
 * it, which frees it.
 *
 * Return: the entry, or 0 if the page was dropped.
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

static void device_unmap(unsigned long *src_pfns, unsigned long npages)
{
	struct migrate_vma args = device_args(src_pfns, NULL, npages);
	unsigned long i, nr;

	for (i = 0; i < npages; i += nr) {
		nr = migrate_entry_nr(src_pfns[i]);
		src_pfns[i] = device_get_anon_vma(src_pfns[i]);
		migrate_resched(i);
	}
	migrate_unmap(&args);
}

/**
 * migrate_device_range() - unmap device pages everywhere
 * @src_pfns: receives an entry for each page
 * @start: first pfn
 * @npages: number of pages
 *
 * For a driver that needs its memory back, on eviction or removal, and does not
 * know its users. Fills @src_pfns as migrate_vma_setup() fills its src[]. The
 * entry of a page that is free, pinned or locked is 0. A large folio has one
 * entry, with MIGRATE_PFN_COMPOUND, if all of its pages are in the range; else
 * it is split. The caller goes on with migrate_device_pages() and
 * migrate_device_finalize(). Unlike migrate_vma_setup(), this does not clear the
 * array of destinations: the caller does so before it fills it in.
 *
 * Context: Process context. The pagemap of the pages is alive. Raises
 * MMU_NOTIFY_CLEAR without an owner in each process that maps one of the pages,
 * so the caller holds no lock that its notifier takes. May sleep.
 * Return: 0.
 */
int migrate_device_range(unsigned long *src_pfns, unsigned long start,
			 unsigned long npages)
{
	bool valid = false;
	unsigned long i, nr, mpfn;

	for (i = 0; i < npages; i += nr) {
		unsigned long pfn = start + i;

		/* A memory map covers whole subsections. */
		if (!i || IS_ALIGNED(pfn, PAGES_PER_SUBSECTION))
			valid = pfn_valid(pfn);
		mpfn = valid ? device_lock_page(pfn_to_page(pfn),
						npages - i) : 0;
		nr = device_store(src_pfns + i, mpfn);
		migrate_resched(i);
	}
	device_unmap(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_range);

/**
 * migrate_device_pfns() - unmap device pages everywhere
 * @src_pfns: pfns on entry, entries as of migrate_device_range() on return
 * @npages: number of pages
 *
 * Like migrate_device_range(), for pages that are not contiguous. A large folio
 * is not split if its pages follow each other in @src_pfns.
 *
 * Context: Process context. The pagemaps of the pages are alive. Raises
 * MMU_NOTIFY_CLEAR as migrate_device_range() does. May sleep.
 * Return: 0.
 */
int migrate_device_pfns(unsigned long *src_pfns, unsigned long npages)
{
	unsigned long i, nr, mpfn;

	for (i = 0; i < npages; i += nr) {
		mpfn = device_lock_pfns(src_pfns + i, npages - i);
		nr = device_store(src_pfns + i, mpfn);
		migrate_resched(i);
	}
	device_unmap(src_pfns, npages);
	return 0;
}
EXPORT_SYMBOL(migrate_device_pfns);

/**
 * migrate_device_pages() - move the identity to the destination pages
 * @src_pfns: entries, as migrate_device_range() or migrate_device_pfns() left
 *	them
 * @dst_pfns: destinations as in dst[] of migrate_vma_pages(): 0, or
 *	migrate_pfn() of a locked page or, with MIGRATE_PFN_COMPOUND, folio
 * @npages: number of entries
 *
 * Like migrate_vma_pages(), for a migration that did not start from a VMA.
 *
 * Context: Process context. May sleep.
 */
void migrate_device_pages(unsigned long *src_pfns, unsigned long *dst_pfns,
			  unsigned long npages)
{
	struct migrate_vma args = device_args(src_pfns, dst_pfns, npages);

	if (migrate_identities(&args))
		migrate_vma_populate(&args);
}
EXPORT_SYMBOL(migrate_device_pages);

/**
 * migrate_device_finalize() - map the destination or the source pages
 * @src_pfns: entries, as migrate_device_pages() left them
 * @dst_pfns: as migrate_device_pages() left them
 * @npages: number of entries
 *
 * Like migrate_vma_finalize(), for a migration that did not start from a VMA.
 *
 * Context: Process context. May sleep.
 */
void migrate_device_finalize(unsigned long *src_pfns, unsigned long *dst_pfns,
			     unsigned long npages)
{
	struct migrate_vma args = device_args(src_pfns, dst_pfns, npages);

	migrate_finish(&args);
}
EXPORT_SYMBOL(migrate_device_finalize);

static unsigned long coherent_alloc(unsigned int order)
{
	const gfp_t gfp = GFP_USER | __GFP_NOWARN;
	struct folio *new;

	new = folio_alloc(order ? gfp | __GFP_NORETRY : gfp, order);
	if (!new)
		return 0;
	folio_lock(new);
	return migrate_pfn(folio_pfn(new)) |
	       (order ? MIGRATE_PFN_COMPOUND : 0);
}

/* Allocate a folio as large, or pages if there is none. */
static void coherent_fill(unsigned long *dst, unsigned int order)
{
	unsigned long i;

	dst[0] = coherent_alloc(order);
	if (dst[0])
		return;
	for (i = 0; i < 1UL << order; i++)
		dst[i] = coherent_alloc(0);
}

/* The entries are those after migrate_device_pages(). */
static unsigned long coherent_copy(const unsigned long *src,
				   const unsigned long *dst, unsigned long nr)
{
	unsigned long i, step, moved = 0;

	for (i = 0; i < nr; i += step) {
		step = migrate_entry_nr(src[i]);
		if (!(src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		folio_copy(migrate_entry_folio(dst[i]),
			   migrate_entry_folio(src[i]));
		moved += step;
	}
	return moved;
}

/* @src and @dst are 0, and there are as many as pages of the folio. */
static int coherent_migrate(struct folio *folio, unsigned long *src,
			    unsigned long *dst)
{
	unsigned int order = folio_order(folio);
	unsigned long moved, nr = 1UL << order;

	src[0] = migrate_pfn(folio_pfn(folio)) | MIGRATE_PFN_MIGRATE |
		 (order ? MIGRATE_PFN_COMPOUND : 0);
	device_unmap(src, nr);
	if (!src[0])
		return -EBUSY;
	coherent_fill(dst, order);
	migrate_device_pages(src, dst, nr);
	moved = coherent_copy(src, dst, nr);
	migrate_device_finalize(src, dst, nr);
	return moved == nr ? 0 : -EBUSY;
}

static int coherent_migrate_large(struct folio *folio)
{
	unsigned long nr = folio_nr_pages(folio);
	unsigned long *entries = kvcalloc(2 * nr, sizeof(*entries), GFP_KERNEL);
	int ret;

	if (!entries) {
		folio_unlock(folio);
		folio_put(folio);
		return -EBUSY;
	}
	ret = coherent_migrate(folio, entries, entries + nr);
	kvfree(entries);
	return ret;
}

/**
 * migrate_device_coherent_folio() - move a coherent folio to system memory
 * @folio: folio of device-coherent memory; the reference of the caller is
 *	dropped
 *
 * For a long-term pin, which device memory must not have.
 *
 * Context: Process context. May sleep.
 * Return: 0 if system memory replaced all of the folio wherever it was mapped,
 * or if it was not mapped; -EBUSY if it is pinned or no memory is free.
 */
int migrate_device_coherent_folio(struct folio *folio)
{
	unsigned long dst = 0, src = 0;

	folio_lock(folio);
	if (!folio_mapped(folio)) {
		folio_unlock(folio);
		folio_put(folio);
		return 0;
	}
	if (folio_test_large(folio))
		return coherent_migrate_large(folio);
	return coherent_migrate(folio, &src, &dst);
}
