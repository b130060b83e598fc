// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for address-space mirroring.
 *
 * A test acts as a driver. It has an interval notifier on its own address
 * space, calls hmm_range_fault() or hmm_range_fault_unlocked_timeout(), and
 * checks the entries, the page tables and the number of faults.
 *
 * The suite hmm_mirror needs no device. The suite hmm_mirror_private has two
 * devices with memory. Their pagemaps are adjacent, so that a run of
 * device-private pages may belong to both. The tests migrate pages there and
 * back with migrate_vma_setup() and its companions, as drivers do.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hmm.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pfn_t.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/workqueue.h>

#include "../internal.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#define RW		(PROT_READ | PROT_WRITE)
#define PMD_NR		((unsigned long)(PMD_SIZE >> PAGE_SHIFT))
#define READABLE	HMM_PFN_VALID
#define WRITABLE	(HMM_PFN_VALID | HMM_PFN_WRITE)
#define ASK_READ	HMM_PFN_REQ_FAULT
#define ASK_WRITE	(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)

/* After this many calls that return -EBUSY, a test assumes a livelock. */
#define HMM_TEST_TRIES	100

#define HMM_TEST_PAGES	MAX_PTRS_PER_PTE
#define HMM_TEST_SPAN	(16UL * SZ_1G)

/**
 * struct hmm_test - a driver and the address space that it mirrors
 * @km: the address space
 * @notifier: subscription to the part of it that tests use
 * @lock: lock of the driver
 * @range: the current request
 * @calls: number of calls of hmm_range_fault() for the last request
 * @faults: number of faults for the last request
 * @ask: contents of @pfns before each call
 * @pfns: entries of @range
 * @on_invalidation: called once, when the range is invalidated
 */
struct hmm_test {
	struct kunit_mm *km;
	struct mmu_interval_notifier notifier;
	struct mutex lock;	/* serializes invalidations and the driver */
	struct hmm_range range;
	unsigned int calls;
	unsigned long faults;
	unsigned long ask[HMM_TEST_PAGES];
	unsigned long pfns[HMM_TEST_PAGES];
	void (*on_invalidation)(struct hmm_test *t);
};

static void hmm_test_react(struct hmm_test *t)
{
	void (*react)(struct hmm_test *t) = t->on_invalidation;

	t->on_invalidation = NULL;
	if (react)
		react(t);
}

static bool hmm_test_invalidate(struct mmu_interval_notifier *notifier,
				const struct mmu_notifier_range *range,
				unsigned long seq)
{
	struct hmm_test *t = container_of(notifier, struct hmm_test, notifier);

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&t->lock);
	else if (!mutex_trylock(&t->lock))
		return false;
	mmu_interval_set_seq(notifier, seq);
	mutex_unlock(&t->lock);
	if (mmu_notifier_range_blockable(range))
		hmm_test_react(t);
	return true;
}

static const struct mmu_interval_notifier_ops hmm_test_notifier_ops = {
	.invalidate = hmm_test_invalidate,
};

static void hmm_test_unsubscribe(void *data)
{
	mmu_interval_notifier_remove(data);
}

static struct hmm_test *hmm_test_create(struct kunit *test)
{
	struct hmm_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, t);
	mutex_init(&t->lock);
	t->km = kunit_mm_create(test);
	ret = mmu_interval_notifier_insert(&t->notifier, t->km->mm,
					   t->km->cursor - PMD_SIZE,
					   HMM_TEST_SPAN,
					   &hmm_test_notifier_ops);
	KUNIT_ASSERT_EQ(test, ret, 0);
	ret = kunit_add_action_or_reset(test, hmm_test_unsubscribe,
					&t->notifier);
	KUNIT_ASSERT_EQ(test, ret, 0);
	t->range.notifier = &t->notifier;
	t->range.hmm_pfns = t->pfns;
	t->range.dev_private_owner = t;
	return t;
}

static int hmm_test_init(struct kunit *test)
{
	test->priv = hmm_test_create(test);
	return 0;
}

static void hmm_set_range(struct hmm_test *t, unsigned long addr,
			  unsigned long nr)
{
	KUNIT_ASSERT_LE(t->km->test, nr, HMM_TEST_PAGES);
	t->range.start = addr;
	t->range.end = addr + (nr << PAGE_SHIFT);
	memcpy(t->pfns, t->ask, nr * sizeof(*t->pfns));
}

static int hmm_call(struct hmm_test *t)
{
	int ret;

	mmap_read_lock(t->km->mm);
	ret = hmm_range_fault(&t->range);
	mmap_read_unlock(t->km->mm);
	return ret;
}

/* All faults of this thread so far. */
static unsigned long hmm_faults(void)
{
	return current->min_flt + current->maj_flt;
}

/* Retry as drivers do: breaking COW, for one, invalidates the range. */
static int hmm_mirror(struct hmm_test *t, unsigned long addr, unsigned long nr)
{
	unsigned long before = hmm_faults();
	int ret = -EBUSY;

	for (t->calls = 0; ret == -EBUSY && t->calls < HMM_TEST_TRIES;
	     t->calls++) {
		hmm_set_range(t, addr, nr);
		t->range.notifier_seq = mmu_interval_read_begin(&t->notifier);
		ret = hmm_call(t);
	}
	t->faults = hmm_faults() - before;
	return ret;
}

/* All pages have the same request. */
static int hmm_mirror_all(struct hmm_test *t, unsigned long addr,
			  unsigned long nr, unsigned long request)
{
	t->range.default_flags = request;
	t->range.pfn_flags_mask = 0;
	return hmm_mirror(t, addr, nr);
}

static int hmm_snapshot(struct hmm_test *t, unsigned long addr,
			unsigned long nr)
{
	return hmm_mirror_all(t, addr, nr, 0);
}

/* Pages have the requests in @ask. */
static int hmm_mirror_each(struct hmm_test *t, unsigned long addr,
			   unsigned long nr)
{
	t->range.default_flags = 0;
	t->range.pfn_flags_mask = ASK_WRITE;
	return hmm_mirror(t, addr, nr);
}

static int hmm_unlocked(struct hmm_test *t, unsigned long addr,
			unsigned long nr, unsigned long timeout)
{
	int ret;

	unsigned long before = hmm_faults();

	hmm_set_range(t, addr, nr);
	ret = hmm_range_fault_unlocked_timeout(&t->range, timeout);
	t->faults = hmm_faults() - before;
	KUNIT_EXPECT_FALSE(t->km->test, rwsem_is_locked(&t->km->mm->mmap_lock));
	return ret;
}

static int hmm_unlocked_all(struct hmm_test *t, unsigned long addr,
			    unsigned long nr, unsigned long request)
{
	t->range.default_flags = request;
	t->range.pfn_flags_mask = 0;
	return hmm_unlocked(t, addr, nr, 0);
}

static int hmm_unlocked_each(struct hmm_test *t, unsigned long addr,
			     unsigned long nr, unsigned long timeout)
{
	t->range.default_flags = 0;
	t->range.pfn_flags_mask = ASK_WRITE;
	return hmm_unlocked(t, addr, nr, timeout);
}

/* Expect the page that is mapped at entry @i, with @flags only. */
static void hmm_expect_page(struct hmm_test *t, unsigned long i,
			    unsigned long flags)
{
	unsigned long addr = t->range.start + (i << PAGE_SHIFT);

	KUNIT_EXPECT_EQ_MSG(t->km->test, t->pfns[i],
			    kunit_mm_pfn(t->km, addr) | flags, "entry %lu", i);
}

static void hmm_expect_same(struct hmm_test *t, unsigned long i,
			    unsigned long nr, unsigned long value)
{
	for (; nr--; i++)
		KUNIT_EXPECT_EQ_MSG(t->km->test, t->pfns[i], value,
				    "entry %lu", i);
}

static void hmm_expect_asked(struct hmm_test *t, unsigned long i,
			     unsigned long nr)
{
	for (; nr--; i++)
		KUNIT_EXPECT_EQ_MSG(t->km->test, t->pfns[i], t->ask[i],
				    "entry %lu", i);
}

static void hmm_expect_hole(struct hmm_test *t, unsigned long addr)
{
	KUNIT_EXPECT_TRUE(t->km->test, pte_none(kunit_mm_pte(t->km, addr)));
}

/* Encoding */

static void hmm_pfn_flags_have_stable_values(struct kunit *test)
{
	const unsigned int bits = BITS_PER_LONG;

	KUNIT_EXPECT_EQ(test, HMM_PFN_VALID, 1UL << (bits - 1));
	KUNIT_EXPECT_EQ(test, HMM_PFN_WRITE, 1UL << (bits - 2));
	KUNIT_EXPECT_EQ(test, HMM_PFN_ERROR, 1UL << (bits - 3));
	KUNIT_EXPECT_EQ(test, HMM_PFN_REQ_FAULT, 1UL << (bits - 1));
	KUNIT_EXPECT_EQ(test, HMM_PFN_REQ_WRITE, 1UL << (bits - 2));
#ifdef CONFIG_64BIT
	KUNIT_EXPECT_EQ(test, HMM_PFN_DMA_MAPPED, 1UL << 60);
	KUNIT_EXPECT_EQ(test, HMM_PFN_P2PDMA, 1UL << 59);
	KUNIT_EXPECT_EQ(test, HMM_PFN_P2PDMA_BUS, 1UL << 58);
	KUNIT_EXPECT_EQ(test, (int)HMM_PFN_ORDER_SHIFT, 53);
	KUNIT_EXPECT_EQ(test, HMM_PFN_FLAGS, 0xffe0000000000000UL);
#else
	KUNIT_EXPECT_EQ(test, (int)HMM_PFN_ORDER_SHIFT, 24);
	KUNIT_EXPECT_EQ(test, HMM_PFN_FLAGS, 0xff000000UL);
	KUNIT_EXPECT_EQ(test, HMM_PFN_INOUT_FLAGS, 0);
#endif
}

static void hmm_pfn_decodes_to_page_and_order(struct kunit *test)
{
	struct page *page = ZERO_PAGE(0);
	unsigned long flags = HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_ERROR |
			      HMM_PFN_INOUT_FLAGS;
	unsigned long order, entry;

	for (order = 0; order < 32; order++) {
		entry = page_to_pfn(page) | flags;
		entry |= order << HMM_PFN_ORDER_SHIFT;
		KUNIT_EXPECT_EQ(test, hmm_pfn_to_map_order(entry), order);
		KUNIT_EXPECT_PTR_EQ(test, hmm_pfn_to_page(entry), page);
		KUNIT_EXPECT_EQ(test, hmm_pfn_to_phys(entry),
				page_to_phys(page));
	}
}

/* Extents of results */

/* Entries for @nr pages that follow each other, from @pfn on */
static void hmm_set_results(struct hmm_test *t, unsigned long pfn,
			    unsigned long nr, unsigned long flags)
{
	unsigned long i;

	hmm_set_range(t, t->km->cursor, nr);
	for (i = 0; i < nr; i++)
		t->pfns[i] = (pfn + i) | flags;
}

/* The extents of all pages that follow @index are @lengths, which end with 0. */
static void hmm_expect_extents(struct hmm_test *t, unsigned long index,
			       const unsigned long *lengths)
{
	do {
		KUNIT_EXPECT_EQ_MSG(t->km->test,
				    hmm_range_extent(&t->range, index),
				    *lengths, "entry %lu", index);
		index += *lengths;
	} while (*lengths++);
}

/* Entries from @from to @to differ from the others in @change. */
static void hmm_expect_cut(struct hmm_test *t, unsigned long from,
			   unsigned long to, unsigned long change)
{
	unsigned long lengths[] = { from, to - from, 8 - to, 0 };
	unsigned long i;

	hmm_set_results(t, 0x10010, 8, READABLE);
	for (i = from; i < to; i++)
		t->pfns[i] ^= change;
	hmm_expect_extents(t, 0, lengths);
}

static void extent_has_equal_flags(struct kunit *test)
{
	struct hmm_test *t = test->priv;

	hmm_set_results(t, 0x10010, 8, WRITABLE | HMM_PFN_INOUT_FLAGS);
	hmm_expect_extents(t, 0, (unsigned long[]){ 8, 0 });
	hmm_expect_extents(t, 3, (unsigned long[]){ 5, 0 });
	hmm_expect_cut(t, 2, 5, HMM_PFN_WRITE);
	hmm_expect_cut(t, 1, 2, 0x40);
	if (IS_ENABLED(CONFIG_64BIT))
		hmm_expect_cut(t, 3, 4, HMM_PFN_DMA_MAPPED);
	KUNIT_EXPECT_EQ(test, hmm_range_extent(&t->range, 8), 0UL);
	KUNIT_EXPECT_EQ(test, hmm_range_extent(&t->range, ULONG_MAX), 0UL);
}

static void extent_joins_mappings_of_all_orders(struct kunit *test)
{
	struct hmm_test *t = test->priv;

	hmm_set_results(t, 0x10010, 8, WRITABLE);
	t->pfns[2] |= 1UL << HMM_PFN_ORDER_SHIFT;
	t->pfns[3] |= 1UL << HMM_PFN_ORDER_SHIFT;
	hmm_expect_extents(t, 0, (unsigned long[]){ 8, 0 });
}

static void extent_without_pages_has_equal_results(struct kunit *test)
{
	struct hmm_test *t = test->priv;

	hmm_set_results(t, 0x10010, 8, READABLE);
	memset_l(t->pfns, 0, 3);
	memset_l(t->pfns + 3, HMM_PFN_ERROR, 2);
	hmm_expect_extents(t, 0, (unsigned long[]){ 3, 2, 3, 0 });
}

static void hmm_expect_blocks(struct hmm_test *t, const unsigned int *orders,
			      unsigned long nr)
{
	unsigned long i, index = 0, end = hmm_range_extent(&t->range, 0);

	for (i = 0; i < nr && index < end; i++) {
		KUNIT_EXPECT_EQ(t->km->test, orders[i],
				hmm_range_extent_order(&t->range, index,
						       end - index));
		index += 1UL << orders[i];
	}
	KUNIT_EXPECT_EQ(t->km->test, i, nr);
	KUNIT_EXPECT_EQ(t->km->test, index, end);
}

static void blocks_of_extent_are_aligned(struct kunit *test)
{
	static const unsigned int aligned[] = { 3, 2, 0 };
	static const unsigned int from_the_middle[] = { 0, 1, 3, 0 };
	static const unsigned int out_of_line[] = { 1, 1, 1, 1 };
	struct hmm_test *t = test->priv;

	hmm_set_results(t, 0x10010, 13, READABLE);
	hmm_expect_blocks(t, aligned, ARRAY_SIZE(aligned));
	hmm_set_results(t, 0x10005, 12, READABLE);
	t->range.start += 5 * PAGE_SIZE;
	t->range.end += 5 * PAGE_SIZE;
	hmm_expect_blocks(t, from_the_middle, ARRAY_SIZE(from_the_middle));
	hmm_set_results(t, 0x10012, 8, READABLE);
	hmm_expect_blocks(t, out_of_line, ARRAY_SIZE(out_of_line));
	hmm_set_range(t, t->km->cursor, 8);
	memset_l(t->pfns, 0, 8);
	hmm_expect_blocks(t, (unsigned int[]){ 3 }, 1);
}

/* Ranges */

static void hmm_expect_absurd(struct hmm_test *t, struct hmm_range range)
{
	struct kunit *test = t->km->test;
	int ret;

	range.default_flags = ASK_WRITE;
	mmap_read_lock(t->km->mm);
	ret = hmm_range_fault(&range);
	mmap_read_unlock(t->km->mm);
	KUNIT_EXPECT_EQ(test, ret, -EINVAL);
	KUNIT_EXPECT_EQ(test, -EINVAL,
			hmm_range_fault_unlocked_timeout(&range, 1));
	hmm_expect_asked(t, 0, HMM_TEST_PAGES);
}

static void absurd_range_returns_einval(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);
	unsigned long low = t->notifier.interval_tree.start;
	unsigned long high = t->notifier.interval_tree.last + 1;
	struct hmm_range sane, range;

	hmm_set_range(t, addr, 8);
	sane = t->range;

	range = sane;
	range.end = range.start;
	hmm_expect_absurd(t, range);
	range.end = range.start - PAGE_SIZE;
	hmm_expect_absurd(t, range);
	range = sane;
	range.start += 8;
	hmm_expect_absurd(t, range);
	range = sane;
	range.end -= 8;
	hmm_expect_absurd(t, range);
	range = sane;
	range.start = low - PAGE_SIZE;
	hmm_expect_absurd(t, range);
	range.end = low;
	hmm_expect_absurd(t, range);
	range = sane;
	range.end = high + PAGE_SIZE;
	hmm_expect_absurd(t, range);
	range.start = high;
	hmm_expect_absurd(t, range);
	range = sane;
	range.hmm_pfns = NULL;
	hmm_expect_absurd(t, range);
	range = sane;
	range.notifier = NULL;
	hmm_expect_absurd(t, range);
}

static void range_at_notifier_boundary_is_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long low = t->notifier.interval_tree.start;
	unsigned long high = t->notifier.interval_tree.last + 1;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, low, 1), 0);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, high - PAGE_SIZE, 1), 0);
}

/* Snapshots and faults */

static void snapshot_reports_mappings_without_faults(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_read(t->km, addr + PAGE_SIZE, 1);
	kunit_mm_write(t->km, addr + 2 * PAGE_SIZE, 3);
	kunit_mm_change(t->km, addr + 3 * PAGE_SIZE, 1, pte_wrprotect);
	kunit_mm_change(t->km, addr + 4 * PAGE_SIZE, 1, pte_mkclean);

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 10), 0);
	hmm_expect_same(t, 0, 1, 0);
	hmm_expect_page(t, 1, READABLE);
	hmm_expect_page(t, 2, WRITABLE);
	hmm_expect_page(t, 3, READABLE);
	hmm_expect_page(t, 4, READABLE);
	hmm_expect_same(t, 5, 3, 0);
	hmm_expect_same(t, 8, 2, HMM_PFN_ERROR);
	hmm_expect_hole(t, addr);
	hmm_expect_hole(t, addr + 5 * PAGE_SIZE);
}

static void read_request_faults_pages(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;

	kunit_mm_write(t->km, addr + 3 * PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_READ), 0);
	for (i = 0; i < 8; i++)
		hmm_expect_page(t, i, i == 3 ? WRITABLE : READABLE);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(t->km, addr)));
}

static void write_request_makes_pages_writable(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;

	kunit_mm_read(t->km, addr + 2 * PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	for (i = 0; i < 8; i++) {
		hmm_expect_page(t, i, WRITABLE);
		KUNIT_EXPECT_TRUE(test,
				  pte_dirty(kunit_mm_pte(t->km, addr +
							 i * PAGE_SIZE)));
	}
}

static void write_request_populates_missing_page_table(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2 * PMD_NR, RW), i;
	unsigned long start = addr + PMD_SIZE - 4 * PAGE_SIZE;

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, start, 8, ASK_WRITE), 0);
	for (i = 0; i < 8; i++)
		hmm_expect_page(t, i, WRITABLE);
	hmm_expect_hole(t, start - PAGE_SIZE);
	hmm_expect_hole(t, start + 8 * PAGE_SIZE);
}

static void read_request_does_not_break_cow(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 4);
	unsigned long shared = kunit_mm_map_file(t->km, file, 4, RW, MAP_SHARED);
	unsigned long addr = kunit_mm_map_file(t->km, file, 4, RW, MAP_PRIVATE);
	unsigned long pfn;

	kunit_mm_write(t->km, shared, 4);
	pfn = kunit_mm_pfn(t->km, shared);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_READ), 0);
	hmm_expect_same(t, 0, 1, pfn | READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_READ), 0);
	hmm_expect_same(t, 0, 1, pfn | READABLE);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), 0);
	hmm_expect_page(t, 0, WRITABLE);
	KUNIT_EXPECT_NE(test, kunit_mm_pfn(t->km, addr), pfn);
	KUNIT_EXPECT_EQ(test, kunit_mm_pfn(t->km, shared), pfn);
}

static void write_flag_requires_dirty_entry(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 1);
	unsigned long addr = kunit_mm_map_file(t->km, file, 1, RW, MAP_SHARED);
	pte_t pte;

	kunit_mm_read(t->km, addr, 1);
	pte = kunit_mm_pte(t->km, addr);
	KUNIT_ASSERT_TRUE(test, pte_write(pte) && !pte_dirty(pte));

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_READ), 0);
	hmm_expect_page(t, 0, READABLE);
	KUNIT_EXPECT_FALSE(test, pte_dirty(kunit_mm_pte(t->km, addr)));

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), 0);
	hmm_expect_page(t, 0, WRITABLE);
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(t->km, addr)));
}

static void hmm_madvise(struct hmm_test *t, unsigned long addr,
			unsigned long nr, int advice)
{
	KUNIT_ASSERT_EQ(t->km->test, 0,
			do_madvise(t->km->mm, addr, nr << PAGE_SHIFT, advice));
}

static void write_request_dirties_lazyfree_page(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	kunit_mm_write(t->km, addr, 4);
	hmm_madvise(t, addr, 4, MADV_FREE);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 4), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, READABLE);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_WRITE), 0);
	for (i = 0; i < 4; i++) {
		hmm_expect_page(t, i, WRITABLE);
		KUNIT_EXPECT_TRUE(test,
				  pte_dirty(kunit_mm_pte(t->km, addr +
							 i * PAGE_SIZE)));
	}
}

/* As NUMA balancing leaves it: the VMA allows what the entry does not. */
static pte_t hmm_mkprotnone(pte_t pte)
{
	return pte_modify(pte, PAGE_NONE);
}

static void numa_hint_is_faulted(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		kunit_skip(test, "needs NUMA balancing");
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_change(t->km, addr, 1, hmm_mkprotnone);
	KUNIT_ASSERT_TRUE(test, pte_protnone(kunit_mm_pte(t->km, addr)));

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, 0);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), 0);
	hmm_expect_page(t, 0, WRITABLE);
}

static void userfaultfd_marker_is_faulted(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 1);
	unsigned long addr = kunit_mm_map_file(t->km, file, 1, RW, MAP_SHARED);

	if (!IS_ENABLED(CONFIG_PTE_MARKER_UFFD_WP))
		kunit_skip(test, "needs userfaultfd markers");
	kunit_mm_plant(t->km, addr, make_pte_marker(PTE_MARKER_UFFD_WP));
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, 0);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_READ), 0);
	hmm_expect_page(t, 0, READABLE);
}

static void swap_entry_is_reported_as_unmapped(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);

	kunit_mm_plant(t->km, addr, swp_entry_to_pte(swp_entry(0, 100)));
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, 0);
}

static void mixed_swap_entries_are_reported_as_unmapped(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;
	swp_entry_t entry;

	for (i = 0; i < 6; i++) {
		entry = swp_entry(0, 100 + 3 * i);
		kunit_mm_plant(t->km, addr + i * PAGE_SIZE,
			       swp_entry_to_pte(entry));
	}
	kunit_mm_write(t->km, addr + 6 * PAGE_SIZE, 1);
	for (i = 0; i < 8; i++)
		t->ask[i] = HMM_PFN_INOUT_FLAGS | 0x123;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	hmm_expect_same(t, 0, 6, HMM_PFN_INOUT_FLAGS);
	hmm_expect_page(t, 6, WRITABLE | HMM_PFN_INOUT_FLAGS);
	hmm_expect_same(t, 7, 1, HMM_PFN_INOUT_FLAGS);
}

struct hmm_migration {
	struct work_struct work;
	struct folio *folio;
};

static void hmm_end_migration(struct work_struct *work)
{
	struct hmm_migration *m = container_of(work, struct hmm_migration, work);

	remove_migration_ptes(m->folio, m->folio, 0);
	folio_unlock(m->folio);
	folio_put(m->folio);
}

static void request_waits_for_migration(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);
	struct hmm_migration m;
	int snapshot, ret;

	if (!IS_ENABLED(CONFIG_MIGRATION))
		kunit_skip(test, "needs page migration");
	kunit_mm_write(t->km, addr, 1);
	m.folio = pfn_folio(kunit_mm_pfn(t->km, addr));
	folio_get(m.folio);
	folio_lock(m.folio);
	try_to_migrate(m.folio, 0);
	snapshot = hmm_snapshot(t, addr, 1);
	hmm_expect_same(t, 0, 1, 0);

	INIT_WORK_ONSTACK(&m.work, hmm_end_migration);
	schedule_work(&m.work);
	ret = hmm_mirror_all(t, addr, 1, ASK_WRITE);
	flush_work(&m.work);
	destroy_work_on_stack(&m.work);
	KUNIT_EXPECT_EQ(test, snapshot, 0);
	KUNIT_EXPECT_EQ(test, ret, 0);
	hmm_expect_page(t, 0, WRITABLE);
}

/* Requests page by page */

static void single_page_requests_are_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;

	t->ask[1] = ASK_READ;
	t->ask[2] = ASK_READ;
	t->ask[4] = ASK_WRITE;
	t->ask[5] = ASK_READ;
	t->ask[6] = HMM_PFN_REQ_WRITE;	/* alone: no request */
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 8), 0);
	for (i = 0; i < 8; i++) {
		if (t->ask[i] & HMM_PFN_REQ_FAULT) {
			hmm_expect_page(t, i, i == 4 ? WRITABLE : READABLE);
		} else {
			hmm_expect_same(t, i, 1, 0);
			hmm_expect_hole(t, addr + i * PAGE_SIZE);
		}
	}
}

static void single_page_requests_add_to_default_flags(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	t->ask[2] = HMM_PFN_REQ_WRITE;
	t->range.default_flags = ASK_READ;
	t->range.pfn_flags_mask = HMM_PFN_REQ_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_mirror(t, addr, 4), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, i == 2 ? WRITABLE : READABLE);
}

static void masked_requests_are_ignored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	for (i = 0; i < 4; i++)
		t->ask[i] = ASK_WRITE | 0x123;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 4), 0);
	hmm_expect_same(t, 0, 4, 0);
	hmm_expect_hole(t, addr);

	t->range.pfn_flags_mask = HMM_PFN_REQ_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_mirror(t, addr, 4), 0);
	hmm_expect_same(t, 0, 4, 0);
	hmm_expect_hole(t, addr);
}

/* Write to one page of an extent. */
static void single_request_inside_extent_is_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR), i;

	kunit_mm_write(t->km, addr, PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "no THP available");
	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_change(t->km, addr, PMD_NR, pte_mkclean);

	t->ask[17] = ASK_WRITE;
	t->ask[18] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 32), 0);
	for (i = 0; i < 32; i++)
		hmm_expect_page(t, i, i == 17 ? WRITABLE : READABLE);
}

/* Driver flags */

static void driver_flags_are_preserved(struct kunit *test)
{
	const unsigned long sticky = HMM_PFN_INOUT_FLAGS;
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	if (!sticky)
		kunit_skip(test, "no driver flags on 32 bits");
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_read(t->km, addr + PAGE_SIZE, 1);
	/* other bits are not preserved, with single requests or without */
	for (i = 0; i < 6; i++)
		t->ask[i] = sticky | 0x123 |
			    (9UL << HMM_PFN_ORDER_SHIFT) | HMM_PFN_ERROR;

	for (i = 0; i < 2; i++) {
		t->range.pfn_flags_mask = i ? ASK_WRITE : 0;
		t->range.default_flags = 0;
		KUNIT_EXPECT_EQ(test, hmm_mirror(t, addr, 6), 0);
		hmm_expect_page(t, 0, WRITABLE | sticky);
		hmm_expect_page(t, 1, READABLE | sticky);
		hmm_expect_same(t, 2, 2, sticky);
		hmm_expect_same(t, 4, 2, HMM_PFN_ERROR | sticky);
	}

	t->ask[3] = HMM_PFN_DMA_MAPPED;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	hmm_expect_page(t, 2, READABLE | sticky);
	hmm_expect_page(t, 3, READABLE | HMM_PFN_DMA_MAPPED);
}

/* Errors */

static void hmm_expect_stop(struct hmm_test *t, unsigned long nr, int error,
			    unsigned long stop)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		t->ask[i] = ASK_WRITE | HMM_PFN_INOUT_FLAGS;
	KUNIT_EXPECT_EQ(t->km->test, error,
			hmm_mirror_each(t, t->range.start, nr));
	for (i = 0; i < stop; i++)
		hmm_expect_page(t, i, WRITABLE | HMM_PFN_INOUT_FLAGS);
	hmm_expect_asked(t, stop, nr - stop);

	for (i = 0; i < nr; i++)
		t->ask[i] = 0x55;
	KUNIT_EXPECT_EQ(t->km->test, error,
			hmm_mirror_all(t, t->range.start, nr, ASK_WRITE));
	for (i = 0; i < stop; i++)
		hmm_expect_page(t, i, WRITABLE);
	hmm_expect_asked(t, stop, nr - stop);
}

static void entries_behind_gap_keep_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 3);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(addr + 5 * PAGE_SIZE, PAGE_SIZE));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 5);
}

static void entries_behind_read_only_vma_keep_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 8);
	kunit_mm_protect(t->km, addr + 5 * PAGE_SIZE, 1, VM_READ);
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EPERM, 5);
}

static void entries_behind_poison_keep_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 3);
	kunit_mm_plant(t->km, addr + 3 * PAGE_SIZE,
		       make_pte_marker(PTE_MARKER_POISONED));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 3);
}

/* Expect @entry in a snapshot of the page, and @error for every request. */
static void hmm_expect_refusal(struct hmm_test *t, unsigned long addr,
			       unsigned long entry, int error)
{
	struct kunit *test = t->km->test;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, entry);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_READ), error);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), error);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 1, ASK_READ), error);
	t->ask[0] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 1), error);
	hmm_expect_asked(t, 0, 1);
	t->ask[0] = 0;
}

static void gap_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;

	hmm_expect_refusal(t, t->km->cursor, HMM_PFN_ERROR, -EFAULT);
}

static void inaccessible_vma_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);

	kunit_mm_write(t->km, addr, 1);
	kunit_mm_protect(t->km, addr, 2, 0);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
	hmm_expect_refusal(t, addr + PAGE_SIZE, HMM_PFN_ERROR, -EFAULT);
}

static void poison_marker_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);

	kunit_mm_plant(t->km, addr, make_pte_marker(PTE_MARKER_POISONED));
	hmm_expect_refusal(t, addr, 0, -EFAULT);
}

static void hwpoison_entry_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);
	struct page *page = ZERO_PAGE(0);
	swp_entry_t entry;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs memory failure handling");
	lock_page(page);
	entry = make_hwpoison_entry(page);
	unlock_page(page);
	kunit_mm_plant(t->km, addr, swp_entry_to_pte(entry));
	hmm_expect_refusal(t, addr, 0, -EFAULT);
}

static void write_request_in_read_only_vma_returns_eperm(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, PROT_READ);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 2, ASK_WRITE), -EPERM);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 2, ASK_WRITE), -EPERM);
	hmm_expect_hole(t, addr);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 2, ASK_READ), 0);
	hmm_expect_page(t, 0, READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 2, ASK_WRITE), -EPERM);
}

/* Mappings of a driver file */

/**
 * struct hmm_test_file - a file with a fault handler that tests control
 * @test: the test
 * @page: page that is mapped at every offset
 * @faults: number of calls of the handler
 * @ms: time that the handler sleeps
 * @drops: number of times that it drops the mmap lock first; -1: always
 * @victim: address of a page that it zaps; 0: none
 * @while_locked: it zaps with the mmap lock held, else from another thread
 * @zaps_always: it zaps in every fault, else in the first one
 * @shrinks: the file ends at the victim
 * @installs: it maps the page before it drops the mmap lock
 * @dropped: address of the last fault that dropped the mmap lock
 * @tried: number of faults at other addresses with FAULT_FLAG_TRIED
 * @idle: number of faults of a page that do nothing
 */
struct hmm_test_file {
	struct hmm_test *test;
	struct page *page;
	unsigned int faults;
	unsigned int ms;
	int drops;
	unsigned long victim;
	bool while_locked;
	bool zaps_always;
	bool shrinks;
	bool installs;
	unsigned long dropped;
	unsigned int tried;
	unsigned char idle[8];
};

struct hmm_zap {
	struct work_struct work;
	struct hmm_test_file *file;
};

static void hmm_zap_victim(struct work_struct *work)
{
	struct hmm_zap *zap = container_of(work, struct hmm_zap, work);
	struct hmm_test_file *file = zap->file;

	do_madvise(file->test->km->mm, file->victim, PAGE_SIZE, MADV_DONTNEED);
}

static void hmm_zap_in_another_thread(struct hmm_test_file *file)
{
	struct hmm_zap zap = { .file = file };

	if (!file->victim)
		return;
	INIT_WORK_ONSTACK(&zap.work, hmm_zap_victim);
	schedule_work(&zap.work);
	flush_work(&zap.work);
	destroy_work_on_stack(&zap.work);
	file->victim = 0;
}

static vm_fault_t hmm_file_drop_lock(struct hmm_test_file *file,
				     struct vm_fault *vmf)
{
	if (!(vmf->flags & FAULT_FLAG_ALLOW_RETRY))
		return VM_FAULT_SIGBUS;
	file->drops -= file->drops > 0;
	file->dropped = vmf->address;
	if (file->installs &&
	    vm_insert_page(vmf->vma, vmf->address, file->page))
		return VM_FAULT_SIGBUS;
	mmap_read_unlock(vmf->vma->vm_mm);
	hmm_zap_in_another_thread(file);
	return VM_FAULT_RETRY;
}

/* Does this fault of the page do nothing? */
static bool hmm_file_is_idle(struct hmm_test_file *file, pgoff_t pgoff)
{
	return pgoff < ARRAY_SIZE(file->idle) && file->idle[pgoff] &&
	       file->idle[pgoff]--;
}

static void hmm_file_zap_victim(struct hmm_test_file *file,
				struct vm_fault *vmf)
{
	zap_page_range_single(vma_lookup(vmf->vma->vm_mm, file->victim),
			      file->victim, PAGE_SIZE, NULL);
}

static vm_fault_t hmm_file_fault(struct vm_fault *vmf)
{
	struct hmm_test_file *file = vmf->vma->vm_file->private_data;

	file->faults++;
	if (vmf->address != file->dropped && vmf->flags & FAULT_FLAG_TRIED)
		file->tried++;
	if (file->ms)
		msleep(file->ms);
	if (file->drops)
		return hmm_file_drop_lock(file, vmf);
	if (file->zaps_always)
		hmm_file_zap_victim(file, vmf);
	if (hmm_file_is_idle(file, vmf->pgoff))
		return VM_FAULT_NOPAGE;
	if (file->shrinks && vmf->address >= file->victim)
		return VM_FAULT_SIGBUS;
	if (file->while_locked && file->victim) {
		hmm_file_zap_victim(file, vmf);
		file->victim = 0;
	}
	get_page(file->page);
	vmf->page = file->page;
	return 0;
}

static const struct vm_operations_struct hmm_file_vm_ops = {
	.fault = hmm_file_fault,
};

static int hmm_file_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &hmm_file_vm_ops;
	return 0;
}

static int hmm_file_mmap_insert(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_MIXEDMAP);
	return hmm_file_mmap(file, vma);
}

static int hmm_file_mmap_io(struct file *filp, struct vm_area_struct *vma)
{
	struct hmm_test_file *file = filp->private_data;

	vm_flags_set(vma, VM_IO);
	return vm_insert_page(vma, vma->vm_start, file->page);
}

static int hmm_file_mmap_pfn(struct file *filp, struct vm_area_struct *vma)
{
	struct hmm_test_file *file = filp->private_data;

	return remap_pfn_range(vma, vma->vm_start, page_to_pfn(file->page),
			       PAGE_SIZE, vma->vm_page_prot);
}

static int hmm_file_mmap_mixed(struct file *filp, struct vm_area_struct *vma)
{
	struct hmm_test_file *file = filp->private_data;
	pfn_t pfn = pfn_to_pfn_t(page_to_pfn(file->page));
	vm_fault_t fault;

	vm_flags_set(vma, VM_MIXEDMAP);
	fault = vmf_insert_mixed(vma, vma->vm_start, pfn);
	return fault == VM_FAULT_NOPAGE ? 0 : -EFAULT;
}

static int hmm_file_release(struct inode *inode, struct file *filp)
{
	struct hmm_test_file *file = filp->private_data;

	put_page(file->page);
	kfree(file);
	return 0;
}

static const struct file_operations hmm_file_fops = {
	.mmap = hmm_file_mmap,
	.release = hmm_file_release,
};

static const struct file_operations hmm_file_insert_fops = {
	.mmap = hmm_file_mmap_insert,
	.release = hmm_file_release,
};

static const struct file_operations hmm_file_io_fops = {
	.mmap = hmm_file_mmap_io,
	.release = hmm_file_release,
};

static const struct file_operations hmm_file_pfn_fops = {
	.mmap = hmm_file_mmap_pfn,
	.release = hmm_file_release,
};

static const struct file_operations hmm_file_mixed_fops = {
	.mmap = hmm_file_mmap_mixed,
	.release = hmm_file_release,
};

static struct hmm_test_file *hmm_map_file(struct hmm_test *t, unsigned long nr,
					  const struct file_operations *fops,
					  unsigned long *addr)
{
	struct hmm_test_file *file = kzalloc(sizeof(*file), GFP_KERNEL);
	struct file *filp;

	KUNIT_ASSERT_NOT_NULL(t->km->test, file);
	file->test = t;
	file->page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	KUNIT_ASSERT_NOT_NULL(t->km->test, file->page);
	filp = kunit_mm_file(t->km->test, fops, file);
	*addr = kunit_mm_map_file(t->km, filp, nr, RW, MAP_SHARED);
	return file;
}

static void io_memory_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	hmm_map_file(t, 1, &hmm_file_io_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

static void pfnmap_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	hmm_map_file(t, 1, &hmm_file_pfn_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

static void pfn_in_mixedmap_returns_efault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL))
		kunit_skip(test, "needs special PTEs");
	hmm_map_file(t, 1, &hmm_file_mixed_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

/*
 * Mixed memory. A write request invalidates the range wherever it breaks COW.
 * No matter how often that is, two calls suffice, and one fault a page.
 */

/**
 * struct hmm_layout - memory of one kind, or a mixture
 * @name: name of the test case
 * @make: maps @nr pages of it
 * @faults: number of faults that make 12 pages writable
 */
struct hmm_layout {
	const char *name;
	unsigned long (*make)(struct hmm_test *t, unsigned long nr);
	unsigned int faults;
};

#define HMM_LAYOUT_PAGES	48UL

static unsigned long hmm_make_holes(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = kunit_mm_map(t->km, nr, RW);

	/* Populate the PTE table, so that no fault maps a huge page. */
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_zap(t->km, addr, 1);
	return addr;
}

static unsigned long hmm_make_present(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = kunit_mm_map(t->km, nr, RW);

	kunit_mm_write(t->km, addr, nr);
	return addr;
}

static unsigned long hmm_make_zero(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = kunit_mm_map(t->km, nr, RW);

	kunit_mm_read(t->km, addr, nr);
	KUNIT_ASSERT_TRUE(t->km->test, is_zero_pfn(kunit_mm_pfn(t->km, addr)));
	return addr;
}

static unsigned long hmm_make_zero_and_holes(struct hmm_test *t,
					     unsigned long nr)
{
	unsigned long addr = kunit_mm_map(t->km, nr, RW), i;

	for (i = 0; i < nr; i += 2)
		kunit_mm_read(t->km, addr + i * PAGE_SIZE, 1);
	return addr;
}

static unsigned long hmm_make_zero_and_present(struct hmm_test *t,
					       unsigned long nr)
{
	unsigned long addr = hmm_make_zero(t, nr), i;

	for (i = 1; i < nr; i += 2)
		kunit_mm_write(t->km, addr + i * PAGE_SIZE, 1);
	return addr;
}

static unsigned long hmm_make_forked(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = hmm_make_present(t, nr);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(t->km->test, kunit_mm_fork(t->km, addr, &child), 0);
	KUNIT_ASSERT_FALSE(t->km->test, pte_write(kunit_mm_pte(t->km, addr)));
	return addr;
}

/* A private mapping of pages of a file. */
static unsigned long hmm_make_file(struct hmm_test *t, unsigned long nr)
{
	struct file *file = kunit_mm_shmem(t->km->test, nr);
	unsigned long addr;

	addr = kunit_mm_map_file(t->km, file, nr, RW, MAP_SHARED);
	kunit_mm_write(t->km, addr, nr);
	addr = kunit_mm_map_file(t->km, file, nr, RW, MAP_PRIVATE);
	kunit_mm_read(t->km, addr, nr);
	return addr;
}

static unsigned long hmm_make_clean(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = hmm_make_present(t, nr);

	kunit_mm_change(t->km, addr, nr, pte_mkclean);
	return addr;
}

/* NUMA hints between pages that fork() made read-only. */
static unsigned long hmm_make_hinted(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = hmm_make_forked(t, nr), i;

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		return addr;
	for (i = 1; i < nr; i += 2)
		kunit_mm_change(t->km, addr + i * PAGE_SIZE, 1,
				hmm_mkprotnone);
	return addr;
}

/* Repeats: read-only, zero, hole, written, read-only and clean, hole. */
static unsigned long hmm_make_mixture(struct hmm_test *t, unsigned long nr)
{
	unsigned long addr = hmm_make_forked(t, nr), at, i;

	for (i = 0; i < nr; i++) {
		at = addr + i * PAGE_SIZE;
		switch (i % 6) {
		case 1:
			kunit_mm_zap(t->km, at, 1);
			kunit_mm_read(t->km, at, 1);
			break;
		case 2:
		case 5:
			kunit_mm_zap(t->km, at, 1);
			break;
		case 3:
			kunit_mm_write(t->km, at, 1);
			break;
		case 4:
			kunit_mm_change(t->km, at, 1, pte_mkclean);
			break;
		}
	}
	return addr;
}

static const struct hmm_layout hmm_layouts[] = {
	{ "holes", hmm_make_holes, 12 },
	{ "present", hmm_make_present, 0 },
	{ "clean", hmm_make_clean, 12 },
	{ "zero", hmm_make_zero, 12 },
	{ "zero and holes", hmm_make_zero_and_holes, 12 },
	{ "zero and present", hmm_make_zero_and_present, 6 },
	{ "forked", hmm_make_forked, 12 },
	{ "file", hmm_make_file, 12 },
	{ "hinted", hmm_make_hinted,
	  IS_ENABLED(CONFIG_NUMA_BALANCING) ? 18 : 12 },
	{ "mixture", hmm_make_mixture, 10 },
};

KUNIT_ARRAY_PARAM_DESC(hmm_layout, hmm_layouts, name);

static void hmm_expect_writable(struct hmm_test *t, unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		hmm_expect_page(t, i, WRITABLE);
}

static void mixed_memory_is_writable_after_two_calls(struct kunit *test)
{
	const struct hmm_layout *layout = test->param_value;
	struct hmm_test *t = test->priv;
	unsigned long nr = HMM_LAYOUT_PAGES;
	unsigned long addr = layout->make(t, nr);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, nr, ASK_WRITE), 0);
	hmm_expect_writable(t, nr);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	KUNIT_EXPECT_EQ(test, t->faults, layout->faults * nr / 12);
}

/* Adjacent pages have different requests, and some have none. */
static void mixed_memory_serves_single_requests(struct kunit *test)
{
	const unsigned long asks[] = { ASK_WRITE, 0, ASK_READ, ASK_WRITE, 0 };
	const struct hmm_layout *layout = test->param_value;
	struct hmm_test *t = test->priv;
	unsigned long nr = HMM_LAYOUT_PAGES, i;
	unsigned long addr = layout->make(t, nr);
	pte_t before;

	for (i = 0; i < nr; i++)
		t->ask[i] = asks[i % ARRAY_SIZE(asks)];
	before = kunit_mm_pte(t->km, addr + PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, nr), 0);
	for (i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ_MSG(test, 0, t->ask[i] & ~t->pfns[i],
				    "entry %lu", i);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	KUNIT_EXPECT_LE(test, t->faults, layout->faults * nr / 12);
	KUNIT_EXPECT_TRUE(test, pte_same(before, kunit_mm_pte(t->km, addr +
							      PAGE_SIZE)));
}

static void mixed_memory_is_writable_unlocked(struct kunit *test)
{
	const struct hmm_layout *layout = test->param_value;
	struct hmm_test *t = test->priv;
	unsigned long nr = HMM_LAYOUT_PAGES;
	unsigned long addr = layout->make(t, nr);

	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, nr, ASK_WRITE), 0);
	hmm_expect_writable(t, nr);
	KUNIT_EXPECT_EQ(test, t->faults, layout->faults * nr / 12);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(&t->notifier,
							 t->range.notifier_seq));
}

static unsigned long hmm_expected_snapshot(struct hmm_test *t,
					   unsigned long addr)
{
	pte_t pte = kunit_mm_pte(t->km, addr);

	if (!pte_present(pte) || pte_protnone(pte))
		return 0;
	return pte_pfn(pte) |
	       (pte_write(pte) && pte_dirty(pte) ? WRITABLE : READABLE);
}

static void mixed_memory_snapshot_takes_one_call(struct kunit *test)
{
	const struct hmm_layout *layout = test->param_value;
	struct hmm_test *t = test->priv;
	unsigned long nr = HMM_LAYOUT_PAGES, i;
	unsigned long addr = layout->make(t, nr);

	for (i = 0; i < nr; i++)
		t->ask[i] = HMM_PFN_INOUT_FLAGS;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, nr), 0);
	for (i = 0; i < nr; i++)
		hmm_expect_same(t, i, 1, HMM_PFN_INOUT_FLAGS |
				hmm_expected_snapshot(t, addr + i * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_EQ(test, t->faults, 0);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, nr, ASK_READ), 0);
	for (i = 0; i < nr; i++)
		hmm_expect_same(t, i, 1, HMM_PFN_INOUT_FLAGS |
				hmm_expected_snapshot(t, addr + i * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, t->calls, 1);
}

/* After breaking COW, the pass faults the rest but reports nothing more. */
static void stale_call_faults_the_rest_and_keeps_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_make_zero(t, 8), i;

	kunit_mm_write(t->km, addr, 2);
	for (i = 0; i < 8; i++)
		t->ask[i] = ASK_WRITE;
	t->range.pfn_flags_mask = ASK_WRITE;
	t->range.notifier_seq = mmu_interval_read_begin(&t->notifier);
	hmm_set_range(t, addr, 8);
	KUNIT_EXPECT_EQ(test, hmm_call(t), -EBUSY);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_page(t, 1, WRITABLE);
	hmm_expect_asked(t, 2, 6);
	for (i = 2; i < 8; i++)
		KUNIT_EXPECT_TRUE(test, pte_write(kunit_mm_pte(t->km, addr +
							       i * PAGE_SIZE)));
}

/* Even if the pages in front of it break COW. */
static void error_behind_mixed_memory_keeps_results(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_make_zero(t, 8);

	KUNIT_ASSERT_EQ(test, 0, vm_munmap(addr + 5 * PAGE_SIZE, PAGE_SIZE));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 5);
}

/* A failing fault does not affect the pages in front of it. */
static void pages_in_front_of_failing_fault_are_reported(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 3);
	unsigned long addr = kunit_mm_map_file(t->km, file, 8, RW, MAP_SHARED);

	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 3);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 8, ASK_WRITE), -EFAULT);
	hmm_expect_writable(t, 3);
	hmm_expect_asked(t, 3, 5);
}

/* Retries of some pages do not count for others. */
static void fault_limit_applies_to_each_page(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 8, &hmm_file_fops, &addr);
	for (i = 1; i < 8; i += 2)
		file->idle[i] = 2;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_READ), 0);
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_EQ(test, file->faults, 8 + 4 * 2);
	for (i = 0; i < 8; i++)
		hmm_expect_page(t, i, READABLE);
}

/* Drivers that predate the preserved bits test entries for 0. */
static void cleared_entry_of_hole_stays_zero(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_make_zero_and_holes(t, 8), i;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	for (i = 0; i < 8; i++)
		KUNIT_EXPECT_EQ(test, !t->pfns[i], i & 1);

	/* Otherwise bits are preserved, and drivers have to test VALID. */
	for (i = 0; i < 8; i++)
		t->ask[i] = ~0UL;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	for (i = 0; i < 8; i++) {
		KUNIT_EXPECT_EQ(test, t->pfns[i] & HMM_PFN_INOUT_FLAGS,
				HMM_PFN_INOUT_FLAGS);
		KUNIT_EXPECT_EQ(test, !(t->pfns[i] & HMM_PFN_VALID), i & 1);
	}
	hmm_expect_same(t, 1, 1, HMM_PFN_INOUT_FLAGS);
}

/* Invalidation */

static void stale_sequence_returns_ebusy(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	kunit_mm_write(t->km, addr, 4);
	for (i = 0; i < 4; i++)
		t->ask[i] = ASK_READ;
	t->range.pfn_flags_mask = ASK_WRITE;
	t->range.notifier_seq = mmu_interval_read_begin(&t->notifier);
	hmm_set_range(t, addr, 4);
	kunit_mm_zap(t->km, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, hmm_call(t), -EBUSY);
	hmm_expect_asked(t, 0, 4);
}

static void invalidation_during_fault_returns_ebusy(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 8, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 2);
	file->victim = addr;
	file->while_locked = true;
	for (i = 0; i < 8; i++)
		t->ask[i] = ASK_READ;
	t->range.pfn_flags_mask = ASK_WRITE;
	t->range.notifier_seq = mmu_interval_read_begin(&t->notifier);
	hmm_set_range(t, addr, 8);
	KUNIT_EXPECT_EQ(test, hmm_call(t), -EBUSY);
	hmm_expect_same(t, 0, 2, page_to_pfn(file->page) | READABLE);
	hmm_expect_asked(t, 2, 6);
}

/* Huge pages */

static unsigned long hmm_map_thp(struct hmm_test *t)
{
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR);

	kunit_mm_write(t->km, addr, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(t->km->test, "no THP available");
	return addr;
}

static void hmm_expect_huge(struct hmm_test *t, unsigned long i,
			    unsigned long nr, unsigned long flags)
{
	flags |= (unsigned long)PMD_ORDER << HMM_PFN_ORDER_SHIFT;
	for (; nr--; i++)
		hmm_expect_page(t, i, flags);
}

static void thp_is_reported_with_its_order(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr + 3 * PAGE_SIZE, 5,
					     ASK_WRITE), 0);
	hmm_expect_huge(t, 0, 5, WRITABLE);
}

static void thp_mapped_by_ptes_has_order_zero(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t), i;

	kunit_mm_split_pmd(t->km, addr);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	for (i = 0; i < PMD_NR; i++)
		hmm_expect_page(t, i, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_range_extent(&t->range, 0), PMD_NR);
	KUNIT_EXPECT_EQ(test, hmm_range_extent_order(&t->range, 0, PMD_NR),
			(unsigned int)PMD_ORDER);
}

static void write_request_replaces_huge_zero_page(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR);

	kunit_mm_read(t->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "no huge zero page available");
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, PMD_NR, ASK_READ), 0);
	hmm_expect_huge(t, 0, PMD_NR, READABLE);
	KUNIT_EXPECT_TRUE(test, is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)));

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	KUNIT_EXPECT_FALSE(test, is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)));
	KUNIT_EXPECT_EQ(test, t->pfns[7] & WRITABLE, WRITABLE);
}

static void write_request_dirties_clean_thp(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	hmm_madvise(t, addr, PMD_NR, MADV_FREE);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "THP was split");
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, PMD_NR, ASK_WRITE), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);
	KUNIT_EXPECT_TRUE(test, pmd_dirty(kunit_mm_pmd(t->km, addr)));
}

static void single_page_requests_inside_thp_are_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	t->ask[40] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);

	hmm_madvise(t, addr, PMD_NR, MADV_FREE);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "THP was split");
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, READABLE);

	t->ask[40] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, PMD_NR), 0);
	KUNIT_EXPECT_TRUE(test, pmd_dirty(kunit_mm_pmd(t->km, addr)));
	hmm_expect_huge(t, 40, 1, WRITABLE);
	hmm_expect_huge(t, 41, PMD_NR - 41, t->pfns[41] & WRITABLE);
	hmm_expect_huge(t, 0, 40, t->pfns[0] & WRITABLE);
	KUNIT_EXPECT_TRUE(test, t->pfns[0] & t->pfns[41] & HMM_PFN_VALID);
}

#ifdef CONFIG_HUGETLB_PAGE
static void hugetlb_pages_are_mirrored(struct kunit *test)
{
	const unsigned int order = huge_page_order(&default_hstate);
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(t->km, 1), i, pfn;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	hmm_expect_same(t, 0, 8, 0);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	pfn = t->pfns[0] & ~HMM_PFN_FLAGS;
	for (i = 0; i < 8; i++)
		hmm_expect_same(t, i, 1, (pfn + i) | WRITABLE |
				((unsigned long)order << HMM_PFN_ORDER_SHIFT));
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(pfn_folio(pfn)));
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr + 5 * PAGE_SIZE, 1), 0);
	KUNIT_EXPECT_EQ(test, t->pfns[0] & ~HMM_PFN_FLAGS, pfn + 5);
}
#else
static void hugetlb_pages_are_mirrored(struct kunit *test)
{
	kunit_skip(test, "needs hugetlb pages");
}
#endif

/* hmm_range_fault_unlocked_timeout() */

static void fault_that_drops_lock_returns_efault_if_locked(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 1);
	file->drops = -1;
	for (i = 0; i < 3; i++)
		t->ask[i] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 3), -EFAULT);
	hmm_expect_page(t, 0, READABLE);
	hmm_expect_asked(t, 1, 2);
}

static void fault_that_drops_lock_is_retried(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	file->drops = 3;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_READ), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, READABLE);
	/* the sequence number stayed valid, so nothing was done twice */
	KUNIT_EXPECT_EQ(test, file->faults, 3 + 4);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(&t->notifier,
							 t->range.notifier_seq));
}

/* The fault of page 0 maps it and drops the lock. Page 1 has no fault yet. */
static void page_behind_dropped_lock_has_no_tried_flag(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 4, &hmm_file_insert_fops, &addr);
	file->installs = true;
	file->drops = 1;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_READ), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, READABLE);
	KUNIT_EXPECT_EQ(test, file->dropped, addr);
	KUNIT_EXPECT_EQ(test, file->faults, 4);
	KUNIT_EXPECT_EQ(test, file->tried, 0);
}

static void zero_timeout_means_no_limit(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 1, &hmm_file_fops, &addr);
	file->drops = 1000;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 1, ASK_READ), 0);
	KUNIT_EXPECT_EQ(test, file->faults, 1001);
}

static void unlocked_snapshot_does_not_fault(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 1);
	file->drops = -1;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, 0), 0);
	hmm_expect_page(t, 0, READABLE);
	hmm_expect_same(t, 1, 3, 0);
	KUNIT_EXPECT_EQ(test, file->faults, 1);
}

/* Every fault invalidates the range, and page 2 is never mapped. */
static void expired_timeout_restores_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 2);
	file->ms = 5;
	file->idle[2] = U8_MAX;
	file->victim = addr;
	file->zaps_always = true;
	t->ask[1] = ASK_READ | HMM_PFN_INOUT_FLAGS;
	t->ask[2] = ASK_READ;
	t->ask[3] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, 2), -EBUSY);
	hmm_expect_asked(t, 0, 4);
	KUNIT_EXPECT_GT(test, file->idle[2], 0);
}

/* Each fault takes longer than the time limit, and nobody invalidates. */
static void slow_faults_do_not_expire(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 16, &hmm_file_fops, &addr);
	file->ms = 20;
	t->range.default_flags = ASK_READ;
	t->range.pfn_flags_mask = 0;
	KUNIT_EXPECT_EQ(test, hmm_unlocked(t, addr, 16, 1), 0);
	for (i = 0; i < 16; i++)
		hmm_expect_page(t, i, READABLE);
	KUNIT_EXPECT_EQ(test, file->faults, 16);
}

static void faults_that_drop_lock_do_not_expire(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	file->drops = 10;
	file->ms = 20;
	t->ask[3] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, 1), 0);
	hmm_expect_page(t, 3, READABLE);
	KUNIT_EXPECT_EQ(test, file->faults, 10 + 1);
}

/* The first pass takes longer than the limit, and is then invalidated, once. */
static void first_invalidation_does_not_expire(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 16, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 1);
	file->ms = 20;
	file->victim = addr;
	file->while_locked = true;
	t->range.default_flags = ASK_READ;
	t->range.pfn_flags_mask = 0;
	KUNIT_EXPECT_EQ(test, hmm_unlocked(t, addr, 16,
					   msecs_to_jiffies(100)), 0);
	KUNIT_EXPECT_EQ(test, file->faults, 1 + 15 + 1);
}

static void fatal_signal_returns_eintr(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW);
	int read, look, unlocked;

	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	read = hmm_mirror_all(t, addr, 4, ASK_READ);
	unlocked = hmm_unlocked_all(t, addr, 4, ASK_READ);
	look = hmm_snapshot(t, addr, 4);
	flush_signals(current);
	disallow_signal(SIGKILL);
	KUNIT_EXPECT_EQ(test, read, -EINTR);
	KUNIT_EXPECT_EQ(test, unlocked, -EINTR);
	KUNIT_EXPECT_EQ(test, look, 0);
	hmm_expect_same(t, 0, 4, 0);
}

static void fatal_signal_restores_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;
	int ret;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 2);
	file->drops = -1;
	t->ask[1] = ASK_READ;
	t->ask[2] = ASK_WRITE;

	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	KUNIT_EXPECT_TRUE(test, fatal_signal_pending(current));
	ret = hmm_unlocked_each(t, addr, 4, 0);
	flush_signals(current);
	disallow_signal(SIGKILL);
	KUNIT_EXPECT_EQ(test, ret, -EINTR);
	hmm_expect_asked(t, 0, 4);
}

/*
 * The first pass reports page 0, which has no request. Then another thread zaps
 * the page, and the second pass must not take that result for a request.
 */
static void results_are_not_taken_for_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 2);
	file->drops = 1;
	file->victim = addr;
	t->ask[0] = HMM_PFN_INOUT_FLAGS;
	t->ask[2] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, 0), 0);
	hmm_expect_same(t, 0, 1, HMM_PFN_INOUT_FLAGS);
	hmm_expect_hole(t, addr);
	hmm_expect_page(t, 1, READABLE);
	hmm_expect_page(t, 2, READABLE);
	hmm_expect_same(t, 3, 1, 0);
	KUNIT_EXPECT_EQ(test, file->faults, 2 + 2);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(&t->notifier,
							 t->range.notifier_seq));
}

/* A page that was reported and then zapped is faulted again. */
static void requests_are_served_after_invalidation(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 3);
	file->drops = 1;
	file->victim = addr + PAGE_SIZE;
	for (i = 0; i < 4; i++)
		t->ask[i] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, 0), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, READABLE);
	KUNIT_EXPECT_EQ(test, file->faults, 3 + 3);
}

/*
 * The first pass reports pages 0 to 2 and becomes stale. The second one stops
 * at page 1. The result of page 2 must be gone then.
 */
static void stale_results_are_cleared_before_next_pass(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 3);
	file->drops = 1;
	file->victim = addr + PAGE_SIZE;
	file->shrinks = true;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_READ), -EFAULT);
	hmm_expect_page(t, 0, READABLE);
	hmm_expect_same(t, 1, 3, 0);
}

static void unlocked_error_keeps_results_and_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	kunit_mm_protect(t->km, addr + 2 * PAGE_SIZE, 2, VM_READ);
	for (i = 0; i < 4; i++)
		t->ask[i] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, 0), -EPERM);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_page(t, 1, WRITABLE);
	hmm_expect_asked(t, 2, 2);
}

static struct kunit_case hmm_mirror_cases[] = {
	KUNIT_CASE(hmm_pfn_flags_have_stable_values),
	KUNIT_CASE(hmm_pfn_decodes_to_page_and_order),
	KUNIT_CASE(extent_has_equal_flags),
	KUNIT_CASE(extent_joins_mappings_of_all_orders),
	KUNIT_CASE(extent_without_pages_has_equal_results),
	KUNIT_CASE(blocks_of_extent_are_aligned),
	KUNIT_CASE(absurd_range_returns_einval),
	KUNIT_CASE(range_at_notifier_boundary_is_served),
	KUNIT_CASE(snapshot_reports_mappings_without_faults),
	KUNIT_CASE(read_request_faults_pages),
	KUNIT_CASE(write_request_makes_pages_writable),
	KUNIT_CASE(write_request_populates_missing_page_table),
	KUNIT_CASE(read_request_does_not_break_cow),
	KUNIT_CASE(write_flag_requires_dirty_entry),
	KUNIT_CASE(write_request_dirties_lazyfree_page),
	KUNIT_CASE(numa_hint_is_faulted),
	KUNIT_CASE(userfaultfd_marker_is_faulted),
	KUNIT_CASE(swap_entry_is_reported_as_unmapped),
	KUNIT_CASE(mixed_swap_entries_are_reported_as_unmapped),
	KUNIT_CASE(request_waits_for_migration),
	KUNIT_CASE(single_page_requests_are_served),
	KUNIT_CASE(single_page_requests_add_to_default_flags),
	KUNIT_CASE(masked_requests_are_ignored),
	KUNIT_CASE(single_request_inside_extent_is_served),
	KUNIT_CASE(driver_flags_are_preserved),
	KUNIT_CASE(entries_behind_gap_keep_requests),
	KUNIT_CASE(entries_behind_read_only_vma_keep_requests),
	KUNIT_CASE(entries_behind_poison_keep_requests),
	KUNIT_CASE(gap_returns_efault),
	KUNIT_CASE(inaccessible_vma_returns_efault),
	KUNIT_CASE(poison_marker_returns_efault),
	KUNIT_CASE(hwpoison_entry_returns_efault),
	KUNIT_CASE(write_request_in_read_only_vma_returns_eperm),
	KUNIT_CASE(io_memory_returns_efault),
	KUNIT_CASE(pfnmap_returns_efault),
	KUNIT_CASE(pfn_in_mixedmap_returns_efault),
	KUNIT_CASE_PARAM(mixed_memory_is_writable_after_two_calls,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(mixed_memory_serves_single_requests,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(mixed_memory_is_writable_unlocked,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(mixed_memory_snapshot_takes_one_call,
			 hmm_layout_gen_params),
	KUNIT_CASE(stale_call_faults_the_rest_and_keeps_requests),
	KUNIT_CASE(error_behind_mixed_memory_keeps_results),
	KUNIT_CASE(pages_in_front_of_failing_fault_are_reported),
	KUNIT_CASE(fault_limit_applies_to_each_page),
	KUNIT_CASE(cleared_entry_of_hole_stays_zero),
	KUNIT_CASE(stale_sequence_returns_ebusy),
	KUNIT_CASE(invalidation_during_fault_returns_ebusy),
	KUNIT_CASE(thp_is_reported_with_its_order),
	KUNIT_CASE(thp_mapped_by_ptes_has_order_zero),
	KUNIT_CASE(write_request_replaces_huge_zero_page),
	KUNIT_CASE(write_request_dirties_clean_thp),
	KUNIT_CASE(single_page_requests_inside_thp_are_served),
	KUNIT_CASE(hugetlb_pages_are_mirrored),
	KUNIT_CASE(fault_that_drops_lock_returns_efault_if_locked),
	KUNIT_CASE(fault_that_drops_lock_is_retried),
	KUNIT_CASE(page_behind_dropped_lock_has_no_tried_flag),
	KUNIT_CASE(zero_timeout_means_no_limit),
	KUNIT_CASE(unlocked_snapshot_does_not_fault),
	KUNIT_CASE(expired_timeout_restores_requests),
	KUNIT_CASE(slow_faults_do_not_expire),
	KUNIT_CASE(faults_that_drop_lock_do_not_expire),
	KUNIT_CASE(first_invalidation_does_not_expire),
	KUNIT_CASE(fatal_signal_returns_eintr),
	KUNIT_CASE(fatal_signal_restores_requests),
	KUNIT_CASE(results_are_not_taken_for_requests),
	KUNIT_CASE(requests_are_served_after_invalidation),
	KUNIT_CASE(stale_results_are_cleared_before_next_pass),
	KUNIT_CASE(unlocked_error_keeps_results_and_requests),
	{}
};

static struct kunit_suite hmm_mirror_suite = {
	.name = "hmm_mirror",
	.init = hmm_test_init,
	.test_cases = hmm_mirror_cases,
};

/* Device memory */

struct hmm_mover;

/**
 * struct hmm_private_test - a test with two devices
 * @t: driver and address space
 * @dev: the devices; the first one allocates the last pages of its memory, in
 *	front of the memory of the second one
 * @mover: thread that migrates pages to the first device, if any
 */
struct hmm_private_test {
	struct hmm_test *t;
	struct kunit_device *dev[2];
	struct hmm_mover *mover;
};

#define HMM_DEVICE_SIZE		KUNIT_DEVICE_UNIT
/* Pages of a migration, and pages that the first device can allocate. */
#define HMM_DEVICE_BATCH	8UL

static void hmm_move_to_device(struct hmm_private_test *p,
			       struct kunit_device *dev, unsigned long addr,
			       unsigned long nr)
{
	unsigned long src[HMM_DEVICE_BATCH] = {}, dst[HMM_DEVICE_BATCH] = {};
	struct mm_struct *mm = p->t->km->mm;
	struct migrate_vma args = {
		.src = src,
		.dst = dst,
		.start = addr,
		.end = addr + (nr << PAGE_SHIFT),
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	unsigned int moved;

	KUNIT_ASSERT_LE(p->t->km->test, nr, HMM_DEVICE_BATCH);
	lru_add_drain_all();
	mmap_read_lock(mm);
	args.vma = vma_lookup(mm, addr);
	moved = migrate_vma_setup(&args) ? 0 : kunit_device_migrate(&args, dev);
	mmap_read_unlock(mm);
	KUNIT_ASSERT_EQ(p->t->km->test, moved, nr);
}

static int hmm_private_init(struct kunit *test)
{
	struct hmm_private_test *p = kunit_kzalloc(test, sizeof(*p), GFP_KERNEL);
	phys_addr_t start;
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, p);
	start = kunit_device_region(test, 2 * HMM_DEVICE_SIZE);
	for (i = 0; i < 2; i++, start += HMM_DEVICE_SIZE)
		p->dev[i] = kunit_device_create(test, start, HMM_DEVICE_SIZE);
	p->dev[0]->first = p->dev[1]->first - HMM_DEVICE_BATCH;
	p->t = hmm_test_create(test);
	test->priv = p;
	return 0;
}

/* Map written pages and migrate them to the device. */
static unsigned long hmm_map_on_device(struct hmm_private_test *p,
				       struct kunit_device *dev,
				       unsigned long nr)
{
	unsigned long addr = kunit_mm_map(p->t->km, nr, RW);

	kunit_mm_write(p->t->km, addr, nr);
	hmm_move_to_device(p, dev, addr, nr);
	return addr;
}

static void hmm_expect_contents(struct hmm_private_test *p, unsigned long addr,
				unsigned long nr)
{
	unsigned long word;

	for (; nr--; addr += PAGE_SIZE) {
		KUNIT_EXPECT_EQ(p->t->km->test, 0,
				get_user(word, (unsigned long __user *)addr));
		KUNIT_EXPECT_EQ(p->t->km->test, word, addr >> PAGE_SHIFT);
	}
}

/* Make a device-private entry read-only, as mprotect() does. */
static pte_t hmm_forbid_write(pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	if (is_writable_device_private_entry(entry))
		entry = make_readable_device_private_entry(swp_offset(entry));
	return swp_entry_to_pte(entry);
}

/* Share pages with a child, until it exits or the test ends. */
static struct mm_struct *hmm_share(struct hmm_private_test *p,
				   unsigned long addr)
{
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(p->t->km->test, 0,
			kunit_mm_fork(p->t->km, addr, &child));
	return child;
}

static void hmm_expect_device(struct hmm_test *t, unsigned long i,
			      unsigned long nr, unsigned long pfn,
			      unsigned long flags)
{
	for (; nr--; i++, pfn++)
		hmm_expect_same(t, i, 1, pfn | flags);
}

static void own_private_pages_are_reported_in_place(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 8);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	hmm_expect_extents(t, 0, (unsigned long[]){ 8, 0 });
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_READ), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 8);
	KUNIT_EXPECT_EQ(test, dev->faults, 8);
	KUNIT_EXPECT_EQ(test, kunit_device_used(dev), 0);
}

/* The memory of the second device may follow that of the first one. */
static void extent_ends_with_the_device(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct range *a = &p->dev[0]->pgmap->range;
	struct range *b = &p->dev[1]->pgmap->range;

	if (a->start > b->start)
		swap(a, b);
	if (a->end + 1 != b->start)
		kunit_skip(test, "devices are not side by side");
	hmm_set_results(p->t, PHYS_PFN(b->start) - 2, 5, READABLE);
	hmm_expect_extents(p->t, 0, (unsigned long[]){ 2, 3, 0 });
}

static void foreign_private_pages_are_faulted(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = hmm_map_on_device(p, dev, 4), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = p->dev[1];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 4), 0);
	hmm_expect_same(t, 0, 4, 0);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	for (i = 0; i < 4; i++) {
		hmm_expect_page(t, i, t->pfns[i] & WRITABLE);
		KUNIT_EXPECT_TRUE(test, t->pfns[i] & HMM_PFN_VALID);
	}
	KUNIT_EXPECT_EQ(test, dev->faults, 4);
	KUNIT_EXPECT_EQ(test, kunit_device_used(dev), 0);
	hmm_expect_contents(p, addr, 4);
}

static void read_only_own_page_becomes_writable_in_place(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 4);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_change(t->km, addr, 4, hmm_forbid_write);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	hmm_expect_device(t, 0, 4, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 4, pfn, WRITABLE);
	/* The rest of the test needs device-private entries. */
	KUNIT_ASSERT_EQ(test, dev->faults, 0);
	kunit_mm_change(t->km, addr, 4, hmm_forbid_write);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 4, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 4);
}

static void write_request_faults_shared_own_page(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 4), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	hmm_expect_device(t, 0, 4, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_WRITE), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 4);
	hmm_expect_contents(p, addr, 4);
}

/* Nothing else records writes of the device. */
static void write_request_makes_own_page_soft_dirty(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	t->range.dev_private_owner = dev;
	kunit_mm_change(t->km, addr + PAGE_SIZE, 1, pte_swp_clear_soft_dirty);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 3), 0);
	hmm_expect_device(t, 0, 3, pfn, WRITABLE);

	kunit_mm_flags(t->km, addr, 0, VM_SOFTDIRTY);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), 0);
	hmm_expect_device(t, 0, 1, pfn, WRITABLE);
	hmm_expect_device(t, 1, 1, pfn + 1, READABLE);
	hmm_expect_device(t, 2, 1, pfn + 2, WRITABLE);
	KUNIT_EXPECT_FALSE(test, pte_swp_soft_dirty(kunit_mm_pte(t->km, addr +
								 PAGE_SIZE)));

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 3, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(kunit_mm_pte(t->km, addr +
								PAGE_SIZE)));
	hmm_expect_contents(p, addr, 3);
}

static void own_page_kept_by_driver_is_reported_read_only(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 8);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	dev->keeps = true;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 8);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 16);
	t->ask[2] = ASK_WRITE;
	t->ask[3] = ASK_WRITE;
	t->ask[5] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 8), 0);
	hmm_expect_device(t, 0, 8, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 19);

	dev->keeps = false;
	hmm_expect_contents(p, addr, 8);
}

/* The lock may be held by a CPU fault that waits for the driver. */
static void locked_own_page_returns_ebusy(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	struct page *page = pfn_to_page(dev->first);
	unsigned long addr = hmm_map_on_device(p, dev, 1);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_exit(t->km, hmm_share(p, addr));
	lock_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), -EBUSY);
	t->range.pfn_flags_mask = 0;
	KUNIT_EXPECT_EQ(test, hmm_unlocked(t, addr, 1, 2), -EBUSY);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	unlock_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 1, page_to_pfn(page), WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 1);
}

/* A migration would fail and invalidate the range, in every call. */
static void pinned_own_page_is_reported_read_only(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	struct page *page = pfn_to_page(pfn + 1);
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	get_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_WRITE), 0);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_device(t, 1, 1, pfn + 1, READABLE);
	hmm_expect_page(t, 2, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 3, ASK_WRITE), 0);
	hmm_expect_device(t, 1, 1, pfn + 1, READABLE);
	put_page(page);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_WRITE), 0);
	hmm_expect_page(t, 1, WRITABLE);
	hmm_expect_contents(p, addr, 3);
}

/* Each fault invalidates the range and leaves the page on the device. */
static void own_page_that_never_migrates_returns_efault(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = hmm_map_on_device(p, dev, 2);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	dev->declines = true;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 2, ASK_WRITE), -EFAULT);
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_LE(test, dev->faults, 2 * 4);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 2, ASK_WRITE), -EFAULT);

	dev->declines = false;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 2, ASK_WRITE), 0);
	hmm_expect_page(t, 1, WRITABLE);
	hmm_expect_contents(p, addr, 2);
}

/* No entry is a result, as the range is stale in every call. */
static void page_that_never_migrates_keeps_requests(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 6, RW), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_write(t->km, addr, 6);
	hmm_move_to_device(p, dev, addr + 2 * PAGE_SIZE, 2);
	hmm_share(p, addr + 2 * PAGE_SIZE);
	kunit_mm_write(t->km, addr, 2);
	dev->declines = true;
	for (i = 0; i < 6; i++)
		t->ask[i] = ASK_WRITE | HMM_PFN_DMA_MAPPED;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 6, 0), -EFAULT);
	hmm_expect_asked(t, 0, 6);
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 6), -EFAULT);
	hmm_expect_asked(t, 2, 4);

	dev->declines = false;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 6, 0), 0);
	for (i = 0; i < 6; i++)
		hmm_expect_page(t, i, WRITABLE | HMM_PFN_DMA_MAPPED);
	hmm_expect_contents(p, addr, 6);
}

/* The fault of one page fails. The pages behind it are not faulted. */
static void failing_fault_of_own_page_returns_efault(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 6), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	for (i = 0; i < 6; i++)
		t->ask[i] = ASK_WRITE;
	dev->fails = pfn + 2;
	dev->keeps = true;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 6), -EFAULT);
	hmm_expect_device(t, 0, 2, pfn, READABLE);
	hmm_expect_asked(t, 2, 4);
	dev->keeps = false;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 6), -EFAULT);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_page(t, 1, WRITABLE);
	hmm_expect_asked(t, 2, 4);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 6, 0), -EFAULT);
	hmm_expect_asked(t, 2, 4);

	dev->fails = 0;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 6), 0);
	hmm_expect_page(t, 5, WRITABLE);
	hmm_expect_contents(p, addr, 6);
}

/* migrate_to_ram() returns 0 without migrating the page. */
static void foreign_page_kept_by_driver_returns_efault(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = p->dev[1];
	dev->keeps = true;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), -EFAULT);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	KUNIT_EXPECT_LE(test, dev->faults, 3 * 4);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 3, ASK_READ), -EFAULT);
	dev->keeps = false;
	dev->declines = true;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), -EFAULT);
	KUNIT_EXPECT_LE(test, t->calls, 2);

	dev->declines = false;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), 0);
	hmm_expect_contents(p, addr, 3);
}

/**
 * struct hmm_mover - another thread that migrates pages to a device
 * @thread: the thread; its address is that of the first page
 * @p: the test
 * @nr: number of pages
 * @mirrored: if not NULL, wait after migrate_vma_setup() until another thread
 *	waits for the first page, or until this becomes true
 * @waited_for: another thread did wait for the first page
 * @begin: the thread waits for this before it starts
 * @collected: complete after migrate_vma_setup()
 */
struct hmm_mover {
	struct kunit_mm_thread thread;
	struct hmm_private_test *p;
	unsigned long nr;
	bool *mirrored;
	bool waited_for;
	struct completion begin;
	struct completion collected;
};

/* A thread that waits for a migration entry waits for the lock of the page. */
static void hmm_wait_for_waiter(struct hmm_mover *m, unsigned long src)
{
	struct folio *folio = page_folio(migrate_pfn_to_page(src));

	while (!folio_test_waiters(folio) && !READ_ONCE(*m->mirrored))
		schedule_timeout_uninterruptible(1);
	m->waited_for = folio_test_waiters(folio);
}

static int hmm_move(struct kunit_mm_thread *thread)
{
	struct hmm_mover *m = container_of(thread, struct hmm_mover, thread);
	unsigned long src[HMM_DEVICE_BATCH] = {}, dst[HMM_DEVICE_BATCH] = {};
	struct mm_struct *mm = thread->km->mm;
	struct migrate_vma args = {
		.src = src,
		.dst = dst,
		.start = thread->addr,
		.end = thread->addr + (m->nr << PAGE_SHIFT),
		.pgmap_owner = m->p->dev[0],
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	int ret;

	wait_for_completion(&m->begin);
	mmap_read_lock(mm);
	args.vma = vma_lookup(mm, thread->addr);
	ret = migrate_vma_setup(&args);
	complete(&m->collected);
	if (!ret && m->mirrored && src[0] & MIGRATE_PFN_MIGRATE)
		hmm_wait_for_waiter(m, src[0]);
	if (!ret)
		ret = kunit_device_migrate(&args, m->p->dev[0]);
	mmap_read_unlock(mm);
	return ret;
}

static void hmm_mover_start(struct hmm_mover *m, struct hmm_private_test *p,
			    unsigned long addr, unsigned long nr)
{
	p->mover = m;
	m->p = p;
	m->nr = nr;
	init_completion(&m->begin);
	init_completion(&m->collected);
	kunit_mm_thread_start(&m->thread, p->t->km, addr, hmm_move);
}

/* The call waits for the first migration entry. Then all pages have moved. */
static void pages_migrating_to_the_device_stay_there(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 8, RW);
	unsigned long pfn = dev->first;
	bool mirrored = false;
	struct hmm_mover m = { .mirrored = &mirrored };
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_write(t->km, addr, 8);
	lru_add_drain_all();
	hmm_mover_start(&m, p, addr, 8);
	complete(&m.begin);
	wait_for_completion(&m.collected);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	WRITE_ONCE(mirrored, true);
	kunit_mm_thread_end(&m.thread);
	KUNIT_EXPECT_TRUE(test, m.waited_for);
	KUNIT_EXPECT_EQ(test, m.thread.ret, 8);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 8);
}

/* Called during an invalidation, where threads cannot be started. */
static void hmm_move_rest(struct hmm_test *t)
{
	struct hmm_private_test *p = t->km->test->priv;

	complete(&p->mover->begin);
	wait_for_completion(&p->mover->thread.done);
}

/* They migrate while page 0 is copied, which invalidates the range. */
static void pages_migrated_during_a_fault_stay_on_device(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 8, RW);
	unsigned long pfn = dev->first;
	struct hmm_test *t = p->t;
	struct hmm_mover m = {};

	t->range.dev_private_owner = dev;
	kunit_mm_read(t->km, addr, 8);
	hmm_mover_start(&m, p, addr + PAGE_SIZE, 7);
	t->on_invalidation = hmm_move_rest;
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	KUNIT_EXPECT_NULL(test, t->on_invalidation);
	complete(&m.begin);
	kunit_mm_thread_end(&m.thread);
	KUNIT_EXPECT_EQ(test, m.thread.ret, 7);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_device(t, 1, 7, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
}

/* An extra reference keeps a page of another device from migrating. */
static void pinned_foreign_page_returns_efault(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	struct page *page = pfn_to_page(dev->first + 1);
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = p->dev[1];
	get_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), -EFAULT);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 3, ASK_READ), -EFAULT);
	put_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), 0);
	hmm_expect_contents(p, addr, 3);
}

/* Read-only own pages, zero pages, and holes. */
static void own_pages_in_mixed_memory_take_two_calls(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 24, RW), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_read(t->km, addr, 24);
	for (i = 0; i < HMM_DEVICE_BATCH; i++) {
		unsigned long at = addr + (3 * i + 1) * PAGE_SIZE;

		kunit_mm_write(t->km, at, 1);
		hmm_move_to_device(p, dev, at, 1);
		kunit_mm_zap(t->km, at + PAGE_SIZE, 1);
	}
	hmm_share(p, addr);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 24, ASK_WRITE), 0);
	hmm_expect_writable(t, 24);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	/* a page that migrates back read-only is faulted again */
	KUNIT_EXPECT_LE(test, t->faults, 24 + HMM_DEVICE_BATCH);
	KUNIT_EXPECT_LE(test, dev->faults, HMM_DEVICE_BATCH);
}

static void write_request_faults_only_its_own_page(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct kunit_device *dev = p->dev[0];
	unsigned long pfn = dev->first;
	unsigned long addr = hmm_map_on_device(p, dev, 6);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	hmm_share(p, addr);
	t->ask[1] = ASK_READ;
	t->ask[2] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 6), 0);
	hmm_expect_device(t, 0, 2, pfn, READABLE);
	hmm_expect_page(t, 2, WRITABLE);
	hmm_expect_device(t, 3, 3, pfn + 3, READABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 1);
}

/* Adjacent pages have no adjacent pfns. */
static void scattered_private_pages_are_reported_by_owner(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	unsigned long pfn = p->dev[0]->first, addr, i;
	struct hmm_test *t = p->t;

	addr = kunit_mm_map(t->km, 9, RW);
	kunit_mm_write(t->km, addr, 9);
	for (i = 0; i < 8; i++)
		hmm_move_to_device(p, p->dev[i == 5], addr +
				   (i * 3 & 7) * PAGE_SIZE, 1);
	kunit_mm_change(t->km, addr + 6 * PAGE_SIZE, 1, hmm_forbid_write);

	t->range.dev_private_owner = p->dev[0];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 9), 0);
	for (i = 0; i < 8; i++) {
		unsigned long at = i * 3 & 7;

		if (i == 5)
			hmm_expect_same(t, at, 1, 0);
		else
			hmm_expect_device(t, at, 1, pfn + i - (i > 5),
					  at == 6 ? READABLE : WRITABLE);
	}
	hmm_expect_page(t, 8, WRITABLE);

	t->ask[7] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 9), 0);
	hmm_expect_page(t, 7, t->pfns[7] & WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 9, ASK_WRITE), 0);
	KUNIT_EXPECT_EQ(test, p->dev[0]->faults, 0);
	KUNIT_EXPECT_EQ(test, p->dev[1]->faults, 1);
	hmm_expect_contents(p, addr, 9);
}

/* One run of entries, of which each device sees its own part. */
static void private_run_of_two_devices_is_split(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	unsigned long first, second, addr, i;
	struct hmm_test *t = p->t;

	addr = kunit_mm_map(t->km, 6, RW);
	kunit_mm_write(t->km, addr, 6);
	p->dev[0]->first += HMM_DEVICE_BATCH - 3;
	first = p->dev[0]->first;
	second = p->dev[1]->first;
	KUNIT_ASSERT_EQ(test, first + 3, second);
	hmm_move_to_device(p, p->dev[0], addr, 3);
	hmm_move_to_device(p, p->dev[1], addr + 3 * PAGE_SIZE, 3);

	t->range.dev_private_owner = p->dev[0];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 6), 0);
	hmm_expect_device(t, 0, 3, first, WRITABLE);
	hmm_expect_same(t, 3, 3, 0);
	t->range.dev_private_owner = p->dev[1];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 6), 0);
	hmm_expect_same(t, 0, 3, 0);
	hmm_expect_device(t, 3, 3, second, WRITABLE);

	t->range.dev_private_owner = p->dev[0];
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 6, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 3, first, WRITABLE);
	for (i = 3; i < 6; i++)
		hmm_expect_page(t, i, WRITABLE);
	KUNIT_EXPECT_EQ(test, p->dev[0]->faults, 0);
	KUNIT_EXPECT_EQ(test, p->dev[1]->faults, 3);
	hmm_expect_contents(p, addr, 6);
}

static void request_revokes_exclusive_page(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test *t = p->t;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);
	struct page *page = NULL;

	kunit_mm_write(t->km, addr, 1);
	mmap_read_lock(t->km->mm);
	make_device_exclusive_range(t->km->mm, addr, addr + PAGE_SIZE, &page,
				    p);
	mmap_read_unlock(t->km->mm);
	KUNIT_ASSERT_NOT_NULL(test, page);
	unlock_page(page);
	put_page(page);
	KUNIT_ASSERT_FALSE(test, pte_present(kunit_mm_pte(t->km, addr)));

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, 0);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 1, ASK_WRITE), 0);
	hmm_expect_page(t, 0, WRITABLE);
	hmm_expect_contents(p, addr, 1);
}

static struct kunit_case hmm_private_cases[] = {
	KUNIT_CASE(own_private_pages_are_reported_in_place),
	KUNIT_CASE(extent_ends_with_the_device),
	KUNIT_CASE(foreign_private_pages_are_faulted),
	KUNIT_CASE(read_only_own_page_becomes_writable_in_place),
	KUNIT_CASE(write_request_faults_shared_own_page),
	KUNIT_CASE(write_request_makes_own_page_soft_dirty),
	KUNIT_CASE(own_page_kept_by_driver_is_reported_read_only),
	KUNIT_CASE(locked_own_page_returns_ebusy),
	KUNIT_CASE(pinned_own_page_is_reported_read_only),
	KUNIT_CASE(own_page_that_never_migrates_returns_efault),
	KUNIT_CASE(page_that_never_migrates_keeps_requests),
	KUNIT_CASE(failing_fault_of_own_page_returns_efault),
	KUNIT_CASE(foreign_page_kept_by_driver_returns_efault),
	KUNIT_CASE(pages_migrating_to_the_device_stay_there),
	KUNIT_CASE(pages_migrated_during_a_fault_stay_on_device),
	KUNIT_CASE(pinned_foreign_page_returns_efault),
	KUNIT_CASE(own_pages_in_mixed_memory_take_two_calls),
	KUNIT_CASE(write_request_faults_only_its_own_page),
	KUNIT_CASE(scattered_private_pages_are_reported_by_owner),
	KUNIT_CASE(private_run_of_two_devices_is_split),
	KUNIT_CASE(request_revokes_exclusive_page),
	{}
};

static struct kunit_suite hmm_private_suite = {
	.name = "hmm_mirror_private",
	.init = hmm_private_init,
	.test_cases = hmm_private_cases,
};

kunit_test_suites(&hmm_mirror_suite, &hmm_private_suite);
