// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for address-space mirroring.
 *
 * A test is a driver: it has an interval notifier over an address space of its
 * own, asks hmm_range_fault() or hmm_range_fault_unlocked_timeout(), and looks
 * at the entries, at the page tables and at how often a fault handler ran.
 *
 * The suite hmm_mirror needs no device. The suite hmm_mirror_private has two
 * devices with memory, whose pagemaps lie side by side, so that one run of
 * device-private pages belongs to both. Pages get there and back by
 * migrate_vma_setup() and its companions, as with any driver.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hmm.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pfn_t.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swapops.h>
#include <linux/workqueue.h>

#include "../internal.h"
#include "kunit_mm.h"

#define RW		(PROT_READ | PROT_WRITE)
#define PMD_NR		((unsigned long)(PMD_SIZE >> PAGE_SHIFT))
#define READABLE	HMM_PFN_VALID
#define WRITABLE	(HMM_PFN_VALID | HMM_PFN_WRITE)
#define ASK_READ	HMM_PFN_REQ_FAULT
#define ASK_WRITE	(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)

/* How often a driver starts again before the test calls it a livelock. */
#define HMM_TEST_TRIES	100

#define HMM_TEST_PAGES	MAX_PTRS_PER_PTE
#define HMM_TEST_SPAN	(16UL * SZ_1G)

/**
 * struct hmm_test - a driver and the address space that it mirrors
 * @km: the address space
 * @notifier: subscription to all of it that tests use
 * @lock: the driver's lock
 * @range: what is asked for
 * @calls: how many of hmm_range_fault() the last request took
 * @faults: how many faults it took
 * @ask: what @pfns are before each call
 * @pfns: entries of @range
 * @on_invalidation: called once, when the range is invalidated
 */
struct hmm_test {
	struct kunit_mm *km;
	struct mmu_interval_notifier notifier;
	struct mutex lock;	/* between invalidations and the driver */
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

/* Those of this thread, of whatever address. */
static unsigned long hmm_faults(void)
{
	return current->min_flt + current->maj_flt;
}

/* As a driver does it: breaking COW, for one, invalidates the range itself. */
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

/* The requests are those in @ask. */
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

/* The page that is mapped at entry @i, with @flags and no others. */
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

static void flags_have_their_places(struct kunit *test)
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

static void entry_gives_back_page_and_order(struct kunit *test)
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
	}
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

static void absurd_ranges_are_refused(struct kunit *test)
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

static void range_at_the_ends_of_its_notifier_is_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long low = t->notifier.interval_tree.start;
	unsigned long high = t->notifier.interval_tree.last + 1;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, low, 1), 0);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, high - PAGE_SIZE, 1), 0);
}

/* Snapshots and faults */

static void snapshot_tells_what_is_there_and_faults_nothing(struct kunit *test)
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

static void read_request_brings_pages_in(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;

	kunit_mm_write(t->km, addr + 3 * PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_READ), 0);
	for (i = 0; i < 8; i++)
		hmm_expect_page(t, i, i == 3 ? WRITABLE : READABLE);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(t->km, addr)));
}

static void write_request_brings_writable_pages_in(struct kunit *test)
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

static void write_request_in_a_fresh_page_table(struct kunit *test)
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

static void reading_never_breaks_cow(struct kunit *test)
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

static void write_is_reported_for_dirty_entries_only(struct kunit *test)
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

static void page_that_may_be_freed_is_made_dirty_to_write(struct kunit *test)
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

static void hinting_entry_is_faulted_in(struct kunit *test)
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

static void userfaultfd_marker_is_faulted_in(struct kunit *test)
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

static void swap_entry_is_not_there(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);

	kunit_mm_plant(t->km, addr, swp_entry_to_pte(swp_entry(0, 100)));
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 1), 0);
	hmm_expect_same(t, 0, 1, 0);
}

static void swap_entries_between_pages_are_not_there(struct kunit *test)
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

static void request_waits_for_a_migration(struct kunit *test)
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

static void requests_of_single_pages_are_heard(struct kunit *test)
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

static void requests_add_to_those_of_the_range(struct kunit *test)
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

static void requests_that_are_masked_out_are_not_heard(struct kunit *test)
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

/* An extent of present pages of which one is to be written to. */
static void request_in_the_middle_of_an_extent_is_heard(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR), i;

	kunit_mm_write(t->km, addr, PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "no huge page to be had");
	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_change(t->km, addr, PMD_NR, pte_mkclean);

	t->ask[17] = ASK_WRITE;
	t->ask[18] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, 32), 0);
	for (i = 0; i < 32; i++)
		hmm_expect_page(t, i, i == 17 ? WRITABLE : READABLE);
}

/* Driver flags */

static void driver_flags_are_carried_over(struct kunit *test)
{
	const unsigned long sticky = HMM_PFN_INOUT_FLAGS;
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW), i;

	if (!sticky)
		kunit_skip(test, "no room for them");
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_read(t->km, addr + PAGE_SIZE, 1);
	/* what else an entry holds does not stay, page by page or not */
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

static void entries_from_a_gap_on_keep_their_input(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 3);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(addr + 5 * PAGE_SIZE, PAGE_SIZE));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 5);
}

static void entries_from_a_read_only_vma_on_keep_their_input(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 8);
	kunit_mm_protect(t->km, addr + 5 * PAGE_SIZE, 1, VM_READ);
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EPERM, 5);
}

static void entries_from_poison_on_keep_their_input(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr, 3);
	kunit_mm_plant(t->km, addr + 3 * PAGE_SIZE,
		       make_pte_marker(PTE_MARKER_POISONED));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 3);
}

/* A snapshot of one page says @entry, and every request for it @error. */
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

static void gap_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;

	hmm_expect_refusal(t, t->km->cursor, HMM_PFN_ERROR, -EFAULT);
}

static void vma_without_access_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);

	kunit_mm_write(t->km, addr, 1);
	kunit_mm_protect(t->km, addr, 2, 0);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
	hmm_expect_refusal(t, addr + PAGE_SIZE, HMM_PFN_ERROR, -EFAULT);
}

static void poison_marker_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 1, RW);

	kunit_mm_plant(t->km, addr, make_pte_marker(PTE_MARKER_POISONED));
	hmm_expect_refusal(t, addr, 0, -EFAULT);
}

static void hwpoison_entry_cannot_be_mirrored(struct kunit *test)
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

static void write_to_a_read_only_vma_is_not_permitted(struct kunit *test)
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

/* Mappings of a driver, with a page that the file owns */

/**
 * struct hmm_test_file - a file whose faults are slow
 * @test: the test
 * @page: what is mapped, everywhere
 * @faults: how often the handler ran
 * @ms: how long it takes
 * @drops: how often it is to drop the mmap lock first; negative: always
 * @victim: address of a page that another thread zaps meanwhile; 0: none
 * @while_locked: it does so with the mmap lock held by the handler
 * @shrinks: from then on, the file ends where the victim is
 * @installs: it maps the page before it drops the mmap lock
 * @dropped: address at which it has dropped that last
 * @tried: faults of other addresses that were said to be tried before
 * @idle: how many faults of a page do nothing
 */
struct hmm_test_file {
	struct hmm_test *test;
	struct page *page;
	unsigned int faults;
	unsigned int ms;
	int drops;
	unsigned long victim;
	bool while_locked;
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

/* Whether a fault of the page does nothing, for once. */
static bool hmm_file_is_idle(struct hmm_test_file *file, pgoff_t pgoff)
{
	return pgoff < ARRAY_SIZE(file->idle) && file->idle[pgoff] &&
	       file->idle[pgoff]--;
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
	if (hmm_file_is_idle(file, vmf->pgoff))
		return VM_FAULT_NOPAGE;
	if (file->shrinks && vmf->address >= file->victim)
		return VM_FAULT_SIGBUS;
	if (file->while_locked && file->victim) {
		zap_page_range_single(vma_lookup(vmf->vma->vm_mm, file->victim),
				      file->victim, PAGE_SIZE, NULL);
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

static void io_memory_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	hmm_map_file(t, 1, &hmm_file_io_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

static void pfnmap_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	hmm_map_file(t, 1, &hmm_file_pfn_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

static void mere_pfn_in_a_mixed_map_cannot_be_mirrored(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL))
		kunit_skip(test, "needs special PTEs");
	hmm_map_file(t, 1, &hmm_file_mixed_fops, &addr);
	hmm_expect_refusal(t, addr, HMM_PFN_ERROR, -EFAULT);
}

/*
 * Mixed memory. A request to write invalidates the range wherever it breaks
 * COW. However often that is, two calls are enough, and a fault a page.
 */

/**
 * struct hmm_layout - memory of one kind, or a mixture
 * @name: for messages
 * @make: maps @nr pages of it
 * @faults: how many of 12 pages are faulted to be written to
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

	/* a table of PTEs, so that the first fault is none of a huge page */
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

/* Pages of a file, to be copied before they are written to. */
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

/* Hinting entries between pages that fork() left read-only. */
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

/* Of six: read-only, zero, hole, written, read-only and clean, hole. */
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

static void memory_of_each_kind_is_writable_after_two_calls(struct kunit *test)
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

/* No two pages in a row have the same request, and some have none. */
static void memory_of_each_kind_serves_single_requests(struct kunit *test)
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

static void memory_of_each_kind_is_writable_unlocked(struct kunit *test)
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

static void memory_of_each_kind_is_told_in_one_call(struct kunit *test)
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

/* The pass goes on behind what has broken COW, but reports nothing there. */
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

/* Also where the pages before it have broken COW. */
static void error_behind_mixed_memory_leaves_results(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_make_zero(t, 8);

	KUNIT_ASSERT_EQ(test, 0, vm_munmap(addr + 5 * PAGE_SIZE, PAGE_SIZE));
	t->range.start = addr;
	hmm_expect_stop(t, 8, -EFAULT, 5);
}

/* The fault of a page fails, which those before it do not suffer from. */
static void pages_before_a_failing_fault_are_reported(struct kunit *test)
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

/* That of some does not use up those of others. */
static void each_page_has_its_own_tries(struct kunit *test)
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

/* As a driver may that was written when an entry had no bits to be kept. */
static void entry_of_a_hole_is_zero_if_it_was_cleared(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_make_zero_and_holes(t, 8), i;

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	for (i = 0; i < 8; i++)
		KUNIT_EXPECT_EQ(test, !t->pfns[i], i & 1);

	/* else the kept bits are what they were, and VALID has to be tested */
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

static void sequence_that_moved_is_busy(struct kunit *test)
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

static void invalidation_during_a_fault_is_busy(struct kunit *test)
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
		kunit_skip(t->km->test, "no huge page to be had");
	return addr;
}

static void hmm_expect_huge(struct hmm_test *t, unsigned long i,
			    unsigned long nr, unsigned long flags)
{
	flags |= (unsigned long)PMD_ORDER << HMM_PFN_ORDER_SHIFT;
	for (; nr--; i++)
		hmm_expect_page(t, i, flags);
}

static void huge_page_is_reported_with_its_order(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr + 3 * PAGE_SIZE, 5,
					     ASK_WRITE), 0);
	hmm_expect_huge(t, 0, 5, WRITABLE);
}

static void huge_page_mapped_by_ptes_has_order_zero(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t), i;

	kunit_mm_split_pmd(t->km, addr);
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	for (i = 0; i < PMD_NR; i++)
		hmm_expect_page(t, i, WRITABLE);
}

static void huge_zero_page_is_readable_and_replaced_to_write(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR);

	kunit_mm_read(t->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "no huge zero page to be had");
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, PMD_NR, ASK_READ), 0);
	hmm_expect_huge(t, 0, PMD_NR, READABLE);
	KUNIT_EXPECT_TRUE(test, is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)));

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	KUNIT_EXPECT_FALSE(test, is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)));
	KUNIT_EXPECT_EQ(test, t->pfns[7] & WRITABLE, WRITABLE);
}

static void clean_huge_page_is_made_dirty_to_write(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	hmm_madvise(t, addr, PMD_NR, MADV_FREE);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "huge page was split");
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, PMD_NR, ASK_WRITE), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);
	KUNIT_EXPECT_TRUE(test, pmd_dirty(kunit_mm_pmd(t->km, addr)));
}

static void requests_differ_within_a_huge_page(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	unsigned long addr = hmm_map_thp(t);

	t->ask[40] = ASK_READ;
	KUNIT_EXPECT_EQ(test, hmm_mirror_each(t, addr, PMD_NR), 0);
	hmm_expect_huge(t, 0, PMD_NR, WRITABLE);

	hmm_madvise(t, addr, PMD_NR, MADV_FREE);
	if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "huge page was split");
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

/* The form that takes the mmap lock by itself */

static void held_lock_cannot_be_dropped(struct kunit *test)
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

static void handler_that_drops_the_lock_is_served(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr, i;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	file->drops = 3;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_READ), 0);
	for (i = 0; i < 4; i++)
		hmm_expect_page(t, i, READABLE);
	/* nothing was done twice: the sequence held */
	KUNIT_EXPECT_EQ(test, file->faults, 3 + 4);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(&t->notifier,
							 t->range.notifier_seq));
}

/* The fault of page 0 drops the lock and is served; page 1 is not tried yet. */
static void page_after_a_dropped_lock_is_not_tried_before(struct kunit *test)
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

static void no_timeout_means_no_limit(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 1, &hmm_file_fops, &addr);
	file->drops = 1000;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 1, ASK_READ), 0);
	KUNIT_EXPECT_EQ(test, file->faults, 1001);
}

static void snapshot_without_lock_faults_nothing(struct kunit *test)
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

static void end_of_time_is_busy_and_restores_requests(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 4, &hmm_file_fops, &addr);
	kunit_mm_read(t->km, addr, 2);
	file->drops = -1;
	t->ask[1] = ASK_READ | HMM_PFN_INOUT_FLAGS;
	t->ask[2] = ASK_READ;
	t->ask[3] = ASK_WRITE;
	KUNIT_EXPECT_EQ(test, hmm_unlocked_each(t, addr, 4, HZ / 2), -EBUSY);
	hmm_expect_asked(t, 0, 4);
	KUNIT_EXPECT_GT(test, file->faults, 2);
}

/* Each fault takes as long as there is for all of them. */
static void end_of_time_is_seen_while_pages_come_in(struct kunit *test)
{
	struct hmm_test *t = test->priv;
	struct hmm_test_file *file;
	unsigned long addr;

	file = hmm_map_file(t, 16, &hmm_file_fops, &addr);
	file->ms = 100;
	t->range.default_flags = ASK_READ;
	t->range.pfn_flags_mask = 0;
	KUNIT_EXPECT_EQ(test, hmm_unlocked(t, addr, 16, msecs_to_jiffies(100)),
			-EBUSY);
	KUNIT_EXPECT_LT(test, file->faults, 16);
}

static void fatal_signal_ends_faulting(struct kunit *test)
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

static void fatal_signal_ends_the_wait_and_restores_requests(struct kunit *test)
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
 * The first pass reports page 0 as valid though nobody asked for it. Were that
 * result taken for a request when another thread has zapped the page and the
 * range is read again, the page would be faulted in.
 */
static void own_results_are_not_taken_for_requests(struct kunit *test)
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

/* A page that was asked for, reported, and zapped is brought in once more. */
static void requests_are_met_after_an_invalidation(struct kunit *test)
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
 * The first pass reports pages 0 to 2 and is given up; the second one ends at
 * page 1. A driver that loads the results before that must not find page 2.
 */
static void results_of_a_pass_that_was_given_up_are_gone(struct kunit *test)
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

static void unlocked_errors_leave_results_and_requests(struct kunit *test)
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
	KUNIT_CASE(flags_have_their_places),
	KUNIT_CASE(entry_gives_back_page_and_order),
	KUNIT_CASE(absurd_ranges_are_refused),
	KUNIT_CASE(range_at_the_ends_of_its_notifier_is_served),
	KUNIT_CASE(snapshot_tells_what_is_there_and_faults_nothing),
	KUNIT_CASE(read_request_brings_pages_in),
	KUNIT_CASE(write_request_brings_writable_pages_in),
	KUNIT_CASE(write_request_in_a_fresh_page_table),
	KUNIT_CASE(reading_never_breaks_cow),
	KUNIT_CASE(write_is_reported_for_dirty_entries_only),
	KUNIT_CASE(page_that_may_be_freed_is_made_dirty_to_write),
	KUNIT_CASE(hinting_entry_is_faulted_in),
	KUNIT_CASE(userfaultfd_marker_is_faulted_in),
	KUNIT_CASE(swap_entry_is_not_there),
	KUNIT_CASE(swap_entries_between_pages_are_not_there),
	KUNIT_CASE(request_waits_for_a_migration),
	KUNIT_CASE(requests_of_single_pages_are_heard),
	KUNIT_CASE(requests_add_to_those_of_the_range),
	KUNIT_CASE(requests_that_are_masked_out_are_not_heard),
	KUNIT_CASE(request_in_the_middle_of_an_extent_is_heard),
	KUNIT_CASE(driver_flags_are_carried_over),
	KUNIT_CASE(entries_from_a_gap_on_keep_their_input),
	KUNIT_CASE(entries_from_a_read_only_vma_on_keep_their_input),
	KUNIT_CASE(entries_from_poison_on_keep_their_input),
	KUNIT_CASE(gap_cannot_be_mirrored),
	KUNIT_CASE(vma_without_access_cannot_be_mirrored),
	KUNIT_CASE(poison_marker_cannot_be_mirrored),
	KUNIT_CASE(hwpoison_entry_cannot_be_mirrored),
	KUNIT_CASE(write_to_a_read_only_vma_is_not_permitted),
	KUNIT_CASE(io_memory_cannot_be_mirrored),
	KUNIT_CASE(pfnmap_cannot_be_mirrored),
	KUNIT_CASE(mere_pfn_in_a_mixed_map_cannot_be_mirrored),
	KUNIT_CASE_PARAM(memory_of_each_kind_is_writable_after_two_calls,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(memory_of_each_kind_serves_single_requests,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(memory_of_each_kind_is_writable_unlocked,
			 hmm_layout_gen_params),
	KUNIT_CASE_PARAM(memory_of_each_kind_is_told_in_one_call,
			 hmm_layout_gen_params),
	KUNIT_CASE(stale_call_faults_the_rest_and_keeps_requests),
	KUNIT_CASE(error_behind_mixed_memory_leaves_results),
	KUNIT_CASE(pages_before_a_failing_fault_are_reported),
	KUNIT_CASE(each_page_has_its_own_tries),
	KUNIT_CASE(entry_of_a_hole_is_zero_if_it_was_cleared),
	KUNIT_CASE(sequence_that_moved_is_busy),
	KUNIT_CASE(invalidation_during_a_fault_is_busy),
	KUNIT_CASE(huge_page_is_reported_with_its_order),
	KUNIT_CASE(huge_page_mapped_by_ptes_has_order_zero),
	KUNIT_CASE(huge_zero_page_is_readable_and_replaced_to_write),
	KUNIT_CASE(clean_huge_page_is_made_dirty_to_write),
	KUNIT_CASE(requests_differ_within_a_huge_page),
	KUNIT_CASE(hugetlb_pages_are_mirrored),
	KUNIT_CASE(held_lock_cannot_be_dropped),
	KUNIT_CASE(handler_that_drops_the_lock_is_served),
	KUNIT_CASE(page_after_a_dropped_lock_is_not_tried_before),
	KUNIT_CASE(no_timeout_means_no_limit),
	KUNIT_CASE(snapshot_without_lock_faults_nothing),
	KUNIT_CASE(end_of_time_is_busy_and_restores_requests),
	KUNIT_CASE(end_of_time_is_seen_while_pages_come_in),
	KUNIT_CASE(fatal_signal_ends_faulting),
	KUNIT_CASE(fatal_signal_ends_the_wait_and_restores_requests),
	KUNIT_CASE(own_results_are_not_taken_for_requests),
	KUNIT_CASE(requests_are_met_after_an_invalidation),
	KUNIT_CASE(results_of_a_pass_that_was_given_up_are_gone),
	KUNIT_CASE(unlocked_errors_leave_results_and_requests),
	{}
};

static struct kunit_suite hmm_mirror_suite = {
	.name = "hmm_mirror",
	.init = hmm_test_init,
	.test_cases = hmm_mirror_cases,
};

/* Device memory */

/**
 * struct hmm_test_device - a device with memory of its own
 * @pgmap: its pages
 * @next: pfn of the page that is handed out next
 * @used: pages in use
 * @faults: pages that the CPU has faulted back
 * @keeps: it leaves them where they are, as a driver that looks them up may
 * @declines: it does so after it has begun to migrate them
 * @fails: pfn of a page whose fault fails; 0: of none
 */
struct hmm_test_device {
	struct dev_pagemap *pgmap;
	unsigned long next;
	atomic_t used;
	unsigned int faults;
	bool keeps;
	bool declines;
	unsigned long fails;
};

struct hmm_mover;

/*
 * Two devices; what the first has last and the second first lies together. A
 * thread may move pages to the first one.
 */
struct hmm_private_test {
	struct hmm_test *t;
	struct hmm_test_device dev[2];
	struct hmm_mover *mover;
};

#define HMM_DEVICE_SIZE		((phys_addr_t)PAGES_PER_SUBSECTION << PAGE_SHIFT)
/* Pages that are migrated in one go, and that the first device has at most. */
#define HMM_DEVICE_BATCH	8UL

/* What the device keeps in a page lies in a page of the system. */
static void hmm_device_page_free(struct page *page)
{
	struct hmm_test_device *dev = page->pgmap->owner;

	__free_page(page->zone_device_data);
	atomic_dec(&dev->used);
}

static struct page *hmm_device_page(struct hmm_test_device *dev)
{
	struct page *store = alloc_page(GFP_KERNEL), *page;

	if (!store)
		return NULL;
	page = pfn_to_page(dev->next++);
	zone_device_page_init(page);
	page->zone_device_data = store;
	atomic_inc(&dev->used);
	return page;
}

/* Device or system: the page that @source is to be copied to, locked. */
static struct page *hmm_destination(struct hmm_test_device *to,
				    struct page *source)
{
	struct page *page;

	if (to) {
		page = hmm_device_page(to);
		if (page && source)
			copy_highpage(page->zone_device_data, source);
		else if (page)
			clear_highpage(page->zone_device_data);
		return page;
	}
	page = alloc_page(GFP_HIGHUSER_MOVABLE);
	if (page) {
		lock_page(page);
		copy_highpage(page, source->zone_device_data);
	}
	return page;
}

static unsigned int hmm_migrate_collected(struct migrate_vma *args,
					  struct hmm_test_device *to)
{
	unsigned int moved = 0;
	struct page *page;
	unsigned long i;

	for (i = 0; i < args->npages; i++) {
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		page = hmm_destination(to, migrate_pfn_to_page(args->src[i]));
		if (page)
			args->dst[i] = migrate_pfn(page_to_pfn(page)) |
				       (args->src[i] & MIGRATE_PFN_WRITE);
	}
	migrate_vma_pages(args);
	for (i = 0; i < args->npages; i++)
		moved += !!(args->src[i] & MIGRATE_PFN_MIGRATE);
	migrate_vma_finalize(args);
	return moved;
}

static unsigned int hmm_migrate(struct migrate_vma *args,
				struct hmm_test_device *to)
{
	return migrate_vma_setup(args) ? 0 : hmm_migrate_collected(args, to);
}

static vm_fault_t hmm_device_migrate_to_ram(struct vm_fault *vmf)
{
	struct hmm_test_device *dev = vmf->page->pgmap->owner;
	unsigned long src = 0, dst = 0;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.src = &src,
		.dst = &dst,
		.start = vmf->address & PAGE_MASK,
		.end = (vmf->address & PAGE_MASK) + PAGE_SIZE,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};

	dev->faults++;
	if (dev->fails && page_to_pfn(vmf->page) == dev->fails)
		return VM_FAULT_SIGBUS;
	if (dev->keeps)
		return 0;
	if (dev->declines) {
		if (!migrate_vma_setup(&args))
			migrate_vma_finalize(&args);
		return 0;
	}
	/* as far as it gets: a page that is held stays */
	hmm_migrate(&args, NULL);
	return 0;
}

static const struct dev_pagemap_ops hmm_device_ops = {
	.page_free = hmm_device_page_free,
	.migrate_to_ram = hmm_device_migrate_to_ram,
};

static void hmm_move_to_device(struct hmm_private_test *p,
			       struct hmm_test_device *dev, unsigned long addr,
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
	moved = hmm_migrate(&args, dev);
	mmap_read_unlock(mm);
	KUNIT_ASSERT_EQ(p->t->km->test, moved, nr);
}

static int hmm_private_init(struct kunit *test)
{
	struct hmm_private_test *p = kunit_kzalloc(test, sizeof(*p), GFP_KERNEL);
	phys_addr_t start;
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, p);
	start = kunit_mm_region(test, 2 * HMM_DEVICE_SIZE);
	for (i = 0; i < 2; i++, start += HMM_DEVICE_SIZE) {
		p->dev[i].pgmap = kunit_mm_pagemap(test, start, HMM_DEVICE_SIZE,
						   &hmm_device_ops, &p->dev[i]);
		p->dev[i].next = PHYS_PFN(start);
	}
	p->dev[0].next = p->dev[1].next - HMM_DEVICE_BATCH;
	p->t = hmm_test_create(test);
	test->priv = p;
	return 0;
}

/* Written pages, moved to the device. */
static unsigned long hmm_map_on_device(struct hmm_private_test *p,
				       struct hmm_test_device *dev,
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

/* Writing is forbidden to the entries, as mprotect() leaves them. */
static pte_t hmm_forbid_write(pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	if (is_writable_device_private_entry(entry))
		entry = make_readable_device_private_entry(swp_offset(entry));
	return swp_entry_to_pte(entry);
}

/* With a child, which has the pages until it exits or the test ends. */
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

static void own_device_pages_are_reported_in_place(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
	unsigned long addr = hmm_map_on_device(p, dev, 8);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 8), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_READ), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 8, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 8);
	KUNIT_EXPECT_EQ(test, dev->faults, 8);
	KUNIT_EXPECT_EQ(test, atomic_read(&dev->used), 0);
}

static void device_pages_of_others_are_faulted_back(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long addr = hmm_map_on_device(p, dev, 4), i;
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = &p->dev[1];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 4), 0);
	hmm_expect_same(t, 0, 4, 0);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);

	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	for (i = 0; i < 4; i++) {
		hmm_expect_page(t, i, t->pfns[i] & WRITABLE);
		KUNIT_EXPECT_TRUE(test, t->pfns[i] & HMM_PFN_VALID);
	}
	KUNIT_EXPECT_EQ(test, dev->faults, 4);
	KUNIT_EXPECT_EQ(test, atomic_read(&dev->used), 0);
	hmm_expect_contents(p, addr, 4);
}

static void own_page_becomes_writable_on_the_device(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
	unsigned long addr = hmm_map_on_device(p, dev, 4);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_change(t->km, addr, 4, hmm_forbid_write);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_READ), 0);
	hmm_expect_device(t, 0, 4, pfn, READABLE);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 4, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 4, pfn, WRITABLE);
	/* The rest needs entries of the device. */
	KUNIT_ASSERT_EQ(test, dev->faults, 0);
	kunit_mm_change(t->km, addr, 4, hmm_forbid_write);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 4, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 4, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 4);
}

static void write_to_a_shared_device_page_is_a_fault(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

/* Otherwise the device writes, and nothing says so while the page is there. */
static void write_to_a_watched_device_page_makes_it_soft_dirty(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

static void own_page_that_its_driver_keeps_is_reported_as_it_is(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

/* By whom, and what for, is not known: it may be a fault that waits for us. */
static void own_page_that_is_locked_is_not_waited_for(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	struct page *page = pfn_to_page(dev->next);
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

/*
 * The attempt to migrate it would fail and invalidate the range, with this call
 * and with each one that follows.
 */
static void own_page_that_is_held_is_reported_read_only(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

/* Its driver lets it stay, and invalidates the range each time. */
static void own_page_that_never_moves_is_an_error(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
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

/* Then no entry is a result, for the range is out of date in each call. */
static void page_that_never_moves_leaves_requests(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
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

/* The fault of one page of a run fails; those behind it are not tried. */
static void own_page_whose_fault_fails_is_an_error(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

/* Its driver does not say so, as one that has no memory for the copy. */
static void page_that_another_device_keeps_is_an_error(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = &p->dev[1];
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
 * struct hmm_mover - another thread that moves pages to a device
 * @thread: the thread; its address is that of the first page
 * @p: the test
 * @nr: number of pages
 * @ms: how long it waits when the pages are collected
 * @begin: complete this to let it begin
 * @collected: complete when the pages are collected
 */
struct hmm_mover {
	struct kunit_mm_thread thread;
	struct hmm_private_test *p;
	unsigned long nr;
	unsigned int ms;
	struct completion begin;
	struct completion collected;
};

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
		.pgmap_owner = &m->p->dev[0],
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	int ret;

	wait_for_completion(&m->begin);
	mmap_read_lock(mm);
	args.vma = vma_lookup(mm, thread->addr);
	ret = migrate_vma_setup(&args);
	complete(&m->collected);
	msleep(m->ms);
	if (!ret)
		ret = hmm_migrate_collected(&args, &m->p->dev[0]);
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

/* The first migration entry is waited for; then all are on the device. */
static void pages_that_were_on_their_way_to_the_device_stay(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 8, RW);
	unsigned long pfn = dev->next;
	struct hmm_mover m = { .ms = 200 };
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = dev;
	kunit_mm_write(t->km, addr, 8);
	lru_add_drain_all();
	hmm_mover_start(&m, p, addr, 8);
	complete(&m.begin);
	wait_for_completion(&m.collected);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 8, ASK_WRITE), 0);
	kunit_mm_thread_end(&m.thread);
	KUNIT_EXPECT_EQ(test, m.thread.ret, 8);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	hmm_expect_device(t, 0, 8, pfn, WRITABLE);
	KUNIT_EXPECT_EQ(test, dev->faults, 0);
	hmm_expect_contents(p, addr, 8);
}

/* Within an invalidation, where no thread can be started. */
static void hmm_move_rest(struct hmm_test *t)
{
	struct hmm_private_test *p = t->km->test->priv;

	complete(&p->mover->begin);
	wait_for_completion(&p->mover->thread.done);
}

/* While page 0 is copied, which invalidates the range. */
static void pages_that_come_to_the_device_meanwhile_stay(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long addr = kunit_mm_map(p->t->km, 8, RW);
	unsigned long pfn = dev->next;
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

/* A page of another device that cannot go to system memory. */
static void held_page_of_another_device_is_an_error(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	struct page *page = pfn_to_page(dev->next + 1);
	unsigned long addr = hmm_map_on_device(p, dev, 3);
	struct hmm_test *t = p->t;

	t->range.dev_private_owner = &p->dev[1];
	get_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), -EFAULT);
	KUNIT_EXPECT_LE(test, t->calls, 2);
	KUNIT_EXPECT_EQ(test, hmm_unlocked_all(t, addr, 3, ASK_READ), -EFAULT);
	put_page(page);
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 3, ASK_READ), 0);
	hmm_expect_contents(p, addr, 3);
}

/* Own pages that are read-only, zero pages and pages left by fork(). */
static void own_pages_in_mixed_memory_take_two_calls(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
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
	/* a page that comes back read-only is faulted once more */
	KUNIT_EXPECT_LE(test, t->faults, 24 + HMM_DEVICE_BATCH);
	KUNIT_EXPECT_LE(test, dev->faults, HMM_DEVICE_BATCH);
}

static void only_the_device_page_to_be_written_is_faulted(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	struct hmm_test_device *dev = &p->dev[0];
	unsigned long pfn = dev->next;
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

/* In an order in which no two that follow each other are neighbours. */
static void scattered_device_pages_are_told_apart(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	unsigned long pfn = p->dev[0].next, addr, i;
	struct hmm_test *t = p->t;

	addr = kunit_mm_map(t->km, 9, RW);
	kunit_mm_write(t->km, addr, 9);
	for (i = 0; i < 8; i++)
		hmm_move_to_device(p, &p->dev[i == 5], addr +
				   (i * 3 & 7) * PAGE_SIZE, 1);
	kunit_mm_change(t->km, addr + 6 * PAGE_SIZE, 1, hmm_forbid_write);

	t->range.dev_private_owner = &p->dev[0];
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
	KUNIT_EXPECT_EQ(test, p->dev[0].faults, 0);
	KUNIT_EXPECT_EQ(test, p->dev[1].faults, 1);
	hmm_expect_contents(p, addr, 9);
}

/* One run in the page table, of which each device sees its own part. */
static void run_of_two_devices_is_told_apart(struct kunit *test)
{
	struct hmm_private_test *p = test->priv;
	unsigned long first, second, addr, i;
	struct hmm_test *t = p->t;

	addr = kunit_mm_map(t->km, 6, RW);
	kunit_mm_write(t->km, addr, 6);
	p->dev[0].next += HMM_DEVICE_BATCH - 3;
	first = p->dev[0].next;
	second = p->dev[1].next;
	KUNIT_ASSERT_EQ(test, first + 3, second);
	hmm_move_to_device(p, &p->dev[0], addr, 3);
	hmm_move_to_device(p, &p->dev[1], addr + 3 * PAGE_SIZE, 3);

	t->range.dev_private_owner = &p->dev[0];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 6), 0);
	hmm_expect_device(t, 0, 3, first, WRITABLE);
	hmm_expect_same(t, 3, 3, 0);
	t->range.dev_private_owner = &p->dev[1];
	KUNIT_EXPECT_EQ(test, hmm_snapshot(t, addr, 6), 0);
	hmm_expect_same(t, 0, 3, 0);
	hmm_expect_device(t, 3, 3, second, WRITABLE);

	t->range.dev_private_owner = &p->dev[0];
	KUNIT_EXPECT_EQ(test, hmm_mirror_all(t, addr, 6, ASK_WRITE), 0);
	hmm_expect_device(t, 0, 3, first, WRITABLE);
	for (i = 3; i < 6; i++)
		hmm_expect_page(t, i, WRITABLE);
	KUNIT_EXPECT_EQ(test, p->dev[0].faults, 0);
	KUNIT_EXPECT_EQ(test, p->dev[1].faults, 3);
	hmm_expect_contents(p, addr, 6);
}

static void exclusive_page_is_given_back_on_request(struct kunit *test)
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
	KUNIT_CASE(own_device_pages_are_reported_in_place),
	KUNIT_CASE(device_pages_of_others_are_faulted_back),
	KUNIT_CASE(own_page_becomes_writable_on_the_device),
	KUNIT_CASE(write_to_a_shared_device_page_is_a_fault),
	KUNIT_CASE(write_to_a_watched_device_page_makes_it_soft_dirty),
	KUNIT_CASE(own_page_that_its_driver_keeps_is_reported_as_it_is),
	KUNIT_CASE(own_page_that_is_locked_is_not_waited_for),
	KUNIT_CASE(own_page_that_is_held_is_reported_read_only),
	KUNIT_CASE(own_page_that_never_moves_is_an_error),
	KUNIT_CASE(page_that_never_moves_leaves_requests),
	KUNIT_CASE(own_page_whose_fault_fails_is_an_error),
	KUNIT_CASE(page_that_another_device_keeps_is_an_error),
	KUNIT_CASE(pages_that_were_on_their_way_to_the_device_stay),
	KUNIT_CASE(pages_that_come_to_the_device_meanwhile_stay),
	KUNIT_CASE(held_page_of_another_device_is_an_error),
	KUNIT_CASE(own_pages_in_mixed_memory_take_two_calls),
	KUNIT_CASE(only_the_device_page_to_be_written_is_faulted),
	KUNIT_CASE(scattered_device_pages_are_told_apart),
	KUNIT_CASE(run_of_two_devices_is_told_apart),
	KUNIT_CASE(exclusive_page_is_given_back_on_request),
	{}
};

static struct kunit_suite hmm_private_suite = {
	.name = "hmm_mirror_private",
	.init = hmm_private_init,
	.test_cases = hmm_private_cases,
};

kunit_test_suites(&hmm_mirror_suite, &hmm_private_suite);
