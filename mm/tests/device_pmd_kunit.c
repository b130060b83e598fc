// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of PMD entries that are not present: migration entries and
 * device-private entries of the size of a PMD.
 *
 * The first tests use entries that are in no page table, and that refer to one
 * locked page of the test. The others map a folio of a device, as a migration
 * leaves it, and let the kernel work on the mapping. Its pages must be free in
 * the end.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mempolicy.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/task.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include <asm/pgalloc.h>
#include <asm/tlb.h>

#include "../internal.h"
#include "../device_entry.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION

#define HAS_SOFT_DIRTY	IS_ENABLED(CONFIG_MEM_SOFT_DIRTY)
#define HAS_UFFD_WP	IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP)

/* Time in which a move that does not wait would have failed */
#define PMD_WAITS_MS	200

/* Properties of an entry */
#define PMD_TEST_WRITE		BIT(0)
#define PMD_TEST_SOFT_DIRTY	BIT(1)
#define PMD_TEST_UFFD_WP	BIT(2)
#define PMD_TEST_STATES		BIT(3)

/* Folios of the device */
#define PMD_TEST_FOLIOS		2

/* A property of the folio. A folio that is mapped writable is exclusive. */
#define PMD_TEST_EXCLUSIVE	BIT(3)
#define PMD_TEST_ALL_STATES	BIT(4)

/**
 * struct pmd_test - the folio of all entries, and an address space
 * @test: the test
 * @dev: a device with memory for %PMD_TEST_FOLIOS folios
 * @mapped: folios of @dev that were mapped
 * @freed: pages of @dev that are free again
 * @under_lock: those that were freed with @ptl held
 * @faults: CPU faults on pages of @dev
 * @ptl: a lock of the PMD level, or NULL
 * @km: address space
 * @folio: a locked folio of one page, not of @dev
 * @ctx: of userfaultfd
 * @dst: address that UFFDIO_MOVE moves to
 * @len: bytes that it moves
 */
struct pmd_test {
	struct kunit *test;
	struct kunit_device *dev;
	unsigned long mapped;
	unsigned long freed;
	unsigned long under_lock;
	unsigned long faults;
	spinlock_t *ptl;	/* of the PMD, see above */
	struct kunit_mm *km;
	struct folio *folio;
	struct userfaultfd_ctx *ctx;
	unsigned long dst;
	unsigned long len;
};

static void pmd_device_free(struct folio *folio)
{
	struct kunit_device *dev = page_pgmap(&folio->page)->owner;
	struct pmd_test *pt = dev->test->priv;

	WRITE_ONCE(pt->freed, pt->freed + folio_nr_pages(folio));
	if (!pt->ptl)
		return;
	if (spin_trylock(pt->ptl))
		spin_unlock(pt->ptl);
	else
		pt->under_lock += folio_nr_pages(folio);
}

static vm_fault_t pmd_device_fault(struct vm_fault *vmf)
{
	struct kunit_device *dev = page_pgmap(vmf->page)->owner;
	struct pmd_test *pt = dev->test->priv;

	pt->faults++;
	return VM_FAULT_SIGBUS;
}

static const struct dev_pagemap_ops pmd_device_ops = {
	.folio_free = pmd_device_free,
	.migrate_to_ram = pmd_device_fault,
};

static struct kunit_device *pmd_device_create(struct kunit *test)
{
	unsigned long size = PMD_TEST_FOLIOS * PMD_SIZE;
	phys_addr_t start = kunit_device_region(test, 2 * size);
	struct kunit_device *dev;

	dev = kunit_device_create(test, ALIGN(start, PMD_SIZE), size);
	dev->pgmap->ops = &pmd_device_ops;
	return dev;
}

static void pmd_test_free(void *data)
{
	struct folio *folio = data;

	folio_unlock(folio);
	folio_put(folio);
}

static int pmd_test_init(struct kunit *test)
{
	struct pmd_test *pt = kunit_kzalloc(test, sizeof(*pt), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, pt);
	test->priv = pt;
	if (!thp_migration_supported())
		kunit_skip(test, "huge pages do not migrate");
	pt->test = test;
	pt->dev = pmd_device_create(test);
	pt->km = kunit_mm_create(test);
	pt->folio = folio_alloc(GFP_KERNEL, 0);
	KUNIT_ASSERT_NOT_NULL(test, pt->folio);
	folio_lock(pt->folio);
	return kunit_add_action_or_reset(test, pmd_test_free, pt->folio);
}

/* ---- encoding ---- */

static bool pmd_state_has_room(unsigned int state)
{
	return (HAS_SOFT_DIRTY || !(state & PMD_TEST_SOFT_DIRTY)) &&
	       (HAS_UFFD_WP || !(state & PMD_TEST_UFFD_WP));
}

static pmd_t pmd_make(swp_entry_t entry, unsigned int state)
{
	pmd_t pmd = swp_entry_to_pmd(entry);

	if (state & PMD_TEST_SOFT_DIRTY)
		pmd = pmd_swp_mksoft_dirty(pmd);
	return state & PMD_TEST_UFFD_WP ? pmd_swp_mkuffd_wp(pmd) : pmd;
}

static pmd_t pmd_make_private(unsigned long pfn, unsigned int state)
{
	return pmd_make(state & PMD_TEST_WRITE ?
			make_writable_device_private_entry(pfn) :
			make_readable_device_private_entry(pfn), state);
}

static pmd_t pmd_make_migration(unsigned long pfn, unsigned int state)
{
	return pmd_make(state & PMD_TEST_WRITE ?
			make_writable_migration_entry(pfn) :
			make_readable_migration_entry(pfn), state);
}

static unsigned int pmd_read(pmd_t pmd)
{
	swp_entry_t entry = pmd_to_swp_entry(pmd);
	bool write = is_writable_device_private_entry(entry) ||
		     is_writable_migration_entry(entry);

	return (write ? PMD_TEST_WRITE : 0) |
	       (pmd_swp_soft_dirty(pmd) ? PMD_TEST_SOFT_DIRTY : 0) |
	       (pmd_swp_uffd_wp(pmd) ? PMD_TEST_UFFD_WP : 0);
}

static void expect_nonpresent(struct pmd_test *pt, pmd_t pmd,
			      unsigned int state)
{
	struct kunit *test = pt->test;
	swp_entry_t entry = pmd_to_swp_entry(pmd);

	KUNIT_EXPECT_FALSE(test, pmd_none(pmd));
	KUNIT_EXPECT_FALSE(test, pmd_present(pmd));
	KUNIT_EXPECT_FALSE(test, pmd_trans_huge(pmd));
	KUNIT_EXPECT_TRUE(test, is_swap_pmd(pmd));
	KUNIT_EXPECT_TRUE(test, pmd_is_valid_nonpresent(pmd));
	KUNIT_EXPECT_EQ(test, pmd_read(pmd), state);
	KUNIT_EXPECT_EQ(test, swp_offset_pfn(entry), folio_pfn(pt->folio));
	KUNIT_EXPECT_PTR_EQ(test, pmd_nonpresent_folio(pmd), pt->folio);
}

static void device_private_pmd_keeps_its_bits(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned int state;
	pmd_t pmd;

	for (state = 0; state < PMD_TEST_STATES; state++) {
		if (!pmd_state_has_room(state))
			continue;
		pmd = pmd_make_private(folio_pfn(pt->folio), state);
		expect_nonpresent(pt, pmd, state);
		KUNIT_EXPECT_TRUE(test, is_pmd_device_private_entry(pmd));
		KUNIT_EXPECT_FALSE(test, is_pmd_migration_entry(pmd));
	}
}

static void migration_pmd_keeps_its_bits(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned int state;
	pmd_t pmd;

	for (state = 0; state < PMD_TEST_STATES; state++) {
		if (!pmd_state_has_room(state))
			continue;
		pmd = pmd_make_migration(folio_pfn(pt->folio), state);
		expect_nonpresent(pt, pmd, state);
		KUNIT_EXPECT_FALSE(test, is_pmd_device_private_entry(pmd));
		KUNIT_EXPECT_TRUE(test, is_pmd_migration_entry(pmd));
	}
}

/* The folio was split, and its first page unlocked, since it was looked up. */
static void folio_of_migration_entry_is_found_after_split(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	swp_entry_t entry = make_readable_migration_entry(folio_pfn(pt->folio));
	struct folio *first = folio_alloc(GFP_KERNEL, 0);

	KUNIT_ASSERT_NOT_NULL(test, first);
	KUNIT_EXPECT_PTR_EQ(test, swap_entry_migration_sync(entry, first),
			    pt->folio);
	KUNIT_EXPECT_PTR_EQ(test, swap_entry_migration_sync(entry, pt->folio),
			    pt->folio);
	folio_put(first);
}

/* A change of one property leaves the others. */
static void device_private_pmd_changes_one_bit(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned int state, clean;
	pmd_t pmd;

	for (state = 0; state < PMD_TEST_STATES; state++) {
		if (!pmd_state_has_room(state))
			continue;
		pmd = pmd_make_private(folio_pfn(pt->folio), state);
		clean = state & ~PMD_TEST_WRITE;
		expect_nonpresent(pt, device_pmd_swp_wrprotect(pmd), clean);
		if (HAS_UFFD_WP)
			expect_nonpresent(pt, device_pmd_swp_mkuffd_wp(pmd),
					  clean | PMD_TEST_UFFD_WP);
		expect_nonpresent(pt, device_pmd_swp_clear_soft_dirty(pmd),
				  clean & ~PMD_TEST_SOFT_DIRTY);
		pmd = device_pmd_swp_wrprotect(pmd);
		KUNIT_EXPECT_TRUE(test, is_pmd_device_private_entry(pmd));
	}
}

static void expect_no_device_private(struct pmd_test *pt, pmd_t pmd)
{
	KUNIT_EXPECT_FALSE(pt->test, is_pmd_device_private_entry(pmd));
	KUNIT_EXPECT_FALSE(pt->test, pmd_is_valid_nonpresent(pmd));
}

static void other_pmd_is_not_device_private(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = kunit_mm_map(pt->km, 1, PROT_READ | PROT_WRITE);
	pmd_t huge = pmd_mkhuge(mk_pmd(&pt->folio->page, PAGE_READONLY));

	kunit_mm_write(pt->km, addr, 1);
	expect_no_device_private(pt, __pmd(0));
	expect_no_device_private(pt, huge);
#ifndef __HAVE_ARCH_PMDP_INVALIDATE
	expect_no_device_private(pt, pmd_mkinvalid(huge));
#endif
	expect_no_device_private(pt, kunit_mm_pmd(pt->km, addr));
	expect_no_device_private(pt, swp_entry_to_pmd(swp_entry(0, 0x1234)));
	expect_no_device_private(pt, swp_entry_to_pmd(make_pte_marker_entry(0)));
}

/* ---- page tables ---- */

static void expect_no_page_table(struct pmd_test *pt, pmd_t pmd)
{
	pmd_t copy = pmd;
	pte_t *ptep = pte_offset_map(&copy, 0);

	KUNIT_EXPECT_NULL(pt->test, ptep);
	if (ptep)
		pte_unmap(ptep);
	KUNIT_EXPECT_TRUE_MSG(pt->test, pmd_same(pmd, copy),
			      "entry %#lx became %#lx",
			      (unsigned long)pmd_val(pmd),
			      (unsigned long)pmd_val(copy));
}

/*
 * Also for offsets that no page frame has: what another predicate takes for a
 * flag may be a bit of the offset.
 */
static void nonpresent_pmd_has_no_page_table(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long pfn = folio_pfn(pt->folio);
	unsigned int state, bit;

	for (state = 0; state < PMD_TEST_STATES; state++) {
		if (!pmd_state_has_room(state))
			continue;
		expect_no_page_table(pt, pmd_make_private(pfn, state));
		expect_no_page_table(pt, pmd_make_migration(pfn, state));
	}
	for (bit = 0; bit < BITS_PER_LONG; bit++) {
		swp_entry_t entry = swp_entry(SWP_DEVICE_READ, BIT(bit));
		pmd_t pmd = swp_entry_to_pmd(entry);

		/* Is there room for this offset? */
		if (swp_offset(entry) == BIT(bit) &&
		    pmd_to_swp_entry(pmd).val == entry.val)
			expect_no_page_table(pt, pmd);
	}
}

/* There is nothing to split, and nothing may be taken for a present PMD. */
static void unknown_pmd_is_not_split(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	pmd_t pmd = swp_entry_to_pmd(swp_entry(0, 0x1234)), copy = pmd;
	struct vm_area_struct *vma;
	unsigned long addr;

	addr = kunit_mm_map_huge(pt->km, HPAGE_PMD_NR);
	mmap_read_lock(pt->km->mm);
	vma = vma_lookup(pt->km->mm, addr);
	split_huge_pmd_locked(vma, addr, &copy, false, NULL);
	mmap_read_unlock(pt->km->mm);
	KUNIT_EXPECT_TRUE(test, pmd_same(pmd, copy));
}

/* Write an entry into an empty PMD, which becomes empty again. */
static bool pmd_exchange(struct pmd_test *pt, unsigned long addr, pmd_t from,
			 pmd_t to)
{
	struct mm_struct *mm = pt->km->mm;
	pmd_t *pmdp = mm_find_pmd(mm, addr);
	spinlock_t *ptl;	/* of the PMD */
	bool same;

	if (!pmdp)
		return false;
	mmap_read_lock(mm);
	ptl = pmd_lock(mm, pmdp);
	same = pmd_same(*pmdp, from);
	if (same && pmd_none(to))
		pmd_clear(pmdp);
	else if (same)
		set_pmd_at(mm, addr, pmdp, to);
	spin_unlock(ptl);
	mmap_read_unlock(mm);
	return same;
}

static const int skipping_advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_FREE };

static void advice_skips_device_private_pmd(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	pmd_t pmd = pmd_make_private(folio_pfn(pt->folio), PMD_TEST_WRITE);
	unsigned long addr;
	int i, ret;

	/* the page beside it gives it a table of PMDs */
	addr = kunit_mm_map_huge(pt->km, 2 * HPAGE_PMD_NR);
	kunit_mm_write(pt->km, addr + HPAGE_PMD_SIZE, 1);
	KUNIT_ASSERT_TRUE(test, pmd_exchange(pt, addr, __pmd(0), pmd));
	for (i = 0; i < ARRAY_SIZE(skipping_advice); i++) {
		ret = do_madvise(pt->km->mm, addr, HPAGE_PMD_SIZE,
				 skipping_advice[i]);
		KUNIT_EXPECT_EQ(test, ret, 0);
		ret = do_madvise(pt->km->mm, addr + PAGE_SIZE, PAGE_SIZE,
				 skipping_advice[i]);
		KUNIT_EXPECT_EQ(test, ret, 0);
	}
	KUNIT_EXPECT_TRUE(test, pmd_exchange(pt, addr, pmd, __pmd(0)));
}

/* MADV_FREE tests the PMD first without its lock. It may change until then. */
static void free_meets_private_pmd_under_the_lock(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct mm_struct *mm = pt->km->mm;
	pmd_t pmd = pmd_make_private(folio_pfn(pt->folio), PMD_TEST_WRITE);
	unsigned long addr;
	struct mmu_gather tlb;
	bool freed;

	addr = kunit_mm_map_huge(pt->km, 2 * HPAGE_PMD_NR);
	kunit_mm_write(pt->km, addr + HPAGE_PMD_SIZE, 1);
	KUNIT_ASSERT_TRUE(test, pmd_exchange(pt, addr, __pmd(0), pmd));
	mmap_read_lock(mm);
	tlb_gather_mmu(&tlb, mm);
	freed = madvise_free_huge_pmd(&tlb, vma_lookup(mm, addr),
				      mm_find_pmd(mm, addr), addr,
				      addr + HPAGE_PMD_SIZE);
	tlb_finish_mmu(&tlb);
	mmap_read_unlock(mm);
	KUNIT_EXPECT_FALSE(test, freed);
	KUNIT_EXPECT_TRUE(test, pmd_exchange(pt, addr, pmd, __pmd(0)));
}

/* ---- folios of the device ---- */

static bool pmd_state_is_valid(unsigned int state)
{
	return pmd_state_has_room(state) &&
	       !((state & PMD_TEST_WRITE) && (state & PMD_TEST_UFFD_WP)) &&
	       !((state & PMD_TEST_WRITE) && !(state & PMD_TEST_EXCLUSIVE));
}

/*
 * The first of these states that a mapped folio of a device can have, from
 * @state on, or PMD_TEST_ALL_STATES
 */
static unsigned int pmd_state(unsigned int state)
{
	while (state < PMD_TEST_ALL_STATES && !pmd_state_is_valid(state))
		state++;
	return state;
}

/* The part of @state that a migration entry keeps, and that is restored from it */
static unsigned int pmd_state_migrated(unsigned int state)
{
	return HAS_SOFT_DIRTY && (state & PMD_TEST_WRITE) ?
	       state | PMD_TEST_SOFT_DIRTY : state;
}

static struct folio *pmd_new_folio(struct pmd_test *pt)
{
	unsigned long pfn = pt->dev->first +
			    pt->mapped % PMD_TEST_FOLIOS * HPAGE_PMD_NR;
	struct folio *folio = pfn_folio(pfn);

	/* all that were mapped before, but for those that there is room for */
	KUNIT_ASSERT_GT(pt->test, pt->freed + PMD_TEST_FOLIOS * HPAGE_PMD_NR,
			pt->mapped * HPAGE_PMD_NR);
	pt->mapped++;
	zone_device_folio_init(folio, pt->dev->pgmap, HPAGE_PMD_ORDER);
	return folio;
}

/* Return: an address whose PMD is empty, in a table of PMDs. */
static unsigned long pmd_place(struct pmd_test *pt)
{
	unsigned long addr = kunit_mm_map_huge(pt->km, 2 * HPAGE_PMD_NR);

	kunit_mm_write(pt->km, addr + HPAGE_PMD_SIZE, 1);
	return addr;
}

static bool pmd_map(struct pmd_test *pt, struct folio *folio,
		    unsigned long addr, unsigned int state)
{
	struct mm_struct *mm = pt->km->mm;
	pmd_t *pmdp = mm_find_pmd(mm, addr);
	pgtable_t table = pmdp ? pte_alloc_one(mm) : NULL;
	spinlock_t *ptl;	/* of the PMD */

	if (!table)
		return false;
	mmap_read_lock(mm);
	ptl = pmd_lock(mm, pmdp);
	folio_add_new_anon_rmap(folio, vma_lookup(mm, addr), addr,
				RMAP_EXCLUSIVE);
	if (!(state & PMD_TEST_EXCLUSIVE))
		ClearPageAnonExclusive(&folio->page);
	add_mm_counter(mm, MM_ANONPAGES, HPAGE_PMD_NR);
	pgtable_trans_huge_deposit(mm, pmdp, table);
	mm_inc_nr_ptes(mm);
	set_pmd_at(mm, addr, pmdp, pmd_make_private(folio_pfn(folio), state));
	spin_unlock(ptl);
	mmap_read_unlock(mm);
	return true;
}

/* Map a new folio of the device. The mapping has the only reference. */
static struct folio *pmd_plant(struct pmd_test *pt, unsigned long addr,
			       unsigned int state)
{
	struct folio *folio = pmd_new_folio(pt);
	int ret = mem_cgroup_charge(folio, pt->km->mm, GFP_KERNEL);

	KUNIT_ASSERT_EQ(pt->test, ret, 0);
	KUNIT_ASSERT_TRUE(pt->test, pmd_map(pt, folio, addr, state));
	folio_unlock(folio);
	return folio;
}

static void expect_all_free(struct pmd_test *pt)
{
	KUNIT_EXPECT_EQ(pt->test, READ_ONCE(pt->freed),
			pt->mapped * HPAGE_PMD_NR);
}

static long pmd_anon_pages(struct pmd_test *pt)
{
	return percpu_counter_sum(&pt->km->mm->rss_stat[MM_ANONPAGES]);
}

static struct folio *pmd_huge_page(struct pmd_test *pt, unsigned long addr)
{
	kunit_mm_write(pt->km, addr, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(pt->km, addr)))
		kunit_skip(pt->test, "no THP available");
	return pfn_folio(kunit_mm_pfn(pt->km, addr));
}

/* Zap the folio. Page tables, counters and device memory are as before. */
static void zap_and_expect_free(struct pmd_test *pt, unsigned long addr)
{
	long anon = pmd_anon_pages(pt);

	kunit_mm_zap(pt->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(pt->test, pmd_anon_pages(pt), anon - HPAGE_PMD_NR);
	expect_all_free(pt);
}

static void expect_counts(struct pmd_test *pt, struct folio *folio, int maps,
			  int refs)
{
	KUNIT_EXPECT_EQ(pt->test, folio_mapcount(folio), maps);
	KUNIT_EXPECT_EQ(pt->test, folio_ref_count(folio), refs);
}

static void expect_exclusive(struct pmd_test *pt, struct page *page,
			     unsigned int state)
{
	KUNIT_EXPECT_EQ(pt->test, !!PageAnonExclusive(page),
			!!(state & PMD_TEST_EXCLUSIVE));
}

/* @folio is mapped by a PMD with these properties. */
static void expect_private_pmd(struct pmd_test *pt, struct folio *folio,
			       unsigned long addr, unsigned int state)
{
	pmd_t pmd = kunit_mm_pmd(pt->km, addr);

	KUNIT_ASSERT_TRUE(pt->test, is_pmd_device_private_entry(pmd));
	KUNIT_EXPECT_PTR_EQ(pt->test, pmd_nonpresent_folio(pmd), folio);
	KUNIT_EXPECT_EQ(pt->test, pmd_read(pmd), state & ~PMD_TEST_EXCLUSIVE);
	expect_exclusive(pt, &folio->page, state);
}

/* A migration entry knows from its type whether its folio is exclusive. */
static unsigned int pmd_read_migration(swp_entry_t entry)
{
	if (is_writable_migration_entry(entry))
		return PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE;
	return is_readable_exclusive_migration_entry(entry) ?
	       PMD_TEST_EXCLUSIVE : 0;
}

static unsigned int pte_read_marks(pte_t pte)
{
	return (pte_swp_soft_dirty(pte) ? PMD_TEST_SOFT_DIRTY : 0) |
	       (pte_swp_uffd_wp(pte) ? PMD_TEST_UFFD_WP : 0);
}

/* A migration entry with these properties, of a folio with this first page */
static void expect_migration(struct pmd_test *pt, swp_entry_t entry,
			     unsigned int marks, unsigned long pfn,
			     unsigned int state)
{
	KUNIT_ASSERT_TRUE(pt->test, is_migration_entry(entry));
	KUNIT_EXPECT_EQ(pt->test, swp_offset_pfn(entry), pfn);
	KUNIT_EXPECT_EQ(pt->test, pmd_read_migration(entry) | marks,
			pmd_state_migrated(state));
	if (migration_entry_supports_ad())
		KUNIT_EXPECT_EQ(pt->test, is_migration_entry_dirty(entry),
				!!(state & PMD_TEST_WRITE));
}

static void expect_migration_pmd(struct pmd_test *pt, struct folio *folio,
				 unsigned long addr, unsigned int state)
{
	pmd_t pmd = kunit_mm_pmd(pt->km, addr);

	KUNIT_ASSERT_TRUE(pt->test, is_pmd_migration_entry(pmd));
	expect_migration(pt, pmd_to_swp_entry(pmd),
			 pmd_read(pmd) & ~PMD_TEST_WRITE, folio_pfn(folio),
			 state);
}

static void expect_migration_pte(struct pmd_test *pt, struct folio *folio,
				 unsigned long addr, unsigned long i,
				 unsigned int state)
{
	pte_t pte = kunit_mm_pte(pt->km, addr + i * PAGE_SIZE);

	KUNIT_ASSERT_FALSE(pt->test, pte_present(pte));
	expect_migration(pt, pte_to_swp_entry(pte), pte_read_marks(pte),
			 folio_pfn(folio) + i, state);
}

static void expect_private_pte(struct pmd_test *pt, struct folio *folio,
			       unsigned long addr, unsigned long i,
			       unsigned int state)
{
	pte_t pte = kunit_mm_pte(pt->km, addr + i * PAGE_SIZE);
	swp_entry_t entry = pte_to_swp_entry(pte);

	KUNIT_ASSERT_FALSE(pt->test, pte_present(pte));
	KUNIT_ASSERT_TRUE(pt->test, is_device_private_entry(entry));
	KUNIT_EXPECT_EQ(pt->test, swp_offset_pfn(entry), folio_pfn(folio) + i);
	KUNIT_EXPECT_EQ(pt->test, is_writable_device_private_entry(entry),
			!!(state & PMD_TEST_WRITE));
	KUNIT_EXPECT_EQ(pt->test, pte_read_marks(pte),
			state & (PMD_TEST_SOFT_DIRTY | PMD_TEST_UFFD_WP));
	expect_exclusive(pt, folio_page(folio, i), state);
}

/* @folio is mapped by PTEs with these properties. */
static void expect_private_ptes(struct pmd_test *pt, struct folio *folio,
				unsigned long addr, unsigned int state)
{
	unsigned long i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		expect_private_pte(pt, folio, addr, i, state);
	expect_counts(pt, folio, HPAGE_PMD_NR, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(pt->test, folio_entire_mapcount(folio), 0);
}

/* ---- split ---- */

static void mapped_folio_is_split_to_ptes(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio;
	unsigned int state;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		folio = pmd_plant(pt, addr, state);
		expect_private_pmd(pt, folio, addr, state);
		expect_counts(pt, folio, 1, 1);
		kunit_mm_split_pmd(pt->km, addr + PAGE_SIZE);
		expect_private_ptes(pt, folio, addr, state);
		zap_and_expect_free(pt, addr);
		/* a page table takes no PMD */
		addr = pmd_place(pt);
	}
}

/* As before the folio itself is split */
static void pmd_freeze(struct folio *folio)
{
	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, TTU_SPLIT_HUGE_PMD);
}

static void pmd_thaw(struct folio *folio)
{
	remove_migration_ptes(folio, folio, 0);
	folio_unlock(folio);
	folio_put(folio);
}

static void mapped_folio_is_frozen(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct folio *folio;
	unsigned long addr, i;
	unsigned int state;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		addr = pmd_place(pt);
		folio = pmd_plant(pt, addr, state);
		pmd_freeze(folio);
		expect_counts(pt, folio, 0, 1);
		for (i = 0; i < HPAGE_PMD_NR; i++)
			expect_migration_pte(pt, folio, addr, i, state);
		pmd_thaw(folio);
		expect_private_ptes(pt, folio, addr, pmd_state_migrated(state));
		zap_and_expect_free(pt, addr);
	}
}

/* Without the right folio, nothing is frozen. */
static void other_folio_is_not_frozen(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt), other = pmd_place(pt);
	struct folio *folio = pmd_plant(pt, addr, 0);
	struct folio *wrong = pmd_plant(pt, other, 0);

	folio_lock(wrong);
	mmap_read_lock(pt->km->mm);
	split_huge_pmd_address(vma_lookup(pt->km->mm, addr), addr, true, wrong);
	mmap_read_unlock(pt->km->mm);
	folio_unlock(wrong);
	expect_private_pmd(pt, folio, addr, 0);
	expect_counts(pt, folio, 1, 1);
	kunit_mm_zap(pt->km, other, HPAGE_PMD_NR);
	zap_and_expect_free(pt, addr);
}

/* ---- zap ---- */

static void mapped_folio_is_zapped(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	unsigned long tables = mm_pgtables_bytes(pt->km->mm);
	unsigned int state;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		pmd_plant(pt, addr, state);
		zap_and_expect_free(pt, addr);
		KUNIT_EXPECT_TRUE(test, pmd_none(kunit_mm_pmd(pt->km, addr)));
		KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(pt->km->mm), tables);
	}
}

/* A driver may take locks of its own to free a folio. */
static void folio_is_freed_without_the_lock(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);

	pmd_plant(pt, addr, PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
	pt->ptl = pmd_lockptr(pt->km->mm, mm_find_pmd(pt->km->mm, addr));
	zap_and_expect_free(pt, addr);
	pt->ptl = NULL;
	KUNIT_EXPECT_EQ(test, pt->under_lock, 0UL);
}

static void mapped_folio_is_unmapped(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);

	pmd_plant(pt, addr, PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, 2 * HPAGE_PMD_SIZE), 0);
	expect_all_free(pt);
}

/* The rest stays mapped, and keeps the folio. */
static void part_of_mapped_folio_is_zapped(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio = pmd_plant(pt, addr, PMD_TEST_WRITE |
						  PMD_TEST_EXCLUSIVE);
	long anon = pmd_anon_pages(pt);

	/* with another reference it is not split */
	folio_get(folio);
	kunit_mm_zap(pt->km, addr + PAGE_SIZE, HPAGE_PMD_NR - 2);
	folio_put(folio);
	KUNIT_EXPECT_EQ(test, pmd_anon_pages(pt), anon - HPAGE_PMD_NR + 2);
	expect_counts(pt, folio, 2, 2);
	expect_private_pte(pt, folio, addr, 0, PMD_TEST_WRITE |
					       PMD_TEST_EXCLUSIVE);
	expect_private_pte(pt, folio, addr, HPAGE_PMD_NR - 1,
			   PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
	KUNIT_EXPECT_EQ(test, pt->freed, 0);
	kunit_mm_zap(pt->km, addr, HPAGE_PMD_NR);
	expect_all_free(pt);
}

/* ---- fork ---- */

static struct mm_struct *pmd_fork(struct pmd_test *pt, unsigned long addr)
{
	struct mm_struct *child;
	int ret = kunit_mm_fork(pt->km, addr, &child);

	KUNIT_ASSERT_EQ(pt->test, ret, 0);
	return child;
}

static void mapped_folio_is_forked(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct mm_struct *child, *parent;
	struct folio *folio;
	unsigned int state, shared;
	long anon;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		shared = state & ~(PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
		folio = pmd_plant(pt, addr, state);
		anon = pmd_anon_pages(pt);
		child = pmd_fork(pt, addr);
		expect_private_pmd(pt, folio, addr, shared);
		expect_counts(pt, folio, 2, 2);
		parent = kunit_mm_enter(pt->km, child);
		/* the VMA of the child is not registered with userfaultfd */
		expect_private_pmd(pt, folio, addr, shared & ~PMD_TEST_UFFD_WP);
		KUNIT_EXPECT_EQ(test, pmd_anon_pages(pt), anon);
		kunit_mm_enter(pt->km, parent);
		kunit_mm_zap(pt->km, addr, HPAGE_PMD_NR);
		expect_counts(pt, folio, 1, 1);
		kunit_mm_exit(pt->km, child);
		expect_all_free(pt);
	}
}

/* ---- protection ---- */

static void pmd_prot_numa(struct kunit_mm *km, unsigned long addr)
{
	struct mmu_gather tlb;

	mmap_read_lock(km->mm);
	tlb_gather_mmu(&tlb, km->mm);
	change_protection(&tlb, vma_lookup(km->mm, addr), addr,
			  addr + HPAGE_PMD_SIZE, MM_CP_PROT_NUMA);
	tlb_finish_mmu(&tlb);
	mmap_read_unlock(km->mm);
}

static void pmd_read_only(struct kunit_mm *km, unsigned long addr)
{
	kunit_mm_make_read_only(km, addr, HPAGE_PMD_NR);
}

static void pmd_set_wp(struct kunit_mm *km, unsigned long addr)
{
	kunit_mm_uffd_wp(km, addr, HPAGE_PMD_NR, true);
}

static void pmd_clear_wp(struct kunit_mm *km, unsigned long addr)
{
	kunit_mm_uffd_wp(km, addr, HPAGE_PMD_NR, false);
}

/**
 * struct pmd_change - a change of protection, and its effect
 * @change: the change
 * @clear: properties that it clears
 * @set: properties that it sets
 */
struct pmd_change {
	void (*change)(struct kunit_mm *km, unsigned long addr);
	unsigned int clear;
	unsigned int set;
};

static const struct pmd_change pmd_changes[] = {
	{ pmd_read_only, PMD_TEST_WRITE, 0 },
	{ pmd_set_wp, PMD_TEST_WRITE, HAS_UFFD_WP ? PMD_TEST_UFFD_WP : 0 },
	{ pmd_clear_wp, PMD_TEST_UFFD_WP, 0 },
	{ pmd_prot_numa, 0, 0 },
};

static void mapped_folio_changes_protection(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	const struct pmd_change *pc = pmd_changes;
	struct folio *folio;
	unsigned int state;
	int i;

	for (i = 0; i < ARRAY_SIZE(pmd_changes); i++, pc++) {
		for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
		     state = pmd_state(state + 1)) {
			folio = pmd_plant(pt, addr, state);
			pc->change(pt->km, addr);
			expect_private_pmd(pt, folio, addr,
					   (state & ~pc->clear) | pc->set);
			expect_counts(pt, folio, 1, 1);
			zap_and_expect_free(pt, addr);
		}
	}
}

static void migrating_folio_changes_protection(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	const struct pmd_change *pc = pmd_changes;
	struct folio *folio;
	unsigned int state;
	int i;

	for (i = 0; i < ARRAY_SIZE(pmd_changes); i++, pc++) {
		for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
		     state = pmd_state(state + 1)) {
			folio = pmd_plant(pt, addr, state);
			folio_get(folio);
			folio_lock(folio);
			try_to_migrate(folio, 0);
			pc->change(pt->km, addr);
			pmd_thaw(folio);
			expect_private_pmd(pt, folio, addr,
					   (pmd_state_migrated(state) &
					    ~pc->clear) | pc->set);
			zap_and_expect_free(pt, addr);
		}
	}
}

static void part_of_mapped_folio_changes_protection(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	unsigned int state = PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE;
	struct folio *folio = pmd_plant(pt, addr, state);

	kunit_mm_make_read_only(pt->km, addr + PAGE_SIZE, 1);
	expect_private_pte(pt, folio, addr, 0, state);
	expect_private_pte(pt, folio, addr, 1, PMD_TEST_EXCLUSIVE);
	expect_private_pte(pt, folio, addr, 2, state);
	expect_counts(pt, folio, HPAGE_PMD_NR, HPAGE_PMD_NR);
	zap_and_expect_free(pt, addr);
}

/* ---- mremap ---- */

static unsigned long pmd_move_tables(struct pmd_test *pt, unsigned long from,
				     unsigned long to)
{
	struct mm_struct *mm = pt->km->mm;
	unsigned long moved;

	mmap_write_lock(mm);
	moved = move_page_tables(vma_lookup(mm, from), from,
				 vma_lookup(mm, to), to, HPAGE_PMD_SIZE, false,
				 false);
	mmap_write_unlock(mm);
	return moved;
}

/* To another table of PMDs, which takes the deposited page table over */
static void mapped_folio_is_moved(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt), to = addr + PUD_SIZE;
	struct folio *folio;
	unsigned int state, soft;

	kunit_mm_map_fixed(pt->km, to, HPAGE_PMD_NR, PROT_READ | PROT_WRITE);
	soft = HAS_SOFT_DIRTY ? PMD_TEST_SOFT_DIRTY : 0;
	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		folio = pmd_plant(pt, addr, state);
		KUNIT_EXPECT_EQ(test, pmd_move_tables(pt, addr, to),
				HPAGE_PMD_SIZE);
		KUNIT_EXPECT_TRUE(test, pmd_none(kunit_mm_pmd(pt->km, addr)));
		expect_private_pmd(pt, folio, to, state | soft);
		expect_counts(pt, folio, 1, 1);
		zap_and_expect_free(pt, to);
	}
}

/* ---- reverse mapping ---- */

enum pmd_found {
	FOUND_NOTHING,
	FOUND_PMD,
	FOUND_PTE,
};

/* What does a walk with these flags find for @nr pages from @pfn? */
static enum pmd_found pmd_find(struct pmd_test *pt, unsigned long pfn,
			       unsigned long nr, unsigned long addr,
			       unsigned int flags)
{
	enum pmd_found found = FOUND_NOTHING;
	struct page_vma_mapped_walk pvmw = {
		.pfn = pfn,
		.nr_pages = nr,
		.address = addr,
		.flags = flags,
	};

	mmap_read_lock(pt->km->mm);
	pvmw.vma = vma_lookup(pt->km->mm, addr);
	pvmw.pgoff = linear_page_index(pvmw.vma, addr);
	if (page_vma_mapped_walk(&pvmw)) {
		found = pvmw.pte ? FOUND_PTE : FOUND_PMD;
		page_vma_mapped_walk_done(&pvmw);
	}
	mmap_read_unlock(pt->km->mm);
	return found;
}

static void mapped_folio_is_found_by_rmap(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt), at = addr + 3 * PAGE_SIZE;
	struct folio *folio = pmd_plant(pt, addr, 0);
	unsigned long pfn = folio_pfn(folio), nr = HPAGE_PMD_NR;

	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn, nr, addr, 0), FOUND_PMD);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn, nr, addr, PVMW_SYNC),
			FOUND_PMD);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn + 3, 1, at, 0), FOUND_PMD);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn + nr, nr, addr, 0),
			FOUND_NOTHING);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn, nr, addr, PVMW_MIGRATION),
			FOUND_NOTHING);

	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn, nr, addr, 0), FOUND_NOTHING);
	KUNIT_EXPECT_EQ(test, pmd_find(pt, pfn, nr, addr, PVMW_MIGRATION),
			FOUND_PMD);
	pmd_thaw(folio);
	zap_and_expect_free(pt, addr);
}

/*
 * A folio that PTEs map behind the start of a PMD, and the PMD before it, where
 * the folio may be mapped as well
 */
static void expect_found_behind(struct pmd_test *pt, struct folio *folio,
				unsigned long addr)
{
	KUNIT_EXPECT_EQ(pt->test,
			pmd_find(pt, folio_pfn(folio), HPAGE_PMD_NR,
				 addr + HPAGE_PMD_SIZE / 2, 0), FOUND_PTE);
}

/* Without an effect on the VMA, unlike kunit_mm_split_pmd() */
static void pmd_split(struct pmd_test *pt, unsigned long addr)
{
	mmap_read_lock(pt->km->mm);
	split_huge_pmd_address(vma_lookup(pt->km->mm, addr), addr, false, NULL);
	mmap_read_unlock(pt->km->mm);
}

static void folio_is_found_behind_other_pmd(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt), behind = addr + HPAGE_PMD_SIZE;
	struct folio *folio, *other;

	kunit_mm_zap(pt->km, behind, HPAGE_PMD_NR);
	folio = pmd_plant(pt, behind, 0);
	pmd_split(pt, behind);

	other = pmd_plant(pt, addr, 0);
	expect_found_behind(pt, folio, addr);
	folio_get(other);
	folio_lock(other);
	try_to_migrate(other, 0);
	expect_found_behind(pt, folio, addr);
	pmd_thaw(other);
	kunit_mm_zap(pt->km, addr, HPAGE_PMD_NR);
	pmd_huge_page(pt, addr);
	expect_found_behind(pt, folio, addr);
	zap_and_expect_free(pt, behind);
}

/* ---- migration ---- */

static void mapped_folio_is_unmapped_and_restored(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio;
	unsigned int state;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		folio = pmd_plant(pt, addr, state);
		folio_get(folio);
		folio_lock(folio);
		try_to_migrate(folio, 0);
		expect_migration_pmd(pt, folio, addr, state);
		expect_counts(pt, folio, 0, 1);
		expect_exclusive(pt, &folio->page, 0);
		pmd_thaw(folio);
		expect_private_pmd(pt, folio, addr, pmd_state_migrated(state));
		expect_counts(pt, folio, 1, 1);
		zap_and_expect_free(pt, addr);
	}
}

/* Two address spaces: all mappings migrate, and none becomes exclusive. */
static void shared_folio_is_unmapped_and_restored(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio = pmd_plant(pt, addr, PMD_TEST_WRITE |
						  PMD_TEST_EXCLUSIVE);
	struct mm_struct *child = pmd_fork(pt, addr);
	struct mm_struct *parent;

	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	expect_migration_pmd(pt, folio, addr, 0);
	expect_counts(pt, folio, 0, 1);
	pmd_thaw(folio);
	expect_private_pmd(pt, folio, addr, 0);
	expect_counts(pt, folio, 2, 2);
	parent = kunit_mm_enter(pt->km, child);
	expect_private_pmd(pt, folio, addr, 0);
	kunit_mm_enter(pt->km, parent);
	kunit_mm_zap(pt->km, addr, HPAGE_PMD_NR);
	kunit_mm_exit(pt->km, child);
	expect_all_free(pt);
}

/* What a migration moves, but for contents, flags and charge */
static void pmd_move_identity(struct folio *dst, struct folio *src)
{
	dst->mapping = src->mapping;
	dst->index = src->index;
	folio_set_swapbacked(dst);
	if (folio_test_dirty(src))
		folio_set_dirty(dst);
	mod_mthp_stat(folio_order(dst), MTHP_STAT_NR_ANON, 1);
}

static void huge_page_moves_to_device_and_back(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *src = pmd_huge_page(pt, addr), *dst;
	unsigned int state = PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE |
			     (HAS_SOFT_DIRTY ? PMD_TEST_SOFT_DIRTY : 0);
	pmd_t pmd;

	folio_get(src);
	folio_lock(src);
	try_to_migrate(src, 0);
	dst = pmd_new_folio(pt);
	pmd_move_identity(dst, src);
	remove_migration_ptes(src, dst, 0);
	expect_private_pmd(pt, dst, addr, state);
	expect_counts(pt, dst, 1, 2);

	try_to_migrate(dst, 0);
	remove_migration_ptes(dst, src, 0);
	expect_counts(pt, dst, 0, 1);
	pmd = kunit_mm_pmd(pt->km, addr);
	KUNIT_EXPECT_TRUE(test, pmd_trans_huge(pmd));
	KUNIT_EXPECT_TRUE(test, pmd_write(pmd));
	KUNIT_EXPECT_TRUE(test, pmd_dirty(pmd));
	expect_exclusive(pt, &src->page, state);
	folio_unlock(dst);
	folio_put(dst);
	folio_unlock(src);
	folio_put(src);
	expect_all_free(pt);
}

/* ---- fault ---- */

static void fault_on_mapped_folio_calls_the_driver(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);

	pmd_plant(pt, addr, PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
	KUNIT_EXPECT_EQ(test, kunit_mm_try_read(addr + PAGE_SIZE), -EFAULT);
	KUNIT_EXPECT_EQ(test, pt->faults, 1);
	zap_and_expect_free(pt, addr);
}

/* ---- other system calls ---- */

/* Dumping core fetches the page. Here, the driver fails to bring it. */
static void core_dump_asks_the_driver(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct page *page;
	long ret;

	pmd_plant(pt, addr, PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE);
	mmap_read_lock(pt->km->mm);
	ret = get_user_pages_remote(pt->km->mm, addr + PAGE_SIZE, 1,
				    FOLL_GET | FOLL_DUMP, &page, NULL);
	mmap_read_unlock(pt->km->mm);
	KUNIT_EXPECT_EQ(test, ret, -EFAULT);
	KUNIT_EXPECT_EQ(test, pt->faults, 1);
	zap_and_expect_free(pt, addr);
}

static int pmd_dump(struct kunit_mm_thread *thread)
{
	int ret;

	mmap_read_lock(thread->km->mm);
	ret = get_user_pages_remote(thread->km->mm, thread->addr, 1,
				    FOLL_GET | FOLL_DUMP, &thread->page, NULL);
	mmap_read_unlock(thread->km->mm);
	return ret;
}

static void core_dump_waits_for_migration(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio = pmd_huge_page(pt, addr);
	struct kunit_mm_thread thread = {};

	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	kunit_mm_thread_start(&thread, pt->km, addr, pmd_dump);
	msleep(PMD_WAITS_MS);
	KUNIT_EXPECT_FALSE_MSG(test, completion_done(&thread.done),
			       "does not wait for the migration");
	pmd_thaw(folio);
	kunit_mm_thread_end(&thread);
	KUNIT_ASSERT_EQ(test, thread.ret, 1);
	KUNIT_EXPECT_PTR_EQ(test, page_folio(thread.page), folio);
	put_page(thread.page);
}

#ifdef CONFIG_NUMA
static void node_of_mapped_folio_is_not_changed(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio;
	nodemask_t from, to;
	int ret;

	/* There may be no other node, so nothing that can migrate is left. */
	kunit_mm_zap(pt->km, addr + HPAGE_PMD_SIZE, HPAGE_PMD_NR);
	folio = pmd_plant(pt, addr, 0);
	from = nodemask_of_node(folio_nid(folio));
	to = nodemask_of_node((folio_nid(folio) + 1) % MAX_NUMNODES);
	ret = do_migrate_pages(pt->km->mm, &from, &to, MPOL_MF_MOVE);
	KUNIT_EXPECT_EQ(test, ret, 0);
	expect_private_pmd(pt, folio, addr, 0);
	expect_counts(pt, folio, 1, 1);
	zap_and_expect_free(pt, addr);
}
#endif

static void mapped_folio_is_not_collapsed(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long addr = pmd_place(pt);
	struct folio *folio = pmd_plant(pt, addr, 0);

	KUNIT_EXPECT_EQ(test, do_madvise(pt->km->mm, addr, HPAGE_PMD_SIZE,
					 MADV_COLLAPSE), 0);
	expect_private_pmd(pt, folio, addr, 0);
	expect_counts(pt, folio, 1, 1);
	KUNIT_EXPECT_EQ(test, pt->faults, 0);
	zap_and_expect_free(pt, addr);
}

/* ---- procfs ---- */

#define PMD_PROC_BUFFER		SZ_64K

/**
 * struct pmd_proc - files in /proc that tell about the address space
 * @pt: the test
 * @mnt: an instance of procfs
 * @pid: process with the address space; there are no files for kernel threads
 * @leave: asks the process to exit
 * @user: buffer in the address space, for %PMD_PROC_BUFFER bytes
 * @text: copy of the buffer
 */
struct pmd_proc {
	struct pmd_test *pt;
	struct vfsmount *mnt;
	pid_t pid;
	struct completion leave;
	unsigned long user;
	char *text;
};

static int pmd_process(void *data)
{
	struct pmd_proc *proc = data;

	wait_for_completion(&proc->leave);
	do_exit(0);
}

/* The address space outlives the process, see kunit_mm_create(). */
static void pmd_proc_end(void *data)
{
	struct pmd_proc *proc = data;

	complete(&proc->leave);
	kern_unmount(proc->mnt);
}

static struct pmd_proc *pmd_proc_start(struct pmd_test *pt)
{
	struct file_system_type *type = get_fs_type("proc");
	struct kunit *test = pt->test;
	struct pmd_proc *proc;
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, type);
	proc = kunit_kzalloc(test, sizeof(*proc), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, proc);
	proc->text = kunit_kzalloc(test, PMD_PROC_BUFFER + 1, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, proc->text);
	proc->pt = pt;
	proc->user = kunit_mm_map(pt->km, PMD_PROC_BUFFER >> PAGE_SHIFT,
				  PROT_READ | PROT_WRITE);
	init_completion(&proc->leave);
	proc->mnt = kern_mount(type);
	KUNIT_ASSERT_FALSE(test, IS_ERR(proc->mnt));
	proc->pid = user_mode_thread(pmd_process, proc, CLONE_VM | SIGCHLD);
	ret = kunit_add_action_or_reset(test, pmd_proc_end, proc);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_GT(test, proc->pid, 0);
	return proc;
}

static struct file *pmd_proc_open(struct pmd_proc *proc, const char *name,
				  int flags)
{
	struct file *file;
	char path[32];

	snprintf(path, sizeof(path), "%d/%s", proc->pid, name);
	file = file_open_root_mnt(proc->mnt, path, flags, 0);
	KUNIT_ASSERT_FALSE(proc->pt->test, IS_ERR(file));
	return file;
}

/* Read a file, from @pos, to the buffer in the address space. */
static ssize_t pmd_proc_read(struct pmd_proc *proc, const char *name,
			     loff_t pos, size_t size)
{
	struct file *file = pmd_proc_open(proc, name, O_RDONLY);
	size_t done = 0;
	ssize_t ret;

	do {
		ret = vfs_read(file, (char __user *)proc->user + done,
			       size - done, &pos);
		done += max(ret, 0);
	} while (ret > 0 && done < size);
	fput(file);
	KUNIT_ASSERT_GE(proc->pt->test, ret, 0);
	return done;
}

static void pmd_proc_read_smaps(struct pmd_proc *proc)
{
	ssize_t size = pmd_proc_read(proc, "smaps", 0, PMD_PROC_BUFFER);

	KUNIT_ASSERT_LT(proc->pt->test, size, PMD_PROC_BUFFER);
	KUNIT_ASSERT_EQ(proc->pt->test, 0,
			copy_from_user(proc->text,
				       (char __user *)proc->user, size));
	proc->text[size] = 0;
}

/* A value in KiB of the VMA that starts at @addr */
static long pmd_smaps(struct pmd_proc *proc, unsigned long addr,
		      const char *name)
{
	char start[20], *at;
	long value = -1;

	snprintf(start, sizeof(start), "%08lx-", addr);
	at = strstr(proc->text, start);
	at = at ? strstr(at, name) : NULL;
	if (at)
		sscanf(at + strlen(name), "%ld", &value);
	return value;
}

/* Values of a folio that is mapped by @maps address spaces */
static void expect_smaps(struct pmd_proc *proc, unsigned long addr, int maps)
{
	struct kunit *test = proc->pt->test;
	long size = HPAGE_PMD_SIZE / SZ_1K;

	pmd_proc_read_smaps(proc);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nRss:"), size);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nPss:"), size / maps);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nReferenced:"), 0);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nAnonymous:"), size);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nAnonHugePages:"), size);
	KUNIT_EXPECT_EQ(test, pmd_smaps(proc, addr, "\nSwap:"), 0);
}

static void smaps_counts_mapped_folio(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct pmd_proc *proc = pmd_proc_start(pt);
	unsigned long addr = pmd_place(pt);
	struct mm_struct *child;
	unsigned int state;

	kunit_mm_zap(pt->km, addr + HPAGE_PMD_SIZE, HPAGE_PMD_NR);
	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		pmd_plant(pt, addr, state);
		expect_smaps(proc, addr, 1);
		child = pmd_fork(pt, addr);
		expect_smaps(proc, addr, 2);
		kunit_mm_exit(pt->km, child);
		zap_and_expect_free(pt, addr);
	}
}

static void pmd_proc_read_pagemap(struct pmd_proc *proc, unsigned long addr,
				  u64 *entries)
{
	size_t size = HPAGE_PMD_NR * sizeof(*entries);

	KUNIT_ASSERT_EQ(proc->pt->test,
			pmd_proc_read(proc, "pagemap",
				      (addr >> PAGE_SHIFT) * sizeof(*entries),
				      size), size);
	KUNIT_ASSERT_EQ(proc->pt->test, 0,
			copy_from_user(entries, (char __user *)proc->user,
				       size));
}

/* As pages that are mapped one by one */
static void pagemap_shows_mapped_folio(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct pmd_proc *proc = pmd_proc_start(pt);
	size_t size = HPAGE_PMD_NR * sizeof(u64);
	u64 *one = kunit_kzalloc(test, size, GFP_KERNEL);
	u64 *each = kunit_kzalloc(test, size, GFP_KERNEL);
	unsigned long addr;
	unsigned int state;

	KUNIT_ASSERT_NOT_NULL(test, one);
	KUNIT_ASSERT_NOT_NULL(test, each);
	KUNIT_ASSERT_LE(test, size, PMD_PROC_BUFFER);
	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		addr = pmd_place(pt);
		pmd_plant(pt, addr, state);
		pmd_proc_read_pagemap(proc, addr, one);
		kunit_mm_split_pmd(pt->km, addr);
		pmd_proc_read_pagemap(proc, addr, each);
		KUNIT_EXPECT_NE(test, one[0], 0);
		KUNIT_EXPECT_MEMEQ(test, one, each, size);
		zap_and_expect_free(pt, addr);
	}
}

#ifdef CONFIG_MEM_SOFT_DIRTY
static void pmd_proc_clear_refs(struct pmd_proc *proc)
{
	struct file *file = pmd_proc_open(proc, "clear_refs", O_WRONLY);
	loff_t pos = 0;
	ssize_t ret;

	ret = put_user('4', (char __user *)proc->user);
	if (!ret)
		ret = vfs_write(file, (char __user *)proc->user, 1, &pos);
	fput(file);
	KUNIT_EXPECT_EQ(proc->pt->test, ret, 1);
}

static void mapped_folio_becomes_soft_clean(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct pmd_proc *proc = pmd_proc_start(pt);
	unsigned long addr = pmd_place(pt);
	struct folio *folio;
	unsigned int state;

	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		folio = pmd_plant(pt, addr, state);
		pmd_proc_clear_refs(proc);
		expect_private_pmd(pt, folio, addr,
				   state & ~(PMD_TEST_WRITE |
					     PMD_TEST_SOFT_DIRTY));
		zap_and_expect_free(pt, addr);
	}
}
#endif

/* ---- userfaultfd ---- */

#ifdef CONFIG_USERFAULTFD
static void pmd_set_ctx(struct pmd_test *pt, unsigned long addr,
			struct userfaultfd_ctx *ctx, vm_flags_t flags)
{
	struct vm_area_struct *vma;

	mmap_write_lock(pt->km->mm);
	vma = vma_lookup(pt->km->mm, addr);
	if (vma) {
		vma_start_write(vma);
		vm_flags_reset(vma, (vma->vm_flags & ~__VM_UFFD_FLAGS) | flags);
		vma->vm_userfaultfd_ctx.ctx = ctx;
	}
	mmap_write_unlock(pt->km->mm);
}

static void pmd_new_ctx(struct pmd_test *pt, unsigned int features)
{
	pt->ctx = kunit_kzalloc(pt->test, sizeof(*pt->ctx), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(pt->test, pt->ctx);
	init_rwsem(&pt->ctx->map_changing_lock);
	pt->ctx->mm = pt->km->mm;
	pt->ctx->features = features;
}

/**
 * pmd_scan() - report pages that were written, and protect them
 * @proc: files of the address space
 * @addr: first page
 * @nr: number of pages
 *
 * Return: number of pages that were reported.
 */
static long pmd_scan(struct pmd_proc *proc, unsigned long addr,
		     unsigned long nr)
{
	struct page_region __user *vec = (void __user *)proc->user;
	struct pm_scan_arg __user *uarg = (void __user *)(vec + 1);
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = addr,
		.end = addr + nr * PAGE_SIZE,
		.vec = (unsigned long)vec,
		.vec_len = 1,
		.category_mask = PAGE_IS_WRITTEN | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WRITTEN,
	};
	struct page_region region = {};
	struct file *file;
	long ret;

	KUNIT_ASSERT_EQ(proc->pt->test, 0,
			copy_to_user(uarg, &arg, sizeof(arg)));
	file = pmd_proc_open(proc, "pagemap", O_RDONLY);
	ret = file->f_op->unlocked_ioctl(file, PAGEMAP_SCAN,
					 (unsigned long)uarg);
	fput(file);
	if (ret == 1 && copy_from_user(&region, vec, sizeof(region)))
		ret = -EFAULT;
	return ret < 0 ? ret : (region.end - region.start) >> PAGE_SHIFT;
}

static void pmd_track_writes(struct pmd_test *pt, unsigned long addr)
{
	pmd_new_ctx(pt, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED);
	pmd_set_ctx(pt, addr, pt->ctx, VM_UFFD_WP);
}

static void scan_protects_mapped_folio(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct pmd_proc *proc = pmd_proc_start(pt);
	unsigned long addr = pmd_place(pt);
	struct folio *folio;
	unsigned int state;

	if (!HAS_UFFD_WP)
		kunit_skip(test, "needs write protection by userfaultfd");
	pmd_track_writes(pt, addr);
	for (state = pmd_state(0); state < PMD_TEST_ALL_STATES;
	     state = pmd_state(state + 1)) {
		folio = pmd_plant(pt, addr, state);
		KUNIT_EXPECT_EQ(test, pmd_scan(proc, addr, HPAGE_PMD_NR),
				state & PMD_TEST_UFFD_WP ? 0 : HPAGE_PMD_NR);
		expect_private_pmd(pt, folio, addr, PMD_TEST_UFFD_WP |
						    (state & ~PMD_TEST_WRITE));
		KUNIT_EXPECT_EQ(test, pmd_scan(proc, addr, HPAGE_PMD_NR), 0);
		zap_and_expect_free(pt, addr);
	}
	pmd_set_ctx(pt, addr, NULL, 0);
}

static void scan_protects_part_of_mapped_folio(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	struct pmd_proc *proc = pmd_proc_start(pt);
	unsigned int state = PMD_TEST_WRITE | PMD_TEST_EXCLUSIVE;
	unsigned long addr = pmd_place(pt);
	struct folio *folio;

	if (!HAS_UFFD_WP)
		kunit_skip(test, "needs write protection by userfaultfd");
	pmd_track_writes(pt, addr);
	folio = pmd_plant(pt, addr, state);
	KUNIT_EXPECT_EQ(test, pmd_scan(proc, addr, 2), 2);
	expect_private_pte(pt, folio, addr, 1,
			   PMD_TEST_EXCLUSIVE | PMD_TEST_UFFD_WP);
	expect_private_pte(pt, folio, addr, 2, state);
	KUNIT_EXPECT_EQ(test, pmd_scan(proc, addr, HPAGE_PMD_NR),
			HPAGE_PMD_NR - 2);
	zap_and_expect_free(pt, addr);
	pmd_set_ctx(pt, addr, NULL, 0);
}

static int pmd_move(struct kunit_mm_thread *thread)
{
	struct pmd_test *pt = thread->km->test->priv;

	return move_pages(pt->ctx, pt->dst, thread->addr, pt->len, 0);
}

/* Return: address of a huge page, which can be moved to @pt->dst. */
static unsigned long pmd_prepare_move(struct pmd_test *pt)
{
	unsigned long src = kunit_mm_map_huge(pt->km, HPAGE_PMD_NR);

	pt->dst = pmd_place(pt);
	pmd_huge_page(pt, src);
	pmd_new_ctx(pt, 0);
	pmd_set_ctx(pt, pt->dst, pt->ctx, 0);
	return src;
}

static void move_during_migration(struct kunit *test, unsigned long len)
{
	struct pmd_test *pt = test->priv;
	unsigned long src = pmd_prepare_move(pt);
	unsigned long pfn = kunit_mm_pfn(pt->km, src);
	struct folio *folio = pfn_folio(pfn);
	struct kunit_mm_thread thread = {};
	pmd_t pmd;

	pt->len = len;
	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	pmd = kunit_mm_pmd(pt->km, src);
	KUNIT_EXPECT_TRUE(test, is_pmd_migration_entry(pmd));
	kunit_mm_thread_start(&thread, pt->km, src, pmd_move);
	msleep(PMD_WAITS_MS);
	KUNIT_EXPECT_FALSE_MSG(test, completion_done(&thread.done),
			       "does not wait for the migration");
	remove_migration_ptes(folio, folio, 0);
	folio_unlock(folio);
	folio_put(folio);
	kunit_mm_thread_end(&thread);
	pmd_set_ctx(pt, pt->dst, NULL, 0);
	KUNIT_EXPECT_EQ(test, (unsigned long)thread.ret, len);
	if (thread.ret > 0)
		KUNIT_EXPECT_EQ(test, kunit_mm_pfn(pt->km, pt->dst), pfn);
}

static void migrating_huge_page_is_moved(struct kunit *test)
{
	move_during_migration(test, HPAGE_PMD_SIZE);
}

static void part_of_migrating_huge_page_is_moved(struct kunit *test)
{
	move_during_migration(test, PAGE_SIZE);
}

/* Lengths of moves. The size of a PMD is not a constant everywhere. */
#define MOVE_LENGTHS	2

static unsigned long move_length(unsigned int i)
{
	return i ? PAGE_SIZE : HPAGE_PMD_SIZE;
}

/* Neither is it split. */
static void mapped_folio_is_not_moved_by_userfaultfd(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long src = pmd_place(pt);
	struct folio *folio = pmd_plant(pt, src, PMD_TEST_EXCLUSIVE);
	int i;

	pmd_prepare_move(pt);
	for (i = 0; i < MOVE_LENGTHS; i++) {
		KUNIT_EXPECT_EQ(test, move_pages(pt->ctx, pt->dst, src,
						 move_length(i), 0), -EFAULT);
		expect_private_pmd(pt, folio, src, PMD_TEST_EXCLUSIVE);
		expect_counts(pt, folio, 1, 1);
	}
	pmd_set_ctx(pt, pt->dst, NULL, 0);
	zap_and_expect_free(pt, src);
}

static void expect_move_finds_memory(struct pmd_test *pt, unsigned long src)
{
	int i;

	for (i = 0; i < MOVE_LENGTHS; i++)
		KUNIT_EXPECT_EQ(pt->test,
				move_pages(pt->ctx, pt->dst, src,
					   move_length(i), 0), -EEXIST);
}

static void nothing_is_moved_to_mapped_folio(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long src = pmd_prepare_move(pt);
	struct folio *folio = pmd_plant(pt, pt->dst, 0);

	expect_move_finds_memory(pt, src);
	expect_private_pmd(pt, folio, pt->dst, 0);
	expect_counts(pt, folio, 1, 1);
	pmd_set_ctx(pt, pt->dst, NULL, 0);
	zap_and_expect_free(pt, pt->dst);
}

static void nothing_is_moved_to_migrating_huge_page(struct kunit *test)
{
	struct pmd_test *pt = test->priv;
	unsigned long src = pmd_prepare_move(pt);
	struct folio *folio = pmd_huge_page(pt, pt->dst);

	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	expect_move_finds_memory(pt, src);
	pmd_thaw(folio);
	pmd_set_ctx(pt, pt->dst, NULL, 0);
	KUNIT_EXPECT_PTR_EQ(test, folio, pmd_huge_page(pt, pt->dst));
}
#endif /* CONFIG_USERFAULTFD */

static struct kunit_case device_pmd_cases[] = {
	KUNIT_CASE(device_private_pmd_keeps_its_bits),
	KUNIT_CASE(migration_pmd_keeps_its_bits),
	KUNIT_CASE(folio_of_migration_entry_is_found_after_split),
	KUNIT_CASE(device_private_pmd_changes_one_bit),
	KUNIT_CASE(other_pmd_is_not_device_private),
	KUNIT_CASE(nonpresent_pmd_has_no_page_table),
	KUNIT_CASE(unknown_pmd_is_not_split),
	KUNIT_CASE(advice_skips_device_private_pmd),
	KUNIT_CASE(free_meets_private_pmd_under_the_lock),
	KUNIT_CASE(mapped_folio_is_split_to_ptes),
	KUNIT_CASE(mapped_folio_is_frozen),
	KUNIT_CASE(other_folio_is_not_frozen),
	KUNIT_CASE(mapped_folio_is_zapped),
	KUNIT_CASE(folio_is_freed_without_the_lock),
	KUNIT_CASE(mapped_folio_is_unmapped),
	KUNIT_CASE(part_of_mapped_folio_is_zapped),
	KUNIT_CASE(mapped_folio_is_forked),
	KUNIT_CASE(mapped_folio_changes_protection),
	KUNIT_CASE(migrating_folio_changes_protection),
	KUNIT_CASE(part_of_mapped_folio_changes_protection),
	KUNIT_CASE(mapped_folio_is_moved),
	KUNIT_CASE(mapped_folio_is_found_by_rmap),
	KUNIT_CASE(folio_is_found_behind_other_pmd),
	KUNIT_CASE(mapped_folio_is_unmapped_and_restored),
	KUNIT_CASE(shared_folio_is_unmapped_and_restored),
	KUNIT_CASE(huge_page_moves_to_device_and_back),
	KUNIT_CASE(fault_on_mapped_folio_calls_the_driver),
	KUNIT_CASE(core_dump_asks_the_driver),
	KUNIT_CASE(core_dump_waits_for_migration),
#ifdef CONFIG_NUMA
	KUNIT_CASE(node_of_mapped_folio_is_not_changed),
#endif
	KUNIT_CASE(mapped_folio_is_not_collapsed),
	KUNIT_CASE(smaps_counts_mapped_folio),
	KUNIT_CASE(pagemap_shows_mapped_folio),
#ifdef CONFIG_MEM_SOFT_DIRTY
	KUNIT_CASE(mapped_folio_becomes_soft_clean),
#endif
#ifdef CONFIG_USERFAULTFD
	KUNIT_CASE(scan_protects_mapped_folio),
	KUNIT_CASE(scan_protects_part_of_mapped_folio),
	KUNIT_CASE(migrating_huge_page_is_moved),
	KUNIT_CASE(part_of_migrating_huge_page_is_moved),
	KUNIT_CASE(mapped_folio_is_not_moved_by_userfaultfd),
	KUNIT_CASE(nothing_is_moved_to_mapped_folio),
	KUNIT_CASE(nothing_is_moved_to_migrating_huge_page),
#endif
	{}
};

static struct kunit_suite device_pmd_suite = {
	.name = "device_pmd",
	.init = pmd_test_init,
	.test_cases = device_pmd_cases,
};

kunit_test_suite(device_pmd_suite);

#endif /* CONFIG_ARCH_ENABLE_THP_MIGRATION */

MODULE_DESCRIPTION("KUnit suite of PMD entries that are not present");
MODULE_LICENSE("GPL");
