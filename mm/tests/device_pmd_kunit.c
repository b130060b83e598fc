// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of PMD entries that are not present: migration entries and
 * device-private entries of the size of a PMD.
 *
 * Most entries are not in a page table, and refer to one locked page of the
 * test. The last tests plant them, or let the kernel create them.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>

#include "../internal.h"
#include "../device_entry.h"
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

/**
 * struct pmd_test - the folio of all entries, and an address space
 * @test: the test
 * @km: address space
 * @folio: a locked folio
 * @ctx: of userfaultfd
 * @dst: address that UFFDIO_MOVE moves to
 * @len: bytes that it moves
 */
struct pmd_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct folio *folio;
	struct userfaultfd_ctx *ctx;
	unsigned long dst;
	unsigned long len;
};

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
	if (!thp_migration_supported())
		kunit_skip(test, "huge pages do not migrate");
	pt->test = test;
	pt->km = kunit_mm_create(test);
	pt->folio = folio_alloc(GFP_KERNEL, 0);
	KUNIT_ASSERT_NOT_NULL(test, pt->folio);
	folio_lock(pt->folio);
	test->priv = pt;
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
	expect_no_device_private(pt, pmd_mkinvalid(huge));
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

/* ---- UFFDIO_MOVE ---- */

#ifdef CONFIG_USERFAULTFD
static void pmd_set_ctx(struct pmd_test *pt, struct userfaultfd_ctx *ctx)
{
	struct vm_area_struct *vma;

	mmap_write_lock(pt->km->mm);
	vma = vma_lookup(pt->km->mm, pt->dst);
	if (vma) {
		vma_start_write(vma);
		vma->vm_userfaultfd_ctx.ctx = ctx;
	}
	mmap_write_unlock(pt->km->mm);
}

/* Return: address of a huge page, which can be moved to @pt->dst. */
static unsigned long pmd_prepare_move(struct pmd_test *pt)
{
	unsigned long src = kunit_mm_map_huge(pt->km, HPAGE_PMD_NR);

	pt->dst = kunit_mm_map_huge(pt->km, HPAGE_PMD_NR);
	kunit_mm_write(pt->km, src, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(pt->km, src)))
		kunit_skip(pt->test, "no THP available");
	pt->ctx = kunit_kzalloc(pt->test, sizeof(*pt->ctx), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(pt->test, pt->ctx);
	init_rwsem(&pt->ctx->map_changing_lock);
	pt->ctx->mm = pt->km->mm;
	pmd_set_ctx(pt, pt->ctx);
	return src;
}

static int pmd_move(struct kunit_mm_thread *thread)
{
	struct pmd_test *pt = thread->km->test->priv;

	return move_pages(pt->ctx, pt->dst, thread->addr, pt->len, 0);
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
	pmd_set_ctx(pt, NULL);
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
#endif /* CONFIG_USERFAULTFD */

static struct kunit_case device_pmd_cases[] = {
	KUNIT_CASE(device_private_pmd_keeps_its_bits),
	KUNIT_CASE(migration_pmd_keeps_its_bits),
	KUNIT_CASE(device_private_pmd_changes_one_bit),
	KUNIT_CASE(other_pmd_is_not_device_private),
	KUNIT_CASE(nonpresent_pmd_has_no_page_table),
	KUNIT_CASE(unknown_pmd_is_not_split),
	KUNIT_CASE(advice_skips_device_private_pmd),
#ifdef CONFIG_USERFAULTFD
	KUNIT_CASE(migrating_huge_page_is_moved),
	KUNIT_CASE(part_of_migrating_huge_page_is_moved),
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
