// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write access of a device to its own memory.
 *
 * What this file owns
 *
 *   The write fault of a device on a device-private page that it has mapped
 *   already: whether the entry becomes writable in place, so that the page
 *   stays on the device, or the page has to be copied, for which the fault
 *   handler brings it to system memory. It is to device-private entries what
 *   do_wp_page() is to present ones.
 *
 *	entry			page			result
 *	----------------------	----------------------	------------------
 *	uffd-wp, sync		any			fault
 *	writable, soft-clean	any			soft-dirty
 *	read-only, or uffd-wp	anon-exclusive		writable
 *	with WP_ASYNC		mapped here alone, no	exclusive, writable
 *				other reference
 *				the same, but locked	-EBUSY
 *				anything else		fault
 *
 *   An entry is read-only after mprotect(), after fork(), also if the child
 *   has exited or is in another program since, and if the page was migrated
 *   while it was read-only. An entry that becomes writable becomes soft-dirty
 *   as well: it has no dirty bit, so nothing else notes the write.
 *
 * No invalidation
 *
 *   The entry still refers to the same page and allows all that it allowed
 *   before, so what any mirror has read from it stays correct. The CPU has no
 *   translation of a device-private entry.
 *
 * Locks
 *
 *	mmap lock (read): keeps fork(), mprotect() and clear_refs out
 *	  page-table lock: the entry, and PG_anon_exclusive of its folio
 *	    page lock, by trylock: no migration and no fault of the CPU is
 *	    under way, whose references would be taken for those of others
 *
 *   The holder of the page lock may be a fault of the CPU that waits for a
 *   lock of the driver, in migrate_to_ram(). So the lock is not waited for.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/processor.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>

#include "device_entry.h"
#include "device_walk.h"
#include "device_write.h"

/**
 * struct device_write - a run of pages that become writable
 * @walk: where the walk stands
 * @owner: owner of the device memory
 */
struct device_write {
	struct device_walk walk;
	void *owner;
};

/*
 * A process that unmaps the page drops its mapping first, then its reference. In
 * between, the page is mapped once and has two references. Look so often before
 * the second one is taken to last.
 */
#define DEVICE_WRITE_LOOKS	100

/* A function of its own, for a test to drop a reference between two looks. */
VISIBLE_IF_KUNIT void device_write_relax(struct folio *folio)
{
	KUNIT_STATIC_STUB_REDIRECT(device_write_relax, folio);
	cpu_relax();
}

static bool device_write_is_alone(struct folio *folio)
{
	unsigned int looks = DEVICE_WRITE_LOOKS;

	while (folio_ref_count(folio) > 1) {
		if (!--looks)
			return false;
		device_write_relax(folio);
	}
	return true;
}

/*
 * As in do_wp_page(): one reference is that of the entry. Another one may be
 * that of somebody who relies on the page to keep the content that it shared.
 */
static int device_write_claim(struct vm_area_struct *vma, struct page *page)
{
	struct folio *folio = page_folio(page);
	int ret = DEVICE_WRITE_FAULT;

	if (PageAnonExclusive(page))
		return 0;
	if (folio_test_large(folio) || folio_mapcount(folio) > 1)
		return DEVICE_WRITE_FAULT;
	if (!folio_trylock(folio))
		return -EBUSY;
	if (device_write_is_alone(folio)) {
		folio_move_anon_rmap(folio, vma);
		SetPageAnonExclusive(page);
		ret = 0;
	}
	folio_unlock(folio);
	return ret;
}

static bool device_write_is_watched(struct vm_area_struct *vma, pte_t pte)
{
	return pte_swp_uffd_wp(pte) && userfaultfd_wp(vma) &&
	       !userfaultfd_wp_async(vma);
}

static int device_write_one(struct vm_area_struct *vma, unsigned long addr,
			    pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);
	swp_entry_t entry = pte_to_swp_entry(pte);
	int ret;

	if (device_write_is_watched(vma, pte))
		return DEVICE_WRITE_FAULT;
	if (!is_writable_device_private_entry(entry)) {
		ret = device_write_claim(vma, pfn_swap_entry_to_page(entry));
		if (ret)
			return ret;
	}
	set_pte_at(vma->vm_mm, addr, ptep, device_pte_private_mkwrite(pte));
	return 0;
}

static int device_write_extent(struct device_walk *walk,
			       struct device_extent *ext)
{
	struct device_write *dw = container_of(walk, struct device_write, walk);
	unsigned long i;
	int ret;

	if (ext->kind != DEVICE_EXTENT_PRIVATE || !ext->ptep ||
	    device_extent_pgmap(ext)->owner != dw->owner)
		return 0;
	for (i = 0; i < ext->nr; i++) {
		ret = device_write_one(walk->vma, ext->addr + (i << PAGE_SHIFT),
				       ext->ptep + i);
		if (ret) {
			ext->nr = i;
			return ret;
		}
	}
	return 0;
}

static const struct device_walk_ops device_write_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = device_write_extent,
	.extent = device_write_extent,
};

/**
 * device_make_writable() - let a device write to the pages that it has
 * @vma: VMA that allows writing
 * @addr: first address (bytes, page aligned); receives where the call stopped
 * @end: end of the range (bytes, page aligned), above @addr, in the VMA
 * @owner: owner of the device, dev_pagemap::owner
 *
 * Makes the device-private entries of @owner writable and soft-dirty in place.
 * Other entries are passed over: they may have come since the caller looked.
 *
 * Context: mmap lock held, for reading at least. May sleep.
 * Return:
 * * 0 - the whole range was visited
 * * DEVICE_WRITE_FAULT - the page at @addr is shared, or is watched by
 *   userfaultfd, and needs a write fault
 * * -EBUSY - the page at @addr is locked by somebody else; wait for that with
 *   no lock held that dev_pagemap_ops::migrate_to_ram() takes, and try again
 */
int device_make_writable(struct vm_area_struct *vma, unsigned long *addr,
			 unsigned long end, void *owner)
{
	struct device_write dw = {
		.walk.mm = vma->vm_mm,
		.walk.vma = vma,
		.owner = owner,
	};
	int ret;

	ret = device_walk_vma(&dw.walk, *addr, end, &device_write_ops);
	*addr = ret ? dw.walk.addr : end;
	return ret;
}
