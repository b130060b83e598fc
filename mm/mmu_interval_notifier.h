/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interval notifiers, as mm/mmu_notifier.c sees them. See
 * mmu_interval_notifier.c for the protocol and for the locks.
 */
#ifndef _MM_MMU_INTERVAL_NOTIFIER_H
#define _MM_MMU_INTERVAL_NOTIFIER_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/rbtree_types.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

/**
 * struct mmu_intervals - the interval subscriptions of an mm
 * @lock: protects all other members
 * @seq: sequence number of the mm; odd while the tree is frozen
 * @running: number of invalidations between their start and their end
 * @tree: interval tree of the subscriptions
 * @joining: subscriptions that were inserted while the tree was frozen
 * @leaving: subscriptions that were removed while the tree was frozen
 * @thawed: readers and removals that wait for the end of the invalidations
 */
struct mmu_intervals {
	spinlock_t lock;		/* for all other members */
	unsigned long seq;
	unsigned long running;
	struct rb_root_cached tree;
	struct hlist_head joining;
	struct hlist_head leaving;
	wait_queue_head_t thawed;
};

/**
 * struct mmu_notifier_subscriptions - the notifiers of an mm
 * @list: plain notifiers, read under SRCU
 * @lock: protects changes of @list
 * @has_itree: @intervals counts invalidations. Set under mm_take_all_locks(),
 *	when no invalidation runs, so that every start it counts has its end
 * @intervals: interval notifiers
 *
 * Allocated for the first notifier of an mm and freed with the mm_struct.
 */
struct mmu_notifier_subscriptions {
	struct hlist_head list;
	spinlock_t lock;		/* for changes of @list */
	bool has_itree;
	struct mmu_intervals intervals;
};

/**
 * mmu_intervals_seq() - read the sequence number of an mm
 * @mm: address space with a subscription
 *
 * Context: Any. Without the lock, the number may be stale at once.
 * Return: The sequence number. If it is even and equal to an earlier one, no
 * invalidation of a subscribed range has started in between, not even one that
 * the driver ignores.
 */
static inline unsigned long mmu_intervals_seq(const struct mm_struct *mm)
{
	return READ_ONCE(mm->notifier_subscriptions->intervals.seq);
}

void mmu_intervals_init(struct mmu_intervals *intervals);
int mmu_intervals_invalidate_start(struct mmu_intervals *intervals,
				   const struct mmu_notifier_range *range);
void mmu_intervals_invalidate_end(struct mmu_intervals *intervals);
void mmu_intervals_release(struct mmu_intervals *intervals,
			   struct mm_struct *mm);

#endif /* _MM_MMU_INTERVAL_NOTIFIER_H */
