// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/migrate_huge.c: migration of folios that PMDs map, whole
 * and, where there is no large page for them, in single pages. Also faults on
 * such folios, their eviction, and how hmm_range_fault() reports them.
 *
 * The suites run on a device with private and on one with coherent memory.
 * Every test ends with all device pages free and no memory lost.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>

#include "../internal.h"
#include "../device_write.h"
#include "../migrate_device_internal.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#ifdef CONFIG_DEVICE_MIGRATION_HUGE

/* Folios of the device, and pages that its entries may name */
#define MH_FOLIOS	3UL
#define MH_ENTRIES	(MH_FOLIOS * HPAGE_PMD_NR)
#define MH_FAULTERS	4
#define MH_NEW		0x5a5aUL

#define MH_LARGE	(MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND)

/**
 * struct mh_test - a process and a device
 * @test: the test
 * @km: address space
 * @dev: the device
 * @every: destinations: a large folio if 0, else a page for each @every-th page
 * @served: faults that moved the page of the access
 * @arrived: threads that are about to fault
 * @extra: a folio that got a reference while it was split
 * @args: of the migration
 * @src: its sources
 * @dst: its destinations
 * @pfns: entries of hmm_range_fault()
 */
struct mh_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct kunit_device *dev;
	unsigned long every;
	int served;
	atomic_t arrived;
	struct folio *extra;
	struct migrate_vma args;
	unsigned long *src;
	unsigned long *dst;
	unsigned long *pfns;
};

static unsigned long mh_used(struct mh_test *mh)
{
	return kunit_device_used(mh->dev);
}

static unsigned long mh_select(struct mh_test *mh, bool to_device)
{
	if (to_device)
		return MIGRATE_VMA_SELECT_SYSTEM;
	return mh->dev->pgmap->type == MEMORY_DEVICE_PRIVATE ?
	       MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
	       MIGRATE_VMA_SELECT_DEVICE_COHERENT;
}

/* ---- the driver ---- */

static unsigned long mh_nr(unsigned long mpfn)
{
	return mpfn & MIGRATE_PFN_COMPOUND ? HPAGE_PMD_NR : 1;
}

static unsigned long mh_copy_one(struct kunit_device *to, struct page *from,
				 unsigned int order)
{
	struct page *page = kunit_device_copy_folio(to, from, order);

	if (!page)
		return 0;
	return migrate_pfn(page_to_pfn(page)) |
	       (order ? MIGRATE_PFN_COMPOUND : 0);
}

static void mh_copy_pages(struct mh_test *mh, unsigned long *dst,
			  struct page *from, unsigned long nr,
			  struct kunit_device *to)
{
	unsigned long k;

	for (k = 0; k < nr; k++)
		if (!mh->every || k % mh->every == 0)
			dst[k] = mh_copy_one(to, from ? from + k : NULL, 0);
}

/* Fill the destinations, as the device @to or as system memory has them. */
static void mh_copy(struct mh_test *mh, struct migrate_vma *args,
		    struct kunit_device *to)
{
	unsigned long i, nr;

	for (i = 0; i < args->npages; i += nr) {
		struct page *from = migrate_pfn_to_page(args->src[i]);

		nr = mh_nr(args->src[i]);
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE) || (!from && !to))
			continue;
		if (nr > 1 && !mh->every)
			args->dst[i] = mh_copy_one(to, from, HPAGE_PMD_ORDER);
		else
			mh_copy_pages(mh, args->dst + i, from, nr, to);
	}
}

/* Return: number of pages that have moved. */
static unsigned long mh_moved(const struct migrate_vma *args)
{
	unsigned long i, nr, moved = 0;

	for (i = 0; i < args->npages; i += nr) {
		nr = mh_nr(args->src[i]);
		if (args->src[i] & MIGRATE_PFN_MIGRATE)
			moved += nr;
	}
	return moved;
}

static int mh_setup(struct mh_test *mh, unsigned long addr, unsigned long nr,
		    unsigned long select)
{
	mh->args = (struct migrate_vma) {
		.vma = vma_lookup(mh->km->mm, addr),
		.start = addr,
		.end = addr + (nr << PAGE_SHIFT),
		.src = mh->src,
		.dst = mh->dst,
		.pgmap_owner = mh->dev,
		.flags = select,
	};
	return migrate_vma_setup(&mh->args);
}

/* Takes the mmap lock until mh_end(). */
static void mh_begin(struct mh_test *mh, unsigned long addr, unsigned long nr,
		     unsigned long select)
{
	int ret;

	mmap_read_lock(mh->km->mm);
	ret = mh_setup(mh, addr, nr, select);
	KUNIT_EXPECT_EQ(mh->test, 0, ret);
}

static unsigned long mh_end(struct mh_test *mh)
{
	unsigned long moved;

	migrate_vma_pages(&mh->args);
	moved = mh_moved(&mh->args);
	migrate_vma_finalize(&mh->args);
	mmap_read_unlock(mh->km->mm);
	return moved;
}

static unsigned long mh_migrate(struct mh_test *mh, unsigned long addr,
				unsigned long nr, bool to_device)
{
	mh_begin(mh, addr, nr, mh_select(mh, to_device) |
			       MIGRATE_VMA_SELECT_COMPOUND);
	mh_copy(mh, &mh->args, to_device ? mh->dev : NULL);
	return mh_end(mh);
}

static unsigned long mh_to_device(struct mh_test *mh, unsigned long addr)
{
	return mh_migrate(mh, addr, HPAGE_PMD_NR, true);
}

static unsigned long mh_to_system(struct mh_test *mh, unsigned long addr)
{
	return mh_migrate(mh, addr, HPAGE_PMD_NR, false);
}

/* A fault on a PMD concerns the whole folio, one on a PTE the page. */
static vm_fault_t mh_serve_fault(struct kunit_device *dev,
				 struct vm_fault *vmf)
{
	struct mh_test *mh = dev->test->priv;
	unsigned long size = vmf->pte ? PAGE_SIZE : HPAGE_PMD_SIZE;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = ALIGN_DOWN(vmf->address, size),
		.end = ALIGN_DOWN(vmf->address, size) + size,
		.src = mh->src,
		.dst = mh->dst,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_COMPOUND,
		.fault_page = vmf->page,
	};

	KUNIT_EXPECT_TRUE(mh->test, PageLocked(vmf->page));
	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	mh_copy(mh, &args, NULL);
	migrate_vma_pages(&args);
	if (mh_moved(&args))
		mh->served++;
	migrate_vma_finalize(&args);
	return 0;
}

/* ---- memory ---- */

static unsigned long mh_pattern(unsigned long i)
{
	return 0xbeef0000UL + i * 5;
}

static int mh_put(unsigned long addr, unsigned long i, unsigned long word)
{
	return kunit_mm_put_word(addr, i, word);
}

static unsigned long mh_get(struct mh_test *mh, unsigned long addr,
			    unsigned long i)
{
	return kunit_mm_get_word(mh->km, addr, i);
}

static void mh_fill(struct mh_test *mh, unsigned long addr)
{
	unsigned long i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(mh->test, 0, mh_put(addr, i, mh_pattern(i)));
}

static void mh_expect_contents(struct mh_test *mh, unsigned long addr)
{
	unsigned long i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(mh->test, mh_get(mh, addr, i), mh_pattern(i));
}

static void mh_expect_zeroes(struct mh_test *mh, unsigned long addr)
{
	unsigned long i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(mh->test, mh_get(mh, addr, i), 0UL);
}

static pmd_t mh_pmd(struct mh_test *mh, unsigned long addr)
{
	return kunit_mm_pmd(mh->km, addr);
}

/* The folio that a PMD maps at @addr, or NULL */
static struct folio *mh_huge_folio(struct mh_test *mh, unsigned long addr)
{
	pmd_t pmd = mh_pmd(mh, addr);

	if (is_pmd_device_private_entry(pmd))
		return pmd_nonpresent_folio(pmd);
	return pmd_trans_huge(pmd) ? page_folio(pmd_page(pmd)) : NULL;
}

static bool mh_is_on_device(struct mh_test *mh, struct folio *folio)
{
	return folio && kunit_device_has(mh->dev, folio_pfn(folio));
}

/* A PMD maps a folio that is mapped once and has no other reference. */
static void mh_expect_huge(struct mh_test *mh, unsigned long addr,
			   bool on_device)
{
	struct folio *folio = mh_huge_folio(mh, addr);

	KUNIT_ASSERT_NOT_NULL(mh->test, folio);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(mh->test, on_device, mh_is_on_device(mh, folio));
	KUNIT_EXPECT_EQ(mh->test, folio_order(folio), HPAGE_PMD_ORDER);
	KUNIT_EXPECT_EQ(mh->test, folio_entire_mapcount(folio), 1);
	KUNIT_EXPECT_EQ(mh->test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_FALSE(mh->test, folio_test_locked(folio));
}

/* A huge page with a different word in each page */
static unsigned long mh_map(struct mh_test *mh)
{
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	mh_fill(mh, addr);
	if (!pmd_trans_huge(mh_pmd(mh, addr)))
		kunit_skip(mh->test, "no THP available");
	kunit_mm_flags(mh->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	return addr;
}

/* A huge page on the device */
static unsigned long mh_map_on_device(struct mh_test *mh)
{
	unsigned long addr = mh_map(mh);

	KUNIT_ASSERT_EQ(mh->test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_huge(mh, addr, true);
	return addr;
}

static long mh_anon_pages(struct mh_test *mh)
{
	return percpu_counter_sum(&mh->km->mm->rss_stat[MM_ANONPAGES]);
}

static void mh_zap(struct mh_test *mh, unsigned long addr)
{
	kunit_mm_zap(mh->km, addr, HPAGE_PMD_NR);
}

static void mh_expect_all_free(struct mh_test *mh)
{
	KUNIT_EXPECT_EQ(mh->test, mh_used(mh), 0UL);
}

/* ---- whole folios ---- */

static void huge_page_moves_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long i, addr = mh_map(mh);
	long anon = mh_anon_pages(mh);
	struct folio *folio = mh_huge_folio(mh, addr);
	unsigned long mpfn = migrate_pfn(folio_pfn(folio)) | MH_LARGE |
			     MIGRATE_PFN_WRITE;
	int turn;

	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh->args.cpages, 1UL);
	KUNIT_EXPECT_EQ(test, mh->args.npages, (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh->src[0] & mpfn, mpfn);
	for (i = 1; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(test, mh->src[i], 0UL);
	mh_copy(mh, &mh->args, mh->dev);
	KUNIT_EXPECT_EQ(test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);

	for (turn = 0; turn < 3; turn++) {
		mh_expect_huge(mh, addr, true);
		KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
				(unsigned long)HPAGE_PMD_NR);
		mh_expect_huge(mh, addr, false);
		mh_expect_all_free(mh);
		mh_expect_contents(mh, addr);
		KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
				(unsigned long)HPAGE_PMD_NR);
	}
	KUNIT_EXPECT_EQ(test, mh_anon_pages(mh), anon);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
	KUNIT_EXPECT_EQ(test, mh_anon_pages(mh), anon - HPAGE_PMD_NR);
}

static void driver_that_does_not_ask_gets_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long i, addr = mh_map_on_device(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, mh_select(mh, false));
	KUNIT_EXPECT_EQ(test, mh->args.cpages, (unsigned long)HPAGE_PMD_NR);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_EXPECT_FALSE(test, mh->src[i] & MIGRATE_PFN_COMPOUND);
	mh_copy(mh, &mh->args, NULL);
	KUNIT_EXPECT_EQ(test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static void part_of_folio_moves_alone(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	KUNIT_EXPECT_EQ(test, 7UL,
			mh_migrate(mh, addr + 30 * PAGE_SIZE, 7, false));
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 7UL);
	mh_to_system(mh, addr);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static void zapped_part_is_free_at_once(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long i, addr = mh_map_on_device(mh);

	kunit_mm_zap(mh->km, addr + 100 * PAGE_SIZE, 10);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 10UL);
	kunit_mm_zap(mh->km, addr, 1);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 11UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 0), 0UL);
	for (i = 110; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(test, mh_get(mh, addr, i), mh_pattern(i));
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void unmapped_part_is_free_at_once(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	KUNIT_EXPECT_EQ(test, vm_munmap(addr, HPAGE_PMD_SIZE / 2), 0);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR / 2UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, HPAGE_PMD_NR / 2),
			mh_pattern(HPAGE_PMD_NR / 2));
	kunit_mm_zap(mh->km, addr + HPAGE_PMD_SIZE / 2, HPAGE_PMD_NR / 2);
	mh_expect_all_free(mh);
}

/* The child has all of it. */
static void zapped_part_of_forked_folio_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *parent, *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	kunit_mm_zap(mh->km, addr, 9);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* The exit of a process looks for no large folios. */
static void part_is_free_when_the_child_exits(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	kunit_mm_zap(mh->km, addr, 9);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	kunit_mm_exit(mh->km, child);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 9UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 9), mh_pattern(9));
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* While there is another reference, the folio stays large. */
static void mh_zap_pinned(struct mh_test *mh, unsigned long addr,
			  unsigned long nr)
{
	struct folio *folio = mh_huge_folio(mh, ALIGN_DOWN(addr,
							   HPAGE_PMD_SIZE));

	folio_get(folio);
	kunit_mm_zap(mh->km, addr, nr);
	KUNIT_EXPECT_EQ(mh->test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	folio_put(folio);
}

static void zapped_part_is_free_and_the_rest_moves(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh_zap_pinned(mh, addr + 100 * PAGE_SIZE, 10);
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR - 10UL, mh_to_system(mh, addr));
	mh_expect_all_free(mh);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 99), mh_pattern(99));
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 100), 0UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 110), mh_pattern(110));
}

static void folio_zapped_during_migration_is_free(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, mh_select(mh, false) |
					 MIGRATE_VMA_SELECT_COMPOUND);
	mh_copy(mh, &mh->args, NULL);
	zap_page_range_single(mh->args.vma, addr, HPAGE_PMD_SIZE, NULL);
	mh_end(mh);
	mh_expect_all_free(mh);
	mh_expect_zeroes(mh, addr);
}

/* The OOM reaper zaps such a process, and must not wait for a notifier. */
static void zap_of_unstable_mm_splits_nothing(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	set_bit(MMF_UNSTABLE, &mh->km->mm->flags);
	kunit_mm_zap(mh->km, addr, 9);
	clear_bit(MMF_UNSTABLE, &mh->km->mm->flags);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 9), mh_pattern(9));
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void part_zapped_during_migration_stays_zapped(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, mh_select(mh, false) |
					 MIGRATE_VMA_SELECT_COMPOUND);
	mh_copy(mh, &mh->args, NULL);
	zap_page_range_single(mh->args.vma, addr, PAGE_SIZE, NULL);
	KUNIT_EXPECT_EQ(test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	mh_expect_all_free(mh);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 0), 0UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 1), mh_pattern(1));
}

static void mh_change_pmd(struct mh_test *mh, unsigned long addr,
			  pmd_t (*change)(pmd_t pmd))
{
	struct mm_struct *mm = mh->km->mm;
	pmd_t *pmdp = mm_find_pmd(mm, addr);
	spinlock_t *ptl;	/* of the PMD */

	KUNIT_ASSERT_NOT_NULL(mh->test, pmdp);
	ptl = pmd_lock(mm, pmdp);
	set_pmd_at(mm, addr, pmdp, change(*pmdp));
	spin_unlock(ptl);
}

static pmd_t mh_soft_clean(pmd_t pmd)
{
	return pmd_present(pmd) ? pmd_clear_soft_dirty(pmd) :
				  pmd_swp_clear_soft_dirty(pmd);
}

static pmd_t mh_old(pmd_t pmd)
{
	return pmd_mkold(pmd);
}

static void dirty_page_stays_soft_clean(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) || !migration_entry_supports_ad())
		kunit_skip(test, "no soft-dirty or dirty bit to keep");
	mh_change_pmd(mh, addr, mh_soft_clean);
	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	KUNIT_EXPECT_TRUE(test, pmd_dirty(mh_pmd(mh, addr)));
	KUNIT_EXPECT_FALSE(test, pmd_soft_dirty(mh_pmd(mh, addr)));
	mh_zap(mh, addr);
}

/* Nothing moves, and everything is as before. */
static void folio_without_destination_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	mh_expect_huge(mh, addr, false);
	mh_expect_contents(mh, addr);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_begin(mh, addr, HPAGE_PMD_NR, mh_select(mh, false) |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	mh_expect_huge(mh, addr, true);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void referenced_folio_stays_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct folio *folio = mh_huge_folio(mh, addr);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr), 0UL);
	folio_put(folio);
	mh_expect_huge(mh, addr, true);
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_contents(mh, addr);
	mh_expect_all_free(mh);
}

/* A write through the pin must reach the process. */
static void pinned_huge_page_stays_mapped(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);
	struct page *page;

	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(addr, 1, FOLL_WRITE,
						     &page));
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr), 0UL);
	KUNIT_EXPECT_TRUE(test, pmd_trans_huge(mh_pmd(mh, addr)));
	KUNIT_EXPECT_TRUE(test, pmd_write(mh_pmd(mh, addr)));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(page));
	mh_expect_all_free(mh);
	unpin_user_page(page);
	mh_expect_huge(mh, addr, false);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void locked_huge_page_stays_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);
	struct folio *folio = mh_huge_folio(mh, addr);

	folio_lock(folio);
	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh->args.cpages, 0UL);
	KUNIT_EXPECT_FALSE(test, mh->src[0] & MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	folio_unlock(folio);
	mh_expect_huge(mh, addr, false);
	mh_expect_contents(mh, addr);
}

/* ---- age ---- */

static void mh_make_old(struct mh_test *mh, unsigned long addr)
{
	lru_add_drain_all();
	kunit_mm_make_old(mh_huge_folio(mh, addr));
}

/* A device-private entry has no accessed bit. */
static void young_huge_page_makes_device_folio_young(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	mh_make_old(mh, addr);
	KUNIT_ASSERT_TRUE(test, pmd_young(mh_pmd(mh, addr)));
	mh_to_device(mh, addr);
	KUNIT_EXPECT_TRUE(test, kunit_mm_is_young(mh_huge_folio(mh, addr)));
	mh_zap(mh, addr);

	addr = mh_map(mh);
	mh_make_old(mh, addr);
	mh_change_pmd(mh, addr, mh_old);
	mh_to_device(mh, addr);
	KUNIT_EXPECT_FALSE(test, kunit_mm_is_young(mh_huge_folio(mh, addr)));
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- holes ---- */

/* Pages in front, two PMDs, pages behind */
static void hole_has_one_entry_a_pmd(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long base = kunit_mm_map_huge(mh->km, 4 * HPAGE_PMD_NR);
	unsigned long addr = base + HPAGE_PMD_SIZE - 2 * PAGE_SIZE;
	long anon = mh_anon_pages(mh);
	unsigned long i;

	mh_begin(mh, addr, 2 * HPAGE_PMD_NR + 5, MIGRATE_VMA_SELECT_SYSTEM |
						 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, mh->args.cpages, 7UL);
	KUNIT_EXPECT_EQ(test, mh->src[1], MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, mh->src[2], MH_LARGE);
	KUNIT_EXPECT_EQ(test, mh->src[3], 0UL);
	KUNIT_EXPECT_EQ(test, mh->src[2 + HPAGE_PMD_NR], MH_LARGE);
	KUNIT_EXPECT_EQ(test, mh->src[2 + 2 * HPAGE_PMD_NR],
			MIGRATE_PFN_MIGRATE);
	mh_copy(mh, &mh->args, mh->dev);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 2UL * HPAGE_PMD_NR + 5);
	for (i = 1; i < 3; i++)
		mh_expect_huge(mh, base + i * HPAGE_PMD_SIZE, true);
	KUNIT_EXPECT_EQ(test, mh_anon_pages(mh) - anon,
			2L * HPAGE_PMD_NR + 5);
	for (i = 0; i < 4; i++)
		mh_expect_zeroes(mh, base + i * HPAGE_PMD_SIZE);
	kunit_mm_zap(mh->km, base, 4 * HPAGE_PMD_NR);
	mh_expect_all_free(mh);
}

static unsigned long mh_map_zero(struct mh_test *mh)
{
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	kunit_mm_read(mh->km, addr, 1);
	if (!is_huge_zero_pmd(mh_pmd(mh, addr)))
		kunit_skip(mh->test, "no huge zero page available");
	return addr;
}

static void huge_zero_page_is_replaced_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_zero(mh);
	unsigned long tables = mm_pgtables_bytes(mh->km->mm);

	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_huge(mh, addr, true);
	KUNIT_EXPECT_EQ(test, mm_pgtables_bytes(mh->km->mm), tables);
	mh_expect_zeroes(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void huge_zero_page_is_replaced_by_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_zero(mh);

	mh->every = 2;
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr), HPAGE_PMD_NR / 2UL);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR / 2UL);
	mh_expect_zeroes(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void large_hole_is_filled_by_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	mh->every = 3;
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			DIV_ROUND_UP(HPAGE_PMD_NR, 3UL));
	mh_expect_zeroes(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static int mh_write_new(struct kunit_mm_thread *thread)
{
	return mh_put(thread->addr, 0, MH_NEW);
}

/* A page that was mapped since setup is not overwritten. */
static void large_hole_that_was_filled_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);
	struct kunit_mm_thread thread = {};

	kunit_mm_flags(mh->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	mh_copy(mh, &mh->args, mh->dev);
	kunit_mm_thread_start(&thread, mh->km, addr + 5 * PAGE_SIZE,
			      mh_write_new);
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(test, thread.ret, 0);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	mh_expect_all_free(mh);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 5), MH_NEW);
}

/* Missing pages are left to userfaultfd. */
static void large_hole_of_userfaultfd_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	kunit_mm_flags(mh->km, addr, VM_UFFD_MISSING, 0);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr), 0UL);
	kunit_mm_flags(mh->km, addr, 0, VM_UFFD_MISSING);
	KUNIT_EXPECT_TRUE(test, pmd_none(mh_pmd(mh, addr)));
	mh_expect_all_free(mh);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* The OOM reaper may have freed the memory that is a hole now. */
static void large_hole_of_unstable_mm_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	set_bit(MMF_UNSTABLE, &mh->km->mm->flags);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr), 0UL);
	clear_bit(MMF_UNSTABLE, &mh->km->mm->flags);
	KUNIT_EXPECT_TRUE(test, pmd_none(mh_pmd(mh, addr)));
	mh_expect_all_free(mh);
}

/* A write to it is an event of userfaultfd, and a new folio would hide it. */
static void protected_huge_zero_page_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_zero(mh);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "userfaultfd does not write-protect here");
	kunit_mm_uffd_wp(mh->km, addr, HPAGE_PMD_NR, true);
	KUNIT_ASSERT_TRUE(test, pmd_uffd_wp(mh_pmd(mh, addr)));
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr), 0UL);
	mh_expect_all_free(mh);
	KUNIT_EXPECT_TRUE(test, is_huge_zero_pmd(mh_pmd(mh, addr)));
	KUNIT_EXPECT_TRUE(test, pmd_uffd_wp(mh_pmd(mh, addr)));
	mh_expect_zeroes(mh, addr);
}

/* ---- destinations that do not fit ---- */

static void huge_page_moves_to_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	mh->every = 1;
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

/* They are no holes, whatever they contain. */
static void huge_page_of_zeroes_moves_in_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);

	KUNIT_ASSERT_EQ(test, mh_put(addr, 0, 0), 0);
	if (!pmd_trans_huge(mh_pmd(mh, addr)))
		kunit_skip(test, "no THP available");
	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM);
	KUNIT_EXPECT_EQ(test, mh->args.cpages, (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, mh->src[7] & MIGRATE_PFN_VALID);
	mh_copy(mh, &mh->args, mh->dev);
	KUNIT_EXPECT_EQ(test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	mh_expect_zeroes(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void some_pages_of_huge_page_move(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);
	long anon = mh_anon_pages(mh);

	mh->every = 3;
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			DIV_ROUND_UP(HPAGE_PMD_NR, 3UL));
	KUNIT_EXPECT_EQ(test, mh_used(mh), DIV_ROUND_UP(HPAGE_PMD_NR, 3UL));
	KUNIT_EXPECT_EQ(test, mh_anon_pages(mh), anon);
	mh->every = 1;
	mh_to_system(mh, addr);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static void folio_returns_in_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh->every = 5;
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
			DIV_ROUND_UP(HPAGE_PMD_NR, 5UL));
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR -
					   DIV_ROUND_UP(HPAGE_PMD_NR, 5UL));
	mh->every = 1;
	mh_to_system(mh, addr);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

/* The other process has a migration entry of the size of a PMD, too. */
static void expect_split_with_child(struct mh_test *mh, unsigned long addr,
				    bool to_device)
{
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(mh->test, 0, kunit_mm_fork(mh->km, addr, &child));
	mh->every = 2;
	KUNIT_EXPECT_EQ(mh->test,
			mh_migrate(mh, addr, HPAGE_PMD_NR, to_device),
			HPAGE_PMD_NR / 2UL);
	mh->every = 1;
	KUNIT_EXPECT_EQ(mh->test, mh_put(addr, 3, MH_NEW), 0);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
	KUNIT_EXPECT_EQ(mh->test, mh_get(mh, addr, 3), MH_NEW);
	KUNIT_EXPECT_EQ(mh->test, mh_put(addr, 3, mh_pattern(3)), 0);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void forked_huge_page_moves_to_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;

	expect_split_with_child(mh, mh_map(mh), true);
}

static void forked_folio_returns_in_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;

	expect_split_with_child(mh, mh_map_on_device(mh), false);
}

static void forked_folio_moves_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);
	struct mm_struct *child, *parent;
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	folio = mh_huge_folio(mh, addr);
	KUNIT_ASSERT_TRUE(test, mh_is_on_device(mh, folio));
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 2);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2);
	parent = kunit_mm_enter(mh->km, child);
	KUNIT_EXPECT_PTR_EQ(test, mh_huge_folio(mh, addr), folio);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void folio_that_child_maps_by_ptes_moves_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	parent = kunit_mm_enter(mh->km, child);
	kunit_mm_split_pmd(mh->km, addr);
	kunit_mm_enter(mh->km, parent);
	KUNIT_EXPECT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test,
			  mh_is_on_device(mh, mh_huge_folio(mh, addr)));
	KUNIT_EXPECT_EQ(test, folio_mapcount(mh_huge_folio(mh, addr)),
			HPAGE_PMD_NR + 1);
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
	kunit_mm_enter(mh->km, child);
	KUNIT_EXPECT_FALSE(test, pmd_leaf(mh_pmd(mh, addr)));
	mh_expect_contents(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
}

/* A page has no entry with the flag, so a large folio is put back. */
static void large_destination_of_a_page_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map(mh->km, 3, PROT_READ | PROT_WRITE);
	unsigned long i;

	for (i = 0; i < 2; i++)
		KUNIT_ASSERT_EQ(test, mh_put(addr, i, mh_pattern(i)), 0);
	mh_begin(mh, addr, 3, MIGRATE_VMA_SELECT_SYSTEM |
			      MIGRATE_VMA_SELECT_COMPOUND);
	mh->dst[0] = mh_copy_one(mh->dev, NULL, HPAGE_PMD_ORDER);
	mh->dst[1] = mh_copy_one(mh->dev, migrate_pfn_to_page(mh->src[1]), 0);
	mh->dst[2] = mh_copy_one(mh->dev, NULL, HPAGE_PMD_ORDER);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 1UL);
	KUNIT_EXPECT_EQ(test, mh_used(mh), 1UL);
	for (i = 0; i < 2; i++)
		KUNIT_EXPECT_EQ(test, mh_get(mh, addr, i), mh_pattern(i));
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 2), 0UL);
	kunit_mm_zap(mh->km, addr, 3);
	mh_expect_all_free(mh);
}

/* Of another order, and more than one */
static void wrong_destination_of_a_folio_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	mh->dst[0] = mh_copy_one(mh->dev, NULL, 4);
	KUNIT_EXPECT_EQ(test, mh_end(mh), 0UL);
	mh_expect_huge(mh, addr, false);
	mh_expect_all_free(mh);

	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	mh_copy(mh, &mh->args, mh->dev);
	mh->dst[1] = mh_copy_one(mh->dev, NULL, 0);
	mh->dst[HPAGE_PMD_NR - 1] = mh_copy_one(mh->dev, NULL, 0);
	KUNIT_EXPECT_EQ(test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	mh_expect_huge(mh, addr, true);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- splits that fail ---- */

/* As a lookup by pfn would do after the first of the two steps of a split. */
static void mh_reference_extra(struct folio *folio)
{
	struct mh_test *mh = kunit_get_current_test()->priv;

	kunit_deactivate_static_stub(mh->test, migrate_split_mappings);
	migrate_split_mappings(folio);
	folio_get(folio);
	mh->extra = folio;
}

/* The next split fails. */
static void mh_fail_split(struct mh_test *mh)
{
	kunit_activate_static_stub(mh->test, migrate_split_mappings,
				   mh_reference_extra);
}

static void mh_put_extra(struct mh_test *mh)
{
	KUNIT_ASSERT_NOT_NULL(mh->test, mh->extra);
	KUNIT_EXPECT_EQ(mh->test, folio_order(mh->extra), HPAGE_PMD_ORDER);
	folio_put(mh->extra);
	mh->extra = NULL;
}

/* The first of two folios stays, and the second moves in pages. */
static void mh_expect_second_moves(struct mh_test *mh, unsigned long addr,
				   bool to_device)
{
	unsigned long i;

	mh_fail_split(mh);
	mh_begin(mh, addr, 2 * HPAGE_PMD_NR, mh_select(mh, to_device));
	KUNIT_EXPECT_EQ(mh->test, mh->args.cpages,
			(unsigned long)HPAGE_PMD_NR);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_ASSERT_EQ(mh->test, mh->src[i], 0UL);
	mh_copy(mh, &mh->args, to_device ? mh->dev : NULL);
	KUNIT_EXPECT_EQ(mh->test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(mh->test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_FALSE(mh->test, pmd_leaf(mh_pmd(mh, addr)));
	mh_put_extra(mh);
}

static unsigned long mh_map_two(struct mh_test *mh)
{
	unsigned long addr = kunit_mm_map_huge(mh->km, 2 * HPAGE_PMD_NR);

	mh_fill(mh, addr);
	mh_fill(mh, addr + HPAGE_PMD_SIZE);
	if (!pmd_trans_huge(mh_pmd(mh, addr)) ||
	    !pmd_trans_huge(mh_pmd(mh, addr + HPAGE_PMD_SIZE)))
		kunit_skip(mh->test, "no THP available");
	kunit_mm_flags(mh->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	return addr;
}

static void mh_end_two(struct mh_test *mh, unsigned long addr)
{
	mh->every = 1;
	mh_migrate(mh, addr, 2 * HPAGE_PMD_NR, false);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
	mh_expect_contents(mh, addr + HPAGE_PMD_SIZE);
}

static void huge_page_that_is_not_split_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_two(mh);

	mh_expect_second_moves(mh, addr, true);
	mh_end_two(mh, addr);
}

static void forked_huge_page_that_is_not_split_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_two(mh);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	mh_expect_second_moves(mh, addr, true);
	mh_end_two(mh, addr);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	mh_expect_contents(mh, addr + HPAGE_PMD_SIZE);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
}

static void folio_that_is_not_split_stays(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_two(mh);

	KUNIT_EXPECT_EQ(test, mh_migrate(mh, addr, 2 * HPAGE_PMD_NR, true),
			2UL * HPAGE_PMD_NR);
	mh_expect_second_moves(mh, addr, false);
	mh_end_two(mh, addr);
}

/* ---- eviction ---- */

static void mh_evict(struct mh_test *mh, unsigned long pfn, unsigned long nr)
{
	struct migrate_vma args = {
		.src = mh->src,
		.dst = mh->dst,
		.npages = nr,
	};

	memset_l(mh->dst, 0, MH_ENTRIES);
	migrate_device_range(mh->src, pfn, nr);
	mh_copy(mh, &args, NULL);
	migrate_device_pages(mh->src, mh->dst, nr);
	migrate_device_finalize(mh->src, mh->dst, nr);
}

static void folio_is_evicted_whole(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	mh_expect_all_free(mh);
	mh_expect_huge(mh, addr, false);
	mh_expect_contents(mh, addr);
}

static void folio_is_evicted_by_pfns(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	unsigned long i, pfn = folio_pfn(mh_huge_folio(mh, addr));
	struct migrate_vma args = {
		.src = mh->src,
		.dst = mh->dst,
		.npages = HPAGE_PMD_NR + 1,
	};

	/* a page of the device that is free, then the folio */
	mh->src[0] = pfn + HPAGE_PMD_NR;
	for (i = 0; i < HPAGE_PMD_NR; i++)
		mh->src[i + 1] = pfn + i;
	memset_l(mh->dst, 0, MH_ENTRIES);
	migrate_device_pfns(mh->src, HPAGE_PMD_NR + 1);
	KUNIT_EXPECT_EQ(test, mh->src[0], 0UL);
	KUNIT_EXPECT_EQ(test, mh->src[1] & MH_LARGE, MH_LARGE);
	mh_copy(mh, &args, NULL);
	migrate_device_pages(mh->src, mh->dst, args.npages);
	migrate_device_finalize(mh->src, mh->dst, args.npages);
	mh_expect_all_free(mh);
	mh_expect_huge(mh, addr, false);
	mh_expect_contents(mh, addr);
}

static void folio_is_evicted_in_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh->every = 4;
	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - HPAGE_PMD_NR / 4UL);
	mh->every = 1;
	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static void forked_folio_is_evicted_in_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	mh->every = 1;
	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
}

/* The range begins and ends within the folio. */
static void part_of_folio_is_evicted(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	unsigned long pfn = folio_pfn(mh_huge_folio(mh, addr));

	mh_evict(mh, pfn + 10, 20);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 20UL);
	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

/* The shrinker frees its unmapped pages when memory is short. */
static void partly_unmapped_folio_is_queued_for_splitting(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct folio *folio;

	mh_zap_pinned(mh, addr + 100 * PAGE_SIZE, 10);
	mh_evict(mh, mh->dev->first, MH_ENTRIES);
	mh_expect_all_free(mh);
	folio = page_folio(pte_page(kunit_mm_pte(mh->km, addr)));
	KUNIT_EXPECT_EQ(test, folio_order(folio), HPAGE_PMD_ORDER);
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 99), mh_pattern(99));
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 100), 0UL);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 110), mh_pattern(110));
	mh_zap(mh, addr);
}

static void folio_without_memory_stays_on_device(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	memset_l(mh->dst, 0, MH_ENTRIES);
	migrate_device_range(mh->src, mh->dev->first, MH_ENTRIES);
	migrate_device_pages(mh->src, mh->dst, MH_ENTRIES);
	migrate_device_finalize(mh->src, mh->dst, MH_ENTRIES);
	mh_expect_huge(mh, addr, true);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- faults ---- */

static void fault_brings_back_the_folio(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 77), mh_pattern(77));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	mh_expect_huge(mh, addr, false);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
}

/* The fault has a reference, which must not keep the folio from a split. */
static void fault_brings_back_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh->every = 1;
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 77), mh_pattern(77));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static vm_fault_t mh_serve_fault_and_put(struct kunit_device *dev,
					 struct vm_fault *vmf)
{
	struct mh_test *mh = dev->test->priv;
	vm_fault_t ret = mh_serve_fault(dev, vmf);

	if (mh->extra)
		mh_put_extra(mh);
	return ret;
}

/* The fault has its reference and the lock back, and PTEs map the folio. */
static void fault_whose_split_fails_is_repeated(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh->every = 1;
	mh->dev->serve_fault = mh_serve_fault_and_put;
	mh_fail_split(mh);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 77), mh_pattern(77));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 2);
	KUNIT_EXPECT_EQ(test, mh->served, 1);
	mh_expect_contents(mh, addr);
	mh_expect_all_free(mh);
}

/* The page of the access stays in the first fault, and moves in the second. */
static void fault_brings_back_some_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh->every = 2;
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 77), mh_pattern(77));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 2);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR / 2UL - 1);
	mh_expect_contents(mh, addr);
	mh_expect_all_free(mh);
}

static void fault_of_forked_folio_brings_back_pages(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	mh->every = 1;
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 500), mh_pattern(500));
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
}

/* A part is unmapped: the fault is on a PTE, and the folio is large. */
static void fault_on_pte_of_folio_brings_back_the_page(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	mh_zap_pinned(mh, addr, 1);
	KUNIT_EXPECT_EQ(test, mh_get(mh, addr, 9), mh_pattern(9));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	KUNIT_EXPECT_EQ(test, mh_used(mh), HPAGE_PMD_NR - 2UL);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static int mh_read_after_arrival(struct kunit_mm_thread *thread)
{
	struct mh_test *mh = thread->km->test->priv;

	atomic_inc(&mh->arrived);
	return kunit_mm_try_read(thread->addr);
}

static void mh_wait_for_faulters(struct kunit_device *dev, struct page *page)
{
	struct mh_test *mh = dev->test->priv;
	unsigned long end = jiffies + 60 * HZ;

	while (atomic_read(&mh->arrived) < MH_FAULTERS &&
	       time_before(jiffies, end))
		usleep_range(500, 1000);
	msleep(50);
	/* of the mapping and of the fault: threads that wait have none */
	KUNIT_EXPECT_EQ(mh->test, folio_ref_count(page_folio(page)), 2);
}

static void mh_expect_one_fault(struct mh_test *mh, unsigned long every)
{
	unsigned long addr = mh_map_on_device(mh);
	struct kunit_mm_thread threads[MH_FAULTERS] = {};
	int i;

	mh->every = every;
	mh->dev->on_fault = mh_wait_for_faulters;
	for (i = 0; i < MH_FAULTERS; i++)
		kunit_mm_thread_start(&threads[i], mh->km,
				      addr + i * 100 * PAGE_SIZE,
				      mh_read_after_arrival);
	for (i = 0; i < MH_FAULTERS; i++) {
		kunit_mm_thread_end(&threads[i]);
		KUNIT_EXPECT_EQ(mh->test, 0, threads[i].ret);
	}
	KUNIT_EXPECT_EQ(mh->test, mh->dev->faults, 1);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

static void one_of_many_faults_calls_the_driver(struct kunit *test)
{
	mh_expect_one_fault(test->priv, 0);
}

static void one_of_many_faults_brings_back_pages(struct kunit *test)
{
	mh_expect_one_fault(test->priv, 1);
}

/* The folio is in system memory then, and one PTE is exclusive. */
static void exclusive_access_brings_back_the_folio(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct folio *folio;
	struct page *page;

	mmap_read_lock(mh->km->mm);
	page = make_device_exclusive(mh->km->mm, addr + PAGE_SIZE, mh->dev,
				     &folio);
	mmap_read_unlock(mh->km->mm);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	mh_expect_all_free(mh);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);
	KUNIT_EXPECT_FALSE(test, folio_is_zone_device(folio));
	folio_unlock(folio);
	folio_put(folio);
	mh_expect_contents(mh, addr);
}

/* ---- poison ---- */

static void mh_expect_no_poison(struct mh_test *mh, unsigned long pfn)
{
	KUNIT_EXPECT_EQ(mh->test, memory_failure(pfn, MF_SW_SIMULATED), -ENXIO);
	KUNIT_EXPECT_FALSE(mh->test, PageHWPoison(pfn_to_page(pfn)));
}

/* The device handles errors of its memory, in use and free. */
static void memory_failure_is_refused(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr, pfn;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "no memory_failure() in this kernel");
	addr = mh_map_on_device(mh);
	pfn = folio_pfn(mh_huge_folio(mh, addr));
	mh_expect_no_poison(mh, pfn);
	mh_expect_no_poison(mh, pfn + HPAGE_PMD_NR - 1);
	mh_expect_huge(mh, addr, true);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
	mh_expect_no_poison(mh, pfn);
}

/* ---- splits ---- */

/* The device may write to pages that are zero now. */
static void zero_pages_stay_on_the_device(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = kunit_mm_map_huge(mh->km, HPAGE_PMD_NR);
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, mh_to_device(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	folio = mh_huge_folio(mh, addr);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_get(folio);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, split_folio(folio), 0);
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_EXPECT_EQ(test, mh_used(mh), (unsigned long)HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, mh_to_system(mh, addr),
			(unsigned long)HPAGE_PMD_NR);
	mh_expect_zeroes(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- pins ---- */

/* A long-term pin of coherent memory moves it to the system first. */
static void pin_of_pages_moves_the_folio(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct page *pages[4];
	long nr;

	mmap_read_lock(mh->km->mm);
	nr = pin_user_pages_remote(mh->km->mm, addr + 5 * PAGE_SIZE,
				   ARRAY_SIZE(pages),
				   FOLL_WRITE | FOLL_LONGTERM, pages, NULL);
	mmap_read_unlock(mh->km->mm);
	KUNIT_EXPECT_EQ(test, nr, (long)ARRAY_SIZE(pages));
	if (nr > 0)
		unpin_user_pages(pages, nr);
	mh_expect_all_free(mh);
	mh_expect_huge(mh, addr, false);
	mh_expect_contents(mh, addr);
}

/* ---- mirrors ---- */

static bool mh_invalidate(struct mmu_interval_notifier *sub,
			  const struct mmu_notifier_range *range,
			  unsigned long seq)
{
	mmu_interval_set_seq(sub, seq);
	return true;
}

static const struct mmu_interval_notifier_ops mh_notifier_ops = {
	.invalidate = mh_invalidate,
};

/* hmm_range_fault() for @nr pages, into @mh->pfns */
static int mh_mirror(struct mh_test *mh, unsigned long addr, unsigned long nr,
		     unsigned long request, void *owner)
{
	struct mmu_interval_notifier sub = {};
	struct hmm_range range = {
		.notifier = &sub,
		.start = addr,
		.end = addr + nr * PAGE_SIZE,
		.hmm_pfns = mh->pfns,
		.default_flags = request,
		.dev_private_owner = owner,
	};
	int ret, tries = 3;

	memset_l(mh->pfns, 0, HPAGE_PMD_NR);
	ret = mmu_interval_notifier_insert(&sub, mh->km->mm, addr,
					   nr * PAGE_SIZE, &mh_notifier_ops);
	if (ret)
		return ret;
	do {
		range.notifier_seq = mmu_interval_read_begin(&sub);
		mmap_read_lock(mh->km->mm);
		ret = hmm_range_fault(&range);
		mmap_read_unlock(mh->km->mm);
	} while (ret == -EBUSY && --tries);
	mmu_interval_notifier_remove(&sub);
	return ret;
}

/* The device is going to write to all pages of the folio at @addr. */
static int mh_mirror_for_write(struct mh_test *mh, unsigned long addr)
{
	return mh_mirror(mh, addr, HPAGE_PMD_NR,
			 HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE, mh->dev);
}

/* Read-only for the process and mapped once, as after a child has exited */
static unsigned long mh_map_shared_once(struct mh_test *mh)
{
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(mh->test, 0, kunit_mm_fork(mh->km, addr, &child));
	kunit_mm_exit(mh->km, child);
	return addr;
}

static void mh_expect_mirrored(struct mh_test *mh, unsigned long addr,
			       unsigned long first, unsigned long nr,
			       unsigned long flags)
{
	unsigned long i, pfn = folio_pfn(mh_huge_folio(mh, addr)) + first;

	flags |= HMM_PFN_VALID |
		 (unsigned long)HPAGE_PMD_ORDER << HMM_PFN_ORDER_SHIFT;
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(mh->test, mh->pfns[i], (pfn + i) | flags);
}

static void own_folio_is_reported_with_its_order(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, HPAGE_PMD_NR,
					   HMM_PFN_REQ_FAULT, mh->dev));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, HMM_PFN_WRITE);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr + 100 * PAGE_SIZE, 7, 0,
					   mh->dev));
	mh_expect_mirrored(mh, addr, 100, 7, HMM_PFN_WRITE);
	mh_expect_huge(mh, addr, true);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 0);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void folio_of_another_device_is_faulted(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, HPAGE_PMD_NR, 0, NULL));
	KUNIT_EXPECT_EQ(test, mh->pfns[3], 0UL);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, HPAGE_PMD_NR,
					   HMM_PFN_REQ_FAULT, NULL));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, HMM_PFN_WRITE);
	mh_expect_all_free(mh);
	mh_expect_contents(mh, addr);
}

/* After fork() and exit of the child, the folio is exclusive again. */
static void own_read_only_folio_becomes_writable(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_shared_once(mh);

	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, HPAGE_PMD_NR, 0,
					   mh->dev));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror_for_write(mh, addr));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, HMM_PFN_WRITE);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 0);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static vm_fault_t mh_keep(struct kunit_device *dev, struct vm_fault *vmf)
{
	return 0;
}

/* One fault for all pages, and a result for each of them */
static void own_folio_that_stays_is_read_only(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	mh->dev->serve_fault = mh_keep;
	KUNIT_EXPECT_EQ(test, 0, mh_mirror_for_write(mh, addr));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	kunit_mm_exit(mh->km, child);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* An attempt to migrate it would invalidate the range each time. */
static void own_pinned_folio_is_read_only(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_shared_once(mh);
	struct folio *folio = mh_huge_folio(mh, addr);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror_for_write(mh, addr));
	folio_put(folio);
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 0);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* The lock may be held by a CPU fault that waits for the driver. */
static void own_locked_folio_returns_ebusy(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct folio *folio = mh_huge_folio(mh, addr);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, -EBUSY, mh_mirror_for_write(mh, addr));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 0);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2);
	kunit_mm_exit(mh->km, child);
	mh_expect_huge(mh, addr, true);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* Nothing else records writes of the device. */
static void own_soft_clean_folio_is_read_only(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	addr = mh_map_on_device(mh);
	mh_change_pmd(mh, addr, mh_soft_clean);
	kunit_mm_flags(mh->km, addr, 0, VM_SOFTDIRTY);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, HPAGE_PMD_NR,
					   HMM_PFN_REQ_FAULT, mh->dev));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_FALSE(test, pmd_swp_soft_dirty(mh_pmd(mh, addr)));
	KUNIT_EXPECT_EQ(test, 0, mh_mirror_for_write(mh, addr));
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, HMM_PFN_WRITE);
	KUNIT_EXPECT_TRUE(test, pmd_swp_soft_dirty(mh_pmd(mh, addr)));
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 0);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* The fault tells userfaultfd. Here, the driver leaves the folio in place. */
static void own_watched_folio_is_faulted(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "userfaultfd does not write-protect here");
	addr = mh_map_on_device(mh);
	mh->dev->serve_fault = mh_keep;
	kunit_mm_uffd_wp(mh->km, addr, HPAGE_PMD_NR, true);
	kunit_mm_flags(mh->km, addr, VM_UFFD_WP, 0);
	KUNIT_EXPECT_EQ(test, 0, mh_mirror_for_write(mh, addr));
	kunit_mm_flags(mh->km, addr, 0, VM_UFFD_WP);
	mh_expect_mirrored(mh, addr, 0, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, mh->dev->faults, 1);
	KUNIT_EXPECT_TRUE(test, pmd_swp_uffd_wp(mh_pmd(mh, addr)));
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void own_shared_folio_is_copied(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(mh->km, addr, &child));
	KUNIT_EXPECT_EQ(test, 0, mh_mirror(mh, addr, 3,
					   HMM_PFN_REQ_FAULT |
					   HMM_PFN_REQ_WRITE, mh->dev));
	KUNIT_EXPECT_EQ(test, mh->pfns[2] & HMM_PFN_WRITE, HMM_PFN_WRITE);
	KUNIT_EXPECT_EQ(test, mh_put(addr, 0, MH_NEW), 0);
	parent = kunit_mm_enter(mh->km, child);
	mh_expect_contents(mh, addr);
	kunit_mm_enter(mh->km, parent);
	kunit_mm_exit(mh->km, child);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- balancing and advice ---- */

static void no_numa_hints(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);

	kunit_mm_hint(mh->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_FALSE(test, pmd_protnone(mh_pmd(mh, addr)));
	mh_expect_huge(mh, addr, true);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* Move a hinted huge page; @flags are those of its entry. */
static void mh_move_hinted(struct mh_test *mh, unsigned long addr,
			   unsigned long flags)
{
	KUNIT_ASSERT_TRUE(mh->test, pmd_protnone(mh_pmd(mh, addr)));
	mh_begin(mh, addr, HPAGE_PMD_NR, MIGRATE_VMA_SELECT_SYSTEM |
					 MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(mh->test,
			mh->src[0] & (MH_LARGE | MIGRATE_PFN_WRITE), flags);
	mh_copy(mh, &mh->args, mh->dev);
	KUNIT_EXPECT_EQ(mh->test, mh_end(mh), (unsigned long)HPAGE_PMD_NR);
}

static void hinted_page_keeps_write_permission(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	kunit_mm_hint(mh->km, addr, HPAGE_PMD_NR);
	mh_move_hinted(mh, addr, MH_LARGE | MIGRATE_PFN_WRITE);
	mh_expect_huge(mh, addr, true);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void hinted_read_only_page_stays_read_only(struct kunit *test)
{
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map(mh);

	kunit_mm_hint(mh->km, addr, HPAGE_PMD_NR);
	kunit_mm_flags(mh->km, addr, 0, VM_WRITE);
	mh_move_hinted(mh, addr, MH_LARGE);
	KUNIT_EXPECT_NE(test, mh_put(addr, 0, MH_NEW), 0);
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

static void advice_leaves_the_folio_whole(struct kunit *test)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_FREE };
	struct mh_test *mh = test->priv;
	unsigned long addr = mh_map_on_device(mh);
	int i;

	for (i = 0; i < ARRAY_SIZE(advice); i++) {
		KUNIT_EXPECT_EQ(test, 0,
				do_madvise(mh->km->mm, addr + PAGE_SIZE,
					   5 * PAGE_SIZE, advice[i]));
		mh_expect_huge(mh, addr, true);
	}
	KUNIT_EXPECT_EQ(test, 0, do_madvise(mh->km->mm, addr, HPAGE_PMD_SIZE,
					    MADV_FREE));
	mh_expect_huge(mh, addr, true);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(mh_huge_folio(mh, addr)));
	mh_expect_contents(mh, addr);
	mh_zap(mh, addr);
	mh_expect_all_free(mh);
}

/* ---- suites ---- */

/* The order of a PMD is not a constant everywhere. */
static unsigned long *mh_alloc_entries(struct kunit *test, unsigned long nr)
{
	unsigned long *entries = kunit_kcalloc(test, nr, sizeof(*entries),
					       GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, entries);
	return entries;
}

static struct mh_test *mh_alloc(struct kunit *test)
{
	struct mh_test *mh = kunit_kzalloc(test, sizeof(*mh), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, mh);
	mh->test = test;
	mh->src = mh_alloc_entries(test, MH_ENTRIES);
	mh->dst = mh_alloc_entries(test, MH_ENTRIES);
	mh->pfns = mh_alloc_entries(test, HPAGE_PMD_NR);
	test->priv = mh;
	return mh;
}

static int mh_init(struct kunit *test)
{
	struct mh_test *mh = mh_alloc(test);
	unsigned long size = MH_FOLIOS * HPAGE_PMD_SIZE;
	phys_addr_t start = kunit_device_region(test, size + HPAGE_PMD_SIZE);

	mh->dev = kunit_device_create(test, ALIGN(start, HPAGE_PMD_SIZE), size);
	mh->dev->serve_fault = mh_serve_fault;
	mh->km = kunit_mm_create(test);
	return 0;
}

static int mh_init_coherent(struct kunit *test)
{
	struct mh_test *mh = mh_alloc(test);

	mh->dev = kunit_device_create_coherent(test,
					       MH_FOLIOS * HPAGE_PMD_SIZE);
	mh->km = kunit_mm_create(test);
	return 0;
}

#define MH_COMMON_CASES							\
	KUNIT_CASE(huge_page_moves_whole),				\
	KUNIT_CASE(driver_that_does_not_ask_gets_pages),		\
	KUNIT_CASE(part_of_folio_moves_alone),				\
	KUNIT_CASE(zapped_part_is_free_at_once),			\
	KUNIT_CASE(unmapped_part_is_free_at_once),			\
	KUNIT_CASE(zapped_part_of_forked_folio_stays),			\
	KUNIT_CASE(part_is_free_when_the_child_exits),				\
	KUNIT_CASE(zapped_part_is_free_and_the_rest_moves),		\
	KUNIT_CASE(folio_zapped_during_migration_is_free),		\
	KUNIT_CASE(zap_of_unstable_mm_splits_nothing),			\
	KUNIT_CASE(part_zapped_during_migration_stays_zapped),		\
	KUNIT_CASE(dirty_page_stays_soft_clean),			\
	KUNIT_CASE(folio_without_destination_stays),			\
	KUNIT_CASE(referenced_folio_stays_whole),			\
	KUNIT_CASE(pinned_huge_page_stays_mapped),			\
	KUNIT_CASE(locked_huge_page_stays_whole),			\
	KUNIT_CASE(hole_has_one_entry_a_pmd),			\
	KUNIT_CASE(huge_zero_page_is_replaced_whole),			\
	KUNIT_CASE(huge_zero_page_is_replaced_by_pages),		\
	KUNIT_CASE(large_hole_is_filled_by_pages),			\
	KUNIT_CASE(large_hole_that_was_filled_is_refused),		\
	KUNIT_CASE(large_hole_of_userfaultfd_is_refused),		\
	KUNIT_CASE(large_hole_of_unstable_mm_is_refused),		\
	KUNIT_CASE(protected_huge_zero_page_stays),			\
	KUNIT_CASE(huge_page_moves_to_pages),				\
	KUNIT_CASE(huge_page_of_zeroes_moves_in_pages),			\
	KUNIT_CASE(some_pages_of_huge_page_move),			\
	KUNIT_CASE(folio_returns_in_pages),				\
	KUNIT_CASE(forked_huge_page_moves_to_pages),			\
	KUNIT_CASE(forked_folio_returns_in_pages),			\
	KUNIT_CASE(forked_folio_moves_whole),				\
	KUNIT_CASE(folio_that_child_maps_by_ptes_moves_whole),		\
	KUNIT_CASE(large_destination_of_a_page_is_refused),		\
	KUNIT_CASE(wrong_destination_of_a_folio_is_refused),		\
	KUNIT_CASE(huge_page_that_is_not_split_stays),			\
	KUNIT_CASE(forked_huge_page_that_is_not_split_stays),		\
	KUNIT_CASE(folio_that_is_not_split_stays),			\
	KUNIT_CASE(folio_is_evicted_whole),				\
	KUNIT_CASE(folio_is_evicted_by_pfns),				\
	KUNIT_CASE(folio_is_evicted_in_pages),				\
	KUNIT_CASE(forked_folio_is_evicted_in_pages),			\
	KUNIT_CASE(part_of_folio_is_evicted),				\
	KUNIT_CASE(partly_unmapped_folio_is_queued_for_splitting),	\
	KUNIT_CASE(folio_without_memory_stays_on_device),		\
	KUNIT_CASE(memory_failure_is_refused),				\
	KUNIT_CASE(hinted_page_keeps_write_permission),			\
	KUNIT_CASE(hinted_read_only_page_stays_read_only)

static struct kunit_case mh_cases[] = {
	MH_COMMON_CASES,
	KUNIT_CASE(young_huge_page_makes_device_folio_young),
	KUNIT_CASE(fault_brings_back_the_folio),
	KUNIT_CASE(fault_brings_back_pages),
	KUNIT_CASE(fault_whose_split_fails_is_repeated),
	KUNIT_CASE(fault_brings_back_some_pages),
	KUNIT_CASE(fault_of_forked_folio_brings_back_pages),
	KUNIT_CASE(fault_on_pte_of_folio_brings_back_the_page),
	KUNIT_CASE(one_of_many_faults_calls_the_driver),
	KUNIT_CASE(one_of_many_faults_brings_back_pages),
	KUNIT_CASE(exclusive_access_brings_back_the_folio),
	KUNIT_CASE(own_folio_is_reported_with_its_order),
	KUNIT_CASE(folio_of_another_device_is_faulted),
	KUNIT_CASE(own_read_only_folio_becomes_writable),
	KUNIT_CASE(own_folio_that_stays_is_read_only),
	KUNIT_CASE(own_pinned_folio_is_read_only),
	KUNIT_CASE(own_locked_folio_returns_ebusy),
	KUNIT_CASE(own_soft_clean_folio_is_read_only),
	KUNIT_CASE(own_watched_folio_is_faulted),
	KUNIT_CASE(own_shared_folio_is_copied),
	{}
};

static struct kunit_suite mh_suite = {
	.name = "migrate_huge",
	.init = mh_init,
	.test_cases = mh_cases,
};

static struct kunit_case mh_coherent_cases[] = {
	MH_COMMON_CASES,
	KUNIT_CASE(zero_pages_stay_on_the_device),
	KUNIT_CASE(pin_of_pages_moves_the_folio),
	KUNIT_CASE(no_numa_hints),
	KUNIT_CASE(advice_leaves_the_folio_whole),
	{}
};

static struct kunit_suite mh_coherent_suite = {
	.name = "migrate_huge_coherent",
	.init = mh_init_coherent,
	.test_cases = mh_coherent_cases,
};

kunit_test_suites(&mh_suite, &mh_coherent_suite);

#endif /* CONFIG_DEVICE_MIGRATION_HUGE */

MODULE_DESCRIPTION("KUnit suites of the migration of huge pages");
MODULE_LICENSE("GPL");
