// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write access of a device to its own memory.
 *
 * Scope
 *
 *   The write fault of a device on a device-private page that it has mapped:
 *   either the entry becomes writable in place, and the page stays on the
 *   device, or the page has to be copied, and the fault handler migrates it to
 *   system memory. It does for device-private entries the work of do_wp_page().
 *
 *	entry			page			result
 *	----------------------	----------------------	------------------
 *	uffd-wp, sync		any			fault
 *	writable, soft-clean	any			soft-dirty
 *	read-only, or uffd-wp	anon-exclusive		writable
 *	with WP_ASYNC		mapped once, no extra	exclusive, writable
 *				reference
 *				the same, but locked	-EBUSY
 *				any other		fault
 *
 *   An entry is read-only after mprotect() and after fork(), even if the child
 *   has called exec or exited, and if the page was migrated while read-only. An
 *   entry that becomes writable also becomes soft-dirty: it has no dirty bit,
 *   so nothing else records the write. The entry of a folio that is mapped by a
 *   PMD is treated like that of a page, and all of its pages become writable.
 *
 * No invalidation
 *
 *   The entry still maps the same page and allows everything that it allowed
 *   before, so mirrors of it stay correct. The TLB never holds a device-private
 *   entry.
 *
 * Locks
 *
 *	mmap lock (read): excludes fork(), mprotect() and clear_refs
 *	  page-table lock: the entry, and PG_anon_exclusive of its folio
 *	    page lock (trylock): excludes migrations and CPU faults, so that
 *	    their references do not look like those of other users
 *
 *   A CPU fault may hold the page lock and wait, in migrate_to_ram(), for a
 *   lock of the driver. So never wait for the page lock.
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
 * struct device_write - state of device_make_writable()
 * @walk: position of the walk
 * @owner: owner of the device memory
 */
struct device_write {
	struct device_walk walk;
	void *owner;
};

/*
 * A process that unmaps the page drops its mapping first and its reference
 * later. Check the references this often before treating an extra one as
 * permanent.
 */
#define DEVICE_WRITE_CHECKS	100

/* A separate function, so that a test can act between two checks. */
VISIBLE_IF_KUNIT void device_write_relax(struct folio *folio)
{
	KUNIT_STATIC_STUB_REDIRECT(device_write_relax, folio);
	cpu_relax();
}

static bool device_write_only_user(struct folio *folio)
{
	unsigned int checks = DEVICE_WRITE_CHECKS;

	while (folio_ref_count(folio) > 1) {
		if (!--checks)
			return false;
		device_write_relax(folio);
	}
	return true;
}

/*
 * Make the page exclusive to this process if the entry has the only reference.
 * As in do_wp_page(), another reference may belong to a user that must not see
 * later writes. A large folio that is not mapped by a PMD, @huge, has an entry
 * for each page.
 */
static int device_write_claim(struct vm_area_struct *vma, struct page *page,
			      bool huge)
{
	struct folio *folio = page_folio(page);
	int ret = DEVICE_WRITE_FAULT;

	if (PageAnonExclusive(page))
		return 0;
	if ((folio_test_large(folio) && !huge) || folio_mapcount(folio) > 1)
		return DEVICE_WRITE_FAULT;
	if (!folio_trylock(folio))
		return -EBUSY;
	if (device_write_only_user(folio)) {
		folio_move_anon_rmap(folio, vma);
		SetPageAnonExclusive(page);
		ret = 0;
	}
	folio_unlock(folio);
	return ret;
}

static bool device_write_is_watched(struct vm_area_struct *vma)
{
	return userfaultfd_wp(vma) && !userfaultfd_wp_async(vma);
}

static int device_write_one(struct vm_area_struct *vma, unsigned long addr,
			    pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);
	swp_entry_t entry = pte_to_swp_entry(pte);
	int ret;

	if (pte_swp_uffd_wp(pte) && device_write_is_watched(vma))
		return DEVICE_WRITE_FAULT;
	if (!is_writable_device_private_entry(entry)) {
		ret = device_write_claim(vma, pfn_swap_entry_to_page(entry),
					 false);
		if (ret)
			return ret;
	}
	set_pte_at(vma->vm_mm, addr, ptep, device_pte_private_mkwrite(pte));
	return 0;
}

#ifdef CONFIG_DEVICE_MIGRATION_HUGE
static int device_write_huge(struct vm_area_struct *vma,
			     struct device_extent *ext)
{
	unsigned long addr = ext->addr & PMD_MASK;
	pmd_t pmd = *ext->pmdp;
	swp_entry_t entry = pmd_to_swp_entry(pmd);
	int ret;

	if (pmd_swp_uffd_wp(pmd) && device_write_is_watched(vma))
		return DEVICE_WRITE_FAULT;
	if (!is_writable_device_private_entry(entry)) {
		ret = device_write_claim(vma, pfn_swap_entry_to_page(entry),
					 true);
		if (ret)
			return ret;
	}
	set_pmd_at(vma->vm_mm, addr, ext->pmdp,
		   device_pmd_private_mkwrite(pmd));
	return 0;
}
#else
/* No PMD maps device-private memory. */
static int device_write_huge(struct vm_area_struct *vma,
			     struct device_extent *ext)
{
	return DEVICE_WRITE_FAULT;
}
#endif

static int device_write_extent(struct device_walk *walk,
			       struct device_extent *ext)
{
	struct device_write *dw = container_of(walk, struct device_write, walk);
	unsigned long i;
	int ret;

	if (ext->kind != DEVICE_EXTENT_PRIVATE ||
	    device_extent_pgmap(ext)->owner != dw->owner)
		return 0;
	if (!ext->ptep) {
		ret = device_write_huge(walk->vma, ext);
		if (ret)
			ext->nr = 0;
		return ret;
	}
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
 * device_make_writable() - let a device write to its own pages
 * @vma: VMA that allows writing
 * @addr: first address (bytes, page aligned); receives where the call stopped
 * @end: end of the range (bytes, page aligned), above @addr and in the VMA
 * @owner: owner of the device, dev_pagemap::owner
 *
 * Makes the device-private entries of @owner writable and soft-dirty in place.
 * Skips other entries, which may have replaced them since the caller looked.
 *
 * Context: mmap lock held, for reading at least. May sleep.
 * Return:
 * * 0 - the whole range was visited
 * * DEVICE_WRITE_FAULT - the page at @addr is shared or watched by userfaultfd
 *   and needs a write fault
 * * -EBUSY - the page at @addr is locked. Wait without any lock that
 *   dev_pagemap_ops::migrate_to_ram() takes, and try again
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
