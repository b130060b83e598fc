// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interval notifiers: subscriptions to what happens to a part of an mm.
 *
 * A driver that mirrors a piece of an address space subscribes to it here. It
 * may then read page tables and load what it read into its device without
 * holding off the mm: the sequence protocol tells it afterwards whether what
 * it read is still good. This file owns the subscriptions of an mm and the
 * protocol. It knows neither pages nor page tables.
 *
 *
 * The protocol
 * ============
 *
 * One number belongs to the mm (intervals->seq) and one to each subscription
 * (invalidate_seq). The number of the mm is odd while a running invalidation
 * covers a subscription, else even; a subscription's number is always odd and
 * names the last run of invalidations that covered it:
 *
 *   invalidation                           reader
 *
 *   start  lock                            begin  lock
 *            running++                              n = subscription's number
 *            covers one? mm number |= 1             n is the mm's number? wait
 *          unlock                                 unlock
 *          invalidate() of each covered:          read page tables
 *            driver lock                          driver lock
 *              zap the device's entries             number still n? load device
 *              its number = mm number               else start again
 *            driver unlock                        driver unlock
 *   the mm changes page tables
 *   end    lock
 *            last one, and odd? mm number += 1
 *          unlock, wake who waits
 *
 * A reader is safe whatever the timing. If its begin comes after the driver's
 * invalidate(), its n is the number of the mm and it waits for the last end,
 * after which it sees the page tables as that end left them. If its begin comes
 * before invalidate(), one of the two is first with the driver lock:
 * invalidate() first, and the number differs from n; the reader first, and
 * invalidate() zaps what the reader loaded. The odd number of a subscription
 * never equals an even number of the mm, so nobody waits when nothing runs, and
 * that stays true when the number wraps.
 *
 * All invalidations that overlap in time share one odd number, and it ends
 * with the last of them. That costs a reader some patience and saves a list of
 * running ranges, which every invalidation would have to keep.
 *
 *
 * The tree freezes
 * ================
 *
 * While the number of the mm is odd the tree does not change. This is what
 * lets an invalidation walk it, calling drivers that sleep, with no lock and
 * no reference. Changes that come in this time are put off and made by the
 * last end, so they are made in bounded time however many invalidations run:
 *
 *  - A new subscription joins then. It counts as covered from the start, since
 *    which ranges are running is not known: its number is the mm's number.
 *  - A removal unhooks the subscription then and waits for it. So when remove
 *    returns no callback runs, none will, and the memory can be freed. Only a
 *    subscription that never came into the tree leaves it at once: no callback
 *    can have seen it.
 *
 * Invalidations that run but cover nobody leave the number even: no walk is
 * going on and the tree may change. A subscription that comes now goes in, but
 * may lie in a range that is running. Hence the number becomes odd with it,
 * and for it the same is true as for one that came later.
 *
 * Invalidations may be non-blocking; then a driver may refuse. The invalidation
 * ends at once in that case: see mmu_intervals_invalidate_start().
 *
 *
 * Why each of these
 * =================
 *
 * intervals->lock   makes "count and look up", "compare with the mm's number",
 *                   "in or put off" and "last one out" single steps. A spinlock
 *                   since non-blocking invalidations take it. No callback is
 *                   called and no other lock taken under it.
 * running           says which end is the last. The number alone cannot: it
 *                   does not know how many share it.
 * invalidate_seq    is written by the driver under the lock of the driver and
 *                   read in begin under ours, hence READ_ONCE/WRITE_ONCE. That
 *                   race is harmless: begin sees the old number and the
 *                   comparison under the driver's lock finds the new one.
 * release/acquire   on intervals->seq: who waits looks at it without the lock.
 *                   The last end makes the changes first and the number even
 *                   after; who sees it even finds the page tables changed, and
 *                   the subscription out of the tree and out of every list, so
 *                   that it may be freed while the last end has yet to unlock.
 * full barrier      in wq_has_sleeper(): the last end writes the number, then
 *                   looks for waiters; a waiter queues itself, then looks at
 *                   the number. One of them sees the other.
 * mm_count          is held by each subscription, for the spinlock, the tree
 *                   and the wait queue lie in memory that goes with the mm.
 * mm_users          is held by the caller of insert only. At 0 exit_mmap()
 *                   may already have told all subscriptions (release).
 * mmap lock         is needed for the first subscription of an mm, which has
 *                   to shut out running invalidations (mm_take_all_locks());
 *                   from then on these count themselves.
 * lockdep map       __mmu_notifier_invalidate_range_start_map stands for "an
 *                   invalidation runs". Begin and remove may wait for one, so
 *                   they must not hold a lock that a callback takes.
 *
 * Order: mmap lock or rmap locks, invalidation (lockdep map), driver's lock,
 * intervals->lock. Begin and remove want no lock of the driver's callbacks;
 * insert may be called with them.
 *
 * What has been subscribed since the tree was last empty lies in its hull: an
 * invalidation outside, of the stack or the heap, need not look into the tree.
 */
#include <linux/export.h>
#include <linux/llist.h>
#include <linux/mmu_notifier.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>

#include "mmu_interval_notifier.h"
#include "mmu_interval_tree.h"

static inline struct mmu_intervals *
intervals_of(const struct mmu_interval_notifier *sub)
{
	return &sub->mm->notifier_subscriptions->intervals;
}

static inline struct mmu_interval_notifier *
to_subscription(struct mmu_interval_span *span)
{
	return container_of(span, struct mmu_interval_notifier, interval_tree);
}

static void tree_insert(struct mmu_intervals *intervals,
			struct mmu_interval_span *span)
{
	span_tree_insert(&intervals->tree, span);
	if (span->start < intervals->hull_first)
		intervals->hull_first = span->start;
	if (span->last > intervals->hull_last)
		intervals->hull_last = span->last;
}

static void empty_hull(struct mmu_intervals *intervals)
{
	intervals->hull_first = ULONG_MAX;
	intervals->hull_last = 0;
}

static void tree_remove(struct mmu_intervals *intervals,
			struct mmu_interval_span *span)
{
	span_tree_remove(&intervals->tree, span);
	if (span_tree_empty(&intervals->tree))
		empty_hull(intervals);
}

/*
 * The number of an mm without history, even. The first subscription then has
 * 1. With 0 it would have ULONG_MAX, which drivers use for "no number yet".
 */
#define INTERVALS_FIRST_SEQ	2

/**
 * mmu_intervals_init() - Make an empty set of interval subscriptions
 * @intervals: Zeroed memory, not yet visible to anybody
 */
void mmu_intervals_init(struct mmu_intervals *intervals)
{
	spin_lock_init(&intervals->lock);
	intervals->seq = INTERVALS_FIRST_SEQ;
	init_waitqueue_head(&intervals->thawed);
	span_tree_init(&intervals->tree);
	empty_hull(intervals);
}

static inline bool is_frozen(const struct mmu_intervals *intervals)
{
	lockdep_assert_held(&intervals->lock);
	return intervals->seq & 1;
}

static inline void freeze(struct mmu_intervals *intervals)
{
	WRITE_ONCE(intervals->seq, intervals->seq | 1);
}

static void make_deferred_changes(struct mmu_intervals *intervals)
{
	struct mmu_interval_notifier *sub;
	struct hlist_node *next;

	hlist_for_each_entry(sub, &intervals->leaving, deferred_item)
		tree_remove(intervals, &sub->interval_tree);
	INIT_HLIST_HEAD(&intervals->leaving);

	hlist_for_each_entry_safe(sub, next, &intervals->joining,
				  deferred_item)
		tree_insert(intervals, &sub->interval_tree);
	INIT_HLIST_HEAD(&intervals->joining);
}

static void thaw(struct mmu_intervals *intervals)
{
	make_deferred_changes(intervals);
	/* From here on a removed subscription may be gone: wait_for_thaw(). */
	smp_store_release(&intervals->seq, intervals->seq + 1);
}

/* For callers that may now have to wait until running invalidations end. */
static void may_wait_for_invalidations(void)
{
	might_sleep();
	lock_map_acquire(&__mmu_notifier_invalidate_range_start_map);
	lock_map_release(&__mmu_notifier_invalidate_range_start_map);
}

static bool has_thawed(const struct mmu_intervals *intervals, unsigned long seq)
{
	/* Pairs with the release in thaw(). */
	return smp_load_acquire(&intervals->seq) != seq;
}

static void wait_for_thaw(struct mmu_intervals *intervals, unsigned long seq)
{
	wait_event(intervals->thawed, has_thawed(intervals, seq));
}

/* One invalidation between its start and the last of its callbacks. */
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

static struct mmu_interval_span *
first_covered(const struct mmu_intervals *intervals,
	      const struct invalidation *inv)
{
	if (inv->last < intervals->hull_first ||
	    inv->first > intervals->hull_last)
		return NULL;
	return span_tree_first(&intervals->tree, inv->first, inv->last);
}

/* The subscription that is found first keeps the tree as it is until the end. */
static struct mmu_interval_span *
invalidation_begin(struct mmu_intervals *intervals, struct invalidation *inv)
{
	struct mmu_interval_span *span;

	spin_lock(&intervals->lock);
	intervals->running++;
	span = first_covered(intervals, inv);
	if (span)
		freeze(intervals);
	inv->seq = intervals->seq;
	spin_unlock(&intervals->lock);
	return span;
}

static bool start_two_step(struct invalidation *inv,
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
 * A driver that refuses although it may sleep leaves its device on memory that
 * is about to go. Nobody can wait for it here: the mm does not ask, it tells.
 */
static bool tell_driver(struct invalidation *inv,
			struct mmu_interval_notifier *sub)
{
	bool done;

	if (sub->ops->invalidate_start)
		done = start_two_step(inv, sub);
	else
		done = sub->ops->invalidate(sub, inv->range, inv->seq);
	return done || WARN_ON_ONCE(mmu_notifier_range_blockable(inv->range));
}

/* invalidate_finish() may free or use again what it is called with. */
static void finish_all(struct invalidation *inv)
{
	struct mmu_interval_notifier_finish *finish, *next;

	llist_for_each_entry_safe(finish, next, inv->finishes, link)
		finish->notifier->ops->invalidate_finish(finish);
}

/* Returns false if a driver refused; those after it were not asked. */
static bool invalidate_covered(struct mmu_intervals *intervals,
			       struct invalidation *inv)
{
	struct mmu_interval_span *span = invalidation_begin(intervals, inv);

	while (span) {
		if (!tell_driver(inv, to_subscription(span)))
			break;
		span = span_tree_next(span, inv->first, inv->last);
	}
	finish_all(inv);
	return !span;
}

/**
 * mmu_intervals_invalidate_start() - Tell who is covered that page tables change
 * @intervals: The subscriptions of the mm
 * @range: What is going to change
 *
 * Calls the drivers of all subscriptions that @range touches: in the order of
 * their first bytes, of equal ones the one that came into the tree last first.
 * Then come, in the same order, the second steps of those that want one.
 *
 * Context: May sleep if @range is blockable; the callbacks always may.
 * Return:
 * * 0 - the page tables may be changed; mmu_intervals_invalidate_end() is due.
 * * -EAGAIN - @range is not blockable and a driver would have had to sleep. The
 *   invalidation has ended already: nothing is due, nothing may be changed.
 *   Drivers that accepted before have merely dropped what they may load again.
 */
int mmu_intervals_invalidate_start(struct mmu_intervals *intervals,
				   const struct mmu_notifier_range *range)
{
	struct invalidation inv;

	invalidation_init(&inv, range);
	if (invalidate_covered(intervals, &inv))
		return 0;
	mmu_intervals_invalidate_end(intervals);
	return -EAGAIN;
}

/**
 * mmu_intervals_invalidate_end() - The page tables are changed
 * @intervals: The subscriptions of the mm
 *
 * Each mmu_intervals_invalidate_start() that returned 0 has exactly one end.
 * The last of those that overlap in time lets readers, insertions and removals
 * go on.
 *
 * Context: Any context that may take a spinlock. The caller has a hold on the
 * mm beyond the subscriptions, since those that wait here may go at once.
 */
void mmu_intervals_invalidate_end(struct mmu_intervals *intervals)
{
	bool thawed = false;

	spin_lock(&intervals->lock);
	if (!--intervals->running && is_frozen(intervals)) {
		thaw(intervals);
		thawed = true;
	}
	spin_unlock(&intervals->lock);

	/* The number is written before the look; a sleeper does it in reverse. */
	if (thawed && wq_has_sleeper(&intervals->thawed))
		wake_up_all(&intervals->thawed);
}

/**
 * mmu_intervals_release() - Tell all subscriptions that the mm goes
 * @intervals: The subscriptions of the mm
 * @mm: The mm, whose page tables exit_mmap() is about to tear down
 *
 * The subscriptions stay until their drivers remove them. Other invalidations
 * may still run, through the reverse maps of what is not yet unmapped.
 *
 * Context: May sleep. mm_users is 0, so no new subscription can come.
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
	invalidate_covered(intervals, &inv);
	mmu_intervals_invalidate_end(intervals);
}

/**
 * mmu_interval_read_begin() - Start to read page tables for a device
 * @interval_sub: A live subscription that contains what is to be read
 *
 * Waits while an invalidation covers @interval_sub, at most once: if the next
 * one comes in the meantime, mmu_interval_read_retry() says so. So the caller
 * stays the master of its time limit.
 *
 * What is read from the page tables after this may be loaded into the device
 * under the lock that the driver's callback takes too, if
 * mmu_interval_read_retry() returns false under it.
 *
 * Context: Sleeps. Not from a callback, and with no lock held that a callback
 * of an MMU notifier takes. The mmap lock may be held.
 * Return: The number for mmu_interval_read_retry(), always odd.
 */
unsigned long
mmu_interval_read_begin(struct mmu_interval_notifier *interval_sub)
{
	struct mmu_intervals *intervals = intervals_of(interval_sub);
	unsigned long seq;
	bool covered;

	may_wait_for_invalidations();

	spin_lock(&intervals->lock);
	seq = READ_ONCE(interval_sub->invalidate_seq);
	covered = seq == intervals->seq;
	spin_unlock(&intervals->lock);

	if (covered)
		wait_for_thaw(intervals, seq);
	return seq;
}
EXPORT_SYMBOL_GPL(mmu_interval_read_begin);

/* Something runs, and whether it touches the new subscription is unknown. */
static void subscribe_covered(struct mmu_intervals *intervals,
			      struct mmu_interval_notifier *sub)
{
	if (is_frozen(intervals)) {
		sub->interval_tree.leaf_parent = NULL;
		hlist_add_head(&sub->deferred_item, &intervals->joining);
	} else {
		freeze(intervals);
		tree_insert(intervals, &sub->interval_tree);
	}
	sub->invalidate_seq = intervals->seq;
}

/* With nothing running: an odd number, and the last that the mm will reach. */
static void subscribe_idle(struct mmu_intervals *intervals,
			   struct mmu_interval_notifier *sub)
{
	sub->invalidate_seq = intervals->seq - 1;
	tree_insert(intervals, &sub->interval_tree);
}

static void subscribe(struct mmu_intervals *intervals,
		      struct mmu_interval_notifier *sub)
{
	mmgrab(sub->mm);	/* dropped by mmu_interval_notifier_remove() */
	spin_lock(&intervals->lock);
	if (unlikely(intervals->running))
		subscribe_covered(intervals, sub);
	else
		subscribe_idle(intervals, sub);
	spin_unlock(&intervals->lock);
}

/* Has @mm had a first subscription, and do invalidations count therefore? */
static bool intervals_in_use(struct mm_struct *mm)
{
	struct mmu_notifier_subscriptions *subscriptions;

	/* Without the mmap lock: pairs with __mmu_notifier_register(). */
	subscriptions = smp_load_acquire(&mm->notifier_subscriptions);
	return subscriptions && READ_ONCE(subscriptions->has_itree);
}

/* A callback for the one step, or both for the two, or all three. */
static bool ops_are_complete(const struct mmu_interval_notifier_ops *ops)
{
	if (!ops)
		return false;
	if (ops->invalidate_start)
		return ops->invalidate_finish;
	return ops->invalidate && !ops->invalidate_finish;
}

static int check_subscription(struct mm_struct *mm, unsigned long start,
			      unsigned long length,
			      const struct mmu_interval_notifier_ops *ops)
{
	unsigned long last;

	if (!mm || !ops_are_complete(ops))
		return -EINVAL;
	if (!length || check_add_overflow(start, length - 1, &last))
		return -EOVERFLOW;
	if (atomic_read(&mm->mm_users) <= 0)
		return -EINVAL;
	return 0;
}

static void init_subscription(struct mmu_interval_notifier *sub,
			      struct mm_struct *mm, unsigned long start,
			      unsigned long length,
			      const struct mmu_interval_notifier_ops *ops)
{
	sub->interval_tree.start = start;
	sub->interval_tree.last = start + length - 1;
	sub->ops = ops;
	sub->mm = mm;
}

/**
 * mmu_interval_notifier_insert() - Subscribe to a range of an mm
 * @interval_sub: The subscription, memory of the caller; need not be zeroed
 * @mm: The mm
 * @start: First byte of the range
 * @length: Bytes in the range; need not be aligned or mapped
 * @ops: The callbacks: invalidate, or invalidate_start and invalidate_finish
 *
 * From now on the driver is called before any change of the page tables of the
 * range. If invalidations of @mm run at this moment, whichever ranges they
 * touch, the subscription counts as covered until the last of them ends, and
 * mmu_interval_read_begin() waits for that. Nothing that was read before the
 * insertion may be loaded into the device.
 *
 * Ranges of subscriptions may overlap.
 *
 * Context: Process context, takes the mmap lock. The caller holds mm_users of
 * @mm during the call. Not from a callback of an MMU notifier.
 * Return:
 * * 0 - the subscription is live and holds a reference to @mm (mm_count) until
 *   mmu_interval_notifier_remove().
 * * -EINVAL - no @mm or @ops, callbacks that do not make a set, or mm_users
 *   is 0.
 * * -EOVERFLOW - @length is 0, or the range wraps.
 * * -ENOMEM, -EINTR - the first notifier of @mm could not be set up.
 *
 * After an error @interval_sub is as it was, with no reference taken.
 */
int mmu_interval_notifier_insert(struct mmu_interval_notifier *interval_sub,
				 struct mm_struct *mm, unsigned long start,
				 unsigned long length,
				 const struct mmu_interval_notifier_ops *ops)
{
	int err = check_subscription(mm, start, length, ops);

	if (err)
		return err;
	might_lock(&mm->mmap_lock);
	if (!intervals_in_use(mm)) {
		err = mmu_notifier_register(NULL, mm);
		if (err)
			return err;
	}
	init_subscription(interval_sub, mm, start, length, ops);
	subscribe(intervals_of(interval_sub), interval_sub);
	return 0;
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_insert);

/**
 * mmu_interval_notifier_insert_locked() - Subscribe, with the mmap lock held
 * @interval_sub: The subscription, memory of the caller; need not be zeroed
 * @mm: The mm
 * @start: First byte of the range
 * @length: Bytes in the range; need not be aligned or mapped
 * @ops: The callbacks: invalidate, or invalidate_start and invalidate_finish
 *
 * mmu_interval_notifier_insert() for those who hold the mmap lock for write.
 *
 * Context: Process context, mmap lock of @mm held for write, mm_users too. Not
 * from a callback of an MMU notifier.
 * Return: As mmu_interval_notifier_insert().
 */
int
mmu_interval_notifier_insert_locked(struct mmu_interval_notifier *interval_sub,
				    struct mm_struct *mm, unsigned long start,
				    unsigned long length,
				    const struct mmu_interval_notifier_ops *ops)
{
	int err = check_subscription(mm, start, length, ops);

	if (err)
		return err;
	mmap_assert_write_locked(mm);
	if (!intervals_in_use(mm)) {
		err = __mmu_notifier_register(NULL, mm);
		if (err)
			return err;
	}
	init_subscription(interval_sub, mm, start, length, ops);
	subscribe(intervals_of(interval_sub), interval_sub);
	return 0;
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_insert_locked);

/*
 * Returns the number to wait for, or 0 (which is no odd number) if no walk
 * can have come by.
 */
static unsigned long unsubscribe_frozen(struct mmu_intervals *intervals,
					struct mmu_interval_notifier *sub)
{
	if (!sub->interval_tree.leaf_parent) {
		hlist_del(&sub->deferred_item);
		return 0;
	}
	hlist_add_head(&sub->deferred_item, &intervals->leaving);
	return intervals->seq;
}

/**
 * mmu_interval_notifier_remove() - End a subscription
 * @interval_sub: A subscription that was inserted
 *
 * Once this returns no callback of the subscription runs or will run, and its
 * memory belongs to the caller alone. If invalidations that cover a
 * subscription of the mm run, it waits until the last of them has ended.
 * Drops the reference to the mm.
 *
 * Context: Sleeps. Not from a callback of an MMU notifier, and with no lock held
 * that one takes.
 */
void mmu_interval_notifier_remove(struct mmu_interval_notifier *interval_sub)
{
	struct mmu_intervals *intervals = intervals_of(interval_sub);
	struct mm_struct *mm = interval_sub->mm;
	unsigned long seq = 0;

	may_wait_for_invalidations();

	spin_lock(&intervals->lock);
	if (unlikely(is_frozen(intervals)))
		seq = unsubscribe_frozen(intervals, interval_sub);
	else
		tree_remove(intervals, &interval_sub->interval_tree);
	spin_unlock(&intervals->lock);

	if (seq)
		wait_for_thaw(intervals, seq);
	mmdrop(mm);
}
EXPORT_SYMBOL_GPL(mmu_interval_notifier_remove);
