/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MM_MMU_INTERVAL_NOTIFIER_H
#define _MM_MMU_INTERVAL_NOTIFIER_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

/*
 * The interval subscriptions of one mm. The head of mmu_interval_notifier.c
 * says what each member is for.
 */
struct mmu_intervals {
	spinlock_t lock;		/* for all of this */
	unsigned long seq;		/* odd: the tree is frozen */
	unsigned long running;		/* invalidations between start and end */
	unsigned long hull_first;	/* nothing is subscribed below ... */
	unsigned long hull_last;	/* ... or above these two bytes */
	struct mmu_interval_branch tree;
	struct hlist_head joining;	/* inserted while the tree was frozen */
	struct hlist_head leaving;	/* removed while the tree was frozen */
	wait_queue_head_t thawed;
};

/*
 * All that an mm knows about its notifiers. It is made with the first notifier
 * and stays until the mm_struct itself goes.
 */
struct mmu_notifier_subscriptions {
	struct hlist_head list;		/* of plain notifiers, read under SRCU */
	spinlock_t lock;		/* for changes of @list */
	/*
	 * Set under mm_take_all_locks(), that is with no invalidation running,
	 * so that each start that was counted in @intervals meets its end.
	 */
	bool has_itree;
	struct mmu_intervals intervals;
};

/**
 * mmu_intervals_seq() - the number of an mm, to see if anything is invalidated
 * @mm: address space with a subscription
 *
 * Context: any. Without the lock, the number may be out of date at once.
 * Return: If the number is even, and the same as some time before, then no
 * invalidation of a subscribed range began in between, not even one that its
 * driver ignores.
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
