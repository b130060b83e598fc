// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/device_exclusive.c: how a device gets exclusive access to a
 * page, how it loses it, and what the rest of mm does to such a page.
 *
 * The thread of the test is the driver. The notifier of its device counts the
 * notifications of each kind. The device writes through the kernel's mapping of
 * the page.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/kthread.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_context.h>
#include <linux/mmu_notifier.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "../internal.h"
#include "kunit_mm.h"

#define DE_PAGES	8UL
#define DE_RW		(PROT_READ | PROT_WRITE)

/**
 * struct de_test - a process and a device
 * @test: the test
 * @km: address space of the thread that runs the test
 * @notifier: notifier of the device, see de_watch()
 * @owner: owner of the device
 * @disturb: the first page changes during this many notifications of @made
 * @made: notifications that this owner gets exclusive access
 * @announced: pages in those notifications
 * @revoked: notifications that exclusive access ends
 * @other: other notifications
 * @pages: result of a range, which may span two page tables
 */
struct de_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct mmu_interval_notifier notifier;
	void *owner;
	int disturb;
	atomic_t made;
	atomic_t announced;
	atomic_t revoked;
	atomic_t other;
	struct page *pages[2 * MAX_PTRS_PER_PTE];
};

/* As another thread or reclaim might: the page must be faulted again. */
static void de_disturb(struct de_test *de, unsigned long addr)
{
	struct mm_struct *mm = de->km->mm;
	spinlock_t *ptl;	/* of the table that @ptep is in */
	pte_t *ptep = get_locked_pte(mm, addr, &ptl);

	if (!ptep)
		return;
	set_pte_at(mm, addr, ptep, pte_wrprotect(ptep_get(ptep)));
	flush_tlb_mm(mm);
	pte_unmap_unlock(ptep, ptl);
	de->disturb--;
}

static void de_announced(struct de_test *de, unsigned long start,
			 unsigned long end)
{
	unsigned long nr = (end - start) >> PAGE_SHIFT;

	atomic_inc(&de->made);
	atomic_add(nr, &de->announced);
	if (nr > 1 && de->disturb)
		de_disturb(de, start);
}

static bool de_invalidate(struct mmu_interval_notifier *notifier,
			  const struct mmu_notifier_range *range,
			  unsigned long seq)
{
	struct de_test *de = container_of(notifier, struct de_test, notifier);

	if (range->event != MMU_NOTIFY_EXCLUSIVE)
		atomic_inc(&de->other);
	else if (range->owner == de->owner)
		de_announced(de, range->start, range->end);
	else
		atomic_inc(&de->revoked);
	mmu_interval_set_seq(notifier, seq);
	return true;
}

static const struct mmu_interval_notifier_ops de_notifier_ops = {
	.invalidate = de_invalidate,
};

static int de_init(struct kunit *test)
{
	struct de_test *de = kunit_kzalloc(test, sizeof(*de), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, de);
	de->test = test;
	de->owner = de;
	de->km = kunit_mm_create(test);
	test->priv = de;
	return 0;
}

static void de_unwatch(void *data)
{
	mmu_interval_notifier_remove(data);
}

/* Mirror these pages from now on. */
static void de_watch(struct de_test *de, unsigned long addr, unsigned long nr)
{
	int ret = mmu_interval_notifier_insert(&de->notifier, de->km->mm, addr,
					       nr << PAGE_SHIFT,
					       &de_notifier_ops);

	KUNIT_ASSERT_EQ(de->test, ret, 0);
	ret = kunit_add_action_or_reset(de->test, de_unwatch, &de->notifier);
	KUNIT_ASSERT_EQ(de->test, ret, 0);
}

/* Anonymous pages that contain their page number, without other references */
static unsigned long de_memory(struct de_test *de, unsigned long nr)
{
	unsigned long addr = kunit_mm_map(de->km, nr, DE_RW);

	kunit_mm_write(de->km, addr, nr);
	lru_add_drain_all();
	return addr;
}

static unsigned long de_read(struct de_test *de, unsigned long addr)
{
	unsigned long word = 0;

	KUNIT_ASSERT_EQ(de->test, 0,
			get_user(word, (unsigned long __user *)addr));
	return word;
}

static int de_try_write(unsigned long addr, unsigned long word)
{
	return put_user(word, (unsigned long __user *)addr);
}

static pte_t de_pte(struct de_test *de, unsigned long addr)
{
	return kunit_mm_pte(de->km, addr);
}

static bool de_is_exclusive(struct de_test *de, unsigned long addr)
{
	pte_t pte = de_pte(de, addr);

	return is_swap_pte(pte) &&
	       is_device_exclusive_entry(pte_to_swp_entry(pte));
}

/* Is there a device-exclusive entry that lets the device write? */
static bool de_is_writable(struct de_test *de, unsigned long addr)
{
	swp_entry_t entry = pte_to_swp_entry(de_pte(de, addr));

	return de_is_exclusive(de, addr) &&
	       is_writable_device_exclusive_entry(entry);
}

/* The page is present. */
static struct folio *de_folio(struct de_test *de, unsigned long addr)
{
	return pfn_folio(kunit_mm_pfn(de->km, addr));
}

static unsigned long de_rss(struct de_test *de)
{
	return percpu_counter_sum(&de->km->mm->rss_stat[MM_ANONPAGES]);
}

/* Return: the page, locked and with a reference; or an error. */
static struct page *de_try_make(struct de_test *de, unsigned long addr)
{
	struct folio *folio = NULL;
	struct page *page;

	mmap_read_lock(de->km->mm);
	page = make_device_exclusive(de->km->mm, addr, de->owner, &folio);
	mmap_read_unlock(de->km->mm);
	if (!IS_ERR(page))
		KUNIT_EXPECT_PTR_EQ(de->test, folio, page_folio(page));
	return page;
}

static void de_release(struct page *page)
{
	unlock_page(page);
	put_page(page);
}

static struct page *de_make(struct de_test *de, unsigned long addr)
{
	struct page *page = de_try_make(de, addr);

	KUNIT_ASSERT_FALSE(de->test, IS_ERR_OR_NULL(page));
	return page;
}

/* The driver has programmed the device and releases the page. */
static struct page *de_give(struct de_test *de, unsigned long addr)
{
	struct page *page = de_make(de, addr);

	de_release(page);
	return page;
}

static int de_make_range(struct de_test *de, unsigned long addr,
			 unsigned long end)
{
	int ret;

	mmap_read_lock(de->km->mm);
	ret = make_device_exclusive_range(de->km->mm, addr, end, de->pages,
					  de->owner);
	mmap_read_unlock(de->km->mm);
	return ret;
}

/* Return: number of pages that the range returned. */
static unsigned long de_release_range(struct de_test *de, int nr)
{
	unsigned long had = 0;
	int i;

	for (i = 0; i < nr; i++) {
		if (!de->pages[i])
			continue;
		KUNIT_EXPECT_TRUE(de->test, PageLocked(de->pages[i]));
		KUNIT_EXPECT_FALSE(de->test, PageCompound(de->pages[i]));
		de_release(de->pages[i]);
		had++;
	}
	return had;
}

static void de_device_writes(struct page *page, unsigned long word)
{
	unsigned long *words = kmap_local_page(page);

	words[0] = word;
	kunmap_local(words);
}

static struct de_test *de_of(struct kunit_mm_thread *thread)
{
	return thread->km->test->priv;
}

/* Longer is only more likely to find a thread that does not wait. */
#define DE_WAITS	msecs_to_jiffies(50)

/* A thread waits for the lock of @page. Return: page that the thread got. */
static struct page *de_expect_waits(struct de_test *de, unsigned long addr,
				    int (*work)(struct kunit_mm_thread *thread),
				    struct page *page, int ret)
{
	struct kunit_mm_thread thread = {};

	kunit_mm_thread_start(&thread, de->km, addr, work);
	KUNIT_EXPECT_EQ(de->test, 0,
			wait_for_completion_timeout(&thread.done, DE_WAITS));
	KUNIT_EXPECT_EQ(de->test, 0, atomic_read(&de->revoked));
	de_release(page);
	wait_for_completion(&thread.done);
	KUNIT_EXPECT_EQ(de->test, ret, thread.ret);
	return thread.page;
}

/* The result */

static void exclusive_page_keeps_its_mapping(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	unsigned long rss = de_rss(de), pfn = kunit_mm_pfn(de->km, addr);
	struct folio *folio = pfn_folio(pfn);
	int refs = folio_ref_count(folio);
	struct page *page;
	pte_t pte;

	de_watch(de, addr, 1);
	page = de_make(de, addr + 24);
	KUNIT_EXPECT_EQ(test, pfn, page_to_pfn(page));
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, refs + 1, folio_ref_count(folio));
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(folio));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(page));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
	pte = de_pte(de, addr);
	KUNIT_EXPECT_TRUE(test, de_is_writable(de, addr));
	KUNIT_EXPECT_EQ(test, pfn, swp_offset_pfn(pte_to_swp_entry(pte)));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&de->revoked));
	de_release(page);
	KUNIT_EXPECT_EQ(test, refs, folio_ref_count(folio));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
}

static void range_returns_every_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long i, addr = de_memory(de, DE_PAGES);

	de_watch(de, addr, DE_PAGES);
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	for (i = 0; i < DE_PAGES; i++)
		KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr +
							i * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_release_range(de, DE_PAGES));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->made));
	for (i = 0; i < DE_PAGES; i++)
		KUNIT_EXPECT_EQ(test, (addr >> PAGE_SHIFT) + i,
				de_read(de, addr + i * PAGE_SIZE));
}

/* A hole, the zero page, and memory that is shared with a child. */
static void pages_are_faulted_in_for_writing(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = kunit_mm_map(de->km, 3, DE_RW);
	struct mm_struct *child;
	unsigned long pfn;

	kunit_mm_read(de->km, addr + PAGE_SIZE, 1);
	kunit_mm_write(de->km, addr + 2 * PAGE_SIZE, 1);
	pfn = kunit_mm_pfn(de->km, addr + 2 * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	KUNIT_EXPECT_EQ(test, 3, de_make_range(de, addr, addr + 3 * PAGE_SIZE));
	KUNIT_ASSERT_NOT_NULL(test, de->pages[1]);
	KUNIT_EXPECT_FALSE(test, is_zero_pfn(page_to_pfn(de->pages[1])));
	KUNIT_ASSERT_NOT_NULL(test, de->pages[2]);
	KUNIT_EXPECT_NE(test, pfn, page_to_pfn(de->pages[2]));
	KUNIT_EXPECT_EQ(test, 3UL, de_release_range(de, 3));
	KUNIT_EXPECT_EQ(test, 3UL, de_rss(de));
	KUNIT_EXPECT_EQ(test, (addr >> PAGE_SHIFT) + 2,
			de_read(de, addr + 2 * PAGE_SIZE));
}

static void range_leaves_out_locked_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, DE_PAGES);
	struct folio *folio = de_folio(de, addr + 3 * PAGE_SIZE);
	int refs = folio_ref_count(folio);

	de_watch(de, addr, DE_PAGES);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	KUNIT_EXPECT_NULL(test, de->pages[3]);
	KUNIT_EXPECT_EQ(test, refs, folio_ref_count(folio));
	/* the locked page is unchanged, and was not in a notification */
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES - 1, atomic_read(&de->announced));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, DE_PAGES - 1, de_release_range(de, DE_PAGES));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr + 3 * PAGE_SIZE)));
}

/* The walk stops at each page to fault it in. */
static void range_of_holes_is_announced_once(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = kunit_mm_map(de->km, DE_PAGES, DE_RW);

	de_watch(de, addr, DE_PAGES);
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_release_range(de, DE_PAGES));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES, atomic_read(&de->announced));
}

static void range_is_taken_table_by_table(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long nr = PTRS_PER_PTE + DE_PAGES;
	unsigned long addr = kunit_mm_map(de->km, nr, DE_RW);

	de_watch(de, addr, nr);
	KUNIT_EXPECT_EQ(test, (int)nr,
			de_make_range(de, addr, addr + nr * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, nr, de_release_range(de, nr));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, (int)nr, atomic_read(&de->announced));
}

/* As if memory is short: the first page is lost when the last one comes. */
static void range_makes_progress_while_pages_change(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, DE_PAGES);

	de_watch(de, addr, DE_PAGES);
	de->disturb = 100;
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_release_range(de, DE_PAGES));
	KUNIT_EXPECT_LT(test, 0, de->disturb);
	KUNIT_EXPECT_LE(test, atomic_read(&de->made), 2 * (int)DE_PAGES);
}

static int de_make_in_thread(struct kunit_mm_thread *thread)
{
	thread->page = de_try_make(de_of(thread), thread->addr);
	if (IS_ERR(thread->page))
		return PTR_ERR(thread->page);
	de_release(thread->page);
	return 0;
}

static void single_page_waits_for_the_lock(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = de_folio(de, addr);

	folio_get(folio);
	folio_lock(folio);
	KUNIT_EXPECT_PTR_EQ(test, &folio->page,
			    de_expect_waits(de, addr, de_make_in_thread,
					    &folio->page, 0));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
}

/* A driver that retries does not revoke the page from itself. */
static void exclusive_page_is_handed_over(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *first, *second;

	de_watch(de, addr, 1);
	first = de_give(de, addr);
	second = de_give(de, addr);
	KUNIT_EXPECT_PTR_EQ(test, first, second);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(first));
}

/* A mirror of the same memory, of another device or of the same one */
static struct de_test *de_second(struct de_test *de, void *owner)
{
	struct de_test *second = kunit_kzalloc(de->test, sizeof(*second),
					       GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(de->test, second);
	second->test = de->test;
	second->km = de->km;
	second->owner = owner ?: second;
	return second;
}

static void mirror_is_told_of_the_loss_to_another_owner(struct kunit *test)
{
	struct de_test *de = test->priv, *second = de_second(de, NULL);
	unsigned long addr = de_memory(de, 1);

	de_watch(de, addr, 1);
	de_watch(second, addr, 1);
	KUNIT_EXPECT_PTR_EQ(test, de_give(de, addr), de_give(second, addr));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&second->made));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&de->revoked));
}

/*
 * An owner must be unique to its notifier: with a shared owner, the loser takes
 * the notification for its own. Both are notified when exclusive access ends.
 */
static void shared_owner_hides_the_loss_from_a_mirror(struct kunit *test)
{
	struct de_test *de = test->priv, *second = de_second(de, de->owner);
	unsigned long addr = de_memory(de, 1);

	de_watch(de, addr, 1);
	de_watch(second, addr, 1);
	KUNIT_EXPECT_PTR_EQ(test, de_give(de, addr), de_give(second, addr));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&second->made));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&second->revoked));
}

static void hand_over_waits_for_the_lock(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page;

	de_watch(de, addr, 1);
	page = de_make(de, addr);
	KUNIT_EXPECT_PTR_EQ(test, page,
			    de_expect_waits(de, addr, de_make_in_thread, page,
					    0));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&de->revoked));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
}

/* Make a writable entry soft-clean. */
static void de_clear_soft_dirty(struct de_test *de, unsigned long addr)
{
	struct mm_struct *mm = de->km->mm;
	spinlock_t *ptl;	/* of the table that @ptep is in */
	pte_t *ptep;

	mmap_read_lock(mm);
	ptep = get_locked_pte(mm, addr, &ptl);
	KUNIT_EXPECT_NOT_NULL(de->test, ptep);
	if (ptep) {
		set_pte_at(mm, addr, ptep,
			   pte_swp_clear_soft_dirty(ptep_get(ptep)));
		pte_unmap_unlock(ptep, ptl);
	}
	mmap_read_unlock(mm);
}

/* The new owner writes without a fault. */
static void handed_over_page_is_soft_dirty(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	de_give(de, addr);
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(de_pte(de, addr)));
	de_clear_soft_dirty(de, addr);
	KUNIT_EXPECT_FALSE(test, pte_swp_soft_dirty(de_pte(de, addr)));
	de_give(de, addr);
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(de_pte(de, addr)));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

/* mprotect() there and back leaves a read-only entry. */
static void read_only_entry_is_faulted_first(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page = de_give(de, addr);

	kunit_mm_make_read_only(de->km, addr, 1);
	KUNIT_EXPECT_FALSE(test, de_is_writable(de, addr));
	KUNIT_EXPECT_PTR_EQ(test, page, de_give(de, addr));
	KUNIT_EXPECT_TRUE(test, de_is_writable(de, addr));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
}

/* Large folios */

static unsigned long de_huge(struct de_test *de)
{
	unsigned long addr = kunit_mm_map_huge(de->km, HPAGE_PMD_NR);

	kunit_mm_write(de->km, addr, HPAGE_PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(de->km, addr)))
		kunit_skip(de->test, "no THP available");
	kunit_mm_flags(de->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	lru_add_drain_all();
	return addr;
}

static void range_returns_every_page_of_a_huge_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long i, addr = de_huge(de), rss = de_rss(de);

	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR,
			de_make_range(de, addr, addr + HPAGE_PMD_SIZE));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			de_release_range(de, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_EXPECT_EQ(test, (addr >> PAGE_SHIFT) + i,
				de_read(de, addr + i * PAGE_SIZE));
}

/* The device gets pages 5 and 6 of a folio that stays as it is. */
static struct folio *de_give_two_of_large(struct de_test *de,
					  unsigned long addr)
{
	unsigned long at = addr + 5 * PAGE_SIZE;
	struct folio *folio = de_folio(de, addr);
	struct kunit *test = de->test;
	struct page *page;

	de_device_writes(de_give(de, at), 55);
	page = de_give(de, at + PAGE_SIZE);
	de_device_writes(page, 66);
	KUNIT_EXPECT_PTR_EQ(test, folio, page_folio(page));
	KUNIT_EXPECT_TRUE(test, folio_test_large(folio));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, at));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, at + PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, at - PAGE_SIZE)));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_ref_count(folio));
	return folio;
}

static void de_expect_large(struct de_test *de, unsigned long addr)
{
	unsigned long i, word;

	for (i = 0; i < HPAGE_PMD_NR; i++) {
		word = i == 5 ? 55 : i == 6 ? 66 : (addr >> PAGE_SHIFT) + i;
		KUNIT_EXPECT_EQ(de->test, word,
				de_read(de, addr + i * PAGE_SIZE));
	}
}

static void page_of_large_folio_needs_no_split(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);
	struct folio *folio;

	kunit_mm_split_pmd(de->km, addr);
	folio = de_give_two_of_large(de, addr);
	de_expect_large(de, addr);
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_ref_count(folio));
}

static void page_of_huge_page_splits_the_pmd_only(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);

	de_give_two_of_large(de, addr);
	KUNIT_EXPECT_FALSE(test, pmd_leaf(kunit_mm_pmd(de->km, addr)));
	de_expect_large(de, addr);
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
}

static void large_folio_with_exclusive_pages_splits(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);
	struct folio *folio = de_give_two_of_large(de, addr);

	de_watch(de, addr, HPAGE_PMD_NR);
	folio_get(folio);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, 0, split_folio(folio));
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_FALSE(test, de_is_exclusive(de, addr + 5 * PAGE_SIZE));
	de_expect_large(de, addr);
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
}

static void range_splits_large_folio_with_exclusive_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);

	de_give_two_of_large(de, addr);
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_release_range(de, DE_PAGES));
	de_expect_large(de, addr);
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
}

static int de_make_two_in_thread(struct kunit_mm_thread *thread)
{
	struct de_test *de = de_of(thread);
	int nr = de_make_range(de, thread->addr, thread->addr + 2 * PAGE_SIZE);

	return nr == 2 ? de_release_range(de, nr) : -EBUSY;
}

/* Another driver holds the lock while it programs its device. */
static void range_waits_for_the_lock_of_a_large_folio(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de);

	de_expect_waits(de, addr, de_make_two_in_thread, de_make(de, addr), 2);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

/* Pages 5 and 6 are not in the range, but the split revokes them as well. */
static void split_for_a_range_revokes_the_rest_of_the_folio(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de);

	de_give_two_of_large(de, addr);
	de_watch(de, addr + 5 * PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, 2, de_make_range(de, addr, addr + 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2UL, de_release_range(de, 2));
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_FALSE(test, de_is_exclusive(de, addr + 5 * PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, de_is_exclusive(de, addr + 6 * PAGE_SIZE));
	de_expect_large(de, addr);
}

static void zapped_part_of_large_folio_leaves_the_rest(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);
	struct folio *folio = de_give_two_of_large(de, addr);

	kunit_mm_zap(de->km, addr + 4 * PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, rss - 2, de_rss(de));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR - 2, folio_mapcount(folio));
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr + 6 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 66UL, de_read(de, addr + 6 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0UL, de_read(de, addr + 5 * PAGE_SIZE));
}

static void child_shares_large_folio_with_exclusive_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct mm_struct *parent = de->km->mm, *child;
	unsigned long addr = de_huge(de);
	struct folio *folio = de_give_two_of_large(de, addr);

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	KUNIT_EXPECT_EQ(test, 2 * HPAGE_PMD_NR, folio_mapcount(folio));
	kunit_mm_enter(de->km, child);
	de_expect_large(de, addr);
	kunit_mm_enter(de->km, parent);
	de_expect_large(de, addr);
}

/* A single page needs no split. A range does. */
static void pinned_large_folio_gives_single_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de);
	struct folio *folio = de_folio(de, addr);

	folio_get(folio);
	de_give(de, addr + PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr + PAGE_SIZE));
	de_watch(de, addr, DE_PAGES);
	KUNIT_EXPECT_EQ(test, (int)DE_PAGES,
			de_make_range(de, addr, addr + DE_PAGES * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0UL, de_release_range(de, DE_PAGES));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 1, de_make_range(de, addr, addr + PAGE_SIZE));
	KUNIT_EXPECT_PTR_EQ(test, folio, page_folio(de->pages[0]));
	de_release(de->pages[0]);
	KUNIT_EXPECT_TRUE(test, folio_test_large(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	folio_put(folio);
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, HPAGE_PMD_NR, folio_ref_count(folio));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

/* The CPU */

static void de_expect_page_is_back(struct de_test *de, unsigned long addr,
				   unsigned long nr)
{
	struct kunit *test = de->test;
	pte_t pte = de_pte(de, addr);

	KUNIT_EXPECT_EQ(test, (int)nr, atomic_read(&de->made));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_TRUE(test, pte_write(pte));
	/* the device leaves no trace of its writes */
	KUNIT_EXPECT_TRUE(test, pte_dirty(pte));
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(pfn_folio(pte_pfn(pte))));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(pte)));
	KUNIT_EXPECT_EQ(test, nr, de_rss(de));
}

static void cpu_read_revokes_the_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page;

	de_watch(de, addr, 1);
	page = de_give(de, addr);
	de_device_writes(page, 99);
	KUNIT_EXPECT_EQ(test, 99UL, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(de->km, addr));
	de_expect_page_is_back(de, addr, 1);
}

static void cpu_write_revokes_the_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page;

	de_watch(de, addr, 1);
	page = de_give(de, addr);
	KUNIT_EXPECT_EQ(test, 0, de_try_write(addr, 98));
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(de->km, addr));
	de_expect_page_is_back(de, addr, 1);
	KUNIT_EXPECT_EQ(test, 98UL, de_read(de, addr));
}

static void pin_revokes_the_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page, *pinned = NULL;

	de_watch(de, addr, 1);
	page = de_give(de, addr);
	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(addr, 1, FOLL_WRITE,
						     &pinned));
	KUNIT_EXPECT_PTR_EQ(test, page, pinned);
	de_expect_page_is_back(de, addr, 1);
	unpin_user_page(pinned);
}

static int de_read_in_thread(struct kunit_mm_thread *thread)
{
	return kunit_mm_try_read(thread->addr);
}

static void cpu_fault_waits_for_the_page_lock(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page = de_make(de, addr);

	de_watch(de, addr, 1);
	de_expect_waits(de, addr, de_read_in_thread, page, 0);
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));
}

/* The rest of mm */

static void fork_revokes_the_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct mm_struct *parent = de->km->mm, *child;
	unsigned long i, addr = de_memory(de, DE_PAGES);

	de_watch(de, addr, DE_PAGES);
	de_device_writes(de_give(de, addr), 97);
	for (i = 1; i < DE_PAGES; i++)
		de_give(de, addr + i * PAGE_SIZE);
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	for (i = 0; i < DE_PAGES; i++) {
		KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr +
							   i * PAGE_SIZE)));
		KUNIT_EXPECT_FALSE(test, pte_write(de_pte(de, addr +
							  i * PAGE_SIZE)));
	}
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_rss(de));
	KUNIT_EXPECT_EQ(test, 0, de_try_write(addr, 1));

	kunit_mm_enter(de->km, child);
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_rss(de));
	KUNIT_EXPECT_EQ(test, 97UL, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 0, de_try_write(addr + PAGE_SIZE, 2));
	kunit_mm_enter(de->km, parent);
	KUNIT_EXPECT_EQ(test, 1UL, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, (addr >> PAGE_SHIFT) + 1,
			de_read(de, addr + PAGE_SIZE));
}

/* The sequence number tells the driver to retry. */
static void fork_does_not_wait_for_a_locked_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, DE_PAGES), seq;
	struct page *page;
	struct folio *folio;
	struct mm_struct *child;

	de_watch(de, addr, DE_PAGES);
	seq = mmu_interval_read_begin(&de->notifier);
	page = de_make(de, addr + PAGE_SIZE);
	folio = page_folio(page);
	KUNIT_EXPECT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	KUNIT_EXPECT_TRUE(test, mmu_interval_read_retry(&de->notifier, seq));
	de_release(page);
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr + PAGE_SIZE)));
	KUNIT_EXPECT_EQ(test, 2, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, 2, folio_ref_count(folio));
	kunit_mm_enter(de->km, child);
	KUNIT_EXPECT_EQ(test, DE_PAGES, de_rss(de));
	KUNIT_EXPECT_EQ(test, (addr >> PAGE_SHIFT) + 1,
			de_read(de, addr + PAGE_SIZE));
}

/* The child has its own copy. */
static void device_writes_after_fork_stay_with_the_parent(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct mm_struct *child;
	unsigned long addr = de_memory(de, 1);

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	de_device_writes(de_give(de, addr), 96);
	KUNIT_EXPECT_EQ(test, 96UL, de_read(de, addr));
	kunit_mm_enter(de->km, child);
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

static void mprotect_makes_the_entry_read_only(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2);

	de_watch(de, addr, 2);
	de_give(de, addr);
	kunit_mm_protect(de->km, addr, 2, VM_READ);
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_FALSE(test, de_is_writable(de, addr));
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, addr));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_FALSE(test, pte_write(de_pte(de, addr)));
	KUNIT_EXPECT_NE(test, 0, de_try_write(addr, 1));

	kunit_mm_protect(de->km, addr, 2, VM_READ | VM_WRITE);
	KUNIT_EXPECT_EQ(test, 0, de_try_write(addr, 1));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(de_pte(de, addr))));
	de_give(de, addr);
	KUNIT_EXPECT_EQ(test, 1UL, de_read(de, addr));
}

/* Reclaim must not drop the only copy of what the device wrote. */
static void page_that_the_device_wrote_is_dirty(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = de_folio(de, addr);

	kunit_mm_change(de->km, addr, 1, pte_mkclean);
	folio_clear_dirty(folio);
	de_device_writes(de_give(de, addr), 77);
	kunit_mm_protect(de->km, addr, 1, VM_READ);
	KUNIT_EXPECT_EQ(test, 77UL, de_read(de, addr));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
}

static void userfaultfd_protects_an_exclusive_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_flags(de->km, addr, VM_UFFD_WP, 0);
	de_give(de, addr);
	kunit_mm_uffd_wp(de->km, addr, 1, true);
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(de_pte(de, addr)));
	KUNIT_EXPECT_FALSE(test, pte_write(de_pte(de, addr)));
	kunit_mm_flags(de->km, addr, 0, VM_UFFD_WP);
}

static void discard_frees_the_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2);
	struct page *page;

	de_watch(de, addr, 2);
	page = de_give(de, addr);
	get_page(page);
	kunit_mm_zap(de->km, addr, 1);
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_TRUE(test, pte_none(de_pte(de, addr)));
	KUNIT_EXPECT_EQ(test, 1UL, de_rss(de));
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
	put_page(page);
	KUNIT_EXPECT_EQ(test, 0UL, de_read(de, addr));
}

static void munmap_frees_the_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2);
	struct page *page;

	de_watch(de, addr, 2);
	page = de_give(de, addr);
	get_page(page);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(addr, 2 * PAGE_SIZE));
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_EQ(test, 0UL, de_rss(de));
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
	put_page(page);
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, addr));
}

/* The driver still has a reference to the page. */
static void zap_unmaps_a_locked_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct page *page = de_make(de, addr);

	kunit_mm_zap(de->km, addr, 1);
	KUNIT_EXPECT_TRUE(test, PageLocked(page));
	KUNIT_EXPECT_EQ(test, 0UL, de_rss(de));
	de_release(page);
	KUNIT_EXPECT_EQ(test, 0UL, de_read(de, addr));
}

static struct folio *de_new_folio(struct folio *old, unsigned long data)
{
	return folio_alloc(GFP_KERNEL, folio_order(old));
}

static int de_migrate(struct folio *folio)
{
	LIST_HEAD(list);
	int ret;

	if (!folio_isolate_lru(folio))
		return -EBUSY;
	list_add(&folio->lru, &list);
	ret = migrate_pages(&list, de_new_folio, NULL, 0, MIGRATE_SYNC,
			    MR_SYSCALL, NULL);
	if (ret)
		folio_putback_lru(folio);
	return ret;
}

static void exclusive_page_migrates(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1), rss = de_rss(de), pfn;
	struct folio *folio;
	pte_t pte;

	if (!IS_ENABLED(CONFIG_MIGRATION))
		kunit_skip(test, "no migration in this kernel");
	folio = page_folio(de_give(de, addr));
	pfn = folio_pfn(folio);
	de_watch(de, addr, 1);
	de_device_writes(&folio->page, 95);
	KUNIT_EXPECT_EQ(test, 0, de_migrate(folio));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->other));
	pte = de_pte(de, addr);
	KUNIT_ASSERT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_NE(test, pfn, pte_pfn(pte));
	KUNIT_EXPECT_TRUE(test, pte_write(pte) && pte_dirty(pte));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(pte)));
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(pfn_folio(pte_pfn(pte))));
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
	KUNIT_EXPECT_EQ(test, 95UL, de_read(de, addr));
}

static void read_only_exclusive_page_migrates(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = page_folio(de_give(de, addr));
	pte_t pte;

	kunit_mm_protect(de->km, addr, 1, VM_READ);
	KUNIT_EXPECT_EQ(test, 0, de_migrate(folio));
	pte = de_pte(de, addr);
	KUNIT_ASSERT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(pte)));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(pfn_folio(pte_pfn(pte))));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

/* The extra reference makes the migration fail after the page is unmapped. */
static void failed_migration_gives_the_page_to_the_cpu(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1), rss = de_rss(de);
	struct folio *folio = page_folio(de_give(de, addr));
	int refs = folio_ref_count(folio);
	pte_t pte;

	de_watch(de, addr, 1);
	folio_get(folio);
	KUNIT_EXPECT_NE(test, 0, de_migrate(folio));
	folio_put(folio);
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	pte = de_pte(de, addr);
	KUNIT_ASSERT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_EQ(test, folio_pfn(folio), pte_pfn(pte));
	KUNIT_EXPECT_TRUE(test, pte_write(pte) && pte_dirty(pte));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(&folio->page));
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, refs, folio_ref_count(folio));
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
}

/* A pinned page cannot be unmapped, so the entry stays. */
static void pinned_exclusive_page_stays_exclusive(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = page_folio(de_give(de, addr));

	folio_ref_add(folio, GUP_PIN_COUNTING_BIAS);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	folio_unlock(folio);
	folio_ref_sub(folio, GUP_PIN_COUNTING_BIAS);
	KUNIT_EXPECT_TRUE(test, de_is_writable(de, addr));
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(folio));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(&folio->page));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

static void large_folio_with_exclusive_pages_migrates(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_huge(de), rss = de_rss(de);
	struct folio *folio = de_give_two_of_large(de, addr);

	KUNIT_EXPECT_EQ(test, 0, de_migrate(folio));
	KUNIT_EXPECT_FALSE(test, de_is_exclusive(de, addr + 5 * PAGE_SIZE));
	KUNIT_EXPECT_PTR_NE(test, folio,
			    de_folio(de, addr));
	de_expect_large(de, addr);
	KUNIT_EXPECT_EQ(test, rss, de_rss(de));
}

/* The entry has no accessed bit, and the check must not change it. */
static void exclusive_page_is_not_referenced(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1), vm_flags;
	struct folio *folio = page_folio(de_give(de, addr));
	pte_t pte = de_pte(de, addr);

	folio_test_clear_young(folio);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, 0, folio_referenced(folio, 1, NULL, &vm_flags));
	folio_unlock(folio);
	KUNIT_EXPECT_TRUE(test, pte_same(pte, de_pte(de, addr)));
	KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
}

static bool de_marked_uffd_wp(pte_t pte)
{
	return pte_present(pte) ? pte_uffd_wp(pte) : pte_swp_uffd_wp(pte);
}

static void migration_keeps_userfaultfd_protection(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_flags(de->km, addr, VM_UFFD_WP, 0);
	folio = page_folio(de_give(de, addr));
	kunit_mm_uffd_wp(de->km, addr, 1, true);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_TRUE(test, de_marked_uffd_wp(de_pte(de, addr)));
	KUNIT_EXPECT_EQ(test, 0, de_migrate(folio));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));
	KUNIT_EXPECT_TRUE(test, de_marked_uffd_wp(de_pte(de, addr)));
	KUNIT_EXPECT_FALSE(test, pte_write(de_pte(de, addr)));
	kunit_mm_flags(de->km, addr, 0, VM_UFFD_WP);
}

static void migration_keeps_soft_dirty(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = page_folio(de_give(de, addr));

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	kunit_mm_protect(de->km, addr, 1, VM_READ);
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(de_pte(de, addr)));
	KUNIT_EXPECT_EQ(test, 0, de_migrate(folio));
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(de_pte(de, addr)));
}

#ifdef CONFIG_MEMORY_FAILURE
static void poisoned_page_is_inaccessible(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1), pfn, rss = de_rss(de);
	pte_t pte;

	pfn = page_to_pfn(de_give(de, addr));
	de_watch(de, addr, 1);
	memory_failure(pfn, MF_SW_SIMULATED);
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	pte = de_pte(de, addr);
	KUNIT_EXPECT_TRUE(test, is_swap_pte(pte) &&
			  is_hwpoison_entry(pte_to_swp_entry(pte)));
	KUNIT_EXPECT_EQ(test, rss - 1, de_rss(de));
	KUNIT_EXPECT_NE(test, 0, kunit_mm_try_read(addr));
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, addr));
	kunit_mm_zap(de->km, addr, 1);
	KUNIT_EXPECT_EQ(test, 0, unpoison_memory(pfn));
	KUNIT_EXPECT_EQ(test, 0UL, de_read(de, addr));
}

static void soft_offlined_page_is_replaced(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1), pfn;
	struct page *page = de_give(de, addr);

	pfn = page_to_pfn(page);
	de_watch(de, addr, 1);
	de_device_writes(page, 94);
	KUNIT_EXPECT_EQ(test, 0, soft_offline_page(pfn, 0));
	KUNIT_EXPECT_GE(test, atomic_read(&de->other), 1);
	KUNIT_EXPECT_NE(test, pfn, kunit_mm_pfn(de->km, addr));
	KUNIT_EXPECT_EQ(test, 94UL, de_read(de, addr));
	KUNIT_EXPECT_EQ(test, 0, unpoison_memory(pfn));
}
#else
static void poisoned_page_is_inaccessible(struct kunit *test)
{
	kunit_skip(test, "no handling of poisoned memory in this kernel");
}

static void soft_offlined_page_is_replaced(struct kunit *test)
{
	kunit_skip(test, "no handling of poisoned memory in this kernel");
}
#endif

/* remove_migration_ptes() must skip the entry. */
static void exclusive_entry_is_no_migration_entry(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = page_folio(de_give(de, addr));
	int refs = folio_ref_count(folio);

	folio_lock(folio);
	remove_migration_ptes(folio, folio, 0);
	folio_unlock(folio);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_EQ(test, 1, folio_mapcount(folio));
	KUNIT_EXPECT_EQ(test, refs, folio_ref_count(folio));
}

/* A driver gives pages back */

static bool de_restore(struct de_test *de, unsigned long addr,
		       struct page *page)
{
	bool restored;

	lock_page(page);
	mmap_read_lock(de->km->mm);
	restored = restore_device_exclusive(de->km->mm, addr, page);
	mmap_read_unlock(de->km->mm);
	unlock_page(page);
	return restored;
}

static void driver_restores_a_page(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2);
	struct page *page, *other;

	de_watch(de, addr, 2);
	page = de_give(de, addr);
	other = de_give(de, addr + PAGE_SIZE);
	de_device_writes(page, 93);
	KUNIT_EXPECT_TRUE(test, de_restore(de, addr, page));
	de_expect_page_is_back(de, addr, 2);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr + PAGE_SIZE));
	/* no entry, entry of another page, no mapping */
	KUNIT_EXPECT_FALSE(test, de_restore(de, addr, page));
	KUNIT_EXPECT_FALSE(test, de_restore(de, addr + PAGE_SIZE, page));
	KUNIT_EXPECT_FALSE(test, de_restore(de, addr - PAGE_SIZE, page));
	KUNIT_EXPECT_FALSE(test, de_restore(de, 0, page));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&de->revoked));
	KUNIT_EXPECT_TRUE(test, de_restore(de, addr + PAGE_SIZE, other));
	KUNIT_EXPECT_EQ(test, 93UL, de_read(de, addr));
}

/* The address is a hugetlb mapping by now. */
static void hugetlb_page_is_not_restored(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(de->km, 1), word = 0;
	struct page *page = de_give(de, de_memory(de, 1));

	/* contents that look like a page-table entry, and then like none */
	do {
		KUNIT_EXPECT_EQ(test, 0, de_try_write(addr, word));
		KUNIT_EXPECT_FALSE(test, de_restore(de, addr, page));
		KUNIT_EXPECT_FALSE(test,
				   de_restore(de, addr + PAGE_SIZE, page));
		KUNIT_EXPECT_EQ(test, word, de_read(de, addr));
		word = ~word;
	} while (word);
}

static void exclusive_page_does_not_move_to_a_device(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2), src[2], dst[2];
	struct migrate_vma args = {
		.start = addr,
		.end = addr + 2 * PAGE_SIZE,
		.src = src,
		.dst = dst,
		.pgmap_owner = de,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};

	de_give(de, addr);
	mmap_read_lock(de->km->mm);
	args.vma = vma_lookup(de->km->mm, addr);
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&args));
	KUNIT_EXPECT_EQ(test, 1UL, args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, src[0]);
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	mmap_read_unlock(de->km->mm);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

static void exit_frees_exclusive_pages(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct mm_struct *parent = de->km->mm, *child;
	unsigned long addr = de_memory(de, 2);
	struct page *page;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(de->km, addr, &child));
	kunit_mm_enter(de->km, child);
	page = de_give(de, addr);
	get_page(page);
	kunit_mm_enter(de->km, parent);
	kunit_mm_exit(de->km, child);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
	put_page(page);
	KUNIT_EXPECT_EQ(test, addr >> PAGE_SHIFT, de_read(de, addr));
}

/* Memory that is refused */

static void invalid_ranges_are_refused(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2);

	KUNIT_EXPECT_EQ(test, -EINVAL, de_make_range(de, addr, addr));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			de_make_range(de, addr + PAGE_SIZE, addr));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			de_make_range(de, addr + 1, addr + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			de_make_range(de, addr, addr + PAGE_SIZE + 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, de_make_range(de, 0, PAGE_MASK));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));
}

/* The address after the page would be 0. */
static void last_page_of_all_addresses_is_refused(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct page *page = de_give(de, de_memory(de, 1));

	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, ULONG_MAX));
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, PAGE_MASK));
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT),
			    de_try_make(de, PAGE_MASK - 1));
	KUNIT_EXPECT_FALSE(test, de_restore(de, PAGE_MASK, page));
}

static void range_ends_where_memory_ends(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 2), end = addr + 2 * PAGE_SIZE;

	KUNIT_EXPECT_EQ(test, -EFAULT, de_make_range(de, end, end + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, de_make_range(de, addr, end + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2UL, de_release_range(de, 2));
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, end));

	kunit_mm_protect(de->km, addr + PAGE_SIZE, 1, VM_READ);
	KUNIT_EXPECT_EQ(test, 1, de_make_range(de, addr, end));
	KUNIT_EXPECT_EQ(test, 1UL, de_release_range(de, 1));
	KUNIT_EXPECT_EQ(test, -EFAULT, de_make_range(de, end - PAGE_SIZE, end));
}

static void io_memory_is_refused(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);

	kunit_mm_flags(de->km, addr, VM_PFNMAP, 0);
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EFAULT), de_try_make(de, addr));
	KUNIT_EXPECT_EQ(test, -EFAULT,
			de_make_range(de, addr, addr + PAGE_SIZE));
	kunit_mm_flags(de->km, addr, 0, VM_PFNMAP);
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));
}

static void de_expect_not_supported(struct de_test *de, unsigned long addr)
{
	struct kunit *test = de->test;

	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EOPNOTSUPP), de_try_make(de, addr));
	KUNIT_EXPECT_EQ(test, 1, de_make_range(de, addr, addr + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0UL, de_release_range(de, 1));
}

static void file_memory_is_refused(struct kunit *test)
{
	struct de_test *de = test->priv;
	struct file *file = kunit_mm_shmem(test, 2);
	unsigned long addr = kunit_mm_map_file(de->km, file, 2, DE_RW,
					       MAP_SHARED);

	de_expect_not_supported(de, addr);
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));

	/* a private copy is anonymous */
	addr = kunit_mm_map_file(de->km, file, 2, DE_RW, MAP_PRIVATE);
	kunit_mm_read(de->km, addr, 2);
	de_give(de, addr);
	KUNIT_EXPECT_TRUE(test, de_is_exclusive(de, addr));
	KUNIT_EXPECT_EQ(test, 0UL, de_read(de, addr));
}

static void hugetlb_pages_are_refused(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(de->km, 1);

	de_expect_not_supported(de, addr);
	KUNIT_EXPECT_EQ(test, 0, de_try_write(addr, 1));
	de_expect_not_supported(de, addr + PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, 1UL, de_read(de, addr));
}

static void fatal_signal_ends_the_wait(struct kunit *test)
{
	struct de_test *de = test->priv;
	unsigned long addr = de_memory(de, 1);
	struct folio *folio = de_folio(de, addr);
	int refs = folio_ref_count(folio);
	struct page *page;

	folio_lock(folio);
	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	page = de_try_make(de, addr);
	flush_signals(current);
	disallow_signal(SIGKILL);
	folio_unlock(folio);
	KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EINTR), page);
	KUNIT_EXPECT_EQ(test, refs, folio_ref_count(folio));
	KUNIT_EXPECT_TRUE(test, pte_present(de_pte(de, addr)));
}

static struct kunit_case device_exclusive_cases[] = {
	KUNIT_CASE(exclusive_page_keeps_its_mapping),
	KUNIT_CASE(range_returns_every_page),
	KUNIT_CASE(pages_are_faulted_in_for_writing),
	KUNIT_CASE(range_leaves_out_locked_pages),
	KUNIT_CASE(range_of_holes_is_announced_once),
	KUNIT_CASE(range_is_taken_table_by_table),
	KUNIT_CASE(range_makes_progress_while_pages_change),
	KUNIT_CASE(single_page_waits_for_the_lock),
	KUNIT_CASE(exclusive_page_is_handed_over),
	KUNIT_CASE(mirror_is_told_of_the_loss_to_another_owner),
	KUNIT_CASE(shared_owner_hides_the_loss_from_a_mirror),
	KUNIT_CASE(hand_over_waits_for_the_lock),
	KUNIT_CASE(handed_over_page_is_soft_dirty),
	KUNIT_CASE(read_only_entry_is_faulted_first),
	KUNIT_CASE(range_returns_every_page_of_a_huge_page),
	KUNIT_CASE(page_of_large_folio_needs_no_split),
	KUNIT_CASE(page_of_huge_page_splits_the_pmd_only),
	KUNIT_CASE(large_folio_with_exclusive_pages_splits),
	KUNIT_CASE(range_splits_large_folio_with_exclusive_pages),
	KUNIT_CASE(range_waits_for_the_lock_of_a_large_folio),
	KUNIT_CASE(split_for_a_range_revokes_the_rest_of_the_folio),
	KUNIT_CASE(zapped_part_of_large_folio_leaves_the_rest),
	KUNIT_CASE(child_shares_large_folio_with_exclusive_pages),
	KUNIT_CASE(pinned_large_folio_gives_single_pages),
	KUNIT_CASE(cpu_read_revokes_the_page),
	KUNIT_CASE(cpu_write_revokes_the_page),
	KUNIT_CASE(pin_revokes_the_page),
	KUNIT_CASE(cpu_fault_waits_for_the_page_lock),
	KUNIT_CASE(fork_revokes_the_pages),
	KUNIT_CASE(fork_does_not_wait_for_a_locked_page),
	KUNIT_CASE(device_writes_after_fork_stay_with_the_parent),
	KUNIT_CASE(mprotect_makes_the_entry_read_only),
	KUNIT_CASE(page_that_the_device_wrote_is_dirty),
	KUNIT_CASE(userfaultfd_protects_an_exclusive_page),
	KUNIT_CASE(discard_frees_the_page),
	KUNIT_CASE(munmap_frees_the_page),
	KUNIT_CASE(zap_unmaps_a_locked_page),
	KUNIT_CASE(exclusive_page_migrates),
	KUNIT_CASE(read_only_exclusive_page_migrates),
	KUNIT_CASE(failed_migration_gives_the_page_to_the_cpu),
	KUNIT_CASE(pinned_exclusive_page_stays_exclusive),
	KUNIT_CASE(large_folio_with_exclusive_pages_migrates),
	KUNIT_CASE(exclusive_page_is_not_referenced),
	KUNIT_CASE(migration_keeps_userfaultfd_protection),
	KUNIT_CASE(migration_keeps_soft_dirty),
	KUNIT_CASE(poisoned_page_is_inaccessible),
	KUNIT_CASE(soft_offlined_page_is_replaced),
	KUNIT_CASE(exclusive_entry_is_no_migration_entry),
	KUNIT_CASE(driver_restores_a_page),
	KUNIT_CASE(hugetlb_page_is_not_restored),
	KUNIT_CASE(exclusive_page_does_not_move_to_a_device),
	KUNIT_CASE(exit_frees_exclusive_pages),
	KUNIT_CASE(invalid_ranges_are_refused),
	KUNIT_CASE(last_page_of_all_addresses_is_refused),
	KUNIT_CASE(range_ends_where_memory_ends),
	KUNIT_CASE(io_memory_is_refused),
	KUNIT_CASE(file_memory_is_refused),
	KUNIT_CASE(hugetlb_pages_are_refused),
	KUNIT_CASE(fatal_signal_ends_the_wait),
	{}
};

static struct kunit_suite device_exclusive_suite = {
	.name = "device_exclusive",
	.init = de_init,
	.test_cases = device_exclusive_cases,
};

kunit_test_suites(&device_exclusive_suite);
