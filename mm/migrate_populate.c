// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between system memory and device memory: populate.
 *
 * Scope
 *
 *   The part of migrate_vma_pages() that maps destination pages where setup
 *   found a hole or a zero page. The entry point is migrate_vma_populate().
 *
 * Invariants
 *
 *   - Setup locks nothing where nothing is mapped. So holes are checked again
 *     under the page-table lock; a hole that was filled in the meantime loses
 *     MIGRATE.
 *   - The CPU can access a page as soon as its entry is set. The page is
 *     charged and up to date before.
 *   - An entry of src[] that is still a hole on return has its destination
 *     mapped, with a reference of its own. The driver's reference stays with
 *     the migration and is dropped by migrate_finish().
 *
 * Locks
 *
 *   The caller holds the mmap lock and the locks of the destination pages.
 *   Within them, and within an mmu notifier range (MMU_NOTIFY_MIGRATE, owner of
 *   the caller), the walk takes the page-table lock.
 */
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/oom.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"
#include "migrate_device_internal.h"

/* Return value of a walk operation: allocate a page table, then go on. */
#define POPULATE_ALLOC	1

/*
 * Charge the destination pages.
 */

/**
 * struct migrate_charge - destination pages to be charged together
 * @args: the migration
 * @fbatch: the pages
 * @index: their entries
 */
struct migrate_charge {
	struct migrate_vma *args;
	struct folio_batch fbatch;
	unsigned long index[PAGEVEC_SIZE];
};

/*
 * The batch as a whole is over the limit. Charge folio by folio until the limit
 * is hit.
 */
static void charge_singly(struct migrate_charge *charge)
{
	struct migrate_vma *args = charge->args;
	unsigned int i;

	for (i = 0; i < folio_batch_count(&charge->fbatch); i++)
		if (mem_cgroup_charge(charge->fbatch.folios[i],
				      args->vma->vm_mm, GFP_KERNEL))
			args->src[charge->index[i]] = 0;
}

static void charge_flush(struct migrate_charge *charge)
{
	if (mem_cgroup_charge_folios(&charge->fbatch,
				     charge->args->vma->vm_mm, GFP_KERNEL))
		charge_singly(charge);
	folio_batch_reinit(&charge->fbatch);
}

static __always_inline bool charge_fits(const struct folio *folio)
{
	return folio && (!folio_is_zone_device(folio) ||
			 migrate_is_mappable(folio));
}

/* Return: false if the destination is refused. */
static __always_inline bool charge_hole(struct migrate_charge *charge,
					unsigned long index, unsigned long dst)
{
	struct folio *folio = migrate_small_dst(dst);

	if (!charge_fits(folio)) {
		charge->args->src[index] = 0;
		return false;
	}
	__folio_mark_uptodate(folio);
	charge->index[folio_batch_count(&charge->fbatch)] = index;
	if (!folio_batch_add(&charge->fbatch, folio))
		charge_flush(charge);
	return true;
}

/* Number of entries that belong to the entry or to its destination */
static unsigned long charge_nr(const struct migrate_vma *args, unsigned long i)
{
	if (migrate_starts_extent(args, i))
		return folio_nr_pages(migrate_entry_folio(args->dst[i]));
	return migrate_entry_nr(args->src[i]);
}

static void charge_refuse_holes(struct migrate_vma *args)
{
	unsigned long i;

	for (i = 0; i < args->npages; i++)
		if (migrate_entry_is_hole(args->src[i]))
			args->src[i] = 0;
}

/* Return: the first hole that can be populated, @args->npages if none. */
static unsigned long populate_charge(struct migrate_vma *args)
{
	struct migrate_charge charge = { .args = args };
	unsigned long i, nr, first = args->npages;

	folio_batch_init(&charge.fbatch);
	for (i = 0; i < args->npages; i += nr) {
		unsigned long mpfn = args->src[i], dst = args->dst[i];

		nr = 1;
		if (unlikely((mpfn | dst) & MIGRATE_PFN_COMPOUND))
			nr = charge_nr(args, i);
		if (!migrate_entry_is_hole(mpfn))
			continue;
		if (nr > 1)
			migrate_populate_charge(args, i);
		else if (!charge_hole(&charge, i, dst))
			continue;
		first = min(first, i);
	}
	if (folio_batch_count(&charge.fbatch))
		charge_flush(&charge);
	return first;
}

/*
 * Map the destination pages.
 */

static void populate_refuse(struct migrate_walk *mw, unsigned long addr,
			    unsigned long nr)
{
	unsigned long *src = mw->args->src + migrate_index(mw->args, addr);
	unsigned long i;

	for (i = 0; i < nr; i++)
		if (migrate_entry_is_hole(src[i]))
			src[i] = 0;
}

/**
 * migrate_may_populate() - may a page be mapped where nothing was mapped?
 * @vma: the VMA
 *
 * Context: page-table lock held.
 * Return: false if user space or the OOM killer is in the way.
 */
bool migrate_may_populate(struct vm_area_struct *vma)
{
	return !userfaultfd_missing(vma) &&
	       !check_stable_address_space(vma->vm_mm);
}

/* The device may have written to new memory that is writable. */
static __always_inline pte_t populate_pte(struct vm_area_struct *vma,
					  struct folio *folio)
{
	bool write = vma->vm_flags & VM_WRITE;
	pte_t pte;

	if (migrate_is_private(folio))
		return device_pte_new_private(folio_pfn(folio), write);
	pte = mk_pte(&folio->page, vma->vm_page_prot);
	return write ? pte_mkwrite(pte_mkdirty(pte), vma) : pte;
}

static __always_inline void populate_one(struct migrate_walk *mw,
					 unsigned long addr, pte_t *ptep,
					 struct folio *folio)
{
	struct vm_area_struct *vma = mw->walk.vma;

	folio_get(folio);
	folio_add_new_anon_rmap_batch(folio, vma, addr, &mw->rmap);
	if (!folio_is_zone_device(folio))
		folio_add_lru_vma(folio, vma);
	set_pte_at(vma->vm_mm, addr, ptep, populate_pte(vma, folio));
	update_mmu_cache(vma, addr, ptep);
	mw->nr_mapped++;
}

/*
 * The zero page must leave the TLBs before the CPU can access the new page:
 * otherwise one CPU could write to the new page while another still reads
 * zeroes. A device-private entry gives no access, so one flush for the page
 * table is enough.
 *
 * Return: false if userfaultfd write-protects the zero page, which stays then.
 */
static bool populate_zap_zero(struct migrate_walk *mw, unsigned long addr,
			      pte_t *ptep, struct folio *folio)
{
	struct vm_area_struct *vma = mw->walk.vma;
	pte_t pte = ptep_get(ptep);

	if (pte_uffd_wp(pte))
		return false;
	ksm_might_unmap_zero_page(vma->vm_mm, pte);
	flush_cache_page(vma, addr, pte_pfn(pte));
	if (migrate_is_private(folio)) {
		ptep_get_and_clear(vma->vm_mm, addr, ptep);
		mw->flush = true;
	} else {
		ptep_clear_flush(vma, addr, ptep);
	}
	return true;
}

/*
 * Stop at a hole with a large destination, which populate_large() fills. A hole
 * without a destination is the rest of one that was refused. There was no page
 * table when a large hole was collected.
 */
static void populate_run(struct migrate_walk *mw, struct device_extent *ext)
{
	unsigned long index = migrate_index(mw->args, ext->addr);
	unsigned long *src = mw->args->src + index;
	const unsigned long *dst = mw->args->dst + index;
	unsigned long i, addr = ext->addr;

	for (i = 0; i < ext->nr; i++, addr += PAGE_SIZE) {
		struct folio *folio;

		if (!migrate_entry_is_hole(src[i]))
			continue;
		folio = migrate_entry_folio(dst[i]);
		if (unlikely((src[i] | dst[i]) & MIGRATE_PFN_COMPOUND)) {
			if (migrate_starts_extent(mw->args, index + i)) {
				ext->nr = i;
				return;
			}
			folio = NULL;
		}
		if (!folio || (ext->kind == DEVICE_EXTENT_ZERO &&
			       !populate_zap_zero(mw, addr, ext->ptep + i,
						  folio)))
			src[i] = 0;
		else
			populate_one(mw, addr, ext->ptep + i, folio);
	}
}

static __always_inline unsigned long
populate_large(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	       unsigned long max)
{
	struct migrate_walk *mw = to_migrate_walk(walk);

	if (likely(!migrate_starts_extent(mw->args,
					  migrate_index(mw->args, addr))))
		return 0;
	return migrate_populate_extent(mw, addr, ptep);
}

/*
 * A hole without a page table, or a huge zero page: stop at the first page to
 * be mapped.
 */
static int populate_find_page(struct migrate_walk *mw,
			      struct device_extent *ext)
{
	unsigned long *src = mw->args->src + migrate_index(mw->args, ext->addr);
	unsigned long i;

	for (i = 0; i < ext->nr; i++) {
		if (migrate_entry_is_hole(src[i])) {
			ext->nr = i;
			return POPULATE_ALLOC;
		}
	}
	return 0;
}

static bool populate_is_large(struct migrate_walk *mw, unsigned long addr)
{
	unsigned long mpfn = mw->args->src[migrate_index(mw->args, addr)];

	return migrate_entry_is_hole(mpfn) && migrate_entry_is_large(mpfn);
}

/*
 * A huge zero page: stop for a large destination. For small ones split it, with
 * the lock of the walk held, and have the walk read the page table.
 */
static int populate_huge_zero(struct migrate_walk *mw,
			      struct device_extent *ext)
{
	int ret = populate_find_page(mw, ext);

	if (!ret || populate_is_large(mw, device_extent_end(ext)))
		return ret;
	split_huge_pmd_locked(mw->walk.vma, ext->addr & PMD_MASK,
			      ext->pmdp, false, NULL);
	return DEVICE_WALK_AGAIN;
}

static int populate_extent(struct device_walk *walk, struct device_extent *ext)
{
	struct migrate_walk *mw = to_migrate_walk(walk);
	bool hole = ext->kind == DEVICE_EXTENT_HOLE;

	if (hole && !ext->ptep)
		return populate_find_page(mw, ext);
	if (ext->kind == DEVICE_EXTENT_ZERO && !ext->ptep)
		return populate_huge_zero(mw, ext);
	if (ext->ptep && (hole || ext->kind == DEVICE_EXTENT_ZERO) &&
	    migrate_may_populate(walk->vma))
		populate_run(mw, ext);
	else
		populate_refuse(mw, ext->addr, ext->nr);
	return 0;
}

static void populate_table_end(struct device_walk *walk, unsigned long start,
			       unsigned long end)
{
	struct migrate_walk *mw = to_migrate_walk(walk);

	arch_leave_lazy_mmu_mode();
	rmap_batch_flush(&mw->rmap);
	add_mm_counter(walk->mm, MM_ANONPAGES, mw->nr_mapped);
	if (mw->flush)
		flush_tlb_range(walk->vma, start, end);
	mw->nr_mapped = 0;
	mw->flush = false;
}

static const struct device_walk_ops populate_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.ptes = populate_large,
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

/* The walk stopped at a hole that it could not fill itself. */
static bool populate_stopped(struct migrate_walk *mw)
{
	struct device_walk *walk = &mw->walk;

	if (populate_is_large(mw, walk->addr)) {
		migrate_populate_huge(mw, walk->addr);
		walk->addr += PMD_SIZE;
		return true;
	}
	if (populate_alloc_table(walk->mm, walk->addr))
		return true;
	populate_refuse(mw, walk->addr,
			(mw->args->end - walk->addr) >> PAGE_SHIFT);
	return false;
}

static void populate_range(struct migrate_vma *args, unsigned long start)
{
	struct migrate_walk mw = migrate_walk_init(args);
	struct device_walk *walk = &mw.walk;

	walk->addr = start;
	while (walk->addr < args->end &&
	       device_walk_vma(walk, walk->addr, args->end, &populate_ops)) {
		if (!populate_stopped(&mw))
			return;
		cond_resched();
	}
}

/**
 * migrate_vma_populate() - map destination pages where nothing was mapped
 * @args: entries of src[] that are large holes have a large destination
 *
 * Clears the entry of src[] where that is not possible, as it never is in a
 * migration by pfn.
 *
 * Context: Process context, mmap lock held. May sleep.
 */
void migrate_vma_populate(struct migrate_vma *args)
{
	struct mmu_notifier_range range;
	unsigned long first, start;

	if (!args->vma || !vma_is_anonymous(args->vma)) {
		charge_refuse_holes(args);
		return;
	}
	first = populate_charge(args);
	if (first == args->npages)
		return;
	if (anon_vma_prepare(args->vma)) {
		charge_refuse_holes(args);
		return;
	}
	start = args->start + (first << PAGE_SHIFT);
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_MIGRATE, 0,
				      args->vma->vm_mm, start, args->end,
				      args->pgmap_owner);
	mmu_notifier_invalidate_range_start(&range);
	populate_range(args, start);
	mmu_notifier_invalidate_range_end(&range);
}
