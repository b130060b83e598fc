// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit suite of the interval notifiers: arguments of an insertion, which
 * subscriptions an invalidation notifies, the sequence protocol, changes while
 * the tree is frozen, refusals, two-step invalidation, teardown of the mm.
 *
 * A "mirror" is a driver with one subscription. It logs its callbacks in the
 * journal of the test. The tests call the invalidations themselves, so that
 * they can stop between start and end. Calls that may sleep meanwhile run as
 * jobs on a workqueue. A job either finishes or queues itself on the wait queue
 * of the mm, and the tests wait for one of the two, however long it takes.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/prandom.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "../mmu_interval_notifier.h"

#define JOURNAL_LINES	32
#define AREA		0x10000000UL

enum event {
	NOTHING,
	INVALIDATED,
	STARTED,
	FINISHED,
	REFUSED,
	PLAIN_STARTED,
	PLAIN_ENDED,
	PLAIN_REFUSED,
};

struct line {
	enum event event;
	const void *source;
	enum mmu_notifier_event reason;
};

struct journal {
	struct line lines[JOURNAL_LINES];
	unsigned int nr;
};

struct mirror {
	struct mmu_interval_notifier sub;
	struct mmu_interval_notifier_finish finish;
	struct journal *journal;
	spinlock_t lock;	/* the driver's lock of the protocol */
	bool refuses;		/* non-blockable invalidations */
	bool one_pass;		/* leaves *finish NULL */
};

struct plain {
	struct mmu_notifier mn;
	struct journal *journal;
};

struct fixture {
	struct mm_struct *mm;
	struct journal journal;
	struct mirror mirror[4];
	struct plain plain[2];
};

static void note(struct journal *journal, enum event event, const void *source,
		 const struct mmu_notifier_range *range)
{
	struct line *line;

	if (journal->nr == JOURNAL_LINES)
		return;
	line = &journal->lines[journal->nr++];
	line->event = event;
	line->source = source;
	if (range)
		line->reason = range->event;
}

static void expect_line(struct kunit *test, unsigned int nr, enum event event,
			const void *source)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ_MSG(test, f->journal.lines[nr].event, event,
			    "line %u", nr);
	KUNIT_EXPECT_PTR_EQ_MSG(test, f->journal.lines[nr].source, source,
				"line %u", nr);
}

static void expect_nr_lines(struct kunit *test, unsigned int nr)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, f->journal.nr, nr);
}

/* ---- the driver ---- */

static bool mirror_accepts(struct mirror *mirror,
			   const struct mmu_notifier_range *range,
			   unsigned long seq, enum event event)
{
	if (mirror->refuses && !mmu_notifier_range_blockable(range)) {
		note(mirror->journal, REFUSED, mirror, range);
		return false;
	}
	spin_lock(&mirror->lock);
	mmu_interval_set_seq(&mirror->sub, seq);
	spin_unlock(&mirror->lock);
	note(mirror->journal, event, mirror, range);
	return true;
}

static bool mirror_invalidate(struct mmu_interval_notifier *sub,
			      const struct mmu_notifier_range *range,
			      unsigned long seq)
{
	return mirror_accepts(container_of(sub, struct mirror, sub), range, seq,
			      INVALIDATED);
}

static bool mirror_start(struct mmu_interval_notifier *sub,
			 const struct mmu_notifier_range *range,
			 unsigned long seq,
			 struct mmu_interval_notifier_finish **finish)
{
	struct mirror *mirror = container_of(sub, struct mirror, sub);

	if (!mirror->one_pass)
		*finish = &mirror->finish;
	return mirror_accepts(mirror, range, seq, STARTED);
}

/* The driver owns @finish again and may reuse it: overwrite it. */
static void mirror_finish(struct mmu_interval_notifier_finish *finish)
{
	struct mirror *mirror = container_of(finish->notifier, struct mirror,
					     sub);

	note(mirror->journal, finish == &mirror->finish ? FINISHED : NOTHING,
	     mirror, NULL);
	memset(finish, 0x5a, sizeof(*finish));
}

static const struct mmu_interval_notifier_ops one_step = {
	.invalidate = mirror_invalidate,
};

static const struct mmu_interval_notifier_ops two_steps = {
	.invalidate_start = mirror_start,
	.invalidate_finish = mirror_finish,
};

static const struct mmu_interval_notifier_ops all_three = {
	.invalidate = mirror_invalidate,
	.invalidate_start = mirror_start,
	.invalidate_finish = mirror_finish,
};

static int plain_start(struct mmu_notifier *mn,
		       const struct mmu_notifier_range *range)
{
	struct plain *plain = container_of(mn, struct plain, mn);

	note(plain->journal, PLAIN_STARTED, plain, range);
	return 0;
}

static void plain_end(struct mmu_notifier *mn,
		      const struct mmu_notifier_range *range)
{
	struct plain *plain = container_of(mn, struct plain, mn);

	note(plain->journal, PLAIN_ENDED, plain, range);
}

static int plain_refuse(struct mmu_notifier *mn,
			const struct mmu_notifier_range *range)
{
	struct plain *plain = container_of(mn, struct plain, mn);

	if (mmu_notifier_range_blockable(range))
		return 0;
	note(plain->journal, PLAIN_REFUSED, plain, range);
	return -EAGAIN;
}

static const struct mmu_notifier_ops plain_accepting = {
	.invalidate_range_start = plain_start,
	.invalidate_range_end = plain_end,
};

static const struct mmu_notifier_ops plain_refusing = {
	.invalidate_range_start = plain_refuse,
};

/* ---- helpers ---- */

static struct mmu_intervals *intervals_of(struct fixture *f)
{
	return &f->mm->notifier_subscriptions->intervals;
}

/* The mirrors are adjacent, one page each, starting at AREA. */
static unsigned long addr_of(struct fixture *f, struct mirror *mirror)
{
	return AREA + (mirror - f->mirror) * PAGE_SIZE;
}

static void insert(struct kunit *test, struct mmu_interval_notifier *sub,
		   unsigned long start, unsigned long length,
		   const struct mmu_interval_notifier_ops *ops)
{
	struct fixture *f = test->priv;
	int ret;

	ret = mmu_interval_notifier_insert(sub, f->mm, start, length, ops);
	KUNIT_ASSERT_EQ(test, ret, 0);
}

static void subscribe(struct kunit *test, struct mirror *mirror,
		      const struct mmu_interval_notifier_ops *ops)
{
	insert(test, &mirror->sub, addr_of(test->priv, mirror), PAGE_SIZE, ops);
}

static void unsubscribe(struct mirror *mirror)
{
	mmu_interval_notifier_remove(&mirror->sub);
}

static void range_of_pages(struct fixture *f, struct mmu_notifier_range *range,
			   unsigned long first, unsigned long nr)
{
	mmu_notifier_range_init_owner(range, MMU_NOTIFY_CLEAR, 0, f->mm,
				      AREA + first * PAGE_SIZE,
				      AREA + (first + nr) * PAGE_SIZE, NULL);
}

static void invalidate(struct fixture *f, struct mmu_notifier_range *range,
		       unsigned long first, unsigned long nr)
{
	range_of_pages(f, range, first, nr);
	mmu_notifier_invalidate_range_start(range);
}

static int invalidate_nonblock(struct fixture *f,
			       struct mmu_notifier_range *range,
			       unsigned long first, unsigned long nr)
{
	range_of_pages(f, range, first, nr);
	return mmu_notifier_invalidate_range_start_nonblock(range);
}

static void invalidate_end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}

static bool must_retry(struct mirror *mirror, unsigned long seq)
{
	bool retry;

	spin_lock(&mirror->lock);
	retry = mmu_interval_read_retry(&mirror->sub, seq);
	spin_unlock(&mirror->lock);
	return retry;
}

/* A call that may sleep until invalidations end. */
struct job {
	struct work_struct work;
	struct completion done;
	struct mirror *mirror;
	unsigned long seq;
};

static void read_begin_job(struct work_struct *work)
{
	struct job *job = container_of(work, struct job, work);

	job->seq = mmu_interval_read_begin(&job->mirror->sub);
	complete_all(&job->done);
}

static void remove_job(struct work_struct *work)
{
	struct job *job = container_of(work, struct job, work);

	unsubscribe(job->mirror);
	complete_all(&job->done);
}

static struct job *run(struct kunit *test, struct mirror *mirror,
		       work_func_t func)
{
	struct job *job = kunit_kzalloc(test, sizeof(*job), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, job);
	job->mirror = mirror;
	init_completion(&job->done);
	INIT_WORK(&job->work, func);
	queue_work(system_unbound_wq, &job->work);
	return job;
}

static unsigned int nr_sleepers(struct fixture *f)
{
	struct wait_queue_head *wq = &intervals_of(f)->thawed;
	unsigned int nr;

	spin_lock_irq(&wq->lock);
	nr = list_count_nodes(&wq->head);
	spin_unlock_irq(&wq->lock);
	return nr;
}

static bool is_frozen(struct fixture *f)
{
	return READ_ONCE(intervals_of(f)->seq) & 1;
}

/* Let @job run until @nr jobs sleep. Return false if @job finishes instead. */
static bool waits_as(struct fixture *f, struct job *job, unsigned int nr)
{
	while (nr_sleepers(f) < nr) {
		if (completion_done(&job->done))
			return false;
		schedule_timeout_uninterruptible(1);
	}
	return is_frozen(f) && !completion_done(&job->done);
}

/* Let @job run until it sleeps. Return false if it finishes instead. */
static bool waits(struct fixture *f, struct job *job)
{
	return waits_as(f, job, 1);
}

/* Let @job run until it finishes. Return false if it sleeps instead. */
static bool finishes(struct fixture *f, struct job *job)
{
	while (!completion_done(&job->done)) {
		if (nr_sleepers(f) && is_frozen(f))
			return false;
		schedule_timeout_uninterruptible(1);
	}
	flush_work(&job->work);
	return true;
}

static void expect_idle(struct kunit *test)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, intervals_of(f)->running, 0);
	KUNIT_EXPECT_EQ(test, intervals_of(f)->seq & 1, 0);
}

/* ---- arguments of an insertion ---- */

static void insert_refuses(struct kunit *test, struct mm_struct *mm,
			   unsigned long start, unsigned long length,
			   const struct mmu_interval_notifier_ops *ops, int err)
{
	struct mmu_interval_notifier sub, before;
	int count = mm ? atomic_read(&mm->mm_count) : 0;

	memset(&sub, 0x5a, sizeof(sub));
	memcpy(&before, &sub, sizeof(sub));
	KUNIT_EXPECT_EQ(test, mmu_interval_notifier_insert(&sub, mm, start,
							   length, ops), err);
	if (mm)
		mmap_write_lock(mm);
	KUNIT_EXPECT_EQ(test,
			mmu_interval_notifier_insert_locked(&sub, mm, start,
							    length, ops), err);
	if (mm)
		mmap_write_unlock(mm);
	KUNIT_EXPECT_MEMEQ(test, &sub, &before, sizeof(sub));
	if (mm)
		KUNIT_EXPECT_EQ(test, atomic_read(&mm->mm_count), count);
}

static void insert_refuses_absurd_range(struct kunit *test)
{
	struct fixture *f = test->priv;

	insert_refuses(test, f->mm, 0, 0, &one_step, -EOVERFLOW);
	insert_refuses(test, f->mm, AREA, 0, &one_step, -EOVERFLOW);
	insert_refuses(test, f->mm, ULONG_MAX, 0, &one_step, -EOVERFLOW);
	insert_refuses(test, f->mm, ULONG_MAX, 2, &one_step, -EOVERFLOW);
	insert_refuses(test, f->mm, 2, ULONG_MAX, &one_step, -EOVERFLOW);
	KUNIT_EXPECT_NULL(test, f->mm->notifier_subscriptions);
}

static void insert_refuses_incomplete_ops(struct kunit *test)
{
	static const struct mmu_interval_notifier_ops neither = {};
	static const struct mmu_interval_notifier_ops no_finish = {
		.invalidate_start = mirror_start,
	};
	static const struct mmu_interval_notifier_ops no_finish_but_one_step = {
		.invalidate = mirror_invalidate,
		.invalidate_start = mirror_start,
	};
	static const struct mmu_interval_notifier_ops no_start = {
		.invalidate = mirror_invalidate,
		.invalidate_finish = mirror_finish,
	};
	struct fixture *f = test->priv;

	insert_refuses(test, f->mm, AREA, 1, NULL, -EINVAL);
	insert_refuses(test, f->mm, AREA, 1, &neither, -EINVAL);
	insert_refuses(test, f->mm, AREA, 1, &no_finish, -EINVAL);
	insert_refuses(test, f->mm, AREA, 1, &no_finish_but_one_step, -EINVAL);
	insert_refuses(test, f->mm, AREA, 1, &no_start, -EINVAL);
}

static void insert_refuses_dead_mm(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mm_struct *mm = f->mm;

	insert_refuses(test, NULL, AREA, 1, &one_step, -EINVAL);

	mmgrab(mm);
	mmput(mm);
	f->mm = NULL;
	insert_refuses(test, mm, AREA, 1, &one_step, -EINVAL);
	mmdrop(mm);
}

/* The longest, the first and the last possible range. */
static void insert_accepts_extreme_ranges(struct kunit *test)
{
	static const unsigned long extremes[][2] = {
		{ 0, ULONG_MAX }, { 1, ULONG_MAX }, { 0, 1 }, { ULONG_MAX, 1 },
	};
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(extremes); i++)
		insert(test, &f->mirror[i].sub, extremes[i][0], extremes[i][1],
		       &one_step);
	invalidate(f, &range, 0, 1);
	invalidate_end(&range);
	expect_nr_lines(test, 2);
	expect_line(test, 0, INVALIDATED, &f->mirror[0]);
	expect_line(test, 1, INVALIDATED, &f->mirror[1]);
	for (i = 0; i < ARRAY_SIZE(extremes); i++)
		unsubscribe(&f->mirror[i]);
}

/* ---- subscriptions that an invalidation notifies ---- */

#define NR_CROWD	96

struct crowd {
	struct mmu_interval_notifier sub[NR_CROWD];
	bool live[NR_CROWD];
	unsigned int called[NR_CROWD];
	unsigned long previous;	/* start of the last one called */
	unsigned int disorder;
};

static struct crowd *the_crowd;

static bool crowd_invalidate(struct mmu_interval_notifier *sub,
			     const struct mmu_notifier_range *range,
			     unsigned long seq)
{
	struct crowd *crowd = the_crowd;

	crowd->called[sub - crowd->sub]++;
	if (sub->interval_tree.start < crowd->previous)
		crowd->disorder++;
	crowd->previous = sub->interval_tree.start;
	return true;
}

static const struct mmu_interval_notifier_ops crowd_ops = {
	.invalidate = crowd_invalidate,
};

/* Compare the callbacks with a linear search for overlaps. */
static unsigned int crowd_mistakes(struct fixture *f, struct crowd *crowd,
				   unsigned long first, unsigned long nr)
{
	struct mmu_notifier_range range;
	unsigned int i, mistakes;

	memset(crowd->called, 0, sizeof(crowd->called));
	crowd->previous = 0;
	crowd->disorder = 0;
	invalidate(f, &range, first, nr);
	invalidate_end(&range);

	mistakes = crowd->disorder;
	for (i = 0; i < NR_CROWD; i++) {
		struct interval_tree_node *node = &crowd->sub[i].interval_tree;
		bool covered = crowd->live[i] && node->start < range.end &&
			       node->last >= range.start;

		if (crowd->called[i] != covered)
			mistakes++;
	}
	return mistakes;
}

static void crowd_toggle(struct kunit *test, struct crowd *crowd,
			 unsigned int i, unsigned long start,
			 unsigned long length)
{
	if (crowd->live[i])
		mmu_interval_notifier_remove(&crowd->sub[i]);
	else
		insert(test, &crowd->sub[i], AREA + start, length, &crowd_ops);
	crowd->live[i] = !crowd->live[i];
}

static void crowd_leaves(struct crowd *crowd)
{
	unsigned int i;

	for (i = 0; i < NR_CROWD; i++)
		if (crowd->live[i])
			mmu_interval_notifier_remove(&crowd->sub[i]);
}

static void crowd_init(struct kunit *test)
{
	the_crowd = kunit_kzalloc(test, sizeof(*the_crowd), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, the_crowd);
}

/*
 * Insert and remove random ranges that overlap, nest and coincide. They start
 * at multiples of half a page, within the first 1 << @bits of these.
 */
static void crowd_changes(struct kunit *test, unsigned int bits)
{
	struct fixture *f = test->priv;
	unsigned long mask = (1UL << bits) - 1;
	unsigned int i, mistakes = 0;
	struct rnd_state rnd;

	crowd_init(test);
	prandom_seed_state(&rnd, bits);
	for (i = 0; i < 4000; i++) {
		u32 random = prandom_u32_state(&rnd);
		unsigned long start = prandom_u32_state(&rnd) & mask;
		unsigned long length = PAGE_SIZE << (random % (bits + 1));

		crowd_toggle(test, the_crowd, (random >> 16) % NR_CROWD,
			     start * PAGE_SIZE / 2, length - (random >> 8 & 1));
		start = prandom_u32_state(&rnd) & mask;
		mistakes += crowd_mistakes(f, the_crowd, start,
					   (random >> 9 & 7) + 1);
	}
	KUNIT_EXPECT_EQ(test, mistakes, 0);
	crowd_leaves(the_crowd);
}

static void invalidation_reaches_dense_ranges(struct kunit *test)
{
	crowd_changes(test, 8);
}

static void invalidation_reaches_sparse_ranges(struct kunit *test)
{
	crowd_changes(test, BITS_PER_LONG == 64 ? 24 : 12);
}

static void invalidation_reaches_equal_starts(struct kunit *test)
{
	crowd_changes(test, 0);
}

/* One start for each address bit; every other range is as long as possible. */
static void invalidation_reaches_distant_starts(struct kunit *test)
{
	unsigned int i, mistakes = 0, nr = BITS_PER_LONG - 1 - PAGE_SHIFT;
	struct fixture *f = test->priv;

	crowd_init(test);
	for (i = 0; i < nr; i++) {
		unsigned long page = 1UL << i, start = page * PAGE_SIZE;

		crowd_toggle(test, the_crowd, i, start,
			     i & 1 ? -(AREA + start) : 1);
		mistakes += crowd_mistakes(f, the_crowd, page, 1);
		mistakes += crowd_mistakes(f, the_crowd, 0, page);
	}
	for (i = 0; i < nr; i++) {
		crowd_toggle(test, the_crowd, i, 0, 0);
		mistakes += crowd_mistakes(f, the_crowd, 1UL << (nr - 1), 1);
	}
	KUNIT_EXPECT_EQ(test, mistakes, 0);
}

/* Adjacent ranges, in both directions, some of them removed and re-inserted. */
static void invalidation_reaches_neighbours(struct kunit *test)
{
	struct fixture *f = test->priv;
	unsigned int i, k, mistakes = 0;

	crowd_init(test);
	for (k = 0; k < 6; k++) {
		for (i = 0; i < NR_CROWD; i++) {
			unsigned int n = k & 2 ? NR_CROWD - 1 - i : i;

			crowd_toggle(test, the_crowd, n, n * PAGE_SIZE,
				     PAGE_SIZE);
			mistakes += crowd_mistakes(f, the_crowd, 0, NR_CROWD);
			mistakes += crowd_mistakes(f, the_crowd, i, 1);
			if (k & 1)
				continue;
			crowd_toggle(test, the_crowd, n, 0, 0);
			crowd_toggle(test, the_crowd, n, n * PAGE_SIZE,
				     PAGE_SIZE);
			mistakes += crowd_mistakes(f, the_crowd, n, 1);
		}
	}
	KUNIT_EXPECT_EQ(test, mistakes, 0);
	crowd_leaves(the_crowd);
}

/* Unmap a present page, so that the mm itself calls the notifier. */
static void munmap_reaches_subscription(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mirror *mirror = &f->mirror[0];
	unsigned long addr, seq;
	int ret;

	addr = kunit_vm_mmap(test, NULL, 0, 4 * PAGE_SIZE,
			     PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	KUNIT_ASSERT_EQ(test, 0, put_user(1, (u8 __user *)addr + PAGE_SIZE));
	ret = mmu_interval_notifier_insert(&mirror->sub, current->mm,
					   addr + PAGE_SIZE, PAGE_SIZE,
					   &one_step);
	KUNIT_ASSERT_EQ(test, ret, 0);

	seq = mmu_interval_read_begin(&mirror->sub);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(addr + 2 * PAGE_SIZE, PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, seq));
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(addr, 2 * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, must_retry(mirror, seq));
	expect_nr_lines(test, 1);
	KUNIT_EXPECT_EQ(test, f->journal.lines[0].reason, MMU_NOTIFY_UNMAP);
	unsubscribe(mirror);
}

/* ---- the sequence protocol ---- */

static void reader_ignores_other_ranges(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mirror *mirror = &f->mirror[1];
	struct mmu_notifier_range range;
	unsigned long seq;

	subscribe(test, mirror, &one_step);
	seq = mmu_interval_read_begin(&mirror->sub);
	KUNIT_EXPECT_EQ(test, seq & 1, 1);
	invalidate(f, &range, 0, 1);
	KUNIT_EXPECT_FALSE(test, mmu_interval_check_retry(&mirror->sub, seq));
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, seq));
	KUNIT_EXPECT_EQ(test, seq, mmu_interval_read_begin(&mirror->sub));
	invalidate_end(&range);
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, seq));
	expect_nr_lines(test, 0);
	unsubscribe(mirror);
}

static void reader_retries_after_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mirror *mirror = &f->mirror[0];
	struct mmu_notifier_range range;
	unsigned long seq;

	subscribe(test, mirror, &one_step);
	seq = mmu_interval_read_begin(&mirror->sub);
	invalidate(f, &range, 0, 1);
	KUNIT_EXPECT_TRUE(test, mmu_interval_check_retry(&mirror->sub, seq));
	KUNIT_EXPECT_TRUE(test, must_retry(mirror, seq));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, must_retry(mirror, seq));

	seq = mmu_interval_read_begin(&mirror->sub);
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, seq));
	unsubscribe(mirror);
}

/* A reader waits for the end of both invalidations, also if one covers it. */
static void read_waits(struct kunit *test, unsigned long second)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range, other;
	struct job *reader;

	subscribe(test, &f->mirror[0], &one_step);
	subscribe(test, &f->mirror[2], &one_step);
	invalidate(f, &range, 0, 1);
	reader = run(test, &f->mirror[0], read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate(f, &other, second, 1);
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&other);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));
	KUNIT_EXPECT_FALSE(test, must_retry(&f->mirror[0], reader->seq));
	expect_idle(test);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[2]);
}

static void reader_waits_for_last_end(struct kunit *test)
{
	read_waits(test, 2);
}

static void reader_waits_for_uncovering_end(struct kunit *test)
{
	read_waits(test, 1);
}

/* Two readers and a removal wait for the same end. */
static void last_end_wakes_all_waiters(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	struct job *job[3];
	unsigned int i;

	subscribe(test, &f->mirror[0], &one_step);
	subscribe(test, &f->mirror[1], &one_step);
	invalidate(f, &range, 0, 2);
	for (i = 0; i < 3; i++) {
		job[i] = run(test, &f->mirror[i / 2],
			     i == 2 ? remove_job : read_begin_job);
		KUNIT_EXPECT_TRUE(test, waits_as(f, job[i], i + 1));
	}
	invalidate_end(&range);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_TRUE(test, finishes(f, job[i]));
	unsubscribe(&f->mirror[0]);
}

/* Drivers use ULONG_MAX and 0 for "no number yet". */
static void first_sequence_number_is_valid(struct kunit *test)
{
	struct fixture *f = test->priv;
	unsigned long seq;

	subscribe(test, &f->mirror[0], &one_step);
	seq = mmu_interval_read_begin(&f->mirror[0].sub);
	KUNIT_EXPECT_NE(test, seq, ULONG_MAX);
	KUNIT_EXPECT_NE(test, seq, 0UL);
	KUNIT_EXPECT_FALSE(test, must_retry(&f->mirror[0], seq));
	unsubscribe(&f->mirror[0]);
}

/* Start with an idle mm whose number is @seq, which is even. */
static void wrap_round(struct kunit *test, unsigned long seq)
{
	struct fixture *f = test->priv;
	struct mirror *mirror = &f->mirror[0];
	struct mmu_notifier_range range;
	struct job *reader;
	unsigned long before;

	subscribe(test, &f->mirror[1], &one_step);
	intervals_of(f)->seq = seq;
	subscribe(test, mirror, &one_step);
	before = mmu_interval_read_begin(&mirror->sub);
	KUNIT_EXPECT_EQ(test, before & 1, 1);
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, before));

	invalidate(f, &range, 0, 1);
	KUNIT_EXPECT_TRUE(test, must_retry(mirror, before));
	reader = run(test, mirror, read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));
	KUNIT_EXPECT_FALSE(test, must_retry(mirror, reader->seq));
	KUNIT_EXPECT_EQ(test, intervals_of(f)->seq, seq + 2);

	invalidate(f, &range, 0, 1);
	KUNIT_EXPECT_TRUE(test, must_retry(mirror, reader->seq));
	invalidate_end(&range);
	unsubscribe(mirror);
	unsubscribe(&f->mirror[1]);
}

static void sequence_number_wraps(struct kunit *test)
{
	unsigned long seq;

	for (seq = -6UL; seq != 4; seq += 2)
		wrap_round(test, seq);
}

/* ---- changes while invalidations run ---- */

/* The new subscription is not in a running range, but counts as covered. */
static void insert_beside_invalidation_is_covered(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range, other;
	struct job *reader;

	subscribe(test, &f->mirror[3], &one_step);
	invalidate(f, &range, 0, 1);
	invalidate(f, &other, 1, 1);
	subscribe(test, &f->mirror[0], &one_step);
	reader = run(test, &f->mirror[0], read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&other);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));
	KUNIT_EXPECT_FALSE(test, must_retry(&f->mirror[0], reader->seq));
	expect_nr_lines(test, 0);

	invalidate(f, &range, 0, 1);
	invalidate_end(&range);
	expect_nr_lines(test, 1);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[3]);
}

/* The removal of such a subscription waits for the end, too. */
static void remove_after_insert_beside_invalidation_waits(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	struct job *remover;

	subscribe(test, &f->mirror[3], &one_step);
	invalidate(f, &range, 0, 1);
	subscribe(test, &f->mirror[0], &one_step);
	remover = run(test, &f->mirror[0], remove_job);
	KUNIT_EXPECT_TRUE(test, waits(f, remover));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, finishes(f, remover));
	expect_idle(test);
	unsubscribe(&f->mirror[3]);
}

/* The last end inserts it; until then it counts as covered. */
static void insert_into_frozen_tree_is_deferred(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range, other;
	struct job *reader;

	subscribe(test, &f->mirror[0], &one_step);
	invalidate(f, &range, 0, 1);
	subscribe(test, &f->mirror[1], &one_step);
	invalidate(f, &other, 0, 2);
	expect_nr_lines(test, 2);
	expect_line(test, 1, INVALIDATED, &f->mirror[0]);
	reader = run(test, &f->mirror[1], read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&other);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));

	invalidate(f, &range, 1, 1);
	invalidate_end(&range);
	expect_nr_lines(test, 3);
	expect_line(test, 2, INVALIDATED, &f->mirror[1]);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[1]);
}

/* No invalidation has seen a subscription that is not in the tree yet. */
static void remove_of_deferred_insert_does_not_wait(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	struct job *remover;

	subscribe(test, &f->mirror[0], &one_step);
	invalidate(f, &range, 0, 1);
	subscribe(test, &f->mirror[1], &one_step);
	subscribe(test, &f->mirror[2], &one_step);
	remover = run(test, &f->mirror[1], remove_job);
	KUNIT_EXPECT_TRUE(test, finishes(f, remover));
	memset(&f->mirror[1].sub, 0x5a, sizeof(f->mirror[1].sub));
	invalidate_end(&range);

	invalidate(f, &range, 0, 4);
	invalidate_end(&range);
	expect_nr_lines(test, 3);
	expect_line(test, 1, INVALIDATED, &f->mirror[0]);
	expect_line(test, 2, INVALIDATED, &f->mirror[2]);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[2]);
}

/* It is notified until the last end. After that, it may be freed. */
static void remove_from_frozen_tree_waits(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range, other;
	struct job *remover;

	subscribe(test, &f->mirror[0], &one_step);
	subscribe(test, &f->mirror[1], &one_step);
	invalidate(f, &range, 0, 1);
	remover = run(test, &f->mirror[1], remove_job);
	KUNIT_EXPECT_TRUE(test, waits(f, remover));
	invalidate(f, &other, 1, 1);
	expect_line(test, 1, INVALIDATED, &f->mirror[1]);
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, waits(f, remover));
	invalidate_end(&other);
	KUNIT_EXPECT_TRUE(test, finishes(f, remover));
	memset(&f->mirror[1].sub, 0x5a, sizeof(f->mirror[1].sub));

	invalidate(f, &range, 0, 2);
	invalidate_end(&range);
	expect_nr_lines(test, 3);
	expect_line(test, 2, INVALIDATED, &f->mirror[0]);
	unsubscribe(&f->mirror[0]);
}

/* An invalidation that covers no subscription delays no removal. */
static void remove_ignores_uncovering_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	struct job *remover;

	subscribe(test, &f->mirror[0], &one_step);
	invalidate(f, &range, 1, 1);
	remover = run(test, &f->mirror[0], remove_job);
	KUNIT_EXPECT_TRUE(test, finishes(f, remover));
	invalidate_end(&range);
	expect_nr_lines(test, 0);
	expect_idle(test);
}

/* ---- refusals ---- */

/* After a refusal, readers and removals must not wait. */
static void expect_nothing_left(struct kunit *test, struct mirror *mirror,
				struct mmu_notifier_range *range)
{
	struct fixture *f = test->priv;
	struct job *reader;

	expect_idle(test);
	reader = run(test, mirror, read_begin_job);
	if (finishes(f, reader))
		return;
	KUNIT_FAIL(test, "reader hangs after a refused invalidation");
	invalidate_end(range);
	flush_work(&reader->work);
}

static void interval_refusal_ends_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	unsigned int i;

	for (i = 0; i < 3; i++)
		subscribe(test, &f->mirror[i], &one_step);
	f->mirror[1].refuses = true;
	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &range, 0, 3), -EAGAIN);
	expect_nr_lines(test, 2);
	expect_line(test, 0, INVALIDATED, &f->mirror[0]);
	expect_line(test, 1, REFUSED, &f->mirror[1]);
	expect_nothing_left(test, &f->mirror[0], &range);

	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &range, 0, 1), 0);
	invalidate_end(&range);
	expect_nr_lines(test, 3);
	for (i = 0; i < 3; i++)
		unsubscribe(&f->mirror[i]);
}

/* A refusal ends its own invalidation only. */
static void refusal_keeps_other_invalidation_running(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range, refused;
	struct job *reader;

	subscribe(test, &f->mirror[0], &one_step);
	subscribe(test, &f->mirror[1], &one_step);
	f->mirror[1].refuses = true;
	invalidate(f, &range, 0, 1);
	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &refused, 0, 2), -EAGAIN);
	reader = run(test, &f->mirror[0], read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));
	expect_nothing_left(test, &f->mirror[1], &refused);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[1]);
}

static void register_plain(struct kunit *test, struct plain *plain,
			   const struct mmu_notifier_ops *ops)
{
	struct fixture *f = test->priv;

	plain->mn.ops = ops;
	KUNIT_ASSERT_EQ(test, 0, mmu_notifier_register(&plain->mn, f->mm));
}

/* The interval notifiers accept, then a plain notifier refuses. */
static void plain_refusal_ends_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	struct job *remover;

	subscribe(test, &f->mirror[0], &one_step);
	register_plain(test, &f->plain[0], &plain_refusing);
	register_plain(test, &f->plain[1], &plain_accepting);
	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &range, 0, 1), -EAGAIN);
	expect_nr_lines(test, 4);
	expect_line(test, 0, INVALIDATED, &f->mirror[0]);
	expect_line(test, 1, PLAIN_STARTED, &f->plain[1]);
	expect_line(test, 2, PLAIN_REFUSED, &f->plain[0]);
	expect_line(test, 3, PLAIN_ENDED, &f->plain[1]);
	expect_nothing_left(test, &f->mirror[0], &range);

	remover = run(test, &f->mirror[0], remove_job);
	KUNIT_EXPECT_TRUE(test, finishes(f, remover));
	mmu_notifier_unregister(&f->plain[0].mn, f->mm);
	mmu_notifier_unregister(&f->plain[1].mn, f->mm);
}

/* The same for an invalidation that covers no subscription. */
static void plain_refusal_ends_uncovering_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;

	subscribe(test, &f->mirror[0], &one_step);
	register_plain(test, &f->plain[0], &plain_refusing);
	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &range, 1, 1), -EAGAIN);
	subscribe(test, &f->mirror[1], &one_step);
	expect_nothing_left(test, &f->mirror[1], &range);
	unsubscribe(&f->mirror[0]);
	unsubscribe(&f->mirror[1]);
	mmu_notifier_unregister(&f->plain[0].mn, f->mm);
}

/* ---- two steps ---- */

static void two_step_invalidation_starts_all_first(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	unsigned int i;

	subscribe(test, &f->mirror[3], &two_steps);
	subscribe(test, &f->mirror[1], &one_step);
	subscribe(test, &f->mirror[0], &all_three);
	subscribe(test, &f->mirror[2], &two_steps);
	f->mirror[2].one_pass = true;
	invalidate(f, &range, 0, 4);
	expect_nr_lines(test, 6);
	expect_line(test, 0, STARTED, &f->mirror[0]);
	expect_line(test, 1, INVALIDATED, &f->mirror[1]);
	expect_line(test, 2, STARTED, &f->mirror[2]);
	expect_line(test, 3, STARTED, &f->mirror[3]);
	expect_line(test, 4, FINISHED, &f->mirror[0]);
	expect_line(test, 5, FINISHED, &f->mirror[3]);
	invalidate_end(&range);
	expect_nr_lines(test, 6);
	for (i = 0; i < 4; i++)
		unsubscribe(&f->mirror[i]);
}

static void refused_two_step_invalidation_finishes(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mmu_notifier_range range;
	unsigned int i;

	for (i = 0; i < 4; i++)
		subscribe(test, &f->mirror[i], &two_steps);
	f->mirror[2].refuses = true;
	KUNIT_EXPECT_EQ(test, invalidate_nonblock(f, &range, 0, 4), -EAGAIN);
	expect_nr_lines(test, 5);
	expect_line(test, 0, STARTED, &f->mirror[0]);
	expect_line(test, 1, STARTED, &f->mirror[1]);
	expect_line(test, 2, REFUSED, &f->mirror[2]);
	expect_line(test, 3, FINISHED, &f->mirror[0]);
	expect_line(test, 4, FINISHED, &f->mirror[1]);
	expect_nothing_left(test, &f->mirror[0], &range);
	for (i = 0; i < 4; i++)
		unsubscribe(&f->mirror[i]);
}

/* ---- teardown of the mm ---- */

static void subscription_holds_mm(struct kunit *test)
{
	struct fixture *f = test->priv;
	int count;

	subscribe(test, &f->mirror[0], &one_step);
	count = atomic_read(&f->mm->mm_count);
	subscribe(test, &f->mirror[1], &one_step);
	KUNIT_EXPECT_EQ(test, count + 1, atomic_read(&f->mm->mm_count));
	unsubscribe(&f->mirror[1]);
	KUNIT_EXPECT_EQ(test, count, atomic_read(&f->mm->mm_count));
	unsubscribe(&f->mirror[0]);
	KUNIT_EXPECT_EQ(test, count - 1, atomic_read(&f->mm->mm_count));
}

static void mm_teardown_notifies_subscriptions(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mm_struct *mm = f->mm;
	unsigned int i;

	subscribe(test, &f->mirror[0], &two_steps);
	subscribe(test, &f->mirror[1], &one_step);
	insert(test, &f->mirror[2].sub, ULONG_MAX, 1, &one_step);
	mmgrab(mm);
	mmput(mm);
	expect_nr_lines(test, 4);
	expect_line(test, 0, STARTED, &f->mirror[0]);
	expect_line(test, 1, INVALIDATED, &f->mirror[1]);
	expect_line(test, 2, INVALIDATED, &f->mirror[2]);
	expect_line(test, 3, FINISHED, &f->mirror[0]);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, f->journal.lines[i].reason,
				MMU_NOTIFY_RELEASE);
	expect_idle(test);

	insert_refuses(test, mm, AREA, 1, &one_step, -EINVAL);
	mmu_interval_read_begin(&f->mirror[0].sub);
	for (i = 0; i < 3; i++)
		unsubscribe(&f->mirror[i]);
	f->mm = NULL;
	mmdrop(mm);
}

/* exit_mmap() runs beside an invalidation that came from a reverse map. */
static void mm_teardown_beside_invalidation(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct mm_struct *mm = f->mm;
	struct mmu_notifier_range range;
	struct job *reader;

	subscribe(test, &f->mirror[0], &one_step);
	invalidate(f, &range, 0, 1);
	mmgrab(mm);
	mmput(mm);
	expect_nr_lines(test, 2);
	reader = run(test, &f->mirror[0], read_begin_job);
	KUNIT_EXPECT_TRUE(test, waits(f, reader));
	invalidate_end(&range);
	KUNIT_EXPECT_TRUE(test, finishes(f, reader));
	unsubscribe(&f->mirror[0]);
	f->mm = NULL;
	mmdrop(mm);
}

/* ---- stress ---- */

#define NR_VALUES	4
#define NR_ROUNDS	1500
#define NR_LOADS	4

/*
 * Each "page table" is one word. A reader loads the word into its own device.
 * While an invalidation of the word runs, no device may hold it.
 */
struct melee {
	struct mm_struct *mm;
	unsigned long value[NR_VALUES];
	struct mutex value_lock[NR_VALUES];	/* the page-table lock */
	atomic_t stale;		/* devices found with a word that is changing */
	atomic_t loaded;
	atomic_t failed;
	struct list_head devices;
	rwlock_t devices_lock;
};

struct fake_device {
	struct mmu_interval_notifier sub;
	spinlock_t lock;	/* the driver's lock of the protocol */
	struct list_head list;
	unsigned int nr;
	unsigned long loaded;
};

static bool device_invalidate(struct mmu_interval_notifier *sub,
			      const struct mmu_notifier_range *range,
			      unsigned long seq)
{
	struct fake_device *device = container_of(sub, struct fake_device, sub);

	cond_resched();
	spin_lock(&device->lock);
	mmu_interval_set_seq(sub, seq);
	WRITE_ONCE(device->loaded, 0);
	spin_unlock(&device->lock);
	return true;
}

static const struct mmu_interval_notifier_ops device_ops = {
	.invalidate = device_invalidate,
};

static void melee_check(struct melee *melee, unsigned int nr)
{
	struct fake_device *device;

	read_lock(&melee->devices_lock);
	list_for_each_entry(device, &melee->devices, list)
		if (device->nr == nr && READ_ONCE(device->loaded))
			atomic_inc(&melee->stale);
	read_unlock(&melee->devices_lock);
}

static void melee_change(struct melee *melee, unsigned int nr)
{
	struct mmu_notifier_range range;

	mutex_lock(&melee->value_lock[nr]);
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_CLEAR, 0, melee->mm,
				      AREA + nr * PAGE_SIZE,
				      AREA + (nr + 1) * PAGE_SIZE, NULL);
	mmu_notifier_invalidate_range_start(&range);
	melee_check(melee, nr);
	WRITE_ONCE(melee->value[nr], melee->value[nr] + 1);
	cond_resched();
	melee_check(melee, nr);
	mmu_notifier_invalidate_range_end(&range);
	mutex_unlock(&melee->value_lock[nr]);
}

static void device_load(struct melee *melee, struct fake_device *device)
{
	unsigned long value, seq;

	seq = mmu_interval_read_begin(&device->sub);
	value = READ_ONCE(melee->value[device->nr]);
	cond_resched();
	spin_lock(&device->lock);
	if (!mmu_interval_read_retry(&device->sub, seq)) {
		WRITE_ONCE(device->loaded, value);
		atomic_inc(&melee->loaded);
		if (value != READ_ONCE(melee->value[device->nr]))
			atomic_inc(&melee->stale);
	}
	spin_unlock(&device->lock);
}

/* Insert, load and remove a device, and free it. */
static void device_life(struct melee *melee, unsigned int nr)
{
	struct fake_device *device;
	unsigned int i;

	device = kzalloc(sizeof(*device), GFP_KERNEL | __GFP_NOFAIL);
	device->nr = nr;
	/* An invalidation may come before the insertion has returned. */
	spin_lock_init(&device->lock);
	if (mmu_interval_notifier_insert(&device->sub, melee->mm,
					 AREA + nr * PAGE_SIZE, PAGE_SIZE,
					 &device_ops)) {
		atomic_inc(&melee->failed);
		kfree(device);
		return;
	}
	write_lock(&melee->devices_lock);
	list_add(&device->list, &melee->devices);
	write_unlock(&melee->devices_lock);
	for (i = 0; i < NR_LOADS; i++)
		device_load(melee, device);
	write_lock(&melee->devices_lock);
	list_del(&device->list);
	write_unlock(&melee->devices_lock);
	mmu_interval_notifier_remove(&device->sub);
	kfree(device);
}

struct fighter {
	struct work_struct work;
	struct melee *melee;
	unsigned int nr;
};

static void change_values(struct work_struct *work)
{
	struct fighter *fighter = container_of(work, struct fighter, work);
	unsigned int i;

	for (i = 0; i < NR_ROUNDS; i++)
		melee_change(fighter->melee, (fighter->nr + i) % NR_VALUES);
}

static void mirror_values(struct work_struct *work)
{
	struct fighter *fighter = container_of(work, struct fighter, work);
	unsigned int i;

	for (i = 0; i < NR_ROUNDS; i++)
		device_life(fighter->melee, (fighter->nr + i) % NR_VALUES);
}

static void readers_stay_correct_under_stress(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fighter fighter[6];
	struct melee *melee;
	unsigned int i;

	melee = kunit_kzalloc(test, sizeof(*melee), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, melee);
	melee->mm = f->mm;
	INIT_LIST_HEAD(&melee->devices);
	rwlock_init(&melee->devices_lock);
	for (i = 0; i < NR_VALUES; i++) {
		mutex_init(&melee->value_lock[i]);
		melee->value[i] = 1;
	}
	subscribe(test, &f->mirror[3], &one_step);
	for (i = 0; i < ARRAY_SIZE(fighter); i++) {
		fighter[i].melee = melee;
		fighter[i].nr = i;
		INIT_WORK_ONSTACK(&fighter[i].work,
				  i & 1 ? change_values : mirror_values);
		queue_work(system_unbound_wq, &fighter[i].work);
	}
	for (i = 0; i < ARRAY_SIZE(fighter); i++) {
		flush_work(&fighter[i].work);
		destroy_work_on_stack(&fighter[i].work);
	}
	KUNIT_EXPECT_EQ(test, atomic_read(&melee->stale), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&melee->failed), 0);

	/* With nothing running, every load succeeds. */
	atomic_set(&melee->loaded, 0);
	device_life(melee, 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&melee->loaded), NR_LOADS);
	expect_idle(test);
	unsubscribe(&f->mirror[3]);
}

/* ---- the suite ---- */

static int notifier_test_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	unsigned int i;

	if (!f)
		return -ENOMEM;
	f->mm = mm_alloc();
	if (!f->mm)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(f->mirror); i++) {
		f->mirror[i].journal = &f->journal;
		spin_lock_init(&f->mirror[i].lock);
	}
	for (i = 0; i < ARRAY_SIZE(f->plain); i++)
		f->plain[i].journal = &f->journal;
	test->priv = f;
	return 0;
}

static void notifier_test_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f && f->mm)
		mmput(f->mm);
}

static struct kunit_case notifier_test_cases[] = {
	KUNIT_CASE(insert_refuses_absurd_range),
	KUNIT_CASE(insert_refuses_incomplete_ops),
	KUNIT_CASE(insert_refuses_dead_mm),
	KUNIT_CASE(insert_accepts_extreme_ranges),
	KUNIT_CASE(invalidation_reaches_dense_ranges),
	KUNIT_CASE(invalidation_reaches_sparse_ranges),
	KUNIT_CASE(invalidation_reaches_equal_starts),
	KUNIT_CASE(invalidation_reaches_distant_starts),
	KUNIT_CASE(invalidation_reaches_neighbours),
	KUNIT_CASE(munmap_reaches_subscription),
	KUNIT_CASE(reader_ignores_other_ranges),
	KUNIT_CASE(reader_retries_after_invalidation),
	KUNIT_CASE(reader_waits_for_last_end),
	KUNIT_CASE(reader_waits_for_uncovering_end),
	KUNIT_CASE(last_end_wakes_all_waiters),
	KUNIT_CASE(first_sequence_number_is_valid),
	KUNIT_CASE(sequence_number_wraps),
	KUNIT_CASE(insert_beside_invalidation_is_covered),
	KUNIT_CASE(remove_after_insert_beside_invalidation_waits),
	KUNIT_CASE(insert_into_frozen_tree_is_deferred),
	KUNIT_CASE(remove_of_deferred_insert_does_not_wait),
	KUNIT_CASE(remove_from_frozen_tree_waits),
	KUNIT_CASE(remove_ignores_uncovering_invalidation),
	KUNIT_CASE(interval_refusal_ends_invalidation),
	KUNIT_CASE(refusal_keeps_other_invalidation_running),
	KUNIT_CASE(plain_refusal_ends_invalidation),
	KUNIT_CASE(plain_refusal_ends_uncovering_invalidation),
	KUNIT_CASE(two_step_invalidation_starts_all_first),
	KUNIT_CASE(refused_two_step_invalidation_finishes),
	KUNIT_CASE(subscription_holds_mm),
	KUNIT_CASE(mm_teardown_notifies_subscriptions),
	KUNIT_CASE(mm_teardown_beside_invalidation),
	KUNIT_CASE_SLOW(readers_stay_correct_under_stress),
	{}
};

static struct kunit_suite notifier_test_suite = {
	.name = "mmu_interval_notifier",
	.init = notifier_test_init,
	.exit = notifier_test_exit,
	.test_cases = notifier_test_cases,
};

kunit_test_suite(notifier_test_suite);

MODULE_DESCRIPTION("KUnit suite of the interval notifiers");
MODULE_LICENSE("GPL");
