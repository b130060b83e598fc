/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Conversions between the kinds of page-table entries that device memory and
 * exclusive access use.
 *
 * Scope
 *
 *   The conversions, and which of six properties of a mapped page each of them
 *   keeps. No other file decides that.
 *
 * Storage of each property
 *
 *			present	  migration	private		exclusive
 *	write		PTE bit	  entry type	entry type	entry type
 *	soft-dirty	PTE bit	  swap PTE bit	swap PTE bit	swap PTE bit
 *	uffd-wp		PTE bit	  swap PTE bit	swap PTE bit	swap PTE bit
 *	dirty		PTE bit	  entry bit (1)	folio (2)	folio (2)
 *	young		PTE bit	  entry bit (1)	folio		folio
 *	anon-exclusive	page flag entry type	page flag	page flag
 *
 *   (1) if the architecture has room for it, see
 *	 migration_entry_supports_ad(); the folio always has it
 *   (2) a device leaves no trace of its writes, so a writable entry is taken
 *	 for dirty
 *
 * Rules
 *
 *   - The CPU or a device may write only while the entry is writable.
 *   - A writable entry is not uffd-wp. Setting uffd-wp makes it read-only.
 *   - With soft-dirty tracking on, a writable entry is soft-dirty. Clearing
 *     soft-dirty makes it read-only.
 *   - Therefore a page that was written since the last protect or clear is
 *     soft-dirty and not uffd-wp: on the device, while it migrates, and
 *     afterwards.
 *   - Code that makes an entry read-only invalidates the mirrors before it
 *     drops the page-table lock or reports the change, so that the device
 *     faults before its next write.
 *
 * Conversions: "=" keeps a property, "+" sets it, "-" clears it
 *
 *					write	soft-d.	uffd-wp	dirty	young
 *	present to migration		=	=	=	=	=
 *	private to migration		=	= (a)	=	= (a)	-
 *	exclusive to migration		=	= (a)	=	= (a)	-
 *	migration to present		= (b)	=	=	=	=
 *	migration to private		=	=	=	folio	folio
 *	present to exclusive		+ (c)	+	- (c)	folio	folio
 *	exclusive handed over		+ (c)	+	- (c)	folio	folio
 *	exclusive to present		=	= (a)	=	= (a)	-
 *	exclusive to swap		swap	= (a)	=	folio	folio
 *	hole to private			VMA	+	-	folio	folio
 *	made read-only (d)		-	=	=	=	=
 *	uffd-wp set			-	=	+	=	=
 *	soft-dirty cleared		-	-	=	=	=
 *	write fault in place		+	+	- (e)	folio	folio
 *	PMD to PTEs			=	=	=	folio	folio
 *
 *   (a) set if the entry is writable, because the device may have written
 *   (b) cleared if soft-dirty is tracked and clear
 *   (c) a read-only entry is faulted instead of converted
 *   (d) by mprotect(), or by fork() in parent and child
 *   (e) the fault resolved it, or userfaultfd did
 *
 * Locks
 *
 *   The caller holds the page-table lock of the entry. The page of a migration
 *   entry is locked.
 */
#ifndef _MM_DEVICE_ENTRY_H
#define _MM_DEVICE_ENTRY_H

#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/page_idle.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "internal.h"

/*
 * Swap entries without soft-dirty and uffd-wp, for PTEs and PMDs.
 */

/* Does a non-present entry of any kind allow writing? */
static __always_inline bool device_entry_writable(swp_entry_t entry)
{
	return is_writable_device_private_entry(entry) ||
	       is_writable_device_exclusive_entry(entry) ||
	       is_writable_migration_entry(entry);
}

/* If @write, the page is anon-exclusive or not anonymous. */
static __always_inline swp_entry_t
device_entry_migration(unsigned long pfn, bool write, bool exclusive)
{
	if (write)
		return make_writable_migration_entry(pfn);
	if (exclusive)
		return make_readable_exclusive_migration_entry(pfn);
	return make_readable_migration_entry(pfn);
}

static __always_inline swp_entry_t device_entry_private(unsigned long pfn,
							bool write)
{
	if (write)
		return make_writable_device_private_entry(pfn);
	return make_readable_device_private_entry(pfn);
}

/* Keep the whole offset: in a migration entry, it contains young and dirty. */
static inline swp_entry_t device_entry_wrprotect(swp_entry_t entry)
{
	pgoff_t offset = swp_offset(entry);

	if (is_writable_device_private_entry(entry))
		return make_readable_device_private_entry(offset);
	if (is_writable_device_exclusive_entry(entry))
		return make_readable_device_exclusive_entry(offset);
	if (!is_writable_migration_entry(entry))
		return entry;
	if (folio_test_anon(pfn_swap_entry_folio(entry)))
		return make_readable_exclusive_migration_entry(offset);
	return make_readable_migration_entry(offset);
}

/* Anonymous folios have no filesystem that needs folio_mark_dirty(). */
static __always_inline void device_folio_note_dirty(struct folio *folio)
{
	if (folio_test_anon(folio))
		folio_set_dirty(folio);
	else
		folio_mark_dirty(folio);
}

/*
 * Copy the marks, soft-dirty and uffd-wp, from one entry to another.
 */

/* From a non-present entry to a non-present one */
static __always_inline pte_t device_pte_swp_marks(pte_t new, pte_t old)
{
	if (pte_swp_soft_dirty(old))
		new = pte_swp_mksoft_dirty(new);
	if (pte_swp_uffd_wp(old))
		new = pte_swp_mkuffd_wp(new);
	return new;
}

/* From a present entry to a non-present one */
static __always_inline pte_t device_pte_save_marks(pte_t new, pte_t old)
{
	if (pte_soft_dirty(old))
		new = pte_swp_mksoft_dirty(new);
	if (pte_uffd_wp(old))
		new = pte_swp_mkuffd_wp(new);
	return new;
}

/* To a present entry, which pte_mkdirty() may have made soft-dirty */
static __always_inline pte_t device_pte_restore_marks(pte_t new, pte_t old)
{
	if (pte_swp_soft_dirty(old))
		new = pte_mksoft_dirty(new);
	else
		new = pte_clear_soft_dirty(new);
	if (pte_swp_uffd_wp(old))
		new = pte_mkuffd_wp(new);
	return new;
}

/*
 * To migration entries. @entry comes from device_entry_migration().
 */

/* The caller marks the folio dirty. */
static __always_inline pte_t
device_pte_present_to_migration(swp_entry_t entry, pte_t old)
{
	if (pte_young(old))
		entry = make_migration_entry_young(entry);
	if (pte_dirty(old))
		entry = make_migration_entry_dirty(entry);
	return device_pte_save_marks(swp_entry_to_pte(entry), old);
}

/* From a private or an exclusive entry */
static __always_inline pte_t
device_pte_swp_to_migration(swp_entry_t entry, pte_t old, struct folio *folio)
{
	if (is_writable_migration_entry(entry)) {
		device_folio_note_dirty(folio);
		entry = make_migration_entry_dirty(entry);
		old = pte_swp_mksoft_dirty(old);
	}
	return device_pte_swp_marks(swp_entry_to_pte(entry), old);
}

/*
 * Keep the young bit of an entry that becomes one without such a bit. LRU_GEN
 * clears PG_referenced when it adds the folio to a list, so use the young flag
 * of idle page tracking instead, which smaps and reclaim see. Without that
 * flag, only the generation of the folio is left.
 */
static __always_inline void device_folio_note_young(struct folio *folio)
{
	if (folio_test_idle(folio))
		folio_clear_idle(folio);
	if (IS_ENABLED(CONFIG_PAGE_IDLE_FLAG) && lru_gen_enabled())
		folio_set_young(folio);
	else if (!folio_test_referenced(folio))
		folio_set_referenced(folio);
}

/*
 * From migration entries. Use the current entry: since it was made, it may have
 * been write-protected, made soft-clean or copied by fork().
 */

static __always_inline pte_t
device_pte_migration_to_present(struct vm_area_struct *vma, struct folio *folio,
				struct page *page, pte_t old)
{
	swp_entry_t entry = pte_to_swp_entry(old);
	pte_t pte = mk_pte(page, READ_ONCE(vma->vm_page_prot));

	if (!is_migration_entry_young(entry))
		pte = pte_mkold(pte);
	if (is_migration_entry_dirty(entry) && folio_test_dirty(folio))
		pte = pte_mkdirty(pte);
	pte = device_pte_restore_marks(pte, old);
	if (is_writable_migration_entry(entry) && !pte_swp_uffd_wp(old) &&
	    !pte_needs_soft_dirty_wp(vma, pte))
		pte = pte_mkwrite(pte, vma);
	return pte;
}

/* The caller marks the folio young. */
static __always_inline pte_t device_pte_migration_to_private(unsigned long pfn,
							     pte_t old)
{
	bool write = is_writable_migration_entry(pte_to_swp_entry(old));
	swp_entry_t entry = device_entry_private(pfn, write);

	return device_pte_swp_marks(swp_entry_to_pte(entry), old);
}

/*
 * To private entries.
 */

/* The driver filled the new page, so the entry is soft-dirty. */
static __always_inline pte_t device_pte_new_private(unsigned long pfn,
						    bool write)
{
	swp_entry_t entry = device_entry_private(pfn, write);

	return pte_swp_mksoft_dirty(swp_entry_to_pte(entry));
}

/**
 * device_pte_private_mkwrite() - make a device-private entry writable
 * @old: device-private entry
 *
 * For a write fault that leaves the page on the device. The caller has checked
 * that the VMA allows writing and that the page is anon-exclusive. If @old is
 * uffd-wp, the VMA is in asynchronous mode or no longer registered.
 *
 * Return: the new entry. It needs no TLB flush and no invalidation.
 */
static __always_inline pte_t device_pte_private_mkwrite(pte_t old)
{
	unsigned long pfn = swp_offset_pfn(pte_to_swp_entry(old));

	return device_pte_new_private(pfn, true);
}

/*
 * Exclusive access.
 */

/* @old is writable. */
static __always_inline pte_t
device_pte_present_to_exclusive(pte_t old, struct folio *folio)
{
	unsigned long pfn = pte_pfn(old);
	swp_entry_t entry = make_writable_device_exclusive_entry(pfn);

	folio_mark_dirty(folio);
	return pte_swp_mksoft_dirty(swp_entry_to_pte(entry));
}

static __always_inline pte_t
device_pte_exclusive_to_present(struct vm_area_struct *vma, struct folio *folio,
				struct page *page, pte_t old)
{
	pte_t pte = pte_mkold(mk_pte(page, READ_ONCE(vma->vm_page_prot)));

	if (!is_writable_device_exclusive_entry(pte_to_swp_entry(old)))
		return device_pte_restore_marks(pte, old);
	folio_mark_dirty(folio);
	pte = pte_mksoft_dirty(pte_mkdirty(pte));
	if (pte_swp_uffd_wp(old))
		return pte_mkuffd_wp(pte);
	return maybe_mkwrite(pte, vma);
}

/* Can the entry be handed over in place? If not, it must be faulted. */
static __always_inline bool device_pte_exclusive_write(pte_t pte)
{
	return is_writable_device_exclusive_entry(pte_to_swp_entry(pte)) &&
	       !pte_swp_uffd_wp(pte);
}

/* The new owner is about to write. @old is writable. */
static __always_inline pte_t device_pte_exclusive_hand_over(pte_t old)
{
	return pte_swp_mksoft_dirty(old);
}

/* @entry is the swap slot that reclaim allocated for the page. */
static __always_inline pte_t
device_pte_exclusive_to_swap(swp_entry_t entry, pte_t old, struct folio *folio,
			     bool anon_exclusive)
{
	pte_t pte = swp_entry_to_pte(entry);

	if (is_writable_device_exclusive_entry(pte_to_swp_entry(old))) {
		folio_mark_dirty(folio);
		old = pte_swp_mksoft_dirty(old);
	}
	if (anon_exclusive)
		pte = pte_swp_mkexclusive(pte);
	return device_pte_swp_marks(pte, old);
}

/*
 * Changes of a non-present entry that keeps its kind.
 */

static inline pte_t device_pte_swp_wrprotect(pte_t old)
{
	swp_entry_t entry = pte_to_swp_entry(old);

	if (likely(!device_entry_writable(entry)))
		return old;
	entry = device_entry_wrprotect(entry);
	return device_pte_swp_marks(swp_entry_to_pte(entry), old);
}

/* The device must fault before its next write. */
static inline pte_t device_pte_swp_mkuffd_wp(pte_t old)
{
	return pte_swp_mkuffd_wp(device_pte_swp_wrprotect(old));
}

static inline pte_t device_pte_swp_clear_soft_dirty(pte_t old)
{
	return pte_swp_clear_soft_dirty(device_pte_swp_wrprotect(old));
}

/* May a mirror report the page of this device-private entry as writable? */
static __always_inline bool device_pte_private_write(struct vm_area_struct *vma,
						     pte_t pte)
{
	if (!is_writable_device_private_entry(pte_to_swp_entry(pte)) ||
	    pte_swp_uffd_wp(pte))
		return false;
	return !vma_soft_dirty_enabled(vma) || pte_swp_soft_dirty(pte);
}

/*
 * The same for PMDs.
 */

static __always_inline pmd_t device_pmd_swp_marks(pmd_t new, pmd_t old)
{
	if (pmd_swp_soft_dirty(old))
		new = pmd_swp_mksoft_dirty(new);
	if (pmd_swp_uffd_wp(old))
		new = pmd_swp_mkuffd_wp(new);
	return new;
}

/* From a private entry */
static __always_inline pmd_t
device_pmd_swp_to_migration(swp_entry_t entry, pmd_t old, struct folio *folio)
{
	if (is_writable_migration_entry(entry)) {
		device_folio_note_dirty(folio);
		entry = make_migration_entry_dirty(entry);
		old = pmd_swp_mksoft_dirty(old);
	}
	return device_pmd_swp_marks(swp_entry_to_pmd(entry), old);
}

/* The caller marks the folio young. */
static __always_inline pmd_t device_pmd_migration_to_private(unsigned long pfn,
							     pmd_t old)
{
	bool write = is_writable_migration_entry(pmd_to_swp_entry(old));
	swp_entry_t entry = device_entry_private(pfn, write);

	return device_pmd_swp_marks(swp_entry_to_pmd(entry), old);
}

/* The entry of page @i when a page table takes the place of a private PMD */
static __always_inline pte_t device_pmd_private_to_pte(pmd_t old,
						       unsigned long i)
{
	swp_entry_t entry = pmd_to_swp_entry(old);
	bool write = is_writable_device_private_entry(entry);
	pte_t pte;

	entry = device_entry_private(swp_offset_pfn(entry) + i, write);
	pte = swp_entry_to_pte(entry);
	if (pmd_swp_soft_dirty(old))
		pte = pte_swp_mksoft_dirty(pte);
	if (pmd_swp_uffd_wp(old))
		pte = pte_swp_mkuffd_wp(pte);
	return pte;
}

/* The driver filled the new folio, so the entry is soft-dirty. */
static inline pmd_t device_pmd_new_private(unsigned long pfn, bool write)
{
	swp_entry_t entry = device_entry_private(pfn, write);

	return pmd_swp_mksoft_dirty(swp_entry_to_pmd(entry));
}

/**
 * device_pmd_private_mkwrite() - as device_pte_private_mkwrite(), for a PMD
 * @old: device-private entry
 *
 * Return: the new entry. It needs no TLB flush and no invalidation.
 */
static inline pmd_t device_pmd_private_mkwrite(pmd_t old)
{
	unsigned long pfn = swp_offset_pfn(pmd_to_swp_entry(old));

	return device_pmd_new_private(pfn, true);
}

/* May a mirror report the folio of this device-private entry as writable? */
static inline bool device_pmd_private_write(struct vm_area_struct *vma,
					    pmd_t pmd)
{
	if (!is_writable_device_private_entry(pmd_to_swp_entry(pmd)) ||
	    pmd_swp_uffd_wp(pmd))
		return false;
	return !vma_soft_dirty_enabled(vma) || pmd_swp_soft_dirty(pmd);
}

static inline pmd_t device_pmd_swp_wrprotect(pmd_t old)
{
	swp_entry_t entry = pmd_to_swp_entry(old);

	if (likely(!device_entry_writable(entry)))
		return old;
	entry = device_entry_wrprotect(entry);
	return device_pmd_swp_marks(swp_entry_to_pmd(entry), old);
}

static inline pmd_t device_pmd_swp_mkuffd_wp(pmd_t old)
{
	return pmd_swp_mkuffd_wp(device_pmd_swp_wrprotect(old));
}

static inline pmd_t device_pmd_swp_clear_soft_dirty(pmd_t old)
{
	return pmd_swp_clear_soft_dirty(device_pmd_swp_wrprotect(old));
}

#endif /* _MM_DEVICE_ENTRY_H */
