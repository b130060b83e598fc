// SPDX-License-Identifier: GPL-2.0-only
/*
 * Decoding of page-table entries: the part of the walk that is not worth
 * inlining. See device_walk.h for the walk itself.
 *
 * Nothing here takes a lock or keeps state. Callers pass the value of an entry,
 * which they have read once. They hold the page-table lock, or an RCU read lock
 * if they use nothing but the memory map of the pages.
 */
#include <linux/mm.h>
#include <linux/memremap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"
#include "device_entry.h"
#include "device_walk.h"

static enum device_extent_kind device_marker_kind(swp_entry_t entry)
{
	if (pte_marker_get(entry) & PTE_MARKER_POISONED)
		return DEVICE_EXTENT_POISON;
	return DEVICE_EXTENT_MARKER;
}

static void device_extent_set_pfn(struct device_extent *ext, swp_entry_t entry,
				  enum device_extent_kind kind, bool write)
{
	ext->kind = kind;
	ext->pfn = swp_offset_pfn(entry);
	ext->perm = write ? DEVICE_EXTENT_WRITE : 0;
}

/* Decode a single entry that is neither present nor empty. */
static void device_extent_decode_swap(struct device_extent *ext,
				      swp_entry_t entry)
{
	ext->nr = 1;
	if (is_device_private_entry(entry))
		device_extent_set_pfn(ext, entry, DEVICE_EXTENT_PRIVATE,
				      is_writable_device_private_entry(entry));
	else if (is_migration_entry(entry))
		device_extent_set_pfn(ext, entry, DEVICE_EXTENT_MIGRATION,
				      is_writable_migration_entry(entry));
	else if (is_device_exclusive_entry(entry))
		device_extent_set_pfn(ext, entry, DEVICE_EXTENT_EXCLUSIVE,
				      is_writable_device_exclusive_entry(entry));
	else if (is_pte_marker_entry(entry))
		ext->kind = device_marker_kind(entry);
	else if (non_swap_entry(entry))
		ext->kind = DEVICE_EXTENT_POISON;
	else
		ext->kind = DEVICE_EXTENT_SWAP;
}

static void device_extent_decode_private(struct device_walk *walk,
					 struct device_extent *ext, pte_t pte,
					 unsigned long max)
{
	ext->nr = device_swp_run(ext->ptep, pte, max);
	if (!device_pte_private_write(walk->vma, pte))
		ext->perm = 0;
}

static unsigned long device_hole_run(pte_t *ptep, unsigned long max)
{
	unsigned long nr = 1;

	while (nr < max && pte_none(device_pte_get(ptep + nr)))
		nr++;
	return nr;
}

/* Decode a present PTE for which device_pte_ordinary() is false. */
static void device_extent_decode_odd(struct device_walk *walk,
				     struct device_extent *ext, pte_t pte)
{
	unsigned long pfn = pte_pfn(pte);

	ext->nr = 1;
	ext->perm = (pte_write(pte) ? DEVICE_EXTENT_WRITE : 0) |
		    (pte_dirty(pte) ? DEVICE_EXTENT_DIRTY : 0);
	if (pte_protnone(pte))
		ext->kind = DEVICE_EXTENT_PROTNONE;
	else if (is_zero_pfn(pfn))
		ext->kind = DEVICE_EXTENT_ZERO;
	else if (pte_devmap(pte) || vm_normal_page(walk->vma, ext->addr, pte))
		ext->kind = DEVICE_EXTENT_PRESENT;
	else
		ext->kind = DEVICE_EXTENT_SPECIAL;
	if (ext->kind != DEVICE_EXTENT_SPECIAL)
		ext->pfn = pfn;
}

/**
 * device_extent_decode_pte() - decode a PTE that is not ordinary
 * @walk: the walk; @vma is set
 * @ext: @addr and @ptep are set; receives @nr, @kind, @pfn and @perm
 * @pte: value of the first entry
 * @max: number of entries that may be read, starting at @ext->ptep
 *
 * Context: page-table lock or RCU read lock of the mapped table.
 */
void device_extent_decode_pte(struct device_walk *walk,
			      struct device_extent *ext, pte_t pte,
			      unsigned long max)
{
	if (pte_none(pte)) {
		ext->kind = DEVICE_EXTENT_HOLE;
		ext->nr = device_hole_run(ext->ptep, max);
		return;
	}
	if (pte_present(pte)) {
		device_extent_decode_odd(walk, ext, pte);
		return;
	}
	device_extent_decode_swap(ext, pte_to_swp_entry(pte));
	if (ext->kind == DEVICE_EXTENT_PRIVATE)
		device_extent_decode_private(walk, ext, pte, max);
}

static unsigned long device_leaf_offset(const struct device_extent *ext)
{
	return (ext->addr >> PAGE_SHIFT) & ((1UL << ext->order) - 1);
}

static void device_extent_leaf(struct device_extent *ext, unsigned long pfn)
{
	ext->kind = DEVICE_EXTENT_PRESENT;
	ext->pfn = pfn + device_leaf_offset(ext);
}

/* Decode a leaf that is not present. Its pfn, if any, is of the first page. */
static void device_extent_swap_leaf(struct device_extent *ext,
				    swp_entry_t entry)
{
	unsigned long nr = ext->nr;

	device_extent_decode_swap(ext, entry);
	ext->nr = nr;
	if (ext->pfn)
		ext->pfn += device_leaf_offset(ext);
}

static void device_extent_special_leaf(struct device_extent *ext)
{
	ext->kind = DEVICE_EXTENT_SPECIAL;
	ext->pfn = 0;
}

/**
 * device_extent_decode_pmd() - decode a leaf in a PMD table
 * @walk: the walk; @vma is set
 * @ext: @addr, @nr and @order are set; receives @kind, @pfn and @perm
 * @pmd: value of the entry: a huge page, a migration entry or a device-private
 *	entry
 */
void device_extent_decode_pmd(struct device_walk *walk,
			      struct device_extent *ext, pmd_t pmd)
{
	if (!pmd_present(pmd)) {
		device_extent_swap_leaf(ext, pmd_to_swp_entry(pmd));
		if (ext->kind == DEVICE_EXTENT_PRIVATE &&
		    !device_pmd_private_write(walk->vma, pmd))
			ext->perm = 0;
		return;
	}
	device_extent_leaf(ext, pmd_pfn(pmd));
	ext->perm = (pmd_write(pmd) ? DEVICE_EXTENT_WRITE : 0) |
		    (pmd_dirty(pmd) ? DEVICE_EXTENT_DIRTY : 0);
	if (pmd_protnone(pmd))
		ext->kind = DEVICE_EXTENT_PROTNONE;
	else if (is_huge_zero_pmd(pmd))
		ext->kind = DEVICE_EXTENT_ZERO;
	if (pmd_special(pmd))
		device_extent_special_leaf(ext);
}

/**
 * device_extent_decode_pud() - decode a leaf in a PUD table
 * @ext: @addr, @nr and @order are set; receives @kind, @pfn and @perm
 * @pud: value of the entry: a huge page
 *
 * Of all pages, only DAX maps PUDs. The file system is notified before an entry
 * becomes writable, so treat writable entries as dirty.
 */
void device_extent_decode_pud(struct device_extent *ext, pud_t pud)
{
	device_extent_leaf(ext, pud_pfn(pud));
	if (pud_write(pud))
		ext->perm = DEVICE_EXTENT_WRITE | DEVICE_EXTENT_DIRTY;
	if (pud_special(pud))
		device_extent_special_leaf(ext);
}

#ifdef CONFIG_HUGETLB_PAGE
/**
 * device_extent_decode_huge() - decode an entry of a hugetlb VMA
 * @ext: @addr, @nr and @order are set; receives @kind, @pfn and @perm
 * @pte: value of the entry
 */
void device_extent_decode_huge(struct device_extent *ext, pte_t pte)
{
	if (huge_pte_none(pte)) {
		ext->kind = DEVICE_EXTENT_HOLE;
	} else if (!pte_present(pte)) {
		device_extent_swap_leaf(ext, pte_to_swp_entry(pte));
	} else {
		device_extent_leaf(ext, pte_pfn(pte));
		ext->perm = (huge_pte_write(pte) ? DEVICE_EXTENT_WRITE : 0) |
			    (huge_pte_dirty(pte) ? DEVICE_EXTENT_DIRTY : 0);
		if (pte_protnone(pte))
			ext->kind = DEVICE_EXTENT_PROTNONE;
	}
}
#endif

#ifdef CONFIG_DEVICE_PRIVATE
/**
 * device_extent_pgmap() - get the pagemap of a device-private extent
 * @ext: a run of device-private entries; shortened where the pagemap changes
 *
 * Pagemaps begin and end at sub-sections. With 4 KiB pages, a PTE table maps no
 * more than one sub-section. With larger pages, a run may cross many of them.
 *
 * Context: page-table lock or RCU read lock of the table that was read.
 * Return: The pagemap of the first @ext->nr pages. No reference is taken.
 */
struct dev_pagemap *device_extent_pgmap(struct device_extent *ext)
{
	struct dev_pagemap *pgmap = page_pgmap(pfn_to_page(ext->pfn));
	unsigned long pfn = ALIGN(ext->pfn + 1, PAGES_PER_SUBSECTION);
	unsigned long end = ext->pfn + ext->nr;

	for (; pfn < end; pfn += PAGES_PER_SUBSECTION) {
		if (page_pgmap(pfn_to_page(pfn)) == pgmap)
			continue;
		ext->nr = pfn - ext->pfn;
		break;
	}
	return pgmap;
}
#endif
