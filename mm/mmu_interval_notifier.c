// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interval notifiers: subscriptions to a range of an address space.
 *
 * A driver that mirrors part of an address space subscribes to that range. It
 * reads page tables and programs its device without blocking the mm; the
 * sequence protocol tells it afterwards whether what it read is still valid.
 * This file owns the subscriptions of an mm and the protocol. It knows nothing
 * about pages or page tables.
 *
 *
 * The protocol
 * ============
 *
 * The mm has a sequence number (intervals->seq), and so has each subscription
 * (invalidate_seq). The number of the mm is odd while a running invalidation
 * covers a subscription, and even otherwise. The number of a subscription is
 * always odd. It is the number that the mm had in the last invalidation which
 * covered the subscription:
 *
 *   invalidation                           reader
 *
 *   start  lock                            begin  lock
 *            running++                              n = sub->invalidate_seq
 *            subscription in range?                 wait = (n == seq)
 *              seq |= 1                           unlock, wait for seq != n
 *          unlock                                 read page tables
 *          invalidate() of each:                  driver lock
 *            driver lock                            n == sub->invalidate_seq?
 *              zap the device's entries               load the device, else
 *              sub->invalidate_seq = seq              start over
 *            driver unlock                        driver unlock
 *   the mm changes page tables
 *   end    lock
 *            if (!--running && seq is odd)
 *              seq++
 *          unlock, wake waiters
 *
 * A reader that begins after invalidate() finds n equal to the number of the
 * mm. It waits for the last end and then sees the final page tables. If a
 * reader begins before invalidate(), the driver lock orders the two: either
 * invalidate() comes first and changes the number, or the reader comes first
 * and invalidate() zaps what the reader has loaded. An odd number never equals
 * an even one, so no reader waits while nothing runs, even after the number has
 * wrapped.
 *
 * All invalidations that overlap in time share one odd number, which ends with
 * the last of them. A reader may wait for longer than it has to; in return, no
 * invalidation has to maintain a list of running ranges.
 *
 *
 * Frozen tree
 * ===========
 *
 * While the number of the mm is odd, the tree does not change. So an
 * invalidation can walk it without the lock and call drivers that sleep.
 * Changes during that time are deferred. The last end applies them, so they
 * take effect in bounded time no matter how many invalidations run:
 *
 *  - A new subscription goes on the joining list. Running ranges are not
 *    recorded, so it counts as covered: its number is the number of the mm.
 *  - A removed subscription goes on the leaving list, and the removal waits.
 *    After that no callback runs or will run, and the caller may free the
 *    subscription. A subscription that is still on the joining list is removed
 *    at once, as no invalidation has seen it.
 *
 * If the running invalidations cover no subscription, the number stays even:
 * nobody walks the tree, and it may change. A new subscription is inserted, but
 * one of the running ranges may cover it. So the insertion makes the number
 * odd, and the subscription counts as covered.
 *
 *
 * Locks and ordering
 * ==================
 *
 * Lock order: mmap lock or rmap locks; the invalidation (lockdep map); the
 * driver's lock; intervals->lock. read_begin and remove must not be called with
 * a lock that a callback takes; insert may be.
 *
 * intervals->lock   Makes each step of the protocol atomic. A spinlock, because
 *                   non-blocking invalidations take it. No callback is called
 *                   and no other lock is taken under it.
 * invalidate_seq    The driver writes it under its own lock and read_begin
 *                   reads it under ours, hence READ_ONCE() and WRITE_ONCE(). A
 *                   stale value is harmless: read_retry() compares it again
 *                   under the driver's lock.
 * intervals->seq    Waiters read it without the lock. The last end applies the
 *                   deferred changes, then stores the even number with release
 *                   semantics. A waiter that sees it (acquire) also sees the
 *                   new page tables, and its subscription is in no list or
 *                   tree, so the caller may free it.
 * wq_has_sleeper()  Its full barrier orders the store to seq before the check
 *                   for waiters. Pairs with the barrier in prepare_to_wait().
 * mm_count          Each subscription holds a reference, because the lock, the
 *                   tree and the wait queue are freed with the mm.
 * mm_users          Held by the caller of insert, during the call only. When it
 *                   drops to 0, exit_mmap() notifies all subscriptions.
 * mmap lock         Taken by the first insertion into an mm, to exclude running
 *                   invalidations with mm_take_all_locks(). From then on,
 *                   invalidations are counted.
 * lockdep map       __mmu_notifier_invalidate_range_start_map stands for "an
 *                   invalidation runs". read_begin and remove may wait for one.
 */
#include <linux/export.h>
#include <linux/interval_tree.h>
#include <linux/llist.h>
#include <linux/mmu_notifier.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>

#include "mmu_interval_notifier.h"

/*
 * Initial number of an mm. The first subscription gets one less: 1. Starting
 * at 0 would give it ULONG_MAX, which drivers use for "no number yet".
 */
#define INTERVALS_FIRST_SEQ	2

static inline struct mmu_intervals *
intervals_of(const struct mmu_interval_notifier *sub)
{
	return &sub->mm->notifier_subscriptions->intervals;
}

/**
 * mmu_intervals_init() - initialize the interval subscriptions of an mm
 * @intervals: zeroed memory that nobody else can see yet
 */
void mmu_intervals_init(struct mmu_intervals *intervals)
{
	spin_lock_init(&intervals->lock);
	intervals->seq = INTERVALS_FIRST_SEQ;
	intervals->tree = RB_ROOT_CACHED;
	init_waitqueue_head(&intervals->thawed);
}

static inline bool intervals_frozen(const struct mmu_intervals *intervals)
{
	lockdep_assert_held(&intervals->lock);
	return intervals->seq & 1;
}

static inline void intervals_freeze(struct mmu_intervals *intervals)
{
	WRITE_ONCE(intervals->seq, intervals->seq | 1);
}

static void intervals_apply_deferred(struct mmu_intervals *intervals)
{
	struct mmu_interval_notifier *sub;
	struct hlist_node *next;

	hlist_for_each_entry(sub, &intervals->leaving, deferred_item)
		interval_tree_remove(&sub->interval_tree, &intervals->tree);
	INIT_HLIST_HEAD(&intervals->leaving);

	hlist_for_each_entry_safe(sub, next, &intervals->joining,
				  deferred_item) {
		hlist_del_init(&sub->deferred_item);
		interval_tree_insert(&sub->interval_tree, &intervals->tree);
	}
}

static void intervals_thaw(struct mmu_intervals *intervals)
{
	intervals_apply_deferred(intervals);
	/*
	 * Pairs with intervals_thawed(): once seq is even, the owner of a
	 * removed subscription may free it.
	 */
	smp_store_release(&intervals->seq, intervals->seq + 1);
}

static bool intervals_thawed(const struct mmu_intervals *intervals,
			     unsigned long seq)
{
	/* Pairs with intervals_thaw(). */
	return smp_load_acquire(&intervals->seq) != seq;
}

static void intervals_wait(struct mmu_intervals *intervals, unsigned long seq)
{
	wait_event(intervals->thawed, intervals_thawed(intervals, seq));
}

/* Tell lockdep that the caller may wait for running invalidations to end. */
static void intervals_might_wait(void)
{
	might_sleep();
	lock_map_acquire(&__mmu_notifier_invalidate_range_start_map);
	lock_map_release(&__mmu_notifier_invalidate_range_start_map);
}

/**
 * struct invalidation - an invalidation from its start to its last callback
 * @range: what the mm is about to change
 * @first: first byte of the range
 * @last: last byte of the range
 * @seq: number that covered subscriptions get
 * @finishes: second steps to call, in the order of the first ones
 * @finishes_tail: where to link the next one
 */
struct invalidation {
	const struct mmu_notifier_range *range;
	unsigned long first;
	unsigned long last;
	unsigned long seq;
	struct llist_node *finishes;
	struct llist_node **finishes_tail;
};

static void invalidation_init(struct invalidation *inv,
			      const struct mmu_notifier_range *range)
{
	inv->range = range;
	inv->first = range->start;
	inv->last = range->end - 1;
	inv->finishes = NULL;
	inv->finishes_tail = &inv->finishes;
}

/*
 * If a subscription is covered, freeze the tree until the matching end, so that
 * it can be walked without the lock.
 */
static struct interval_tree_node *
invalidation_begin(struct mmu_intervals *intervals, struct invalidation *inv)
{
	struct interval_tree_node *node;

	spin_lock(&intervals->lock);
	intervals->running++;
	node = interval_tree_iter_first(&intervals->tree, inv->first,
					inv->last);
	if (node)
		intervals_freeze(intervals);
	inv->seq = intervals->seq;
	spin_unlock(&intervals->lock);
	return node;
}

static bool invalidation_start_two_step(struct invalidation *inv,
					struct mmu_interval_notifier *sub)
{
	struct mmu_interval_notifier_finish *finish = NULL;

	if (!sub->ops->invalidate_start(sub, inv->range, inv->seq, &finish))
		return false;
	if (finish) {
		finish->notifier = sub;
		finish->link.next = NULL;
		*inv->finishes_tail = &finish->link;
		inv->finishes_tail = &finish->link.next;
	}
	return true;
}

/*
 * A driver must not refuse a blockable invalidation: its device would keep
 * using memory that the mm is about to free. The mm cannot wait, so only warn.
 */
static bool invalidation_notify(struct invalidation *inv,
				struct interval_tree_node *node)
{
	struct mmu_interval_notifier *sub =
		container_of(node, struct mmu_interval_notifier, interval_tree);
	bool done;

	if (sub->ops->invalidate_start)
		done = invalidation_start_two_step(inv, sub);
	else
		done = sub->ops->invalidate(sub, inv->range, inv->seq);
	return done || WARN_ON_ONCE(mmu_notifier_range_blockable(inv->range));
}

/* Use the safe iterator: invalidate_finish() may free or reuse its argument. */
static void invalidation_finish_all(struct invalidation *inv)
{
	struct mmu_interval_notifier_finish *finish, *next;

	llist_for_each_entry_safe(finish, next, inv->finishes, link)
		finish->notifier->ops->invalidate_finish(finish);
}

/* Return false if a driver refused. The drivers after it were not called. */
static bool invalidation_notify_all(struct mmu_intervals *intervals,
				    struct invalidation *inv)
{
	struct interval_tree_node *node = invalidation_begin(intervals, inv);

	while (node && invalidation_notify(inv, node))
		node = interval_tree_iter_next(node, inv->first, inv->last);
	invalidation_finish_all(inv);
	return !node;
}

/**
 * mmu_intervals_invalidate_start() - notify subscriptions before a change
 * @intervals: subscriptions of the mm
 * @range: range whose page tables are about to change
 *
 * Calls the driver of every subscription that overlaps @range, in the order of
 * their start addresses, and then the second steps in the same order.
 *
 * Context: May sleep if @range is blockable, and so may the callbacks.
 * Return:
 * * 0 - the page tables may change; call mmu_intervals_invalidate_end() after
 * * -EAGAIN - @range is not blockable and a driver would have to sleep. The
 *   invalidation has ended: do not change anything, do not call the end.
 *   Drivers that had accepted it only have to load their device again
 */
int mmu_intervals_invalidate_start(struct mmu_intervals *intervals,
				   const struct mmu_notifier_range *range)
{
	struct invalidation inv;

	invalidation_init(&inv, range);
	if (invalidation_notify_all(intervals, &inv))
		return 0;
	mmu_intervals_invalidate_end(intervals);
	return -EAGAIN;
}

/**
 * mmu_intervals_invalidate_end() - end an invalidation
 * @intervals: subscriptions of the mm
 *
 * Call it once for each mmu_intervals_invalidate_start() that returned 0. The
 * last end of all that overlap in time lets readers, insertions and removals
 * continue.
 *
 * Context: Any context that may take a spinlock. The caller keeps the mm alive
 * by other means than a subscription: waiters may drop theirs at once.
 */
void mmu_intervals_invalidate_end(struct mmu_intervals *intervals)
{
	bool thawed = false;

	spin_lock(&intervals->lock);
	if (!--intervals->running && intervals_frozen(intervals)) {
		intervals_thaw(intervals);
		thawed = true;
	}
	spin_unlock(&intervals->lock);

	/* Store seq, then check for waiters. Pairs with prepare_to_wait(). */
	if (thawed && wq_has_sleeper(&intervals->thawed))
		wake_up_all(&intervals->thawed);
}

/**
 * mmu_intervals_release() - notify all subscriptions that the mm is going away
 * @intervals: subscriptions of the mm
 * @mm: address space that exit_mmap() is about to tear down
 *
 * The subscriptions stay until their drivers remove them. Other invalidations
 * may still run, from the reverse maps of pages that are still mapped.
 *
 * Context: May sleep. mm_users is 0, so nobody can insert a subscription.
 */
void mmu_intervals_release(struct mmu_intervals *intervals,
			   struct mm_struct *mm)
{
	struct mmu_notifier_range range;
	struct invalidation inv;

	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_RELEASE,
				      MMU_NOTIFIER_RANGE_BLOCKABLE, mm, 0,
				      ULONG_MAX, NULL);
	invalidation_init(&inv, &range);
	inv.last = ULONG_MAX;
	invalidation_notify_all(intervals, &inv);
	mmu_intervals_invalidate_end(intervals);
}

/**
 * mmu_interval_read_begin() - start to read page tables for a device
 * @interval_sub: subscription that contains the range to read
 *
 * Waits while an invalidation covers @interval_sub, but not for another one
 * that starts meanwhile: mmu_interval_read_retry() reports that. So the caller
 * can limit the time it spends.
 *
 * The driver may load what it reads from the page tables after this call into
 * its device, under the lock that its callback takes, if
 * mmu_interval_read_retry() returns false under that lock.
 *
 * Context: May sleep. Not from a callback, and without any lock that a callback
 * of an MMU notifier takes. The mmap lock may be held.
 * Return: The number for mmu_interval_read_retry(), always odd.
 */
unsigned long
mmu_interval_read_begin(struct mmu_interval_notifier *interval_sub)
{
	struct mmu_intervals *intervals = intervals_of(interval_sub);
	unsigned long seq;
	bool covered;

	intervals_might_wait();

	spin_lock(&intervals->lock);
	seq = READ_ONCE(interval_sub->invalidate_seq);
	covered = seq == intervals->seq;
	spin_unlock(&intervals->lock);

	if (covered)
		intervals_wait(intervals, seq);
	return seq;
}
EXPORT_SYMBOL_GPL(mmu_interval_read_begin);

/*
 * Invalidations run, and one of them may overlap the new subscription. Treat it
 * as covered until the last of them ends.
 */
static void interval_insert_covered(struct mmu_intervals *intervals,
				    struct mmu_interval_notifier *sub)
{
	if (intervals_frozen(intervals)) {
		hlist_add_head(&sub->deferred_item, &intervals->joining);
	} else {
		intervals_freeze(intervals);
		interval_tree_insert(&sub->interval_tree, &intervals->tree);
	}
	sub->invalidate_seq = intervals->seq;
}

/*
 * No invalidation runs. The new number is odd, and of all odd numbers the one
 * that the mm will reach last.
 */
static void interval_insert_idle(struct mmu_intervals *intervals,
				 struct mmu_interval_notifier *sub)
{
	sub->invalidate_seq = intervals->seq - 1;
	interval_tree_insert(&sub->interval_tree, &intervals->tree);
}

static void interval_insert(struct mmu_interval_notifier *sub)
{
	struct mmu_intervals *intervals = intervals_of(sub);

	mmgrab(sub->mm);	/* dropped by mmu_interval_notifier_remove() */
	spin_lock(&intervals->lock);
	if (unlikely(intervals->running))
		interval_insert_covered(intervals, sub);
	else
		interval_insert_idle(intervals, sub);
	spin_unlock(&intervals->lock);
}

/* Does @mm count invalidations? It does from its first subscription on. */
static bool intervals_in_use(struct mm_struct *mm)
{
	struct mmu_notifier_subscriptions *subscriptions;

	/* Pairs with __mmu_notifier_register(); the mmap lock is not held. */
	subscriptions = smp_load_acquire(&mm->notifier_subscriptions);
	return subscriptions && READ_ONCE(subscriptions->has_itree);
}

/* Either invalidate, or invalidate_start with invalidate_finish, or all. */
static bool interval_ops_valid(const struct mmu_interval_notifier_ops *ops)
{
	if (!ops)
		return false;
	if (ops->invalidate_start)
		return ops->invalidate_finish;
	return ops->invalidate && !ops->invalidate_finish;
}

static int interval_check(struct mm_struct *mm, unsigned long start,
			  unsigned long length,
			  const struct mmu_interval_notifier_ops *ops)
{
	unsigned long last;

	if (!mm || !interval_ops_valid(ops))
		return -EINVAL;
	if (!length || check_add_overflow(start, length - 1, &last))
		return -EOVERFLOW;
	if (atomic_read(&mm->mm_users) <= 0)
		return -EINVAL;
	return 0;
}

/* Register the first notifier of @mm with @prepare, then subscribe. */
static int interval_subscribe(struct mmu_interval_notifier *sub,
			      struct mm_struct *mm, unsigned long start,
			      unsigned long length,
			      const struct mmu_interval_notifier_ops *ops,
			      int (*prepare)(struct mm_struct *mm))
{
	int ret;

	ret = interval_check(mm, start, length, ops);
	if (ret)
		return ret;
	ret = prepare(mm);
	if (ret)
		return ret;

	INIT_HLIST_NODE(&sub->deferred_item);
	sub->interval_tree.start = start;
	sub->interval_tree.last = start + length - 1;
	sub->ops = ops;
	sub->mm = mm;
	interval_insert(sub);
	return 0;
}

static int interval_prepare(struct mm_struct *mm)
{
	might_lock(&mm->mmap_lock);
	return intervals_in_use(mm) ? 0 : mmu_notifier_register(NULL, mm);
}

static int interval_prepare_locked(struct mm_struct *mm)
{
	mmap_assert_write_locked(mm);
	return intervals_in_use(mm) ? 0 : __mmu_notifier_register(NULL, mm);
}

/**
 * mmu_interval_notifier_insert() - subscribe to a range of an address space
 * @interval_sub: the subscription, in memory of the caller; need not be zeroed
 * @mm: address space
 * @start: first byte of the range
 * @length: size of the range in bytes; need not be aligned or mapped
 * @ops: callbacks: invalidate, or invalidate_start and invalidate_finish
 *
 * From now on the driver is called before page tables of the range change. If
 * invalidations of @mm run during the call, whatever their ranges are, the
 * subscription counts as covered until the last of them ends, and
 * mmu_interval_read_begin() waits for that. The driver must not load anything
 * into its device that it read before the insertion.
 *
 * Ranges of subscriptions may overlap.
 *
 * Context: Process context, takes the mmap lock. The caller holds a reference
 * to the mm_users of @mm during the call. Not from a callback of an MMU
 * notifier.
 * Return:
 * * 0 - subscribed; holds a reference to @mm (mm_count) until
 *   mmu_interval_notifier_remove()
 * * -EINVAL - @mm or @ops is NULL, the callbacks are incomplete, or mm_users
 *   is 0
 * * -EOVERFLOW - @length is 0, or the range wraps
 * * -ENOMEM, -EINTR - cannot register the first notifier of @mm
 *
 * On error, @interval_sub is unchanged and no reference is taken.
 */
int mmu_interval_notifier_insert(struct mmu_interval_notifier *interval_sub,
				 struct mm_struct *mm, unsigned long start,
				 unsigned long length,
				 const struct mmu_interval_notifier_ops *ops)
{
	return interval_subscribe(interval_sub, mm, start, length, ops,
				  interval_prepare);
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_insert);

/**
 * mmu_interval_notifier_insert_locked() - subscribe with the mmap lock held
 * @interval_sub: the subscription, in memory of the caller; need not be zeroed
 * @mm: address space
 * @start: first byte of the range
 * @length: size of the range in bytes; need not be aligned or mapped
 * @ops: callbacks: invalidate, or invalidate_start and invalidate_finish
 *
 * As mmu_interval_notifier_insert(), for callers that hold the mmap lock.
 *
 * Context: Process context, mmap lock of @mm held for writing. The caller holds
 * a reference to the mm_users of @mm. Not from a callback of an MMU notifier.
 * Return: As mmu_interval_notifier_insert().
 */
int
mmu_interval_notifier_insert_locked(struct mmu_interval_notifier *interval_sub,
				    struct mm_struct *mm, unsigned long start,
				    unsigned long length,
				    const struct mmu_interval_notifier_ops *ops)
{
	return interval_subscribe(interval_sub, mm, start, length, ops,
				  interval_prepare_locked);
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_insert_locked);

/*
 * Return the number to wait for, or 0, which is never odd, if the subscription
 * is not in the tree yet: no invalidation can have seen it.
 */
static unsigned long interval_remove_frozen(struct mmu_intervals *intervals,
					    struct mmu_interval_notifier *sub)
{
	if (!hlist_unhashed(&sub->deferred_item)) {
		hlist_del(&sub->deferred_item);
		return 0;
	}
	hlist_add_head(&sub->deferred_item, &intervals->leaving);
	return intervals->seq;
}

/**
 * mmu_interval_notifier_remove() - remove a subscription
 * @interval_sub: subscription that was inserted
 *
 * When this returns, no callback of the subscription is running or will run,
 * and the caller may free it. If invalidations that cover any subscription of
 * the mm are running, this waits for the last of them to end. Drops the
 * reference to the mm.
 *
 * Context: May sleep. Not from a callback of an MMU notifier, and without any
 * lock that such a callback takes.
 */
void mmu_interval_notifier_remove(struct mmu_interval_notifier *interval_sub)
{
	struct mmu_intervals *intervals = intervals_of(interval_sub);
	struct mm_struct *mm = interval_sub->mm;
	unsigned long seq = 0;

	intervals_might_wait();

	spin_lock(&intervals->lock);
	if (unlikely(intervals_frozen(intervals)))
		seq = interval_remove_frozen(intervals, interval_sub);
	else
		interval_tree_remove(&interval_sub->interval_tree,
				     &intervals->tree);
	spin_unlock(&intervals->lock);

	if (seq)
		intervals_wait(intervals, seq);
	mmdrop(mm);
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_remove);
