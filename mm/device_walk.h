/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page-table walk of heterogeneous memory management.
 *
 * Scope
 *
 *   A template that turns an address range of an mm into extents. An extent is
 *   a run of base pages of one kind. If the kind has pages, their pfns are
 *   contiguous and their permissions equal. Mirroring reports extents, and
 *   migration collects them; neither looks at page-table levels itself.
 *
 * How to use it
 *
 *   Define a struct device_walk_ops as a static const object and pass its
 *   address to device_walk_range() or device_walk_vma(). The whole template is
 *   inlined into the caller, and the compiler turns the operations into direct
 *   calls: a run of present PTEs costs a compare and a store a page. The walk
 *   reads no struct page of system memory, except for unusual PTEs.
 *
 *   An extent costs about a hundred instructions, and in real memory most of
 *   them are short: zero pages, holes and pages shared by fork() alternate. If
 *   a user can tell from the value of a PTE what to do, its operation @ptes
 *   handles as many PTEs as it can, of any kind, and the walk makes extents of
 *   the rest.
 *
 * Invariants
 *
 *   - Extents come in address order, do not overlap and cover the range
 *     without gaps. An operation that handles only the first part of an extent
 *     lowers @nr. If it returns 0, the walk continues behind that part, which
 *     is allowed for runs of PTEs only.
 *   - An extent never crosses a VMA boundary. An extent of PTEs never crosses
 *     a PTE table. Adjacent missing tables are one hole.
 *   - @order is the order of the mapping: 0 for PTEs, even of a large folio.
 *   - After an operation has ended the walk, device_walk::addr is the first
 *     address that the operation has not handled.
 *
 * Locks
 *
 *   The caller holds the mmap lock, for reading at least. Inside it:
 *
 *   DEVICE_WALK_LOCKLESS  Entries are read without the page-table lock; a PTE
 *	table and a PMD are read in an RCU read-side critical section. They may be
 *	stale at once, so check the sequence number of an interval notifier. The
 *	memory map of a device page stays valid in the critical section, as it
 *	is freed after a grace period.
 *   DEVICE_WALK_LOCKED  The operation is called with the page-table lock held
 *	and may change the entries of its extent, but nothing else. The lock is
 *	taken once for each table, and @table_end runs before it is dropped.
 *
 *   An operation must not sleep in either mode. To fault, split or wait, it
 *   saves what it needs and returns non-zero. The walk then drops its locks and
 *   returns that value. The caller does the work and restarts the walk at
 *   device_walk::addr.
 *
 *   hugetlb_vma_lock_read() nests outside the page-table lock. It is held
 *   during the walk of a hugetlb VMA.
 */
#ifndef _MM_DEVICE_WALK_H
#define _MM_DEVICE_WALK_H

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include <asm/pte_template.h>

#include "internal.h"

/**
 * enum device_extent_kind - what is mapped at an extent
 * @DEVICE_EXTENT_NO_VMA: no VMA
 * @DEVICE_EXTENT_HOLE: nothing, not even a marker
 * @DEVICE_EXTENT_PRESENT: pages that the CPU can access
 * @DEVICE_EXTENT_ZERO: the shared zero page or zero folio
 * @DEVICE_EXTENT_PROTNONE: pages mapped without access (NUMA hinting)
 * @DEVICE_EXTENT_SPECIAL: present, but without a usable struct page
 * @DEVICE_EXTENT_PRIVATE: device-private pages
 * @DEVICE_EXTENT_EXCLUSIVE: system pages in exclusive use by a device
 * @DEVICE_EXTENT_MIGRATION: a migration entry
 * @DEVICE_EXTENT_SWAP: a swap entry
 * @DEVICE_EXTENT_MARKER: a userfaultfd marker without a page
 * @DEVICE_EXTENT_POISON: a hardware-poisoned page or a poison marker
 */
enum device_extent_kind {
	DEVICE_EXTENT_NO_VMA,
	DEVICE_EXTENT_HOLE,
	DEVICE_EXTENT_PRESENT,
	DEVICE_EXTENT_ZERO,
	DEVICE_EXTENT_PROTNONE,
	DEVICE_EXTENT_SPECIAL,
	DEVICE_EXTENT_PRIVATE,
	DEVICE_EXTENT_EXCLUSIVE,
	DEVICE_EXTENT_MIGRATION,
	DEVICE_EXTENT_SWAP,
	DEVICE_EXTENT_MARKER,
	DEVICE_EXTENT_POISON,
};

/* Permissions of the kinds PRESENT, ZERO, PRIVATE, EXCLUSIVE, MIGRATION */
#define DEVICE_EXTENT_WRITE	BIT(0)	/* the entry is writable */
#define DEVICE_EXTENT_DIRTY	BIT(1)	/* the entry is present and dirty */

/**
 * struct device_extent - a run of pages of one kind
 * @addr: first address (bytes, page aligned)
 * @nr: number of base pages; an operation may lower it to what it has handled
 * @pfn: pfn of the first page if the kind has pages, else 0
 * @kind: what is mapped
 * @perm: DEVICE_EXTENT_WRITE and DEVICE_EXTENT_DIRTY. Soft-clean private pages
 *	do not have the former while soft-dirty tracking is on
 * @order: order of the mapping; 0 for a hole in a PTE table
 * @pmdp: PMD entry; NULL in hugetlb VMAs, above the PMD level and without a VMA
 * @ptep: first entry of a run of PTEs; NULL for larger leaves and for holes
 *	above the PTE level
 */
struct device_extent {
	unsigned long addr;
	unsigned long nr;
	unsigned long pfn;
	enum device_extent_kind kind;
	unsigned int perm;
	unsigned int order;
	pmd_t *pmdp;
	pte_t *ptep;
};

/**
 * struct device_walk - state of a walk
 * @mm: address space
 * @vma: VMA at the current position; NULL if there is none
 * @addr: current position; where to restart after an operation ended the walk
 * @end: end of the range
 * @hole: start of the pending hole above the PTE level
 * @hole_end: its end; equal to @hole if there is none
 */
struct device_walk {
	struct mm_struct *mm;
	struct vm_area_struct *vma;
	unsigned long addr;
	unsigned long end;
	unsigned long hole;
	unsigned long hole_end;
};

enum device_walk_mode {
	DEVICE_WALK_LOCKLESS,
	DEVICE_WALK_LOCKED,
};

/**
 * struct device_walk_ops - operations of a walk
 * @mode: locking mode
 * @ptes: optional, inlined. A short cut for users that can tell from the value
 *	of a PTE what to do. Returns how many of the @max entries at @ptep it
 *	has handled; the walk makes an extent that starts at the next one
 * @present: handles a run of present PTEs
 * @extent: handles any other extent
 * @skip_vma: optional. If it returns true, the walk reports the part of
 *	@walk->vma in the range as one extent of the kind SPECIAL
 * @table_begin: optional, DEVICE_WALK_LOCKED only. Called after the lock of a
 *	PTE table was taken
 * @table_end: optional, DEVICE_WALK_LOCKED only. Called before the lock is
 *	dropped; the entries in [start, end) were visited
 *
 * @present and @extent return 0 to continue. Any other value ends the walk and
 * becomes its return value.
 */
struct device_walk_ops {
	enum device_walk_mode mode;
	unsigned long (*ptes)(struct device_walk *walk, unsigned long addr,
			      pte_t *ptep, unsigned long max);
	int (*present)(struct device_walk *walk, struct device_extent *extent);
	int (*extent)(struct device_walk *walk, struct device_extent *extent);
	bool (*skip_vma)(struct device_walk *walk);
	void (*table_begin)(struct device_walk *walk);
	void (*table_end)(struct device_walk *walk, unsigned long start,
			  unsigned long end);
};

/* Internal return value: the entry has changed, read it again. */
#define DEVICE_WALK_AGAIN	INT_MIN

void device_extent_decode_pte(struct device_walk *walk,
			      struct device_extent *ext, pte_t pte,
			      unsigned long max);
void device_extent_decode_pmd(struct device_walk *walk,
			      struct device_extent *ext, pmd_t pmd);
void device_extent_decode_pud(struct device_extent *ext, pud_t pud);
void device_extent_decode_huge(struct device_extent *ext, pte_t pte);
#ifdef CONFIG_DEVICE_PRIVATE
struct dev_pagemap *device_extent_pgmap(struct device_extent *ext);
#else
/* No such extents, and PAGES_PER_SUBSECTION may be undefined. */
static inline struct dev_pagemap *device_extent_pgmap(struct device_extent *ext)
{
	return NULL;
}
#endif

static inline unsigned long device_extent_end(const struct device_extent *ext)
{
	return ext->addr + (ext->nr << PAGE_SHIFT);
}

/*
 * Is this a present PTE that can be reported without reading a struct page? On
 * architectures without a special bit, that depends on VM_MIXEDMAP.
 */
static __always_inline bool device_pte_ordinary(struct device_walk *walk,
						pte_t pte)
{
	if (!pte_present(pte) || pte_special(pte) || pte_protnone(pte))
		return false;
	if (IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL))
		return true;
	return !(walk->vma->vm_flags & VM_MIXEDMAP);
}

/* Not ptep_get(), which needs the page-table lock on some architectures. */
static __always_inline pte_t device_pte_get(pte_t *ptep)
{
	return ptep_get_lockless(ptep);
}

/* Count the entries, up to @max, whose pfns continue that of @pte. */
static __always_inline unsigned long
device_pte_run(pte_t *ptep, pte_t pte, unsigned long max)
{
	unsigned long nr;

	for (nr = 1; nr < max; nr++) {
		pte = pte_next_pfn(pte);
		if (!pte_same(device_pte_get(ptep + nr), pte))
			break;
	}
	return nr;
}

/*
 * The same for entries that are not present. Compare raw values. All
 * architectures with ZONE_DEVICE store the offset of a swap entry in one field
 * of the PTE, so the values of contiguous pfns differ by a constant.
 */
static inline unsigned long device_swp_run(pte_t *ptep, pte_t pte,
					   unsigned long max)
{
	typeof(pte_val(pte)) expected = pte_val(pte), stride;
	unsigned long nr;

	stride = pte_val(pte_next_swp_offset(pte)) - expected;
	for (nr = 1; nr < max; nr++) {
		expected += stride;
		if (pte_val(device_pte_get(ptep + nr)) != expected)
			break;
	}
	return nr;
}

/* Set @nr entries, of which @pte is the first, for contiguous pfns. */
static inline void device_swp_set(struct mm_struct *mm, unsigned long addr,
				  pte_t *ptep, pte_t pte, unsigned long nr)
{
	typeof(pte_val(pte)) value = pte_val(pte), stride;

	stride = pte_val(pte_next_swp_offset(pte)) - value;
	for (; nr; nr--, addr += PAGE_SIZE, value += stride)
		set_pte_at(mm, addr, ptep++, __pte(value));
}

static __always_inline void
device_extent_decode_present(struct device_extent *ext, pte_t pte,
			     unsigned long max)
{
	ext->kind = DEVICE_EXTENT_PRESENT;
	ext->pfn = pte_pfn(pte);
	ext->perm = (pte_write(pte) ? DEVICE_EXTENT_WRITE : 0) |
		    (pte_dirty(pte) ? DEVICE_EXTENT_DIRTY : 0);
	ext->nr = device_pte_run(ext->ptep, pte, max);
}

/* Report the pending hole, if any. */
static __always_inline int
device_walk_flush_hole(struct device_walk *walk,
		       const struct device_walk_ops *ops)
{
	struct device_extent ext = {
		.addr = walk->hole,
		.nr = (walk->hole_end - walk->hole) >> PAGE_SHIFT,
		.kind = DEVICE_EXTENT_HOLE,
		.order = PMD_SHIFT - PAGE_SHIFT,
	};
	int ret;

	if (walk->hole == walk->hole_end)
		return 0;
	walk->hole_end = walk->hole;
	ret = ops->extent(walk, &ext);
	if (ret)
		walk->addr = device_extent_end(&ext);
	return ret;
}

static inline void device_walk_add_hole(struct device_walk *walk,
					unsigned long addr, unsigned long next)
{
	if (walk->hole == walk->hole_end)
		walk->hole = addr;
	walk->hole_end = next;
}

/* Report one extent of PTEs. @nr receives how many the operation handled. */
static __always_inline int
device_walk_run(struct device_walk *walk, pte_t *ptep, pmd_t *pmdp,
		unsigned long max, unsigned long *nr,
		const struct device_walk_ops *ops)
{
	struct device_extent ext = {
		.addr = walk->addr,
		.pmdp = pmdp,
		.ptep = ptep,
	};
	pte_t pte = device_pte_get(ptep);
	int ret;

	if (likely(device_pte_ordinary(walk, pte))) {
		device_extent_decode_present(&ext, pte, max);
		ret = ops->present(walk, &ext);
	} else {
		device_extent_decode_pte(walk, &ext, pte, max);
		ret = ops->extent(walk, &ext);
	}
	*nr = ext.nr;
	return ret;
}

static __always_inline int
device_walk_table(struct device_walk *walk, pte_t *ptep, pmd_t *pmdp,
		  unsigned long addr, unsigned long end,
		  const struct device_walk_ops *ops)
{
	int ret = 0;

	walk->addr = addr;
	while (!ret && walk->addr < end) {
		unsigned long max = (end - walk->addr) >> PAGE_SHIFT;
		unsigned long nr = 0;

		if (ops->ptes)
			nr = ops->ptes(walk, walk->addr, ptep, max);
		if (!nr)
			ret = device_walk_run(walk, ptep, pmdp, max, &nr, ops);
		ptep += nr;
		walk->addr += nr << PAGE_SHIFT;
	}
	return ret;
}

static __always_inline int
device_walk_ptes(struct device_walk *walk, pmd_t *pmdp, unsigned long addr,
		 unsigned long end, const struct device_walk_ops *ops)
{
	spinlock_t *ptl;
	pte_t *ptep;
	int ret;

	if (ops->mode == DEVICE_WALK_LOCKED)
		ptep = pte_offset_map_lock(walk->mm, pmdp, addr, &ptl);
	else
		ptep = pte_offset_map(pmdp, addr);
	if (!ptep)
		return DEVICE_WALK_AGAIN;

	if (ops->table_begin)
		ops->table_begin(walk);
	ret = device_walk_table(walk, ptep, pmdp, addr, end, ops);
	if (ops->table_end)
		ops->table_end(walk, addr, walk->addr);

	if (ops->mode == DEVICE_WALK_LOCKED)
		pte_unmap_unlock(ptep, ptl);
	else
		pte_unmap(ptep);
	return ret;
}

/* Report a leaf above the PTE level. */
static __always_inline int
device_walk_leaf(struct device_walk *walk, struct device_extent *ext,
		 const struct device_walk_ops *ops)
{
	int ret = ops->extent(walk, ext);

	walk->addr = device_extent_end(ext);
	return ret;
}

static inline bool device_pmd_huge(pmd_t pmd)
{
	return is_swap_pmd(pmd) || pmd_trans_huge(pmd) || pmd_devmap(pmd);
}

/*
 * Is a device page locked that nobody holds, and that may become the tail of
 * another folio? folio_test_locked() must not meet a tail.
 */
static inline bool device_folio_seems_locked(const struct folio *folio)
{
	return test_bit(PG_locked, &folio->page.flags);
}

static __always_inline int
device_walk_huge_pmd_locked(struct device_walk *walk, struct device_extent *ext,
			    const struct device_walk_ops *ops)
{
	spinlock_t *ptl = pmd_trans_huge_lock(ext->pmdp, walk->vma);
	int ret;

	if (!ptl)
		return DEVICE_WALK_AGAIN;
	device_extent_decode_pmd(walk, ext, *ext->pmdp);
	ret = device_walk_leaf(walk, ext, ops);
	spin_unlock(ptl);
	return ret;
}

/* The memory map of a device page that was there before may be gone. */
static __always_inline int
device_walk_huge_pmd_lockless(struct device_walk *walk,
			      struct device_extent *ext,
			      const struct device_walk_ops *ops)
{
	pmd_t pmd;

	guard(rcu)();
	pmd = pmdp_get_lockless(ext->pmdp);
	if (unlikely(!device_pmd_huge(pmd)))
		return DEVICE_WALK_AGAIN;
	device_extent_decode_pmd(walk, ext, pmd);
	return device_walk_leaf(walk, ext, ops);
}

static __always_inline int
device_walk_huge_pmd(struct device_walk *walk, pmd_t *pmdp, unsigned long addr,
		     unsigned long end, const struct device_walk_ops *ops)
{
	struct device_extent ext = {
		.addr = addr,
		.nr = (end - addr) >> PAGE_SHIFT,
		.order = PMD_SHIFT - PAGE_SHIFT,
		.pmdp = pmdp,
	};

	if (ops->mode == DEVICE_WALK_LOCKED)
		return device_walk_huge_pmd_locked(walk, &ext, ops);
	return device_walk_huge_pmd_lockless(walk, &ext, ops);
}

static __always_inline int
device_walk_pmd(struct device_walk *walk, pmd_t *pmdp, unsigned long addr,
		unsigned long end, const struct device_walk_ops *ops)
{
	pmd_t pmd;
	int ret;

	do {
		pmd = pmdp_get_lockless(pmdp);
		if (pmd_none(pmd)) {
			device_walk_add_hole(walk, addr, end);
			return 0;
		}
		ret = device_walk_flush_hole(walk, ops);
		if (ret)
			return ret;
		if (device_pmd_huge(pmd))
			ret = device_walk_huge_pmd(walk, pmdp, addr, end, ops);
		else
			ret = device_walk_ptes(walk, pmdp, addr, end, ops);
	} while (unlikely(ret == DEVICE_WALK_AGAIN));
	return ret;
}

static __always_inline int
device_walk_pmds(struct device_walk *walk, pud_t *pudp, unsigned long addr,
		 unsigned long end, const struct device_walk_ops *ops)
{
	pmd_t *pmdp = pmd_offset(pudp, addr);
	unsigned long next;
	int ret;

	do {
		next = pmd_addr_end(addr, end);
		ret = device_walk_pmd(walk, pmdp, addr, next, ops);
		if (ret)
			return ret;
		cond_resched();
	} while (pmdp++, addr = next, addr != end);
	return 0;
}

static inline bool device_pud_huge(pud_t pud)
{
	return pud_trans_huge(pud) || pud_devmap(pud);
}

static __always_inline int
device_walk_huge_pud(struct device_walk *walk, pud_t *pudp, unsigned long addr,
		     unsigned long end, const struct device_walk_ops *ops)
{
	struct device_extent ext = {
		.addr = addr,
		.nr = (end - addr) >> PAGE_SHIFT,
		.order = PUD_SHIFT - PAGE_SHIFT,
	};
	spinlock_t *ptl;
	int ret;

	ret = device_walk_flush_hole(walk, ops);
	if (ret)
		return ret;
	/* Rare, so take the lock in the lockless mode, too. */
	ptl = pud_trans_huge_lock(pudp, walk->vma);
	if (!ptl)
		return DEVICE_WALK_AGAIN;
	device_extent_decode_pud(&ext, *pudp);
	ret = device_walk_leaf(walk, &ext, ops);
	spin_unlock(ptl);
	return ret;
}

static __always_inline int
device_walk_pud(struct device_walk *walk, pud_t *pudp, unsigned long addr,
		unsigned long end, const struct device_walk_ops *ops)
{
	int ret;

	do {
		pud_t pud = READ_ONCE(*pudp);

		if (pud_none(pud)) {
			device_walk_add_hole(walk, addr, end);
			return 0;
		}
		if (unlikely(device_pud_huge(pud)))
			ret = device_walk_huge_pud(walk, pudp, addr, end, ops);
		else if (unlikely(pud_none_or_clear_bad(pudp)))
			ret = DEVICE_WALK_AGAIN;
		else
			ret = device_walk_pmds(walk, pudp, addr, end, ops);
	} while (unlikely(ret == DEVICE_WALK_AGAIN));
	return ret;
}

static __always_inline int
device_walk_puds(struct device_walk *walk, p4d_t *p4dp, unsigned long addr,
		 unsigned long end, const struct device_walk_ops *ops)
{
	pud_t *pudp = pud_offset(p4dp, addr);
	unsigned long next;
	int ret;

	do {
		next = pud_addr_end(addr, end);
		ret = device_walk_pud(walk, pudp, addr, next, ops);
		if (ret)
			return ret;
	} while (pudp++, addr = next, addr != end);
	return 0;
}

static __always_inline int
device_walk_p4ds(struct device_walk *walk, pgd_t *pgdp, unsigned long addr,
		 unsigned long end, const struct device_walk_ops *ops)
{
	p4d_t *p4dp = p4d_offset(pgdp, addr);
	unsigned long next;
	int ret;

	do {
		next = p4d_addr_end(addr, end);
		if (p4d_none_or_clear_bad(p4dp)) {
			device_walk_add_hole(walk, addr, next);
			continue;
		}
		ret = device_walk_puds(walk, p4dp, addr, next, ops);
		if (ret)
			return ret;
	} while (p4dp++, addr = next, addr != end);
	return 0;
}

static __always_inline int
device_walk_pgds(struct device_walk *walk, unsigned long addr,
		 unsigned long end, const struct device_walk_ops *ops)
{
	pgd_t *pgdp = pgd_offset(walk->mm, addr);
	unsigned long next;
	int ret;

	walk->hole = 0;
	walk->hole_end = 0;
	do {
		next = pgd_addr_end(addr, end);
		if (pgd_none_or_clear_bad(pgdp)) {
			device_walk_add_hole(walk, addr, next);
			continue;
		}
		ret = device_walk_p4ds(walk, pgdp, addr, next, ops);
		if (ret)
			return ret;
	} while (pgdp++, addr = next, addr != end);
	return device_walk_flush_hole(walk, ops);
}

#ifdef CONFIG_HUGETLB_PAGE
static __always_inline int
device_walk_huge_entry(struct device_walk *walk, unsigned long addr,
		       unsigned long end, const struct device_walk_ops *ops)
{
	struct hstate *h = hstate_vma(walk->vma);
	struct device_extent ext = {
		.addr = addr,
		.nr = (end - addr) >> PAGE_SHIFT,
		.order = huge_page_order(h),
		.kind = DEVICE_EXTENT_HOLE,
	};
	pte_t *ptep = hugetlb_walk(walk->vma, addr & huge_page_mask(h),
				   huge_page_size(h));
	spinlock_t *ptl;
	int ret;

	if (!ptep)
		return device_walk_leaf(walk, &ext, ops);
	ptl = huge_pte_lock(h, walk->mm, ptep);
	device_extent_decode_huge(&ext, huge_ptep_get(walk->mm, addr, ptep));
	ret = device_walk_leaf(walk, &ext, ops);
	spin_unlock(ptl);
	return ret;
}

static __always_inline int
device_walk_hugetlb(struct device_walk *walk, unsigned long addr,
		    unsigned long end, const struct device_walk_ops *ops)
{
	unsigned long size = huge_page_size(hstate_vma(walk->vma));
	int ret = 0;

	hugetlb_vma_lock_read(walk->vma);
	while (!ret && addr < end) {
		unsigned long next = min(ALIGN(addr + 1, size), end);

		ret = device_walk_huge_entry(walk, addr, next, ops);
		addr = walk->addr;
		cond_resched();
	}
	hugetlb_vma_unlock_read(walk->vma);
	return ret;
}
#else
static inline int
device_walk_hugetlb(struct device_walk *walk, unsigned long addr,
		    unsigned long end, const struct device_walk_ops *ops)
{
	return 0;
}
#endif

static __always_inline int
device_walk_whole(struct device_walk *walk, unsigned long addr,
		  unsigned long end, enum device_extent_kind kind,
		  const struct device_walk_ops *ops)
{
	struct device_extent ext = {
		.addr = addr,
		.nr = (end - addr) >> PAGE_SHIFT,
		.kind = kind,
		.order = PMD_SHIFT - PAGE_SHIFT,
	};

	return device_walk_leaf(walk, &ext, ops);
}

/**
 * device_walk_vma() - walk a range within one VMA
 * @walk: state; the caller sets @mm and @vma
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned), above @start and in the VMA
 * @ops: address of a static const object
 *
 * Context: mmap lock held. May sleep, but not in an operation.
 * Return: 0 after the whole range was visited, else the value with which an
 * operation ended the walk.
 */
static __always_inline int
device_walk_vma(struct device_walk *walk, unsigned long start,
		unsigned long end, const struct device_walk_ops *ops)
{
	walk->addr = start;
	walk->end = end;
	if (ops->skip_vma && ops->skip_vma(walk))
		return device_walk_whole(walk, start, end,
					 DEVICE_EXTENT_SPECIAL, ops);
	if (is_vm_hugetlb_page(walk->vma))
		return device_walk_hugetlb(walk, start, end, ops);
	return device_walk_pgds(walk, start, end, ops);
}

/**
 * device_walk_range() - walk a range of an address space
 * @walk: state; the caller sets @mm
 * @start: first address (bytes, page aligned)
 * @end: end of the range (bytes, page aligned), above @start
 * @ops: address of a static const object
 *
 * Addresses without a VMA are extents, too, of the kind NO_VMA.
 *
 * Context: As for device_walk_vma().
 * Return: 0 after the whole range was visited, else the value with which an
 * operation ended the walk.
 */
static __always_inline int
device_walk_range(struct device_walk *walk, unsigned long start,
		  unsigned long end, const struct device_walk_ops *ops)
{
	unsigned long next;
	int ret = 0;

	mmap_assert_locked(walk->mm);
	while (!ret && start < end) {
		walk->vma = find_vma(walk->mm, start);
		if (!walk->vma || start < walk->vma->vm_start) {
			next = walk->vma ? min(end, walk->vma->vm_start) : end;
			walk->vma = NULL;
			ret = device_walk_whole(walk, start, next,
						DEVICE_EXTENT_NO_VMA, ops);
		} else {
			next = min(end, walk->vma->vm_end);
			ret = device_walk_vma(walk, start, next, ops);
		}
		start = next;
	}
	return ret;
}

#endif /* _MM_DEVICE_WALK_H */
