// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: folios mapped by PMDs.
 *
 * Scope
 *
 *   What each step does for an entry with COMPOUND:
 *
 *	migrate_collect_huge()		setup: from a PMD to an entry of src[]
 *	migrate_split()			setup: the driver wants pages, so split;
 *					pages: it has no large destination
 *	migrate_populate_charge()	pages: charge the destination of a hole
 *	migrate_populate_huge()		pages: map it
 *
 *   And a split of the folios of which a part is unmapped.
 *
 *   All other steps are the same for a large folio as for a page.
 *
 * Splitting an unmapped folio
 *
 *   The driver may not have asked for large folios by
 *   MIGRATE_VMA_SELECT_COMPOUND, or give single pages for one, for some or for
 *   all of its pages. By then the migration entries of the folio are in the
 *   page tables of each process that maps it. First all of these become
 *   entries of single pages, as those of a smaller folio are: a PMD entry must
 *   not refer to a folio that is no larger than a page. Then the folio itself
 *   is split. Neither needs an invalidation, as nothing is mapped.
 *
 *   If there is another reference, nothing is split, and the folio is mapped as
 *   before when the migration is over. If one is taken between the two steps, the
 *   second fails: the folio stays large, and PTEs map it.
 *
 * Locks
 *
 *   The folio is locked. Within it, the PMD lock, or the anon_vma lock and
 *   then the PMD lock.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/pgalloc.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_device_internal.h"

/*
 * Collect.
 */

/* Can the folio be one entry? */
static bool huge_is_whole(const struct migrate_vma *args,
			  const struct device_extent *ext, struct folio *folio)
{
	return ext->nr == HPAGE_PMD_NR && migrate_takes_whole(args, folio) &&
	       folio_order(folio) == MIGRATE_HUGE_ORDER;
}

/* Return: whether the mapping was replaced. If not, the folio is pinned. */
static bool huge_unmap(struct migrate_walk *mw, struct device_extent *ext,
		       struct folio *folio)
{
	struct migrate_vma *args = mw->args;
	struct page_vma_mapped_walk pvmw = {
		.vma = mw->walk.vma,
		.address = ext->addr,
		.pmd = ext->pmdp,
	};
	unsigned long mpfn = migrate_pfn(folio_pfn(folio)) |
			     MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND;

	/* The reference of the mapping is dropped with it. */
	folio_get(folio);
	if (set_pmd_migration_entry(&pvmw, &folio->page)) {
		folio_put(folio);
		return false;
	}
	if (is_writable_migration_entry(pmd_to_swp_entry(*ext->pmdp)))
		mpfn |= MIGRATE_PFN_WRITE;
	if (!folio_mapped(folio))
		mpfn |= MIGRATE_PFN_SOLE;
	migrate_drain_mlock(mw->walk.vma);
	args->src[migrate_index(args, ext->addr)] = mpfn;
	args->cpages++;
	mw->nr_pages++;
	return true;
}

/**
 * migrate_collect_huge() - collect a folio that is mapped by a PMD as a whole
 * @mw: the walk
 * @ext: the part of the mapping that is in the range
 *
 * A folio that is locked or pinned is skipped.
 *
 * Context: PMD lock held. The folio is one that @mw->args selects.
 * Return: false if the folio has to be split first, because not all of its pages
 * are wanted.
 */
bool migrate_collect_huge(struct migrate_walk *mw, struct device_extent *ext)
{
	struct folio *folio = pfn_folio(ext->pfn);
	bool faulting = migrate_is_fault(mw->args, folio);

	if (!huge_is_whole(mw->args, ext, folio))
		return false;
	if (!faulting && !folio_trylock(folio))
		return true;
	if (!huge_unmap(mw, ext, folio) && !faulting)
		folio_unlock(folio);
	return true;
}

/*
 * Split an entry.
 */

/*
 * If PTEs map the folio here, no PMD does: a PMD maps all of its pages. The
 * folio is split below the migration, which raised a notifier at setup.
 */
static bool huge_split_mapping(struct folio *folio, struct vm_area_struct *vma,
			       unsigned long addr, void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr,
			      PVMW_SYNC | PVMW_MIGRATION);

	if (!page_vma_mapped_walk(&pvmw))
		return true;
	if (!pvmw.pte)
		split_huge_pmd_locked(vma, pvmw.address & HPAGE_PMD_MASK,
				      pvmw.pmd, false, NULL);
	page_vma_mapped_walk_done(&pvmw);
	return true;
}

static bool huge_is_referenced(const struct migrate_vma *args,
			       struct folio *folio)
{
	int expected = migrate_is_fault(args, folio) ? 2 : 1;

	return folio_ref_count(folio) > expected;
}

/* A separate function, so that a test can act between the two steps. */
VISIBLE_IF_KUNIT void migrate_split_mappings(struct folio *folio)
{
	struct rmap_walk_control rwc = { .rmap_one = huge_split_mapping };

	KUNIT_STATIC_STUB_REDIRECT(migrate_split_mappings, folio);
	if (folio_order(folio) >= MIGRATE_HUGE_ORDER)
		rmap_walk(folio, &rwc);
}

/*
 * The fault path waits for this call, so it does not need its reference, which
 * would keep the folio from being split. It then belongs to the page that the
 * fault is about.
 */
static bool huge_split_folio(const struct migrate_vma *args,
			     struct folio *folio)
{
	bool faulting = migrate_is_fault(args, folio);
	int ret;

	if (faulting)
		folio_put(folio);
	ret = folio_split_unmapped(folio, 0);
	if (faulting)
		folio_get(page_folio(args->fault_page));
	return !ret;
}

/*
 * Each page has a reference and is locked. The reference to the anon_vma goes to
 * the last page, which is finished last.
 */
static void huge_fill(unsigned long *src, unsigned long nr)
{
	unsigned long mpfn = *src & ~(MIGRATE_PFN_COMPOUND |
				      MIGRATE_PFN_ANON_VMA);
	unsigned long once = *src & MIGRATE_PFN_ANON_VMA;
	unsigned long i;

	for (i = 0; i < nr; i++, mpfn += 1UL << MIGRATE_PFN_SHIFT)
		src[i] = mpfn;
	src[nr - 1] |= once;
}

/**
 * migrate_split() - split an entry with COMPOUND
 * @args: the migration, after setup
 * @i: the entry
 *
 * Context: Process context. May sleep.
 * Return: false if the folio cannot be split. The entry is unchanged then.
 */
bool migrate_split(struct migrate_vma *args, unsigned long i)
{
	struct folio *folio = migrate_entry_folio(args->src[i]);
	unsigned long k, nr = migrate_entry_nr(args->src[i]);

	if (!folio) {
		for (k = 0; k < nr; k++)
			args->src[i + k] = MIGRATE_PFN_MIGRATE;
		return true;
	}
	if (folio_test_swapcache(folio) && !folio_free_swap(folio))
		return false;
	if (huge_is_referenced(args, folio))
		return false;
	migrate_split_mappings(folio);
	if (!huge_split_folio(args, folio))
		return false;
	huge_fill(args->src + i, nr);
	return true;
}

/**
 * migrate_queue_split() - have a folio split that is mapped in part
 * @folio: large folio, locked, after its migration
 *
 * Device memory is not queued for splitting when it is unmapped in part. When
 * it comes back to the system, the shrinker must find it.
 *
 * Context: Process context.
 */
void migrate_queue_split(struct folio *folio)
{
	if (!folio_test_anon(folio) || folio_is_zone_device(folio) ||
	    !folio_mapped(folio) || folio_entire_mapcount(folio) ||
	    folio_nr_pages_mapped(folio) == folio_nr_pages(folio))
		return;
	deferred_split_folio(folio, true);
}

/*
 * Populate.
 */

/**
 * migrate_populate_charge() - charge the large destination of a hole
 * @args: the migration
 * @i: the entry; cleared, with those behind it that the folio would fill, if
 *	the folio cannot be charged
 *
 * Does not invoke the OOM killer for a large folio: the process can do with
 * small ones.
 *
 * Context: Process context. May sleep.
 */
void migrate_populate_charge(struct migrate_vma *args, unsigned long i)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;
	struct folio *folio = migrate_entry_folio(args->dst[i]);

	if ((folio_is_zone_device(folio) && !migrate_is_mappable(folio)) ||
	    mem_cgroup_charge(folio, args->vma->vm_mm, gfp)) {
		memset_l(args->src + i, 0, folio_nr_pages(folio));
		return;
	}
	__folio_mark_uptodate(folio);
}

static pmd_t *huge_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4dp = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pudp = p4dp ? pud_alloc(mm, p4dp, addr) : NULL;

	return pudp ? pmd_alloc(mm, pudp, addr) : NULL;
}

/*
 * A huge zero page must leave the TLBs before the CPU can access the new one.
 * It has a page table in reserve already.
 *
 * Return: false if something else is mapped, or if userfaultfd write-protects
 * the zero page, which stays then.
 */
static bool huge_make_room(struct vm_area_struct *vma, unsigned long addr,
			   pmd_t *pmdp, pgtable_t *table)
{
	if (pmd_none(*pmdp)) {
		pgtable_trans_huge_deposit(vma->vm_mm, pmdp, *table);
		mm_inc_nr_ptes(vma->vm_mm);
		*table = NULL;
		return true;
	}
	if (!is_huge_zero_pmd(*pmdp) || pmd_uffd_wp(*pmdp))
		return false;
	flush_cache_range(vma, addr, addr + HPAGE_PMD_SIZE);
	pmdp_invalidate(vma, addr, pmdp);
	return true;
}

/* The device may have written to new memory that is writable. */
static pmd_t huge_new_pmd(struct vm_area_struct *vma, struct folio *folio)
{
	bool write = vma->vm_flags & VM_WRITE;
	pmd_t pmd;

	if (migrate_is_private(folio))
		return device_pmd_new_private(folio_pfn(folio), write);
	pmd = mk_huge_pmd(&folio->page, vma->vm_page_prot);
	return write ? pmd_mkwrite(pmd_mkdirty(pmd), vma) : pmd;
}

static void huge_map(struct vm_area_struct *vma, unsigned long addr,
		     pmd_t *pmdp, struct folio *folio)
{
	folio_get(folio);
	folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
	if (!folio_is_zone_device(folio))
		folio_add_lru_vma(folio, vma);
	set_pmd_at(vma->vm_mm, addr, pmdp, huge_new_pmd(vma, folio));
	if (!migrate_is_private(folio))
		update_mmu_cache_pmd(vma, addr, pmdp);
	add_mm_counter(vma->vm_mm, MM_ANONPAGES, HPAGE_PMD_NR);
}

/* Receives a page table; sets it to NULL if it was used. */
static bool huge_insert(struct vm_area_struct *vma, unsigned long addr,
			pmd_t *pmdp, struct folio *folio, pgtable_t *table)
{
	spinlock_t *ptl = pmd_lock(vma->vm_mm, pmdp);
	bool done = migrate_may_populate(vma) &&
		    huge_make_room(vma, addr, pmdp, table);

	if (done)
		huge_map(vma, addr, pmdp, folio);
	spin_unlock(ptl);
	return done;
}

/**
 * migrate_populate_huge() - map a large destination where nothing was mapped
 * @mw: the walk
 * @addr: address of the hole, or of a huge zero page
 *
 * Clears the entry of src[] if that is not possible.
 *
 * Context: Process context, mmap lock held, no page-table lock. May sleep.
 */
void migrate_populate_huge(struct migrate_walk *mw, unsigned long addr)
{
	struct vm_area_struct *vma = mw->walk.vma;
	unsigned long i = migrate_index(mw->args, addr);
	struct folio *folio = migrate_entry_folio(mw->args->dst[i]);
	pmd_t *pmdp = huge_alloc_pmd(vma->vm_mm, addr);
	pgtable_t table = pmdp ? pte_alloc_one(vma->vm_mm) : NULL;

	if (!table || !huge_insert(vma, addr, pmdp, folio, &table))
		mw->args->src[i] = 0;
	if (table)
		pte_free(vma->vm_mm, table);
}

/*
 * Partial unmapping.
 */

/* There is a large folio on a device, or there was one. */
bool migrate_huge_used __read_mostly;

/* Of system memory, or of a device; the caller decides. */
static struct page *huge_zapped_page(struct vm_area_struct *vma,
				     unsigned long addr, pte_t pte)
{
	swp_entry_t entry;

	if (pte_present(pte))
		return vm_normal_page(vma, addr, pte);
	if (pte_none(pte))
		return NULL;
	entry = pte_to_swp_entry(pte);
	return is_device_private_entry(entry) ? pfn_swap_entry_to_page(entry) :
						NULL;
}

/*
 * The page at @addr, with a reference to its folio, if that is a large one on a
 * device. The entry was read without the lock of its table, so the page may have
 * left it. A split does no harm then. A reference to another page, or to one that
 * migrates, would only be in the way of others.
 */
static struct page *huge_get_zapped(struct vm_area_struct *vma,
				    unsigned long addr, pte_t pte)
{
	struct page *page = huge_zapped_page(vma, addr, pte);
	struct folio *folio;

	if (!page || !PageCompound(page))
		return NULL;
	folio = page_folio(page);
	if (!folio_is_zone_device(folio) || device_folio_seems_locked(folio) ||
	    !folio_try_get(folio))
		return NULL;
	if (folio_test_large(folio) && page_folio(page) == folio)
		return page;
	folio_put(folio);
	return NULL;
}

/*
 * The folio at @addr, with a reference, if it is one of a device that has pages
 * outside of the range. If another process maps it, its pages are free when that
 * process has unmapped them, too: nobody looks for them then.
 */
static struct folio *huge_crossing(struct vm_area_struct *vma,
				   unsigned long addr, pte_t pte,
				   unsigned long start, unsigned long end)
{
	struct page *page = huge_get_zapped(vma, addr, pte);
	struct folio *folio;
	unsigned long first;

	if (!page)
		return NULL;
	folio = page_folio(page);
	first = addr - folio_page_idx(folio, page) * PAGE_SIZE;
	if (first < start || first + folio_size(folio) > end)
		return folio;
	folio_put(folio);
	return NULL;
}

static void huge_split_and_put(struct folio *folio)
{
	if (folio_trylock(folio)) {
		split_folio(folio);
		folio_unlock(folio);
	}
	folio_put(folio);
}

/**
 * migrate_split_zapped() - split the device folios that a zap takes a part of
 * @vma: mapping
 * @pmd: page table of the range
 * @start: first address that is zapped, in bytes
 * @end: end of the range
 *
 * A page of a large folio is free only when the whole folio is. Split the folios
 * that cross an end of the range, so that the driver gets the pages of the range
 * when they are zapped, and not with the last page of the folio. A folio that is
 * locked or has another reference stays as it is.
 *
 * Context: Process context. The mmap lock or that of the file's mappings is held,
 * and no page-table lock. May sleep.
 */
void migrate_split_zapped(struct vm_area_struct *vma, pmd_t *pmd,
			  unsigned long start, unsigned long end)
{
	unsigned long last = end - PAGE_SIZE;
	struct folio *folios[2];
	pte_t *ptep;

	/* The OOM reaper must not wait for a notifier. */
	if (test_bit(MMF_UNSTABLE, &vma->vm_mm->flags))
		return;
	ptep = pte_offset_map(pmd, start);
	if (!ptep)
		return;
	folios[0] = huge_crossing(vma, start, ptep_get_lockless(ptep), start,
				  end);
	ptep += (last - start) >> PAGE_SHIFT;
	folios[1] = huge_crossing(vma, last, ptep_get_lockless(ptep), start,
				  end);
	pte_unmap(ptep);
	/* a second reference would keep the first from being split */
	if (folios[0] && folios[0] == folios[1])
		folio_put(folios[0]);
	else if (folios[0])
		huge_split_and_put(folios[0]);
	if (folios[1])
		huge_split_and_put(folios[1]);
}
